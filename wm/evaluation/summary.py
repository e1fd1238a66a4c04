"""`wm eval`: a checkpoint judged on a corpus beside its baselines, as plain data and as a terminal table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from datasets.loading.frames import GAME_COLUMNS, GameIndex
from datasets.loading.targets import COUNTDOWN_FRAMES, Targets, evaluation_targets
from datasets.runtime.errors import UserError
from datasets.schema.columns import NUM_PLAYERS
from datasets.schema.melee_ids import TOURNAMENT_STAGES, character_name, stage_name
from wm.evaluation.action_groups import CATEGORY_NAMES, action_category, action_name
from wm.evaluation.evaluator import BASELINES, Context, judge_baseline, judge_stream, judge_windows
from wm.evaluation.metrics import Judgement, confusions_of, metrics_of, slices_of
from wm.model.world_model import MLPWorldModel, WorldModel

TABLE_METRICS = ("change_acc", "action_acc", "pos_mae", "val_loss")


def evaluate(
    model: WorldModel,
    index: GameIndex,
    *,
    contexts: Sequence[Context],
    num_targets: int | None,
    device: torch.device,
    precision: str = "auto",
) -> dict[str, Any]:
    """Judge a model at several contexts, and the baselines, on the same frames.

    Args:
        contexts: numbers of frames, or "stream" for the state carried through the whole game.
        num_targets: judged frames, chosen by hash; None takes all.
    Returns:
        JSON data: {"num_targets", "num_games", "results": [{"predictor", "context", "metrics", "slices",
        "confusions"}]}; the first results are the model's, in the order of the contexts.
    Raises:
        UserError: a context that cannot be judged, or no frame to judge.
    """
    _check_contexts(model, contexts)
    targets = evaluation_targets(index, num_targets)
    if not len(targets):
        raise UserError("no game is longer than its countdown; nothing can be judged")
    results = []
    for context in contexts:
        if context == "stream":
            judgement = judge_stream(model, index, targets, device, precision)
        else:
            judgement = judge_windows(model, index, targets, context, device, precision)
        results.append({"predictor": "model", "context": context} | _describe(judgement, index))
    for name in BASELINES:
        judgement = judge_baseline(name, index, targets)
        results.append({"predictor": name, "context": None} | _describe(judgement, index))
    return {"num_targets": len(targets), "num_games": _num_games(targets), "results": results}


def default_contexts(model: WorldModel) -> tuple[Context, ...]:
    """What a model is judged at when nothing is said."""
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


def _num_games(targets: Targets) -> int:
    return len(np.unique(targets.games))


def _describe(judgement: Judgement, index: GameIndex) -> dict[str, Any]:
    """One predictor's metrics, slices and confusions."""
    characters = index.characters[judgement.games].astype(np.int64)
    stage_ids = sorted(TOURNAMENT_STAGES | dict.fromkeys(index.facts[:, GAME_COLUMNS.index("stage")].tolist(), ""))
    stages = np.searchsorted(stage_ids, index.facts[judgement.games, GAME_COLUMNS.index("stage")])
    confusions = [
        row
        | {
            "truth": action_name(row["truth"]),
            "predicted": [{"action": action_name(p["action"]), "count": p["count"]} for p in row["predicted"]],
        }
        for row in confusions_of(judgement)
    ]
    return {
        "metrics": {name: metric.plain() for name, metric in metrics_of(judgement).items()},
        "slices": {
            "action": slices_of(judgement, action_category(judgement.true_action), list(CATEGORY_NAMES)),
            "character": slices_of(judgement, characters, [character_name(i) for i in range(256)]),
            "stage": slices_of(
                judgement,
                np.repeat(stages[:, None], NUM_PLAYERS, axis=1),
                [stage_name(stage) for stage in stage_ids],
            ),
        },
        "confusions": confusions,
    }


def table(evaluation: dict[str, Any], with_slices: bool = True) -> str:
    """The terminal's table: predictors side by side, then the model's first context by slice."""
    head = f"{'':<28}" + "".join(f"{name:>26}" for name in TABLE_METRICS)
    lines = [
        f"{evaluation['num_targets']:,} judged frames of {evaluation['num_games']} games, both players; "
        "95 % intervals over games",
        "",
        head,
    ]
    for result in evaluation["results"]:
        context = result["context"]
        name = result["predictor"] + ("" if context is None else f", {_context_text(context)}")
        lines.append(f"{name:<28}" + "".join(f"{_cell(result['metrics'].get(m)):>26}" for m in TABLE_METRICS))
    if with_slices:
        first = evaluation["results"][0]
        for title, rows in first["slices"].items():
            lines += ["", f"{'by ' + title + ', ' + _context_text(first['context']):<28}{'pairs':>10}"]
            for label, row in rows.items():
                cells = "".join(f"{_cell(row['metrics'].get(m)):>26}" for m in TABLE_METRICS[:3])
                lines.append(f"  {label:<26}{row['count']:>10,}{cells}")
    return "\n".join(lines)


def _context_text(context: Context) -> str:
    return "whole game" if context == "stream" else f"K = {context}"


def _cell(metric: dict[str, float | None] | None) -> str:
    if metric is None or metric["value"] is None:
        return "–"
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"
