"""A run of one or two workers on two nodes of a cluster: 2 workers, 1 after a node died, 2 again, 1 after notice
that a node will be preempted, then a stop request.

    python tests/launch/elastic_run.py CONFIG FOLDER

CONFIG is JSON. Each rank of each start of the workers writes a file `WHEN-WORLD-RANK.jsonl` to FOLDER, with a row per
update: its number, and the content of each of the rank's examples. Prints one JSON object. Run by `test_elastic.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster

import wm.launch.ray_train
import wm.launch.ray_workers
from datasets.runtime.errors import UserError
from wm.config.run_config import RunConfig
from wm.config.typed_yaml import from_plain
from wm.data.batches import LocalBatch
from wm.runs.run_files import open_run_files
from wm.runs.run_log import read_log
from wm.runs.stop_request import RunStoppedError, StopRequest

MIN_CHECKPOINTS = 2
"""Of a start of the workers, before the number of nodes changes."""
PATIENCE_S = 300.0
DEADLINE_S = 120
"""Between the notice of a preemption and the preemption."""
FAST = {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "5",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
}
SYSTEM = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 300, "health_check_failure_threshold": 3}


def recording(worker: Callable[[dict[str, Any]], None], folder: str) -> Callable[[dict[str, Any]], None]:
    """The training function, which also writes the examples of each update."""

    def worker_that_records(task: dict[str, Any]) -> None:
        import hashlib

        from wm.training import distributed
        from wm.training.trainer import Trainer

        name = f"{time.time_ns()}-{distributed.world_size()}-{distributed.rank()}.jsonl"
        update = Trainer.update

        def update_and_record(self: Trainer, share: LocalBatch) -> None:
            frames, number = share.frames, self.num_updates
            update(self, share)
            examples = [
                hashlib.blake2b(floats.numpy().tobytes() + codes.numpy().tobytes(), digest_size=8).hexdigest()
                for floats, codes in zip(frames.floats, frames.codes, strict=True)
            ]
            with Path(folder, name).open("a") as file:
                file.write(json.dumps([number, examples]) + "\n")

        Trainer.update = update_and_record
        worker(task)

    return worker_that_records


def newest_start(config: RunConfig) -> tuple[int, int]:
    """Number of workers and of checkpoints of the newest start, by the log."""
    workers = checkpoints = 0
    for row in read_log(Path(config.out)) if Path(config.out, "log.jsonl").exists() else []:
        if row["kind"] == "start":
            workers, checkpoints = row["workers"], 0
        checkpoints += row["kind"] == "checkpoint"
    return workers, checkpoints


def drain(node: Any, address: str) -> None:
    """Give notice that a node will be preempted."""
    command = [
        "ray", "drain-node", "--address", address, "--node-id", node.node_id,
        "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot",
        "--deadline-remaining-seconds", str(DEADLINE_S),
    ]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Train and change the number of nodes."""
    config, folder = from_plain(json.loads(sys.argv[1]), RunConfig, "test"), sys.argv[2]
    os.environ.update(FAST)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": SYSTEM})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = cluster.address
    wm.launch.ray_workers.RESIZE_CHECK_S = 1.0
    wm.launch.ray_workers._worker = recording(wm.launch.ray_workers._worker, folder)
    ends: list[Any] = []

    def train() -> None:
        try:
            ends.append(wm.launch.ray_train.train_on_ray(config))
        except (UserError, RunStoppedError) as error:
            ends.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    began, seconds = time.monotonic(), {}

    def wait_for(what: str, workers: int) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while thread.is_alive() and time.monotonic() < deadline:
            has_workers, num_checkpoints = newest_start(config)
            if has_workers == workers and num_checkpoints >= MIN_CHECKPOINTS:
                break
            time.sleep(0.05)
        seconds[what] = round(time.monotonic() - began, 1)
        print(what, seconds[what], newest_start(config), ends, file=sys.stderr, flush=True)

    wait_for("two workers", 2)
    cluster.remove_node(nodes[1], allow_graceful=False)
    wait_for("one worker", 1)
    node = cluster.add_node(num_cpus=1)
    wait_for("two workers again", 2)
    drain(node, cluster.address)
    wait_for("one worker again", 1)
    StopRequest(open_run_files(config.out)).request()
    asked = time.monotonic()
    thread.join(PATIENCE_S)
    facts = {
        "seconds": seconds,
        "stopped_after_s": time.monotonic() - asked,
        "end": str(ends),
    }
    print(json.dumps(facts))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
