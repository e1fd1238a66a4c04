"""Kills a process that writes checkpoints at random moments, and checks that every committed one is always intact.

    python tests/support/checkpoint_kills.py STORE --kills 40 --seed 1

A process that has imported everything forks the writers, so that a kill takes a fraction of a second.
"""

from __future__ import annotations

import argparse
import os
import random
import select
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from safetensors.torch import load_file

from wm.checkpoints.reader import load_resume, open_store
from wm.checkpoints.writer import CheckpointWriter, Snapshot
from wm.config.run_config import RunConfig

MAX_LIFETIME_S = 0.12
"""Longest life of a writer after its first checkpoint: enough for several."""


def snapshot(targets_seen: int) -> Snapshot:
    """A state in which every number is the targets seen."""
    row = {
        "context": 10,
        "num_targets": 20,
        "targets_seen": targets_seen,
        "val_loss": targets_seen % 7,
        "change_acc": targets_seen % 5,
    }
    return Snapshot(
        model_state={name: torch.full((20_000,), float(targets_seen)) for name in ("a", "b")},
        config=RunConfig(),
        meta={"targets_seen": targets_seen, "metrics": [row]},
        resume={"optimizer": torch.full((40_000,), float(targets_seen))},
    )


def write_for_ever(location: str, targets_seen: int, seed: int, acknowledged: int) -> None:
    """Write one checkpoint after another; acknowledge each that the writer reports as written."""
    generator = random.Random(seed)
    with CheckpointWriter(open_store(location), 1, lambda _: None) as writer:
        while True:
            targets_seen += generator.randrange(2)  # the same number again gets another revision
            is_taken = writer.save(snapshot(targets_seen), wait=generator.random() < 0.7)
            if is_taken and (written := writer.written) is not None:
                os.write(acknowledged, f"{written.targets_seen}\n".encode())


def trial(location: str, targets_seen: int, seed: int) -> tuple[int, int]:
    """Start a writer and kill it; returns the last acknowledged and the newest stored checkpoint, both in targets."""
    generator = random.Random(seed)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            write_for_ever(location, targets_seen, seed, writing)
        finally:
            os._exit(1)
    os.close(writing)
    select.select([reading], [], [], 60)
    time.sleep(generator.uniform(0, MAX_LIFETIME_S))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the writer ended before the kill"
    with os.fdopen(reading) as file:
        acknowledged = [int(line) for line in file.read().splitlines()]
    store = open_store(location)
    for name in store.names():
        store.verified_meta(name)
    found, damaged = store.newest_intact()
    assert not damaged, damaged
    assert found is not None
    stored = found.meta["targets_seen"]
    assert stored >= max(acknowledged), f"{max(acknowledged)} was acknowledged, {stored} is stored"
    for tensor in (*load_file(found.path / "model.safetensors").values(), load_resume(found.path)["optimizer"]):
        assert bool((tensor == stored).all()), "a mixed state"
    return max(acknowledged), stored


def main() -> int:
    """Kill writers of the same store, one after another, and check it each time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("store")
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    targets_seen = num_unacknowledged = 0
    for number in range(arguments.kills):
        acknowledged, targets_seen = trial(arguments.store, targets_seen, arguments.seed * 1_000 + number)
        num_unacknowledged += targets_seen > acknowledged
    print(
        f"{arguments.kills} kills, each left an intact checkpoint; {targets_seen} targets; "
        f"{num_unacknowledged} unacknowledged"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
