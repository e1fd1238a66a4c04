"""The jobs of a cluster: what Ray's Jobs API knows, joined with the job folders in the cluster's storage."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from cluster.card.job_folder import JobFolder, JobState, Status
from cluster.jobs.client import connect, resolve_address
from cluster.jobs.submit import JOB_METADATA, OUT_METADATA, list_jobs
from cluster.submit.submission import known_jobs
from datasets.runtime.errors import UserError
from datasets.runtime.uris import without_credentials

if TYPE_CHECKING:
    from cluster.jobs.client import JobSubmissionClient

OF_RAY: dict[str, Status] = {
    "PENDING": "submitted",
    "RUNNING": "running",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
    "STOPPED": "stopped",
}
COLUMNS = ("job", "verb", "status", "attempts", "started", "targets", "spent", "out")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A job as far as it is known here."""

    job: str
    verb: str
    status: Status | Literal["lost", "damaged"]
    """lost: it has not ended, and nothing watches it: its head or driver died. damaged: its folder cannot be read."""
    attempts: int
    started: datetime | None
    targets: int | None
    spent_usd: float | None
    out: str | None
    why: str | None
    reason: str | None
    ray_jobs: tuple[str, ...]
    """Submission ids on the cluster that answers, oldest first."""
    folder: JobFolder | None = field(default=None, compare=False)

    @property
    def is_final(self) -> bool:
        """Whether it has ended for good."""
        return self.status in ("succeeded", "failed", "stopped")

    def to_plain(self) -> dict[str, Any]:
        """JSON data."""
        row = asdict(self)
        del row["folder"]
        return row | {"started": self.started and self.started.isoformat()}


@dataclass(frozen=True, slots=True)
class Cluster:
    """What can be asked about jobs."""

    url: str
    client: JobSubmissionClient | None
    """None: the head node does not answer."""
    jobs: tuple[Job, ...]
    """Newest last."""

    def find(self, prefix: str) -> Job:
        """The job with an id, or the only one whose id begins so.

        Raises:
            UserError: there is none, or more than one.
        """
        found = [job for job in self.jobs if job.job == prefix or prefix in job.ray_jobs]
        found = found or [job for job in self.jobs if job.job.startswith(prefix)]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(
                f"{prefix} begins the ids of {', '.join(job.job for job in found[:5])}; expected one; name it"
            )
        raise UserError(f"{self.url} has no job {prefix}; expected one that `wm jobs` shows")


def look_at_cluster(address: str | None) -> Cluster:
    """Ask the Jobs API and the cluster's storage; one of them suffices.

    Raises:
        UserError: neither can be reached.
    """
    url, folders = resolve_address(address), known_jobs()
    try:
        client = connect(address)
        details = list_jobs(client, url)
    except UserError as error:
        if folders is None:
            raise
        print(f"the jobs of the cluster's storage alone: {error}", file=sys.stderr, flush=True)
        return Cluster(url, None, tuple(join_jobs(folders, [])))
    return Cluster(url, client, tuple(join_jobs(folders or [], details)))


def join_jobs(folders: Iterable[JobFolder], details: Iterable[Any]) -> list[Job]:
    """Jobs from their folders and from Ray's JobDetails, sorted by their start."""
    of_ray: dict[str, list[Any]] = {}
    for one in sorted(details, key=lambda one: one.start_time or 0):
        of_ray.setdefault((one.metadata or {}).get(JOB_METADATA, one.submission_id), []).append(one)
    found = [_job(folder, of_ray.pop(folder.job, [])) for folder in folders]
    found += [_job_of_ray(job, ones) for job, ones in of_ray.items()]
    return sorted(found, key=lambda job: (job.started or datetime.max.replace(tzinfo=UTC), job.job))


def table(jobs: Iterable[Job]) -> str:
    """The jobs as text."""
    rows = [COLUMNS, *(_cells(job) for job in jobs)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _job(folder: JobFolder, details: list[Any]) -> Job:
    try:
        card, state = folder.read_card(), folder.read_state() or JobState(status="submitted")
    except (UserError, OSError) as error:
        known = _job_of_ray(folder.job, details) if details else None
        return Job(
            job=folder.job, verb=known.verb if known else "?", status="damaged", attempts=0, started=None, targets=None,
            spent_usd=None, out=None, why=None, reason=str(error), ray_jobs=known.ray_jobs if known else (),
        )  # fmt: skip
    return Job(
        job=card.job,
        verb=card.verb,
        status=_status(folder, state, details),
        attempts=state.attempt,
        started=state.started or state.submitted or card.created,
        targets=state.targets,
        spent_usd=state.spent_usd,
        out=None if card.out is None else without_credentials(card.out),
        why=card.why,
        reason=state.reason,
        ray_jobs=tuple(one.submission_id for one in details),
        folder=folder,
    )


def _status(folder: JobFolder, state: JobState, details: list[Any]) -> Status | Literal["lost"]:
    if state.is_final or (state.status == "interrupted" and not folder.is_held()):
        return state.status
    newest = details[-1] if details else None
    if newest is None:
        return state.status if folder.is_held() else "lost"
    if not newest.status.is_terminal():
        return state.status if state.status != "submitted" else OF_RAY[newest.status.value]
    ended = OF_RAY[newest.status.value]
    return "lost" if ended == "failed" and not folder.is_held() else ended


def _job_of_ray(job: str, details: list[Any]) -> Job:
    """A job without a folder that can be read from here."""
    newest = details[-1]
    metadata = newest.metadata or {}
    out = metadata.get(OUT_METADATA)
    return Job(
        job=job,
        verb=metadata.get("wm_command", "?"),
        status=OF_RAY[newest.status.value],
        attempts=len(details),
        started=datetime.fromtimestamp(details[0].start_time / 1000, UTC) if details[0].start_time else None,
        targets=None,
        spent_usd=None,
        out=None if out is None else without_credentials(out),
        why=metadata.get("wm_why"),
        reason=newest.message if newest.status.is_terminal() else None,
        ray_jobs=tuple(one.submission_id for one in details),
    )


def _cells(job: Job) -> tuple[str, ...]:
    started = "-" if job.started is None else job.started.astimezone().strftime("%Y-%m-%d %H:%M")
    targets = "-" if job.targets is None else f"{job.targets:,}"
    spent = "-" if job.spent_usd is None else f"${job.spent_usd:.2f}"
    return (job.job, job.verb, job.status, str(job.attempts), started, targets, spent, job.out or "-")
