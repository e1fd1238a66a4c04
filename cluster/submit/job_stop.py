"""`wm stop`: ask a job to save and end, wait, and say what happened."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster.card.job_folder import JobState, job_folder
from cluster.jobs.submit import JOB_METADATA, Start, call_api, start_job
from cluster.submit.job_list import Cluster, Job, look_at_cluster
from cluster.submit.job_logs import log_of
from cluster.submit.submission import STOP_WAIT_S
from datasets.runtime.errors import UserError

if TYPE_CHECKING:
    from cluster.jobs.client import JobSubmissionClient

POLL_S = 0.5
LAST_LINES = 5
"""Of the job's log, shown at the end."""


def stop(prefix: str, address: str | None, *, now: bool) -> int:
    """Stop a job, and wait for its end.

    Args:
        prefix: of the job's id.
        now: kill its processes instead of letting the run save.
    Returns:
        0 if it has ended, 1 if it has not within STOP_WAIT_S.
    Raises:
        UserError: no such job.
    """
    cluster = look_at_cluster(address)
    job = cluster.find(prefix)
    if job.is_final:
        print(f"{job.job} has ended already: {job.status}")
        return 0
    if job.folder is not None:
        job.folder.request_stop("now" if now else "save")
    if cluster.client is None or not job.ray_jobs:
        return _stop_without_head(cluster, job)
    if now and job.folder is None:
        _request_on_head(cluster.client, cluster.url, job)
    newest = job.ray_jobs[-1]
    call_api(lambda client=cluster.client: client.stop_job(newest), cluster.url)
    print(f"{job.job} was asked to {'end now' if now else 'save and end'}; waiting for it", flush=True)
    return _wait(cluster.client, cluster.url, job, newest)


def request_here(job: str, *, now: bool) -> int:
    """Leave the request in the job's folder as this machine knows it: called on the head node."""
    job_folder(job).request_stop("now" if now else "save")
    return 0


def _wait(client: JobSubmissionClient, url: str, job: Job, ray_job: str) -> int:
    deadline = time.monotonic() + STOP_WAIT_S
    while not (status := call_api(lambda: client.get_job_status(ray_job), url)).is_terminal():
        if time.monotonic() > deadline:
            print(f"{job.job} has not ended after {STOP_WAIT_S} s; --now kills it")
            return 1
        time.sleep(POLL_S)
    state = None if job.folder is None else job.folder.read_state()
    if job.folder is not None and state is not None and not state.is_final and not job.folder.is_held():
        # It was killed before it could say so; a new head must not take it up.
        state = job.folder.write_state(replace(state, status="stopped", reason="stopped by wm stop"))
    for line in log_of(client, ray_job, url).splitlines()[-LAST_LINES:]:
        print(f"  {line}")
    print(f"{job.job}: {_end(state, status.value)}")
    return 0


def _end(state: JobState | None, status: str) -> str:
    if state is None:
        return status
    seen = "" if state.targets is None else f" after {state.targets:,} targets"
    return f"{state.status}{seen}{f' ({state.reason})' if state.reason else ''}"


def _stop_without_head(cluster: Cluster, job: Job) -> int:
    """Ray cannot be asked: the process that watches the job sees the request, if it lives."""
    assert job.folder is not None
    if job.folder.is_held():
        print(
            f"{cluster.url} does not know {job.job}; the request is in {job.folder.location}, where its watch sees it"
        )
        return 0
    state = job.folder.read_state() or JobState(status="submitted")
    job.folder.write_state(replace(state, status="stopped", reason="stopped by wm stop, after its head had died"))
    print(f"{job.job}: stopped; nothing ran any more, and no head node takes it up again")
    return 0


def _request_on_head(client: JobSubmissionClient, url: str, job: Job) -> None:
    """The job's folder is not known here: a small job on the head node leaves the request in it."""
    name = f"stop-{job.job}-{int(time.time())}"
    start = Start(submission_id=name, entrypoint=f"wm stop {job.job} --now --here", metadata={JOB_METADATA: name})
    start_job(client, start, url)
    while not (status := call_api(lambda: client.get_job_status(name), url)).is_terminal():
        time.sleep(POLL_S)
    if status.value != "SUCCEEDED":
        raise UserError(f"{job.job} cannot be ended at once: {log_of(client, name, url)[-300:]}; try without --now")
