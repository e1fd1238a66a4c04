"""Tables that a corpus holds only if `wm encode --tables` asked for them: what players throw, and stages that move.

Every table has any number of rows for a frame. `games.num_item_rows` and `games.num_stage_rows` are a game's rows; null
if the game's source does not record them, or nobody asked.
"""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

OptionalTable = Literal["items", "stage"]

ITEM_COLUMNS: dict[str, pa.DataType] = {
    "spawn_id": pa.uint32(),  # the same for an item in all of its frames; counts up from 0 in each game
    "type": pa.uint16(),  # item id: projectiles, items that characters pull or throw, and parts of some stages
    "owner": pa.int8(),  # player 0 or 1, -1 for nobody; null before 3.6
    "state": pa.uint8(),  # means something else for each type
    "facing": pa.float32(),  # -1 left, +1 right, 0 for some types
    "x": pa.float32(),  # game units
    "y": pa.float32(),
    "velocity_x": pa.float32(),  # game units per frame
    "velocity_y": pa.float32(),
    "damage_taken": pa.uint16(),
    "expiration": pa.float32(),  # frames left; may be negative
    "missile": pa.uint8(),  # Samus: 0 homing, 1 super. These four are arbitrary for other types, and null before 3.2
    "turnip": pa.uint8(),  # Peach: face of the turnip
    "is_launched": pa.uint8(),  # charge shot of Samus and Mewtwo
    "charge": pa.uint8(),  # power of that shot
    "instance": pa.uint16(),  # of the attack that it belongs to, 0 for none; null before 3.16
}
"""State of an item after a frame (SPEC.md, Item Update, since Slippi 3.0). At most 15 of a frame are recorded."""

STAGE_COLUMNS: dict[str, pa.DataType] = {
    "left_platform": pa.float32(),  # Fountain of Dreams: height of a side platform, game units
    "right_platform": pa.float32(),
    "wind": pa.uint8(),  # Dream Land: 0 none, 1 to the left, 2 to the right
    "transformation_event": pa.uint16(),  # Pokemon Stadium: 2 begins, 3 on the monitor, 4 old one recedes, 5 new one
    "transformation": pa.uint16(),  # rises, 6 ends, 0 over; of 3 fire, 4 grass, 5 normal, 6 rock, 9 water
}
"""What changed in a frame on a stage that moves; null for what did not. A frame without a change has no row. Since
Slippi 3.18 (SPEC.md, FOD Platforms, Whispy Blow Direction, Stadium Transformations)."""


def _schema(columns: dict[str, pa.DataType]) -> pa.Schema:
    return pa.schema(
        [
            pa.field("game_id", pa.dictionary(pa.int32(), pa.string()), nullable=False),
            pa.field("frame", pa.int32(), nullable=False),  # Slippi frame id
            *(pa.field(name, dtype) for name, dtype in columns.items()),
        ]
    )


OPTIONAL_TABLES: dict[OptionalTable, pa.Schema] = {"items": _schema(ITEM_COLUMNS), "stage": _schema(STAGE_COLUMNS)}
"""Table -> schema. Rows are sorted by frame, those of a frame as the game recorded them."""

ROW_COUNTS: dict[OptionalTable, str] = {"items": "num_item_rows", "stage": "num_stage_rows"}
"""Table -> column of the games table with the number of a game's rows."""
