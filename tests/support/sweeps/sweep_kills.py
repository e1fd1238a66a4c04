"""Kills `wm sweep` at random moments, runs the same command again, and checks what must hold after each kill.

    python tests/support/sweeps/sweep_kills.py [--kills 20] [--seed 1] [--corpus CORPUS]

A sweep of four tiny trials, two at a time, with ASHA. The kinds of kills take turns; a sweep that has ended is
replaced by a new one. Prints a line per kill and one JSON object; exit code 1 if anything did not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as pytest does, when this runs as a command

import psutil
from killing import descendants, send, start_printing_to, still_alive
from tiny_sweeps import tiny_sweep

from datasets.runtime.file_lock import is_locked
from tune.config import SweepConfig
from tune.results.rung_record import decisions_of
from tune.results.sweep_folder import SWEEP_FILE, open_sweep
from tune.results.trial_status import ENDED, TrialStatus
from tune.search.trials import TRIALS_FOLDER, trials_of
from wm.config.typed_yaml import to_plain
from wm.runs.run import DRIVER_LOCK
from wm.runs.run_files import open_run_files
from wm.runs.run_log import LOG_FILE, read_log

KINDS = {
    "trial": "SIGKILL to a process that trains",
    "driver": "SIGKILL to the command",
    "tree": "SIGKILL to the command and everything below it",
    "node": "SIGKILL to Ray's node manager",
    "term": "SIGTERM to the command",
    "ctrl-c": "SIGINT to the command and everything that the terminal sends it to",
}
EXPECTED_EXIT = {"driver": {-signal.SIGKILL}, "tree": {-signal.SIGKILL}, "term": {143}, "ctrl-c": {130}}
MOMENT_S = 4.0
"""Latest moment of a kill after the first trial runs."""
GONE_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Kill:
    """What one kill did."""

    kind: str
    hit: bool
    """Whether the command still ran."""
    exit_code: int | None
    """Of the command; None if it went on."""
    seconds: float
    """From the signal to the end of the command."""
    saved_s: float = 0.0
    """From the signal to the moment when no trial trains any more."""


def killed_sweep(corpus: Path, out: Path, total_targets: int = 24_000) -> SweepConfig:
    """Four trials, two at a time; rungs at 1/8, 1/4 and 1/2 of their targets."""
    every = total_targets // 8
    return tiny_sweep(
        corpus,
        out,
        total_targets,
        axes={"optimizer.learning_rate": [1e-2, 3e-3, 1e-8, 1e-9]},
        asha={"grace": every, "reduction_factor": 2, "metric": "val_loss", "context": 5, "confidence": 0.6},
        base={
            "eval": {"contexts": [5], "num_targets": 60, "validation_targets": 30, "every_targets": every},
            "checkpoint": {"every_s": 0.5},
            "max_failures": 100,
        },
    )


def start(sweep: SweepConfig) -> subprocess.Popen[bytes]:
    """Run `wm sweep` as a user does."""
    config = sweep.out.with_suffix(".yaml")
    config.write_text(json.dumps(to_plain(sweep)))
    return start_printing_to(printed_by(sweep), [sys.executable, "-m", "wm.cli", "sweep", str(config)])


def printed_by(sweep: SweepConfig) -> Path:
    """File with the output of the last command."""
    return sweep.out.with_suffix(".printed")


def trainers(root: int, out: Path) -> list[int]:
    """Processes below a command that train a trial, by the lock that they have open."""
    found = []
    for pid in descendants(root):
        with contextlib.suppress(psutil.Error):
            paths = [Path(file.path) for file in psutil.Process(pid).open_files()]
            if any(path.name == DRIVER_LOCK and out in path.parents for path in paths):
                found.append(pid)
    return found


def running_trials(out: Path) -> list[str]:
    """Names of the trials that a process trains, of whatever command."""
    locks = sorted((out / TRIALS_FOLDER).glob(f"*/{DRIVER_LOCK}"))
    return [lock.parent.name for lock in locks if is_locked(lock)]


def strike(process: subprocess.Popen[bytes], kind: str, sweep: SweepConfig, choose: random.Random) -> Kill:
    """Send a sweep the signal of a kind, and wait until the command has ended if it is to end."""
    tree = descendants(process.pid)
    victims = {
        "driver": [process.pid],
        "term": [process.pid],
        "tree": [process.pid, *tree],
        "node": [pid for pid, command in tree.items() if "/raylet " in command or command.endswith("/raylet")],
        "trial": [],
    }
    hit = process.poll() is None
    began = time.monotonic()
    if kind == "ctrl-c":
        os.killpg(process.pid, signal.SIGINT)
    elif kind == "trial":
        found = trainers(process.pid, sweep.out)
        send(signal.SIGKILL, [choose.choice(found)] if found else [])
        return Kill(kind=kind, hit=bool(found), exit_code=None, seconds=0.0)
    else:
        send(signal.SIGTERM if kind == "term" else signal.SIGKILL, victims[kind])
    while running_trials(sweep.out):
        time.sleep(0.02)
    saved = time.monotonic() - began
    code = process.wait(120)
    ended = time.monotonic() - began
    assert kind != "tree" or not still_alive(tree, GONE_S)
    return Kill(kind=kind, hit=hit, exit_code=code, seconds=ended, saved_s=saved)


def state_of(sweep: SweepConfig) -> dict[str, tuple[TrialStatus, bytes]]:
    """The trials that have ended, and their logs."""
    if not (sweep.out / SWEEP_FILE).exists():
        return {}
    manifest = open_sweep(sweep.out)
    found = {name: manifest.status(name) for name in manifest.trials}
    ended = {name: status for name, status in found.items() if status.state in ENDED}
    logs = {name: sweep.out / TRIALS_FOLDER / name / LOG_FILE for name in ended}
    return {name: (status, logs[name].read_bytes()) for name, status in ended.items()}


def problems(sweep: SweepConfig, before: dict[str, tuple[TrialStatus, bytes]]) -> list[str]:
    """What does not hold although it must; no trial is running.

    Args:
        before: `state_of` an earlier moment.
    """
    now = state_of(sweep)
    found = [f"{name} had ended and changed" for name in before if now.get(name) != before[name]]
    for trial in trials_of(sweep):
        folder = sweep.out / TRIALS_FOLDER / trial.name
        decisions = decisions_of(open_run_files(folder))
        decided = [decision.rung for decision in decisions]
        if len(set(decided)) < len(decided):
            found.append(f"{trial.name} was decided twice at a rung: {decided}")
        rows = [row for row in read_log(folder) if row["kind"] == "eval"]
        repeated = [key for key, n in Counter((row["targets_seen"], row["context"]) for row in rows).items() if n > 1]
        if repeated:
            found.append(f"{trial.name} has rows twice: {repeated}")
        seen = sorted({row["targets_seen"] for row in rows})
        end = trial.config.optimizer.total_targets
        for rung in sweep.asha.rungs_until(end):
            after = [targets_seen for targets_seen in seen if targets_seen >= rung]
            if len(after) > 1 and rung not in decided:
                found.append(f"{trial.name} passed the rung at {rung:,.0f} targets unjudged")
        stops = [decision.targets_seen for decision in decisions if decision.stops and decision.rung is not None]
        if stops and seen and seen[-1] > stops[0]:
            found.append(f"{trial.name} was stopped at {stops[0]:,} targets and went on to {seen[-1]:,}")
    return found


def run_kills(
    corpus: Path, folder: Path, kinds: Sequence[str], num_kills: int, seed: int
) -> tuple[list[Kill], list[str]]:
    """Kill sweeps until enough kills have hit; then let the last one end."""
    choose = random.Random(seed)
    kills: list[Kill] = []
    found: list[str] = []
    number = 0
    sweep = killed_sweep(corpus, folder / "sweep-0")
    process = start(sweep)
    before: dict[str, tuple[TrialStatus, bytes]] = {}
    while len(kills) < num_kills:
        while process.poll() is None and not running_trials(sweep.out):
            time.sleep(0.02)
        time.sleep(choose.uniform(0, MOMENT_S))
        if process.poll() is not None:
            found += ended_problems(sweep, process.returncode, before)
            number, before = number + 1, {}
            sweep = killed_sweep(corpus, folder / f"sweep-{number}")
            process = start(sweep)
            continue
        kill = strike(process, kinds[len(kills) % len(kinds)], sweep, choose)
        if kill.hit:
            kills.append(kill)
            print(f"sweep {number}: {kill}", flush=True)
        if kill.exit_code is not None:
            if kill.exit_code not in EXPECTED_EXIT.get(kill.kind, {kill.exit_code}):
                found.append(f"{kill.kind}: exit code {kill.exit_code}: {printed_by(sweep).read_text()[-1500:]}")
            process = start(sweep)  # at once, while processes of the killed command may still train
            before = state_of(sweep)
    found += ended_problems(sweep, process.wait(600), before)
    return kills, found


def ended_problems(sweep: SweepConfig, exit_code: int, before: dict[str, tuple[TrialStatus, bytes]]) -> list[str]:
    """What does not hold after a command that came to its end."""
    found = problems(sweep, before)
    if exit_code != 0:
        found.append(f"exit code {exit_code}: {printed_by(sweep).read_text()[-3_000:]}")
    if len(state_of(sweep)) < len(trials_of(sweep)):
        found.append("some trials have not ended")
    return found


def main() -> int:
    """Kill, print, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--corpus", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sweep-kills-") as name:
        from train_kills import small_corpus

        corpus = arguments.corpus or small_corpus(Path(name))
        kills, found = run_kills(corpus.resolve(), Path(name), arguments.kinds, arguments.kills, arguments.seed)
    for problem in found:
        print(problem)
    slowest = {
        kind: [
            round(max(times), 1)
            for times in zip(*((k.saved_s, k.seconds) for k in kills if k.kind == kind), strict=True)
        ]
        for kind in arguments.kinds
    }
    print(json.dumps({"kills": len(kills), "problems": len(found), "slowest_s": slowest}))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
