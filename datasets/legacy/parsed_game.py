"""Reads an older pipeline's file of one game into a `Game`. Pure functions without Ray or state.

There are three forms: parsed-v2, parsed-v3 (adds state flags and hitstun), and slippi_db's own, older one (without
velocities, state ages and stocks). Each is a recording of rows without frame ids (`datasets.legacy.rollback_frames`).

Stored values equal those of the .slp. Everything else is null:

- Fields that the Slippi version lacks (velocities, hitlag, hurtbox) or the pipeline lost (state flags) are 0 in every
  row of these forms.
- slippi_db rounds percent to whole numbers.
- Hitstun is clipped to 0 .. 200. It is stored for players whose values stay strictly between.
- None of the forms has the last player to hit, or the Ice Climbers' partner.

Only the buttons are incomplete: A B X Y Z L R and D-pad up are recorded, the other four are stored as not pressed. The
forms record A whenever Z is pressed, as the game does. A is stored as not pressed there, which is right in 97 of 100
such frames of the real games.

slippi_db keeps the first row of a resimulated frame, which no row reveals, so its games may always hold rollback
frames.

`benchmarks/parsed.py` compares the speed with that of reading the Parquet file alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from datasets.legacy.game_info import expected_frames, game_facts
from datasets.legacy.parsed_container import ParsedFile
from datasets.legacy.rollback_frames import ENTRY_LENGTHS, FinalRows, find_final_rows
from datasets.replays.game import Columns, Game
from datasets.replays.slp_reader import HITSTUN_FLAG, STICK_GRID, TRIGGER_GRID
from datasets.runtime.errors import ReplayError
from datasets.schema.columns import NUM_PLAYERS, OPTIONAL_FIELDS, PLAYER_COLUMNS, Form

FIELDS: dict[str, str] = {
    "character": "character", "action": "action", "x": "x", "y": "y", "percent": "percent",
    "shield": "shield_strength", "last_attack": "last_attack_landed", "combo": "combo_count", "stocks": "stocks",
    "state_age": "state_age", **{f"flags_{index}": f"state_flags_{index}" for index in range(5)},
    "ground": "ground", "jumps": "jumps_left", "l_cancel": "l_cancel",
    "hurtbox": "hurtbox_state", "self_air_x": "speed_air_x", "self_y": "speed_y", "attack_x": "speed_attack_x",
    "attack_y": "speed_attack_y", "self_ground_x": "speed_ground_x", "hitlag": "hitlag",
}  # fmt: skip
"""Column -> field of a player with the same values."""
FACING, ON_GROUND, HITSTUN, SHOULDER = "facing", "on_ground", "hitstun_remaining", "controller.shoulder"
STICKS: dict[str, str] = {
    "main_x": "controller.main_stick.x", "main_y": "controller.main_stick.y",
    "c_x": "controller.c_stick.x", "c_y": "controller.c_stick.y",
}  # fmt: skip
"""Column -> field, which maps -1 .. 1 to 0 .. 1."""
BUTTONS: dict[str, int] = {
    "A": 0x0100, "B": 0x0200, "X": 0x0400, "Y": 0x0800, "Z": 0x0010, "L": 0x0040, "R": 0x0020, "D_UP": 0x0008,
}  # fmt: skip
"""Field below `controller.buttons` -> bit of `buttons` (SPEC.md, Pre-Frame Update)."""
BUTTON_FIELDS = {f"controller.buttons.{name}": bit for name, bit in BUTTONS.items()}
FIELDS_TO_READ = frozenset({*FIELDS.values(), FACING, ON_GROUND, HITSTUN, SHOULDER, *STICKS.values(), *BUTTON_FIELDS})
COMMON_COLUMNS = ("character", "action", "x", "y", "percent", "shield", "jumps")
"""Columns that every form has."""
FLAGS = tuple(f"flags_{index}" for index in range(5))
HITSTUN_BOUNDS = (0.0, 200.0)
"""The range that the pipeline clips hitstun to."""


def parse_parsed_game(content: bytes, game_id: str, meta: dict[str, Any] | None) -> Game:
    """Read one game of an older pipeline.

    Args:
        content: a file of the pipeline's folder `games`.
        game_id: the file's name, which is the md5 of the .slp.
        meta: the game's entry in `meta.json`, if there is one.
    Raises:
        ReplayError: the bytes hold no game that can be stored (codes in `datasets.schema.reject_reasons`).
    """
    file = ParsedFile(content, FIELDS_TO_READ)
    form = _form(file)
    players = recorded_columns(file)
    _require_countdown(players)
    stages = _integers("stage", _numbers(file.array("stage"), "stage"), np.int64)
    facts = game_facts(form, meta, players, stages)
    final = _final_rows(form, players, file.num_rows, expected_frames(form, meta))
    num_frames = file.num_rows
    if final.rows is not None:
        players = [{name: None if v is None else v[final.rows] for name, v in columns.items()} for columns in players]
        num_frames = len(final.rows)
    return Game(
        game_id=game_id,
        facts=facts,
        players=tuple(players),
        followers=(),
        num_frames=num_frames,
        num_rollback_rows=file.num_rows - num_frames,
        may_hold_rollbacks=not final.is_certain,
    )


def recorded_columns(file: ParsedFile) -> list[Columns]:
    """Both players' columns with every recorded row; None for columns that the form does not have.

    Raises:
        ReplayError: a field is missing or invalid, or the replay was recorded by Slippi before 2.0.
    """
    players = [_columns(file, player) for player in range(NUM_PLAYERS)]
    for names in (*OPTIONAL_FIELDS.values(), (*FLAGS, "hitstun"), ("jumps",)):
        recorded = [columns[name] for columns in players for name in names]
        if not any(values is not None and values.any() for values in recorded):  # all 0 means absent
            for columns in players:
                columns.update(dict.fromkeys(names))
    if players[0]["jumps"] is None:
        raise ReplayError("old_version", "no player ever has jumps left: recorded by Slippi before 2.0.0")
    return players


def _form(file: ParsedFile) -> Form:
    if not file.has(0, FIELDS["state_age"]):
        return "slippi-db"
    return "parsed-v3" if file.has(0, FIELDS["flags_0"]) else "parsed-v2"


def _final_rows(form: Form, players: list[Columns], num_rows: int, num_frames: int | None) -> FinalRows:
    if form != "slippi-db":
        return find_final_rows(players)
    if num_frames is not None and num_rows < num_frames:
        raise ReplayError("frame_gap", f"{num_rows} rows, expected at least {num_frames} from meta.json")
    return FinalRows(rows=None, is_certain=False)


def _columns(file: ParsedFile, player: int) -> Columns:
    """A player's columns; None for those that the form does not have."""
    columns: Columns = dict.fromkeys(PLAYER_COLUMNS)
    for name, field in FIELDS.items():
        if name not in COMMON_COLUMNS and not file.has(player, field):
            continue
        values = _numbers(file.array(f"p{player}.{field}"), name)
        if not pa.types.is_floating(PLAYER_COLUMNS[name]):
            columns[name] = _integers(name, values, PLAYER_COLUMNS[name].to_pandas_dtype())
        elif values.dtype.kind == "f":
            columns[name] = values.astype(np.float32, copy=False)
    columns["facing"] = np.where(_numbers(file.array(f"p{player}.{FACING}"), FACING) > 0, 1, -1).astype(np.int8)
    columns["airborne"] = (_numbers(file.array(f"p{player}.{ON_GROUND}"), ON_GROUND) == 0).astype(np.uint8)
    for name, field in STICKS.items():
        columns[name] = _steps(name, _numbers(file.array(f"p{player}.{field}"), name), -STICK_GRID, STICK_GRID)
    shoulder = _numbers(file.array(f"p{player}.{SHOULDER}"), "trigger")
    columns["trigger"] = _steps("trigger", shoulder, 0, TRIGGER_GRID)
    columns["buttons"] = _buttons(file, player)
    if file.has(player, HITSTUN):
        columns["hitstun"] = _hitstun(file.array(f"p{player}.{HITSTUN}"), columns["flags_3"])
    return {name: columns[name] for name in PLAYER_COLUMNS}


def _numbers(array: pa.Array, name: str) -> np.ndarray:
    """The values of a field; booleans as 0 and 1."""
    kind = array.type
    if pa.types.is_boolean(kind):
        return array.to_numpy(zero_copy_only=False).view(np.uint8)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise ReplayError("unreadable", f"{name} has values of type {kind}, expected numbers")
    values = array.to_numpy()
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ReplayError("bad_values", f"{name} is not finite in {int((~np.isfinite(values)).sum())} frames")
    return values


def _integers(name: str, values: np.ndarray, dtype: type[np.integer]) -> np.ndarray:
    limits = np.iinfo(dtype)
    lowest, highest = values.min(), values.max()
    whole = values.astype(dtype) if limits.min <= lowest <= highest <= limits.max else None
    if whole is None or (values.dtype.kind == "f" and (whole != values).any()):
        text = f"{name} ranges from {lowest} to {highest}, expected integers from {limits.min} to {limits.max}"
        raise ReplayError("bad_values", text)
    return whole


def _steps(name: str, values: np.ndarray, lowest: float, highest: float) -> np.ndarray:
    """Convert values in 0 .. 1 to integer steps, lowest .. highest."""
    if not 0 <= values.min() <= values.max() <= 1:
        raise ReplayError("bad_values", f"{name} ranges from {values.min()} to {values.max()}, expected 0 to 1")
    steps = np.rint(values * np.float32(highest - lowest) + np.float32(lowest))
    return steps.astype(PLAYER_COLUMNS[name].to_pandas_dtype())


def _buttons(file: ParsedFile, player: int) -> np.ndarray:
    pressed = np.zeros(file.num_rows, dtype=np.uint16)
    for field, bit in BUTTON_FIELDS.items():
        is_pressed = _numbers(file.array(f"p{player}.{field}"), field) != 0
        pressed |= is_pressed.astype(np.uint16) * np.uint16(bit)
    with_z = pressed & BUTTONS["Z"] != 0
    if (pressed[with_z] & BUTTONS["A"]).all():  # otherwise A is the physical button
        pressed[with_z] &= np.uint16(~BUTTONS["A"] & 0xFFFF)
    return pressed


def _hitstun(variable: pa.Array, flags: np.ndarray | None) -> np.ndarray | None:
    """Remaining hitstun, 0 outside of hitstun; None if the pipeline clipped a value.

    Args:
        variable: the action state variable, which means something else outside of hitstun, and may be NaN there.
    """
    if flags is None or variable.type != pa.float32():
        return None
    values = variable.to_numpy()
    in_hitstun = (flags & HITSTUN_FLAG) != 0
    lowest, highest = HITSTUN_BOUNDS
    if not ((values[in_hitstun] > lowest) & (values[in_hitstun] < highest)).all():
        return None
    return np.where(in_hitstun, values, np.float32(0))


def _require_countdown(players: list[Columns]) -> None:
    for columns in players:
        action = columns["action"]
        assert action is not None
        if int(action[0]) not in ENTRY_LENGTHS:
            raise ReplayError("odd_first_frame", f"the first row has action state {action[0]}, expected the countdown")
