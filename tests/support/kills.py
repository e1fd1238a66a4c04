"""Kills `wm encode` at random moments, resumes it, and compares the corpus with that of an uninterrupted run.

    python tests/support/kills.py --sources dev.zip [--storage disk s3] [--kinds driver tree] [--moments 5] [--seed 1]

Each kind is killed at seeded random moments between the start of the first parser and the end of the run. A run
that survives (a worker or its child was killed) must finish by itself; otherwise the same command is run again.
The uninterrupted run is into a folder on the disk; those that are killed are into folders on the disk, or into a bucket
of moto's S3 server on loopback. Prints a table; the last line is one JSON object. Exit code 1 if any corpus differs.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from chunks import same_rows
from killing import descendants, send, start_printing_to, still_alive

from datasets.corpus.commit_log import list_commits, read_commits
from datasets.corpus.maintenance.verify import verify
from datasets.runtime.storage.folder import open_folder

PARSER = r"datasets\.pipeline\.parser_main"
VICTIMS = {
    "worker": r"ray::(MapWorker|.*_Parser)",
    "child": PARSER,
    "raylet": r"/raylet/raylet ",
    "driver": None,
    "tree": None,
    "sigterm": None,
}
"""Kind -> command line of the process that is killed; None: the driver, the driver and all its descendants, or the
driver by SIGTERM."""
SURVIVES = {"worker", "child"}
SIGTERM_EXIT = 128 + signal.SIGTERM
GONE_SECONDS = 10
"""Time until the remaining processes of a killed run are counted; Ray's daemons take a while to exit."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The outcome of one kill."""

    kind: str
    moment_s: float
    """Seconds after the start of the first parser."""
    was_running: bool
    """Whether the run was still running."""
    exit_code: int
    """Exit code of the killed run."""
    committed_inputs: int
    """Committed inputs when the command was run again."""
    left_processes: tuple[str, ...]
    """Processes of the killed run that exist GONE_SECONDS later: the end of each command line."""
    is_same: bool
    """Whether the corpus is sound and equals that of the uninterrupted run, row for row."""


Place = Callable[[str], str]
"""Name -> path or URI of a folder in which there is nothing yet."""


@contextmanager
def place(storage: str, scratch: Path) -> Iterator[Place]:
    """New folders in a scratch folder on the disk, or in the bucket of a server that runs meanwhile."""
    numbers = itertools.count()
    if storage == "disk":
        yield lambda name: str(scratch / f"{next(numbers)}-{name}")
        return
    from servers.object_stores import s3_server

    with s3_server() as server:
        yield lambda name: server.uri(f"{next(numbers)}-{name}")


def start(sources: list[str], out: str, printed: Path) -> subprocess.Popen[bytes]:
    """Start `wm encode` in a new session; its output goes to a file."""
    return start_printing_to(printed, [sys.executable, "-m", "wm.cli", "encode", *sources, "--out", out])


def wait_for_parsers(process: subprocess.Popen[bytes]) -> None:
    """Wait until a run has its first parser or has ended."""
    while process.poll() is None and not any(
        re.search(PARSER, command) for command in descendants(process.pid).values()
    ):
        time.sleep(0.05)


def kill(process: subprocess.Popen[bytes], kind: str, rng: random.Random) -> dict[int, str]:
    """Send SIGKILL, or SIGTERM, to the processes of a kind; returns the process tree before that."""
    tree = descendants(process.pid)
    pattern = VICTIMS[kind]
    if kind in ("driver", "sigterm"):
        victims = [process.pid]
    elif kind == "tree":
        victims = [process.pid, *tree]
    else:
        assert pattern is not None
        matching = sorted(pid for pid, command in tree.items() if re.search(pattern, command))
        victims = [rng.choice(matching)] if matching else []
    send(signal.SIGTERM if kind == "sigterm" else signal.SIGKILL, victims)
    return tree


def trial(
    sources: list[str], out: str, printed: Path, uninterrupted: Path, kind: str, moment_s: float, seed: int
) -> Trial:
    """Start, kill at the moment, run again if necessary, compare."""
    process = start(sources, out, printed)
    wait_for_parsers(process)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=moment_s)
    was_running = process.poll() is None
    tree = kill(process, kind, random.Random(seed)) if was_running else {}
    process.wait()
    left = still_alive(tree, GONE_SECONDS)
    if process.returncode != 0 and (kind in SURVIVES or (kind == "sigterm" and process.returncode != SIGTERM_EXIT)):
        print(printed.read_text()[-2_000:], flush=True)
    folder = open_folder(out)
    committed = sum(len(commit["inputs"]) for commit in read_commits(folder, list_commits(folder)[0]))
    if process.returncode != 0:
        again = start(sources, out, printed)
        if again.wait() != 0:
            print(printed.read_text()[-2_000:], flush=True)
    report = verify(out)
    if not report.is_sound:
        print(report.text, flush=True)
    return Trial(
        kind=kind,
        moment_s=round(moment_s, 2),
        was_running=was_running,
        exit_code=process.returncode,
        committed_inputs=committed,
        left_processes=tuple(tree[pid].strip()[-40:] for pid in left),
        is_same=report.is_sound and same_rows(uninterrupted, out),
    )


def run_trials(
    sources: list[str], scratch: Path, kinds: list[str], num_moments: int, seed: int, storage: str = "disk"
) -> list[Trial]:
    """An uninterrupted run, then `num_moments` kills of each kind at random moments within its duration.

    Args:
        scratch: folder for the uninterrupted run, on the disk.
        storage: where the runs that are killed write to: `disk`, or `s3`.
    """
    uninterrupted, printed = scratch / "uninterrupted", scratch / "printed"
    with place(storage, scratch) as new_place:
        length = run_to_the_end(sources, str(uninterrupted), printed)
        if storage != "disk":
            length = run_to_the_end(sources, new_place("uninterrupted"), printed)
        rng = random.Random(seed)
        trials = []
        for kind in itertools.chain.from_iterable(itertools.repeat(kinds, num_moments)):
            moment_s, choice = rng.uniform(0, 0.95) * length, rng.randrange(2**30)
            done = trial(sources, new_place(kind), printed, uninterrupted, kind, moment_s, choice)
            print(" ".join(f"{name}={value}" for name, value in asdict(done).items()), flush=True)
            trials.append(done)
    return trials


def run_to_the_end(sources: list[str], out: str, printed: Path) -> float:
    """Encode without an interruption; seconds from the start of the first parser."""
    process = start(sources, out, printed)
    wait_for_parsers(process)
    began = time.monotonic()
    assert process.wait() == 0, printed.read_text()[-2_000:]
    return time.monotonic() - began


def counts(trials: list[Trial]) -> dict[str, int]:
    """What the table shows of some trials."""
    found = Counter(trials=len(trials))
    for one in trials:
        found["killed_while_running"] += one.was_running
        found["same_corpus"] += one.is_same
        found["survived"] += one.exit_code == 0
        found["left_processes"] += len(one.left_processes)
    return dict(found)


def main() -> int:
    """Run the trials and print how many corpora are equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=VICTIMS, default=list(VICTIMS))
    parser.add_argument("--moments", type=int, default=5, help="kills of each kind")
    parser.add_argument("--sources", nargs="+", required=True)
    parser.add_argument("--storage", nargs="+", choices=("disk", "s3"), default=["disk", "s3"])
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    facts = {}
    for storage in arguments.storage:
        with tempfile.TemporaryDirectory(prefix="kills-") as name:
            trials = run_trials(
                arguments.sources, Path(name), arguments.kinds, arguments.moments, arguments.seed, storage
            )
        facts[storage] = {kind: counts([one for one in trials if one.kind == kind]) for kind in arguments.kinds}
    for storage, by_kind in facts.items():
        for kind, found in by_kind.items():
            print(
                f"{storage:<6}{kind:<9}"
                + "".join(f"{name.replace('_', ' ')} {value:<6}" for name, value in found.items())
            )
    print(json.dumps(facts))
    all_found = [found for by_kind in facts.values() for found in by_kind.values()]
    return 0 if all(found["same_corpus"] == found["trials"] for found in all_found) else 1


if __name__ == "__main__":
    sys.exit(main())
