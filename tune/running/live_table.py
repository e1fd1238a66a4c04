"""How a running sweep stands: a table that is redrawn in place in a terminal, and in a log a line every half minute."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from scipy import stats

from datasets.runtime.errors import UserError
from datasets.runtime.text_format import format_duration
from datasets.runtime.uris import is_remote
from tune.analysis.scores import score_and_influence
from tune.config import SweepConfig
from tune.report.table import flops_text, number_text
from tune.results.trial_status import ENDED, State
from tune.running.spending import Spending
from tune.search.trials import Trial, axes_text
from wm.config.run_config import Context
from wm.evaluation.game_sums import GameSums, metric_values
from wm.runs.run_files import open_run_files
from wm.runs.run_log import LOG_FILE, parse_row

LINE_EVERY_S = 30.0
REDRAW_EVERY_S = 1.0
READ_BUCKET_EVERY_S = 3.0
"""By a thread; a trial uploads its log as often."""
CLOSE_S = 1.0
TAIL_BYTES = 1 << 16
"""Of a trial's log; a progress line takes about 300."""


@dataclass(kw_only=True, slots=True)
class TrialView:
    """What is displayed of a trial."""

    title: str
    total_targets: int
    flops_per_target: float
    run: Path | str
    """Folder or URI of the trial."""
    state: State = "pending"
    targets_seen: int = 0
    targets_per_s: float | None = None
    context: Context | None = None
    """At which the two metrics were evaluated."""
    change_acc: tuple[float, float] | None = None
    """With the half-width of its 95 % interval over games."""
    val_loss: float | None = None

    @property
    def accuracy(self) -> str:
        """`0.412 ±0.031 K=10`, or a dash."""
        if self.change_acc is None:
            return "–"
        place = self.context if self.context == "stream" else f"K={self.context}"
        return f"{self.change_acc[0]:.3f} ±{self.change_acc[1]:.3f} {place}"

    def read_progress(self) -> None:
        """Take targets seen and speed from the newest progress line in the trial's log."""
        lines = _tail(self.run / LOG_FILE) if isinstance(self.run, Path) else _stored_lines(self.run)
        for line in reversed(lines):
            row = parse_row(line)
            if row is not None and row["kind"] == "train":
                self.targets_seen, self.targets_per_s = int(row["targets_seen"]), float(row["targets_per_s"])
                return


class LiveTable:
    """The state of a sweep on its way. Methods may be called from any thread; `tick` from one, often."""

    def __init__(
        self, sweep: SweepConfig, spending: Spending, output: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._sweep, self._spending, self._clock = sweep, spending, clock
        self._output = output or sys.stdout
        self._lock = threading.RLock()
        self._trials: dict[str, TrialView] = {}
        self._started = self._last_line = self._last_tick = clock()
        self._live: Live | None = None
        if self._output.isatty():
            console = Console(file=self._output)
            self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stderr=False)
            self._live.start()
        self._is_closed = threading.Event()
        self._reader: threading.Thread | None = None
        if is_remote(str(sweep.out)):
            self._reader = threading.Thread(target=self._read_repeatedly, name="trial-progress", daemon=True)
            self._reader.start()

    def running(self) -> list[str]:
        """Names of the trials whose processes work."""
        with self._lock:
            return [name for name, view in self._trials.items() if view.state == "running"]

    def add(self, trial: Trial, flops_per_target: float, state: State, targets_seen: int) -> None:
        """Make a trial known."""
        with self._lock:
            self._trials[trial.name] = TrialView(
                title=axes_text(trial.axes), total_targets=trial.config.optimizer.total_targets,
                flops_per_target=flops_per_target, run=trial.config.out, state=state,
                targets_seen=targets_seen,
            )  # fmt: skip

    def set_state(self, name: str, state: State, reason: str = "") -> None:
        """A trial started or ended; an end is printed."""
        with self._lock:
            self._spending.tick(self.running())
            self._trials[name].state = state
            if state in ENDED:
                self.say(f"{self._trials[name].title}: {state}" + (f" ({reason})" if reason else ""))

    def set_evaluation(self, name: str, targets_seen: int, context: Context, sums: GameSums) -> None:
        """A validation of a trial, at the context that is compared."""
        with self._lock:
            view = self._trials[name]
            view.targets_seen, view.context = targets_seen, context
            view.change_acc, view.val_loss = accuracy_interval(sums), metric_values(sums)["val_loss"]

    def say(self, text: str) -> None:
        """Print a line that stays, above the table."""
        with self._lock:
            line = f"{self._clock() - self._started:6.0f} s  {text}"
            if self._live is None:
                print(line, file=self._output, flush=True)
            else:
                self._live.console.print(Text(line))

    def tick(self) -> None:
        """Count time, and display the state when that is due."""
        now = self._clock()
        if now - self._last_tick < REDRAW_EVERY_S:
            return
        with self._lock:
            self._last_tick = now
            self._spending.tick(self.running())
            for name in self.running() if self._reader is None else ():
                self._trials[name].read_progress()
            if self._live is not None:
                self._live.update(self._table(self._live.console.height - 4), refresh=True)
            elif now - self._last_line >= LINE_EVERY_S:
                self._last_line = now
                self.say(self.line())

    def close(self) -> None:
        """End the display; what was spent is saved."""
        self._is_closed.set()
        if self._reader is not None:
            self._reader.join(CLOSE_S)  # a request may hang
        with self._lock:
            if self._live is not None:
                self._live.stop()
            self._spending.save()

    @property
    def train_flops(self) -> float:
        """FLOPs of training of all trials so far."""
        return sum(view.targets_seen * view.flops_per_target for view in self._trials.values())

    def line(self) -> str:
        """The state of the sweep in one line: totals, then each running trial."""
        parts = [
            f"{view.title}: {view.targets_seen:,} of {view.total_targets:,} targets, "
            f"{number_text(view.targets_per_s, 0)}/s, change_acc {view.accuracy}, "
            f"val_loss {number_text(view.val_loss)}"
            for view in self._running()
        ]
        return " | ".join([self._totals(), *parts])

    def _totals(self) -> str:
        ended = sum(view.state in ENDED for view in self._trials.values())
        running = len(self.running())
        usd = self._spending.usd()
        cost = [f"{format_duration(self._spending.device_seconds.total())} of devices", flops_text(self.train_flops)]
        cost += [] if usd is None else [f"{usd:.2f} USD"]
        left = self._seconds_left()
        time_left = "" if left is None else f", at most {format_duration(left)} left"
        return f"{ended}/{len(self._trials)} ended, {running} running, {', '.join(cost)}{time_left}"

    def _seconds_left(self) -> float | None:
        """If no other trial is stopped, at the present speed; None while nothing is known of it."""
        speed = sum(v.targets_per_s * v.flops_per_target for v in self._running() if v.targets_per_s)
        left = sum(
            max(0, v.total_targets - v.targets_seen) * v.flops_per_target
            for v in self._trials.values()
            if v.state not in ENDED
        )
        return left / speed if speed else None

    def _running(self) -> list[TrialView]:
        return [self._trials[name] for name in self.running()]

    def _read_repeatedly(self) -> None:
        while not self._is_closed.wait(READ_BUCKET_EVERY_S):
            for view in self._running():
                with contextlib.suppress(OSError, UserError):  # shown when it can be read again
                    view.read_progress()

    def _table(self, max_rows: int) -> Group:
        """The running trials first, then those with results, then the others."""
        table = Table(box=None, pad_edge=False)
        for name in ("trial", "targets", "change_acc", "val_loss", "targets/s", "state", "cost", "left"):
            table.add_column(name, justify="left" if name in ("trial", "state") else "right", no_wrap=name != "trial")
        order = sorted(self._trials, key=lambda n: (self._trials[n].state != "running", -self._trials[n].targets_seen))
        for name in order[:max_rows]:
            table.add_row(*self._cells(name))
        left_out = len(order) - max_rows
        more = [Text(f"and {left_out} more")] if left_out > 0 else []
        return Group(table, *more, Text(self._totals()))

    def _cells(self, name: str) -> Sequence[str]:
        view = self._trials[name]
        is_running = view.state == "running"
        rate = view.targets_per_s
        left = (view.total_targets - view.targets_seen) / rate if is_running and rate else None
        seconds, usd = self._spending.device_seconds[name], self._spending.usd(name)
        cost = format_duration(seconds) if usd is None else f"{format_duration(seconds)} {usd:.2f} USD"
        return (
            view.title,
            f"{view.targets_seen / 1e6:.2f}/{view.total_targets / 1e6:.2f} M",
            view.accuracy,
            number_text(view.val_loss),
            number_text(rate, 0) if is_running else "–",
            view.state,
            f"{cost} {flops_text(view.targets_seen * view.flops_per_target)}" if seconds else "–",
            "–" if left is None else format_duration(left),
        )


def accuracy_interval(sums: GameSums) -> tuple[float, float] | None:
    """`change_acc` and the half-width of its 95 % interval, over games; None without events.

    By the influence of each game on the ratio (the delta method), with Student's t for the number of games.
    """
    if not sums.num_changes.any():
        return None
    num_games = len(sums)
    value, influence = score_and_influence(sums, np.arange(num_games), "change_acc")
    if num_games < 2:
        return value, math.inf
    error = math.sqrt(num_games / (num_games - 1) * float(influence @ influence))
    return value, float(stats.t.ppf(0.975, num_games - 1)) * error


def _stored_lines(uri: str) -> list[bytes]:
    """The lines of the log of a trial in object storage; none if there is no log yet.

    Raises:
        OSError: it cannot be read at the moment.
    """
    try:
        return open_run_files(uri).read(LOG_FILE).splitlines()
    except FileNotFoundError:
        return []


def _tail(path: Path) -> list[bytes]:
    """The last lines of a file; none if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            return file.read().splitlines()
    except OSError:
        return []
