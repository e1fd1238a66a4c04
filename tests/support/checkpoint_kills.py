"""Kills a process that writes checkpoints at random moments, and looks whether all that is there is always sound.

    python tests/support/checkpoint_kills.py PLACE --kills 40 --seed 1

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

from wm.checkpoints.integrity import sound_meta
from wm.checkpoints.reader import load_resume, newest_sound
from wm.checkpoints.stores import place_at
from wm.checkpoints.writer import CheckpointWriter, Snapshot
from wm.config.run_config import RunConfig

LONGEST_S = 0.12
"""A writer lives at most so long after its first checkpoint: time for several."""


def snapshot(targets_seen: int) -> Snapshot:
    """A state of which every number says at what place it was taken."""
    row = {"context": 10, "targets_seen": targets_seen, "val_loss": targets_seen % 7, "change_acc": targets_seen % 5}
    return Snapshot(
        model_state={name: torch.full((20_000,), float(targets_seen)) for name in ("a", "b")},
        config=RunConfig(),
        meta={"targets_seen": targets_seen, "metrics": [row]},
        resume={"optimizer": torch.full((40_000,), float(targets_seen))},
    )


def write_for_ever(place: str, targets_seen: int, seed: int, acknowledged: int) -> None:
    """Write one checkpoint after another; tell of each that is said to be whole."""
    chance = random.Random(seed)
    with CheckpointWriter(place, 1, lambda _: None) as writer:
        while True:
            targets_seen += chance.randrange(2)  # the same place again gets another revision
            if writer.save(snapshot(targets_seen), wait=chance.random() < 0.7):
                told = writer.written
                if told is not None:
                    os.write(acknowledged, f"{told.targets_seen}\n".encode())


def trial(place: str, targets_seen: int, seed: int) -> tuple[int, int]:
    """Start a writer, kill it, and give what it had acknowledged and what is there, both in targets."""
    chance = random.Random(seed)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            write_for_ever(place, targets_seen, seed, writing)
        finally:
            os._exit(1)
    os.close(writing)
    select.select([reading], [], [], 60)
    time.sleep(chance.uniform(0, LONGEST_S))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the writer ended by itself"
    with os.fdopen(reading) as file:
        told = [int(line) for line in file.read().splitlines()]
    there_is = place_at(place)
    for name in there_is.names():
        sound_meta(there_is, name)
    found, damaged = newest_sound(place)
    assert not damaged, damaged
    assert found is not None
    there = found.meta["targets_seen"]
    assert there >= max(told), f"{max(told)} was acknowledged, {there} is there"
    for tensor in (*load_file(found.path / "model.safetensors").values(), load_resume(found.path)["optimizer"]):
        assert bool((tensor == there).all()), "a torn state"
    return max(told), there


def main() -> int:
    """Kill, look, and go on in the same place."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("place")
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    targets_seen = num_in_between = 0
    for number in range(arguments.kills):
        told, targets_seen = trial(arguments.place, targets_seen, arguments.seed * 1_000 + number)
        num_in_between += targets_seen > told
    print(
        f"{arguments.kills} kills, each left a sound checkpoint; {targets_seen} places; {num_in_between} unacknowledged"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
