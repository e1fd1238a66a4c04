"""The estimate of a run card: one line and its figures, or why there is none."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.plan.command.text import line_of
from cluster.plan.other_costs import sweep_costs, within
from cluster.plan.plan import Plan, groups_of, plan_training
from cluster.plan.profile import RETRY_S, MeasuredProfile, read_profile
from cluster.plan.proposals import Limits
from cluster.storage import PROFILES, storage_location
from datasets.runtime.errors import UserError
from datasets.runtime.storage.bucket_folder import BucketFolder
from datasets.runtime.storage.folder import Folder, open_folder
from datasets.runtime.uris import child_location, is_remote
from tune.config import SweepConfig
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import load_yaml
from wm.runs.run import PROFILE_FILE

PROFILES_FOLDER = Path(PROFILES)
"""Of the working directory: where `wm profile` writes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CardEstimate:
    """What a job is expected to take."""

    line: str
    """For people: the estimate, or why there is none."""
    content: dict[str, Any] | None
    """For the card: hours, usd, targets, machines, estimate, estimate_reasons, line; None if nothing is known."""


def known_profiles(out: Path | str | None = None) -> list[str]:
    """Locations of the profiles in `profiles/` and in WM_STORAGE/profiles, and of that of the run, if it has one.

    Places that cannot be reached from here count as empty.
    """
    storage = storage_location()
    places = [str(PROFILES_FOLDER), *([] if storage is None else [child_location(storage, PROFILES)])]
    found = [child_location(place, name) for place in places for name in _profiles_in(place)]
    return found if out is None or not _is_there(str(out)) else [*found, child_location(str(out), PROFILE_FILE)]


def _profiles_in(place: str) -> list[str]:
    """Names of the profiles in a folder, on a disk or in a bucket."""
    with contextlib.suppress(OSError, UserError):
        return [info.path for info in _open(place).list() if "/" not in info.path and info.path.endswith(".json")]
    return []


def _is_there(run: str) -> bool:
    """Whether a run has a profile."""
    with contextlib.suppress(OSError, UserError):
        return _open(run).exists(PROFILE_FILE)
    return False


def _open(place: str) -> Folder:
    return BucketFolder(place, retry_s=RETRY_S) if is_remote(place) else open_folder(place)


def estimate_for_card(
    verb: str,
    config: Path | None,
    overrides: Sequence[str] = (),
    *,
    profiles: Sequence[Path | str] | None = None,
    machines: Sequence[str] = (),
    prices: Sequence[str] = (),
    budget_usd: float | None = None,
) -> CardEstimate:
    """Estimate a job; never an error of the estimate's own, since a job can be submitted without one.

    Args:
        verb: train or sweep; others have no estimate.
        config: the YAML of the run or the sweep, which has been checked; None for a verb without one.
        overrides: `--dotted.name value` words.
        profiles: None: those of `known_profiles`.
        machines: such as `2xp4d.24xlarge`; none is the machine of the profile.
        prices: such as `p4d.24xlarge=12.5`.
    """
    try:
        plan = _plan(verb, config, overrides, profiles, machines, prices, budget_usd)
    except UserError as error:
        return CardEstimate(line=f"no estimate: {error}", content=None)
    line, main = line_of(plan), plan.main.plain(plan.limits)
    kept = ("hours", "usd", "targets", "machines", "usd_per_hour", "estimate", "estimate_reasons")
    return CardEstimate(line=line, content={name: main[name] for name in kept} | {"line": line})


def _plan(
    verb: str,
    config: Path | None,
    overrides: Sequence[str],
    profiles: Sequence[Path | str] | None,
    machines: Sequence[str],
    prices: Sequence[str],
    budget_usd: float | None,
) -> Plan:
    if config is None or verb not in ("train", "sweep"):
        raise UserError(f"wm plan knows no profile for wm {verb}")
    limits = Limits(now=datetime.now(UTC), usd=budget_usd)
    if verb == "train":
        run = load_yaml(config, RunConfig, overrides)
        measured = _readable(known_profiles(run.out) if profiles is None else profiles)
        groups, known = groups_of(machines, prices, measured)
        return plan_training(run, config.stem, measured, groups, known, limits)
    from tune.cli import without_retry

    sweep = load_yaml(config, SweepConfig, without_retry(overrides))
    measured = _readable(known_profiles() if profiles is None else profiles)
    groups, known = groups_of(machines, prices, measured)
    costs = sweep_costs(sweep, measured, groups[0], known)
    return Plan(verb=verb, title=config.stem, limits=limits, proposals=within(costs, limits), profiles=tuple(measured))


def _readable(paths: Sequence[Path | str]) -> list[MeasuredProfile]:
    """Those of the profiles that can be read.

    Raises:
        UserError: none can; with the reason of the first.
    """
    found, problems = [], []
    for path in paths:
        try:
            found.append(read_profile(path))
        except UserError as error:
            problems.append(str(error))
    if not found:
        raise UserError(
            problems[0]
            if problems
            else "no throughput profile is known; `wm profile CONFIG` on such a machine makes one"
        )
    return found
