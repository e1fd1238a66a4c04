"""`wm eval`: a checkpoint and the baselines evaluated on a corpus, as JSON data and as a terminal table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from datasets.loading.frames import GAME_COLUMNS, GameIndex
from datasets.loading.targets import COUNTDOWN_FRAMES
from datasets.runtime.errors import UserError
from datasets.runtime.hardware import num_cores
from datasets.schema.columns import NUM_PLAYERS
from datasets.schema.melee_ids import TOURNAMENT_STAGES, character_name, stage_name
from wm.data.batches import MAX_READ_THREADS
from wm.evaluation.action_groups import CATEGORY_NAMES, action_category, action_name
from wm.evaluation.baselines import BASELINES, CONTEXT, evaluate_baseline
from wm.evaluation.evaluator import evaluate_contexts
from wm.evaluation.metrics import (
    METRICS,
    Context,
    EvalRecords,
    Resampling,
    compute_metrics,
    concatenate,
    context_text,
    longest_context,
    metrics_by_label,
    most_missed_actions,
)
from wm.evaluation.target_frames import EvaluationFrames
from wm.model.world_model import MLPWorldModel, WorldModel

Predictor = tuple[str, Context | None]
"""`model` and a context, or a baseline and None."""


def evaluate(
    model: WorldModel,
    index: GameIndex,
    *,
    contexts: Sequence[Context],
    num_targets: int | None,
    device: torch.device,
    precision: str = "auto",
) -> dict[str, Any]:
    """Evaluate a model at several contexts, and the baselines, on the same frames.

    Args:
        contexts: context lengths in frames, or "stream" for the state carried through the whole game.
        num_targets: evaluation frames, chosen by hash; None: all.
    Returns:
        JSON data: {"num_targets", "num_games", "results": [{"predictor", "context", "metrics", "slices",
        "confusions"}]}; the first results are the model's, in the order of the contexts.
    Raises:
        UserError: an impossible context, or no evaluation frame.
    """
    _check_contexts(model, contexts)
    longest = longest_context([CONTEXT, *contexts])
    frames = EvaluationFrames(index, num_targets, longest, device, num_threads=min(MAX_READ_THREADS, num_cores()))
    parts: list[dict[Predictor, EvalRecords]] = []
    try:
        for group in frames:
            records = evaluate_contexts(model, [group], contexts, device, precision)
            of_group: dict[Predictor, EvalRecords] = {("model", context): records[context] for context in contexts}
            for name in BASELINES:
                of_group[name, None] = evaluate_baseline(name, group)
            parts.append(of_group)
        targets = frames.targets
    finally:
        frames.close()
    if not parts:
        raise UserError("found no evaluation frame: no game is longer than its countdown; use other games")
    resampling = Resampling(np.concatenate([part["model", contexts[0]].games for part in parts]))
    results = [
        {"predictor": predictor, "context": context}
        | _describe(concatenate([part[predictor, context] for part in parts]), index, resampling)
        for predictor, context in parts[0]
    ]
    return {"num_targets": len(targets), "num_games": len(np.unique(targets.games)), "results": results}


def default_contexts(model: WorldModel) -> tuple[Context, ...]:
    """Default contexts of `wm eval`."""
    return (model.context_frames,) if isinstance(model, MLPWorldModel) else (10, 60, "stream")


def _check_contexts(model: WorldModel, contexts: Sequence[Context]) -> None:
    for context in contexts:
        if isinstance(model, MLPWorldModel) and context != model.context_frames:
            raise UserError(
                f"context {context}: this MLP reads exactly {model.context_frames} frames; "
                f"use --context {model.context_frames}"
            )
        if context != "stream" and not 1 <= context <= COUNTDOWN_FRAMES:
            raise UserError(f"context {context}: expected 1 .. {COUNTDOWN_FRAMES} frames, or stream")


def _describe(records: EvalRecords, index: GameIndex, resampling: Resampling) -> dict[str, Any]:
    """Metrics, slices and confusions of one predictor."""
    characters = index.characters[records.games].astype(np.int64)
    stage_ids = sorted(TOURNAMENT_STAGES | dict.fromkeys(index.facts[:, GAME_COLUMNS.index("stage")].tolist(), ""))
    stages = np.searchsorted(stage_ids, index.facts[records.games, GAME_COLUMNS.index("stage")])
    confusions = [
        row
        | {
            "truth": action_name(row["truth"]),
            "predicted": [{"action": action_name(p["action"]), "count": p["count"]} for p in row["predicted"]],
        }
        for row in most_missed_actions(records)
    ]
    return {
        "metrics": {name: metric.plain() for name, metric in compute_metrics(records, resampling=resampling).items()},
        "slices": {
            "action": metrics_by_label(records, action_category(records.true_action), list(CATEGORY_NAMES), resampling),
            "character": metrics_by_label(records, characters, [character_name(i) for i in range(256)], resampling),
            "stage": metrics_by_label(
                records,
                np.repeat(stages[:, None], NUM_PLAYERS, axis=1),
                [stage_name(stage) for stage in stage_ids],
                resampling,
            ),
        },
        "confusions": confusions,
    }


def table(evaluation: dict[str, Any]) -> str:
    """Table for the terminal: all predictors, then the slices of the model at its first context."""
    lines = [
        f"{evaluation['num_targets']:,} evaluation frames of {evaluation['num_games']} games, both players; "
        "95 % intervals over games",
        "",
        f"{'':<28}" + "".join(f"{name:>26}" for name in METRICS),
    ]
    for result in evaluation["results"]:
        context = result["context"]
        name = result["predictor"] + ("" if context is None else f", {context_text(context)}")
        lines.append(f"{name:<28}" + "".join(f"{_cell(result['metrics'].get(m)):>26}" for m in METRICS))
    first = evaluation["results"][0]
    for title, rows in first["slices"].items():
        lines += ["", f"{'by ' + title + ', ' + context_text(first['context']):<28}{'pairs':>10}"]
        for label, row in rows.items():
            cells = "".join(f"{_cell(row['metrics'].get(m)):>26}" for m in METRICS[:3])
            lines.append(f"  {label:<26}{row['count']:>10,}{cells}")
    return "\n".join(lines)


def _cell(metric: dict[str, float | None] | None) -> str:
    if metric is None or metric["value"] is None:
        return "–"
    if metric["low"] is None or metric["high"] is None:
        return f"{metric['value']:.3f}"
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"
