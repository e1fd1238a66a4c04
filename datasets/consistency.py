"""Does a game agree with itself? Damaged files mostly parse without an error; the game's own rules show the damage.

Rules here are of values: what may follow what, and what the file says twice. `datasets/motion.py` has those of
positions and velocities, `datasets/clock.py` those of an action's age. Each rule compares whole columns once, and looks
closer at the few frames that this leaves. Each holds without one exception in the 115 real games that they were
measured on (1,090,090 frames of two players). `docs/reliability.md` has the thresholds with their sources, and what
the rules catch; `benchmarks/reliability.py` guards them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from datasets.clock import CLOCK_RULES
from datasets.game import Game
from datasets.motion import MOTION_RULES
from datasets.schema import FIRST_FRAME_ID
from datasets.track import FIRST_SPECIAL, REBIRTH, Finding, Rule, Track, at, partners_of, players_of

INTERNAL_CHARACTERS = (2, 3, 1, 24, 4, 5, 6, 17, 0, 18, 16, 8, 9, 12, 10, 15, 13, 14, 19, 7, 22, 20, 21, 26, 23, 25)
"""Internal character id of each external one that can be chosen (SPEC.md, Melee IDs)."""
SHEIK, ZELDA = 7, 19
NESS = 8
"""Internal ids. Ness' PSI Magnet is the only thing that heals without items."""

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
MAX_ODD_BUTTON_FRAMES = 8
"""Recordings of scripted inputs differ in many frames; damaged bytes, in a few."""

FLAT_STAGES = frozenset({2, 8, 28, 31, 32})
"""Tournament stages without Pokemon Stadium, which has many more surfaces."""
HIGHEST_GROUND = {True: 15, False: 511}
"""By whether the stage is flat: highest surface id, with room (seen: 7 and 134)."""
NO_GROUND = 65535
NOBODY = 6
"""Last hit by no player."""

HELD_BITS = {
    "jumps": 0xFF, "flags_0": 0x2F, "flags_1": 0xC9, "flags_2": 0x7F, "flags_3": 0x8E, "flags_4": 0x7B,
}  # fmt: skip
"""Column -> bits that do not change for a single frame while an action runs on. The other flag bits do, or might:
reflectors, the end of an attack's lag, intangibility by the animation, hitlag, the edge of the screen."""
HIT_COLUMNS = ("last_attack", "combo")
"""Columns that only hits change, which freeze whoever hits; not for a single frame."""


def contradictions(game: Game) -> list[Finding]:
    """What a game says against itself; empty for a sound one.

    Rows that netplay sent again would contradict each other: a game that may hold some is not looked at.
    """
    found: list[Finding] = []
    if game.may_hold_rollbacks:
        return found
    last_frame = game.num_frames - 1 + FIRST_FRAME_ID
    if game.evidence is not None and (game.evidence.last_frame or last_frame) > last_frame:
        text = f"frames end at {last_frame}, but the metadata says {game.evidence.last_frame}"
        found.append(("cut_short", text))
    with np.errstate(invalid="ignore", over="ignore"):
        for track in players_of(game):
            found += [_of(track, finding) for rule in RULES for finding in rule.findings(track)]
        for track in partners_of(game):
            found += [_of(track, finding) for rule in RULES if rule.of_partners for finding in rule.findings(track)]
    return found


def _of(track: Track, finding: Finding) -> Finding:
    return finding[0], f"player {track.player}: {finding[1]}"


def _stocks(track: Track) -> Iterator[Finding]:
    stocks = track["stocks"]
    changes = np.flatnonzero(stocks[1:] != stocks[:-1]) + 1
    wrong = changes[stocks[changes].astype(np.int16) != stocks[changes - 1].astype(np.int16) - 1]
    if len(wrong):
        yield "stocks_jump", f"stocks go from {stocks[wrong[0] - 1]} to {stocks[wrong[0]]} {at(wrong)}"


def _character(track: Track) -> Iterator[Finding]:
    if track.character >= len(INTERNAL_CHARACTERS):
        return
    expected = {INTERNAL_CHARACTERS[track.character]}
    if not expected.isdisjoint({SHEIK, ZELDA}):
        expected = {SHEIK, ZELDA}
    found = {int(track["character"].min()), int(track["character"].max())}
    if not found <= expected:
        yield "character_mismatch", f"character {max(found - expected)}, expected {min(expected)}"


def _percent(track: Track) -> Iterator[Finding]:
    if track.has_items:
        return
    percent = track["percent"]
    falls = np.flatnonzero(percent[1:] < percent[:-1]) + 1
    wrong = falls[(track["action"][falls] != REBIRTH) & (track["character"][falls] != NESS)]
    if len(wrong):
        text = f"from {percent[wrong[0] - 1]:g} to {percent[wrong[0]]:g} {at(wrong)}"
        yield "percent_falls", f"percent falls {text}, where no life begins"


def _percent_before(track: Track) -> Iterator[Finding]:
    """Damage is done after a frame or between two: a frame begins with its own percent or with the last one's."""
    if track.has_items:
        return
    percent, before = track["percent"], track.before("percent")
    differs = np.flatnonzero(before[1:] != percent[:-1]) + 1
    wrong = differs[before[differs] != percent[differs]]
    if len(wrong):
        text = f"begins with {before[wrong[0]]:g} % after {percent[wrong[0] - 1]:g} %"
        yield "pre_post_mismatch", f"a frame {text} {at(wrong)}"


def _action_before(track: Track) -> Iterator[Finding]:
    """An action that is there after one frame only has begun in it, and not in hitlag nor in death."""
    action, before, age = track["action"], track.before("action"), track["state_age"]
    differs = np.flatnonzero(before[1:] != action[:-1])
    once = differs[before[differs] == before[differs + 1]]
    held = (track.frozen[once] & track.frozen[once - 1]) | (before[once] < REBIRTH)
    wrong = once[(age[once] > 1) | held]
    if len(wrong):
        text = f"action {action[wrong[0]]} of age {age[wrong[0]]:g} between frames of {before[wrong[0]]}"
        yield "pre_post_mismatch", f"{text} {at(wrong)}"


def _grid(track: Track) -> Iterator[Finding]:
    off = {} if track.evidence is None else track.evidence.off_grid
    if "facing" in off:
        yield "bad_values", f"facing is none of -1, 0 and 1 in {off['facing']} frames"
    sticks = {name: num for name, num in off.items() if name != "facing"}
    if sticks and track.is_human:
        yield "off_grid", ", ".join(f"{name} is off its grid in {num} frames" for name, num in sticks.items())


def _buttons(track: Track) -> Iterator[Finding]:
    """The game sees the buttons that are pressed, and A with Z."""
    if not track.is_human:
        return
    pressed, processed = track["buttons"], track.before("buttons")
    differs = (processed ^ pressed) & np.uint32(UNUSED_BUTTONS | 0xFFFF)
    wrong = np.flatnonzero(differs)
    wrong = wrong[(differs[wrong] != A) | (pressed[wrong] & Z == 0)]
    if 0 < len(wrong) <= MAX_ODD_BUTTON_FRAMES:
        text = f"buttons {pressed[wrong[0]]:#06x} became {processed[wrong[0]]:#010x}"
        yield "buttons_mismatch", f"{text} {at(wrong)}, and agree in all other frames"


def _shield(track: Track) -> Iterator[Finding]:
    shield, action = track["shield"], track["action"]
    rise = shield[1:] - shield[:-1]
    leaps = np.flatnonzero(rise > np.float32(SHIELD_REGENERATION)) + 1
    wrong = leaps[(action[leaps] != REBIRTH) & ~_within(action[leaps], SHIELD_BREAK)]
    if len(wrong):
        yield "shield_jump", f"shield rises from {shield[wrong[0] - 1]:g} to {shield[wrong[0]]:g} {at(wrong)}"
    falls = np.flatnonzero(rise < 0) + 1
    up = track["flags_2"]
    wrong = falls[((up[falls] | up[falls - 1]) & np.uint8(SHIELD_FLAG)) == 0]
    for back in (0, 1):  # a move out of the shield begins with the shield's last loss
        there = action[wrong - back]
        wrong = wrong[~(_within(there, GUARD) | _within(there, SHIELD_BREAK) | (there >= FIRST_SPECIAL))]
    if len(wrong):
        text = f"from {shield[wrong[0] - 1]:g} to {shield[wrong[0]]:g} {at(wrong)}"
        yield "shield_jump", f"shield falls {text}, where it is not up"


def _within(values: np.ndarray, limits: tuple[int, int]) -> np.ndarray:
    return (values >= limits[0]) & (values <= limits[1])


def _hitlag(track: Track) -> Iterator[Finding]:
    hitlag = track["hitlag"]
    wrong = np.flatnonzero(((hitlag > 0) != track.frozen) | (hitlag != np.rint(hitlag)))
    if len(wrong):
        flag = "set" if track.frozen[wrong[0]] else "not set"
        yield "hitlag_mismatch", f"{hitlag[wrong[0]]:g} frames of hitlag, but its flag is {flag} {at(wrong)}"


def _hitstun(track: Track) -> Iterator[Finding]:
    hitstun = track["hitstun"]
    wrong = np.flatnonzero(hitstun != np.rint(hitstun))
    if len(wrong):
        yield "bad_values", f"{hitstun[wrong[0]]:g} frames of hitstun {at(wrong)}, expected a whole number"


def _last_hit_by(track: Track) -> Iterator[Finding]:
    hit_by = track["last_hit_by"]
    unknown = hit_by != NOBODY
    for port in track.ports:
        if port is None:
            return
        unknown &= hit_by != port - 1
    wrong = np.flatnonzero(unknown)
    if len(wrong):
        yield "bad_values", f"last hit by player index {hit_by[wrong[0]]}, who is not there, {at(wrong)}"


def _ground(track: Track) -> Iterator[Finding]:
    ground = track["ground"]
    highest = HIGHEST_GROUND[track.stage in FLAT_STAGES]
    if (ground + np.uint16(1)).max() > highest + 1:  # NO_GROUND becomes 0
        wrong = np.flatnonzero((ground > highest) & (ground != NO_GROUND))
        yield "bad_values", f"ground {ground[wrong[0]]} {at(wrong)}, expected at most {highest}"


def _held(track: Track) -> Iterator[Finding]:
    """What only hits, jumps and landings change does not leave for one frame and come back, where there are none."""
    for name in (*HELD_BITS, *HIT_COLUMNS):
        values = track.columns[name]
        if values is None:
            continue
        changes = np.flatnonzero(values[1:] != values[:-1])
        once = changes[:-1][changes[1:] - changes[:-1] == 1]
        if not len(once):
            continue
        there = values[once + 1]
        leaves, returns = values[once] ^ there, there ^ values[once + 2]
        if name in HIT_COLUMNS:
            wrong = once[leaves == returns] + 1
            wrong = wrong[~(track.frozen[wrong - 1] | track.frozen[wrong] | track.frozen[wrong + 1])]
        else:
            wrong = once[(leaves & returns & np.uint8(HELD_BITS[name])) != 0] + 1
            if len(wrong):
                wrong = wrong[_runs_on(track, wrong)]
        if len(wrong):
            text = f"{values[wrong[0]]} between frames of {values[wrong[0] - 1]}"
            yield "one_frame_value", f"{name} is {text} {at(wrong)}"


def _runs_on(track: Track, frames: np.ndarray) -> np.ndarray:
    """Whether one and the same action is there before, in and after these frames."""
    age = track["state_age"]
    runs = (age[frames] >= age[frames - 1]) & (age[frames + 1] >= age[frames])
    return runs & track.stays[frames - 1] & track.stays[frames]


_CLOCK = frozenset({"action", "state_age", "flags_1"})
RULES = (
    Rule(check=_stocks, needs=frozenset({"stocks"}), of_partners=True),
    Rule(check=_character, needs=frozenset({"character"})),
    Rule(check=_percent, needs=frozenset({"percent", "action", "character"}), of_partners=True),
    Rule(check=_percent_before, needs=frozenset({"percent"}), needs_before=frozenset({"percent"})),
    Rule(check=_action_before, needs=_CLOCK, needs_before=frozenset({"action"})),
    Rule(check=_grid, needs=frozenset()),
    Rule(check=_buttons, needs=frozenset({"buttons"}), needs_before=frozenset({"buttons"})),
    Rule(check=_shield, needs=frozenset({"shield", "action", "flags_2"})),
    Rule(check=_hitlag, needs=frozenset({"hitlag", "flags_1"}), of_partners=True),
    Rule(check=_hitstun, needs=frozenset({"hitstun"}), of_partners=True),
    Rule(check=_last_hit_by, needs=frozenset({"last_hit_by"}), of_partners=True),
    Rule(check=_ground, needs=frozenset({"ground"}), of_partners=True),
    Rule(check=_held, needs=_CLOCK),
    *CLOCK_RULES,
    *MOTION_RULES,
)
