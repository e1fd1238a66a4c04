"""Sums over the evaluation frames of each game: what an evaluation keeps for ever.

Every metric of any set of games is a function of their sums, so that two runs can be compared game by game later: their
differences on the same games vary less than their values. Stored as Parquet, a row per game and context.

Shape legend: M = evaluation frames, G = games.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wm.config.run_config import MetricName
from wm.evaluation.metrics import EvalRecords, val_loss_of
from wm.objective.weights import VAL_LOSS_WEIGHTS

FORMAT_VERSION = 1
"""1: first."""
_FACTS = b"evaluation"


@dataclass(frozen=True, kw_only=True, slots=True)
class GameSums:
    """Sums by game at one context, over (frame, player) pairs or over frames. Arrays are (G,)."""

    game_ids: np.ndarray
    """str, ids as in the corpus, each once."""
    num_frames: np.ndarray
    """int64, evaluation frames."""
    num_pairs: np.ndarray
    """int64, pairs of frame and player."""
    num_right: np.ndarray
    """int64, pairs whose action was predicted."""
    num_changes: np.ndarray
    """int64, pairs whose action differs from that of the previous frame."""
    num_changes_right: np.ndarray
    """int64, those whose action was predicted."""
    position_error: np.ndarray
    """float64, sum over pairs, game units."""
    loss_totals: dict[str, np.ndarray]
    """Part of `val_loss` -> float64, sum over valid entries."""
    loss_counts: dict[str, np.ndarray]
    """Part of `val_loss` -> float64, number of valid entries."""

    def __len__(self) -> int:
        return len(self.game_ids)


def sums_by_game(records: EvalRecords, game_ids: np.ndarray) -> GameSums:
    """Sum records by game.

    Args:
        game_ids: id of each game of the index that the records refer to.
    """
    games, game_of_record = np.unique(records.games, return_inverse=True)

    def total(values: np.ndarray) -> np.ndarray:
        by_record = np.asarray(values, np.float64).reshape(len(records), -1).sum(1)
        return np.bincount(game_of_record, by_record, len(games))

    def count(values: np.ndarray) -> np.ndarray:
        return total(values).astype(np.int64)

    right = records.predicted_action == records.true_action
    changed = records.true_action != records.previous_action
    return GameSums(
        game_ids=game_ids[games].astype(str),
        num_frames=count(np.ones(len(records))),
        num_pairs=count(np.ones_like(right)),
        num_right=count(right),
        num_changes=count(changed),
        num_changes_right=count(right & changed),
        position_error=total(records.position_error),
        loss_totals={name: total(values) for name, values in records.loss_totals.items()},
        loss_counts={name: total(values) for name, values in records.loss_counts.items()},
    )


def concatenate_sums(parts: Sequence[GameSums]) -> GameSums:
    """Sums of disjoint sets of games."""
    plain = [_columns(part) for part in parts]
    return _from_columns({name: np.concatenate([part[name] for part in plain]) for name in plain[0]})


def metric_values(sums: GameSums) -> dict[MetricName, float | None]:
    """The metrics over all games; None without data, or if a value is not finite."""
    totals, counts = sums.loss_totals, sums.loss_counts
    val_loss = float(val_loss_of({name: (totals[name].sum(), counts[name].sum()) for name in VAL_LOSS_WEIGHTS}))
    return {
        "change_acc": _ratio(sums.num_changes_right, sums.num_changes),
        "action_acc": _ratio(sums.num_right, sums.num_pairs),
        "pos_mae": _ratio(sums.position_error, sums.num_pairs),
        "val_loss": val_loss if len(sums) and math.isfinite(val_loss) else None,
    }


def serialize(by_context: Mapping[int, GameSums], facts: Mapping[str, Any]) -> bytes:
    """One evaluation as the content of a Parquet file.

    Args:
        facts: about the evaluation, as JSON data.
    """
    tables = [
        pa.table({"context": np.full(len(sums), context, np.int32)} | _columns(sums))
        for context, sums in by_context.items()
    ]
    stored = json.dumps({"format_version": FORMAT_VERSION, "contexts": list(by_context), **facts})
    buffer = io.BytesIO()
    table = pa.concat_tables(tables).replace_schema_metadata({_FACTS: stored.encode()})
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def deserialize(content: bytes) -> tuple[dict[int, GameSums], dict[str, Any]]:
    """The sums of an evaluation by context, and the facts about it.

    Raises:
        ValueError: the content is damaged, or of another format version.
    """
    table = pq.read_table(io.BytesIO(content))
    facts = json.loads((table.schema.metadata or {}).get(_FACTS, b"{}"))
    if facts.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"format version {facts.get('format_version')}, expected {FORMAT_VERSION}")
    columns = {name: table[name].to_numpy() for name in table.column_names}
    columns["game_ids"] = columns["game_ids"].astype(str)
    rows = {context: np.flatnonzero(columns["context"] == context) for context in facts["contexts"]}
    by_context = {
        context: _from_columns({name: values[part] for name, values in columns.items() if name != "context"})
        for context, part in rows.items()
    }
    return by_context, facts


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> float | None:
    if not denominator.any():
        return None
    value = float(numerator.sum() / denominator.sum())
    return value if math.isfinite(value) else None


def _columns(sums: GameSums) -> dict[str, np.ndarray]:
    """The fields as columns of a table; the parts of the loss as `loss_totals.PART` and `loss_counts.PART`."""
    columns: dict[str, np.ndarray] = {}
    for field in fields(GameSums):
        value = getattr(sums, field.name)
        columns |= (
            {f"{field.name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {field.name: value}
        )
    return columns


def _from_columns(columns: Mapping[str, np.ndarray]) -> GameSums:
    """The inverse of `_columns`."""
    values: dict[str, Any] = {}
    for name, column in columns.items():
        field, _, part = name.partition(".")
        if part:
            values.setdefault(field, {})[part] = column
        else:
            values[field] = column
    return GameSums(**values)
