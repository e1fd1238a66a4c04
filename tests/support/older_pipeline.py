"""Writes the older pipelines' forms for tests: the rows of a .slp in recording order, without frame ids.

Modelled on the real files of the three forms; `test_parsed_games.py` compares it with them.
"""

from __future__ import annotations

import io
import tempfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import peppi_py
import pyarrow as pa
import pyarrow.parquet as pq

from datasets.legacy.parsed_game import BUTTON_FIELDS, BUTTONS, FIELDS, HITSTUN, STICKS

INTERNAL_STAGES = {2: 8, 3: 18, 8: 6, 28: 26, 31: 24, 32: 25}
SLIPPI_DB_FIELDS = ("percent", "x", "y", "action", "character", "jumps", "shield")
FLAGS = tuple(f"flags_{index}" for index in range(5))


class Recording:
    """All rows of a .slp, in recording order."""

    def __init__(self, content: bytes) -> None:
        with tempfile.NamedTemporaryFile(suffix=".slp") as file:
            file.write(content)
            file.flush()
            self.game = peppi_py.read_slippi(file.name)
        self.frame_ids = self.game.frames.id.to_numpy()
        self.final_rows = len(self.frame_ids) - 1 - np.unique(self.frame_ids[::-1], return_index=True)[1]

    def fields(self, form: str) -> dict[str, np.ndarray]:
        """The fields of a form, by path below `root`."""
        fields = {}
        for player, port in enumerate(self.game.frames.ports):
            of_player = self._player(port.leader.pre, port.leader.post, form)
            fields |= {f"p{player}.{name}": values for name, values in of_player.items()}
        stage = self.game.start.stage
        fields["stage"] = self._constant(INTERNAL_STAGES[stage] if form == "slippi-db" else stage, np.int64)
        return fields

    def _constant(self, value: float, dtype: Any) -> np.ndarray:
        return np.full(len(self.frame_ids), value, dtype=dtype)

    def _player(self, pre: Any, post: Any, form: str) -> dict[str, np.ndarray]:
        fields = {
            "facing": (post.direction.to_numpy() > 0).astype(np.float32),
            "on_ground": post.airborne.to_numpy() == 0,
            "controller.shoulder": pre.triggers.to_numpy(),
        }
        sticks = {"main_x": pre.joystick.x, "main_y": pre.joystick.y, "c_x": pre.cstick.x, "c_y": pre.cstick.y}
        for name, values in sticks.items():
            fields[STICKS[name]] = values.to_numpy() / np.float32(2) + np.float32(0.5)
        pressed = pre.buttons_physical.to_numpy()
        pressed = pressed | np.where(pressed & BUTTONS["Z"], BUTTONS["A"], 0).astype(np.uint16)
        for field, bit in BUTTON_FIELDS.items():
            fields[field] = (pressed & bit) != 0
        for name, field in FIELDS.items():
            if (form == "parsed-v2" and name in FLAGS) or (form == "slippi-db" and name not in SLIPPI_DB_FIELDS):
                continue
            fields[field] = self._post(post, name)
        if form == "parsed-v3":
            fields[HITSTUN] = np.clip(self._post(post, "hitstun"), 0, 200)
        if form == "slippi-db":
            fields["percent"] = fields["percent"].astype(np.uint16)
            fields["facing"] = fields["facing"] > 0
        return fields

    def _post(self, post: Any, name: str) -> np.ndarray:
        velocities, flags = post.velocities, post.state_flags
        source = {
            "action": post.state, "x": post.position.x, "y": post.position.y, "last_attack": post.last_attack_landed,
            "combo": post.combo_count, "hurtbox": post.hurtbox_state, "hitstun": post.misc_as,
            "self_air_x": velocities and velocities.self_x_air, "self_y": velocities and velocities.self_y,
            "attack_x": velocities and velocities.knockback_x, "attack_y": velocities and velocities.knockback_y,
            "self_ground_x": velocities and velocities.self_x_ground,
            **{f"flags_{index}": flags and flags[index] for index in range(5)},
        }  # fmt: skip
        values = source[name] if name in source else getattr(post, name)
        if values is None:
            return self._constant(0, np.float32)
        array = values.to_numpy()
        return array.astype(np.float32) if name == "stocks" else array


def stored(fields: Mapping[str, np.ndarray | pa.Array]) -> bytes:
    """The file that the pipelines write for some fields, by path below `root`."""
    buffer = io.BytesIO()
    pq.write_table(pa.table({"root": _struct(fields)}), buffer)
    return zlib.compress(buffer.getvalue(), 1)


def _struct(fields: Mapping[str, np.ndarray | pa.Array]) -> pa.Array:
    below: dict[str, dict[str, np.ndarray | pa.Array]] = {}
    for path, values in fields.items():
        name, _, rest = path.partition(".")
        below.setdefault(name, {})[rest] = values
    arrays = [pa.array(inner[""]) if "" in inner else _struct(inner) for inner in below.values()]
    return pa.StructArray.from_arrays(arrays, names=list(below))
