"""What a person sees while a corpus is encoded: a live line, and a line in a log every half minute."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections import deque
from datetime import datetime
from pathlib import Path
from typing import TextIO

from datasets.corpus.manifest import CORPUS_FILE, IN_PROGRESS_FILE, LOG_FILE
from datasets.pipeline.encode import EncodeSummary
from datasets.runtime.hardware import tree_memory
from datasets.schema.reject_reasons import REJECT_REASONS

LIVE_SECONDS = 1.0
LOG_SECONDS = 30.0
RATE_SECONDS = 60.0
"""Speeds are those of the last minute."""


class EncodeProgress:
    """Shows a summary that grows: a context in which `update` is called after each commit.

    A terminal gets a line that is rewritten every second; anything else, and `encode.log` in the corpus, a line
    every LOG_SECONDS and one at the end.
    """

    def __init__(self, out: Path, stream: TextIO = sys.stdout) -> None:
        self.peak_memory_bytes = 0
        self._out = out
        self._stream = stream
        self._is_live = stream.isatty()
        self._started = time.monotonic()
        self._latest: tuple[EncodeSummary, int] = (EncodeSummary(), 0)
        self._history: deque[tuple[float, int, int, int]] = deque([(self._started, 0, 0, 0)])
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def __enter__(self) -> EncodeProgress:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def update(self, summary: EncodeSummary, bytes_left: int) -> None:
        """Take note of a commit.

        Args:
            bytes_left: of the sources, still to be read.
        """
        self._latest = (summary, bytes_left)
        now = time.monotonic()
        self._history.append((now, summary.num_games, summary.num_frames, summary.num_bytes - summary.num_bytes_done))
        while len(self._history) > 2 and now - self._history[1][0] > RATE_SECONDS:
            self._history.popleft()

    def line(self) -> str:
        """How far it is."""
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

    def _show(self) -> None:
        logged = time.monotonic()
        while not self._over.wait(LIVE_SECONDS):
            self.peak_memory_bytes = max(self.peak_memory_bytes, tree_memory() or 0)
            if self._is_live:
                width = shutil.get_terminal_size().columns - 1  # a line that wraps cannot be rewritten
                self._stream.write(f"\r{self.line()[:width]}\x1b[K")
                self._stream.flush()
            if time.monotonic() - logged >= LOG_SECONDS:
                logged = time.monotonic()
                self._log()
        if self._is_live:
            self._stream.write("\r\x1b[K")
        if self._latest[0].num_inputs:
            self._log()

    def _log(self) -> None:
        line = self.line()
        if not self._is_live:
            print(line, file=self._stream, flush=True)
        has_begun = self._latest[0].num_inputs > 0  # else the folder may be another's
        if has_begun and any((self._out / name).exists() for name in (IN_PROGRESS_FILE, CORPUS_FILE)):
            with (self._out / LOG_FILE).open("a") as file:
                file.write(f"{datetime.now().isoformat(timespec='seconds')}  {line}\n")


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"


def summary_text(summary: EncodeSummary, out: Path) -> str:
    """The result of an encode: what was added, and a line for each reason of rejection."""
    lines = [
        f"{summary.num_games:,} games and {summary.num_frames:,} frames added to {out} in {summary.seconds:.0f} s; "
        f"{summary.num_already_done:,} of {summary.num_inputs:,} inputs were there already; "
        f"{summary.num_replaced:,} games replaced by their .slp; {summary.num_ignored_files:,} other files ignored; "
        f"{summary.rejects.total():,} rejects" + (":" if summary.rejects else "")
    ]
    if summary.num_unreachable:
        lines.append(f"{summary.num_unreachable:8,}  inputs could not be reached; run the same command again to retry")
    lines += [f"{count:8,}  {code:<18} {REJECT_REASONS[code]}" for code, count in summary.rejects.most_common()]
    return "\n".join(lines)
