"""A run's crash history: every start of its workers and how it ended, so that a repeated crash ends the run.

attempts.jsonl   a row per start of the workers ("start"), per exception of a worker ("crash"), and per stop before a
                 preemption ("preempted")
crash.txt        tracebacks of the workers' exceptions
"""

from __future__ import annotations

import contextlib
import json
import time
import traceback
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from wm.runs.run_files import RunFiles
from wm.runs.run_log import LOG_FILE, parse_log

ATTEMPTS_FILE = "attempts.jsonl"
CRASH_FILE = "crash.txt"
MAX_ERROR_CHARS = 300
SECONDARY_ERRORS = ("Connection closed by peer", "Connection reset by peer", "gloo", "NCCL", "Broken pipe")
"""In the errors of workers that lost another one: not the cause."""
NO_TRACEBACK = "no traceback; probably out of memory, or the node was lost"


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One start of the workers and how it ended."""

    resumed_at: int
    """Targets seen by the checkpoint that it resumed from; 0 for the beginning."""
    reached: int
    """Targets seen at its last progress line."""
    error: str | None
    """Last line of the exception that ended it; None if the workers were killed."""
    is_preempted: bool
    """It saved and stopped before a preemption."""


class CrashHistory:
    """The attempts of one command, stored with its run. Storage errors are ignored: the run matters more."""

    def __init__(self, files: RunFiles, command: str) -> None:
        """
        Args:
            command: identifies one call of the driver; a new call begins a new history.
        """
        self._files, self._command = files, command

    def record_start(self, resumed_at: int) -> None:
        """Record a start of the workers."""
        past = self.attempts()
        reached = past[-1].reached if past else 0
        self._write(
            event="start", resumed_at=resumed_at, reached_before=reached, log_version=self._files.version(LOG_FILE)
        )

    def record_preemption(self) -> None:
        """Record that the workers stop before a preemption; the run has saved."""
        self._write(event="preempted")

    def record_crash(self, error: BaseException, rank: int) -> None:
        """Record a worker's exception, and append its traceback to crash.txt."""
        self._write(event="crash", rank=rank, error=_last_line(error))
        text = f"{_timestamp()}, worker {rank}\n{''.join(traceback.format_exception(error))}\n"
        with contextlib.suppress(OSError):
            self._files.append(CRASH_FILE, text.encode())

    def attempts(self) -> list[Attempt]:
        """The attempts so far, all of which have ended. Call it before the next one opens the log."""
        found: list[Attempt] = []
        rows = [row for row in self._rows() if row.get("command") == self._command]
        starts = [number for number, row in enumerate(rows) if row["event"] == "start"]
        for start, end in pairwise([*starts, len(rows)]):
            first, rest = rows[start], rows[start + 1 : end]
            following = rows[end] if end < len(rows) else None
            errors = [row["error"] for row in rest if row["event"] == "crash"]
            found.append(
                Attempt(
                    resumed_at=first["resumed_at"],
                    reached=following["reached_before"] if following else self._reached(first),
                    error=next((e for e in errors if not any(sign in e for sign in SECONDARY_ERRORS)), None),
                    is_preempted=any(row["event"] == "preempted" for row in rest),
                )
            )
        return found

    def repeated_crash(self, resumes_at: int, log_every_s: float) -> str | None:
        """Why the next attempt would crash like the last two; None if it may not.

        Args:
            resumes_at: targets seen by the checkpoint that the next attempt would resume from.
            log_every_s: seconds between progress lines, which is how precisely the place of a crash is known.
        """
        speeds = [row["targets_per_s"] for row in self._log_rows() if row["kind"] == "train"]
        slack_targets = 1.5 * speeds[-1] * log_every_s if speeds else 0.0  # between two progress lines, with a margin
        return repeated_crash(self.attempts(), resumes_at, slack_targets)

    def remedy(self) -> str:
        """What the user should look at after a crash."""
        with contextlib.suppress(OSError):
            if self._files.read_appended(CRASH_FILE):
                return f"see {self._files.path_of(CRASH_FILE)}"
        return "check whether memory ran out (a smaller optimizer.micro_batch_size needs less)"

    def _reached(self, start: dict[str, Any]) -> int:
        """Targets at the last progress line of the newest attempt; those it resumed at if it logged nothing."""
        if list(self._files.version(LOG_FILE)) == start["log_version"]:
            return start["resumed_at"]
        seen = [row["targets_seen"] for row in self._log_rows() if row["kind"] in ("train", "eval")]
        return max([start["resumed_at"], *seen])

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        with contextlib.suppress(OSError):
            for line in self._files.read_appended(ATTEMPTS_FILE).splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # a line that a kill cut off
                    rows.append(json.loads(line))
        return rows

    def _write(self, **facts: Any) -> None:
        row = {"command": self._command, "when": _timestamp(), **facts}
        with contextlib.suppress(OSError):
            # On its own line, also after one that a kill cut off.
            self._files.append(ATTEMPTS_FILE, f"\n{json.dumps(row)}\n".encode())

    def _log_rows(self) -> list[dict[str, Any]]:
        try:
            return parse_log(self._files.read(LOG_FILE).decode(errors="replace"))
        except OSError:
            return []


def repeated_crash(past: list[Attempt], resumes_at: int, slack_targets: float) -> str | None:
    """Why the next attempt would crash like the last two; None if it may not.

    The second of them wrote no checkpoint, and either reached as far as the first, or resumed at the same checkpoint
    and ended with the same exception.

    Args:
        slack_targets: largest distance between two crashes at the same place.
    """
    if len(past) < 2:
        return None
    first, second = past[-2:]
    if first.is_preempted or second.is_preempted or second.resumed_at != resumes_at:
        return None
    same_place = abs(first.reached - second.reached) <= slack_targets
    same_error = first.resumed_at == second.resumed_at and first.error is not None and first.error == second.error
    if not (same_place or same_error):
        return None
    return f"the run crashed 2 times at about {second.reached:,} targets ({second.error or NO_TRACEBACK})"


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}".rstrip(": ")[:MAX_ERROR_CHARS]


def _timestamp() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
