"""Where players hang on a ledge: the animation of catching it has the same places in every game.

Found in real replays by `benchmarks/dreams/attributes.py`, which prints them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wm.model.encoding import EMBEDDINGS
from wm.model.stages import by_stage

CATCH, WAIT = 252, 253
"""Actions: a player catches a ledge, and hangs on it."""
LEDGES: dict[int, tuple[float, float]] = {
    2: (63.347, 0.624), 3: (87.75, 0.0), 8: (56.0, -3.5), 28: (77.271, 0.009), 31: (68.4, 0.0), 32: (85.566, 0.0),
}  # fmt: skip
"""Place of the ledges by external stage id, game units: distance from the center, and height."""
NUM_PLACES = 8
PLACES: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    1: (
        (4.696, 4.418, 4.015, 3.54, 3.042, 2.573, 2.182, 1.92),
        (-13.475, -13.568, -13.702, -13.86, -14.026, -14.182, -14.313, -14.4),
    ),
    2: (
        (5.907, 5.556, 4.988, 4.343, 3.74, 3.139, 2.489, 2.453),
        (-20.115, -20.505, -21.133, -21.83, -22.366, -23.013, -24.144, -23.096),
    ),
    3: (
        (4.841, 4.525, 4.04, 3.441, 2.783, 2.12, 1.508, 1.0),
        (-13.675, -14.525, -15.434, -16.378, -17.331, -18.267, -19.162, -19.99),
    ),
    4: (
        (5.701, 5.234, 4.795, 4.601, 4.601, 4.601, 4.601, 4.601),
        (-8.405, -8.839, -9.108, -9.2, -9.2, -9.2, -9.2, -9.2),
    ),
    7: (
        (6.442, 5.162, 3.752, 2.8, 2.505, 2.538, 2.702, 2.8),
        (-18.666, -19.092, -19.562, -19.88, -19.978, -19.967, -19.912, -19.88),
    ),
    8: (
        (10.063, 8.0, 4.7, 2.0, 1.367, 1.336, 1.566, 1.716),
        (-4.219, -7.501, -9.502, -10.501, -10.591, -10.654, -10.68, -10.689),
    ),
    9: (
        (7.159, 6.14, 4.934, 3.944, 3.242, 2.625, 2.084, 1.607),
        (-14.439, -15.296, -16.252, -16.921, -17.184, -17.251, -17.235, -17.247),
    ),
    10: (
        (11.572, 9.2, 5.404, 2.3, 1.583, 1.567, 1.835, 1.973),
        (-4.852, -8.626, -10.927, -12.076, -12.179, -12.231, -12.26, -12.293),
    ),
    12: (
        (4.213, 3.383, 2.435, 1.8, 1.61, 1.631, 1.736, 1.8),
        (-4.912, -6.922, -8.959, -10.35, -10.825, -10.772, -10.508, -10.35),
    ),
    14: (
        (6.744, 5.032, 3.728, 3.132, 2.692, 2.393, 2.224, 2.166),
        (-8.847, -12.115, -13.875, -13.802, -13.628, -13.42, -13.246, -13.173),
    ),
    15: (
        (5.889, 5.53, 5.141, 4.828, 4.7, 4.7, 4.7, 4.7),
        (-8.137, -8.486, -8.904, -9.253, -9.4, -9.4, -9.4, -9.4),
    ),
    16: (
        (4.929, 4.577, 4.077, 3.074, 2.299, 2.502, 2.704, 2.907),
        (-10.918, -10.96, -11.062, -11.301, -11.624, -12.085, -12.832, -13.846),
    ),
    17: (
        (12.578, 10.0, 5.874, 2.5, 1.709, 1.67, 1.957, 2.145),
        (-5.274, -9.376, -11.878, -13.126, -13.246, -13.317, -13.351, -13.361),
    ),
    18: (
        (6.565, 5.111, 3.806, 2.898, 2.45, 2.338, 2.53, 2.908),
        (-20.665, -22.191, -23.614, -23.697, -23.746, -23.764, -23.753, -23.715),
    ),
    19: (
        (7.844, 6.727, 5.406, 4.321, 3.46, 2.632, 2.008, 1.76),
        (-15.82, -16.759, -17.806, -18.539, -18.827, -18.9, -18.882, -18.896),
    ),
    22: (
        (5.381, 5.062, 4.601, 4.056, 3.486, 2.948, 2.5, 2.2),
        (-15.44, -15.546, -15.7, -15.881, -16.071, -16.251, -16.4, -16.5),
    ),
    25: (
        (6.577, 6.186, 5.554, 4.835, 4.164, 3.495, 2.772, 2.731),
        (-22.396, -22.83, -23.53, -24.305, -24.903, -25.623, -26.882, -25.715),
    ),
    26: (
        (6.166, 4.8, 3.575, 2.722, 2.301, 2.195, 2.376, 2.731),
        (-19.407, -20.84, -22.177, -22.254, -22.301, -22.318, -22.307, -22.271),
    ),
}
"""Internal character id -> distance outwards and height, relative to the ledge, game units: in the seven frames of
CATCH (ages 1 to 7), and in WAIT."""


def ledge_table() -> Tensor:
    """LEDGES for `wm.model.stages.stage_rows`: float32 (rows, 2); NaN without ledges."""
    return torch.tensor(by_stage(LEDGES, lambda place: place, (torch.nan, torch.nan)))


def place_table() -> Tensor:
    """PLACES: float32 (characters, NUM_PLACES, 2); NaN for characters without an entry."""
    table = torch.full((EMBEDDINGS["character"][0], NUM_PLACES, 2), torch.nan)
    for character, places in PLACES.items():
        table[character] = torch.tensor(places).t()
    return table


def next_place(
    action: Tensor, age: Tensor, character: Tensor, x: Tensor, ledge: Tensor, places: Tensor
) -> tuple[Tensor, Tensor]:
    """Where a player is in the next frame who catches a ledge then, or hangs on it.

    Args:
        action, age, character, x: (B, T, P), in this frame.
        ledge: (B, 1, 1, 2), the row of `ledge_table` of a game's stage.
        places: see `place_table`.
    Returns:
        x and y, (B, T, P), game units; NaN where the stage or the character is unknown.
    """
    number = torch.where(action == CATCH, age.long().clamp(0, NUM_PLACES - 1), 0)
    number = torch.where(action == WAIT, NUM_PLACES - 1, number)
    offset = places.flatten(0, 1)[character * NUM_PLACES + number]
    place = ledge + offset
    return torch.where(x < 0, -place[..., 0], place[..., 0]), place[..., 1]
