"""Progress of an encode: a live line on a terminal, and a line in the log every half minute."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections import deque
from datetime import datetime
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

from datasets.corpus.state import CORPUS_FILE, IN_PROGRESS_FILE, LOG_FILE
from datasets.pipeline.encode import EncodeSummary
from datasets.runtime.hardware import tree_memory
from datasets.runtime.uris import is_remote, without_credentials
from datasets.schema.reject_reasons import REJECT_REASONS

LIVE_SECONDS = 1.0
LOG_SECONDS = 30.0
RATE_SECONDS = 60.0
"""Rates are averages over the last minute."""


class EncodeProgress:
    """A context manager that reports progress; call `update` after each commit.

    A terminal shows a live line, refreshed every second. Other streams, and `encode.log` in a corpus on a disk, get a
    line every LOG_SECONDS and one at the end.
    """

    def __init__(self, out: str | Path, stream: TextIO = sys.stdout) -> None:
        self.peak_memory_bytes = 0
        self._out = None if is_remote(str(out)) else Path(out)  # an object cannot be appended to
        self._stream = stream
        console = Console(file=stream, force_terminal=True, highlight=False)
        self._live = Live(console=console, auto_refresh=False, transient=True) if stream.isatty() else None
        self._started = time.monotonic()
        self._latest: tuple[EncodeSummary, int] = (EncodeSummary(), 0)
        self._history: deque[tuple[float, int, int, int]] = deque([(self._started, 0, 0, 0)])
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> EncodeProgress:
        if self._live is not None:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._finished.set()
        self._thread.join()
        if self._live is not None:
            self._live.stop()
        if self._latest[0].num_inputs:
            self._log()

    def update(self, summary: EncodeSummary, bytes_left: int) -> None:
        """Record a commit.

        Args:
            bytes_left: remaining bytes of the sources.
        """
        self._latest = (summary, bytes_left)
        now = time.monotonic()
        self._history.append((now, summary.num_games, summary.num_frames, summary.num_bytes - summary.num_bytes_done))
        while len(self._history) > 2 and now - self._history[1][0] > RATE_SECONDS:
            self._history.popleft()

    def line(self) -> str:
        """The progress line: time, games, frames, rejects, memory, time left."""
        summary, bytes_left = self._latest
        now = time.monotonic()
        then, games, frames, num_bytes = self._history[0]
        seconds = max(1e-9, now - then)
        bytes_per_s = (self._history[-1][3] - num_bytes) / seconds
        memory = f"{self.peak_memory_bytes / 1e9:5.2f} GB" if self.peak_memory_bytes else "unknown"
        left = f"{_duration(bytes_left / bytes_per_s)} left" if bytes_per_s > 0 else "starting"
        return (
            f"{_duration(now - self._started)}  "
            f"{summary.num_games:,} games ({(summary.num_games - games) / seconds:.1f}/s)"
            f"  {summary.num_frames:,} frames ({(summary.num_frames - frames) / seconds:,.0f}/s)"
            f"  {summary.rejects.total():,} rejects  peak memory {memory}  {left}"
        )

    def refresh(self) -> None:
        """Measure the memory and rewrite the live line."""
        self.peak_memory_bytes = max(self.peak_memory_bytes, tree_memory())
        if self._live is not None:
            self._live.update(Text(self.line(), no_wrap=True, overflow="crop"), refresh=True)

    def _run(self) -> None:
        logged = time.monotonic()
        while not self._finished.wait(LIVE_SECONDS):
            self.refresh()
            if time.monotonic() - logged >= LOG_SECONDS:
                logged = time.monotonic()
                self._log()

    def _log(self) -> None:
        line = self.line()
        if self._live is None:
            print(line, file=self._stream, flush=True)
        has_started = self._latest[0].num_inputs > 0  # before that, `out` may be a folder that is not a corpus
        if self._out is None:
            return
        if has_started and any((self._out / name).exists() for name in (IN_PROGRESS_FILE, CORPUS_FILE)):
            with contextlib.suppress(OSError), (self._out / LOG_FILE).open("a") as file:  # such as a full disk
                file.write(f"{datetime.now().isoformat(timespec='seconds')}  {line}\n")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def summary_text(summary: EncodeSummary, out: str | Path) -> str:
    """The result of an encode: what was added, and a line for each reason of rejection."""
    place = without_credentials(str(out))
    lines = [
        f"{summary.num_games:,} games and {summary.num_frames:,} frames added to {place} in {summary.seconds:.0f} s; "
        f"{summary.num_already_done:,} of {summary.num_inputs:,} inputs were there already; "
        f"{summary.num_replaced:,} games replaced by their .slp; {summary.num_ignored_files:,} other files ignored; "
        f"{summary.rejects.total():,} rejects" + (":" if summary.rejects else "")
    ]
    lines += [f"{count:8,}  {code:<18} {REJECT_REASONS[code]}" for code, count in summary.rejects.most_common()]
    if summary.reason_to_compact is not None:
        lines.append(f"`wm corpus compact {place}` is worthwhile: {summary.reason_to_compact}")
    return "\n".join([*lines, *_unread_lines(summary)])


def _unread_lines(summary: EncodeSummary) -> list[str]:
    if not summary.num_unread:
        return []
    inputs = "input" if summary.num_unread == 1 else "inputs"
    lines = [f"{label}: {message}" for label, message in summary.unread]
    if num_more := summary.num_unread - len(summary.unread):
        lines.append(f"and {num_more:,} more")
    return [f"{summary.num_unread:,} {inputs} could not be read; run the same command again:", *lines]
