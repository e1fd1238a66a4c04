"""Each time a run's workers start, and how they died: so that a crash that repeats ends the run, with a diagnosis.

attempts.jsonl   in the run's folder: a row for each start of the workers ("start"), each last words ("died") and each
                 end before a machine goes ("preempted")
crash.txt        tracebacks of workers' exceptions
ending.txt       while a command runs: why its run is over, so that Ray does not start it again
"""

from __future__ import annotations

import contextlib
import json
import time
import traceback
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from wm.runs.run_folder import LOG_FILE, read_log

ATTEMPTS_FILE = "attempts.jsonl"
CRASH_FILE = "crash.txt"
ENDING_FILE = "ending.txt"
LAST_WORDS_CHARS = 300
OTHERS_DIED = ("Connection closed by peer", "Connection reset by peer", "gloo", "NCCL", "Broken pipe")
"""In what a worker says when another one is gone: not why."""
NO_WORDS = "none: killed, out of memory, or its machine is gone"


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One start of the workers, by what it left."""

    resumed_at: int
    """Targets seen by the checkpoint that it went on from; 0 for the beginning."""
    reached: int
    """Targets seen at its last progress line."""
    words: str | None
    """Last line of the exception it died of; None where it died without a word."""
    is_preempted: bool
    """It had saved, since its machine was to go."""


class Attempts:
    """The attempts of one command, in its run's folder. No trouble with the disk is raised: the run matters more."""

    def __init__(self, out: Path, command: str) -> None:
        """
        Args:
            command: names one call of the driver: what is typed again begins anew.
        """
        self._out, self.command = out, command

    def begin(self, resumed_at: int) -> None:
        """Note a start."""
        past = self.past()
        reached = past[-1].reached if past else 0
        self._write(event="start", resumed_at=resumed_at, reached_before=reached, log_changed_at=_changed_at(self._out))

    def preempted(self) -> None:
        """Note that the workers end since a machine goes; the run has saved."""
        self._write(event="preempted")

    def died(self, error: BaseException, rank: int) -> None:
        """Note a worker's last words, and keep the traceback."""
        words = _last_line(error)
        self._write(event="died", rank=rank, words=words)
        with contextlib.suppress(OSError), (self._out / CRASH_FILE).open("a") as file:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            file.write(f"{stamp}, worker {rank}\n{''.join(traceback.format_exception(error))}\n")

    def past(self) -> list[Attempt]:
        """The attempts so far, all of which are over. Ask before the next one opens the log."""
        found: list[Attempt] = []
        rows = [row for row in self._rows() if row.get("command") == self.command]
        starts = [number for number, row in enumerate(rows) if row["event"] == "start"]
        for start, end in pairwise([*starts, len(rows)]):
            first, rest = rows[start], rows[start + 1 : end]
            following = rows[end] if end < len(rows) else None
            found.append(
                Attempt(
                    resumed_at=first["resumed_at"],
                    reached=following["reached_before"] if following else self._reached(first),
                    words=_why([row["words"] for row in rest if row["event"] == "died"]),
                    is_preempted=any(row["event"] == "preempted" for row in rest),
                )
            )
        return found

    def _reached(self, start: dict[str, Any]) -> int:
        """Targets at the last progress line of the newest attempt; where it logged nothing, those it resumed at."""
        if _changed_at(self._out) == start["log_changed_at"]:
            return start["resumed_at"]
        seen = [row["targets_seen"] for row in read_log(self._out) if row["kind"] in ("train", "eval")]
        return max([start["resumed_at"], *seen])

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        with contextlib.suppress(OSError):
            for line in (self._out / ATTEMPTS_FILE).read_text().splitlines():
                with contextlib.suppress(json.JSONDecodeError):  # cut off by a kill
                    rows.append(json.loads(line))
        return rows

    def _write(self, **facts: Any) -> None:
        row = {"command": self.command, "when": time.strftime("%Y-%m-%d %H:%M:%S"), **facts}
        with contextlib.suppress(OSError), (self._out / ATTEMPTS_FILE).open("a") as file:
            file.write(f"\n{json.dumps(row)}\n")  # a line of its own, also after one that was cut off


def repeated_crash(past: list[Attempt], resumes_at: int, slack_targets: float) -> str | None:
    """Why another attempt would die like the last two; None where it may not.

    The second must have written no checkpoint, and have come as far as the first, or, if it began where the first did,
    died of the same exception.

    Args:
        resumes_at: targets seen by the checkpoint that the next attempt would go on from.
        slack_targets: what the run does between two progress lines.
    """
    if len(past) < 2:
        return None
    first, second = past[-2:]
    if first.is_preempted or second.is_preempted or second.resumed_at != resumes_at:
        return None
    same_place = abs(first.reached - second.reached) <= slack_targets
    same_words = first.resumed_at == second.resumed_at and first.words is not None and first.words == second.words
    if not (same_place or same_words):
        return None
    return f"the run died 2 times at about {second.reached:,} targets (last words: {second.words or NO_WORDS})"


def targets_between_lines(out: Path, log_every_s: float) -> float:
    """Targets that a run sees between two of its progress lines, generously."""
    speeds = [row["targets_per_s"] for row in read_log(out) if row["kind"] == "train"]
    return 1.5 * speeds[-1] * log_every_s if speeds else 0.0


def where_to_look(out: Path) -> str:
    """What a person should do about a run that died."""
    crash = out / CRASH_FILE
    return (
        f"see {crash}" if crash.exists() else "see whether memory ran out (a smaller optimizer.micro_batch_size needs less)"
    )


def _why(words: list[str]) -> str | None:
    """Of several workers' last words those that tell why: the others only say that somebody is gone."""
    telling = [one for one in words if not any(sign in one for sign in OTHERS_DIED)]
    return (telling or [None])[0]


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}".rstrip(": ")[:LAST_WORDS_CHARS]


def _changed_at(out: Path) -> int:
    try:
        return (out / LOG_FILE).stat().st_mtime_ns
    except OSError:
        return 0
