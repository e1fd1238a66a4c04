"""`wm jobs resume`: a head node takes up the jobs that an earlier one, or a killed driver, has left.

A job that was left has not ended, and nobody holds its lease. Whoever takes the lease submits it again; of two heads
that start at once, the other finds the lease held or the state changed. In the end the job's own watch takes the lease,
so that even a job that two heads submitted runs once.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.card.job_folder import WORKING_DIR_FILE, JobFolder, JobState, all_job_folders
from cluster.jobs.client import connect, resolve_address
from cluster.jobs.submit import JOB_METADATA, list_jobs, start_job
from cluster.submit.submission import start_of
from datasets.runtime.errors import UserError

if TYPE_CHECKING:
    from cluster.jobs.client import JobSubmissionClient

START_GRACE_S = 180.0
"""A job that was submitted so recently, to another head, may be about to start there."""
HEAD_TIMEOUT_S = 180.0
"""From `ray start` until the Jobs API answers."""
POLL_S = 2.0


def resume_jobs(address: str | None, every_s: float | None = None) -> int:
    """Submit again all jobs that were left, up to their retries.

    Args:
        address: of the Jobs API of the head node, on which this runs.
        every_s: look again so often, without end; None: once.
    Raises:
        UserError: the Jobs API or the storage cannot be reached.
    """
    client, url = _wait_for_head(address), resolve_address(address)
    if every_s is None:
        while not _resume_all(client, url):
            time.sleep(POLL_S)
        return 0
    while True:
        try:
            _resume_all(client, url)
        except (UserError, OSError) as error:  # the storage is away, or Ray restarts
            print(f"looking again in {every_s:g} s: {error}", file=sys.stderr, flush=True)
        time.sleep(every_s)


def resume_job(folder: JobFolder, client: JobSubmissionClient, url: str) -> bool:
    """Submit a job again if it was left; says what it does.

    Returns:
        False if this cannot be known yet.
    """
    seen = folder.read_state()
    if seen is None or seen.is_final or folder.is_held():
        return True
    if (known := _status_here(folder.job, client, url)) is not None and known not in ("FAILED", "STOPPED"):
        return True
    if known is None and seen.status == "submitted" and _age_s(seen) < START_GRACE_S:
        return False
    try:
        lease = folder.hold()
    except UserError:
        return True
    with lease:
        if folder.read_state() != seen:  # another head was faster
            return True
        card = folder.read_card()
        if known == "STOPPED" or folder.stop_requested():
            folder.write_state(replace(seen, status="stopped", reason="stopped", ended=datetime.now(UTC)))
            return True
        ids = [job.submission_id for job in list_jobs(client, url)]
        number = _last_number(card.job, [*ids, seen.ray_job or ""]) + 1
        # A watch that was killed while it made its command save had got SIGTERM: its head node was shut down.
        interruptions = seen.interruptions + (seen.status == "stopping")
        if max(seen.attempt, number - 1) - interruptions > card.limits.retries:
            reason = f"its head or driver died, and {card.limits.retries} retries are used up"
            folder.write_state(replace(seen, status="failed", reason=reason, ended=datetime.now(UTC)))
            print(f"{card.job}: {reason}", flush=True)
            return True
        ray_job = f"{card.job}.{number}"
        folder.write_state(replace(seen, status="submitted", ray_job=ray_job, interruptions=interruptions))
        folder.add_event("resumed", ray_job=ray_job, after=seen.ray_job)
    # Without the lease, which the job's watch takes; to others the job was submitted just now.
    with tempfile.TemporaryDirectory(prefix="wm-resume-") as temporary:
        archive = Path(temporary) / WORKING_DIR_FILE
        folder.files.download(WORKING_DIR_FILE, archive)
        try:
            start_job(client, start_of(card, archive, ray_job), url)
        except BaseException:
            folder.write_state(seen)
            raise
    ended = "was shut down" if interruptions > seen.interruptions or seen.status == "interrupted" else "died"
    print(
        f"{card.job}: taken up as {ray_job}, after attempt {seen.attempt} {ended} with its head or driver", flush=True
    )
    return True


def _resume_all(client: JobSubmissionClient, url: str) -> bool:
    """Look at each job once; False if some cannot be judged yet."""
    return all([_resume_reporting(folder, client, url) for folder in all_job_folders()])


def _resume_reporting(folder: JobFolder, client: JobSubmissionClient, url: str) -> bool:
    """As `resume_job`; a job that cannot be taken up does not keep the others from it."""
    try:
        return resume_job(folder, client, url)
    except (UserError, OSError) as error:
        print(f"{folder.job}: cannot be taken up: {error}", file=sys.stderr, flush=True)
        return True


def _status_here(job: str, client: JobSubmissionClient, url: str) -> str | None:
    """Ray's status of the job's newest Ray job; None if this cluster does not know it."""
    known = [one for one in list_jobs(client, url) if (one.metadata or {}).get(JOB_METADATA) == job]
    return max(known, key=lambda one: one.start_time or 0).status.value if known else None


def _last_number(job: str, ray_jobs: list[str]) -> int:
    """Of JOB, JOB.2, JOB.3, ...: the submission ids that this cluster and the one before have used."""
    taken = re.compile(re.escape(job) + r"\.(\d+)")
    return max((int(match[1]) for one in ray_jobs if (match := taken.fullmatch(one))), default=1)


def _age_s(state: JobState) -> float:
    return float("inf") if state.updated is None else (datetime.now(UTC) - state.updated).total_seconds()


def _wait_for_head(address: str | None) -> JobSubmissionClient:
    deadline = time.monotonic() + HEAD_TIMEOUT_S
    while True:
        try:
            return connect(address)
        except UserError:
            if time.monotonic() > deadline:
                raise
        time.sleep(POLL_S)
