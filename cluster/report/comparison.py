"""A run judged beside the run before, paired by game, from the sums that both keep of their evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster.report.stored_run import StoredRun, open_stored_run, runs_beside
from datasets.runtime.errors import UserError
from tune.analysis.paired import CONFIDENCE, Difference, paired_difference
from tune.analysis.scores import score_and_influence
from tune.analysis.variance import half_width, variance_parts
from wm.config.run_config import Context, MetricName
from wm.evaluation.game_sums import GameSums
from wm.evaluation.metrics import METRICS, SIGN, context_order, context_text
from wm.report.charts import Estimate
from wm.report.morning import ComparedMetric, Comparison, Tone
from wm.report.results import COHERENCE, DREAM_ACTIONS, MetricInfo
from wm.report.results import METRICS as METRIC_INFOS

MAX_CANDIDATES = 20
"""Runs beside this one that are tried, the newest first."""
SAME_DREAMS = ("num_starts", "num_frames", "num_context", "rule", "seed")
"""What dreams must have in common to be compared."""
Sums = Mapping[Context, GameSums]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """An evaluation of a run."""

    targets_seen: int
    what: str
    """The evaluation in words."""
    sums: Sums
    dreams: dict[str, Any] | None
    """The coherence of dreams, if it was measured."""


def evaluations_of(run: StoredRun) -> list[Judged]:
    """The evaluations by which a run is judged, the most telling first: the final one, and the best validation."""
    meta, found = run.meta, []
    if meta is None:
        return []
    wanted = {meta["targets_seen"]: "the final evaluation"} if run.is_finished else {}
    best = (meta.get("best") or {}).get("targets_seen")
    if best is not None:
        wanted.setdefault(best, f"the best validation, at {best:,} targets")
    wanted.setdefault(meta["targets_seen"], f"the last validation, at {meta['targets_seen']:,} targets")
    for targets_seen, what in wanted.items():
        if (sums := run.run.evaluations.read(targets_seen)) is not None:
            dreams = run.run.evaluations.read_dreams(targets_seen)
            found.append(Judged(targets_seen=targets_seen, what=what, sums=sums, dreams=dreams))
    return found


def compare(run: StoredRun, before: StoredRun) -> Comparison | None:
    """This run beside another one, by the first evaluations of both on the same frames; None if there are none."""
    for mine in evaluations_of(run):
        for other in evaluations_of(before):
            rows, num_games = _rows(mine.sums, other.sums)
            if rows:
                rows += _dream_rows(mine.dreams, other.dreams)
                what = mine.what if mine.what == other.what else f"{mine.what}, with {other.what} there"
                return Comparison(before=before.run.name, what=what, num_games=num_games, rows=tuple(rows))
    return None


def run_before(run: StoredRun) -> tuple[StoredRun | None, Comparison | None]:
    """The newest finished run in the same parent folder that was evaluated on the same frames, if there is one."""
    found = []
    for location in runs_beside(run):
        try:
            found.append(open_stored_run(location))
        except (UserError, OSError):  # no run, or a damaged one
            continue
    for candidate in sorted(found, key=lambda one: one.last_command, reverse=True)[:MAX_CANDIDATES]:
        if candidate.is_finished and (comparison := compare(run, candidate)) is not None:
            return candidate, comparison
    return None, None


def estimate_of(sums: GameSums, metric: MetricName) -> Estimate:
    """A metric with its 95 % interval over games; empty where there is no value."""
    try:
        score, influence = score_and_influence(sums, np.arange(len(sums)), metric)
    except UserError:
        return Estimate()
    value = SIGN[metric] * score
    if len(sums) < 2:
        return Estimate(value=value)
    parts = variance_parts(np.array([[score]]), influence[None, None], len(sums), 1)
    width = float(half_width(1 - CONFIDENCE, parts, len(sums))[0])
    top = 1.0 if metric.endswith("_acc") else np.inf
    return Estimate(value=value, low=max(0.0, value - width), high=min(top, value + width))


def improvement(earlier: GameSums, later: GameSums, metric: MetricName) -> Difference | None:
    """How much better the later of two evaluations is; None if they are not of the same frames."""
    try:
        return paired_difference(later, earlier, metric)
    except UserError:
        return None


def tone_of(difference: Difference) -> Tone:
    """Whether the interval excludes that there is no difference."""
    if difference.low > 0:
        return "good"
    return "bad" if difference.high < 0 else "unclear"


def _rows(mine: Sums, other: Sums) -> tuple[list[ComparedMetric], int]:
    rows, num_games = [], 0
    for context in sorted(mine.keys() & other.keys(), key=context_order):
        for metric in METRICS:
            difference = improvement(other[context], mine[context], metric)
            if difference is None:
                continue
            num_games = difference.num_games
            info = next(info for info in METRIC_INFOS if info.key == metric)
            rows.append(_row(info, context_text(context), mine[context], other[context], metric, difference))
    return rows, num_games


def _row(
    info: MetricInfo, text: str, mine: GameSums, other: GameSums, metric: MetricName, difference: Difference
) -> ComparedMetric:
    return ComparedMetric(
        metric=info,
        context_text=text,
        mine=estimate_of(mine, metric),
        before=estimate_of(other, metric),
        difference=Estimate(value=difference.difference, low=difference.low, high=difference.high),
        tone=tone_of(difference),
    )


def _dream_rows(mine: Mapping[str, Any] | None, other: Mapping[str, Any] | None) -> list[ComparedMetric]:
    """Position and actions in dreams from the same starts; none if the dreams of the two runs began elsewhere."""
    if mine is None or other is None or any(mine.get(fact) != other.get(fact) for fact in SAME_DREAMS):
        return []
    of_mine, of_other = dream_sums(mine), dream_sums(other)
    rows = []
    compared: tuple[tuple[MetricInfo, MetricName], ...] = ((COHERENCE, "pos_mae"), (DREAM_ACTIONS, "action_acc"))
    for info, metric in compared:
        difference = improvement(of_other, of_mine, metric)
        if difference is not None:
            rows.append(_row(info, f"frames 1 to {mine['num_frames']}", of_mine, of_other, metric, difference))
    return rows


def dream_sums(coherence: Mapping[str, Any]) -> GameSums:
    """The sums by game of dreams, whose `pos_mae` is the coherence over all frames."""
    by_game, num_frames = coherence["by_game"], coherence["num_frames"]
    num_dreams, none = np.array(by_game["num_dreams"]), np.zeros(len(by_game["num_dreams"]), np.int64)
    return GameSums(
        game_ids=np.array(by_game["game_ids"]),
        num_frames=num_dreams * num_frames,
        num_pairs=num_dreams * num_frames,
        num_right=np.array(by_game["actions_right"]),
        num_changes=none,
        num_changes_right=none,
        position_error=np.array(by_game["position_error"]),
        loss_totals={},
        loss_counts={},
    )
