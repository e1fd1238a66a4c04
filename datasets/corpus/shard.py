"""Games -> one Parquet shard: whole games, small native dtypes, zstd with byte-stream-split for floats.

Guarded by `benchmarks/encode.py`, which prints bytes per frame and the time of each stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.checks.plausibility_check import Violation, num_frames_of
from datasets.replays.game import Columns, Follower, Game
from datasets.schema.columns import (
    FIRST_FRAME_ID,
    FOLLOWERS_SCHEMA,
    FRAMES_SCHEMA,
    OPTIONAL_FIELDS,
    PLAYER_COLUMNS,
)
from datasets.schema.optional_tables import OPTIONAL_TABLES, ROW_COUNTS, OptionalTable
from datasets.schema.splits import split_number
from datasets.schema.suspect_rules import suspect_bits

ROW_GROUP_FRAMES = 64 * 1024
"""The game that reaches this many frames closes the row group, which is the unit of reading in training."""
COMPRESSION_LEVEL = 3
HELD_COLUMNS = ("percent", "state_age", "hitstun", "self_y", "hitlag")
"""Floats that stay constant, count or repeat: PLAIN compresses better than byte-stream-split (0.4 bytes per frame)."""


def _parquet_options(schema: pa.Schema) -> dict[str, Any]:
    encodings = {
        field.name: "PLAIN" if field.name.endswith(HELD_COLUMNS) else "BYTE_STREAM_SPLIT"
        for field in schema
        if pa.types.is_floating(field.type)
    }
    encodings["frame"] = "DELTA_BINARY_PACKED"
    return {
        "compression": "zstd",
        "compression_level": COMPRESSION_LEVEL,
        "use_dictionary": [field.name for field in schema if field.name not in encodings],
        "column_encoding": encodings,
        "write_statistics": False,
    }


class ShardWriter:
    """Writes games to one shard file, holding one row group in memory."""

    def __init__(self, path: Path, schema: pa.Schema = FRAMES_SCHEMA) -> None:
        self.path = path
        self._writer = pq.ParquetWriter(path, schema, **_parquet_options(schema))
        self._schema = schema
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._num_rows = 0
        self._row_group = 0

    def add(self, table: pa.Table) -> dict[str, int]:
        """Append one game's rows.

        Returns:
            `first_row`, `row_group` and `row_in_group` of the game in this shard.
        """
        position = {
            "first_row": self._num_rows,
            "row_group": self._row_group,
            "row_in_group": self._pending_rows,
        }
        self._pending.append(table)
        self._pending_rows += table.num_rows
        self._num_rows += table.num_rows
        if self._pending_rows >= ROW_GROUP_FRAMES:
            self._flush()
        return position

    def close(self) -> int:
        """Finish the file; returns its number of rows."""
        self._flush()
        self._writer.close()
        return self._num_rows

    def _flush(self) -> None:
        if self._pending:
            table = pa.concat_tables(self._pending).unify_dictionaries().combine_chunks()
            self._writer.write_table(table, row_group_size=max(1, table.num_rows))
            self._row_group += 1
            self._pending, self._pending_rows = [], 0


def row_positions(lengths: Sequence[int]) -> list[dict[str, int]]:
    """What `ShardWriter.add` returns for games with so many rows."""
    positions, first_row, row_group, pending_rows = [], 0, 0, 0
    for length in lengths:
        positions.append({"first_row": first_row, "row_group": row_group, "row_in_group": pending_rows})
        first_row += length
        pending_rows += length
        if pending_rows >= ROW_GROUP_FRAMES:
            row_group, pending_rows = row_group + 1, 0
    return positions


def frames_table(game: Game) -> pa.Table:
    """One row per frame, in FRAMES_SCHEMA."""
    arrays: list[pa.Array] = [
        _repeated(game.game_id, game.num_frames),
        pa.array(np.arange(FIRST_FRAME_ID, FIRST_FRAME_ID + game.num_frames, dtype=np.int32)),
    ]
    for columns in game.players:
        arrays += _player_arrays(columns, game.num_frames)
    return pa.Table.from_arrays(arrays, schema=FRAMES_SCHEMA)


def followers_table(game: Game, follower: Follower) -> pa.Table:
    """One row per frame in which the partner is present, in FOLLOWERS_SCHEMA."""
    num_rows = len(follower.rows)
    arrays: list[pa.Array] = [
        _repeated(game.game_id, num_rows),
        pa.array((follower.rows + FIRST_FRAME_ID).astype(np.int32)),
        pa.array(np.full(num_rows, follower.player, dtype=np.uint8)),
        *_player_arrays(follower.columns, num_rows),
    ]
    return pa.Table.from_arrays(arrays, schema=FOLLOWERS_SCHEMA)


def optional_table(game: Game, table: OptionalTable) -> pa.Table:
    """A game's rows of an optional table, in its schema."""
    schema, found = OPTIONAL_TABLES[table], game.optional[table]
    num_rows = len(found.rows)
    arrays: list[pa.Array] = [
        _repeated(game.game_id, num_rows),
        pa.array((found.rows + FIRST_FRAME_ID).astype(np.int32)),
    ]
    for field in list(schema)[2:]:
        values = found.columns[field.name]
        arrays.append(pa.nulls(num_rows, field.type) if values is None else pa.array(values, type=field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def game_row(game: Game, suspect: Sequence[Violation] | None = None) -> dict[str, Any]:
    """A game's row of the games table, without its origin and its position in a shard.

    Args:
        suspect: the learned rules that it breaks; None if they were not checked.
    """
    facts = game.facts
    split_key = facts.match_id or game.game_id
    first, second = facts.players
    return {
        "game_id": game.game_id,
        "fingerprint": game.fingerprint,
        "form": facts.form,
        "slippi_version": None if facts.slippi_version is None else ".".join(map(str, facts.slippi_version)),
        "num_frames": game.num_frames,
        "num_rollback_rows": game.num_rollback_rows,
        "num_follower_rows": sum(len(follower.rows) for follower in game.followers),
        **{
            column: len(game.optional[table].rows) if table in game.optional else None
            for table, column in ROW_COUNTS.items()
        },
        "may_hold_rollbacks": game.may_hold_rollbacks,
        "suspect_rules": None if suspect is None else suspect_bits(found.code for found in suspect),
        "suspect_frames": None if suspect is None else num_frames_of(suspect),
        "stage": facts.stage,
        "p0_character": first.character,
        "p1_character": second.character,
        "p0_port": first.port,
        "p1_port": second.port,
        "winner": game.winner,
        "end_method": facts.end_method,
        "is_pal": facts.is_pal,
        "start_time": facts.start_time,
        "split_key": split_key,
        "split_number": split_number(split_key),
    } | {
        f"has_{name}": all(columns[c] is not None for columns in game.players for c in fields)
        for name, fields in OPTIONAL_FIELDS.items()
    }


def _repeated(text: str, num_rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(np.zeros(num_rows, dtype=np.int32), pa.array([text]))


def _player_arrays(columns: Columns, num_rows: int) -> list[pa.Array]:
    return [
        pa.nulls(num_rows, dtype) if (values := columns[name]) is None else pa.array(values, type=dtype)
        for name, dtype in PLAYER_COLUMNS.items()
    ]
