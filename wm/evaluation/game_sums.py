"""Sums over the evaluation frames of each game: what an evaluation keeps for ever.

Every metric of any set of games is a function of their sums, so that two runs can be compared game by game later: their
differences on the same games vary less than their values. Stored as Parquet: a row per game and context, and rows per
slice of its pairs (`wm.evaluation.slices`), whose columns `slice` and `label` are not null.

Shape legend: M = evaluation frames, G = games.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wm.config.run_config import Context, MetricName
from wm.evaluation.metrics import EvalRecords, val_loss_of
from wm.objective.weights import VAL_LOSS_WEIGHTS

FORMAT_VERSION = 2
"""1: first. 2: slices, and `stream` among the contexts; files of version 1 are read, and have no slices."""
READABLE_VERSIONS = (1, 2)
STREAM_CODE = 0
"""`stream` in the column of contexts, which are numbers of frames."""
_FACTS = b"evaluation"
_SLICE_COLUMNS = ("slice", "label")


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
    slices: dict[str, dict[str, GameSums]] = field(default_factory=dict)
    """Dimension (`action`, `character`, `since hit`) -> label -> sums over the pairs with that label, by game, without
    losses and slices; only of the evaluation at a run's end, and from format 2 on."""

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
    joined = _from_columns({name: np.concatenate([part[name] for part in plain]) for name in plain[0]})
    of_label: dict[tuple[str, str], list[GameSums]] = {}
    for part in parts:
        for dimension, labels in part.slices.items():
            for label, sums in labels.items():
                of_label.setdefault((dimension, label), []).append(sums)
    return replace(joined, slices=_nested({key: concatenate_sums(sums) for key, sums in of_label.items()}))


def metric_values(sums: GameSums) -> dict[MetricName, float | None]:
    """The metrics over all games; None without data (`val_loss` of a slice), or if a value is not finite."""
    totals, counts = sums.loss_totals, sums.loss_counts
    val_loss = math.nan
    if totals:
        val_loss = float(val_loss_of({name: (totals[name].sum(), counts[name].sum()) for name in VAL_LOSS_WEIGHTS}))
    return {
        "change_acc": _ratio(sums.num_changes_right, sums.num_changes),
        "action_acc": _ratio(sums.num_right, sums.num_pairs),
        "pos_mae": _ratio(sums.position_error, sums.num_pairs),
        "val_loss": val_loss if len(sums) and math.isfinite(val_loss) else None,
    }


def serialize(by_context: Mapping[Context, GameSums], facts: Mapping[str, Any]) -> bytes:
    """One evaluation as the content of a Parquet file.

    Args:
        facts: about the evaluation, as JSON data.
    """
    tables = []
    for context, sums in by_context.items():
        parts = {(None, None): sums} | {(d, label): part for d, ls in sums.slices.items() for label, part in ls.items()}
        for key, part in parts.items():
            fixed = {"context": pa.array(np.full(len(part), _code(context), np.int32))}
            fixed |= {
                name: pa.array([value] * len(part), pa.string())
                for name, value in zip(_SLICE_COLUMNS, key, strict=True)
            }
            tables.append(pa.table(fixed | _columns(part)))
    stored = json.dumps({"format_version": FORMAT_VERSION, "contexts": list(by_context), **facts})
    buffer = io.BytesIO()
    table = pa.concat_tables(tables, promote_options="default").replace_schema_metadata({_FACTS: stored.encode()})
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def deserialize(content: bytes) -> tuple[dict[Context, GameSums], dict[str, Any]]:
    """The sums of an evaluation by context, and the facts about it.

    Raises:
        ValueError: the content is damaged, or of another format version.
    """
    table = pq.read_table(io.BytesIO(content))
    facts = json.loads((table.schema.metadata or {}).get(_FACTS, b"{}"))
    if facts.get("format_version") not in READABLE_VERSIONS:
        expected = " or ".join(map(str, READABLE_VERSIONS))
        raise ValueError(f"format version {facts.get('format_version')}, expected {expected}")
    columns = {name: table[name].to_numpy() for name in table.column_names if name not in ("context", *_SLICE_COLUMNS)}
    columns["game_ids"] = columns["game_ids"].astype(str)
    pair_columns = {name: values for name, values in columns.items() if "." not in name}
    keys = [table["context"].to_pylist(), *(_column_or_nulls(table, name) for name in _SLICE_COLUMNS)]
    rows: dict[tuple[int, str | None, str | None], list[int]] = {}
    for row, key in enumerate(zip(*keys, strict=True)):
        rows.setdefault(key, []).append(row)
    by_context = {}
    for context in facts["contexts"]:
        code = _code(context)
        own = {key[1:]: part for key, part in rows.items() if key[0] == code}
        whole = _rows(columns, own.pop((None, None), []))
        slices = {key: _rows(pair_columns, part) for key, part in own.items()}
        by_context[context] = replace(whole, slices=_nested(slices))
    return by_context, facts


def _rows(columns: Mapping[str, np.ndarray], rows: Sequence[int]) -> GameSums:
    return _from_columns({name: values[np.asarray(rows, np.int64)] for name, values in columns.items()})


def _code(context: Context) -> int:
    return STREAM_CODE if context == "stream" else context


def _column_or_nulls(table: pa.Table, name: str) -> list[str | None]:
    return table[name].to_pylist() if name in table.column_names else [None] * len(table)


def _nested(slices: Mapping[Any, GameSums]) -> dict[str, dict[str, GameSums]]:
    """(dimension, label) -> sums, as dictionaries within a dictionary."""
    nested: dict[str, dict[str, GameSums]] = {}
    for (dimension, label), sums in slices.items():
        nested.setdefault(dimension, {})[label] = sums
    return nested


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> float | None:
    if not denominator.any():
        return None
    value = float(numerator.sum() / denominator.sum())
    return value if math.isfinite(value) else None


def _columns(sums: GameSums) -> dict[str, np.ndarray]:
    """The fields as columns of a table; the parts of the loss as `loss_totals.PART` and `loss_counts.PART`."""
    columns: dict[str, np.ndarray] = {}
    for own in fields(GameSums):
        if own.name == "slices":
            continue
        value = getattr(sums, own.name)
        columns |= {f"{own.name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {own.name: value}
    return columns


def _from_columns(columns: Mapping[str, np.ndarray]) -> GameSums:
    """The inverse of `_columns`."""
    values: dict[str, Any] = {"loss_totals": {}, "loss_counts": {}}
    for name, column in columns.items():
        whole, _, part = name.partition(".")
        if part:
            values[whole][part] = column
        else:
            values[whole] = column
    return GameSums(**values)
