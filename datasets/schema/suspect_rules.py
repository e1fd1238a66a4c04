"""The learned rules, which flag a game without refusing it: bits of `games.suspect_rules`.

No specification states these rules. They held in the games that they were learned from, so a game that breaks one is
either damaged or plays in a way that those games did not. `docs/reliability.md` has their thresholds, and how many good
games and how much damage they flag.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

SuspectGames = Literal["keep", "drop"]
"""Whether games that break a learned rule are used."""

SUSPECT_RULES: dict[str, int] = {
    "off_grid": 0,
    "percent_falls": 1,
    "pre_post_mismatch": 2,
    "buttons_mismatch": 3,
    "shield_jump": 4,
    "hitlag_mismatch": 5,
    "one_frame_value": 6,
    "velocity_mismatch": 7,
    "position_reverts": 8,
    "unusual_value": 9,
}
"""Code -> bit of `games.suspect_rules`, counted from the lowest. Bits are stored, so they never change; that of a rule
that is dropped is not used again. Descriptions: `datasets.schema.reject_reasons`, because `wm encode --strict` rejects
by the same codes."""


def suspect_bits(rules: Iterable[str]) -> int:
    """The bit mask of some rules."""
    return sum(1 << SUSPECT_RULES[rule] for rule in set(rules))


def suspect_rules_in(bits: int) -> list[str]:
    """The rules in a bit mask; `rule N` for a bit that this version does not know."""
    names = {bit: rule for rule, bit in SUSPECT_RULES.items()}
    return [names.get(bit, f"rule {bit}") for bit in range(bits.bit_length()) if bits >> bit & 1]
