"""Measures what happens to damaged replays: refused, flagged, or neither, and what of it changes stored values.

    python benchmarks/reliability.py [--sources dev.zip ...] [--trials 200] [--seed 0]

Guards `datasets/checks/`. Each trial damages the uncompressed .slp of a random good game, and compares the result with
that of the undamaged file. Damage: one byte or eight bytes changed, 4 KB zeroed, or the file truncated; each at a
uniformly random position. The last line is one JSON object.

    python benchmarks/reliability.py --cross-validate --sources dev.zip pool.7z [--others edge.zip ...]

counts good games that are refused or flagged: by thresholds from the other half of the sources, and in `--others`, from
which no threshold comes.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from inputs.default_sources import default_sources
from measures.good_games import cross_validate, measure, outcome

from datasets.checks.filters import FilterConfig, check_game
from datasets.replays.game import Columns, Game
from datasets.replays.slp_reader import parse_replay
from datasets.runtime.errors import ReplayError
from datasets.schema.reject_reasons import REJECT_REASONS
from datasets.sources.reading import read_ahead
from datasets.sources.scan import Inputs

HEADER_BYTES = 15
"""Bytes of a .slp before its event stream; the last four are the stream's length (SPEC.md, The raw element)."""
ZEROED_BYTES = 4096


def change_bytes(content: bytes, count: int, random: np.random.Generator) -> tuple[bytes, list[int]]:
    """Change some bytes to other values. Returns the file and the positions."""
    damaged = bytearray(content)
    positions = random.choice(len(content), count, replace=False).tolist()
    for position in positions:
        damaged[position] ^= int(random.integers(1, 256))
    return bytes(damaged), positions


def zero_block(content: bytes, random: np.random.Generator) -> tuple[bytes, list[int]]:
    """Zero a block, as a failing disk does."""
    start = int(random.integers(0, len(content) - ZEROED_BYTES))
    return content[:start] + bytes(ZEROED_BYTES) + content[start + ZEROED_BYTES :], [start]


def truncate(content: bytes, random: np.random.Generator) -> tuple[bytes, list[int]]:
    """Truncate the file, as an interrupted copy does."""
    end = int(random.integers(0, len(content)))
    return content[:end], [end]


DAMAGE: dict[str, Callable[[bytes, np.random.Generator], tuple[bytes, list[int]]]] = {
    "1 byte changed": lambda content, random: change_bytes(content, 1, random),
    "8 bytes changed": lambda content, random: change_bytes(content, 8, random),
    "4 KB zeroed": zero_block,
    "truncated": truncate,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """The difference between the stored values of two files of a game, in one column."""

    column: str
    num_values: int
    largest: float | None
    """Largest absolute difference; None for values that are not numbers."""


@dataclass(kw_only=True)
class Outcomes:
    """The outcomes of the trials of one kind of damage."""

    rejected: Counter = field(default_factory=Counter)
    """Rejected trials, by reject code."""
    flagged: Counter = field(default_factory=Counter)
    """Accepted trials that break learned rules, by rule; a trial may break several."""
    flagged_changes: list[list[Change]] = field(default_factory=list)
    """The changes of each of these trials."""
    unchanged: Counter = field(default_factory=Counter)
    """Other trials with unchanged rows, by the damaged part of the file."""
    changed: list[list[Change]] = field(default_factory=list)
    """The changes of each of the rest."""

    @property
    def num_trials(self) -> int:
        unflagged = sum(self.unchanged.values()) + len(self.changed)
        return sum(self.rejected.values()) + len(self.flagged_changes) + unflagged

    @property
    def num_caught(self) -> int:
        """Rejected or flagged."""
        return sum(self.rejected.values()) + len(self.flagged_changes)


def part_of(content: bytes, position: int) -> str:
    """The part of a .slp that a byte belongs to."""
    end = HEADER_BYTES + struct.unpack(">I", content[11:HEADER_BYTES])[0]
    sizes_end = HEADER_BYTES + 1 + content[HEADER_BYTES + 1]
    sizes = {content[at]: struct.unpack(">H", content[at + 1 : at + 3])[0] for at in range(17, sizes_end, 3)}
    start_end = sizes_end + 1 + sizes[0x36]
    codes_end = start_end
    while content[codes_end] == 0x10:  # message splitter: the codes the game was patched with
        codes_end += 1 + sizes[0x10]
    for name, stop in (("header", sizes_end), ("settings", start_end), ("codes", codes_end), ("frames", end)):
        if position < stop:
            return name
    return "metadata"


def changes(undamaged: Game, damaged: Game) -> list[Change]:
    """The stored values that differ."""
    if undamaged.num_frames != damaged.num_frames or len(undamaged.followers) != len(damaged.followers):
        missing = undamaged.num_frames - damaged.num_frames
        return [Change(column="frames", num_values=abs(missing), largest=float(abs(missing)))]
    found = [
        Change(column=f"games.{name}", num_values=1, largest=None)
        for name in (entry.name for entry in dataclasses.fields(undamaged.facts))
        if getattr(undamaged.facts, name) != getattr(damaged.facts, name)
    ]
    tables: list[tuple[Columns, Columns]] = list(zip(undamaged.players, damaged.players, strict=True))
    tables += [(old.columns, new.columns) for old, new in zip(undamaged.followers, damaged.followers, strict=True)]
    for old, new in tables:
        for name, values in old.items():
            others = new[name]
            if values is None or others is None or len(values) != len(others):
                if values is not others:
                    found.append(Change(column=name, num_values=undamaged.num_frames, largest=None))
                continue
            differ = np.flatnonzero(values != others)
            if len(differ):
                sizes = np.abs(values[differ].astype(np.float64) - others[differ].astype(np.float64))
                found.append(Change(column=name, num_values=len(differ), largest=float(sizes.max())))
    return found


def good_games(sources: list[Path]) -> list[tuple[bytes, Game]]:
    """Contents and games of all replays that the default filters accept without a flag."""
    games = []
    for _, read in read_ahead(tuple(Inputs([str(source) for source in sources], lambda key: False))):
        try:
            content = read()
            game = parse_replay(content)
            check_game(game, FilterConfig(strict=True))
        except ReplayError:
            continue
        games.append((content, game))
    return games


def parsed(sources: list[Path]) -> Iterator[Game]:
    """All replays that can be parsed and have two players."""
    for _, read in read_ahead(tuple(Inputs([str(source) for source in sources], lambda key: False))):
        with contextlib.suppress(ReplayError):
            yield parse_replay(read(), repair_old=True)


def print_good_games(sources: list[Path], others: list[Path]) -> None:
    """Count the good games that are refused or flagged, and print a JSON line."""
    measures = [measure(game) for game in parsed(sources)]
    refused, flagged, held_out = cross_validate(measures)
    facts: dict[str, object] = {"games": len(measures), "held_out": held_out}
    facts |= {"refused": dict(refused), "flagged": dict(flagged)}
    print(f"{len(measures)} games; held out in {held_out} tries: {refused['any'] / held_out:.2%} refused, ", end="")
    print(f"{flagged['any'] / held_out:.2%} flagged ({_counted(flagged)})")
    for source in others:
        outcomes = [outcome(game) for game in parsed([source])]
        codes = [Counter(code for found in outcomes for code in found[kind]) for kind in (0, 1)]
        print(f"{source.name}: {len(outcomes)} games, refused: {_counted(codes[0])}; flagged: {_counted(codes[1])}")
        facts[source.name] = {"games": len(outcomes), "refused": dict(codes[0]), "flagged": dict(codes[1])}
    print(json.dumps(facts))


def run_trials(games: list[tuple[bytes, Game]], kind: str, trials: int, seed: int) -> Outcomes:
    """Damage games in one way, and collect the outcomes."""
    outcomes = Outcomes()
    for trial in range(trials):
        random = np.random.default_rng([seed, list(DAMAGE).index(kind), trial])
        content, undamaged = games[int(random.integers(len(games)))]
        bytes_damaged, positions = DAMAGE[kind](content, random)
        try:
            damaged = parse_replay(bytes_damaged)
            suspect = check_game(damaged, FilterConfig())
        except ReplayError as error:
            outcomes.rejected[error.code] += 1
            continue
        found = changes(undamaged, damaged)
        if suspect:
            outcomes.flagged.update({violation.code for violation in suspect})
            outcomes.flagged_changes.append(found)
        elif found:
            outcomes.changed.append(found)
        else:
            outcomes.unchanged[" ".join(sorted({part_of(content, position) for position in positions}))] += 1
    return outcomes


def print_outcomes(kind: str, outcomes: Outcomes) -> None:
    """Print the table of one kind of damage."""
    rejected, unchanged = sum(outcomes.rejected.values()), sum(outcomes.unchanged.values())
    trials = outcomes.num_trials
    print(f"\n{kind}: {trials} trials, {outcomes.num_caught / trials:.2%} rejected or flagged")
    print(f"  {rejected / trials:>6.1%}  rejected: {_counted(outcomes.rejected)}")
    flagged = len(outcomes.flagged_changes)
    wrong = [sum(change.num_values for change in found) for found in outcomes.flagged_changes]
    print(f"  {flagged / trials:>6.1%}  flagged: {_counted(outcomes.flagged)}")
    if flagged:
        print(f"          stored values changed: none in {wrong.count(0)} of them, {max(wrong)} at most")
    print(f"  {unchanged / trials:>6.1%}  neither, stored rows unchanged: {_counted(outcomes.unchanged)}")
    print(f"  {len(outcomes.changed) / trials:>6.1%}  neither, changed:")
    by_column: dict[str, list[Change]] = {}
    for change in (change for found in outcomes.changed for change in found):
        by_column.setdefault(change.column, []).append(change)
    for column, found in sorted(by_column.items()):
        largest = max((change.largest or 0.0 for change in found), default=0.0)
        values = sum(change.num_values for change in found)
        print(f"          {column}: {values} values in {len(found)} trials, by {largest:.3g} at most")


def _counted(counts: Counter) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())


def facts_of(outcomes: Outcomes) -> dict[str, object]:
    """The figures of one kind of damage for the JSON line."""
    largest: dict[str, float] = {}
    for found in outcomes.changed:
        for change in found:
            largest[change.column] = max(largest.get(change.column, 0.0), change.largest or 0.0)
    return {
        "rejected": sum(outcomes.rejected.values()),
        "flagged": len(outcomes.flagged_changes),
        "rejected_or_flagged": outcomes.num_caught / outcomes.num_trials,
        "unchanged": sum(outcomes.unchanged.values()),
        "changed": len(outcomes.changed),
        "most_values_changed": max((sum(c.num_values for c in found) for found in outcomes.changed), default=0),
        "largest_change": largest,
        "codes": dict(outcomes.rejected),
        "rules": dict(outcomes.flagged),
    }


def seconds_of(action: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    started = time.process_time()
    action()
    return time.process_time() - started


def main() -> None:
    """Run all trials and print the tables and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--sources", nargs="+", type=Path, help="replays; default: the real dev games, or synthetic ones"
    )
    parser.add_argument("--trials", type=int, default=200, help="of each kind of damage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cross-validate", action="store_true", help="count good games instead of damaging them")
    parser.add_argument("--others", nargs="*", type=Path, default=[], help="with --cross-validate: more good games")
    arguments = parser.parse_args()
    if arguments.cross_validate:
        print_good_games(arguments.sources or [], arguments.others)
        return
    with tempfile.TemporaryDirectory(prefix="reliability-benchmark-") as name:
        games = good_games(arguments.sources or default_sources(Path(name)))
    if not games:
        sys.exit("no training game in the sources; name other sources with --sources")
    num_frames = sum(game.num_frames for _, game in games)
    parsing = seconds_of(lambda: [parse_replay(content) for content, _ in games])
    checking = seconds_of(lambda: [check_game(game, FilterConfig()) for _, game in games])
    print(f"{len(games)} good games, {num_frames:,} frames")
    print(f"parsing {parsing / num_frames * 1e6:.2f} us a frame, checks {checking / num_frames * 1e6:.3f}")
    facts: dict[str, object] = {"games": len(games), "frames": num_frames, "trials": arguments.trials}
    facts["check_us_per_frame"] = round(checking / num_frames * 1e6, 3)
    for kind in DAMAGE:
        outcomes = run_trials(games, kind, arguments.trials, arguments.seed)
        assert set(outcomes.rejected) <= set(REJECT_REASONS)
        print_outcomes(kind, outcomes)
        facts[kind] = facts_of(outcomes)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
