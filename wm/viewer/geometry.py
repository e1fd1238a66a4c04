"""Surfaces of the tournament stages, in game units, as the viewer draws them.

Heights and widths are those at which players of real replays stand (`tests/viewer/test_geometry.py` measures it); the
blast zones are the ones that dreams obey. What lies below the surfaces is drawn freely.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datasets.schema.melee_ids import stage_name
from wm.model.dynamics.stage_rules import BLAST_ZONES

Point = tuple[float, float]

FOUNTAIN, YOSHI = 2, 8
"""Stages with platforms that move."""
FOUNTAIN_GROUNDS = (0, 1)
"""`ground` of the left and the right platform of Fountain of Dreams."""
FOUNTAIN_AT_REST = 20.0
"""Height of these platforms where nothing tells it."""
RANDALL_GROUND = 0
"""`ground` of the cloud of Yoshi's Story."""
RANDALL_WIDTH = 11.9
RANDALL_PERIOD = 1_200
"""Frames after which the cloud is where it was."""
RANDALL_PATH: tuple[tuple[float, float, float], ...] = (
    (477, 89.335, -13.65), (1015, -101.57, -13.65), (1023, -103.6, -15.28), (1068, -103.6, -31.25),
    (1076, -101.85, -33.25), (1615, 89.41, -33.25), (1624, 91.35, -31.16), (1668, 91.35, -15.55),
    (1677, 89.335, -13.65),
)  # fmt: skip
"""Slippi frame id within a period, x of the cloud's left end, height; straight lines between them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageShape:
    """One stage."""

    floor: tuple[Point, ...]
    """Its upper side from the left ledge to the right one."""
    platforms: tuple[tuple[float, float, float], ...]
    """Left end, right end and height; those of Fountain of Dreams that move come first, at rest."""
    body: tuple[Point, ...]
    """Its lower side from right to left, drawn freely."""


STAGE_SHAPES: dict[int, StageShape] = {
    2: StageShape(
        floor=((-63.35, 0.62), (-53.5, 0.62), (-51.25, 0.0), (51.25, 0.0), (53.5, 0.62), (63.35, 0.62)),
        platforms=((-49.5, -21.0, FOUNTAIN_AT_REST), (21.0, 49.5, FOUNTAIN_AT_REST), (-14.25, 14.25, 42.75)),
        body=((63.35, -4.5), (53.0, -11.0), (42.0, -14.0), (22.0, -30.0), (14.0, -48.0), (-14.0, -48.0), (-22.0, -30.0),
              (-42.0, -14.0), (-53.0, -11.0), (-63.35, -4.5)),
    ),
    3: StageShape(
        floor=((-87.75, 0.0), (87.75, 0.0)),
        platforms=((-55.0, -25.0, 25.0), (25.0, 55.0, 25.0)),
        body=((87.75, -5.0), (73.0, -15.0), (66.0, -28.0), (50.0, -38.0), (-50.0, -38.0), (-66.0, -28.0),
              (-73.0, -15.0), (-87.75, -5.0)),
    ),
    8: StageShape(
        floor=((-56.0, -3.5), (-39.2, 0.0), (39.2, 0.0), (56.0, -3.5)),
        platforms=((-59.5, -28.0, 23.45), (28.0, 59.5, 23.45), (-15.75, 15.75, 42.0)),
        body=((56.0, -8.0), (54.0, -12.0), (54.0, -91.0), (-54.0, -91.0), (-54.0, -12.0), (-56.0, -8.0)),
    ),
    28: StageShape(
        floor=((-77.27, 0.0), (77.27, 0.0)),
        platforms=((-61.39, -31.73, 30.14), (31.73, 63.07, 30.24), (-19.02, 19.02, 51.43)),
        body=((77.27, -11.0), (65.0, -22.0), (56.0, -40.0), (34.0, -52.0), (-34.0, -52.0), (-56.0, -40.0),
              (-65.0, -22.0), (-77.27, -11.0)),
    ),
    31: StageShape(
        floor=((-68.4, 0.0), (68.4, 0.0)),
        platforms=((-57.6, -20.0, 27.2), (20.0, 57.6, 27.2), (-18.8, 18.8, 54.4)),
        body=((68.4, -5.0), (62.0, -12.0), (42.0, -20.0), (24.0, -36.0), (8.0, -48.0), (-8.0, -48.0), (-24.0, -36.0),
              (-42.0, -20.0), (-62.0, -12.0), (-68.4, -5.0)),
    ),
    32: StageShape(
        floor=((-85.57, 0.0), (85.57, 0.0)),
        platforms=(),
        body=((85.57, -4.0), (79.0, -10.0), (62.0, -16.0), (34.0, -34.0), (12.0, -56.0), (-12.0, -56.0), (-34.0, -34.0),
              (-62.0, -16.0), (-79.0, -10.0), (-85.57, -4.0)),
    ),
}  # fmt: skip
"""By external stage id."""
NO_SHAPE = StageShape(floor=(), platforms=(), body=())


def stage_as_json(stage: int) -> dict[str, Any]:
    """What the page needs of a stage; one that is not listed has neither surfaces nor blast zones."""
    shape = STAGE_SHAPES.get(stage, NO_SHAPE)
    return {
        "name": stage_name(stage),
        "floor": shape.floor,
        "platforms": shape.platforms,
        "body": shape.body,
        "blast": BLAST_ZONES.get(stage),
        "moves": {FOUNTAIN: "fountain", YOSHI: "randall"}.get(stage),
    }
