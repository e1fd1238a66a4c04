"""One rank of a training run without Ray: CONFIG RANK WORLD STORE, of a new run and a file where ranks meet."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import torch.distributed as dist
import yaml

from datasets.runtime.process.age import process_started_at
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import load_yaml, to_plain
from wm.data.training_data import open_data
from wm.runs.run import Run
from wm.training.device import set_num_threads
from wm.training.trainer import train


def run_plainly(config: RunConfig) -> None:
    """Train a new run to its end, each worker in a process of its own."""
    world = config.max_workers
    Run(config).claim()
    with tempfile.TemporaryDirectory(prefix="wm-ranks-") as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(yaml.safe_dump(to_plain(config), sort_keys=False))
        command = [sys.executable, __file__, str(path)]
        ranks = [
            subprocess.Popen([*command, str(rank), str(world), str(Path(folder) / "store")], stdout=subprocess.DEVNULL)
            for rank in range(world)
        ]
        failed = [rank.wait() for rank in ranks]
    if any(failed):
        raise RuntimeError(f"a worker ended with exit codes {failed}")


def main() -> None:
    """Train as one rank."""
    path, rank, world, store = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    config = load_yaml(path, RunConfig)
    set_num_threads(config, world)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    train(Run(config, started_at=process_started_at()), open_data(config), lambda _rows: None, None)
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
