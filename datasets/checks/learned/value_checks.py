"""Plausibility checks of single values: which value may follow which, and values that a .slp records twice."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from datasets.checks.plausibility_check import Finding, PlausibilityCheck
from datasets.checks.player_timeline import FIRST_SPECIAL, REBIRTH, PlayerTimeline, frames_where
from datasets.schema.melee_ids import NESS

GUARD = (178, 182)
"""Action states with the shield up: GuardOn to GuardReflect."""
SHIELD_BREAK = (205, 211)
"""Action states of a broken shield: ShieldBreakFly to FuraFura."""
SHIELD_FLAG = 0x80
"""Bit of state flag byte 2: the shield is up (SPEC.md, State Bit Flags 3)."""
SHIELD_REGENERATION = 0.0701
"""Maximum shield health regained per frame: 0.07, and the rounding of float32."""

Z, A = 0x10, 0x100
UNUSED_BUTTONS = 0x7F00_0000
"""Unused bits of the processed buttons (SPEC.md, Processed Buttons)."""

FLAT_STAGES = frozenset({2, 8, 28, 31, 32})
"""Tournament stages except Pokémon Stadium, which has many more surfaces."""
HIGHEST_GROUND = {True: 15, False: 511}
"""Whether the stage is in FLAT_STAGES -> highest surface id, with a margin (measured: 7 and 134)."""
NO_GROUND = 65535

PERSISTENT_BITS = {
    "last_attack": 0xFF, "combo": 0xFF, "jumps": 0xFF,
    "flags_0": 0x2F, "flags_1": 0xC9, "flags_2": 0x7F, "flags_3": 0x8E, "flags_4": 0x7B,
}  # fmt: skip
"""Column -> bits that never change for a single frame during an action. The other flag bits can: reflectors, the end
of an attack's lag, intangibility of the animation, hitlag, the edge of the screen."""
HIT_COLUMNS = frozenset({"last_attack", "combo"})
"""Of these, the columns that only hits change. They do not change for a single frame between actions either."""


def _percent(timeline: PlayerTimeline) -> Iterator[Finding]:
    """Without items, percent decreases only with a respawn or by Ness' PSI Magnet."""
    if timeline.has_items:
        return
    percent, action = timeline["percent"], timeline["action"]
    falls = frames_where(percent[1:] < percent[:-1]) + 1
    respawns = (action[falls] == REBIRTH) & (action[falls - 1] != REBIRTH)
    wrong = falls[~respawns & (timeline["character"][falls] != NESS)]
    if len(wrong):
        text = f"from {percent[wrong[0] - 1]:g} to {percent[wrong[0]]:g}"
        yield "percent_falls", f"percent drops {text} without a respawn", wrong


def _percent_before(timeline: PlayerTimeline) -> Iterator[Finding]:
    """The percent before a frame is that after the frame or that after the previous one."""
    if timeline.has_items:
        return
    percent, before = timeline["percent"], timeline.pre_frame("percent")
    differs = frames_where(before[1:] != percent[:-1]) + 1
    wrong = differs[before[differs] != percent[differs]]
    if len(wrong):
        text = f"pre-frame percent {before[wrong[0]]:g} after post-frame percent {percent[wrong[0] - 1]:g}"
        yield "pre_post_mismatch", text, wrong


def _action_before(timeline: PlayerTimeline) -> Iterator[Finding]:
    """An action recorded after a single frame only has just begun, and neither in hitlag nor during a death."""
    action, before, age = timeline["action"], timeline.pre_frame("action"), timeline["state_age"]
    differs = frames_where(before[1:] != action[:-1])
    single = differs[before[differs] == before[differs + 1]]
    paused = (timeline.in_hitlag[single] & timeline.in_hitlag[single - 1]) | (before[single] < REBIRTH)
    wrong = single[(age[single] > 1) | paused]
    if len(wrong):
        text = f"action state {action[wrong[0]]} at state age {age[wrong[0]]:g} for one frame of {before[wrong[0]]}"
        yield "pre_post_mismatch", text, wrong


def _resolution(timeline: PlayerTimeline) -> Iterator[Finding]:
    """A controller's values are multiples of its resolution."""
    if timeline.cross_check is None or not timeline.is_human:
        return
    for name, frames in timeline.cross_check.off_grid.items():
        if name != "facing":
            yield "off_grid", f"{name} is not a multiple of its step", frames


def _buttons(timeline: PlayerTimeline) -> Iterator[Finding]:
    """The processed buttons equal the physical ones, except that Z also presses A."""
    if not timeline.is_human:
        return
    pressed, processed = timeline["buttons"], timeline.pre_frame("buttons")
    wrong = frames_where(processed.astype(np.uint16) != pressed)
    wrong = wrong[(processed[wrong].astype(np.uint16) ^ pressed[wrong] != A) | (pressed[wrong] & Z == 0)]
    if (processed & np.uint32(UNUSED_BUTTONS)).max() > 0:
        wrong = np.union1d(wrong, frames_where(processed & np.uint32(UNUSED_BUTTONS)))
    if len(wrong):
        yield (
            "buttons_mismatch",
            f"physical buttons {pressed[wrong[0]]:#06x}, but processed buttons {processed[wrong[0]]:#010x}",
            wrong,
        )


def _shield(timeline: PlayerTimeline) -> Iterator[Finding]:
    """Shield health regenerates slowly, and decreases only while the shield is up."""
    shield, action = timeline["shield"], timeline["action"]
    rise = shield[1:] - shield[:-1]
    leaps = frames_where(rise > np.float32(SHIELD_REGENERATION)) + 1
    wrong = leaps[(action[leaps] != REBIRTH) & ~_within(action[leaps], SHIELD_BREAK)]
    if len(wrong):
        yield "shield_jump", f"shield grows too fast, from {shield[wrong[0] - 1]:g} to {shield[wrong[0]]:g}", wrong
    falls = frames_where(rise < 0) + 1
    up = timeline["flags_2"]
    wrong = falls[((up[falls] | up[falls - 1]) & np.uint8(SHIELD_FLAG)) == 0]
    for back in (0, 1):  # the first frame of an action out of shield still has the shield's last decrease
        state = action[wrong - back]
        wrong = wrong[~(_within(state, GUARD) | _within(state, SHIELD_BREAK) | (state >= FIRST_SPECIAL))]
    if len(wrong):
        text = f"from {shield[wrong[0] - 1]:g} to {shield[wrong[0]]:g}"
        yield "shield_jump", f"shield shrinks {text} while it is down", wrong


def _within(values: np.ndarray, limits: tuple[int, int]) -> np.ndarray:
    return (values >= limits[0]) & (values <= limits[1])


def _hitlag(timeline: PlayerTimeline) -> Iterator[Finding]:
    """Hitlag is a whole number, and its flag is set exactly while it is not 0."""
    hitlag = timeline["hitlag"]
    wrong = frames_where(((hitlag > 0) != timeline.in_hitlag) | (hitlag != np.rint(hitlag)))
    if len(wrong):
        flag = "set" if timeline.in_hitlag[wrong[0]] else "not set"
        yield "hitlag_mismatch", f"{hitlag[wrong[0]]:g} frames of hitlag, but the hitlag flag is {flag}", wrong


def _hitstun(timeline: PlayerTimeline) -> Iterator[Finding]:
    """Hitstun is a whole number."""
    hitstun = timeline["hitstun"]
    wrong = frames_where(hitstun != np.rint(hitstun))
    if len(wrong):
        yield "unusual_value", f"{hitstun[wrong[0]]:g} frames of hitstun, expected a whole number", wrong


def _ground(timeline: PlayerTimeline) -> Iterator[Finding]:
    """The surface exists on the stage."""
    ground = timeline["ground"]
    highest = HIGHEST_GROUND[timeline.stage in FLAT_STAGES]
    if (ground + np.uint16(1)).max() > highest + 1:  # NO_GROUND becomes 0
        wrong = frames_where((ground > highest) & (ground != NO_GROUND))
        yield "unusual_value", f"ground {ground[wrong[0]]}, expected at most {highest}", wrong


def _one_frame_changes(timeline: PlayerTimeline) -> Iterator[Finding]:
    """Values that only hits, jumps and landings change do not change for a single frame without one."""
    for name, bits in PERSISTENT_BITS.items():
        values = timeline.columns[name]
        if values is None:
            continue
        changes = values[1:] ^ values[:-1]
        twice = changes[1:] & changes[:-1]
        if bits != 0xFF:
            twice &= np.uint8(bits)
        if not twice.max(initial=0):
            continue
        wrong = frames_where(twice != 0) + 1
        if name in HIT_COLUMNS:
            wrong = wrong[values[wrong - 1] == values[wrong + 1]]
            wrong = wrong[~(timeline.in_hitlag[wrong - 1] | timeline.in_hitlag[wrong] | timeline.in_hitlag[wrong + 1])]
        else:
            wrong = wrong[_within_one_action(timeline, wrong)]
        if len(wrong):
            text = f"{name} is {values[wrong[0]]} for one frame and {values[wrong[0] - 1]} before and after"
            yield "one_frame_value", text, wrong


def _within_one_action(timeline: PlayerTimeline, frames: np.ndarray) -> np.ndarray:
    """Whether a single run of one action covers each frame and its neighbours."""
    age = timeline["state_age"]
    runs = (age[frames] >= age[frames - 1]) & (age[frames + 1] >= age[frames])
    return runs & timeline.same_action[frames - 1] & timeline.same_action[frames]


_STATE_AGE_COLUMNS = frozenset({"action", "state_age", "flags_1"})
VALUE_CHECKS = (
    PlausibilityCheck(find=_percent, columns=frozenset({"percent", "action", "character"}), applies_to_followers=True),
    PlausibilityCheck(find=_percent_before, columns=frozenset({"percent"}), pre_frame_columns=frozenset({"percent"})),
    PlausibilityCheck(find=_action_before, columns=_STATE_AGE_COLUMNS, pre_frame_columns=frozenset({"action"})),
    PlausibilityCheck(find=_resolution, columns=frozenset()),
    PlausibilityCheck(find=_buttons, columns=frozenset({"buttons"}), pre_frame_columns=frozenset({"buttons"})),
    PlausibilityCheck(find=_shield, columns=frozenset({"shield", "action", "flags_2"})),
    PlausibilityCheck(find=_hitlag, columns=frozenset({"hitlag", "flags_1"}), applies_to_followers=True),
    PlausibilityCheck(find=_hitstun, columns=frozenset({"hitstun"}), applies_to_followers=True),
    PlausibilityCheck(find=_ground, columns=frozenset({"ground"}), applies_to_followers=True),
    PlausibilityCheck(find=_one_frame_changes, columns=_STATE_AGE_COLUMNS),
)
