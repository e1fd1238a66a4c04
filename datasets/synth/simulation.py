"""Runs many games in lockstep and hands each one back as arrays when it is over.

Shape legend: G = games at once, P = players (2), T = frames of a game, F = G * P, S = steps of a block.
Guarded by `benchmarks/synth.py`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from datasets.runtime.splitmix64 import bit_field, random_keys, random_words
from datasets.synth import combat, physics, rules
from datasets.synth.controllers import Pads
from datasets.synth.fighters import CHARACTERS
from datasets.synth.options import FIRST_FRAME, SynthOptions
from datasets.synth.players import Players
from datasets.synth.recorder import BLOCK_STEPS, Recorder
from datasets.synth.stages import STAGES
from datasets.synth.state import World, keep_fighters

LAST_BREATH = 8
"""Frames that a game still lasts after its last stock is lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedGame:
    """One game, frame by frame; frame i has id i - 123."""

    index: int
    """Number of the game in its run."""
    stage: int
    """Row of `STAGES`."""
    characters: tuple[int, int]
    """Rows of `CHARACTERS`."""
    ports: tuple[int, int]
    """Port indices, 0 to 3, ascending."""
    costumes: tuple[int, int]
    random_seed: int
    """The game's own seed, as Game Start shows it."""
    columns: dict[str, np.ndarray]
    """(T, 2) each: `PAD_COLUMNS` and `POST_COLUMNS`."""
    timed_out: bool
    """Ended by `max_frames`, not by stocks."""

    @property
    def num_frames(self) -> int:
        """T, frames before id 0 included."""
        return len(self.columns["x"])

    @property
    def winner(self) -> int:
        """0 or 1: more stocks, then less percent, then the lower port."""
        stocks, percent = self.columns["stocks"][-1].astype(int), self.columns["percent"][-1]
        if stocks[0] != stocks[1]:
            return int(stocks[1] > stocks[0])
        return int(percent[1] < percent[0])


def step(world: World, pads: Pads) -> None:
    """One frame: state and this frame's controllers give the next state, in place."""
    active, stun_over = combat.count_down(world, pads)
    rules.choose_actions(world, pads, active, stun_over)
    physics.update_velocity(world, pads, active)
    physics.move(world, pads, active)
    combat.shields(world, active)
    combat.hurtboxes(world)
    combat.hits(world, active)
    combat.deaths(world)
    combat.end_combos(world)


def simulate(options: SynthOptions) -> Iterator[SimulatedGame]:
    """Plays `options.num_games` games; they come in the order in which they end.

    Memory: about 154 bytes per frame of every unfinished game.
    """
    yield from _Batch(options).run()


class _Batch:
    """The slots of a batch, the history of the games in them, and which game sits where."""

    def __init__(self, options: SynthOptions) -> None:
        self.options = options
        self.slots = max(1, min(options.batch_games, options.num_games))
        self.world, self.pads, self.players = World(self.slots), Pads(self.slots), Players(self.slots)
        self.frame = np.zeros(self.slots, np.int64)
        self.game = np.full(self.slots, -1, np.int64)
        self.over_at = np.zeros(self.slots, np.int64)
        self.next_game = 0
        self.recorder = Recorder(self.slots)
        self.setup: dict[int, tuple] = {}

    def run(self) -> Iterator[SimulatedGame]:
        self._fill(np.arange(self.slots))
        while (self.game >= 0).any():
            for row in range(BLOCK_STEPS):
                self._step(row)
            self.recorder.keep_block(np.flatnonzero(self.game >= 0))
            done = np.flatnonzero((self.game >= 0) & (self.over_at >= 0))
            for slot in done:
                yield self._finish(int(slot))
            self._fill(done)
            self._shrink()

    def _step(self, row: int) -> None:
        self.pads.set(*self.players.next_frame(self.world, self.frame))
        step(self.world, self.pads)
        self.recorder.record(row, self.world, self.pads)
        dead = (self.world.stocks == 0) & (self.world.age >= LAST_BREATH)
        over = dead.reshape(-1, 2).any(1) | (self.frame + 1 >= self.options.max_frames)
        self.over_at = np.where(over & (self.over_at < 0), self.frame, self.over_at)
        self.frame += 1

    def _fill(self, slots: np.ndarray) -> None:
        """Starts the next games in these slots, or leaves them empty when there are none left."""
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
        self.game[slots], self.frame[slots], self.over_at[slots] = games, FIRST_FRAME, -1
        for i, slot in enumerate(slots):
            seed = int(bit_field(keys[i : i + 1], 0, 32)[0])
            self.setup[int(slot)] = (int(stages[i]), characters[i], ports[i], costumes[i], seed)

    def _shrink(self) -> None:
        """Drops the empty slots once they are the majority: the last games need not pay for all the others."""
        kept = np.flatnonzero(self.game >= 0)
        if len(kept) == 0 or 2 * len(kept) > self.slots:
            return
        who = (2 * kept[:, None] + np.arange(2)).reshape(-1)
        for part in (self.world, self.pads, self.players):
            keep_fighters(part, who, 2 * self.slots)
        self.recorder.keep_slots(kept)
        self.game, self.frame, self.over_at = self.game[kept], self.frame[kept], self.over_at[kept]
        self.setup = {new: self.setup[int(old)] for new, old in enumerate(kept)}
        self.slots = len(kept)

    def _finish(self, slot: int) -> SimulatedGame:
        num_frames = int(self.over_at[slot]) + 1 - FIRST_FRAME
        columns = self.recorder.take(slot, num_frames)
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
