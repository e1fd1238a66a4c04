"""The folder of a job, on a disk or in a bucket, so that it can be taken up after its head node was lost.

card.json         what the job is, see `cluster.card.run_card`
working_dir.zip   the uploaded code, from which the job is submitted again
state.json        how far it is, see `JobState`; replaced as a whole
events.jsonl      a row for each thing that happened: `at` (ISO time, UTC), `kind`, and what belongs to the kind
stop              a request to end the job: `save`, or `now`
lease             held by the process that watches the job, as long as it lives

It is `WM_STORAGE/jobs/JOB`, or `~/.wm/jobs/JOB` on the head node without WM_STORAGE. Only the holder of the lease
writes state and events; `wm submit` writes the first state, before there is a holder.
"""

from __future__ import annotations

import json
import socket
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt

from cluster.card.run_card import CARD_FILE, RunCard, parse_card
from cluster.jobs.package import zip_folder
from cluster.storage import JOBS, storage_location
from datasets.runtime.errors import UserError
from datasets.runtime.storage.bucket_folder import LOCK_RETRY_S, BucketFolder
from datasets.runtime.storage.folder import Folder, Lock, open_folder
from datasets.runtime.storage.lease import LEASE_SECONDS, Lease, end_process
from datasets.runtime.uris import child_location
from wm.config.typed_yaml import from_plain, to_plain

LOCAL_STORAGE = "~/.wm"
"""Without WM_STORAGE: on the head node only."""
WORKING_DIR_FILE, STATE_FILE, EVENTS_FILE, LEASE_FILE = "working_dir.zip", "state.json", "events.jsonl", "lease"
STOP_FILE = "stop"
STATE_VERSION = 1
"""1: first."""
CLOCK_TOLERANCE_S = 30.0
"""Difference between this machine's clock and the storage's, up to which a lease is judged by its time alone."""

StopKind = Literal["save", "now"]
"""save: the run saves a checkpoint and ends, as after `ray job stop`. now: its processes are killed."""
Status = Literal["submitted", "running", "stopping", "interrupted", "succeeded", "failed", "stopped"]
"""submitted: Ray has it, nothing has started yet. running: the watch has started. stopping: it was asked to save and
end. interrupted: it has saved and ended because its head node was shut down; the next head takes it up. The others are
final; stopped: ended by its user, or at a limit."""
FINAL: frozenset[Status] = frozenset({"succeeded", "failed", "stopped"})


@dataclass(frozen=True, kw_only=True, slots=True)
class JobState:
    """How far a job is."""

    status: Status
    ray_job: str | None = None
    """Submission id of the newest Ray job; differs from the job's id after a new head node took the job up."""
    attempt: NonNegativeInt = 0
    """Starts of the command so far, over all Ray jobs."""
    interruptions: NonNegativeInt = 0
    """Of these, ended because their head node was shut down in order; they are no retries."""
    exit_code: int | None = None
    """Of the newest command that ended."""
    reason: str | None = None
    """Why the job ended, or ends, in one line."""
    targets: NonNegativeInt | None = None
    """Seen so far."""
    spent_usd: float | None = None
    submitted: datetime | None = None
    started: datetime | None = None
    """Of the first command."""
    updated: datetime | None = None
    ended: datetime | None = None

    @property
    def is_final(self) -> bool:
        """Whether the job has ended for good."""
        return self.status in FINAL


def jobs_location(storage: str | None = None) -> str:
    """The folder of all jobs.

    Args:
        storage: as WM_STORAGE; None: WM_STORAGE itself, else LOCAL_STORAGE.
    """
    return child_location(storage or storage_location() or str(Path(LOCAL_STORAGE).expanduser()), JOBS)


class JobFolder:
    """One job's folder. Creating the object touches no file."""

    def __init__(self, location: str) -> None:
        """
        Args:
            location: path or URI of the job's folder.
        """
        self.uri = location
        self.files: Folder = open_folder(location)
        self.location = self.files.location
        """As messages show it."""
        self.job = self.location.rstrip("/").rpartition("/")[2]
        self._events: list[str] | None = None
        self._lock: Lock | None = None

    def create(self, card: RunCard, working_dir: Path) -> None:
        """Store card and code, unless this has happened. Takes the place of an earlier job of the same run.

        Args:
            working_dir: the code: a zip, or the folder in which the job runs.
        Raises:
            UserError: another process watches a job of this name.
        """
        content = card.to_json()
        if self.files.exists(CARD_FILE) and self.files.read(CARD_FILE) != content:
            if self._lock is None and self.is_held():
                raise UserError(f"job {self.job} runs already; expected one at a time ({self.location})")
            self.files.delete([CARD_FILE, STATE_FILE, EVENTS_FILE, STOP_FILE, WORKING_DIR_FILE])
        if not self.files.exists(WORKING_DIR_FILE):
            with tempfile.TemporaryDirectory(prefix="wm-job-") as folder:
                is_zip = working_dir.is_file()
                archive = working_dir if is_zip else zip_folder(working_dir, Path(folder) / WORKING_DIR_FILE)
                self.files.upload(archive, WORKING_DIR_FILE)
        self.files.create(CARD_FILE, content)

    def read_card(self) -> RunCard:
        """The job's card.

        Raises:
            UserError: there is none, or it is damaged.
        """
        path = f"{self.location}/{CARD_FILE}"
        try:
            content = self.files.read(CARD_FILE)
        except FileNotFoundError as error:
            raise UserError(f"{path} does not exist; expected the folder of a job") from error
        return parse_card(content, path)

    def read_state(self) -> JobState | None:
        """How far the job is; None before it was written for the first time.

        Raises:
            UserError: it is damaged, or of another version.
        """
        try:
            content = self.files.read(STATE_FILE)
        except FileNotFoundError:
            return None
        source = f"{self.location}/{STATE_FILE}"
        try:
            plain = json.loads(content)
            version = plain.pop("state_version", None)
        except (ValueError, AttributeError, TypeError) as error:
            raise UserError(f"{source} is damaged; delete it, and submit the job again") from error
        if version != STATE_VERSION:
            raise UserError(f"{source} has state_version {version}; expected {STATE_VERSION}; use the wm that wrote it")
        return from_plain(plain, JobState, source)

    def write_state(self, state: JobState) -> JobState:
        """Replace the state; returns it with the time of the change."""
        stamped = replace(state, updated=datetime.now(UTC))
        content = json.dumps({"state_version": STATE_VERSION, **to_plain(stamped)}, indent=1)
        self.files.replace(STATE_FILE, content.encode())
        return stamped

    def add_event(self, kind: str, **facts: Any) -> dict[str, Any]:
        """Append a row to the events; returns it.

        Args:
            facts: JSON data.
        """
        if self._events is None:
            self._events = [json.dumps(row) for row in self.events()]
        row = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "kind": kind, **facts}
        events = [*self._events, json.dumps(row)]
        self.files.replace(EVENTS_FILE, ("\n".join(events) + "\n").encode())
        self._events = events  # only now: a row that could not be written is added again
        return row

    def events(self) -> list[dict[str, Any]]:
        """All events, oldest first."""
        try:
            lines = self.files.read(EVENTS_FILE).decode().splitlines()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in lines]

    def request_stop(self, kind: StopKind) -> None:
        """Ask the process that watches the job to end it."""
        self.files.replace(STOP_FILE, kind.encode())

    def stop_requested(self) -> StopKind | None:
        """Whether the job was asked to end, and how."""
        try:
            return "now" if self.files.read(STOP_FILE) == b"now" else "save"
        except FileNotFoundError:
            return None

    def hold(self, on_lost: Callable[[str], None] = end_process) -> Lock:
        """Take the lease; a killed holder's lease in a bucket is awaited for up to LEASE_SECONDS.

        Args:
            on_lost: called by a thread, with a message, if another process took the lease because this one could not
                renew it in time (in a bucket only).
        Raises:
            UserError: another process watches the job.
        """
        refusal = f"job {self.job} is already watched by another process; expected one at a time ({self.location})"
        if isinstance(self.files, BucketFolder):
            owner = f"{socket.gethostname()}-{uuid.uuid4().hex}"
            self._lock = Lease(BucketFolder(self.uri, retry_s=LOCK_RETRY_S), LEASE_FILE, owner, refusal, on_lost)
        else:
            self._lock = self.files.lock(LEASE_FILE, "", refusal)
        return self._lock

    def is_held(self) -> bool:
        """Whether a process watches the job, as far as can be seen without taking the lease.

        In a bucket this compares the storage's clock with this machine's; only `hold` is certain.
        """
        if not isinstance(self.files, BucketFolder):
            # Asking the disk would release the lock of this process.
            return getattr(self._lock, "closed", True) is False or self.files.is_locked(LEASE_FILE)
        info = self.files.info(LEASE_FILE)
        return info is not None and time.time() - info.modified_s < LEASE_SECONDS + CLOCK_TOLERANCE_S


def job_folder(job: str, storage: str | None = None) -> JobFolder:
    """The folder of a job.

    Args:
        storage: as for `jobs_location`.
    """
    return JobFolder(child_location(jobs_location(storage), job))


def all_job_folders(storage: str | None = None) -> Iterator[JobFolder]:
    """The folders of all jobs that have a card, sorted by name."""
    location = jobs_location(storage)
    for info in open_folder(location).list():
        if info.path.count("/") == 1 and info.path.endswith(f"/{CARD_FILE}"):
            yield JobFolder(child_location(location, info.path.partition("/")[0]))
