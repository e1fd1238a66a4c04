"""`wm logs`: what a job has printed, also after its end."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from cluster.jobs.follow import follow
from cluster.jobs.submit import call_api
from cluster.submit.job_list import Cluster, Job, look_at_cluster
from datasets.runtime.errors import UserError

if TYPE_CHECKING:
    from cluster.jobs.client import JobSubmissionClient


def show_log(prefix: str, address: str | None, *, follows: bool) -> int:
    """Print a job's log.

    Args:
        prefix: of the job's id.
        follows: print what comes until the job ends.
    Returns:
        0; with `follows` that of `cluster.jobs.follow.follow`.
    Raises:
        UserError: no such job, or nothing of it is left.
    """
    cluster = look_at_cluster(address)
    job = cluster.find(prefix)
    if cluster.client is None or not job.ray_jobs:
        _print_events(cluster, job)
        return 0
    for lost in _on_lost_heads(job):
        print(f"(the log of {lost} was on a head node that is gone)")
    *earlier, newest = job.ray_jobs
    for ray_job in earlier:
        print(log_of(cluster.client, ray_job, cluster.url), end="")
    if follows:
        return follow(newest, address)
    print(log_of(cluster.client, newest, cluster.url), end="", flush=True)
    return 0


def _on_lost_heads(job: Job) -> list[str]:
    """Ray jobs of a job that the cluster which answers does not know."""
    events = [] if job.folder is None else job.folder.events()
    before = [str(event.get("after")) for event in events if event["kind"] == "resumed"]
    return [ray_job for ray_job in before if ray_job not in job.ray_jobs]


def log_of(client: JobSubmissionClient, ray_job: str, url: str) -> str:
    """The log of one Ray job."""
    return call_api(lambda: client.get_job_logs(ray_job), url) or ""


def _print_events(cluster: Cluster, job: Job) -> None:
    """The log was on the disk of a head node that is gone; events are in the cluster's storage."""
    events = [] if job.folder is None else job.folder.events()
    if not events:
        raise UserError(
            f"the log of {job.job} was on a head node that does not answer ({cluster.url}), and no events are stored; "
            f"expected either; what the run wrote is in {job.out or 'its own place'}"
        )
    print(f"the log of {job.job} was on a head node that is gone; what happened:")
    for event in events:
        facts = {name: value for name, value in event.items() if name not in ("at", "kind")}
        print(f"{event['at']}  {event['kind']}" + (f"  {json.dumps(facts)}" if facts else ""))
