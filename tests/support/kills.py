"""Kills `wm encode` at random moments, runs it again, and compares the corpus with an undisturbed one.

    python tests/support/kills.py --sources dev.zip [--kinds worker child raylet driver tree] [--moments 20] [--seed 1]

Each kind is killed at seeded random moments between the start of the first parser and the end of the run. A run
that survives (a worker or its child was killed) must finish by itself; otherwise the same command is typed again.
Prints a table; the last line is one JSON object. Exit code 1 if any corpus differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from chunks import same_rows
from killing import descendants, send, start_printing_to, still_alive

from datasets.corpus.commit_log import COMMITS
from datasets.corpus.verify import verify

VICTIMS = {
    "worker": r"ray::(MapWorker|.*_Parser)",
    "child": r"datasets\.parser_child",
    "raylet": r"/raylet/raylet ",
    "driver": None,
    "tree": None,
}
"""Kind -> command line of the process that is killed; None: the driver itself, or it and all its descendants."""
PARSER = "datasets.pipeline.parser_main"
SURVIVES = {"worker", "child"}
GONE_SECONDS = 10
"""Until the processes of a killed run are counted that are still there; Ray's own daemons take a while."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What one kill did."""

    kind: str
    moment_s: float
    """After the start of the first parser."""
    was_running: bool
    """The run had not ended before."""
    exit_code: int
    """Of the killed run."""
    committed_inputs: int
    """When it was run again."""
    left_processes: tuple[str, ...]
    """Of the killed run, GONE_SECONDS later: the end of each command line."""
    is_same: bool
    """The corpus is row for row that of the undisturbed run, and sound."""


def start(sources: list[str], out: Path) -> subprocess.Popen[bytes]:
    """`wm encode` as a user types it, in a session of its own; what it prints is in a file beside the corpus."""
    command = [sys.executable, "-m", "wm.cli", "encode", *sources, "--out", str(out)]
    return start_printing_to(printed_by(out), command)


def printed_by(out: Path) -> Path:
    """File with what the last run into a corpus printed."""
    return out.with_suffix(".printed")


def wait_for_parsers(process: subprocess.Popen[bytes]) -> None:
    """Until a run has its first parser, or has ended."""
    while process.poll() is None and not any(PARSER in command for command in descendants(process.pid).values()):
        time.sleep(0.05)


def kill(process: subprocess.Popen[bytes], kind: str, chance: random.Random) -> dict[int, str]:
    """SIGKILL what the kind names; returns the whole tree as it was."""
    tree = descendants(process.pid)
    pattern = VICTIMS[kind]
    if kind == "driver":
        victims = [process.pid]
    elif kind == "tree":
        victims = [process.pid, *tree]
    else:
        assert pattern is not None
        fitting = sorted(pid for pid, command in tree.items() if re.search(pattern, command))
        victims = [chance.choice(fitting)] if fitting else []
    send(signal.SIGKILL, victims)
    return tree


def trial(sources: list[str], out: Path, undisturbed: Path, kind: str, moment_s: float, seed: int) -> Trial:
    """Start, kill at the moment, run again if need be, compare."""
    shutil.rmtree(out, ignore_errors=True)
    process = start(sources, out)
    wait_for_parsers(process)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=moment_s)
    was_running = process.poll() is None
    tree = kill(process, kind, random.Random(seed)) if was_running else {}
    process.wait()
    left = still_alive(tree, GONE_SECONDS)
    if kind in SURVIVES and process.returncode != 0:
        print(printed_by(out).read_text()[-2_000:], flush=True)
    committed = sum(len(json.loads(path.read_text())["inputs"]) for path in (out / COMMITS).glob("[0-9]*.json"))
    if process.returncode != 0:
        again = start(sources, out)
        if again.wait() != 0:
            print(printed_by(out).read_text()[-2_000:], flush=True)
    return Trial(
        kind=kind,
        moment_s=round(moment_s, 2),
        was_running=was_running,
        exit_code=process.returncode,
        committed_inputs=committed,
        left_processes=tuple(tree[pid].strip()[-40:] for pid in left),
        is_same=same_rows(undisturbed, out) and verify(out).is_sound,
    )


def run_trials(sources: list[str], scratch: Path, kinds: list[str], num_moments: int, seed: int) -> list[Trial]:
    """An undisturbed run, then `num_moments` kills of each kind at random moments of its length."""
    undisturbed = scratch / "undisturbed"
    process = start(sources, undisturbed)
    wait_for_parsers(process)
    began = time.monotonic()
    assert process.wait() == 0, printed_by(undisturbed).read_text()[-2_000:]
    length = time.monotonic() - began
    chance = random.Random(seed)
    trials = []
    for _ in range(num_moments):
        for kind in kinds:
            done = trial(
                sources, scratch / kind, undisturbed, kind, chance.uniform(0, 0.95) * length, chance.randrange(2**30)
            )
            print(" ".join(f"{name}={value}" for name, value in asdict(done).items()), flush=True)
            trials.append(done)
    return trials


def main() -> int:
    """Run the trials and say how many corpora came out the same."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=VICTIMS, default=list(VICTIMS))
    parser.add_argument("--moments", type=int, default=20, help="kills of each kind")
    parser.add_argument("--sources", nargs="+", required=True)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        trials = run_trials(arguments.sources, Path(name), arguments.kinds, arguments.moments, arguments.seed)
    facts = {
        kind: {
            "trials": len(of_kind),
            "killed_while_running": sum(one.was_running for one in of_kind),
            "same_corpus": sum(one.is_same for one in of_kind),
            "survived": sum(one.exit_code == 0 for one in of_kind),
            "left_processes": sum(len(one.left_processes) for one in of_kind),
        }
        for kind in arguments.kinds
        if (of_kind := [one for one in trials if one.kind == kind])
    }
    for kind, counts in facts.items():
        print(f"{kind:<8}" + "".join(f"{name.replace('_', ' ')} {value:<6}" for name, value in counts.items()))
    print(json.dumps(facts))
    return 0 if all(one.is_same for one in trials) else 1


if __name__ == "__main__":
    sys.exit(main())
