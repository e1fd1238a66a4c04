"""Replays for those who have none: `.slp` files from a small platform-fighter simulation.

Two random players fight by Melee-like rules in steps of one frame; `write_slp` puts a game into Slippi's format.
The state of a frame follows from the state before and this frame's controllers alone, so a world model can learn it.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datasets.runtime.errors import UserError
from datasets.runtime.splitmix64 import random_keys, random_words
from datasets.synth.faults import BROKEN, add_rollbacks
from datasets.synth.options import SynthOptions, SynthSummary
from datasets.synth.simulation import SimulatedGame, simulate
from datasets.synth.slp_layout import Layout, Version
from datasets.synth.slp_writer import frame_rows, write_slp

__all__ = ["SimulatedGame", "SynthOptions", "SynthSummary", "simulate", "synthesise", "write_slp"]


def synthesise(out: Path, options: SynthOptions) -> SynthSummary:
    """Writes `out`/game-000000.slp and so on, and the broken files asked for.

    Raises:
        UserError: `out` exists and is not an empty folder.
    """
    started = time.perf_counter()
    _claim(out)
    layout = Layout.of(Version.parse(options.version))
    frames = num_bytes = games = 0
    for game in simulate(options):
        data = _file(game, options, layout)
        (out / f"game-{game.index:06d}.slp").write_bytes(data)
        games, frames, num_bytes = games + 1, frames + game.num_frames, num_bytes + len(data)
    for name, data in _broken_files(options, layout):
        (out / name).write_bytes(data)
        num_bytes += len(data)
    return SynthSummary(
        games=games,
        frames=frames,
        num_bytes=num_bytes,
        seconds=time.perf_counter() - started,
        broken=options.broken,
    )


def _claim(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty folder: name a new folder, or remove this one first")
    out.mkdir(parents=True, exist_ok=True)


def _file(game: SimulatedGame, options: SynthOptions, layout: Layout) -> bytes:
    rows = frame_rows(game, layout)
    if options.rollbacks:
        key = random_words(random_keys(options.seed, np.array([game.index])), 3)
        rows = add_rollbacks(rows, layout, int(key[0]))
    return write_slp(game, version=options.version, rows=rows)


def _broken_files(options: SynthOptions, layout: Layout) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of each broken file: the kinds in turn, all made from one further game."""
    if options.broken == 0:
        return
    seed, max_frames = (options.seed + 1) % 2**63, min(options.max_frames, 2_000)
    spoiled = SynthOptions(num_games=1, seed=seed, version=options.version, max_frames=max_frames)
    game = next(simulate(spoiled))
    data = _file(game, spoiled, layout)
    words = random_words(random_keys(options.seed, np.arange(options.broken)), 4)
    kinds = list(BROKEN.items())
    for number, word in enumerate(words):
        kind, spoil = kinds[number % len(kinds)]
        yield f"broken-{number:06d}-{kind}.slp", spoil(data, int(word))
