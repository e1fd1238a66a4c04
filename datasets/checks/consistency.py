"""Does a game agree with itself? Damaged files mostly parse without an error; the game's own rules show the damage.

Rules here are of values: what may follow what, and what the file says twice. `motion.py` has those of positions and
velocities, `clock.py` those of an action's age. Each rule compares whole columns once, and looks
closer at the few frames that this leaves. Each holds without one exception in the 115 real games that they were
measured on (1,090,090 frames of two players). `docs/reliability.md` has the thresholds with their sources, and what
the rules catch; `benchmarks/reliability.py` guards them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from datasets.checks.motion import MOTION_RULES
from datasets.checks.state_age import CLOCK_RULES
from datasets.checks.trajectory import (
    FIRST_SPECIAL,
    REBIRTH,
    Finding,
    Rule,
    Track,
    frames_where,
    partners_of,
    players_of,
)
from datasets.replays.game import Game
from datasets.schema.columns import FIRST_FRAME_ID
from datasets.schema.melee_ids import INTERNAL_CHARACTERS, NESS, SHEIK, ZELDA

GUARD = (178, 182)
"""Actions with the shield up, from GuardOn to GuardReflect."""
SHIELD_BREAK = (205, 211)
"""Actions of a broken shield, from ShieldBreakFly to FuraFura."""
SHIELD_FLAG = 0x80
"""Bit of state flag byte 2: the shield is up (SPEC.md, State Bit Flags 3)."""
SHIELD_REGENERATION = 0.0701
"""Health that a shield gains in a frame: 0.07, and the rounding of float32."""

Z, A = 0x10, 0x100
UNUSED_BUTTONS = 0x7F00_0000
"""Bits of the processed buttons that mean nothing (SPEC.md, Processed Buttons)."""

FLAT_STAGES = frozenset({2, 8, 28, 31, 32})
"""Tournament stages without Pokemon Stadium, which has many more surfaces."""
HIGHEST_GROUND = {True: 15, False: 511}
"""By whether the stage is flat: highest surface id, with room (seen: 7 and 134)."""
NO_GROUND = 65535

HELD_BITS = {
    "last_attack": 0xFF, "combo": 0xFF, "jumps": 0xFF,
    "flags_0": 0x2F, "flags_1": 0xC9, "flags_2": 0x7F, "flags_3": 0x8E, "flags_4": 0x7B,
}  # fmt: skip
"""Column -> bits that do not change for a single frame while an action runs on. The other flag bits do, or might:
reflectors, the end of an attack's lag, intangibility by the animation, hitlag, the edge of the screen."""
HIT_COLUMNS = frozenset({"last_attack", "combo"})
"""Of these, what only hits change, and hits freeze: they do not change for a frame between actions either."""

NOWHERE = np.empty(0, np.int64)
"""Frames of what is only counted."""


def contradictions(game: Game) -> list[tuple[str, str]]:
    """Reason codes and messages of what a game says against itself; empty for a sound one.

    Rows that netplay sent again would contradict each other: a game that may hold some is not looked at.
    """
    found: list[tuple[str, str]] = []
    if game.may_hold_rollbacks:
        return found
    last_frame = game.num_frames - 1 + FIRST_FRAME_ID
    if game.evidence is not None and (game.evidence.last_frame or last_frame) > last_frame:
        text = f"frames end at {last_frame}, but the metadata says {game.evidence.last_frame}"
        found.append(("cut_short", text))
    with np.errstate(invalid="ignore", over="ignore"):
        for track in players_of(game):
            found += [finding for rule in RULES for finding in rule.findings(track)]
        for track in partners_of(game):
            found += [finding for rule in RULES if rule.of_partners for finding in rule.findings(track)]
    return found


def _stocks(track: Track) -> Iterator[Finding]:
    stocks = track["stocks"]
    changes = frames_where(stocks[1:] != stocks[:-1]) + 1
    wrong = changes[stocks[changes].astype(np.int16) != stocks[changes - 1].astype(np.int16) - 1]
    if len(wrong):
        yield "stocks_jump", f"stocks go from {stocks[wrong[0] - 1]} to {stocks[wrong[0]]}", wrong


def _character(track: Track) -> Iterator[Finding]:
    if track.character >= len(INTERNAL_CHARACTERS):
        return
    expected = {INTERNAL_CHARACTERS[track.character]}
    if not expected.isdisjoint({SHEIK, ZELDA}):
        expected = {SHEIK, ZELDA}
    character = track["character"]
    if not {int(character.min()), int(character.max())} <= expected:
        wrong = frames_where(~np.isin(character, list(expected)))
        yield "character_mismatch", f"character {character[wrong[0]]}, expected {min(expected)}", wrong


def _percent(track: Track) -> Iterator[Finding]:
    if track.has_items:
        return
    percent, action = track["percent"], track["action"]
    falls = frames_where(percent[1:] < percent[:-1]) + 1
    begins = (action[falls] == REBIRTH) & (action[falls - 1] != REBIRTH)
    wrong = falls[~begins & (track["character"][falls] != NESS)]
    if len(wrong):
        text = f"from {percent[wrong[0] - 1]:g} to {percent[wrong[0]]:g}"
        yield "percent_falls", f"percent falls {text}, where no life begins,", wrong


def _percent_before(track: Track) -> Iterator[Finding]:
    """Damage is done after a frame or between two: a frame begins with its own percent or with the last one's."""
    if track.has_items:
        return
    percent, before = track["percent"], track.before("percent")
    differs = frames_where(before[1:] != percent[:-1]) + 1
    wrong = differs[before[differs] != percent[differs]]
    if len(wrong):
        text = f"begins with {before[wrong[0]]:g} % after {percent[wrong[0] - 1]:g} %"
        yield "pre_post_mismatch", f"a frame {text}", wrong


def _action_before(track: Track) -> Iterator[Finding]:
    """An action that is there after one frame only has begun in it, and not in hitlag nor in death."""
    action, before, age = track["action"], track.before("action"), track["state_age"]
    differs = frames_where(before[1:] != action[:-1])
    once = differs[before[differs] == before[differs + 1]]
    held = (track.frozen[once] & track.frozen[once - 1]) | (before[once] < REBIRTH)
    wrong = once[(age[once] > 1) | held]
    if len(wrong):
        text = f"action {action[wrong[0]]} of age {age[wrong[0]]:g} between frames of {before[wrong[0]]}"
        yield "pre_post_mismatch", text, wrong


def _grid(track: Track) -> Iterator[Finding]:
    off = {} if track.evidence is None else track.evidence.off_grid
    if "facing" in off:
        yield "bad_values", f"facing is none of -1, 0 and 1 in {off['facing']} frames", NOWHERE
    sticks = {name: num for name, num in off.items() if name != "facing"}
    if sticks and track.is_human:
        yield "off_grid", ", ".join(f"{name} is off its grid in {num} frames" for name, num in sticks.items()), NOWHERE


def _buttons(track: Track) -> Iterator[Finding]:
    """The game sees the buttons that are pressed, and A with Z."""
    if not track.is_human:
        return
    pressed, processed = track["buttons"], track.before("buttons")
    wrong = frames_where(processed.astype(np.uint16) != pressed)
    wrong = wrong[(processed[wrong].astype(np.uint16) ^ pressed[wrong] != A) | (pressed[wrong] & Z == 0)]
    if (processed & np.uint32(UNUSED_BUTTONS)).max() > 0:
        wrong = np.union1d(wrong, frames_where(processed & np.uint32(UNUSED_BUTTONS)))
    if len(wrong):
        yield "buttons_mismatch", f"buttons {pressed[wrong[0]]:#06x} became {processed[wrong[0]]:#010x}", wrong


def _shield(track: Track) -> Iterator[Finding]:
    shield, action = track["shield"], track["action"]
    rise = shield[1:] - shield[:-1]
    leaps = frames_where(rise > np.float32(SHIELD_REGENERATION)) + 1
    wrong = leaps[(action[leaps] != REBIRTH) & ~_within(action[leaps], SHIELD_BREAK)]
    if len(wrong):
        yield "shield_jump", f"shield rises from {shield[wrong[0] - 1]:g} to {shield[wrong[0]]:g}", wrong
    falls = frames_where(rise < 0) + 1
    up = track["flags_2"]
    wrong = falls[((up[falls] | up[falls - 1]) & np.uint8(SHIELD_FLAG)) == 0]
    for back in (0, 1):  # a move out of the shield begins with the shield's last loss
        there = action[wrong - back]
        wrong = wrong[~(_within(there, GUARD) | _within(there, SHIELD_BREAK) | (there >= FIRST_SPECIAL))]
    if len(wrong):
        text = f"from {shield[wrong[0] - 1]:g} to {shield[wrong[0]]:g}"
        yield "shield_jump", f"shield falls {text}, where it is not up,", wrong


def _within(values: np.ndarray, limits: tuple[int, int]) -> np.ndarray:
    return (values >= limits[0]) & (values <= limits[1])


def _hitlag(track: Track) -> Iterator[Finding]:
    hitlag = track["hitlag"]
    wrong = frames_where(((hitlag > 0) != track.frozen) | (hitlag != np.rint(hitlag)))
    if len(wrong):
        flag = "set" if track.frozen[wrong[0]] else "not set"
        yield "hitlag_mismatch", f"{hitlag[wrong[0]]:g} frames of hitlag, but its flag is {flag},", wrong


def _hitstun(track: Track) -> Iterator[Finding]:
    hitstun = track["hitstun"]
    wrong = frames_where(hitstun != np.rint(hitstun))
    if len(wrong):
        yield "bad_values", f"{hitstun[wrong[0]]:g} frames of hitstun, expected a whole number,", wrong


def _ground(track: Track) -> Iterator[Finding]:
    ground = track["ground"]
    highest = HIGHEST_GROUND[track.stage in FLAT_STAGES]
    if (ground + np.uint16(1)).max() > highest + 1:  # NO_GROUND becomes 0
        wrong = frames_where((ground > highest) & (ground != NO_GROUND))
        yield "bad_values", f"ground {ground[wrong[0]]}, expected at most {highest},", wrong


def _held(track: Track) -> Iterator[Finding]:
    """What only hits, jumps and landings change does not leave for one frame and come back, where there are none."""
    for name, bits in HELD_BITS.items():
        values = track.columns[name]
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
            wrong = wrong[~(track.frozen[wrong - 1] | track.frozen[wrong] | track.frozen[wrong + 1])]
        else:
            wrong = wrong[_runs_on(track, wrong)]
        if len(wrong):
            text = f"{values[wrong[0]]} between frames of {values[wrong[0] - 1]}"
            yield "one_frame_value", f"{name} is {text}", wrong


def _runs_on(track: Track, frames: np.ndarray) -> np.ndarray:
    """Whether one and the same action is there before, in and after these frames."""
    age = track["state_age"]
    runs = (age[frames] >= age[frames - 1]) & (age[frames + 1] >= age[frames])
    return runs & track.stays[frames - 1] & track.stays[frames]


_CLOCK = frozenset({"action", "state_age", "flags_1"})
RULES = (
    Rule(check=_stocks, needs=frozenset({"stocks"}), from_experience=False, of_partners=True),
    Rule(check=_character, needs=frozenset({"character"}), from_experience=False),
    Rule(check=_percent, needs=frozenset({"percent", "action", "character"}), of_partners=True),
    Rule(check=_percent_before, needs=frozenset({"percent"}), needs_before=frozenset({"percent"})),
    Rule(check=_action_before, needs=_CLOCK, needs_before=frozenset({"action"})),
    Rule(check=_grid, needs=frozenset(), from_experience=False),
    Rule(check=_buttons, needs=frozenset({"buttons"}), needs_before=frozenset({"buttons"})),
    Rule(check=_shield, needs=frozenset({"shield", "action", "flags_2"})),
    Rule(check=_hitlag, needs=frozenset({"hitlag", "flags_1"}), from_experience=False, of_partners=True),
    Rule(check=_hitstun, needs=frozenset({"hitstun"}), from_experience=False, of_partners=True),
    Rule(check=_ground, needs=frozenset({"ground"}), of_partners=True),
    Rule(check=_held, needs=_CLOCK),
    *CLOCK_RULES,
    *MOTION_RULES,
)
