"""What a sweep has used, over all its commands, and whether its budget is used up."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Collection

from datasets.runtime.durable_files import replace_file
from tune.config import SweepConfig
from wm.runs.problem_report import report_once
from wm.runs.run_files import RunFiles

SPENT_FILE = "spent.json"
SAVE_EVERY_S = 10.0
"""A kill loses so much of the account at most; in object storage the seconds between two uploads as well."""


class Spending:
    """Hours of the sweep and device seconds of its trials, in spent.json.

    A device is a GPU, or a trial's process if trials have no GPUs. Time counts while a trial holds its device, also
    while it starts and validates.
    """

    def __init__(self, sweep: SweepConfig, files: RunFiles, clock: Callable[[], float] = time.monotonic) -> None:
        """Go on from what earlier commands have used.

        Args:
            files: of the sweep; its folder is open.
        """
        self._sweep, self._files, self._clock = sweep, files, clock
        self._reported: set[str] = set()
        self._last = self._saved = clock()
        self.seconds = 0.0
        self.device_seconds: Counter[str] = Counter()
        try:
            stored = json.loads(files.read(SPENT_FILE))
            self.seconds = float(stored["seconds"])
            self.device_seconds.update({name: float(value) for name, value in stored["device_seconds"].items()})
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            self.seconds = 0.0  # a new sweep

    def tick(self, running: Collection[str]) -> None:
        """Count the time since the last call for the trials that ran in it."""
        now = self._clock()
        passed, self._last = now - self._last, now
        self.seconds += passed
        devices = self._sweep.gpus_per_trial or 1.0
        self.device_seconds.update({name: passed * devices for name in running})
        if now - self._saved >= SAVE_EVERY_S:
            self.save()

    def save(self) -> None:
        """Write the account; a full disk is reported, not raised."""
        self._saved = self._clock()
        content = {"seconds": self.seconds, "device_seconds": dict(self.device_seconds)}
        try:
            replace_file(self._files.folder / SPENT_FILE, json.dumps(content, indent=1).encode())
        except OSError as error:
            report_once(f"{self._files.path_of(SPENT_FILE)} cannot be written", error, self._reported)

    def usd(self, trial: str | None = None) -> float | None:
        """Price of a trial's device seconds, or of all trials'; None if no price is given."""
        if self._sweep.usd_per_hour is None:
            return None
        seconds = self.device_seconds.total() if trial is None else self.device_seconds[trial]
        return seconds / 3600 * self._sweep.usd_per_hour

    def used_up(self, train_flops: float) -> str | None:
        """Which budget is used up, and how to go on; None if none is.

        Args:
            train_flops: of all trials so far.
        """
        limits = {
            "max_hours": (self._sweep.max_hours, self.seconds / 3600, "hours"),
            "max_usd": (self._sweep.max_usd, self.usd() or 0.0, "USD"),
            "max_flops": (self._sweep.max_flops, train_flops, "FLOPs of training"),
        }
        for name, (limit, spent, unit) in limits.items():
            if limit is not None and spent >= limit:
                option = f"--{name.replace('_', '-')}"
                return (
                    f"the budget of {limit:,.4g} {unit} ({name}) is used up; the same command with a larger {option} "
                    "goes on"
                )
        return None
