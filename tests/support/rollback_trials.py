"""Takes the frame ids from real recordings and counts how often the frames are found without them.

    python tests/support/rollback_trials.py --sources dev.zip pool.7z [--trials 20] [--seed 0]

First each recording as it is; then, made of those with many rollbacks, some with few: all rows that were replaced are
taken out, but those of a few rollbacks drawn at random. Prints two tables; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from older_pipeline import Recording, stored

from datasets.legacy.parsed_container import ParsedFile
from datasets.legacy.parsed_game import WANTED, recorded_columns
from datasets.legacy.rollback_frames import recognise_rollbacks
from datasets.replays.game import Columns
from datasets.sources.reading import read_ahead
from datasets.sources.scan import Inputs

MANY_ROLLBACKS = 200
"""In recordings from which others are made."""
FEW_ROLLBACKS = (1, 2, 3, 6, 10, 20)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How the rows found compare with those that count."""

    is_certain: bool
    num_left: int
    """Rows kept though they were replaced."""
    num_lost: int
    """Rows dropped though they count."""

    @property
    def name(self) -> str:
        """For the tables."""
        found = "restored" if self.num_left == self.num_lost == 0 else "not restored"
        return f"{found}, {'certain' if self.is_certain else 'flagged'}"


def try_rows(players: Sequence[Columns], rows: np.ndarray, rows_that_count: np.ndarray) -> Outcome:
    """Recognise the rollbacks among some rows of a recording."""
    shown = [{name: None if v is None else v[rows] for name, v in columns.items()} for columns in players]
    known = recognise_rollbacks(shown)
    found = rows if known.rows is None else rows[known.rows]
    return Outcome(
        is_certain=known.is_certain,
        num_left=len(np.setdiff1d(found, rows_that_count)),
        num_lost=len(np.setdiff1d(rows_that_count, found)),
    )


def with_few_rollbacks(recording: Recording, number: int, random: np.random.Generator) -> np.ndarray:
    """Rows of a recording in which only some of its rollbacks took place."""
    frame_ids = recording.frame_ids
    steps = np.diff(frame_ids)
    kept = set(recording.rows_that_count.tolist())
    for last in random.choice(np.flatnonzero(steps != 1), number, replace=False):
        for frame_id in range(frame_ids[last + 1], frame_ids[last] + 1):
            kept.add(int(np.flatnonzero(frame_ids[: last + 1] == frame_id)[-1]))
    return np.array(sorted(kept))


def main() -> None:
    """Run the trials and print what they show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", nargs="+", required=True)
    parser.add_argument("--trials", type=int, default=20, help="recordings made of each, a number of rollbacks")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random = np.random.default_rng(arguments.seed)
    as_they_are: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    made = {number: Counter() for number in FEW_ROLLBACKS}
    for _, read in read_ahead(Inputs(arguments.sources, lambda key: False)):
        recording = Recording(read())
        players = recorded_columns(ParsedFile(stored(recording.fields("parsed-v2")), WANTED))
        num_rows, count = len(recording.frame_ids), recording.rows_that_count
        num_rollbacks = int((np.diff(recording.frame_ids) != 1).sum())
        has_hitlag = players[0]["hitlag"] is not None
        outcome = try_rows(players, np.arange(num_rows), count)
        kind = f"{'with' if num_rollbacks else 'without'} rollbacks, {'with' if has_hitlag else 'without'} hitlag"
        as_they_are[f"{kind}: {outcome.name}"] += 1
        if has_hitlag:
            rows.update(rows=num_rows, replaced=num_rows - len(count), left=outcome.num_left, lost=outcome.num_lost)
            for number in FEW_ROLLBACKS if num_rollbacks >= MANY_ROLLBACKS else ():
                for _ in range(arguments.trials):
                    few = with_few_rollbacks(recording, number, random)
                    made[number][try_rows(players, few, count).name] += 1
    print("recordings as they are")
    for name, number in sorted(as_they_are.items()):
        print(f"  {number:6d}  {name}")
    print(f"  with hitlag: {rows['replaced']} of {rows['rows']} rows were replaced;", end=" ")
    print(f"{rows['left']} of them are left, {rows['lost']} rows that count are lost")
    print("\nrecordings made of those with many rollbacks")
    for number, names in made.items():
        print(f"  {number:6d} rollbacks: " + ", ".join(f"{count} {name}" for name, count in sorted(names.items())))
    print(json.dumps({"as_they_are": as_they_are, "rows": rows, "made": made}))


if __name__ == "__main__":
    main()
