"""Attributes of the characters: the constants of their motion in the air and on the ground, in game units and frames.

Found in real replays by `benchmarks/dreams/attributes.py`, which prints them and how many frames follow them. A
character without an entry has only the candidates that need none (`wm.model.motion.candidates`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from wm.model.encoding import EMBEDDINGS

ATTRIBUTES = (
    "gravity", "fall_speed", "fast_fall_speed", "air_friction", "air_stick", "air_base", "air_speed",
    "full_hop", "short_hop", "double_jump", "jump_momentum", "jump_stick", "jump_speed", "double_jump_stick",
    "traction", "dash_start", "dash_stick", "dash_base", "dash_speed",
)  # fmt: skip
"""Gravity, air friction, traction: change of a velocity per frame. Stick and base of air and dash: acceleration at a
full stick and at any. Air, dash, fall and jump speed: largest velocity. Hops, double jump, dash start: velocity in the
first frame, 0 where it follows an animation. Jumps keep a share of the momentum and add the stick times a velocity."""
CHARACTERS: dict[int, tuple[float, ...]] = {
    1: (0.23, 2.8, 3.4, 0.02, 0.06, 0.02, 0.83, 3.68, 2.1, 4.186, 0.83, 0.72, 1.7, 0.9, 0.08, 1.9, 0.1, 0.02, 2.2),
    2: (0.13, 2.9, 3.5, 0.01, 0.04, 0.02, 1.12, 3.1, 1.9, 2.66, 0.75, 0.95, 2.1, 0.9, 0.08, 2.0, 0.15, 0.01, 2.3),
    3: (0.1, 2.4, 2.96, 0.02, 0.02, 0.02, 1.0, 2.7, 1.6, 2.357, 0.8, 1.0, 1.6, 1.0, 0.08, 1.6, 0.05, 0.02, 1.6),
    7: (0.12, 2.13, 3.0, 0.04, 0.04, 0.02, 0.8, 2.8, 2.14, 2.96, 0.8, 0.8, 1.4, 1.0, 0.08, 1.7, 0.1, 0.02, 1.8),
    8: (0.09, 1.83, 2.2, 0.03, 0.04, 0.02, 0.93, 2.5, 1.5, 0.0, 0.8, 1.0, 1.3, 0.8, 0.06, 1.3, 0.04, 0.02, 1.4),
    9: (0.08, 1.5, 2.0, 0.005, 0.06, 0.01, 1.1, 2.2, 1.6, 0.0, 0.7, 0.7, 1.1, 0.9, 0.1, 1.2, 0.1, 0.02, 1.3),
    14: (0.093, 1.93, 2.93, 0.013, 0.028, 0.02, 1.2, 2.5, 1.8, 0.0, 0.7, 0.93, 1.5, 1.2, 0.06, 1.33, 0.08, 0.02, 1.6),
    15: (0.064, 1.3, 1.6, 0.05, 0.09, 0.19, 1.35, 1.6, 1.05, 0.0, 1.0, 0.7, 1.1, 0.0, 0.09, 1.4, 0.12, 0.0, 1.1),
    16: (0.082, 1.5, 2.3, 0.016, 0.03, 0.02, 1.2, 2.3, 1.4, 0.0, 0.7, 0.9, 1.4, 0.9, 0.04, 1.4, 0.05, 0.05, 1.4),
    17: (0.069, 1.6, 2.0, 0.01, 0.025, 0.015, 0.68, 2.4, 1.4, 2.091, 0.8, 0.8, 0.75, 0.9, 0.025, 1.3, 0.06, 0.02, 1.34),
    18: (0.085, 2.2, 2.5, 0.005, 0.03, 0.02, 0.9, 2.4, 1.5, 2.027, 0.8, 1.0, 1.2, 1.0, 0.06, 1.5, 0.06, 0.0, 1.8),
    22: (0.17, 3.1, 3.5, 0.02, 0.05, 0.02, 0.83, 4.1, 1.9, 3.684, 1.0, 0.7, 1.7, 0.94, 0.08, 1.9, 0.1, 0.02, 1.5),
    25: (0.13, 2.0, 2.6, 0.02, 0.04, 0.02, 0.78, 2.6, 2.0, 2.34, 0.75, 0.9, 1.35, 1.0, 0.07, 1.3, 0.08, 0.01, 1.35),
    26: (0.114, 2.4, 2.9, 0.005, 0.03, 0.02, 0.9, 2.6, 1.5, 2.174, 0.8, 1.0, 1.2, 1.0, 0.06, 1.4, 0.07, 0.0, 1.61),
}  # fmt: skip
"""Internal character id -> ATTRIBUTES, of Fox, Captain Falcon, Donkey Kong, Sheik, Ness, Peach, Yoshi, Jigglypuff,
Mewtwo, Luigi, Marth, Falco, Ganondorf and Roy."""


def attribute_table() -> Tensor:
    """float32 (characters, len(ATTRIBUTES)), by internal character id; 0 for characters without an entry."""
    table = torch.zeros(EMBEDDINGS["character"][0], len(ATTRIBUTES))
    for character, values in CHARACTERS.items():
        table[character] = torch.tensor(values)
    return table
