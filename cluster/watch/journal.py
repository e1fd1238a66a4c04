"""What the watch writes: events and the state, to the job's folder and the run's, by a thread of its own.

Storage that is away for a while delays nothing: what could not be written is tried again.

events.jsonl, state.json   in the job's folder, see `cluster.card.job_folder`
watch.json                 there too: what the next watch of the job needs, see `stored_by_an_earlier_watch`
stacks/                    there too: stacks of the workers at each stall
card.json, watch.jsonl     in the folder of a run or sweep, once it exists: the card without secrets, and the events
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from cluster.card.job_folder import JobFolder, JobState
from cluster.card.run_card import CARD_FILE, RunCard
from cluster.watch.subject import Subject
from datasets.runtime.errors import UserError

WATCH_FILE = "watch.json"
RUN_EVENTS_FILE = "watch.jsonl"
STACKS_FOLDER = "stacks"
STATE_EVERY_S = 10.0
"""Between two versions of state.json that differ in numbers alone, at least."""
RETRY_S = 2.0
CLOSE_S = 30.0
"""How long the end waits for storage that is away."""


class Journal:
    """Events and state of one job."""

    def __init__(self, folder: JobFolder, card: RunCard, subject: Subject) -> None:
        self._folder, self._subject = folder, subject
        self._run_card: RunCard | None = replace(card, limits=replace(card.limits, webhook=None))
        self._pending: list[Callable[[], object]] = []
        self._run_lines: list[str] = []
        self._state: tuple[JobState, dict[str, Any]] | None = None
        self._state_at_s = 0.0
        self._lock = threading.Lock()
        self._wakes = threading.Event()
        self._is_closing = False
        self._reported: set[str] = set()
        self._thread = threading.Thread(target=self._write_repeatedly, name="journal", daemon=True)
        self._thread.start()

    def event(self, kind: str, message: str, **facts: Any) -> None:
        """Record an event, with its time, and print it."""
        at = datetime.now(UTC).isoformat(timespec="seconds")
        print(f"{at} watch: {message}", flush=True)
        with self._lock:
            self._pending.append(lambda: self._folder.add_event(kind, **{"at": at, "message": message, **facts}))
            if self._subject.files is not None:
                self._run_lines.append(json.dumps({"at": at, "kind": kind, "message": message, **facts}) + "\n")
        self._wakes.set()

    def state(self, state: JobState, for_next_watch: dict[str, Any], *, is_urgent: bool) -> None:
        """Replace state.json and watch.json; now and then if it is not urgent."""
        if not is_urgent and time.monotonic() - self._state_at_s < STATE_EVERY_S:
            return
        self._state_at_s = time.monotonic()
        with self._lock:
            self._state = state, for_next_watch
        self._wakes.set()

    def file(self, name: str, text: str) -> None:
        """Write a file to the job's folder."""
        with self._lock:
            self._pending.append(lambda: self._folder.files.replace(name, text.encode()))
        self._wakes.set()

    def close(self) -> None:
        """Write what is left."""
        self._is_closing = True
        self._wakes.set()
        self._thread.join(CLOSE_S)

    def _write_repeatedly(self) -> None:
        deadline_s = None
        while True:
            self._wakes.wait(RETRY_S)
            self._wakes.clear()
            is_last = self._is_closing
            if is_last and deadline_s is None:
                deadline_s = time.monotonic() + CLOSE_S
            is_done = self._write()
            if deadline_s is not None and is_last and (is_done or time.monotonic() > deadline_s):
                return
            if not is_done:
                time.sleep(RETRY_S)

    def _write(self) -> bool:
        """Write what is new; whether nothing is left."""
        is_done = True
        for write in (self._write_pending, self._write_state, self._write_run_events):
            try:
                write()
            except (OSError, UserError) as error:
                is_done = False
                self._report(error)
        return is_done

    def _write_pending(self) -> None:
        while self._pending:
            self._pending[0]()
            with self._lock:
                del self._pending[0]

    def _write_state(self) -> None:
        with self._lock:
            newest = self._state
        if newest is None:
            return
        state, for_next_watch = newest
        self._folder.files.replace(WATCH_FILE, json.dumps(for_next_watch, indent=1).encode())
        self._folder.write_state(state)
        with self._lock:
            if self._state is newest:
                self._state = None

    def _write_run_events(self) -> None:
        """Events wait in memory until the run's folder exists; a job that ends before has none there."""
        files = self._subject.files
        if files is None or not self._run_lines or not files.version(self._subject.marker):
            return
        if self._run_card is not None:
            files.write(CARD_FILE, self._run_card.to_json())
            self._run_card = None
        with self._lock:
            lines = list(self._run_lines)
        files.append(RUN_EVENTS_FILE, "".join(lines).encode())
        with self._lock:
            del self._run_lines[: len(lines)]

    def _report(self, error: Exception) -> None:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if reason not in self._reported:
            self._reported.add(reason)
            print(f"watch: the job's files cannot be written ({reason}); trying again", file=sys.stderr, flush=True)


def stored_by_an_earlier_watch(folder: JobFolder) -> dict[str, Any]:
    """watch.json of a job: `totals`, and `command`, the process that may still run; empty if there is none.

    Raises:
        OSError: it cannot be read at the moment.
    """
    with contextlib.suppress(FileNotFoundError, ValueError):
        content = json.loads(folder.files.read(WATCH_FILE))
        return content if isinstance(content, dict) else {}
    return {}
