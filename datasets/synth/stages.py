"""The six tournament stages: floor, platforms and blast zones.

The dimensions are real but simplified: Yoshi's Story has no slopes, the platforms of Fountain of Dreams do not move,
and Pokémon Stadium does not transform. Surface 0 is the main floor at y = 0; surfaces 1 to 3 are platforms.
"""

from dataclasses import dataclass

import numpy as np

NUM_SURFACES = 4
_ABSENT = (1.0, -1.0, -1e6)
"""A missing surface: of negative width, far below the blast zone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage; all lengths in game units."""

    name: str
    stage_id: int
    """External id, as in Game Start."""
    surfaces: tuple[tuple[float, float, float], ...]
    """(left, right, height) of the floor, then of the platforms."""
    ground_ids: tuple[int, ...]
    """`ground` of each surface in real replays of the stage."""
    blast: tuple[float, float, float, float]
    """Left, right, bottom, top of the blast zone."""
    spawn_x: float
    """The players start at -spawn_x and +spawn_x on the floor."""


STAGES = (
    Stage(name="Fountain of Dreams", stage_id=2, spawn_x=41.25, blast=(-198.75, 198.75, -146.25, 202.5),
          surfaces=((-63.35, 63.35, 0), (-49.5, -21, 20), (21, 49.5, 20), (-14.25, 14.25, 42.75)),
          ground_ids=(5, 0, 1, 2)),
    Stage(name="Pokemon Stadium", stage_id=3, spawn_x=40, blast=(-230, 230, -111, 180),
          surfaces=((-87.75, 87.75, 0), (-55, -25, 25), (25, 55, 25)), ground_ids=(34, 35, 36)),
    Stage(name="Yoshi's Story", stage_id=8, spawn_x=42, blast=(-175.7, 173.6, -91, 168),
          surfaces=((-56, 56, 0), (-59.5, -28, 23.45), (28, 59.5, 23.45), (-15.75, 15.75, 42)),
          ground_ids=(3, 1, 5, 4)),
    Stage(name="Dream Land", stage_id=28, spawn_x=47, blast=(-255, 255, -123, 250),
          surfaces=((-77.25, 77.25, 0), (-61.4, -31.75, 30.25), (31.75, 63, 30.25), (-19, 19, 51.5)),
          ground_ids=(4, 0, 1, 2)),
    Stage(name="Battlefield", stage_id=31, spawn_x=38.75, blast=(-224, 224, -108.75, 200),
          surfaces=((-68.4, 68.4, 0), (-57.6, -20, 27.25), (20, 57.6, 27.25), (-18.8, 18.8, 54.4)),
          ground_ids=(1, 2, 4, 3)),
    Stage(name="Final Destination", stage_id=32, spawn_x=60, blast=(-246, 246, -140, 188),
          surfaces=((-85.5, 85.5, 0),), ground_ids=(1,)),
)  # fmt: skip


def surface_table() -> np.ndarray:
    """float32 (stages, surfaces, 3): left, right and height of every surface, in game units."""
    rows = [stage.surfaces + (_ABSENT,) * (NUM_SURFACES - len(stage.surfaces)) for stage in STAGES]
    return np.array(rows, np.float32)


def ground_id_table() -> np.ndarray:
    """uint16 (stages, surfaces): the `ground` field of each surface."""
    rows = [stage.ground_ids + (0,) * (NUM_SURFACES - len(stage.ground_ids)) for stage in STAGES]
    return np.array(rows, np.uint16)


def blast_table() -> np.ndarray:
    """float32 (stages, 4): left, right, bottom and top of the blast zone, in game units."""
    return np.array([stage.blast for stage in STAGES], np.float32)
