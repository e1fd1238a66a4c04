"""Items and stage events of a .slp, as peppi-py's Arrow arrays have them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from datasets.replays.game import Columns, FrameRows
from datasets.schema.optional_tables import ITEM_COLUMNS, STAGE_COLUMNS, OptionalTable

NOBODY = -1
RIGHT, LEFT = 0, 1
"""Platforms of SPEC.md, FOD Platforms."""


def read_optional(
    table: OptionalTable, frames: pa.StructArray, rows: np.ndarray | None, ports: Sequence[int]
) -> FrameRows | None:
    """Read one optional table.

    Args:
        frames: peppi-py's frames, with a row for each simulated frame.
        rows: the final row of each frame; None if these are all.
        ports: of players 0 and 1, from 0.
    Returns:
        None if the file's version does not record it.
    """
    return _items(frames, rows, ports) if table == "items" else _stage(frames, rows)


def _items(frames: pa.StructArray, rows: np.ndarray | None, ports: Sequence[int]) -> FrameRows | None:
    found = _flattened(frames, "item", rows)
    if found is None:
        return None
    frame_rows, item = found
    velocity, position, misc = _field(item, "velocity"), _field(item, "position"), _field(item, "misc")
    arrays = {
        "spawn_id": _field(item, "id"),
        "type": _field(item, "type"),
        "state": _field(item, "state"),
        "facing": _field(item, "direction"),
        "x": _field(position, "x"),
        "y": _field(position, "y"),
        "velocity_x": _field(velocity, "x"),
        "velocity_y": _field(velocity, "y"),
        "damage_taken": _field(item, "damage"),
        "expiration": _field(item, "timer"),
        "missile": _field(misc, "0"),
        "turnip": _field(misc, "1"),
        "is_launched": _field(misc, "2"),
        "charge": _field(misc, "3"),
        "instance": _field(item, "instance_id"),
    }
    columns: Columns = {name: _numpy(array) for name, array in arrays.items()}
    columns["owner"] = _owners(_numpy(_field(item, "owner")), ports)
    return FrameRows(rows=frame_rows, columns={name: columns[name] for name in ITEM_COLUMNS})


def _owners(recorded: np.ndarray | None, ports: Sequence[int]) -> np.ndarray | None:
    """Ports as players."""
    if recorded is None:
        return None
    owners = np.full(len(recorded), NOBODY, np.int8)
    for player, port in enumerate(ports):
        owners[recorded == port] = player
    return owners


def _stage(frames: pa.StructArray, rows: np.ndarray | None) -> FrameRows | None:
    """One row for each frame with an event; of several events of a kind in a frame the last one counts."""
    changes: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    platforms = _flattened(frames, "fod_platform", rows)
    if platforms is None:
        return None
    frame_rows, values = platforms
    sides, heights = _numpy(_field(values, "platform")), _numpy(_field(values, "height"))
    assert sides is not None and heights is not None
    for name, side in (("left_platform", LEFT), ("right_platform", RIGHT)):
        changes[name] = frame_rows[sides == side], heights[sides == side]
    for events, fields in (
        ("dreamland_whispy", {"wind": "direction"}),
        ("stadium_transformation", {"transformation_event": "event", "transformation": "type"}),
    ):
        found = _flattened(frames, events, rows)
        for name, field in fields.items():
            array = None if found is None else _numpy(_field(found[1], field))
            changes[name] = (
                (np.zeros(0, np.int64), np.zeros(0)) if found is None or array is None else (found[0], array)
            )
    kept = np.unique(np.concatenate([where for where, _ in changes.values()]))
    columns: dict[str, np.ndarray] = {}
    for name, dtype in STAGE_COLUMNS.items():
        where, array = changes[name]
        columns[name] = np.ma.masked_all(len(kept), pa.array([], dtype).to_numpy().dtype)
        columns[name][np.searchsorted(kept, where)] = array
    return FrameRows(rows=kept, columns=dict(columns))


def _flattened(frames: pa.StructArray, name: str, rows: np.ndarray | None) -> tuple[np.ndarray, pa.StructArray] | None:
    """The values of a list for each frame, and the frame (index into the final rows) of each; None if not recorded."""
    lists = _field(frames, name)
    if lists is None:
        return None
    if rows is not None:
        lists = lists.take(pa.array(rows))
    counts = lists.value_lengths().fill_null(0).to_numpy()
    return np.repeat(np.arange(len(lists), dtype=np.int64), counts), lists.flatten()


def _field(array: pa.Array | None, name: str) -> pa.Array | None:
    if array is None or array.type.get_field_index(name) < 0:
        return None
    return array.field(name)


def _numpy(array: pa.Array | None) -> np.ndarray | None:
    return None if array is None else array.to_numpy(zero_copy_only=False)
