"""Whether the values of a game are plausible. Damaged files mostly parse without an error; Melee's rules expose them.

All checks hold without exception in the 115 real games that they were measured on (1,090,090 frames of two players).
`docs/reliability.md` lists the thresholds with their sources, and what the checks detect; `benchmarks/reliability.py`
measures it.
"""

from __future__ import annotations

import numpy as np

from datasets.checks.motion_checks import MOTION_CHECKS
from datasets.checks.player_timeline import follower_timelines, player_timelines
from datasets.checks.state_age_checks import STATE_AGE_CHECKS
from datasets.checks.value_checks import VALUE_CHECKS
from datasets.replays.game import Game
from datasets.schema.columns import FIRST_FRAME_ID

PLAUSIBILITY_CHECKS = (*VALUE_CHECKS, *STATE_AGE_CHECKS, *MOTION_CHECKS)


def implausibilities(game: Game) -> list[tuple[str, str]]:
    """Reject codes and messages of everything implausible in a game; empty for an undamaged one.

    A game that may hold rollback frames is not checked, because rollback frames violate most checks.
    """
    found: list[tuple[str, str]] = []
    if game.may_hold_rollbacks:
        return found
    last_frame = game.num_frames - 1 + FIRST_FRAME_ID
    if game.cross_check is not None and (game.cross_check.last_frame or last_frame) > last_frame:
        text = f"the last frame is {last_frame}, but {game.cross_check.last_frame} in the metadata"
        found.append(("cut_short", text))
    with np.errstate(invalid="ignore", over="ignore"):
        for timeline in player_timelines(game):
            found += [violation for check in PLAUSIBILITY_CHECKS for violation in check.violations(timeline)]
        for timeline in follower_timelines(game):
            for check in PLAUSIBILITY_CHECKS:
                if check.applies_to_followers:
                    found += check.violations(timeline)
    return found
