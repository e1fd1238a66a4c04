"""The state of all fighters in a batch of games, as flat arrays.

Shape legend: G = games in the batch, P = players (2), F = G * P fighters, game-major: fighter 2g + p is player p of
game g, and its opponent is index ^ 1. `idx`: int (n,), indices of some fighters.
"""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np

from datasets.synth import actions
from datasets.synth.actions import Action
from datasets.synth.fighters import ATTRIBUTES, attribute_table
from datasets.synth.stages import NUM_SURFACES, STAGES, blast_table, ground_id_table, surface_table

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

START_STOCKS = 4
FULL_SHIELD = 60.0
NOBODY = 6
"""`last_hit_by` before the first hit."""

STATE_FIELDS: dict[str, type] = {
    "action": np.int16, "age": np.float32, "rate": np.float32, "x": np.float32, "y": np.float32,
    "facing": np.float32, "percent": np.float32, "shield": np.float32, "speed_x": np.float32,
    "speed_y": np.float32, "knockback_x": np.float32, "knockback_y": np.float32, "hitlag": np.float32,
    "hitstun": np.float32, "stocks": np.uint8, "jumps_left": np.int8, "airborne": np.bool_, "surface": np.int64,
    "standing": np.bool_, "l_cancel": np.uint8, "invulnerable": np.int16, "hurtbox": np.uint8,
    "fast_fall": np.bool_, "connected": np.bool_, "last_attack": np.uint8, "combo": np.uint8,
    "last_hit_by": np.uint8, "instance": np.uint16, "instance_hit_by": np.uint16,
}  # fmt: skip
"""The arrays of the state and their dtypes. Lengths in game units, times in frames, speeds in units per frame.
`standing`: whether the fighter has touched the ground since its last respawn; `surface`: index of the stage's
surface."""


@dataclass(slots=True)
class World:
    """State and constants of a batch. Arrays have shape (F,) unless noted."""

    num_games: int
    action: np.ndarray = field(init=False)
    age: np.ndarray = field(init=False)
    rate: np.ndarray = field(init=False)
    x: np.ndarray = field(init=False)
    y: np.ndarray = field(init=False)
    facing: np.ndarray = field(init=False)
    percent: np.ndarray = field(init=False)
    shield: np.ndarray = field(init=False)
    speed_x: np.ndarray = field(init=False)
    speed_y: np.ndarray = field(init=False)
    knockback_x: np.ndarray = field(init=False)
    knockback_y: np.ndarray = field(init=False)
    hitlag: np.ndarray = field(init=False)
    hitstun: np.ndarray = field(init=False)
    stocks: np.ndarray = field(init=False)
    jumps_left: np.ndarray = field(init=False)
    airborne: np.ndarray = field(init=False)
    surface: np.ndarray = field(init=False)
    standing: np.ndarray = field(init=False)
    l_cancel: np.ndarray = field(init=False)
    invulnerable: np.ndarray = field(init=False)
    hurtbox: np.ndarray = field(init=False)
    fast_fall: np.ndarray = field(init=False)
    connected: np.ndarray = field(init=False)
    last_attack: np.ndarray = field(init=False)
    combo: np.ndarray = field(init=False)
    last_hit_by: np.ndarray = field(init=False)
    instance: np.ndarray = field(init=False)
    instance_hit_by: np.ndarray = field(init=False)
    attributes: dict[str, np.ndarray] = field(init=False)
    """The attributes of each fighter's `Character`, float32 (F,) each."""
    left: np.ndarray = field(init=False)
    """float32 (surfaces, F): left ends of the stage's surfaces, in game units."""
    right: np.ndarray = field(init=False)
    height: np.ndarray = field(init=False)
    ground_ids: np.ndarray = field(init=False)
    """uint16 (surfaces, F)."""
    blast: np.ndarray = field(init=False)
    """float32 (4, F): left, right, bottom and top of the blast zone, in game units."""
    everyone: np.ndarray = field(init=False)
    """int64 (F,): the index of each fighter."""
    port: np.ndarray = field(init=False)
    """uint8 (F,): port index 0 to 3."""

    def __post_init__(self) -> None:
        count = 2 * self.num_games
        for name, kind in STATE_FIELDS.items():
            setattr(self, name, np.zeros(count, kind))
        self.facing[:] = 1.0
        self.attributes = {name: np.ones(count, np.float32) for name in ATTRIBUTES}
        self.left = np.zeros((NUM_SURFACES, count), np.float32)
        self.right = np.zeros((NUM_SURFACES, count), np.float32)
        self.height = np.zeros((NUM_SURFACES, count), np.float32)
        self.ground_ids = np.zeros((NUM_SURFACES, count), np.uint16)
        self.blast = np.zeros((4, count), np.float32)
        self.port = np.zeros(count, np.uint8)
        self.everyone = np.arange(count)

    def start_games(self, games: np.ndarray, characters: np.ndarray, stages: np.ndarray, ports: np.ndarray) -> None:
        """Start new games in some slots.

        Args:
            games: int (n,), slots.
            characters: int (n, 2), rows of `CHARACTERS`.
            stages: int (n,), rows of `STAGES`.
            ports: uint8 (n, 2), port indices.
        """
        idx = (2 * games[:, None] + np.arange(2)).reshape(-1)
        stage = np.repeat(stages, 2)
        for name, kind in STATE_FIELDS.items():
            getattr(self, name)[idx] = np.zeros((), kind)
        for name, column in attribute_table().items():
            self.attributes[name][idx] = column[characters.reshape(-1)]
        self.left[:, idx], self.right[:, idx], self.height[:, idx] = surface_table()[stage].T
        self.ground_ids[:, idx] = ground_id_table()[stage].T
        self.blast[:, idx] = blast_table()[stage].T
        self.port[idx] = ports.reshape(-1)
        side = np.tile(np.array([-1, 1], np.float32), len(games))
        self.x[idx] = side * np.array([row.spawn_x for row in STAGES], np.float32)[stage]
        self.facing[idx] = -side
        self.action[idx] = Action.ENTRY
        self.age[idx] = actions.FIRST_AGE[Action.ENTRY] - 1
        self.rate[idx] = 1.0
        self.shield[idx] = FULL_SHIELD
        self.stocks[idx] = START_STOCKS
        self.jumps_left[idx] = self.attributes["jumps"][idx]
        self.standing[idx] = True
        self.last_hit_by[idx] = NOBODY

    def at_surface(self, table: np.ndarray) -> np.ndarray:
        """(F,): the entry of a table (surfaces, F) for the surface that each fighter stands on, or last stood on."""
        return table.reshape(-1).take(self.surface * len(self.x) + self.everyone)

    def set_action(self, idx: np.ndarray, action: np.ndarray | int) -> None:
        """Start an action state, and reset what belongs to the previous one."""
        self.action[idx] = action
        self.age[idx] = actions.FIRST_AGE[self.action[idx]]
        self.rate[idx] = 1.0
        self.connected[idx] = False
        self.instance[idx] += 1


def select_fighters(batch: "DataclassInstance", idx: np.ndarray, count: int) -> None:
    """Keep only the fighters `idx` of a batch of `count` fighters, in place.

    Args:
        batch: a `World`, or another slotted dataclass whose arrays have the fighters as their last axis.
    """
    for column in fields(batch):
        value = getattr(batch, column.name)
        if isinstance(value, np.ndarray) and value.shape[-1] == count:
            setattr(batch, column.name, np.ascontiguousarray(value[..., idx]))
        elif isinstance(value, dict):
            setattr(batch, column.name, {name: array[idx] for name, array in value.items()})
    if isinstance(batch, World):
        batch.everyone = np.arange(len(idx))
