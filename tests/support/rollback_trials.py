"""Measures rollback detection: removes the frame ids of real recordings, and compares the rows found with the truth.

    python tests/support/rollback_trials.py --sources dev.zip pool.7z [--trials 20] [--seed 0]

Each recording is tried unchanged. From recordings with many rollbacks others are derived that keep only a few, drawn at
random. Prints two tables; the last line is one JSON object.
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
from datasets.legacy.parsed_game import FIELDS_TO_READ, recorded_columns
from datasets.legacy.rollback_frames import find_final_rows
from datasets.replays.game import Columns
from datasets.sources.reading import read_ahead
from datasets.sources.scan import Inputs

MANY_ROLLBACKS = 200
"""Minimum in recordings from which others are derived."""
FEW_ROLLBACKS = (1, 2, 3, 6, 10, 20)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How the rows found compare with the final rows."""

    is_certain: bool
    num_left: int
    """Rows kept although a resimulated row replaces them."""
    num_lost: int
    """Final rows that were dropped."""

    @property
    def name(self) -> str:
        """The row of the tables."""
        found = "restored" if self.num_left == self.num_lost == 0 else "not restored"
        return f"{found}, {'certain' if self.is_certain else 'flagged'}"


def try_rows(players: Sequence[Columns], rows: np.ndarray, final_rows: np.ndarray) -> Outcome:
    """Detect the rollbacks among some rows of a recording."""
    shown = [{name: None if v is None else v[rows] for name, v in columns.items()} for columns in players]
    known = find_final_rows(shown)
    found = rows if known.rows is None else rows[known.rows]
    return Outcome(
        is_certain=known.is_certain,
        num_left=len(np.setdiff1d(found, final_rows)),
        num_lost=len(np.setdiff1d(final_rows, found)),
    )


def with_few_rollbacks(recording: Recording, number: int, random: np.random.Generator) -> np.ndarray:
    """The rows of a recording as if only some of its rollbacks had happened."""
    frame_ids = recording.frame_ids
    steps = np.diff(frame_ids)
    kept = set(recording.final_rows.tolist())
    for last in random.choice(np.flatnonzero(steps != 1), number, replace=False):
        for frame_id in range(frame_ids[last + 1], frame_ids[last] + 1):
            kept.add(int(np.flatnonzero(frame_ids[: last + 1] == frame_id)[-1]))
    return np.array(sorted(kept))


def main() -> None:
    """Run the trials and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sources", nargs="+", required=True)
    parser.add_argument(
        "--trials", type=int, default=20, help="derived recordings, per recording and number of rollbacks"
    )
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random = np.random.default_rng(arguments.seed)
    unchanged: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    derived = {number: Counter() for number in FEW_ROLLBACKS}
    for _, read in read_ahead(Inputs(arguments.sources, lambda key: False)):
        recording = Recording(read())
        players = recorded_columns(ParsedFile(stored(recording.fields("parsed-v2")), FIELDS_TO_READ))
        num_rows, count = len(recording.frame_ids), recording.final_rows
        num_rollbacks = int((np.diff(recording.frame_ids) != 1).sum())
        has_hitlag = players[0]["hitlag"] is not None
        outcome = try_rows(players, np.arange(num_rows), count)
        kind = f"{'with' if num_rollbacks else 'without'} rollbacks, {'with' if has_hitlag else 'without'} hitlag"
        unchanged[f"{kind}: {outcome.name}"] += 1
        if has_hitlag:
            rows.update(rows=num_rows, replaced=num_rows - len(count), left=outcome.num_left, lost=outcome.num_lost)
            for number in FEW_ROLLBACKS if num_rollbacks >= MANY_ROLLBACKS else ():
                for _ in range(arguments.trials):
                    few = with_few_rollbacks(recording, number, random)
                    derived[number][try_rows(players, few, count).name] += 1
    print("unchanged recordings")
    for name, number in sorted(unchanged.items()):
        print(f"  {number:6d}  {name}")
    print(f"  with hitlag: {rows['replaced']} of {rows['rows']} rows were replaced;", end=" ")
    print(f"{rows['left']} of them remain, {rows['lost']} final rows are lost")
    print("\nderived from recordings with many rollbacks")
    for number, names in derived.items():
        print(f"  {number:6d} rollbacks: " + ", ".join(f"{count} {name}" for name, count in sorted(names.items())))
    print(json.dumps({"unchanged": unchanged, "rows": rows, "derived": derived}))


if __name__ == "__main__":
    main()
