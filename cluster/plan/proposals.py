"""Three proposals for a night: conservative, moderate and bold, within a deadline and a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cluster.plan.estimate import Estimate
from cluster.plan.expectation import Expectation
from cluster.plan.machines import MachineGroup
from cluster.plan.workload import Workload, with_targets
from datasets.runtime.errors import UserError

LIMIT_SHARES = {"conservative": 0.5, "moderate": 0.8, "bold": 0.97}
"""Share of the deadline and of the budget that a proposal may use: half leaves room to run it a second time, 0.8 for
an estimate that is a quarter too low."""
TARGET_FACTORS = {"conservative": 0.5, "moderate": 1.0, "bold": 2.0}
"""Of what was asked for, where the limits allow it."""
MANY_EPOCHS = 10.0
"""Beyond so many passes over the games a run was never measured (`docs/results.md`)."""
SLOW_INPUT = 0.05
"""Share of the time waiting for input that is named as a risk."""
TIGHT_MEMORY = 0.9
SMALL_BATCH = 0.5
"""Of the measured batch: below, the estimate is too fast."""

Estimator = Callable[[Workload], list[Estimate]]
"""A run on each group of machines that was asked for."""
Expect = Callable[[Workload], Expectation]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What a night may take."""

    hours: float | None = None
    """Until the deadline."""
    usd: float | None = None
    now: datetime
    deadline: datetime | None = None

    def __post_init__(self) -> None:
        for name, value in (("hours", self.hours), ("budget", self.usd)):
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{name} {value}: expected a positive number")

    def allow(self, found: Estimate, share: float = 1.0) -> bool:
        """Whether a run stays within a share of both."""
        return found.hours <= share * (self.hours or math.inf) and found.usd <= share * (self.usd or math.inf)


@dataclass(frozen=True, kw_only=True, slots=True)
class Proposal:
    """One way to spend the night."""

    name: str
    estimate: Estimate
    is_feasible: bool
    """Whether it keeps deadline and budget, and fits into memory."""
    reason: str
    """How it was chosen, or why it is not feasible."""
    risks: tuple[str, ...] = ()
    expected: Expectation = field(default_factory=Expectation)

    @property
    def hours(self) -> float:
        """From the command to its end."""
        return self.estimate.hours

    @property
    def usd(self) -> float:
        """Of all machines for that time."""
        return self.estimate.usd

    @property
    def targets(self) -> int:
        """To train on."""
        return self.estimate.workload.targets

    @property
    def group(self) -> MachineGroup:
        """The machines."""
        return self.estimate.group

    @property
    def estimates(self) -> tuple[str, ...]:
        """Why figures were estimated and not measured."""
        return self.estimate.estimates

    def plain(self, limits: Limits) -> dict[str, Any]:
        """As JSON data."""
        ends = limits.now + timedelta(hours=self.estimate.hours)
        return {
            "name": self.name,
            **self.estimate.plain(),
            "ends": ends.isoformat(timespec="minutes"),
            "feasible": self.is_feasible,
            "reason": self.reason,
            "risks": list(self.risks),
            **self.expected.plain(),
        }


def propose(
    asked: Workload, larger: Workload | None, estimates_of: Estimator, limits: Limits, expect: Expect
) -> list[Proposal]:
    """The three proposals.

    Conservative: half of the targets that were asked for. Moderate: all of them. Bold: twice as many with the next
    larger network, if at least as many targets as asked for fit; otherwise with the same network. Each is cut to what
    fits into its share of deadline and budget, on the cheapest machines that are fast enough.

    Args:
        larger: the run with the next larger network, if there is one.
    """
    proposals = []
    for name, factor in TARGET_FACTORS.items():
        workloads = [larger, asked] if name == "bold" and larger is not None else [asked]
        share = LIMIT_SHARES[name]
        found = [_best(one, round(factor * one.targets), estimates_of, limits, share) for one in workloads]
        enough = [one for one in found if limits.allow(one, share) and one.workload.targets >= asked.targets]
        chosen = enough[0] if enough else found[-1]
        proposals.append(_proposal(name, chosen, round(factor * asked.targets), limits, expect(chosen.workload)))
    return proposals


def _best(workload: Workload, targets: int, estimates_of: Estimator, limits: Limits, share: float) -> Estimate:
    """The cheapest machines on which all targets fit into the limits; otherwise those that take most of them."""
    found = estimates_of(with_targets(workload, targets))
    fitting = [one for one in found if limits.allow(one, share) and one.memory.problem is None]
    if fitting:
        return min(fitting, key=lambda one: (one.usd, one.hours))
    cut = []
    for number in range(len(found)):

        def on_machine(count: int, number: int = number) -> Estimate:
            return estimates_of(with_targets(workload, count))[number]

        cut.append(_cut(on_machine, targets, limits, share))
    return max(cut, key=lambda one: (one.memory.problem is None, limits.allow(one, share), one.workload.targets))


def _cut(on_machine: Callable[[int], Estimate], targets: int, limits: Limits, share: float) -> Estimate:
    """With as many targets as fit into the limits, to a thousandth; with all if not even a few do."""
    low, high = 1, targets
    if not limits.allow(on_machine(low), share) or limits.allow(on_machine(high), share):
        return on_machine(targets)
    while high - low > max(1, low // 1_000):
        middle = (low + high) // 2
        low, high = (middle, high) if limits.allow(on_machine(middle), share) else (low, middle)
    return on_machine(low)


def _proposal(name: str, found: Estimate, wanted: int, limits: Limits, expected: Expectation) -> Proposal:
    problem = found.memory.problem
    if problem is None and not limits.allow(found):
        over = []
        if limits.hours is not None and found.hours > limits.hours:
            over.append(f"{found.hours:.1f} h, {limits.hours:.1f} h until the deadline")
        if limits.usd is not None and found.usd > limits.usd:
            over.append(f"{found.usd:,.2f} USD, budget {limits.usd:,.2f} USD")
        problem = "; ".join(over)
    if problem is not None:
        reason = problem
    elif found.workload.targets < 0.999 * wanted:
        reason = f"cut to what fits into {LIMIT_SHARES[name]:.0%} of the limits"
    else:
        reason = f"{TARGET_FACTORS[name]:g} x the targets that were asked for"
    return Proposal(
        name=name, estimate=found, is_feasible=problem is None, reason=reason, risks=tuple(_risks(found, limits)),
        expected=expected,
    )  # fmt: skip


def _risks(found: Estimate, limits: Limits) -> Sequence[str]:
    """What may go wrong, most expensive first."""
    risks = []
    if found.group.is_spot:
        risks.append("spot machines may be taken away: the run saves and waits for others, and may miss the deadline")
    if found.is_estimate:
        risks.append("speed or memory was not measured for exactly this run: see the estimates below")
    base = found.speed.base.profile
    if found.speed.batch_size and base.batch_size:
        local, measured = found.speed.batch_size / found.speed.workers, base.batch_size / base.workers
        if local < SMALL_BATCH * measured:
            risks.append(
                f"batches of {local:g} examples for each worker, measured with {measured:g}: small batches are slower "
                "than estimated; raise optimizer.batch_size, or measure with this one"
            )
    if limits.hours is not None and found.hours > 0.8 * limits.hours:
        risks.append("little time is left for a restart before the deadline")
    for needed, limit, name in (
        (found.memory.gpu_gb, found.memory.gpu_limit_gb, "a GPU's"),
        (found.memory.host_gb, found.memory.host_limit_gb, "a machine's"),
    ):
        if needed is not None and limit is not None and TIGHT_MEMORY * limit < needed <= limit:
            risks.append(f"memory is tight: {needed:.1f} of {name} {limit:.1f} GB")
    if found.speed.base.wait_share > SLOW_INPUT:
        risks.append(f"the profile waited for input {found.speed.base.wait_share:.0%} of its time; faster devices more")
    epochs = found.workload.epochs
    if epochs is not None and epochs > MANY_EPOCHS:
        risks.append(f"{epochs:.0f} passes over the games: it may overfit")
    disk = found.group.machine.disk_gb
    if disk is not None and found.disk_gb > TIGHT_MEMORY * disk:
        risks.append(f"{found.disk_gb:.0f} GB of files on a disk of {disk:.0f} GB")
    return risks
