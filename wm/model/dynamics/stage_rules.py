"""Where players die and where they come back, by stage.

In the 73 games of the project's training replays 535 of 537 players who cross the left, right or lower blast zone die
in that frame; crossing the upper one kills those whom knockback launches (`deaths.KILLING_KNOCKBACK`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from wm.model.stages import by_stage

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
RESPAWN_X: dict[int, tuple[float, float, float, float]] = {
    31: (12.8, -40.0, 40.0, -12.0),
    32: (16.0, -50.0, 50.0, -15.0),
}
"""Where the platform of each port appears, game units from the middle; in the middle on other stages. In the training
replays that is all 120 respawns on 31 and 23 on 32, and all but 6 of 237 on other stages (port 3 of 32: from the
development replays)."""
OTHER_ZONE, OTHER_HEIGHTS = (-1e4, 1e4, -1e4, 1e4), (100.0, 50.0)
"""Of a stage that is not listed: nobody dies, and the platform appears somewhere above."""


def blast_zone_table() -> Tensor:
    """Blast zones for `wm.model.stages.stage_rows`: float32 (rows, 4)."""
    return torch.tensor(by_stage(BLAST_ZONES, lambda zone: (-zone[1], -zone[0], *zone[2:]), OTHER_ZONE))


def respawn_height_table() -> Tensor:
    """First and last height of the respawn platform, for `wm.model.stages.stage_rows`: float32 (rows, 2)."""
    return torch.tensor(by_stage(RESPAWN_HEIGHTS, lambda heights: heights, OTHER_HEIGHTS))


def respawn_place_table() -> Tensor:
    """x of the respawn platform and facing of its player by port, for `wm.model.stages.stage_rows`: float32
    (rows, 4, 2). A player faces the middle, and in the middle left."""
    middle = ((0.0, -1.0),) * 4
    places = {stage: tuple((x, -1.0 if x > 0 else 1.0) for x in by_port) for stage, by_port in RESPAWN_X.items()}
    return torch.tensor(by_stage(places, lambda by_port: tuple((-x, -facing) for x, facing in by_port), middle))
