"""Simulates many games together, frame by frame, and yields each game as arrays once it ends.

Shape legend: G = games in the batch, P = players (2), T = frames of a game, F = G * P fighters, S = steps of a block,
C = columns of one width. `benchmarks/inputs/synth.py` measures the speed.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from datasets.runtime.splitmix64 import bit_field, random_keys, random_words
from datasets.synth import combat, physics, rules
from datasets.synth.controllers import Controllers
from datasets.synth.fighters import CHARACTERS
from datasets.synth.options import FIRST_FRAME, SynthOptions
from datasets.synth.players import Players
from datasets.synth.stages import STAGES
from datasets.synth.state import World, select_fighters

END_DELAY_FRAMES = 8
"""Frames from the loss of the last stock to the end of the game."""
BLOCK_STEPS = 63
"""Games start and end on multiples of this many steps, so that history is copied in large blocks. A multiple of
`players.DECISION_FRAMES`, so that all players decide in the same steps."""
CONTROLLER_COLUMNS = {
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
"""Post-frame state of a `SimulatedGame`, in the units of SPEC.md (Post-Frame Update). On the ground `self_x_air` is the
ground speed, as in Melee. `misc_as` is the remaining hitstun or shield stun."""
_STATE_NAMES = {
    "state": "action", "direction": "facing", "last_attack_landed": "last_attack", "combo_count": "combo",
    "state_age": "age", "misc_as": "hitstun", "jumps": "jumps_left", "hurtbox_state": "hurtbox",
    "self_x_air": "speed_x", "self_y": "speed_y", "instance_id": "instance",
}  # fmt: skip
_DTYPES = CONTROLLER_COLUMNS | POST_COLUMNS
_WIDTHS = {1: np.uint8, 2: np.uint16, 4: np.float32}
"""Bytes of a value -> dtype of the block that holds all columns of this width."""
_COLUMNS_BY_WIDTH = {
    width: [name for name, dtype in _DTYPES.items() if np.dtype(dtype).itemsize == width] for width in _WIDTHS
}


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedGame:
    """One game. Frame i has the id i - 123."""

    index: int
    """Index of the game in its run."""
    stage: int
    """Row of `STAGES`."""
    characters: tuple[int, int]
    """Rows of `CHARACTERS`."""
    ports: tuple[int, int]
    """Port indices, 0 to 3, ascending."""
    costumes: tuple[int, int]
    random_seed: int
    """The random seed in Game Start."""
    columns: dict[str, np.ndarray]
    """(T, 2) each: `CONTROLLER_COLUMNS` and `POST_COLUMNS`."""
    timed_out: bool
    """Whether `max_frames` ended the game, not the stocks."""

    @property
    def is_quit(self) -> bool:
        """Whether the loser quits a game that ends before its time: as most real ones do."""
        return True

    @property
    def num_frames(self) -> int:
        """T, including the frames before id 0."""
        return len(self.columns["x"])

    @property
    def stage_id(self) -> int:
        """External id."""
        return STAGES[self.stage].stage_id

    @property
    def external_characters(self) -> tuple[int, int]:
        """External ids."""
        return CHARACTERS[self.characters[0]].external_id, CHARACTERS[self.characters[1]].external_id

    @property
    def internal_characters(self) -> np.ndarray:
        """uint8 (2,), internal ids."""
        return np.array([CHARACTERS[row].internal_id for row in self.characters], np.uint8)

    @property
    def winner(self) -> int:
        """0 or 1: the player with more stocks, then with less percent, then with the lower port."""
        stocks, percent = self.columns["stocks"][-1].astype(int), self.columns["percent"][-1]
        if stocks[0] != stocks[1]:
            return int(stocks[1] > stocks[0])
        return int(percent[1] < percent[0])


def step(world: World, pads: Controllers) -> None:
    """Advance the state by one frame, in place."""
    active, stun_over = combat.tick_timers(world, pads)
    rules.choose_actions(world, pads, active, stun_over)
    physics.update_velocity(world, pads, active)
    physics.move(world, pads, active)
    combat.update_shields(world, active)
    combat.update_hurtboxes(world)
    combat.resolve_hits(world, active)
    combat.resolve_deaths(world)
    combat.reset_combos(world)


def simulate(options: SynthOptions) -> Iterator[SimulatedGame]:
    """Simulate `options.num_games` games. They are yielded in the order in which they end.

    Memory: about 154 bytes per frame of every unfinished game.
    """
    yield from _Batch(options).run()


class _History:
    """The recorded frames of the games in a batch: about 154 bytes per frame of every unfinished game.

    Columns of one width share an array, so that a block of 31 columns is copied in three pieces per game.
    """

    def __init__(self, slots: int) -> None:
        self._blocks_of_slot: list[list[dict[int, np.ndarray]]] = [[] for _ in range(slots)]
        self._allocate(slots)

    def _allocate(self, slots: int) -> None:
        self._slots = slots
        self._block = {
            width: np.zeros((len(_COLUMNS_BY_WIDTH[width]), BLOCK_STEPS, 2 * slots), dtype)
            for width, dtype in _WIDTHS.items()
        }

    def select_slots(self, slots: np.ndarray) -> None:
        """Keep only these slots (int (n,)). Call it between two blocks."""
        self._blocks_of_slot = [self._blocks_of_slot[slot] for slot in slots]
        self._allocate(len(slots))

    def record(self, step: int, world: World, pads: Controllers) -> None:
        """Store the state and the controllers as step number `step` of the current block."""
        for width, names in _COLUMNS_BY_WIDTH.items():
            for position, name in enumerate(names):
                if name in CONTROLLER_COLUMNS:
                    column = getattr(pads, name)
                elif name == "ground":
                    column = np.where(world.standing, world.at_surface(world.ground_ids), np.uint16(65535))
                else:
                    column = getattr(world, _STATE_NAMES.get(name, name))
                self._block[width][position, step] = column.view(np.uint8) if width == 1 else column

    def store_block(self, slots: np.ndarray) -> None:
        """Append the current block to the history of the slots (int (n,)) that hold a game."""
        by_slot = {}
        for width, block in self._block.items():
            split = block.reshape(len(block), BLOCK_STEPS, self._slots, 2)
            by_slot[width] = np.ascontiguousarray(np.moveaxis(split, 2, 0))
        for slot in slots:
            # A copy per slot: a view would keep the whole block in memory until its longest game ends.
            self._blocks_of_slot[slot].append({width: pieces[slot].copy() for width, pieces in by_slot.items()})

    def pop(self, slot: int, num_frames: int) -> dict[str, np.ndarray]:
        """Remove the history of a slot, and return its first `num_frames` frames as (T, 2) columns."""
        blocks, self._blocks_of_slot[slot] = self._blocks_of_slot[slot], []
        columns = {}
        for width, names in _COLUMNS_BY_WIDTH.items():
            joined = np.concatenate([block[width] for block in blocks], 1)[:, :num_frames]
            columns |= {name: joined[position].view(_DTYPES[name]) for position, name in enumerate(names)}
        return columns


class _Batch:
    """The games that are simulated together, one per slot."""

    def __init__(self, options: SynthOptions) -> None:
        self.options = options
        self.slots = max(1, min(options.batch_games, options.num_games))
        self.world, self.pads, self.players = World(self.slots), Controllers(self.slots), Players(self.slots)
        self.frame = np.zeros(self.slots, np.int64)
        self.game = np.full(self.slots, -1, np.int64)
        self.last_frame = np.zeros(self.slots, np.int64)
        self.next_game = 0
        self.history = _History(self.slots)
        self.setup: dict[int, tuple] = {}

    def run(self) -> Iterator[SimulatedGame]:
        self._start_games(np.arange(self.slots))
        while (self.game >= 0).any():
            for row in range(BLOCK_STEPS):
                self._step(row)
            self.history.store_block(np.flatnonzero(self.game >= 0))
            done = np.flatnonzero((self.game >= 0) & (self.last_frame >= 0))
            for slot in done:
                yield self._finish(int(slot))
            self._start_games(done)
            self._drop_empty_slots()

    def _step(self, row: int) -> None:
        self.pads.set(*self.players.next_frame(self.world, self.frame))
        step(self.world, self.pads)
        self.history.record(row, self.world, self.pads)
        dead = (self.world.stocks == 0) & (self.world.age >= END_DELAY_FRAMES)
        over = dead.reshape(-1, 2).any(1) | (self.frame + 1 >= self.options.max_frames)
        self.last_frame = np.where(over & (self.last_frame < 0), self.frame, self.last_frame)
        self.frame += 1

    def _start_games(self, slots: np.ndarray) -> None:
        """Start the next games in these slots; slots remain empty once all games have started."""
        self.game[slots] = -1
        slots = slots[: self.options.num_games - self.next_game]
        if len(slots) == 0:
            return
        games = self.next_game + np.arange(len(slots))
        self.next_game += len(slots)
        keys = random_keys(self.options.seed, games)
        words = random_words(keys, 1)
        stages = bit_field(words, 0, 16) % len(STAGES)
        characters = np.stack([bit_field(words, at, 16) % len(CHARACTERS) for at in (16, 32)], 1)
        costumes = np.stack([bit_field(words, at, 8) % 4 for at in (48, 56)], 1)
        ports = np.tile(np.arange(2), (len(slots), 1))
        if self.options.random_ports:
            pairs = np.array([(a, b) for a in range(4) for b in range(a + 1, 4)])
            ports = pairs[bit_field(random_words(keys, 2), 0, 16) % len(pairs)]
        self.world.start_games(slots, characters, stages, ports.astype(np.uint8))
        self.players.start_games(slots, keys)
        self.game[slots], self.frame[slots], self.last_frame[slots] = games, FIRST_FRAME, -1
        for i, slot in enumerate(slots):
            seed = int(bit_field(keys[i : i + 1], 0, 32)[0])
            self.setup[int(slot)] = (int(stages[i]), characters[i], ports[i], costumes[i], seed)

    def _drop_empty_slots(self) -> None:
        """Remove the empty slots once they are the majority, so that the last games do not cost a full batch."""
        kept = np.flatnonzero(self.game >= 0)
        if len(kept) == 0 or 2 * len(kept) > self.slots:
            return
        idx = (2 * kept[:, None] + np.arange(2)).reshape(-1)
        for part in (self.world, self.pads, self.players):
            select_fighters(part, idx, 2 * self.slots)
        self.history.select_slots(kept)
        self.game, self.frame, self.last_frame = self.game[kept], self.frame[kept], self.last_frame[kept]
        self.setup = {new: self.setup[int(old)] for new, old in enumerate(kept)}
        self.slots = len(kept)

    def _finish(self, slot: int) -> SimulatedGame:
        num_frames = int(self.last_frame[slot]) + 1 - FIRST_FRAME
        columns = self.history.pop(slot, num_frames)
        stage, characters, ports, costumes, seed = self.setup.pop(slot)
        return SimulatedGame(
            index=int(self.game[slot]),
            stage=stage,
            characters=(int(characters[0]), int(characters[1])),
            ports=(int(ports[0]), int(ports[1])),
            costumes=(int(costumes[0]), int(costumes[1])),
            random_seed=seed,
            columns=columns,
            timed_out=bool((columns["stocks"][-1] > 0).all()),
        )
