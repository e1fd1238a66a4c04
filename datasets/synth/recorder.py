"""Keeps the history of the games in a batch, column by column, until each is over.

Shape legend: G = slots, F = 2 G fighters, S = steps of a block, T = frames of a game, C = columns of one width.
Columns of one width share an array: a block of 31 columns is moved in three pieces per game and not in 31.
"""

import numpy as np

from datasets.synth.controllers import Pads
from datasets.synth.state import World

BLOCK_STEPS = 63
"""Games start and end on multiples of this many steps, so that history is moved in large pieces.
A multiple of `players.DECISION_FRAMES`, so that all games decide in the same steps."""
PAD_COLUMNS = {
    "stick_x_steps": np.int8, "stick_y_steps": np.int8, "c_x_steps": np.int8, "c_y_steps": np.int8,
    "trigger_steps": np.uint8, "buttons": np.uint16,
}  # fmt: skip
"""Controllers of a `SimulatedGame`: sticks in steps of 1/80, trigger in 1/140, physical buttons."""
POST_COLUMNS = {
    "state": np.uint16, "x": np.float32, "y": np.float32, "direction": np.float32, "percent": np.float32,
    "shield": np.float32, "last_attack_landed": np.uint8, "combo_count": np.uint8, "last_hit_by": np.uint8,
    "stocks": np.uint8, "state_age": np.float32, "misc_as": np.float32, "airborne": np.bool_, "ground": np.uint16,
    "jumps": np.uint8, "l_cancel": np.uint8, "hurtbox_state": np.uint8, "self_x_air": np.float32,
    "self_y": np.float32, "knockback_x": np.float32, "knockback_y": np.float32, "hitlag": np.float32,
    "fast_fall": np.bool_, "instance_hit_by": np.uint16, "instance_id": np.uint16,
}  # fmt: skip
"""Post-frame state of a `SimulatedGame`, in the units of SPEC.md (Post-Frame Update). While grounded `self_x_air` is
the ground speed too, as in Melee. `misc_as` is the hitstun (or shield stun) remaining."""
_SOURCE = {
    "state": "action", "direction": "facing", "last_attack_landed": "last_attack", "combo_count": "combo",
    "state_age": "age", "misc_as": "hitstun", "jumps": "jumps_left", "hurtbox_state": "hurtbox",
    "self_x_air": "speed_x", "self_y": "speed_y", "instance_id": "instance",
}  # fmt: skip
_KINDS = PAD_COLUMNS | POST_COLUMNS
_WIDTHS = {1: np.uint8, 2: np.uint16, 4: np.float32}
_PLACES: dict[str, tuple[int, int]] = {}
for _name, _kind in _KINDS.items():
    _width = np.dtype(_kind).itemsize
    _PLACES[_name] = (_width, sum(width == _width for width, _ in _PLACES.values()))


class Recorder:
    """History of a batch: about 154 bytes per frame of every unfinished game."""

    def __init__(self, slots: int) -> None:
        self.history: list[list[dict[int, np.ndarray]]] = [[] for _ in range(slots)]
        self._resize(slots)

    def _resize(self, slots: int) -> None:
        self.slots = slots
        counts = {width: sum(place[0] == width for place in _PLACES.values()) for width in _WIDTHS}
        self.block = {width: np.zeros((counts[width], BLOCK_STEPS, 2 * slots), kind) for width, kind in _WIDTHS.items()}

    def keep_slots(self, slots: np.ndarray) -> None:
        """Drops all slots but these (int (n,)); only between two blocks."""
        self.history = [self.history[slot] for slot in slots]
        self._resize(len(slots))

    def record(self, step: int, world: World, pads: Pads) -> None:
        """Notes the state and the controllers of everyone as step number `step` of the block."""
        for name, (width, place) in _PLACES.items():
            if name in PAD_COLUMNS:
                column = getattr(pads, name)
            elif name == "ground":
                column = np.where(world.standing, world.at_surface(world.ground_ids), np.uint16(65535))
            else:
                column = getattr(world, _SOURCE.get(name, name))
            self.block[width][place, step] = column.view(np.uint8) if width == 1 else column

    def keep_block(self, slots: np.ndarray) -> None:
        """Moves the full block to the histories of the slots (int (n,)) that hold a game."""
        turned = {}
        for width, block in self.block.items():
            split = block.reshape(len(block), BLOCK_STEPS, self.slots, 2)
            turned[width] = np.ascontiguousarray(np.moveaxis(split, 2, 0))
        for slot in slots:
            # A copy per slot: a view would keep the whole block in memory until its longest game ends.
            self.history[slot].append({width: pieces[slot].copy() for width, pieces in turned.items()})

    def take(self, slot: int, num_frames: int) -> dict[str, np.ndarray]:
        """Hands out the first `num_frames` frames of a slot as (T, 2) columns and forgets the slot's history."""
        parts, self.history[slot] = self.history[slot], []
        joined = {width: np.concatenate([part[width] for part in parts], 1)[:, :num_frames] for width in _WIDTHS}
        columns = {name: joined[width][place] for name, (width, place) in _PLACES.items()}
        return {name: column.view(_KINDS[name]) for name, column in columns.items()}
