"""Names and categories of action states, for tables (ids: Slippi's list of action states)."""

from __future__ import annotations

import numpy as np

CATEGORY_RANGES: tuple[tuple[str, int, int], ...] = (
    ("death and respawn", 0, 13), ("stand, walk, dash", 14, 23), ("jump", 24, 28), ("fall", 29, 38),
    ("crouch", 39, 41), ("land", 42, 43), ("ground attack", 44, 64), ("aerial attack", 65, 69),
    ("landing from an aerial", 70, 74), ("hit", 75, 91), ("item", 92, 177), ("shield", 178, 182),
    ("down and tech", 183, 204), ("shield break", 205, 211), ("grab and throw", 212, 222),
    ("grabbed, thrown", 223, 232), ("roll and dodge", 233, 236), ("clank, drop, teeter", 237, 251),
    ("ledge", 252, 263), ("taunt", 264, 265), ("special situations", 266, 340), ("special move", 341, 399),
)  # fmt: skip
"""Name, first id, last id."""
CATEGORY_NAMES = (*(name for name, _, _ in CATEGORY_RANGES), "other")

_NAMES: dict[int, str] = {
    0: "dead down", 1: "dead left", 2: "dead right", 4: "dead up (star)", 12: "rebirth", 13: "rebirth wait", 14: "wait",
    15: "walk slow", 16: "walk middle", 17: "walk fast", 18: "turn", 19: "turn run", 20: "dash", 21: "run",
    22: "run direct", 23: "run brake", 24: "jump squat", 25: "jump forward", 26: "jump back",
    27: "double jump forward", 28: "double jump back", 29: "fall", 30: "fall forward", 31: "fall back",
    32: "fall after jump", 35: "special fall", 38: "tumble", 39: "squat", 40: "crouch", 41: "stand up",
    42: "landing", 43: "special landing", 44: "jab 1", 45: "jab 2", 46: "jab 3", 50: "dash attack",
    51: "forward tilt (high)", 53: "forward tilt", 55: "forward tilt (low)", 56: "up tilt", 57: "down tilt",
    58: "forward smash (high)", 60: "forward smash", 62: "forward smash (low)", 63: "up smash", 64: "down smash",
    65: "neutral air", 66: "forward air", 67: "back air", 68: "up air", 69: "down air", 70: "neutral air landing",
    71: "forward air landing", 72: "back air landing", 73: "up air landing", 74: "down air landing",
    75: "hit high 1", 76: "hit high 2", 77: "hit high 3", 78: "hit 1", 79: "hit 2", 80: "hit 3", 81: "hit low 1",
    82: "hit low 2", 83: "hit low 3", 84: "hit in air 1", 85: "hit in air 2", 86: "hit in air 3",
    87: "hit fly high", 88: "hit fly", 89: "hit fly low", 90: "hit fly top", 91: "hit fly roll",
    178: "shield start", 179: "shield", 180: "shield end", 181: "shield hit", 182: "shield reflect",
    183: "missed tech (up)", 184: "down wait (up)", 191: "missed tech (down)", 199: "tech", 200: "tech forward",
    201: "tech back", 212: "grab", 213: "grab pull", 214: "dash grab", 216: "grab wait", 217: "pummel",
    219: "forward throw", 220: "back throw", 221: "up throw", 222: "down throw", 233: "roll forward",
    234: "roll back", 235: "spot dodge", 236: "air dodge", 244: "drop through", 245: "teeter", 252: "ledge catch",
    253: "ledge hang", 322: "entry", 323: "entry start", 324: "entry end",
}  # fmt: skip


def action_name(action: int) -> str:
    """Readable name of an action state, or its id."""
    return _NAMES.get(action, f"action {action}")


def action_category(actions: np.ndarray) -> np.ndarray:
    """Index into CATEGORY_NAMES of each action id, same shape."""
    table = np.full(int(max(400, actions.max(initial=0) + 1)), len(CATEGORY_RANGES), dtype=np.int64)
    for number, (_, first, last) in enumerate(CATEGORY_RANGES):
        table[first : last + 1] = number
    return table[actions]
