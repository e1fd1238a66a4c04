"""`wm submit`: run a `wm` command as a Ray job.

job_id = submit(request)              uploads code and config, starts the job, returns at once
exit_code = follow(job_id)            prints its log until the job ends
exit_code = submit_and_follow(...)    called by the command line
"""

import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cluster.client import connect, resolve_address, token_error
from cluster.errors import ClusterError
from cluster.follow import follow, log_and_stop_commands
from cluster.package import package
from cluster.request import SubmitRequest, entrypoint, job_name, relative_config

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

AGENT_TIMEOUT_S = 60.0
RETRY_WAIT_S = 1.0
NO_AGENT = "No available agent to submit job"
"""Ray's answer while the agent of a new head node registers."""

Result = TypeVar("Result")

__all__ = ["SubmitRequest", "follow", "submit", "submit_and_follow"]


def submit(request: SubmitRequest) -> str:
    """Upload the working directory and start the command there as a Ray job.

    Returns:
        The job's submission id: VERB-NAME-HASH, or VERB-NAME-HASH-2 and so on after earlier attempts.
    Raises:
        ClusterError: a mistake in config, address or token, or the same run has a job that has not ended.
    """
    config = None if request.is_shipped else relative_config(request)
    command = entrypoint(request)
    name = job_name(request)
    with tempfile.TemporaryDirectory(prefix="wm-submit-") as folder:
        # Before connecting: mistakes in the working directory are reported without a cluster.
        archive = package(request.working_dir.resolve(), config, Path(folder) / "working_dir.zip")
        client = connect(request.address)
        job_id = _next_attempt(client, name, resolve_address(request.address))
        return _call(lambda: _start(client, request, job_id, command, archive), resolve_address(request.address))


def submit_and_follow(request: SubmitRequest) -> int:
    """Submit, print the commands that show and stop the job, and follow it if the request says so.

    Returns:
        0 if the job succeeded or is not followed; 1 if it failed or was stopped; 130 after Ctrl-C.
    Raises:
        ClusterError: as `submit` and `follow`.
    """
    job_id = submit(request)
    print(f"submitted {job_id}; {log_and_stop_commands(job_id, resolve_address(request.address))}", flush=True)
    return follow(job_id, request.address) if request.follow else 0


def _next_attempt(client: "JobSubmissionClient", name: str, url: str) -> str:
    """The next unused id: NAME, then NAME-2, NAME-3, ...

    Raises:
        ClusterError: an earlier attempt has not ended. Two runs of one config would write into the same folder.
    """
    jobs: list[Any] = _call(client.list_jobs, url)  # Ray's annotation is wrong: JobDetails may be None
    attempt_id = re.compile(re.escape(name) + r"(?:-(\d+))?")
    num_attempts = 0
    for job in jobs:
        if match := attempt_id.fullmatch(job.submission_id or ""):
            if not job.status.is_terminal():
                raise ClusterError(
                    f"the same run is already {job.status.value} as {job.submission_id}; expected at most one "
                    f"job of a run at a time; {log_and_stop_commands(job.submission_id, url)}"
                )
            num_attempts = max(num_attempts, int(match[1] or 1))
    return f"{name}-{num_attempts + 1}" if num_attempts else name


def _start(client: "JobSubmissionClient", request: SubmitRequest, job_id: str, command: str, archive: Path) -> str:
    """Start the job; a head node that has just started accepts jobs only once its agent has registered."""
    deadline = time.monotonic() + AGENT_TIMEOUT_S
    while True:
        try:
            return client.submit_job(
                entrypoint=command,
                submission_id=job_id,
                runtime_env={"working_dir": str(archive)},
                metadata={
                    "wm_command": " ".join(request.command),
                    "wm_config": "" if request.config is None else request.config.name,
                },
            )
        except RuntimeError as error:
            if NO_AGENT not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(RETRY_WAIT_S)


def _call(request: Callable[[], Result], url: str) -> Result:
    """Call the Jobs API; a failure becomes a ClusterError."""
    import requests
    from ray.exceptions import AuthenticationError

    try:
        return request()
    except AuthenticationError as error:
        raise token_error(url) from error
    except (RuntimeError, requests.RequestException) as error:
        reason = " ".join(str(error).split())[:300]
        raise ClusterError(f"{url} refused the request: {reason}; expected it to accept the job; try again") from error
