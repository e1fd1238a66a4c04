"""The fighters: eight of Melee's characters, with approximately their real attributes.

Ids: Slippi SPEC.md, Character IDs. Game Start has the external id, post-frame updates have the internal one.
"""

from dataclasses import dataclass, fields

import numpy as np


@dataclass(frozen=True, kw_only=True, slots=True)
class Character:
    """One character; speeds in game units per frame, accelerations in units per frame squared."""

    name: str
    external_id: int
    internal_id: int
    gravity: float
    fall_speed: float
    """Terminal velocity."""
    fast_fall_speed: float
    walk_speed: float
    run_speed: float
    dash_speed: float
    """Initial speed of a dash."""
    friction: float
    air_speed: float
    air_acceleration: float
    jump_speed: float
    short_hop_speed: float
    jump_drift: float
    """Horizontal speed that a fully tilted stick adds to a jump."""
    jump_squat: float
    """Frames from the button press to leaving the ground."""
    jumps: int
    """Number of jumps, from the ground and in the air."""
    weight: float
    reach: float
    """Factor on the reach of every attack."""
    up_special_speed: float


def _character(
    name: str, ids: tuple[int, int], fall: tuple[float, float, float], ground: tuple[float, float, float, float],
    air: tuple[float, float], jump: tuple[float, float, float, float, int], weight: float, reach: float, up: float,
) -> Character:  # fmt: skip
    return Character(
        name=name, external_id=ids[0], internal_id=ids[1],
        gravity=fall[0], fall_speed=fall[1], fast_fall_speed=fall[2],
        walk_speed=ground[0], run_speed=ground[1], dash_speed=ground[2], friction=ground[3],
        air_speed=air[0], air_acceleration=air[1],
        jump_speed=jump[0], short_hop_speed=jump[1], jump_drift=jump[2], jump_squat=jump[3], jumps=jump[4],
        weight=weight, reach=reach, up_special_speed=up,
    )  # fmt: skip


CHARACTERS = (
    _character("Fox", (2, 1), (0.23, 2.8, 3.4), (1.6, 2.2, 2.02, 0.08), (0.83, 0.08),
               (3.68, 2.1, 0.72, 3, 2), 75, 0.95, 4.4),
    _character("Falco", (20, 22), (0.17, 3.1, 3.5), (1.4, 1.5, 1.9, 0.08), (0.83, 0.07),
               (4.1, 1.9, 0.72, 5, 2), 80, 0.95, 4.0),
    _character("Marth", (9, 18), (0.085, 2.2, 2.5), (1.6, 1.8, 1.5, 0.06), (0.9, 0.05),
               (2.4, 1.5, 1.0, 4, 2), 87, 1.25, 3.0),
    _character("Sheik", (19, 7), (0.12, 2.13, 3.0), (1.2, 1.8, 1.7, 0.08), (0.8, 0.06),
               (2.8, 2.1, 0.8, 3, 2), 90, 1.0, 3.4),
    _character("Captain Falcon", (0, 2), (0.13, 2.9, 3.5), (0.85, 2.3, 2.0, 0.08), (1.12, 0.06),
               (3.1, 1.9, 0.95, 4, 2), 104, 1.05, 3.6),
    _character("Jigglypuff", (15, 15), (0.064, 1.3, 1.6), (0.7, 1.1, 1.4, 0.09), (1.35, 0.28),
               (1.76, 1.05, 1.0, 5, 6), 60, 0.95, 2.4),
    _character("Peach", (12, 9), (0.08, 1.5, 2.0), (0.85, 1.3, 1.5, 0.1), (1.1, 0.1),
               (2.3, 1.8, 0.9, 5, 2), 90, 1.05, 2.9),
    _character("Ganondorf", (25, 25), (0.13, 2.0, 2.6), (0.73, 1.35, 1.3, 0.07), (0.78, 0.06),
               (2.7, 2.0, 0.85, 6, 2), 109, 1.2, 3.4),
)  # fmt: skip

ATTRIBUTES = tuple(f.name for f in fields(Character) if f.name not in ("name", "external_id", "internal_id"))
"""The numeric fields of `Character`."""


def attribute_table() -> dict[str, np.ndarray]:
    """float32 (characters,) for each of `ATTRIBUTES`, in the units of `Character`."""
    return {name: np.array([getattr(row, name) for row in CHARACTERS], np.float32) for name in ATTRIBUTES}
