"""Whether the values of a game are plausible. Damaged files mostly parse without an error; Melee's rules expose them.

Two kinds of rules are kept apart. `impossibilities` holds what the Slippi specification states and what no game can do:
it refuses. `suspicions` holds what was never seen in the good games that it was learned from: it flags.
`docs/reliability.md` lists the rules of both kinds with their thresholds and sources, and what they detect;
`benchmarks/reliability.py` measures it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datasets.checks.learned.motion_checks import MOTION_CHECKS
from datasets.checks.learned.state_age_checks import STATE_AGE_CHECKS
from datasets.checks.learned.value_checks import VALUE_CHECKS
from datasets.checks.plausibility_check import PlausibilityCheck, Violation
from datasets.checks.player_timeline import timelines
from datasets.checks.specification_checks import SPECIFICATION_CHECKS, cut_short
from datasets.checks.value_ranges import values_out_of_range
from datasets.replays.game import Game

LEARNED_CHECKS = (*VALUE_CHECKS, *STATE_AGE_CHECKS, *MOTION_CHECKS)


def impossibilities(game: Game) -> list[Violation]:
    """What the specification rules out, and what no game can do; empty for an undamaged game.

    A game that may hold rollback frames is checked for the ranges of values only, because rollback frames repeat the
    past.
    """
    found = [*values_out_of_range(game), *cut_short(game)]
    return found if game.may_hold_rollbacks else found + _violations(game, SPECIFICATION_CHECKS)


def suspicions(game: Game) -> list[Violation] | None:
    """The learned rules that a game breaks; None for a game that may hold rollback frames, which break most of them."""
    return None if game.may_hold_rollbacks else _violations(game, LEARNED_CHECKS)


def _violations(game: Game, checks: Sequence[PlausibilityCheck]) -> list[Violation]:
    with np.errstate(invalid="ignore", over="ignore"):
        return [found for timeline in timelines(game) for check in checks for found in check.violations(timeline)]
