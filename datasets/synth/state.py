"""The state of all fighters of a batch, as flat arrays.

Shape legend: G = games simulated at once, P = players (2), F = G * P fighters, game-major: fighter 2g + p is player p
of game g, its opponent is fighter index XOR 1.
"""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np

from datasets.synth import moves
from datasets.synth.fighters import TUNING, tuning_table
from datasets.synth.moves import Action
from datasets.synth.stages import NUM_SURFACES, STAGES, blast_table, ground_id_table, surface_table

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

START_STOCKS = 4
FULL_SHIELD = 60.0
NOBODY = 6
"""`last_hit_by` while nobody has hit this fighter."""

STATE_FIELDS: dict[str, type] = {
    "action": np.int16, "age": np.float32, "rate": np.float32, "x": np.float32, "y": np.float32,
    "facing": np.float32, "percent": np.float32, "shield": np.float32, "speed_x": np.float32,
    "speed_y": np.float32, "knockback_x": np.float32, "knockback_y": np.float32, "hitlag": np.float32,
    "hitstun": np.float32, "stocks": np.uint8, "jumps_left": np.int8, "airborne": np.bool_, "surface": np.int64,
    "standing": np.bool_, "l_cancel": np.uint8, "invulnerable": np.int16, "hurtbox": np.uint8,
    "fast_fall": np.bool_, "connected": np.bool_, "last_attack": np.uint8, "combo": np.uint8,
    "last_hit_by": np.uint8, "instance": np.uint16, "instance_hit_by": np.uint16,
}  # fmt: skip
"""Every array of the state and its dtype. Lengths are game units, times frames, speeds units per frame; `standing` is
whether the fighter has stood on any ground in this life; `surface` is an index into the stage's surfaces."""


@dataclass(slots=True)
class World:
    """State and constants of a batch; each array has shape (F,) unless said otherwise."""

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
    tuning: dict[str, np.ndarray] = field(init=False)
    """`Character` numbers of each fighter, float32 (F,) each."""
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
        self.tuning = {name: np.ones(count, np.float32) for name in TUNING}
        self.left = np.zeros((NUM_SURFACES, count), np.float32)
        self.right = np.zeros((NUM_SURFACES, count), np.float32)
        self.height = np.zeros((NUM_SURFACES, count), np.float32)
        self.ground_ids = np.zeros((NUM_SURFACES, count), np.uint16)
        self.blast = np.zeros((4, count), np.float32)
        self.port = np.zeros(count, np.uint8)
        self.everyone = np.arange(count)

    def start_games(self, games: np.ndarray, characters: np.ndarray, stages: np.ndarray, ports: np.ndarray) -> None:
        """Puts new games into slots.

        Args:
            games: int (n,), slots.
            characters: int (n, 2), rows of `CHARACTERS`.
            stages: int (n,), rows of `STAGES`.
            ports: uint8 (n, 2), port indices.
        """
        who = (2 * games[:, None] + np.arange(2)).reshape(-1)
        stage = np.repeat(stages, 2)
        for name, kind in STATE_FIELDS.items():
            getattr(self, name)[who] = np.zeros((), kind)
        for name, column in tuning_table().items():
            self.tuning[name][who] = column[characters.reshape(-1)]
        self.left[:, who], self.right[:, who], self.height[:, who] = surface_table()[stage].T
        self.ground_ids[:, who] = ground_id_table()[stage].T
        self.blast[:, who] = blast_table()[stage].T
        self.port[who] = ports.reshape(-1)
        side = np.tile(np.array([-1, 1], np.float32), len(games))
        self.x[who] = side * np.array([row.spawn_x for row in STAGES], np.float32)[stage]
        self.facing[who] = -side
        self.action[who] = Action.ENTRY
        self.age[who] = moves.FIRST_AGE[Action.ENTRY] - 1
        self.rate[who] = 1.0
        self.shield[who] = FULL_SHIELD
        self.stocks[who] = START_STOCKS
        self.jumps_left[who] = self.tuning["jumps"][who]
        self.standing[who] = True
        self.last_hit_by[who] = NOBODY

    def at_surface(self, table: np.ndarray) -> np.ndarray:
        """(F,): the entry of a table (surfaces, F) at the surface each fighter stands or last stood on."""
        return table.reshape(-1).take(self.surface * len(self.x) + self.everyone)

    def set_action(self, who: np.ndarray, action: np.ndarray | int) -> None:
        """Starts a state for the fighters `who` (int (n,)): age, rate and what belongs to the old state are reset."""
        self.action[who] = action
        self.age[who] = moves.FIRST_AGE[self.action[who]]
        self.rate[who] = 1.0
        self.connected[who] = False
        self.instance[who] += 1


def keep_fighters(batch: "DataclassInstance", who: np.ndarray, count: int) -> None:
    """Drops, in place, all fighters but `who` (int (n,)) from the arrays of a batch of `count` fighters.

    Args:
        batch: a `World`, or another slotted dataclass whose arrays all have the fighters as their last axis.
    """
    for column in fields(batch):
        value = getattr(batch, column.name)
        if isinstance(value, np.ndarray) and value.shape[-1] == count:
            setattr(batch, column.name, np.ascontiguousarray(value[..., who]))
        elif isinstance(value, dict):
            setattr(batch, column.name, {name: array[who] for name, array in value.items()})
    if isinstance(batch, World):
        batch.everyone = np.arange(len(who))
