"""Stages as a network's tables have them: their surfaces, and one row for each stage and each mirrored stage.

Shape legend: B = batch, T = frames, P = players (2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from wm.model.encoding import NUM_STAGES, Frames

Point = tuple[float, float]
Row = TypeVar("Row")

_FIRST_MIRRORED = NUM_STAGES + 1
"""Row of a table for stage 0 mirrored. The row before, and the last one, are of ids that are no stage between two
players."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Surfaces:
    """What stands still of a stage, game units."""

    floor: tuple[Point, ...]
    """The upper side of the main platform, from the left ledge to the right one."""
    platforms: tuple[tuple[float, float, float], ...] = ()
    """Left end, right end and height."""

    @property
    def mirrored(self) -> Surfaces:
        """Left and right exchanged."""
        return Surfaces(
            floor=tuple((-x, y) for x, y in reversed(self.floor)),
            platforms=tuple((-right, -left, height) for left, right, height in self.platforms),
        )

    @property
    def segments(self) -> list[tuple[float, float, float, float]]:
        """Left end, its height, right end, slope; that at the right ledge comes first."""
        pairs = reversed(list(zip(self.floor, self.floor[1:], strict=False)))
        floor = [(x, y, right, (end - y) / (right - x)) for (x, y), (right, end) in pairs]
        return floor + [(left, height, right, 0.0) for left, right, height in self.platforms]


STAGE_SURFACES: dict[int, Surfaces] = {
    2: Surfaces(
        floor=(
            (-63.35, 0.6239), (-53.5847, 0.6239), (-51.2609, 0.0029),
            (51.2609, 0.0029), (53.5847, 0.6239), (63.35, 0.6239),
        ),
        platforms=((-14.25, 14.25, 42.75),),
    ),
    3: Surfaces(floor=((-87.75, 0.0), (87.75, 0.0)), platforms=((-55.0, -25.0, 25.0), (25.0, 55.0, 25.0))),
    8: Surfaces(
        floor=((-56.0, -3.4999), (-39.2, 0.0001), (39.2, 0.0001), (56.0, -3.4999)),
        platforms=((-15.75, 15.75, 42.0), (-59.5, -28.0, 23.45), (28.0, 59.5, 23.45)),
    ),
    28: Surfaces(
        floor=((-77.27, 0.0089), (77.27, 0.0089)),
        platforms=((-19.02, 19.02, 51.4254), (-61.39, -31.73, 30.1422), (31.7, 63.07, 30.2426)),
    ),
    31: Surfaces(
        floor=((-68.4, 0.0), (68.4, 0.0)),
        platforms=((-18.8, 18.8, 54.4), (-57.6, -20.0, 27.2), (20.0, 57.6, 27.2)),
    ),
    32: Surfaces(floor=((-85.57, 0.0), (85.57, 0.0))),
}  # fmt: skip
"""By external stage id; platforms that move are left out. Heights are those at which players of real replays stand, on
the slopes of 2 and 8 within 0.002 (`tests/model/test_stages.py`)."""
NUM_SURFACES = max(len(surfaces.segments) for surfaces in STAGE_SURFACES.values())
NO_SURFACE = -200.0
"""Height of the surface below a player who has none: lower than every blast zone."""
SURFACE_TOLERANCE = 8.0
"""How far below a surface a player may still be to land on it, game units: in the air, feet are above the position."""


def by_stage(stages: Mapping[int, Row], mirrored: Callable[[Row], Row], other: Row) -> list[Row]:
    """What is known of stages, in the order of `stage_rows`.

    Args:
        stages: by external stage id.
        mirrored: makes that of the mirrored stage (`wm.data.augment.mirror`).
        other: of stages that are not listed.
    """
    rows = [stages.get(stage, other) for stage in range(_FIRST_MIRRORED)]
    return rows + [mirrored(row) for row in rows]


def stage_rows(frames: Frames, table: Tensor) -> Tensor:
    """The rows of a table, one for each of `by_stage`, for the stages of games: (B, 1, 1, ...)."""
    stage = frames.game[:, 0].long()
    is_mirrored = stage < 0
    row = torch.where(is_mirrored, -1 - stage, stage).clamp(max=NUM_STAGES)
    return table[row + _FIRST_MIRRORED * is_mirrored][:, None, None]


def surface_table() -> Tensor:
    """The segments of STAGE_SURFACES, by stage: float32 (rows, NUM_SURFACES, 4).

    An absent surface has its left end to the right of its right end.
    """
    absent = [(1.0, NO_SURFACE, -1.0, 0.0)] * NUM_SURFACES
    rows = by_stage(STAGE_SURFACES, lambda surfaces: surfaces.mirrored, Surfaces(floor=()))
    return torch.tensor([(surfaces.segments + absent)[:NUM_SURFACES] for surfaces in rows])


def surface_below(x: Tensor, y: Tensor, surfaces: Tensor) -> Tensor:
    """Height of the surface on which a player at a place would land, or NO_SURFACE.

    Args:
        x, y: (B, T, P), game units.
        surfaces: rows of `surface_table`.
    Returns:
        float32 (B, T, P), game units.
    """
    left, height, right, slope = surfaces.unbind(-1)
    x, y = x[..., None], y[..., None]
    height = height + (x - left) * slope
    return torch.where((x >= left) & (x <= right) & (y >= height - SURFACE_TOLERANCE), height, NO_SURFACE).amax(-1)
