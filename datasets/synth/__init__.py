"""Synthetic replays: `.slp` files from a small platform-fighter simulation, for tests, demos and benchmarks.

Two random players fight by Melee-like rules, one frame at a time. `write_slp` encodes a game in Slippi's format.
A frame's state follows from the previous state and the controllers of the frame alone, so a world model can learn it.
"""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from datasets.runtime.errors import UserError
from datasets.runtime.splitmix64 import random_keys, random_words
from datasets.synth.faults import CORRUPTIONS, add_rollbacks
from datasets.synth.options import SynthOptions, SynthSummary
from datasets.synth.simulation import SimulatedGame, simulate
from datasets.synth.slp_layout import Layout, Version
from datasets.synth.slp_writer import frame_rows, write_slp

__all__ = ["SimulatedGame", "SynthOptions", "SynthSummary", "simulate", "synthesize", "write_slp"]


def synthesize(out: Path, options: SynthOptions) -> SynthSummary:
    """Write `out`/game-000000.slp and so on, plus `options.broken` corrupt files.

    Raises:
        UserError: `out` exists and is not an empty folder.
    """
    started = time.perf_counter()
    _create_folder(out)
    layout = Layout.of(Version.parse(options.version))
    frames = num_bytes = games = 0
    for game in simulate(options):
        data = _slp_bytes(game, options, layout)
        (out / f"game-{game.index:06d}.slp").write_bytes(data)
        games, frames, num_bytes = games + 1, frames + game.num_frames, num_bytes + len(data)
    for name, data in _corrupt_files(options, layout):
        (out / name).write_bytes(data)
        num_bytes += len(data)
    return SynthSummary(
        games=games,
        frames=frames,
        num_bytes=num_bytes,
        seconds=time.perf_counter() - started,
        broken=options.broken,
    )


def _create_folder(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty folder; name a new folder, or remove this one first")
    out.mkdir(parents=True, exist_ok=True)


def _slp_bytes(game: SimulatedGame, options: SynthOptions, layout: Layout) -> bytes:
    rows = frame_rows(game, layout)
    if options.rollbacks:
        key = random_words(random_keys(options.seed, np.array([game.index])), 3)
        rows = add_rollbacks(rows, layout, int(key[0]))
    return write_slp(game, version=options.version, rows=rows)


def _corrupt_files(options: SynthOptions, layout: Layout) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each corrupt file: all kinds in turn, from one additional game."""
    if options.broken == 0:
        return
    seed, max_frames = (options.seed + 1) % 2**63, min(options.max_frames, 2_000)
    corrupt_options = SynthOptions(num_games=1, seed=seed, version=options.version, max_frames=max_frames)
    game = next(simulate(corrupt_options))
    data = _slp_bytes(game, corrupt_options, layout)
    words = random_words(random_keys(options.seed, np.arange(options.broken)), 4)
    kinds = list(CORRUPTIONS.items())
    for number, word in enumerate(words):
        kind, corrupt = kinds[number % len(kinds)]
        yield f"broken-{number:06d}-{kind}.slp", corrupt(data, int(word))
