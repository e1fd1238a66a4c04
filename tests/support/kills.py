"""Kills `wm encode` at random moments, resumes it, and compares the corpus with that of an uninterrupted run.

    python tests/support/kills.py --sources dev.zip [--kinds worker child raylet driver tree] [--moments 20] [--seed 1]

Each kind is killed at seeded random moments between the start of the first parser and the end of the run. A run
that survives (a worker or its child was killed) must finish by itself; otherwise the same command is run again.
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

PARSER = r"datasets\.pipeline\.parser_main"
VICTIMS = {
    "worker": r"ray::(MapWorker|.*_Parser)",
    "child": PARSER,
    "raylet": r"/raylet/raylet ",
    "driver": None,
    "tree": None,
}
"""Kind -> command line of the process that is killed; None: the driver, or the driver and all its descendants."""
SURVIVES = {"worker", "child"}
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


def start(sources: list[str], out: Path) -> subprocess.Popen[bytes]:
    """Start `wm encode` in a new session; its output goes to a file next to the corpus."""
    command = [sys.executable, "-m", "wm.cli", "encode", *sources, "--out", str(out)]
    return start_printing_to(output_file(out), command)


def output_file(out: Path) -> Path:
    """File with the output of the last run into a corpus."""
    return out.with_suffix(".printed")


def wait_for_parsers(process: subprocess.Popen[bytes]) -> None:
    """Wait until a run has its first parser or has ended."""
    while process.poll() is None and not any(
        re.search(PARSER, command) for command in descendants(process.pid).values()
    ):
        time.sleep(0.05)


def kill(process: subprocess.Popen[bytes], kind: str, rng: random.Random) -> dict[int, str]:
    """Send SIGKILL to the processes of a kind; returns the process tree before that."""
    tree = descendants(process.pid)
    pattern = VICTIMS[kind]
    if kind == "driver":
        victims = [process.pid]
    elif kind == "tree":
        victims = [process.pid, *tree]
    else:
        assert pattern is not None
        matching = sorted(pid for pid, command in tree.items() if re.search(pattern, command))
        victims = [rng.choice(matching)] if matching else []
    send(signal.SIGKILL, victims)
    return tree


def trial(sources: list[str], out: Path, uninterrupted: Path, kind: str, moment_s: float, seed: int) -> Trial:
    """Start, kill at the moment, run again if necessary, compare."""
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
        print(output_file(out).read_text()[-2_000:], flush=True)
    committed = sum(len(json.loads(path.read_text())["inputs"]) for path in (out / COMMITS).glob("[0-9]*.json"))
    if process.returncode != 0:
        again = start(sources, out)
        if again.wait() != 0:
            print(output_file(out).read_text()[-2_000:], flush=True)
    return Trial(
        kind=kind,
        moment_s=round(moment_s, 2),
        was_running=was_running,
        exit_code=process.returncode,
        committed_inputs=committed,
        left_processes=tuple(tree[pid].strip()[-40:] for pid in left),
        is_same=same_rows(uninterrupted, out) and verify(out).is_sound,
    )


def run_trials(sources: list[str], scratch: Path, kinds: list[str], num_moments: int, seed: int) -> list[Trial]:
    """An uninterrupted run, then `num_moments` kills of each kind at random moments within its duration."""
    uninterrupted = scratch / "uninterrupted"
    process = start(sources, uninterrupted)
    wait_for_parsers(process)
    began = time.monotonic()
    assert process.wait() == 0, output_file(uninterrupted).read_text()[-2_000:]
    length = time.monotonic() - began
    rng = random.Random(seed)
    trials = []
    for _ in range(num_moments):
        for kind in kinds:
            done = trial(
                sources, scratch / kind, uninterrupted, kind, rng.uniform(0, 0.95) * length, rng.randrange(2**30)
            )
            print(" ".join(f"{name}={value}" for name, value in asdict(done).items()), flush=True)
            trials.append(done)
    return trials


def main() -> int:
    """Run the trials and print how many corpora are equal."""
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
