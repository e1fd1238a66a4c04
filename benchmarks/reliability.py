"""What becomes of damaged replays: refused, stored as if nothing had happened, or stored with changed numbers.

    python benchmarks/reliability.py [--sources dev.zip ...] [--trials 200] [--seed 0]

Guards `datasets/checks/`. Each trial takes one good game at
random, damages its uncompressed .slp, and compares what would be stored with what the sound file gives. Damage:
one byte or eight bytes changed to other values, 4 KB set to zero, cut off; each at a place drawn evenly from the file.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from inputs.default_sources import default_sources

from datasets.checks.filters import FilterConfig, check_game
from datasets.replays.game import Columns, Game
from datasets.replays.slp_reader import parse_replay
from datasets.runtime.errors import ReplayError
from datasets.schema.reject_reasons import REJECT_REASONS
from datasets.sources.reading import read_ahead
from datasets.sources.scan import Inputs

HEADER_BYTES = 15
"""Of a .slp before its event stream; the last four are the stream's length (SPEC.md, The raw element)."""
ZEROED_BYTES = 4096


def change_bytes(content: bytes, count: int, random: np.random.Generator) -> tuple[bytes, list[int]]:
    """Some bytes of a file, each changed to another value; and where."""
    damaged = bytearray(content)
    places = random.choice(len(content), count, replace=False).tolist()
    for place in places:
        damaged[place] ^= int(random.integers(1, 256))
    return bytes(damaged), places


def zero_block(content: bytes, random: np.random.Generator) -> tuple[bytes, list[int]]:
    """A block of zeros, as a failing disk leaves it."""
    start = int(random.integers(0, len(content) - ZEROED_BYTES))
    return content[:start] + bytes(ZEROED_BYTES) + content[start + ZEROED_BYTES :], [start]


def truncate(content: bytes, random: np.random.Generator) -> tuple[bytes, list[int]]:
    """The beginning of a file, as a broken copy leaves it."""
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
    """What differs between what two files of a game would store, in one column."""

    column: str
    num_values: int
    largest: float | None
    """Largest |difference|; None for what is no number."""


@dataclass(kw_only=True)
class Outcomes:
    """What became of the trials of one kind of damage."""

    caught: Counter = field(default_factory=Counter)
    """By reason code."""
    unchanged: Counter = field(default_factory=Counter)
    """Accepted with the same rows, by the part of the file that was damaged."""
    changed: list[list[Change]] = field(default_factory=list)


def part_of(content: bytes, place: int) -> str:
    """Which part of a .slp a byte belongs to."""
    end = HEADER_BYTES + struct.unpack(">I", content[11:HEADER_BYTES])[0]
    sizes_end = HEADER_BYTES + 1 + content[HEADER_BYTES + 1]
    sizes = {content[at]: struct.unpack(">H", content[at + 1 : at + 3])[0] for at in range(17, sizes_end, 3)}
    start_end = sizes_end + 1 + sizes[0x36]
    codes_end = start_end
    while content[codes_end] == 0x10:  # message splitter: the codes the game was patched with
        codes_end += 1 + sizes[0x10]
    for name, stop in (("header", sizes_end), ("settings", start_end), ("codes", codes_end), ("frames", end)):
        if place < stop:
            return name
    return "metadata"


def changes(sound: Game, damaged: Game) -> list[Change]:
    """What would be stored otherwise."""
    if sound.num_frames != damaged.num_frames or len(sound.followers) != len(damaged.followers):
        missing = sound.num_frames - damaged.num_frames
        return [Change(column="frames", num_values=abs(missing), largest=float(abs(missing)))]
    found = [
        Change(column=f"games.{name}", num_values=1, largest=None)
        for name in (entry.name for entry in dataclasses.fields(sound.facts))
        if getattr(sound.facts, name) != getattr(damaged.facts, name)
    ]
    tables: list[tuple[Columns, Columns]] = list(zip(sound.players, damaged.players, strict=True))
    tables += [(old.columns, new.columns) for old, new in zip(sound.followers, damaged.followers, strict=True)]
    for old, new in tables:
        for name, values in old.items():
            others = new[name]
            if values is None or others is None or len(values) != len(others):
                if values is not others:
                    found.append(Change(column=name, num_values=sound.num_frames, largest=None))
                continue
            differ = np.flatnonzero(values != others)
            if len(differ):
                sizes = np.abs(values[differ].astype(np.float64) - others[differ].astype(np.float64))
                found.append(Change(column=name, num_values=len(differ), largest=float(sizes.max())))
    return found


def good_games(sources: list[Path]) -> list[tuple[bytes, Game]]:
    """Contents and games of all replays that are taken with the default filters."""
    games = []
    for _, read in read_ahead(tuple(Inputs([str(source) for source in sources], lambda key: False))):
        try:
            content = read()
            game = parse_replay(content)
            check_game(game, FilterConfig())
        except ReplayError:
            continue
        games.append((content, game))
    return games


def run_trials(games: list[tuple[bytes, Game]], kind: str, trials: int, seed: int) -> Outcomes:
    """Damage games one way, and see what becomes of them."""
    outcomes = Outcomes()
    for trial in range(trials):
        random = np.random.default_rng([seed, list(DAMAGE).index(kind), trial])
        content, sound = games[int(random.integers(len(games)))]
        bytes_damaged, places = DAMAGE[kind](content, random)
        try:
            damaged = parse_replay(bytes_damaged)
            check_game(damaged, FilterConfig())
        except ReplayError as error:
            outcomes.caught[error.code] += 1
            continue
        found = changes(sound, damaged)
        if found:
            outcomes.changed.append(found)
        else:
            outcomes.unchanged[" ".join(sorted({part_of(content, place) for place in places}))] += 1
    return outcomes


def print_outcomes(kind: str, outcomes: Outcomes) -> None:
    """The table of one kind of damage."""
    caught, unchanged = sum(outcomes.caught.values()), sum(outcomes.unchanged.values())
    trials = caught + unchanged + len(outcomes.changed)
    print(f"\n{kind}: {trials} trials")
    print(
        f"  {caught / trials:>6.1%}  caught: " + ", ".join(f"{n} {code}" for code, n in outcomes.caught.most_common())
    )
    where = ", ".join(f"{n} in {part}" for part, n in outcomes.unchanged.most_common())
    print(f"  {unchanged / trials:>6.1%}  accepted, stored rows unchanged: {where}")
    print(f"  {len(outcomes.changed) / trials:>6.1%}  accepted, changed:")
    by_column: dict[str, list[Change]] = {}
    for change in (change for found in outcomes.changed for change in found):
        by_column.setdefault(change.column, []).append(change)
    for column, found in sorted(by_column.items()):
        largest = max((change.largest or 0.0 for change in found), default=0.0)
        values = sum(change.num_values for change in found)
        print(f"          {column}: {values} values in {len(found)} trials, by {largest:.3g} at most")


def facts_of(outcomes: Outcomes) -> dict[str, object]:
    """The same for the JSON line."""
    largest: dict[str, float] = {}
    for found in outcomes.changed:
        for change in found:
            largest[change.column] = max(largest.get(change.column, 0.0), change.largest or 0.0)
    return {
        "caught": sum(outcomes.caught.values()),
        "unchanged": sum(outcomes.unchanged.values()),
        "changed": len(outcomes.changed),
        "most_values_changed": max((sum(c.num_values for c in found) for found in outcomes.changed), default=0),
        "largest_change": largest,
        "codes": dict(outcomes.caught),
    }


def seconds_of(action: Callable[[], object]) -> float:
    """CPU seconds that an action takes."""
    started = time.process_time()
    action()
    return time.process_time() - started


def main() -> None:
    """Run all trials and print the tables and the JSON line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sources", nargs="+", type=Path, help="replays; default: the real dev games, or synthetic")
    parser.add_argument("--trials", type=int, default=200, help="of each kind of damage")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reliability-benchmark-") as name:
        games = good_games(arguments.sources or default_sources(Path(name)))
    if not games:
        sys.exit("no training game in the sources; name others with --sources")
    num_frames = sum(game.num_frames for _, game in games)
    parsing = seconds_of(lambda: [parse_replay(content) for content, _ in games])
    checking = seconds_of(lambda: [check_game(game, FilterConfig()) for _, game in games])
    print(f"{len(games)} good games, {num_frames:,} frames")
    print(f"parsing {parsing / num_frames * 1e6:.2f} us a frame, checks {checking / num_frames * 1e6:.3f}")
    facts: dict[str, object] = {"games": len(games), "frames": num_frames, "trials": arguments.trials}
    facts["check_us_per_frame"] = round(checking / num_frames * 1e6, 3)
    for kind in DAMAGE:
        outcomes = run_trials(games, kind, arguments.trials, arguments.seed)
        assert set(outcomes.caught) <= set(REJECT_REASONS)
        print_outcomes(kind, outcomes)
        facts[kind] = facts_of(outcomes)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
