"""Quality and cost of each setting at each K, and the Pareto fronts of both."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tune.analysis.best_comparison import score_half_widths
from tune.analysis.scores import common_games, named_sums, scores_of
from tune.results.evidence import FinishedTrial, SweepEvidence
from tune.results.play_cost import PlayCost, PlayCosts
from wm.config.run_config import Context, MetricName
from wm.evaluation.metrics import SIGN


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One setting at one K: means over its seeds."""

    setting: str
    context: Context
    value: float
    """Of the metric."""
    low: float
    high: float
    """95 % interval of this cell alone, over games and seeds."""
    num_seeds: int
    num_parameters: int
    train_flops: float
    """Of one seed's training."""
    device_s: float
    """Of one seed's training: seconds times devices."""
    peak_gb: float | None
    """Most memory of a training process, GB."""
    play: PlayCost
    coherence_20: float | None
    """Position error of dreams over 20 frames, game units, a mean over the seeds that have it: the state is carried, so
    it is the same for every K of a setting."""
    is_on_play_front: bool = False
    """No other cell is at least as good at fewer milliseconds a frame."""
    is_on_train_front: bool = False
    """No other cell is at least as good with fewer FLOPs of training."""


def cells_of(sweep: SweepEvidence, play_costs: PlayCosts, metric: MetricName, confidence: float) -> list[Cell]:
    """All cells, by K and setting.

    Raises:
        UserError: as `scores_of`.
    """
    scores = scores_of(sweep.evidence, common_games(named_sums(sweep.evidence)), metric)
    sign = SIGN[metric]
    widths = score_half_widths(scores, confidence)
    trials: dict[tuple[str, Context], list[FinishedTrial]] = defaultdict(list)
    for trial in sweep.trials:
        for context in trial.evidence.sums:
            trials[trial.evidence.setting, context].append(trial)
    cells = []
    for row, (setting, context) in enumerate(scores.cells):
        own, value = trials[setting, context], sign * float(np.nanmean(scores.values[row]))
        dreams = [trial.coherence_20 for trial in own if trial.coherence_20 is not None]
        peaks = [trial.peak_gb for trial in own if trial.peak_gb is not None]
        cells.append(
            Cell(
                setting=setting,
                context=context,
                value=value,
                low=value - float(widths[row]),
                high=value + float(widths[row]),
                num_seeds=len(own),
                num_parameters=own[0].num_parameters,
                train_flops=statistics.mean(trial.train_flops for trial in own),
                device_s=statistics.mean(trial.device_s for trial in own),
                peak_gb=max(peaks, default=None),
                play=play_costs.of(own[0].config, context),
                coherence_20=statistics.mean(dreams) if dreams else None,
            )
        )
    qualities = [sign * cell.value for cell in cells]
    on_play = front([cell.play.ms_per_frame for cell in cells], qualities)
    on_train = front([cell.train_flops for cell in cells], qualities)
    return [
        replace(cell, is_on_play_front=i in on_play, is_on_train_front=i in on_train) for i, cell in enumerate(cells)
    ]


def front(costs: Sequence[float], qualities: Sequence[float]) -> set[int]:
    """Positions of the Pareto front: where every other one that is at least as good costs more."""
    found, best = set(), -np.inf
    for i in sorted(range(len(costs)), key=lambda i: (costs[i], -qualities[i])):
        if qualities[i] > best:
            found.add(i)
            best = qualities[i]
    return found
