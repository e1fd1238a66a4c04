"""Learned checks of single values: which value may follow which, and values that a .slp records twice.

Most claim that a value does not change for a single frame and come back. A value that is damaged does; what a game does
for a reason lasts longer, or leaves something changed.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from datasets.checks.plausibility_check import Finding, PlausibilityCheck, shown
from datasets.checks.player_timeline import REBIRTH, PlayerTimeline, flipped_bits, frames_where, isolated
from datasets.schema.melee_ids import NESS

SHIELD_STEP = 0.3
"""Shield health that a shield regains or loses by itself, per frame: 0.07 and 0.28 (Melee's common data)."""
SHIELD_SPIKE = 0.5
"""Smallest change of shield health for a single frame that counts."""
SMALLEST_HITLAG = 1e-6
"""Frames. Less is 0: damage and decay leave such numbers, the game's own countdown does not."""

Z, A = 0x10, 0x100
UNUSED_BUTTONS = 0x7F00_0000
"""Unused bits of the processed buttons (SPEC.md, Processed Buttons)."""

FLAT_STAGES = frozenset({2, 8, 28, 31, 32})
"""Tournament stages except Pokémon Stadium, which has many more surfaces."""
HIGHEST_GROUND = {True: 15, False: 511}
"""Whether the stage is in FLAT_STAGES -> highest surface id: more than twice the highest measured one, 7 and 134."""
NO_GROUND = 65535

PERSISTENT_BITS = {"flags_0": 0x2F, "flags_1": 0xC9, "flags_2": 0x7F, "flags_3": 0x8E, "flags_4": 0x7B}
"""Flag byte -> bits that were not seen to change for a single frame during an action. A single one of them may do so in
a game that nobody has seen; only two or more at once count."""


def _percent(timeline: PlayerTimeline) -> Iterator[Finding]:
    """Without items, percent decreases only with a death, a respawn or by Ness' PSI Magnet."""
    if timeline.has_items:
        return
    percent, action = timeline["percent"], timeline["action"]
    falls = frames_where(percent[1:] < percent[:-1]) + 1
    respawns = ((action[falls] == REBIRTH) & (action[falls - 1] != REBIRTH)) | (action[falls - 1] < REBIRTH)
    wrong = falls[~respawns & (timeline["character"][falls] != NESS)]
    if len(wrong):
        text = f"from {percent[wrong[0] - 1]:g} to {shown(percent[wrong[0]], percent[wrong[0] - 1])}"
        yield "percent_falls", f"percent drops {text} without a respawn", wrong


def _percent_before(timeline: PlayerTimeline) -> Iterator[Finding]:
    """The percent before a frame lies between that after the previous frame and that after the frame."""
    if timeline.has_items:
        return
    percent, before = timeline["percent"], timeline.pre_frame("percent")
    differs = frames_where(before[1:] != percent[:-1]) + 1
    differs = differs[before[differs] != percent[differs]]
    previous, after = percent[differs - 1], percent[differs]
    outside = ~((previous <= before[differs]) & (before[differs] <= after)) & (previous <= after)
    wrong = differs[outside & (timeline["character"][differs] != NESS)]
    if len(wrong):
        text = f"pre-frame percent {before[wrong[0]]!s} after post-frame percent {percent[wrong[0] - 1]!s}"
        yield "pre_post_mismatch", text, wrong


def _action_before(timeline: PlayerTimeline) -> Iterator[Finding]:
    """An action that the frames around it do not have, before and after their update, has just begun."""
    action, before, age = timeline["action"], timeline.pre_frame("action"), timeline["state_age"]
    single = frames_where((before[1:-1] != action[1:-1]) & (before[2:] == before[1:-1])) + 1
    single = single[(action[single - 1] == before[single]) & (action[single + 1] == before[single])]
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
    """The processed buttons equal the physical ones, except that Z also presses A; they do not differ for one frame.

    The game may ignore a button, so a single one is no difference.
    """
    if not timeline.is_human:
        return
    pressed, processed = timeline["buttons"], timeline.pre_frame("buttons")
    wrong = frames_where(processed.astype(np.uint16) != pressed)
    difference = processed[wrong].astype(np.uint16) ^ pressed[wrong]
    difference[pressed[wrong] & Z != 0] &= np.uint16(~A & 0xFFFF)
    wrong = wrong[np.bitwise_count(difference) >= 2]
    if (processed & np.uint32(UNUSED_BUTTONS)).max() > 0:
        wrong = np.union1d(wrong, frames_where(processed & np.uint32(UNUSED_BUTTONS)))
    wrong = isolated(wrong)
    if len(wrong):
        text = f"physical buttons {pressed[wrong[0]]:#06x}, but processed buttons {processed[wrong[0]]:#010x}"
        yield "buttons_mismatch", text, wrong


def _shield(timeline: PlayerTimeline) -> Iterator[Finding]:
    """Shield health does not change for a single frame: it regenerates and decays slowly, and hits keep it low."""
    shield = timeline["shield"]
    changes = frames_where(np.abs(shield[1:-1] - shield[:-2]) > SHIELD_SPIKE) + 1
    back = np.abs(shield[changes + 1] - shield[changes - 1]) <= 2 * SHIELD_STEP
    apart = np.abs(shield[changes] - (shield[changes - 1] + shield[changes + 1]) / 2) > SHIELD_SPIKE
    wrong = changes[back & apart]
    if len(wrong):
        text = f"{shield[wrong[0]]:g} for one frame, {shield[wrong[0] - 1]:g} before and {shield[wrong[0] + 1]:g} after"
        yield "shield_jump", f"shield health is {text}", wrong


def _hitlag(timeline: PlayerTimeline) -> Iterator[Finding]:
    """Hitlag is a whole number, and its flag is set exactly while it is not 0; neither fails for one frame."""
    hitlag = timeline["hitlag"]
    wrong = frames_where(
        ((hitlag > SMALLEST_HITLAG) != timeline.in_hitlag) | (np.abs(hitlag - np.rint(hitlag)) > SMALLEST_HITLAG)
    )
    wrong = isolated(wrong)
    if len(wrong):
        flag = "set" if timeline.in_hitlag[wrong[0]] else "not set"
        yield (
            "hitlag_mismatch",
            f"{shown(hitlag[wrong[0]], np.rint(hitlag[wrong[0]]))} frames of hitlag, but the hitlag flag is {flag}",
            wrong,
        )


def _hitstun(timeline: PlayerTimeline) -> Iterator[Finding]:
    """Hitstun is a whole number, at least in the frames around."""
    hitstun = timeline["hitstun"]
    wrong = isolated(frames_where(np.abs(hitstun - np.rint(hitstun)) > SMALLEST_HITLAG))
    if len(wrong):
        text = shown(hitstun[wrong[0]], np.rint(hitstun[wrong[0]]))
        yield "unusual_value", f"{text} frames of hitstun, expected a whole number", wrong


def _ground(timeline: PlayerTimeline) -> Iterator[Finding]:
    """The stage has about as many surfaces as were seen."""
    ground = timeline["ground"]
    highest = HIGHEST_GROUND[timeline.stage in FLAT_STAGES]
    if (ground + np.uint16(1)).max() > highest + 1:  # NO_GROUND becomes 0
        wrong = frames_where((ground > highest) & (ground != NO_GROUND))
        yield "unusual_value", f"ground {ground[wrong[0]]}, expected at most {highest}", wrong


def _flags(timeline: PlayerTimeline) -> Iterator[Finding]:
    """Several flags do not change for the same single frame in the middle of an action."""
    for name, bits in PERSISTENT_BITS.items():
        values = timeline.columns[name]
        if values is None:
            continue
        flipped = flipped_bits(values) & np.uint8(bits)
        if not flipped.max(initial=0):
            continue
        frames = frames_where(np.bitwise_count(flipped) >= 2) + 1
        yield from _one_frame(name, values, frames[_within_one_action(timeline, frames)])


def _counts(timeline: PlayerTimeline) -> Iterator[Finding]:
    """Jumps change on the ground or with an action, a combo grows one by one, and both do not change and come back.

    A projectile of one player can hit without a hitlag of that player, so a combo may end and begin at any time.
    """
    for name in ("jumps", "combo", "last_attack"):
        values = timeline.columns[name]
        if values is None:
            continue
        flipped = flipped_bits(values)
        if not flipped.max(initial=0):
            continue
        frames = frames_where(flipped) + 1
        frames = frames[values[frames - 1] == values[frames + 1]]
        if name == "jumps":
            frames = frames[_within_one_action(timeline, frames)]
            surface = [timeline[column] for column in ("airborne", "ground")]
            same = [(v[frames] == v[frames - 1]) & (v[frames] == v[frames + 1]) for v in surface]
            frames = frames[same[0] & same[1]]
        else:
            in_hitlag = timeline.in_hitlag
            frames = frames[~(in_hitlag[frames - 1] | in_hitlag[frames] | in_hitlag[frames + 1])]
        if name == "combo":
            frames = frames[(values[frames] > 1) & (values[frames].astype(np.int16) - values[frames - 1] != 1)]
        yield from _one_frame(name, values, frames)


def _one_frame(name: str, values: np.ndarray, frames: np.ndarray) -> Iterator[Finding]:
    if len(frames):
        first = frames[0]
        text = f"{values[first]} for one frame, {values[first - 1]} before and {values[first + 1]} after"
        yield "one_frame_value", f"{name} is {text}", frames


def _within_one_action(timeline: PlayerTimeline, frames: np.ndarray) -> np.ndarray:
    """Whether a single run of one action covers each frame and its neighbours."""
    age = timeline["state_age"]
    runs = (age[frames] >= age[frames - 1]) & (age[frames + 1] >= age[frames])
    return runs & timeline.same_action[frames - 1] & timeline.same_action[frames]


_STATE_AGE_COLUMNS = frozenset({"action", "state_age", "flags_1"})
VALUE_CHECKS = (
    PlausibilityCheck(find=_percent, columns=frozenset({"percent", "action", "character"}), applies_to_followers=True),
    PlausibilityCheck(
        find=_percent_before, columns=frozenset({"percent", "character"}), pre_frame_columns=frozenset({"percent"})
    ),
    PlausibilityCheck(find=_action_before, columns=_STATE_AGE_COLUMNS, pre_frame_columns=frozenset({"action"})),
    PlausibilityCheck(find=_resolution, columns=frozenset()),
    PlausibilityCheck(find=_buttons, columns=frozenset({"buttons"}), pre_frame_columns=frozenset({"buttons"})),
    PlausibilityCheck(find=_shield, columns=frozenset({"shield"})),
    PlausibilityCheck(find=_hitlag, columns=frozenset({"hitlag", "flags_1"}), applies_to_followers=True),
    PlausibilityCheck(find=_hitstun, columns=frozenset({"hitstun"}), applies_to_followers=True),
    PlausibilityCheck(find=_ground, columns=frozenset({"ground"}), applies_to_followers=True),
    PlausibilityCheck(find=_flags, columns=_STATE_AGE_COLUMNS),
    PlausibilityCheck(find=_counts, columns=_STATE_AGE_COLUMNS | {"airborne", "ground"}),
)
