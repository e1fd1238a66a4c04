"""The plan of a training run, a sweep or an encode: what `wm plan` shows and `wm submit` puts on the run card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.plan.estimate import Estimate, estimate
from cluster.plan.expectation import expectation_of
from cluster.plan.machines import LOCAL, Catalogue, Machine, MachineGroup, catalogue, parse_group, parse_prices
from cluster.plan.other_costs import Cost
from cluster.plan.profile import MeasuredProfile
from cluster.plan.proposals import Limits, Proposal, propose
from cluster.plan.workload import FRAMES_PER_GAME, Workload, workload_of
from datasets.runtime.errors import UserError
from tune.config import SIZES
from wm.config.run_config import RunConfig

PLAN_VERSION = 1
"""1: first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a command is expected to take."""

    verb: str
    title: str
    """What was asked for, in words."""
    limits: Limits
    proposals: tuple[Proposal | Cost, ...]
    options: tuple[Estimate, ...] = ()
    """Every combination of size, epochs and machines that was asked for."""
    profiles: tuple[MeasuredProfile, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def main(self) -> Proposal | Cost:
        """What was asked for: the moderate proposal."""
        return next((one for one in self.proposals if one.name in ("moderate", "expected")), self.proposals[0])

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        limits = self.limits
        return {
            "plan_version": PLAN_VERSION,
            "verb": self.verb,
            "title": self.title,
            "planned_at": limits.now.isoformat(timespec="seconds"),
            "deadline": None if limits.deadline is None else limits.deadline.isoformat(timespec="minutes"),
            "hours_until_deadline": limits.hours,
            "budget_usd": limits.usd,
            "proposals": [one.plain(limits) for one in self.proposals],
            "options": [one.plain() for one in self.options],
            "profiles": [
                {
                    "file": one.source,
                    "device": one.profile.device_name or one.profile.device,
                    "workers": one.profile.workers,
                    "targets_per_s": one.targets_per_s,
                    "parameters": one.network.num_parameters,
                    "flops_per_s": one.flops_per_s,
                }
                for one in self.profiles
            ],
            "notes": list(self.notes),
        }


def groups_of(
    texts: Sequence[str], price_texts: Sequence[str], profiles: Sequence[MeasuredProfile]
) -> tuple[list[MachineGroup], Catalogue]:
    """The machines of a command line, and everything that is known about machines.

    Args:
        texts: such as `2xp4d.24xlarge`; none is the machine of the first profile, as it was measured.
        price_texts: such as `p4d.24xlarge=12.5`.
        profiles: the first one describes the machine `local`.
    Raises:
        UserError: an unknown machine, or a price that is no positive number.
    """
    listed = catalogue()
    machines = listed.machines | ({LOCAL: local_machine(profiles[0], listed)} if profiles else {})
    known = replace(listed, machines=machines)
    prices = parse_prices(price_texts, machines)
    return [parse_group(text, machines, prices) for text in texts or ([LOCAL] if profiles else ["m7i.4xlarge"])], known


def local_machine(measured: MeasuredProfile, known: Catalogue) -> Machine:
    """The machine that a profile was measured on; your own, so it costs nothing."""
    profile = measured.profile
    is_gpu = profile.device == "cuda"
    return Machine(
        name=LOCAL,
        gpus=profile.workers if is_gpu else 0,
        gpu=known.kind_of(profile.device_name) if is_gpu else None,
        cores=None if is_gpu else measured.cores,
        usd_per_hour=0.0,
        source="your own machine, not priced; --price local=USD",
        checked_on=min(one.checked_on for one in known.machines.values()),
    )


def plan_training(
    config: RunConfig,
    name: str,
    profiles: Sequence[MeasuredProfile],
    groups: Sequence[MachineGroup],
    known: Catalogue,
    limits: Limits,
    *,
    games: int | None = None,
    epochs: Sequence[float] = (),
    frames_per_game: float = FRAMES_PER_GAME,
    sizes: Sequence[str] = (),
    workers: int | None = None,
    sweep: Path | str | None = None,
) -> Plan:
    """Plan a training run.

    Args:
        name: of the config.
        profiles: at least one.
        games: to train on; with `epochs` they make the number of targets, instead of the config's.
        epochs: the first is what is asked for.
        sizes: of SIZES; the first is what is asked for. None is the config's own.
        sweep: folder or URI of a sweep whose scaling fit is asked for expectations.
    Raises:
        UserError: an unknown size, numbers that are not positive, no profile that fits, or a sweep without results.
    """
    facts: dict[str, Any] = {"games": games, "frames_per_game": frames_per_game}
    by_size = {size: with_size(config, size) for size in sizes} or {_own_size(config, name): config}
    workloads = [
        workload_of(one, size, epochs=passes, **facts)
        for size, one in by_size.items()
        for passes in (epochs or (None,))
    ]
    asked = workloads[0]
    larger = _larger(config, asked, {"epochs": epochs[0] if epochs else None, **facts})

    def estimates_of(workload: Workload) -> list[Estimate]:
        return [estimate(workload, profiles, group, known, workers) for group in groups]

    expect = expectation_of(sweep)
    options = tuple(found for workload in workloads for found in estimates_of(workload))
    of_games = "" if games is None else f", {games:,} games of {frames_per_game:,.0f} frames"
    passes = "" if asked.epochs is None else f", {asked.epochs:.2g} epoch{'' if asked.epochs == 1 else 's'}"
    return Plan(
        verb="train",
        title=f"{name}: {asked.network.size_text} parameters, {asked.targets:,} targets{of_games}{passes}",
        limits=limits,
        proposals=tuple(propose(asked, larger, estimates_of, limits, expect)),
        options=options,
        profiles=tuple(profiles),
        notes=("the time until machines have started is not in the hours",),
    )


def with_size(config: RunConfig, size: str) -> RunConfig:
    """A config with the width and layers of a size.

    Raises:
        UserError: no such size, or the network is no Mamba-2.
    """
    if size not in SIZES:
        raise UserError(f"--sizes {size}: expected some of {', '.join(SIZES)}")
    if config.model.kind != "mamba2":
        raise UserError(f"--sizes {size}: sizes are of model.kind mamba2, the config has {config.model.kind}")
    fields = {path.removeprefix("model."): value for path, value in SIZES[size].items()}
    return replace(config, model=replace(config.model, **fields))  # pyrefly: ignore[bad-argument-type]


def _own_size(config: RunConfig, name: str) -> str:
    """The name of the config's size where it has one, otherwise the config's name."""
    own = {"model.d_model": config.model.d_model, "model.num_layers": config.model.num_layers}
    named = next((size for size, fields in SIZES.items() if fields == own), None)
    return named if named is not None and config.model.kind == "mamba2" else Path(name).stem


def _larger(config: RunConfig, asked: Workload, facts: dict[str, Any]) -> Workload | None:
    """The same run with the next larger size."""
    if config.model.kind != "mamba2":
        return None
    found = [workload_of(with_size(config, size), size, **facts) for size in SIZES]
    larger = [one for one in found if one.network.num_parameters > 1.1 * asked.network.num_parameters]
    return min(larger, key=lambda one: one.network.num_parameters, default=None)
