"""`wm submit`: run a `wm` command as a Ray job.

job_id = submit(request)              uploads code and config, starts the job, returns at once
exit_code = follow(job_id)            prints its log until the job ends
exit_code = submit_and_follow(...)    called by the command line
"""

import re
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cluster.jobs.client import connect, resolve_address, token_error
from cluster.jobs.follow import follow, log_and_stop_commands
from cluster.jobs.package import package
from cluster.jobs.request import SubmitRequest, entrypoint, job_name, upload_of
from datasets.runtime.errors import UserError, one_line

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

AGENT_TIMEOUT_S = 60.0
LOST_CONNECTION_TIMEOUT_S = 20.0
"""How long a request is tried again whose connection was refused or broke: a port forward restarts, a head is busy."""
RETRY_WAIT_S = 1.0
MAX_REASON = 300
"""Characters of an error that a message shows."""
NO_AGENT = "No available agent to submit job"
"""Ray's answer while the agent of a new head node registers."""

JOB_METADATA, OUT_METADATA = "wm_job", "wm_out"
"""Keys of the metadata: the job's id, which differs from the submission id after a new head took the job up; and the
place of its result."""

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """What the Jobs API is given."""

    submission_id: str
    entrypoint: str
    """Shell command."""
    working_dir: Path | None = None
    """Zip; None: the installed code runs."""
    metadata: dict[str, str] = field(default_factory=dict)
    env_vars: dict[str, str] = field(default_factory=dict)

    @property
    def runtime_env(self) -> dict[str, Any]:
        """For Ray."""
        files = {} if self.working_dir is None else {"working_dir": str(self.working_dir)}
        return files | ({"env_vars": self.env_vars} if self.env_vars else {})


def submit(request: SubmitRequest) -> str:
    """Upload the working directory and start the command there as a Ray job, without a card.

    Returns:
        The job's submission id: VERB-NAME-HASH, or VERB-NAME-HASH-2 and so on after earlier attempts.
    Raises:
        UserError: a mistake in config, address or token, or the same run has a job that has not ended.
    """
    with tempfile.TemporaryDirectory(prefix="wm-submit-") as folder:
        # Before connecting: mistakes in the working directory are reported without a cluster.
        archive = request.archive or _packed(request, Path(folder) / "working_dir.zip")
        name = job_name(request)
        client, url = connect(request.address), resolve_address(request.address)
        job_id = next_job_id(name, list_jobs(client, url), url)
        metadata = {"wm_command": " ".join(request.command), JOB_METADATA: job_id}
        start = Start(submission_id=job_id, entrypoint=entrypoint(request), working_dir=archive, metadata=metadata)
        return start_job(client, start, url)


def _packed(request: SubmitRequest, target: Path) -> Path:
    upload = upload_of(request)
    for line in upload.left_out:
        print(line, flush=True)
    return package(upload, target, anyway=request.upload_anyway)


def submit_and_follow(request: SubmitRequest) -> int:
    """Submit, print the commands that show and stop the job, and follow it if the request says so.

    Returns:
        0 if the job succeeded or is not followed; 1 if it failed or was stopped; 130 after Ctrl-C.
    Raises:
        UserError: as `submit` and `follow`.
    """
    job_id = submit(request)
    print(f"submitted {job_id}; {log_and_stop_commands(job_id, resolve_address(request.address))}", flush=True)
    return follow(job_id, request.address) if request.follow else 0


def list_jobs(client: "JobSubmissionClient", url: str) -> list[Any]:
    """Ray's JobDetails of all jobs that were submitted."""
    return call_api(lambda: _submitted(client), url)


def _submitted(client: "JobSubmissionClient") -> list[Any]:
    jobs: list[Any] = client.list_jobs()  # Ray's annotation is wrong: JobDetails may be None
    return [job for job in jobs if job.submission_id]


def next_job_id(name: str, jobs: Iterable[Any], url: str, other_ids: Iterable[str] = (), out: str | None = None) -> str:
    """The next unused id: NAME, then NAME-2, NAME-3, ...

    Args:
        jobs: Ray's JobDetails.
        other_ids: further ids in use.
        out: where the result goes, to compare with that of other jobs.
    Raises:
        UserError: an earlier attempt has not ended, or another job writes to the same place.
    """
    job_id = re.compile(re.escape(name) + r"(?:-(\d+))?")
    ids = list(other_ids)
    for job in jobs:
        metadata = job.metadata or {}
        ids.append(metadata.get(JOB_METADATA, job.submission_id))
        if job.status.is_terminal():
            continue
        if job_id.fullmatch(ids[-1]):
            raise UserError(
                f"the same run is already {job.status.value} as {job.submission_id}; expected at most one "
                f"job of a run at a time; {log_and_stop_commands(job.submission_id, url)}"
            )
        if out is not None and metadata.get(OUT_METADATA) == out:
            raise UserError(
                f"{job.submission_id} is {job.status.value} and writes to {out}; expected a place of its own for each "
                "job; name another --out, or stop that one"
            )
    attempts = [int(match[1] or 1) for one in ids if (match := job_id.fullmatch(one))]
    return f"{name}-{max(attempts) + 1}" if attempts else name


def start_job(client: "JobSubmissionClient", start: Start, url: str) -> str:
    """Start a job; a head node that has just started accepts jobs only once its agent has registered.

    Returns:
        The submission id.
    """
    requested = False

    def submit_once() -> str:
        nonlocal requested
        if requested and any(job.submission_id == start.submission_id for job in _submitted(client)):
            return start.submission_id  # only the answer to the last request was lost
        requested = True
        return _start(client, start)

    return call_api(submit_once, url)


def _start(client: "JobSubmissionClient", start: Start) -> str:
    deadline = time.monotonic() + AGENT_TIMEOUT_S
    while True:
        try:
            return client.submit_job(
                entrypoint=start.entrypoint,
                submission_id=start.submission_id,
                runtime_env=start.runtime_env,
                metadata=start.metadata,
            )
        except RuntimeError as error:
            if NO_AGENT not in str(error) or time.monotonic() > deadline:
                raise
        time.sleep(RETRY_WAIT_S)


def call_api(request: Callable[[], Result], url: str) -> Result:
    """Call the Jobs API; a failure becomes a UserError.

    Args:
        request: called again if its connection is lost; a second call must do no more than the first.
        url: of the Jobs API, for messages.
    """
    import requests
    from ray.exceptions import AuthenticationError

    deadline = time.monotonic() + LOST_CONNECTION_TIMEOUT_S
    while True:
        try:
            return request()
        except AuthenticationError as error:
            raise token_error(url) from error
        except (requests.ConnectionError, requests.Timeout) as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"lost the connection to {url} ({one_line(error)[:MAX_REASON]}); expected an answer within "
                    f"{LOST_CONNECTION_TIMEOUT_S:.0f} s; check the port forward and the head node, then try again"
                ) from error
        except (RuntimeError, requests.RequestException) as error:
            raise UserError(
                f"{url} refused the request: {one_line(error)[:MAX_REASON]}; expected it to accept the job; try again"
            ) from error
        time.sleep(RETRY_WAIT_S)
