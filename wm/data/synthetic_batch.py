"""A synthetic batch with the shapes, dtypes and value ranges of real frames, which needs no corpus."""

from __future__ import annotations

import torch

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GAME_COLUMNS
from datasets.schema.columns import NUM_PLAYERS
from wm.config.run_config import RunConfig
from wm.data.batches import LocalBatch
from wm.model.encoding import EMBEDDINGS, STAGE_EMBEDDING, STICK_GRID, STICKS, TRIGGER_GRID, Frames

POSITION_SPREAD = 10.0
"""Standard deviation of every float column, raw units."""
CODE_RANGES: dict[str, tuple[int, int]] = {
    "stocks": (0, 4), "combo": (0, 12), "airborne": (0, 1), "facing": (-1, 1), "trigger": (0, int(TRIGGER_GRID)),
    "buttons": (0, 0x0FFF), "ground": (-1, EMBEDDINGS["ground"][0] - 2),
    "last_hit_by": (0, 6), **dict.fromkeys(("flags_0", "flags_1", "flags_2", "flags_3", "flags_4"), (0, 255)),
    **{name: (-int(STICK_GRID), int(STICK_GRID)) for name in STICKS},
}  # fmt: skip
"""Lowest and highest value of a code column; the others are categories, from 0."""


def synthetic_batch(config: RunConfig, num_examples: int, device: torch.device, *, workers: int = 1) -> LocalBatch:
    """One worker's part of a batch; deterministic.

    Args:
        num_examples: per worker.
    """
    random = torch.Generator().manual_seed(0)
    shape = num_examples, config.objective.example_frames, NUM_PLAYERS
    floats = torch.randn(*shape, len(FLOAT_COLUMNS), generator=random).mul_(POSITION_SPREAD)
    codes = torch.empty(*shape, len(CODE_COLUMNS), dtype=torch.int16)
    for column, name in enumerate(CODE_COLUMNS):
        low, high = CODE_RANGES[name] if name in CODE_RANGES else (0, EMBEDDINGS[name][0] - 1)
        codes[..., column] = torch.randint(low, high + 1, shape, generator=random, dtype=torch.int16)
    game = torch.ones(num_examples, len(GAME_COLUMNS), dtype=torch.int16)
    game[:, 0] = torch.randint(0, STAGE_EMBEDDING[0], (num_examples,), generator=random, dtype=torch.int16)
    game = game.to(device)
    return LocalBatch(
        frames=Frames(floats=floats.to(device), codes=codes.to(device), game=game),
        game=game.repeat(workers, 1),
        num_examples=num_examples * workers,
    )
