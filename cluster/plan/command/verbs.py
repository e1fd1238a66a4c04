"""The verbs `wm plan` and `wm profile`."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from pathlib import Path

from pydantic import PositiveInt
from tyro.conf import OmitArgPrefixes, Positional

from cluster.plan.card_estimate import PROFILES_FOLDER, known_profiles
from cluster.plan.command.options import PlanOptions, Positive
from cluster.plan.command.text import busy_text
from cluster.plan.other_costs import encode_cost, sweep_costs, within
from cluster.plan.plan import Plan, groups_of, plan_training
from cluster.plan.profile import MeasuredProfile, read_profile, read_profiles
from cluster.plan.workload import FRAMES_PER_GAME
from datasets.runtime.durable_files import write_result
from datasets.runtime.errors import UserError
from datasets.runtime.process.command import parse_and_run
from tune.cli import without_retry
from tune.config import SweepConfig
from tune.report.table import flops_text
from wm.config.command_line import config_of
from wm.config.run_config import RunConfig
from wm.config.shipped import config_file
from wm.config.typed_yaml import checked, load_yaml

PLANNED = ("train", "sweep", "encode")


def plan_command(args: Sequence[str]) -> int:
    """Run `wm plan [train|sweep|encode] ...`; arguments after `--` override the config."""
    words = list(args)
    verb = words.pop(0) if words and words[0] in PLANNED else "train"
    at = words.index("--") if "--" in words else len(words)
    own, overrides = words[:at], words[at + 1 :]
    return {"train": _train, "sweep": _sweep, "encode": _encode}[verb](own, overrides)


def _train(own: Sequence[str], overrides: Sequence[str]) -> int:
    def command(
        config: Positional[str],
        profile: tuple[str, ...] = (),
        machines: tuple[str, ...] = (),
        games: PositiveInt | None = None,
        epochs: tuple[Positive, ...] = (),
        frames_per_game: Positive = FRAMES_PER_GAME,
        sizes: tuple[str, ...] = (),
        workers: PositiveInt | None = None,
        sweep: str | None = None,
        options: OmitArgPrefixes[PlanOptions] = PlanOptions(),  # noqa: B008
    ) -> None:
        """Plan a training run (or `wm plan sweep CONFIG`, `wm plan encode`): hours, dollars, memory, what limits, and
        three proposals. Arguments after `--` override the config, as for `wm train`.

        Args:
            config: the YAML of a run, or the name of a shipped config.
            profile: throughput profiles of `wm profile`, or runs, as paths or URIs (default: profiles/*.json, those in
                WM_STORAGE/profiles, and the run's own).
            machines: such as p4d.24xlarge, 2xp4d.24xlarge, g6.xlarge:spot, or local: the machine of the profile
                (default).
            games: number of training games; with --epochs, the targets are those of the games.
            epochs: passes over the games; the first is what is asked for.
            frames_per_game: on average.
            sizes: small, medium, large, xl (default: that of the config); the first is what is asked for.
            workers: data-parallel workers (default: one for each GPU).
            sweep: folder or URI of a sweep over sizes and durations, for what its scaling fit expects.
        """
        run = load_yaml(config_file(config), RunConfig, overrides)
        measured = read_profiles(profile or known_profiles(run.out))
        groups, known = groups_of(machines, options.price, measured)
        found = plan_training(
            run,
            config,
            measured,
            groups,
            known,
            options.limits(),
            games=games,
            epochs=epochs,
            frames_per_game=frames_per_game,
            sizes=sizes,
            workers=workers,
            sweep=sweep,
        )
        options.show(found)

    return parse_and_run(checked(command), "plan", own)


def _sweep(own: Sequence[str], overrides: Sequence[str]) -> int:
    def command(
        config: Positional[str],
        profile: tuple[str, ...] = (),
        machines: tuple[str, ...] = (),
        options: OmitArgPrefixes[PlanOptions] = PlanOptions(),  # noqa: B008
    ) -> None:
        """Plan a sweep: all trials to their ends, and ASHA's expected share of that.

        Args:
            config: the YAML of a sweep, or the name of a shipped one.
            profile: throughput profiles of `wm profile`, or runs, as paths or URIs (default: profiles/*.json and those
                in WM_STORAGE/profiles); several sizes say how speed depends on size.
            machines: of one type, such as p4d.24xlarge; the first is taken (default: the machine of the profile).
        """
        definition = load_yaml(config_file(config, "sweep"), SweepConfig, without_retry(overrides))
        measured = read_profiles(profile or known_profiles())
        groups, known = groups_of(machines, options.price, measured)
        costs = [cost for group in groups for cost in sweep_costs(definition, measured, group, known)]
        limits = options.limits()
        found = Plan(
            verb="sweep",
            title=config,
            limits=limits,
            proposals=within(costs, limits),
            profiles=tuple(measured),
        )
        options.show(found)

    return parse_and_run(checked(command), "plan sweep", own)


def _encode(own: Sequence[str], overrides: Sequence[str]) -> int:
    if overrides:
        raise UserError(f"wm plan encode takes no overrides; found {' '.join(overrides)}")

    def command(
        games: PositiveInt,
        frames_per_s: Positive,
        machines: tuple[str, ...] = ("m7i.4xlarge",),
        frames_per_game: Positive = FRAMES_PER_GAME,
        options: OmitArgPrefixes[PlanOptions] = PlanOptions(),  # noqa: B008
    ) -> None:
        """Plan an encode.

        Args:
            games: to encode.
            frames_per_s: of one core, as the last line of an encode or `benchmarks/encode.py` tells
                (`docs/encode-at-scale.md`: 227,000 in 2026-11).
            machines: such as m7i.4xlarge or 10xm7i.4xlarge.
            frames_per_game: on average.
        """
        groups, _ = groups_of(machines, options.price, [])
        limits = options.limits()
        costs = [encode_cost(games, frames_per_s, group, frames_per_game) for group in groups]
        found = Plan(verb="encode", title=f"{games:,} games", limits=limits, proposals=within(costs, limits))
        options.show(found)

    return parse_and_run(checked(command), "plan encode", own)


def profile_command(args: Sequence[str]) -> int:
    """Run `wm profile CONFIG [--seconds N] [--profile FILE] [overrides]`.

    Raises:
        UserError: a mistake in the config or an option, or the run cannot start.
    """
    words, own = _own_options(args, ("--seconds", "--profile"))
    if "--help" in words or "-h" in words:
        print(
            "wm profile CONFIG [--seconds 25] [--profile FILE] [overrides]\n\nMeasures a config on this machine in "
            "about a minute (with compilation two) and writes FILE (default: profiles/CONFIG-NxDEVICE.json for N "
            "workers), which `wm plan` reads. With train_corpus by a short run of `wm train`, otherwise by the "
            "training step of one worker on synthetic frames. Overrides are those of `wm train`.\n"
        )
    config = config_of(words, RunConfig, "profile")
    from cluster.plan.measure import SECONDS, has_corpus, measure

    seconds = _positive("--seconds", own.get("--seconds", str(SECONDS)))
    if not has_corpus(config):
        print(f"no corpus at {config.train_corpus}: measuring the training step on synthetic frames", flush=True)
    content = measure(config, seconds)
    device = re.sub(r"[^\w.]+", "-", str(content.get("device_name") or platform.machine())).strip("-")
    path = Path(own.get("--profile") or PROFILES_FOLDER / f"{Path(words[0]).stem}-{content['workers']}x{device}.json")
    write_result(path, content)
    print(profile_text(read_profile(path)))
    return 0


def profile_text(measured: MeasuredProfile) -> str:
    """A profile in a few lines."""
    profile = measured.profile
    parts = [
        f"{measured.network.size_text} parameters, {measured.targets_per_s:,.0f} targets/s, "
        f"{flops_text(measured.flops_per_s)}/s on {profile.workers} x {profile.device_name or profile.device}"
    ]
    if profile.start_s is not None:
        parts.append(
            f"start {profile.start_s:.0f} s, warm-up {profile.warm_up_s or 0:.0f} s, end {profile.end_s or 0:.0f} s"
        )
    if (frame_s := measured.evaluation_s_per_frame) is not None:
        parts.append(f"evaluation {1 / frame_s:,.0f} frames/s")
    memory = f"peak {profile.peak_gb or 0:.1f} GB"
    memory += "" if profile.device_peak_gb is None else f" and {profile.device_peak_gb:.1f} GB of the GPU"
    parts.append(
        f"checkpoint {(profile.checkpoint_bytes or 0) / 1e6:.0f} MB, training waits {measured.checkpoint_s:.2f} s; "
        f"{memory}; waits for input {measured.wait_share:.0%}"
    )
    busy = busy_text(profile.steady_s, profile.steady_cpu_s, measured.cores) if profile.device == "cpu" else None
    if busy is not None:
        parts.append(f"{busy}; measure again when it is quiet")
    return "\n".join(parts)


def _own_options(args: Sequence[str], names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The other words, and the values of some options."""
    rest: list[str] = []
    own: dict[str, str] = {}
    words = iter(args)
    for word in words:
        name, is_joined, value = word.partition("=")
        if name not in names:
            rest.append(word)
            continue
        own[name] = value if is_joined else next(words, "")
        if not own[name]:
            raise UserError(f"{name}: expected a value")
    return rest, own


def _positive(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"{name}: found {text!r}, expected a positive number of seconds")
    return value
