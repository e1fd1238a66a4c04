"""Kills `wm train` at random moments, resumes it, and compares the final weights with an undisturbed run's, bitwise.

    python tests/support/train_kills.py [--moments 20] [--seed 1] [--kinds worker driver ...] [--corpus CORPUS]

A tiny network trains for some seconds on a synthetic corpus (or the one named), over several epochs, with a checkpoint
twice a second. At each seeded random moment between the first and the last update another run is killed, the kinds in
turn. A run whose worker was killed resumes without help; otherwise the same command is run again.
Prints a table; the last line is one JSON object. Exit code 1 if any weight or optimizer state differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from killing import descendants, send, start_printing_to, still_alive
from safetensors.torch import load_file

from datasets.corpus.chunk import EncodeOptions
from datasets.pipeline.encode import encode, encode_in_process
from datasets.schema.splits import SplitConfig
from datasets.synth import SynthOptions, synthesize
from wm.checkpoints.reader import load_resume, open_checkpoint
from wm.config.model_config import ModelConfig
from wm.config.run_config import CheckpointConfig, EvalConfig, ObjectiveConfig, OptimizerConfig, RunConfig
from wm.config.typed_yaml import to_plain
from wm.runs.crash_history import ATTEMPTS_FILE
from wm.runs.run import ENVIRONMENT_FILE, Run
from wm.runs.run_log import read_log

KINDS = {
    "worker": "SIGKILL to the process that trains",
    "driver": "SIGKILL to the command",
    "tree": "SIGKILL to the command and everything below it",
    "term": "SIGTERM to the command",
    "notice": "SIGTERM to the process that trains",
    "ctrl-c": "SIGINT to the command and everything that the terminal sends it to",
}
SURVIVES = {"worker", "notice"}
EXPECTED_EXIT = {
    "worker": 0,
    "notice": 0,
    "driver": -signal.SIGKILL,
    "tree": -signal.SIGKILL,
    "term": 143,
    "ctrl-c": 130,
}
WORKER = r"^ray::.*TrainWorker"
GONE_SECONDS = 10
NUM_GAMES = 24
BATCH, S = 8, 16


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A signal to a run."""

    kind: str
    at_targets: int
    """Sent once the log reports this many targets seen."""
    delay_s: float = 0.0
    """Additional delay, since the log has only five lines a second."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Effect of one signal."""

    kind: str
    at_targets: int
    was_running: bool
    """Whether the run had not ended before."""
    exit_code: int
    """Of the command that was hit."""
    targets_seen: int
    """By its log when it was hit."""
    resumed_at: int
    """Targets seen by the checkpoint that the run resumed from."""
    left_processes: int
    """Processes of the command some seconds after it ended."""


def tiny_run(corpus: Path, out: Path, num_updates: int) -> RunConfig:
    """A run of a tiny network: about 150 updates a second on one core.

    One thread: at this size a second one only waits, and on a busy machine it waits for its core.
    """
    return RunConfig(
        train_corpus=corpus,
        out=out,
        num_threads=1,
        precision="fp32",
        split=SplitConfig(test_fraction=0.0, validation_fraction=0.2),
        log_every_s=0.2,
        checkpoint=CheckpointConfig(every_s=0.5, keep_last=2),
        model=ModelConfig(d_model=32, headdim=32, d_state=16, num_layers=1, scan_backend="torch"),
        objective=ObjectiveConfig(sequence_frames=S, swap_players=True),
        optimizer=OptimizerConfig(
            total_targets=num_updates * BATCH * S, batch_size=BATCH, learning_rate=1e-3, warmup_targets=BATCH * S
        ),
        eval=EvalConfig(contexts=(5,), num_targets=60, validation_targets=20, every_targets=100_000, num_dreams=0),
    )


def small_corpus(out: Path) -> Path:
    """A corpus of synthetic games."""
    synthesize(out / "replays", SynthOptions(num_games=NUM_GAMES, seed=3, max_frames=3_000))
    encode([out / "replays"], out / "corpus", EncodeOptions(), encode_in_process)
    return out / "corpus"


def start(config: RunConfig) -> subprocess.Popen[bytes]:
    """Run `wm train` as a user does."""
    written = config.out.with_suffix(".yaml")
    written.write_text(json.dumps(to_plain(config)))
    return start_printing_to(printed_by(config), [sys.executable, "-m", "wm.cli", "train", str(written)])


def printed_by(config: RunConfig) -> Path:
    """File with the output of the last command."""
    return config.out.with_suffix(".printed")


def starts(config: RunConfig) -> int:
    """How often the run's workers started, by the file that is written once the log holds no later rows of others."""
    path = config.out / ENVIRONMENT_FILE
    return len(json.loads(path.read_text()).get("attempts", [])) if path.exists() else 0


def trains(config: RunConfig, since: int) -> bool:
    """Whether workers that started after the first `since` starts have made progress."""
    if starts(config) <= since:
        return False
    return any(row["kind"] == "train" for row in rows_of_latest_attempt(config))


def rows_of_latest_attempt(config: RunConfig) -> list[dict[str, Any]]:
    """Rows of the log since the last start of the workers."""
    rows = read_log(config.out)
    begun = [number for number, row in enumerate(rows) if row["kind"] == "start"]
    return rows[begun[-1] :] if begun else []


def wait_until(process: subprocess.Popen[bytes], config: RunConfig, since: int, at_targets: int) -> None:
    """Wait until workers that started after the first `since` starts reach some targets, or the command ends."""
    while process.poll() is None and not (trains(config, since) and seen_by(config) >= at_targets):
        time.sleep(0.02)


def seen_by(config: RunConfig) -> int:
    """Targets seen by the latest attempt, by its log. Problem rows of earlier attempts may be ahead of it."""
    return max([row["targets_seen"] for row in rows_of_latest_attempt(config)], default=0)


def strike(process: subprocess.Popen[bytes], kind: str) -> dict[int, str]:
    """Send a run the signal of a kind; returns its process tree before, empty if there was no process to hit."""
    tree = descendants(process.pid)
    if kind == "ctrl-c":
        os.killpg(process.pid, signal.SIGINT)
        return tree
    workers = [pid for pid, command in tree.items() if re.search(WORKER, command)]
    victims = {"driver": [process.pid], "term": [process.pid], "tree": [process.pid, *tree]}.get(kind, workers)
    send(signal.SIGTERM if kind in ("term", "notice") else signal.SIGKILL, victims)
    return tree if victims else {}


def trial(config: RunConfig, *hits: Hit, gone_seconds: float = GONE_SECONDS) -> Trial:
    """Start or resume a run and hit it at some moments; only the last hit may end the command."""
    process = start(config)
    seen, tree = 0, {}
    since = starts(config)
    for hit in hits:
        wait_until(process, config, since, hit.at_targets)
        time.sleep(hit.delay_s)
        since, seen = starts(config), seen_by(config)
        tree = strike(process, hit.kind) if process.poll() is None else {}
    process.wait()
    last = hits[-1]
    left = still_alive(tree, gone_seconds)
    if last.kind in SURVIVES and process.returncode != 0:
        print(printed_by(config).read_text()[-2_000:], flush=True)
    found, _ = Run(config).checkpoints.newest_intact()
    return Trial(
        kind=last.kind,
        at_targets=last.at_targets,
        was_running=bool(tree),
        exit_code=process.returncode,
        targets_seen=seen,
        resumed_at=resumed_at(config)[-1] if last.kind in SURVIVES else (found.meta["targets_seen"] if found else 0),
        left_processes=len(left),
    )


def resumed_at(config: RunConfig) -> list[int]:
    """Targets seen by the checkpoint that each start of the workers resumed from."""
    rows = [json.loads(line) for line in (config.out / ATTEMPTS_FILE).read_text().splitlines() if line]
    return [row["resumed_at"] for row in rows if row["event"] == "start"]


def finish(config: RunConfig) -> None:
    """Run the command, which must succeed."""
    process = start(config)
    assert process.wait() == 0, printed_by(config).read_text()[-3_000:]


def differences(first: RunConfig, second: RunConfig) -> list[str]:
    """Names of weights and optimizer values that differ between the ends of two runs, bit for bit."""
    states = []
    for config in (first, second):
        newest = open_checkpoint(config.out)
        meta = newest.meta
        facts = {name: meta[name] for name in ("targets_seen", "step", "cursor")}
        states.append(
            dict(
                _flat(
                    {
                        "weights": load_file(newest.path / "model.safetensors"),
                        "resume": load_resume(newest.path),
                        "meta": facts,
                    }
                )
            )
        )
    return sorted(
        name for name in states[0].keys() | states[1].keys() if not _same(states[0].get(name), states[1].get(name))
    )


def _flat(value: Any, name: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [pair for key, item in value.items() for pair in _flat(item, f"{name}.{key}")]
    if isinstance(value, list | tuple):
        return [pair for number, item in enumerate(value) for pair in _flat(item, f"{name}.{number}")]
    return [(name, value)]


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return torch.equal(first, second)
    return type(first) is type(second) and first == second


def run_trials(config: RunConfig, kinds: Sequence[str], num_moments: int, seed: int) -> list[dict[str, Any]]:
    """An undisturbed run, then one run for each random moment of its length."""
    finish(config)
    end = seen_by(config)
    print(f"undisturbed: {end:,} targets", flush=True)
    generator = random.Random(seed)
    results = []
    for number in range(num_moments):
        disturbed = replace(config, out=config.out.parent / f"run-{number}")
        moment = {"at_targets": round(generator.uniform(0, 0.95) * end), "delay_s": generator.uniform(0, 0.2)}
        hit = Hit(kind=kinds[number % len(kinds)], **moment)
        done = trial(disturbed, hit)
        if done.exit_code != 0:
            finish(disturbed)
        differing = differences(config, disturbed)
        results.append(asdict(done) | {"is_same": not differing})
        print(" ".join(f"{name}={value}" for name, value in results[-1].items()), *differing[:5], flush=True)
        shutil.rmtree(disturbed.out)
    return results


def main() -> int:
    """Run the trials and report how many ended with the same weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--updates", type=int, default=1_500, help="updates of a run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="train-kills-") as name:
        corpus = arguments.corpus or small_corpus(Path(name))
        config = tiny_run(corpus.resolve(), Path(name) / "undisturbed", arguments.updates)
        trials = run_trials(config, arguments.kinds, arguments.moments, arguments.seed)
    facts = {
        kind: {
            "trials": len(of_kind),
            "hit_while_running": sum(one["was_running"] for one in of_kind),
            "same_weights": sum(one["is_same"] for one in of_kind),
            "expected_exit": sum(one["exit_code"] in (EXPECTED_EXIT[kind], 0) for one in of_kind),
            "left_processes": sum(one["left_processes"] for one in of_kind),
            "targets_repeated": sum(max(0, one["targets_seen"] - one["resumed_at"]) for one in of_kind),
        }
        for kind in arguments.kinds
        if (of_kind := [one for one in trials if one["kind"] == kind])
    }
    for kind, counts in facts.items():
        print(f"{kind:<8}" + "".join(f"{name.replace('_', ' ')} {value:<8}" for name, value in counts.items()))
    print(json.dumps(facts))
    return 0 if all(one["is_same"] for one in trials) else 1


if __name__ == "__main__":
    sys.exit(main())
