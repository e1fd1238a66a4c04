"""Attributes of the characters from real replays, beside those of `wm.model.motion.attributes`.

    PYTHONPATH=.:benchmarks python benchmarks/dreams/attributes.py CORPUS [CORPUS ...]

For each character the constants of its motion are found that most frames follow exactly: the commonest change or value
where one constant decides, a grid search where several do. Three tables: the constants (`!` where they differ from the
table that dreams use), the places on ledges likewise, and how many frames have a candidate of their next velocity or
position that holds. Of games without velocities only the places count. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GAME_COLUMNS, index_games, read_games
from datasets.loading.sequences import take_rows
from datasets.schema.splits import SplitConfig
from wm.model.encoding import STICK_GRID, Frames, to_frames
from wm.model.motion.attributes import ATTRIBUTES, CHARACTERS
from wm.model.motion.candidates import (
    MODES,
    MOTION,
    NUM_MODES,
    REGRESSED,
    STICK_DEADZONE,
    Physics,
    driven,
)
from wm.model.motion.choice import modes_of
from wm.model.motion.ledges import CATCH, NUM_PLACES, PLACES, WAIT, ledge_table

KNEE_BEND, DASH = 24, 20
JUMPS, DOUBLE_JUMPS = (25, 26), (27, 28)
FREE_ACTIONS = 20, 90
"""Range of the actions in which characters fall by their attributes: common ones, none that an animation moves."""
MIN_FRAMES = 500
MAX_SEARCHED = 3_000
"""Frames of a grid search."""
TOLERANCE = 2e-3


class Transitions:
    """Pairs of consecutive frames of one character, as columns `name0` and `name1`."""

    def __init__(self, before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> None:
        self.before, self.after = before, after

    def __getitem__(self, name: str) -> np.ndarray:
        return (self.before if name.endswith("0") else self.after)[name[:-1]]

    def where(self, mask: np.ndarray) -> Transitions:
        return Transitions(*({name: v[mask] for name, v in side.items()} for side in (self.before, self.after)))

    def __len__(self) -> int:
        return len(self["action0"])


def games_of(corpora: list[Path]) -> Iterator[Frames]:
    """Every game, whole."""
    for corpus in corpora:
        index = index_games(open_corpus(corpus), "all", SplitConfig())
        for number in range(len(index)):
            game = np.array([number])
            rows = np.arange(index.num_frames[number])[None]
            yield to_frames(take_rows(read_games(index, game), index.facts[game], rows))


def transitions_of(frames: Frames) -> dict[int, Transitions]:
    """By internal character id; without frames in hitlag."""
    floats, codes = frames.floats[0].numpy(), frames.codes[0].numpy()
    columns = {name: floats[..., FLOAT_COLUMNS.index(name)] for name in FLOAT_COLUMNS}
    columns |= {name: codes[..., CODE_COLUMNS.index(name)] for name in CODE_COLUMNS}
    columns["stick"] = columns["main_x"] / STICK_GRID
    for name in ("stage", "has_velocity"):
        columns[name] = np.full(columns["main_x"].shape, int(frames.game[0, GAME_COLUMNS.index(name)]))
    found = {}
    for character in np.unique(columns["character"]):
        mask = (columns["character"][1:] == character) & (columns["hitlag"][1:] == 0)
        before, after = ({n: v[part][mask] for n, v in columns.items()} for part in (slice(None, -1), slice(1, None)))
        found[int(character)] = Transitions(before, after)
    return found


def commonest(values: np.ndarray) -> float:
    """The commonest value, in thousandths; 0 if there is none."""
    counted = Counter(np.round(values.astype(float), 3).tolist()).most_common(1)
    return counted[0][0] if counted else 0.0


def beyond_deadzone(stick: np.ndarray) -> np.ndarray:
    """The stick as the game's motion sees it."""
    return np.where(np.abs(stick) < STICK_DEADZONE, 0.0, stick)


def drive(value: np.ndarray, stick: np.ndarray, *constants: float) -> np.ndarray:
    """`driven`, of arrays."""
    value_T, stick_T = torch.from_numpy(value.astype(np.float32)), torch.from_numpy(stick.astype(np.float32))
    return driven(value_T, stick_T, *(torch.tensor(constant) for constant in constants)).numpy()


def score(found: np.ndarray, truth: np.ndarray) -> float:
    """Share of the frames within TOLERANCE, less a little for how far they are off: exact constants win."""
    if not len(truth):
        return 0.0
    errors = np.minimum(np.abs(found - truth), TOLERANCE) / TOLERANCE
    return float((errors < 1).mean() - errors.mean() / 2)


def fit_air(of: Transitions) -> dict[str, float]:
    """Constants of the motion in the air."""
    of = of.where((of["airborne0"] > 0) & (of["airborne1"] > 0))
    drop, y = of["self_y0"] - of["self_y1"], of["self_y1"]
    free = (of["action1"] >= FREE_ACTIONS[0]) & (of["action1"] <= FREE_ACTIONS[1])
    falls = Counter(np.round(-y[free & (np.abs(drop) < 1e-5) & (y < -1.15)].astype(float), 3).tolist())
    speeds = sorted(speed for speed, _ in falls.most_common(2))
    x0, x1, stick = of["self_air_x0"], of["self_air_x1"], beyond_deadzone(of["stick1"])
    slower = np.abs(x0) - np.abs(x1)
    friction = commonest(slower[(stick == 0) & (slower > 2e-3) & (x0 * x1 > 0)])
    full = np.abs(stick) > 0.99
    gained = ((x1 - x0) * np.sign(stick))[full]
    acceleration = commonest(gained[(gained > 0.02) & (gained < 0.4)])
    speed = commonest(np.abs(x1)[full & (np.abs(x1 - x0) < 1e-5) & (np.abs(x1) > 0.3)])
    part = of.where((stick != 0) & ~full)
    x0, x1, stick = (a[:MAX_SEARCHED] for a in (part["self_air_x0"], part["self_air_x1"], part["stick1"]))
    stick = beyond_deadzone(stick)
    base = max(
        np.arange(0, acceleration, 0.001),
        key=lambda b: score(drive(x0, stick, acceleration - b, b, speed, friction), x1),
        default=0.0,
    )
    return {
        "gravity": commonest(drop[(drop > 0.03) & (drop < 0.3)]),
        "fall_speed": speeds[0] if speeds else 0.0,
        "fast_fall_speed": speeds[-1] if speeds else 0.0,
        "air_friction": friction,
        "air_stick": round(acceleration - base, 3),
        "air_base": round(float(base), 3),
        "air_speed": speed,
    }


def fit_jumps(of: Transitions, air: dict[str, float]) -> dict[str, float]:
    """Velocities of jumps in their first frame."""
    jumps = of.where((of["action0"] == KNEE_BEND) & np.isin(of["action1"], JUMPS))
    heights = [h for h, _ in Counter(np.round(jumps["self_y1"].astype(float), 3).tolist()).most_common(2)]
    ground, stick, x = (jumps[name][: MAX_SEARCHED // 5] for name in ("self_ground_x0", "stick0", "self_air_x1"))
    limits = sorted({commonest(np.abs(x)), *(n / 100 for n in range(70, 220, 10))})
    tried = (
        (score(np.clip(momentum * ground + by_stick * stick, -limit, limit), x), -limit, momentum, by_stick)
        for limit in limits
        for momentum in np.arange(0.6, 1.01, 0.05 if len(x) < 50 else 0.01)
        for by_stick in np.arange(0.5, 1.05, 0.05 if len(x) < 50 else 0.01)
    )
    _, limit, momentum, by_stick = max(tried, default=(0.0, 0.0, 0.0, 0.0))
    again = of.where(np.isin(of["action1"], DOUBLE_JUMPS) & ~np.isin(of["action0"], DOUBLE_JUMPS))
    stick, x = beyond_deadzone(again["stick1"]), again["self_air_x1"]
    constants = air["air_stick"], air["air_base"], air["air_speed"], air["air_friction"]
    double = max(np.arange(0.0, 1.3, 0.01), key=lambda h: score(drive(h * stick, stick, *constants), x))
    return {
        "full_hop": max(heights, default=0.0),
        "short_hop": min(heights, default=0.0),
        "double_jump": commonest(again["self_y1"]),
        "jump_momentum": round(float(momentum), 3),
        "jump_stick": round(float(by_stick), 3),
        "jump_speed": round(float(-limit), 3),
        "double_jump_stick": round(float(double), 3) if len(x) else 0.0,
    }


def fit_ground(of: Transitions) -> dict[str, float]:
    """Constants of the motion on the ground."""
    of = of.where((of["airborne0"] == 0) & (of["airborne1"] == 0))
    x0, x1, stick = of["self_ground_x0"], of["self_ground_x1"], beyond_deadzone(of["stick1"])
    slower = np.abs(x0) - np.abs(x1)
    traction = commonest(slower[(stick == 0) & (slower > 2e-3) & (x0 * x1 > 0)])
    starts = (of["action1"] == DASH) & (of["action0"] != DASH) & (x0 * of["facing1"] >= 0)
    dashes = (of["action1"] == DASH) & (of["action0"] == DASH) & (stick != 0)
    x0, x1, stick = (a[dashes][:MAX_SEARCHED] for a in (x0, x1, stick))
    steady = np.abs(x1)[(np.abs(stick) > 0.99) & (np.abs(x1 - x0) < 1e-5)].astype(float)
    speeds = [s for s, _ in Counter(np.round(steady, 3).tolist()).most_common(4)]
    tried = (
        (score(drive(x0, stick, by_stick, base, speed, traction), x1), by_stick, base, speed)
        for speed in speeds
        for by_stick in np.arange(0.0, 0.2, 0.01)
        for base in np.arange(0.0, 0.06, 0.01)
    )
    _, by_stick, base, speed = max(tried, default=(0.0, 0.0, 0.0, 0.0))
    return {
        "traction": traction,
        "dash_start": commonest(np.abs(of["self_ground_x1"][starts])),
        "dash_stick": round(float(by_stick), 3),
        "dash_base": round(float(base), 3),
        "dash_speed": speed,
    }


def ledge_places(of: Transitions) -> list[tuple[float, float]]:
    """Median places on ledges as in `wm.model.motion.ledges.PLACES`: (outwards, up); NaN where there is no frame."""
    table = ledge_table().numpy()[of["stage1"]]
    outwards, up = np.abs(of["x1"]) - table[:, 0], of["y1"] - table[:, 1]
    found = []
    for number in range(NUM_PLACES):
        action, age = (CATCH, number + 1) if number < NUM_PLACES - 1 else (WAIT, 0)
        there = (of["action1"] == action) & (of["state_age1"] == age) & ~np.isnan(outwards)
        place = [float(np.median(values[there])) if there.any() else np.nan for values in (outwards, up)]
        found.append((place[0], place[1]))
    return found


def print_places(found: dict[int, list[tuple[float, float]]]) -> None:
    """Places on ledges by character; `!` where the table that dreams use has another one, or none."""
    for character, places in found.items():
        known = np.array(PLACES.get(character, np.full((2, NUM_PLACES), np.nan))).T
        cells = []
        for place, expected in zip(places, known, strict=True):
            differs = np.abs(np.array(place) - expected).max() >= 3e-3 or np.isnan(expected).any()
            cells.append("-" if np.isnan(place[0]) else f"{place[0]:.3f},{place[1]:.3f}" + "!" * bool(differs))
        print(f"ledge {character:<12}" + "".join(f"{cell:>16}" for cell in cells))


def held(frames: Frames, physics: Physics) -> tuple[np.ndarray, int]:
    """Player frames of a game in which each candidate holds, (numbers, modes), and their number."""
    right = modes_of(physics, frames)
    return right.sum((0, 1, 2)).numpy(), int(right[..., 0, 0].numel())


def print_table(fitted: dict[int, dict[str, float]]) -> None:
    """Attributes by character; `!` where the table that dreams use has another value, or none."""
    print(f"{'character':<18}" + "".join(f"{character:>9}" for character in fitted))
    print(f"{'player frames':<18}" + "".join(f"{int(values['player_frames']):>9,}" for values in fitted.values()))
    for number, name in enumerate(ATTRIBUTES):
        cells = []
        for character, values in fitted.items():
            known = CHARACTERS[character][number] if character in CHARACTERS else np.nan
            cells.append(f"{values[name]:.3f}" + (" " if abs(values[name] - known) < 1e-3 else "!"))
        print(f"{name:<18}" + "".join(f"{cell:>9}" for cell in cells))


def main() -> None:
    """Fit, compare, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpora", type=Path, nargs="+")
    parts: dict[int, list[Transitions]] = {}
    counts, num_frames, physics = np.zeros((len(MOTION), NUM_MODES)), 0, Physics()
    for frames in games_of(parser.parse_args().corpora):
        for character, of in transitions_of(frames).items():
            parts.setdefault(character, []).append(of)
        if bool(frames.present("velocity")):
            holding, frames_of_game = held(frames, physics)
            counts, num_frames = counts + holding, num_frames + frames_of_game
    fitted: dict[int, dict[str, float]] = {}
    places: dict[int, list[tuple[float, float]]] = {}
    for character, pieces in sorted(parts.items()):
        sides = [
            {name: np.concatenate([getattr(p, side)[name] for p in pieces]) for name in pieces[0].before}
            for side in ("before", "after")
        ]
        of = Transitions(*sides)
        places[character] = ledge_places(of)
        of = of.where(of["has_velocity1"] > 0)
        if len(of) >= MIN_FRAMES:
            air = fit_air(of)
            fitted[character] = air | fit_jumps(of, air) | fit_ground(of) | {"player_frames": len(of)}
    print_table(fitted)
    print_places(places)
    shares = {
        name: dict(zip(modes, (counts[number] / max(1, num_frames)).tolist(), strict=False))
        for number, (name, modes) in enumerate(MODES.items())
    }
    for name, modes in shares.items():
        others = ", ".join(f"{mode} {value:.1%}" for mode, value in list(modes.items())[1:])
        print(f"{name:<14} no candidate holds {modes[MODES[name][REGRESSED]]:6.1%}; {others}")
    facts = {"benchmark": "attributes", "player_frames": num_frames, "held": shares}
    print(json.dumps(facts | {"fitted": fitted, "ledges": places}))


if __name__ == "__main__":
    main()
