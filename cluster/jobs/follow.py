"""Follow the log of a job until the job ends, over a connection that may break."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from cluster.jobs.client import DEFAULT_ADDRESS, connect, resolve_address, token_error
from datasets.runtime.errors import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

MAX_RETRIES = 12
"""Failed connections in a row before giving up: a minute with RETRY_WAIT_S, enough to restart a port forward."""

RETRY_WAIT_S = 5.0
SIGNAL_POLL_S = 0.2
"""How often the main thread wakes up to run signal handlers."""

INTERRUPTED_EXIT_CODE = 130
COMMAND_NOT_FOUND_EXIT_CODE = 127


@dataclass(frozen=True, slots=True)
class _JobEnd:
    """The terminal state of a job."""

    status: str
    """Ray's name of the status: SUCCEEDED, FAILED or STOPPED."""
    exit_code: int | None
    """Exit code of the job's command, if Ray knows it."""


def follow(job_id: str, address: str | None = None, write: Callable[[str], object] | None = None) -> int:
    """Write the job's log as it grows, each line once, until the job ends.

    Args:
        job_id: the submission id.
        address: as in SubmitRequest.
        write: called with each piece of the log; default: print to standard output.
    Returns:
        0 if the job succeeded, 1 if it failed or was stopped, 130 after Ctrl-C, which does not stop the job.
    Raises:
        UserError: there is no such job, or the connection is lost; the job itself keeps running.
    """
    url = resolve_address(address)
    received: SimpleQueue[str | _JobEnd | Exception] = SimpleQueue()
    threading.Thread(target=_receive, args=(job_id, address, url, received), daemon=True).start()
    try:
        end = _write_until_end(received, write or _print)
    except KeyboardInterrupt:
        print(f"\n{job_id} keeps running; {log_and_stop_commands(job_id, url)}", flush=True)
        return INTERRUPTED_EXIT_CODE
    except SystemExit:  # SIGTERM
        print(f"{job_id} keeps running; {log_and_stop_commands(job_id, url)}", flush=True)
        raise
    print(f"{job_id}: {end.status}{_hint(end.exit_code)}", flush=True)
    return 0 if end.status == "SUCCEEDED" else 1


def log_and_stop_commands(job_id: str, url: str) -> str:
    """The commands that follow the job's log and stop the job."""
    at = "" if url == DEFAULT_ADDRESS else f" --address {url}"
    return f"log: wm logs {job_id} --follow{at}; stop: wm stop {job_id}{at}"


def _write_until_end(received: "SimpleQueue[str | _JobEnd | Exception]", write: Callable[[str], object]) -> _JobEnd:
    """Write what the receiving thread delivers.

    The main thread never blocks for longer than SIGNAL_POLL_S. `asyncio.run` in the main thread misses a SIGINT that
    arrives after Python releases the GIL and before epoll_wait starts, because it sets no wakeup file descriptor
    (`signal.set_wakeup_fd`): Ctrl-C then waits for the next line of the log.
    """
    while True:
        try:
            item = received.get(timeout=SIGNAL_POLL_S)
        except Empty:
            continue
        if isinstance(item, Exception):
            raise item
        if isinstance(item, _JobEnd):
            return item
        write(item)


def _receive(job_id: str, address: str | None, url: str, received: "SimpleQueue[str | _JobEnd | Exception]") -> None:
    """Put each piece of the log into the queue, then the end of the job or the error."""
    try:
        received.put(asyncio.run(_tail(connect(address), job_id, url, received.put)))
    except Exception as error:  # raised again in the main thread
        received.put(error)


async def _tail(client: "JobSubmissionClient", job_id: str, url: str, write: Callable[[str], object]) -> _JobEnd:
    """Tail the log until the job's status is terminal; reconnect when the connection is lost."""
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError

    num_written, num_retries = 0, 0
    while True:
        try:
            num_seen = 0
            _job_info(client, job_id, url)
            async for piece in client.tail_job_logs(job_id):
                # A new connection starts at the beginning of the log: write only what is new.
                write(piece[max(0, num_written - num_seen) :])
                num_seen += len(piece)
                num_written, num_retries = max(num_written, num_seen), 0
            job = _job_info(client, job_id, url)
            if job.status.is_terminal():
                return _JobEnd(job.status.value, job.driver_exit_code)
        except AuthenticationError as error:
            raise token_error(url) from error
        except (RuntimeError, OSError, aiohttp.ClientError, requests.RequestException) as error:
            num_retries += 1
            if num_retries > MAX_RETRIES:
                raise UserError(
                    f"lost the connection to {url} and {MAX_RETRIES} retries in {MAX_RETRIES * RETRY_WAIT_S:.0f} s "
                    f"failed; expected an answer; {job_id} may still be running; once the cluster is reachable, "
                    f"{log_and_stop_commands(job_id, url)}"
                ) from error
        await asyncio.sleep(RETRY_WAIT_S if num_retries else 1.0)


def _job_info(client: "JobSubmissionClient", job_id: str, url: str) -> Any:
    """The job's JobDetails, which Ray types as optional.

    Raises:
        UserError: the cluster has no such job.
    """
    try:
        return client.get_job_info(job_id)
    except RuntimeError as error:
        if "status code 404" not in str(error):
            raise
        raise UserError(f"{url} has no job {job_id}; expected one that `wm jobs` shows") from error


def _hint(exit_code: int | None) -> str:
    """An explanation of exit codes that have a known cause."""
    if exit_code == COMMAND_NOT_FOUND_EXIT_CODE:
        return (
            " (`wm` is not on the PATH of the head node: start Ray there from this project's environment, "
            "as the start commands of cluster.yaml do)"
        )
    return ""


def _print(text: str) -> None:
    print(text, end="", flush=True)
