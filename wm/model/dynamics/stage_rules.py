"""Where players die and where they come back, by stage.

In the 73 games of the project's training replays 535 of 537 players who cross the left, right or lower blast zone die
in that frame; crossing the upper one kills those whom knockback launches (`deaths.KILLING_KNOCKBACK`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from wm.model.encoding import STAGE_EMBEDDING

BLAST_ZONES: dict[int, tuple[float, float, float, float]] = {
    2: (-198.75, 198.75, -146.25, 202.5),
    3: (-230.0, 230.0, -111.0, 180.0),
    8: (-175.7, 173.6, -91.0, 168.0),
    28: (-255.0, 255.0, -123.0, 250.0),
    31: (-224.0, 224.0, -108.75, 200.0),
    32: (-246.0, 246.0, -140.0, 188.0),
}
"""Left, right, lower and upper blast zone by external stage id, game units."""
RESPAWN_HEIGHTS: dict[int, tuple[float, float]] = {
    2: (111.69, 63.75), 3: (119.0, 60.0), 8: (117.2, 52.5), 28: (188.24, 84.22), 31: (135.07, 80.0), 32: (112.85, 45.0),
}  # fmt: skip
"""Height at which the respawn platform appears, and at which it stops, game units."""
RESPAWN_X: dict[int, float] = {31: 12.8, 32: 16.0}
"""Distance of the platform from the middle, game units, player 0 on the right; 0 on other stages. The game alternates
between several places there, which no column tells."""
OTHER_STAGE = ((-1e4, 1e4, -1e4, 1e4), (100.0, 50.0))
"""Of a stage that is not listed: nobody dies, and the platform appears somewhere above."""


def blast_zone_table() -> Tensor:
    """Blast zones by stage id, also of mirrored stages (`wm.data.augment.mirror`): float32 (33, 4)."""
    table = torch.tensor(OTHER_STAGE[0]).repeat(STAGE_EMBEDDING[0], 1)
    for stage, (left, right, low, high) in BLAST_ZONES.items():
        table[stage] = torch.tensor([left, right, low, high])
        table[STAGE_EMBEDDING[0] - 1 - stage] = torch.tensor([-right, -left, low, high])
    return table


def respawn_table() -> Tensor:
    """Respawn platforms by stage id, also of mirrored stages: x of that of player 0, first and last height: float32
    (33, 3)."""
    table = torch.tensor([0.0, *OTHER_STAGE[1]]).repeat(STAGE_EMBEDDING[0], 1)
    for stage, heights in RESPAWN_HEIGHTS.items():
        x = RESPAWN_X.get(stage, 0.0)
        table[stage] = torch.tensor([x, *heights])
        table[STAGE_EMBEDDING[0] - 1 - stage] = torch.tensor([-x, *heights])
    return table
