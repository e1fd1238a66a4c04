"""What sweeps and encodes are expected to take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from cluster.plan.estimate import estimate
from cluster.plan.machines import Catalogue, MachineGroup
from cluster.plan.profile import MeasuredProfile
from cluster.plan.proposals import Limits
from cluster.plan.workload import FRAMES_PER_GAME, workload_of
from datasets.runtime.errors import UserError
from tune.config import AshaConfig, SweepConfig

ENCODE_START_S = 60.0
"""Of a cluster's machines and Ray (`docs/encode-at-scale.md`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """A whole command on some machines."""

    name: str
    hours: float
    group: MachineGroup
    targets: int | None = None
    """Trained on, all trials together; None for an encode."""
    frames: int | None = None
    """Encoded; None for a sweep."""
    estimates: tuple[str, ...] = ()
    reason: str = ""
    is_feasible: bool = True
    """Whether deadline and budget are kept."""

    @property
    def usd(self) -> float:
        """Of all machines for that time."""
        return self.hours * self.group.usd_per_hour

    def plain(self, limits: Limits) -> dict[str, Any]:
        """As JSON data."""
        return {
            "name": self.name,
            "hours": self.hours,
            "usd": self.usd,
            "targets": self.targets,
            "frames": self.frames,
            "estimate": bool(self.estimates),
            "estimate_reasons": list(self.estimates),
            "machines": self.group.text,
            "usd_per_hour": self.group.usd_per_hour,
            "ends": (limits.now + timedelta(hours=self.hours)).isoformat(timespec="minutes"),
            "feasible": self.is_feasible,
            "reason": self.reason,
        }


def within(costs: Sequence[Cost], limits: Limits) -> tuple[Cost, ...]:
    """The costs, each with whether it keeps the limits."""
    return tuple(
        replace(
            one,
            is_feasible=one.hours <= (limits.hours or math.inf) and one.usd <= (limits.usd or math.inf),
        )
        for one in costs
    )


def expected_share(asha: AshaConfig, total: float) -> float:
    """Share of a trial's targets that it trains on average under ASHA: one in `reduction_factor` goes on at each rung.

    An upper share is 1: trials within the noise of the best are not stopped.
    """
    if not asha.enabled:
        return 1.0
    ends = [*asha.rungs_until(total), total]
    begins = [0.0, *ends[:-1]]
    trained = sum(
        (end - begin) * asha.reduction_factor**-number
        for number, (begin, end) in enumerate(zip(begins, ends, strict=True))
    )
    return trained / total


def sweep_costs(
    sweep: SweepConfig, profiles: Sequence[MeasuredProfile], group: MachineGroup, known: Catalogue
) -> list[Cost]:
    """A sweep with ASHA's expected share of its trials, and without stopping: the upper bound.

    Trials run side by side on the GPUs; on CPUs they share the cores, so that each takes its part of their time.

    Raises:
        UserError: the sweep has a mistake, or no profile fits a trial.
    """
    from tune.search.trials import trials_of

    trials = trials_of(sweep)
    num_left_out = (sweep.num_samples or 0) - len(trials) if sweep.search == "optuna" else 0
    workers = max(1, int(sweep.gpus_per_trial))
    at_once = max(1.0, group.num_gpus / max(1, sweep.gpus_per_trial)) if group.num_gpus else 1.0
    if group.num_gpus:
        at_once = min(at_once, sweep.max_concurrent, len(trials))
    expected = upper = longest = 0.0
    expected_targets = upper_targets = 0.0
    reasons: dict[str, None] = {}
    for trial in trials:
        found = estimate(workload_of(trial.config, trial.name), profiles, group, known, workers)
        scale = found.workload.network.flops_per_target if sweep.asha.time_attr == "flops" else 1.0
        share = expected_share(sweep.asha, scale * found.workload.targets)
        fixed = found.seconds["start"] + found.seconds["warm_up"] + found.seconds["end"]
        total = 3_600 * found.hours
        upper, expected = upper + total, expected + fixed + share * (total - fixed)
        longest = max(longest, total)
        upper_targets += found.workload.targets
        expected_targets += share * found.workload.targets
        reasons |= dict.fromkeys(found.estimates)
    factor = max(1.0, (len(trials) + num_left_out) / len(trials))
    if num_left_out > 0:
        reasons[f"the other {num_left_out} settings are suggested later; taken for as long as the first"] = None
    stopping = (
        f"ASHA: about {expected / upper:.0%} of the time without stopping" if sweep.asha.enabled else "no stopping"
    )
    lines = [
        ("expected", expected, expected_targets, stopping),
        ("upper bound", upper, upper_targets, "no trial stops"),
    ]
    return [
        Cost(
            name=name,
            hours=max(factor * seconds / at_once, longest if name == "upper bound" else 0.0) / 3_600,
            group=group,
            targets=round(factor * targets),
            estimates=tuple(reasons),
            reason=f"{len(trials) + max(0, num_left_out)} trials, {at_once:g} at once; {text}",
        )
        for name, seconds, targets, text in lines
    ]


def encode_cost(
    games: int, frames_per_core_s: float, group: MachineGroup, frames_per_game: float = FRAMES_PER_GAME
) -> Cost:
    """An encode at a rate that `benchmarks/encode.py` or an earlier encode has measured.

    Args:
        frames_per_core_s: frames per second of one core.
    Raises:
        UserError: numbers that are not positive, or machines whose cores are not known.
    """
    if games < 1 or not 0 < frames_per_core_s < math.inf or not 0 < frames_per_game < math.inf:
        raise UserError(
            f"games={games}, frames_per_core_s={frames_per_core_s:g}, frames_per_game={frames_per_game:g}: expected "
            "positive numbers"
        )
    if group.machine.cores is None:
        raise UserError(f"the number of cores of {group.machine.name} is not known; name other --machines")
    cores, frames = group.number * group.machine.cores, round(games * frames_per_game)
    return Cost(
        name="expected",
        hours=(frames / (cores * frames_per_core_s) + ENCODE_START_S) / 3_600,
        group=group,
        frames=frames,
        estimates=(f"{cores} cores at {frames_per_core_s:,.0f} frames/s each, as if none waits for archives",),
        reason=f"{games:,} games of {frames_per_game:,.0f} frames",
    )
