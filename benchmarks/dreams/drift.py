"""Which fed-back field costs dreams how much: coherence with some fields taken from the truth in each frame.

    PYTHONPATH=.:benchmarks python benchmarks/dreams/drift.py RUN CORPUS [--split all] [--num-frames 20]

Every row feeds all fields back but those that it names, which are the true ones of the frame (`wm rollout` feeds back
all: the first row). Starts, controllers and errors are those of `wm rollout`. A field whose row is far below the first
one is where drift comes from; a row above it says that the true values do not fit what else was fed back.

Further tables: the first row's dreams by what truly happens in them (with --num-frames 60 nearly all are of several
events, and count for the first), and games with and without velocities. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measures.results_file import ResultsFile

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GAME_COLUMNS, GameIndex, index_games
from datasets.runtime.errors import UserError
from datasets.runtime.process.host_memory import raise_malloc_thresholds
from datasets.schema.columns import VELOCITY_COLUMNS
from wm.checkpoints.reader import load_model, open_checkpoint
from wm.model.animation import age_table
from wm.model.dynamics.clocks import HISTORY, clock_of_each
from wm.model.dynamics.imagination import Imagination
from wm.model.dynamics.next_frame import NUM_CONTROLLER_COLUMNS, ActionClock, FeedBack, GameRules
from wm.model.encoding import Frames
from wm.model.heads import Prediction
from wm.model.world_model import WorldModel
from wm.rollout.coherence import HORIZONS, DreamErrors, join, metrics, summary
from wm.rollout.dreams import BATCH_STARTS, dream
from wm.rollout.judge import errors_of, num_context_of
from wm.rollout.starts import Starts, random_starts, read_frames

VELOCITIES, AGE, ACTION, HITLAG = tuple(VELOCITY_COLUMNS), ("state_age",), ("action",), ("hitlag",)
BODY = ("facing", "airborne", "ground", "jumps")
STATE_COLUMNS = (*FLOAT_COLUMNS, *CODE_COLUMNS[:-NUM_CONTROLLER_COLUMNS])
"""What a dream feeds back."""
POSITION = ("x", "y")
GROUPS: dict[str, tuple[str, ...]] = {
    "nothing": (),
    "age": AGE,
    "action": ACTION,
    "action and age": (*ACTION, *AGE),
    "velocities": VELOCITIES,
    "hitlag": HITLAG,
    "facing, airborne, ground, jumps": BODY,
    "all others": tuple(
        name for name in STATE_COLUMNS if name not in (*POSITION, *AGE, *ACTION, *VELOCITIES, *HITLAG, *BODY)
    ),
    "velocities, action, age, hitlag": (*VELOCITIES, *ACTION, *AGE, *HITLAG),
    "all but the position": tuple(name for name in STATE_COLUMNS if name not in POSITION),
}
"""Name of a row -> the columns that are true in each frame; `all others`: percent, shield, stocks and whatever else."""


class WithTruth:
    """A feed-back that takes some columns of each frame from the truth. It counts frames, so it serves one dream."""

    def __init__(
        self, feed_back: FeedBack, known: Frames, first: int, columns: Sequence[str], *, keeps_speed: bool
    ) -> None:
        """
        Args:
            keeps_speed: as in `clock_of_each`.
            known: true frames, those of the dream included.
            first: number of the first imagined frame among them.
            columns: names.
        """
        self._feed_back, self._known, self._frame = feed_back, known, first
        self._floats = [FLOAT_COLUMNS.index(name) for name in columns if name in FLOAT_COLUMNS]
        self._codes = [CODE_COLUMNS.index(name) for name in columns if name in CODE_COLUMNS]
        self._knows_age = "action" in columns or "state_age" in columns
        self._clocks = clock_of_each(known, age_table().to(known.floats.device), keeps_speed=keeps_speed)

    def __call__(
        self, last: Frames, clock: ActionClock, prediction: Prediction, controllers_BTPC: torch.Tensor
    ) -> tuple[Frames, ActionClock]:
        """See `FeedBack`."""
        frames, clock = self._feed_back(last, clock, prediction, controllers_BTPC)
        now = slice(self._frame, self._frame + 1)
        floats, codes = frames.floats.clone(), frames.codes.clone()
        floats[..., self._floats] = self._known.floats[:, now, :, self._floats]
        codes[..., self._codes] = self._known.codes[:, now, :, self._codes].to(codes.dtype)
        if self._knows_age:
            clock = ActionClock(speed=self._clocks.speed[:, now], frames=self._clocks.frames[:, now])
        self._frame += 1
        return replace(frames, floats=floats, codes=codes), clock


def errors_with(model: WorldModel, index: GameIndex, starts: Starts, columns: Sequence[str]) -> DreamErrors:
    """Errors of the dreams from all starts with some columns from the truth."""
    device, rules, parts = torch.device("cpu"), GameRules(), []
    batch = BATCH_STARTS[device.type]
    for first in range(0, len(starts), batch):
        part = starts.part(first, first + batch)
        known = read_frames(index, part, device, HISTORY)
        feed_back = WithTruth(rules, known, HISTORY, columns, keeps_speed=model.fields.animation)
        (found,) = dream(Imagination(model, feed_back), index, part, device)
        parts.append(errors_of(part, found.context, found.truth, found.imagined))
    return join(parts)


def some(errors: DreamErrors, chosen: np.ndarray) -> DreamErrors:
    """Some of the dreams: bool (S,)."""
    possible = {name: frames[chosen] for name, frames in errors.possible_frames.items()}
    names = [one.name for one in fields(errors) if one.name != "possible_frames"]
    others = {name: getattr(errors, name)[chosen] for name in names}
    return replace(errors, possible_frames=possible, **others)


def horizons_of(num_frames: int) -> list[int]:
    """Those of the table."""
    return [n for n in HORIZONS if 5 <= n <= num_frames] or [1]


def row_of(errors: DreamErrors) -> dict[str, float | None]:
    """A row of the table, as JSON data."""
    found = metrics(errors)
    names = [f"coherence_{n}" for n in horizons_of(errors.num_frames)]
    last = horizons_of(errors.num_frames)[-1]
    return {name: found[name].value for name in (*names, f"action_acc_{last}", f"percent_{last}")}


def line(name: str, row: dict[str, Any], first: dict[str, Any] | None = None) -> str:
    """A row as text, with its last coherence relative to the first row's."""
    cells = "".join(f"{value:>15.3f}" for value in row.values())
    key = [name for name in row if name.startswith("coherence_")][-1]
    return f"{name:<34}{cells}" + (f"{row[key] / first[key]:>10.2f}" if first and first[key] else "")


def measure(options: argparse.Namespace) -> None:
    """Measure all rows and print them."""
    opened = open_checkpoint(options.run)
    model = load_model(opened)
    index = index_games(open_corpus(options.corpus, None), options.split, opened.config.split, for_evaluation=True)
    starts = random_starts(
        index, options.num_starts, num_context=num_context_of(model, None, None), num_frames=options.num_frames,
        seed=options.seed,
    )  # fmt: skip
    facts = {
        "run": opened.location, "corpus": str(options.corpus), "split": options.split, "num_starts": len(starts),
        "num_games": len(np.unique(starts.games)), "num_frames": options.num_frames, "seed": options.seed,
    }  # fmt: skip
    file = ResultsFile(options.json, **facts)
    print(f"{len(starts)} dreams of {options.num_frames} frames from {facts['num_games']} games\n")
    rows: dict[str, dict[str, Any]] = {}
    base: DreamErrors | None = None
    for name, columns in GROUPS.items():
        errors = errors_with(model, index, starts, columns)
        rows[name] = row_of(errors)
        if base is None:
            base = errors
            print(f"{'from the truth':<34}" + "".join(f"{key:>15}" for key in rows[name]) + f"{'ratio':>10}")
        print(line(name, rows[name], rows["nothing"]), flush=True)
        file.set("rows", rows)
    assert base is not None
    has_velocity = index.facts[starts.games, GAME_COLUMNS.index("has_velocity")] > 0
    by_velocity = {
        name: {"num_starts": int(chosen.sum())} | row_of(some(base, chosen))
        for name, chosen in (("with velocities", has_velocity), ("without velocities", ~has_velocity))
        if chosen.any()
    }
    print("\nnothing from the truth, by game")
    for name, row in by_velocity.items():
        print(line(f"{name} ({row['num_starts']})", {key: row[key] for key in rows["nothing"]}))
    events = summary(base)["events"]
    print(f"\n{'nothing from the truth, by event':<34}{'dreams':>15}{'of error':>15}{'coherence':>15}{'action':>15}")
    for name, row in events.items():
        coherence, action = row[f"coherence_{options.num_frames}"], row[f"action_acc_to_{options.num_frames}"]
        print(f"{name:<34}{row['num_starts']:>15}{row['share_of_error']:>15.2f}{coherence:>15.3f}{action:>15.3f}")
    file.set("by_velocity", by_velocity)
    file.set("events", events)
    file.finish()
    print(json.dumps(facts | {"rows": rows, "by_velocity": by_velocity, "events": events}))


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run's folder, RUN/best, or a checkpoint")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--split", choices=["train", "validation", "test", "all"], default="validation")
    parser.add_argument("--num-starts", type=int, default=300)
    parser.add_argument("--num-frames", type=int, default=20)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--json", type=Path, help="file that holds the results so far at any time")
    options = parser.parse_args()
    raise_malloc_thresholds()
    try:
        measure(options)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
