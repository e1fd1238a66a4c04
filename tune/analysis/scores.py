"""Evidence -> scores of each (setting, K, seed) and each game's part in them.

A metric of any weighting of the games is a function of sums, so its derivative with respect to the weight of each game
(its influence) gives variances, and bootstrap replicates as one matrix product (Davison and Hinkley 1997, 2.7).

Shape legend: C = cells, that is (setting, K) pairs; R = seeds; G = games.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from datasets.runtime.errors import UserError
from tune.analysis.evidence import TrialEvidence
from wm.config.run_config import MetricName
from wm.evaluation.game_sums import GameSums
from wm.evaluation.metrics import SIGN, Context, context_order, context_text
from wm.objective.weights import VAL_LOSS_WEIGHTS

Cell = tuple[str, Context]
"""A setting and a K."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """Better is higher: a metric where lower is better has its sign changed. On a log scale for relative rules."""

    cells: tuple[Cell, ...]
    values: np.ndarray
    """float64 (C, R), NaN where there is no trial."""
    influence: np.ndarray
    """float64 (C, R, G), derivative with respect to the weight of each game; sums to 0 over the games; 0 without a
    trial."""

    @property
    def present(self) -> np.ndarray:
        """bool (C, R), where there is a trial."""
        return np.isfinite(self.values)


@dataclass(frozen=True, kw_only=True, slots=True)
class CommonGames:
    """The games on which all trials were evaluated."""

    game_ids: np.ndarray
    """str (G,), sorted."""
    num_left_out: int
    """Games that only some trials were evaluated on."""

    def rows_of(self, sums: GameSums) -> np.ndarray:
        """Rows of these games in sums that have all of them: int64 (G,)."""
        order = np.argsort(sums.game_ids)
        return order[np.searchsorted(sums.game_ids, self.game_ids, sorter=order)]


def common_games(named: Mapping[str, GameSums], at_least: int = 2) -> CommonGames:
    """The games that all sums have.

    Args:
        named: sums by a name for messages.
    Raises:
        UserError: there are fewer than `at_least`, or the evaluated frames of one differ.
    """
    sums = list(named.values())
    shared = set(sums[0].game_ids.tolist()).intersection(*(part.game_ids.tolist() for part in sums[1:]))
    everything = set().union(*(part.game_ids.tolist() for part in sums))
    if len(shared) < at_least:
        raise UserError(
            f"evaluation games in common: {len(shared)}, at least {at_least} are needed; evaluate all with the same "
            "eval_corpus, eval.split and eval.num_targets"
        )
    games = CommonGames(game_ids=np.array(sorted(shared), str), num_left_out=len(everything) - len(shared))
    first_name, first = next(iter(named.items()))
    expected = _facts_of_frames(first, games.rows_of(first))
    for name, part in named.items():
        differ = np.flatnonzero((_facts_of_frames(part, games.rows_of(part)) != expected).any(0))
        if len(differ):
            raise UserError(
                f"{name} and {first_name} were evaluated on different frames of game {games.game_ids[differ[0]]}; "
                "evaluate both with the same eval.num_targets"
            )
    return games


def named_sums(evidence: Sequence[TrialEvidence]) -> dict[str, GameSums]:
    """Sums of all trials and contexts, named for messages."""
    return {f"{t.trial} ({context_text(k)})": sums for t in evidence for k, sums in t.sums.items()}


def scores_of(
    evidence: Sequence[TrialEvidence], games: CommonGames, metric: MetricName, *, relative: bool = False
) -> Scores:
    """Scores of all trials over the common games.

    Args:
        relative: of the logarithm, so that differences are relative ones.
    Raises:
        UserError: the metric is not reported, or cannot be compared relatively because it is 0.
    """
    found = {(trial.setting, context) for trial in evidence for context in trial.sums}
    cells = sorted(found, key=lambda cell: (context_order(cell[1]), cell[0]))
    seeds = sorted({t.seed for t in evidence})
    values = np.full((len(cells), len(seeds)), np.nan)
    influence = np.zeros((len(cells), len(seeds), len(games.game_ids)))
    row_of_cell = {cell: row for row, cell in enumerate(cells)}
    for trial in evidence:
        for context, sums in trial.sums.items():
            place = row_of_cell[trial.setting, context], seeds.index(trial.seed)
            if np.isfinite(values[place]):
                raise UserError(
                    f"two trials of the setting {trial.setting} have seed {trial.seed} at {context_text(context)}; "
                    "give each seed once"
                )
            values[place], influence[place] = score_and_influence(
                sums, games.rows_of(sums), metric, relative=relative, name=trial.trial
            )
    return Scores(cells=tuple(cells), values=values, influence=influence)


def score_and_influence(
    sums: GameSums, rows: np.ndarray, metric: MetricName, *, relative: bool = False, name: str = "a trial"
) -> tuple[float, np.ndarray]:
    """Score over some games, and the influence of each: float64 (G,).

    Raises:
        UserError: as `scores_of`.
    """
    numerators, denominators, weights = _fractions(sums, metric)
    totals, counts = numerators[:, rows].sum(1), denominators[:, rows].sum(1)
    known = counts > 0
    means = np.divide(totals, counts, out=np.zeros_like(totals), where=known)
    value = float(weights @ means)
    deviations = numerators[:, rows] - means[:, None] * denominators[:, rows]
    influence = (np.divide(weights, counts, out=np.zeros_like(weights), where=known)) @ deviations
    if not known.any() or not np.isfinite(value):
        raise UserError(f"{name} reports no {metric} on the common games; choose another metric")
    if relative:
        if value <= 0:
            raise UserError(f"{metric} of {name} is {value:g} and has no relative loss; use an absolute threshold")
        value, influence = float(np.log(value)), influence / value
    sign = SIGN[metric]
    return sign * value, sign * influence


def _fractions(sums: GameSums, metric: MetricName) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A metric as a weighted sum of P fractions: numerators (P, G), denominators (P, G), weights (P,), all float64."""
    if metric == "val_loss":
        names = [name for name in VAL_LOSS_WEIGHTS if name in sums.loss_totals]
        weights = np.array([VAL_LOSS_WEIGHTS[name] for name in names])
        if not names:
            return np.zeros((1, len(sums))), np.zeros((1, len(sums))), np.ones(1)
        return (
            np.stack([sums.loss_totals[name] for name in names]).astype(np.float64),
            np.stack([sums.loss_counts[name] for name in names]).astype(np.float64),
            weights,
        )
    numerator, denominator = {
        "change_acc": (sums.num_changes_right, sums.num_changes),
        "action_acc": (sums.num_right, sums.num_pairs),
        "pos_mae": (sums.position_error, sums.num_pairs),
    }[metric]
    return numerator[None].astype(np.float64), denominator[None].astype(np.float64), np.ones(1)


def _facts_of_frames(sums: GameSums, rows: np.ndarray) -> np.ndarray:
    """Numbers that depend on the evaluated frames alone: int64 (3, G)."""
    return np.stack([sums.num_frames[rows], sums.num_pairs[rows], sums.num_changes[rows]])
