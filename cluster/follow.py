"""Follow a job's log from afar until the job ends, over a connection that may break."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cluster.client import connect, resolve_address, token_error
from cluster.errors import ClusterError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

MAX_SILENT_RETRIES = 12
"""Lost contacts in a row before giving up: with RETRY_WAIT_S a minute, enough to restart a port forward."""

RETRY_WAIT_S = 5.0
INTERRUPTED_EXIT_CODE = 130
COMMAND_NOT_FOUND_EXIT_CODE = 127


def follow(job_id: str, address: str | None = None, write: Callable[[str], object] | None = None) -> int:
    """Write the job's log as it grows, each line once, until the job ends.

    Args:
        job_id: the submission id.
        address: as in SubmitRequest.
        write: takes each piece of the log; default: standard output.
    Returns:
        0 if the job succeeded, 1 if it failed or was stopped, 130 after Ctrl-C, which leaves it running.
    Raises:
        ClusterError: no such job, or contact lost for good; the job itself goes on.
    """
    url = resolve_address(address)
    try:
        client = connect(address)
        status, exit_code = asyncio.run(_until_it_ends(client, job_id, url, write or _print))
    except KeyboardInterrupt:
        print(f"\n{job_id} is left running; {how_to_look(job_id, url)}", flush=True)
        return INTERRUPTED_EXIT_CODE
    print(f"{job_id}: {status}{_hint(exit_code)}", flush=True)
    return 0 if status == "SUCCEEDED" else 1


def how_to_look(job_id: str, url: str) -> str:
    """The commands that show and end the job, in Ray's own words."""
    return f"log: ray job logs --address {url} --follow {job_id}; stop: ray job stop --address {url} {job_id}"


async def _until_it_ends(
    client: "JobSubmissionClient", job_id: str, url: str, write: Callable[[str], object]
) -> tuple[str, int | None]:
    """Tail the log, again after each lost contact, until the job's status is terminal.

    Returns:
        The status and, where Ray knows it, the exit code of the job's command.
    """
    import aiohttp
    import requests
    from ray.exceptions import AuthenticationError

    num_written, num_silent = 0, 0
    while True:
        try:
            num_seen = 0
            _job(client, job_id, url)
            async for piece in client.tail_job_logs(job_id):
                # A new connection starts from the log's beginning: write only what is new.
                write(piece[max(0, num_written - num_seen) :])
                num_seen += len(piece)
                num_written, num_silent = max(num_written, num_seen), 0
            job = _job(client, job_id, url)
            if job.status.is_terminal():
                return job.status.value, job.driver_exit_code
        except AuthenticationError as error:
            raise token_error(url) from error
        except (RuntimeError, OSError, aiohttp.ClientError, requests.RequestException) as error:
            num_silent += 1
            if num_silent > MAX_SILENT_RETRIES:
                raise ClusterError(
                    f"lost contact with {url}; {job_id} may still be running; expected an answer within "
                    f"{MAX_SILENT_RETRIES * RETRY_WAIT_S:.0f} s; when it is back, {how_to_look(job_id, url)}"
                ) from error
        await asyncio.sleep(RETRY_WAIT_S if num_silent else 1.0)


def _job(client: "JobSubmissionClient", job_id: str, url: str) -> Any:
    """The job's details, a JobDetails, whose type Ray declares as possibly None.

    Raises:
        ClusterError: the cluster has no such job.
    """
    try:
        return client.get_job_info(job_id)
    except RuntimeError as error:
        if "status code 404" not in str(error):
            raise
        raise ClusterError(f"{url} knows no job {job_id}; expected one of: ray job list --address {url}") from error


def _hint(exit_code: int | None) -> str:
    """Why it failed, where the exit code alone is a riddle."""
    if exit_code == COMMAND_NOT_FOUND_EXIT_CODE:
        return (
            " (the head node found no `wm`: start Ray there from this project's environment, "
            "as the start commands of cluster.yaml do)"
        )
    return ""


def _print(text: str) -> None:
    print(text, end="", flush=True)
