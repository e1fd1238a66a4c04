"""The tournament stages, in game units, as the viewer draws them.

Surfaces and blast zones are those that dreams obey (`wm.model.stages`, measured by `tests/viewer/test_geometry.py`).
What moves, and what lies below the surfaces, is here.
"""

from __future__ import annotations

from typing import Any

from datasets.schema.melee_ids import stage_name
from wm.model.dynamics.stage_rules import BLAST_ZONES
from wm.model.stages import STAGE_SURFACES, Point, Surfaces

FOUNTAIN, YOSHI = 2, 8
"""Stages with platforms that move."""
FOUNTAIN_GROUNDS = (0, 1)
"""`ground` of the left and the right platform of Fountain of Dreams."""
FOUNTAIN_AT_REST = 20.0
"""Height of these platforms where nothing tells it."""
RANDALL_WIDTH = 11.9
RANDALL_PERIOD = 1_200
"""Frames after which the cloud is where it was."""
RANDALL_PATH: tuple[tuple[float, float, float], ...] = (
    (477, 89.335, -13.65), (1015, -101.57, -13.65), (1023, -103.6, -15.28), (1068, -103.6, -31.25),
    (1076, -101.85, -33.25), (1615, 89.41, -33.25), (1624, 91.35, -31.16), (1668, 91.35, -15.55),
    (1677, 89.335, -13.65),
)  # fmt: skip
"""Slippi frame id within a period, x of the cloud's left end, height; straight lines between them."""


MOVING: dict[int, tuple[tuple[float, float, float], ...]] = {
    FOUNTAIN: ((-49.5, -21.0, FOUNTAIN_AT_REST), (21.0, 49.5, FOUNTAIN_AT_REST)),
}
"""Left end, right end and height of the platforms that the corpus' table `stage` tells of, at rest."""
BODIES: dict[int, tuple[Point, ...]] = {
    2: (
        (63.35, -4.5), (53.0, -11.0), (42.0, -14.0), (22.0, -30.0), (14.0, -48.0), (-14.0, -48.0), (-22.0, -30.0),
        (-42.0, -14.0), (-53.0, -11.0), (-63.35, -4.5),
    ),
    3: (
        (87.75, -5.0), (73.0, -15.0), (66.0, -28.0), (50.0, -38.0), (-50.0, -38.0), (-66.0, -28.0), (-73.0, -15.0),
        (-87.75, -5.0),
    ),
    8: ((56.0, -8.0), (54.0, -12.0), (54.0, -91.0), (-54.0, -91.0), (-54.0, -12.0), (-56.0, -8.0)),
    28: (
        (77.27, -11.0), (65.0, -22.0), (56.0, -40.0), (34.0, -52.0), (-34.0, -52.0), (-56.0, -40.0), (-65.0, -22.0),
        (-77.27, -11.0),
    ),
    31: (
        (68.4, -5.0), (62.0, -12.0), (42.0, -20.0), (24.0, -36.0), (8.0, -48.0), (-8.0, -48.0), (-24.0, -36.0),
        (-42.0, -20.0), (-62.0, -12.0), (-68.4, -5.0),
    ),
    32: (
        (85.57, -4.0), (79.0, -10.0), (62.0, -16.0), (34.0, -34.0), (12.0, -56.0), (-12.0, -56.0), (-34.0, -34.0),
        (-62.0, -16.0), (-79.0, -10.0), (-85.57, -4.0),
    ),
}  # fmt: skip
"""Lower side of the main platform from right to left, drawn freely."""


def stage_as_json(stage: int) -> dict[str, Any]:
    """What the page needs of a stage; one that is not listed has neither surfaces nor blast zones."""
    surfaces = STAGE_SURFACES.get(stage, Surfaces(floor=()))
    return {
        "name": stage_name(stage),
        "floor": surfaces.floor,
        "platforms": MOVING.get(stage, ()) + surfaces.platforms,
        "body": BODIES.get(stage, ()),
        "blast": BLAST_ZONES.get(stage),
        "moves": {FOUNTAIN: "fountain", YOSHI: "randall"}.get(stage),
    }
