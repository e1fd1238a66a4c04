"""What an update costs with each recipe against drift (`objective.rollout`), relative to a normal one.

    PYTHONPATH=.:benchmarks python benchmarks/dreams/recipe_step.py [--config mamba2-medium] [--rounds 5]

Every recipe is used in every update, and dreams have their full length: the dearest case of each. Updates are eager
ones of a batch that lies on the device already (`step_of` of `train_step.py`), taken in turns; times are CPU time per
thread, the best of all rounds. Aim: an update with unrolling costs at most twice a normal one. The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from measures.step_cases import batch_of, smaller
from train_step import step_of

from datasets.runtime.process.host_memory import raise_malloc_thresholds
from wm.config.rollout_config import NoiseConfig, RolloutConfig, TwoPassConfig, UnrollConfig
from wm.config.run_config import RunConfig
from wm.config.shipped import SHIPPED_CONFIGS
from wm.config.typed_yaml import load_yaml

RECIPES = {
    "normal": RolloutConfig(),
    "noise": RolloutConfig(noise=NoiseConfig(share=1.0)),
    "noise, confused categories": RolloutConfig(noise=NoiseConfig(share=1.0, confusion=0.03)),
    "two passes": RolloutConfig(two_passes=TwoPassConfig(share=1.0)),
    "unroll of 1": RolloutConfig(unroll=UnrollConfig(share=1.0, frames=(1,))),
    "unroll of 3": RolloutConfig(unroll=UnrollConfig(share=1.0, frames=(3,))),
    "unroll of 8": RolloutConfig(unroll=UnrollConfig(share=1.0, frames=(8,))),
}
"""Name -> options."""


def cpu_seconds(work: Callable[[], None], threads: int) -> float:
    """CPU seconds per thread of one call."""
    started = time.process_time()
    work()
    return (time.process_time() - started) / threads


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="mamba2-medium")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num-threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="a small model and batch, for tests")
    options = parser.parse_args()
    torch.set_num_threads(options.num_threads)
    raise_malloc_thresholds()
    shipped = replace(load_yaml(SHIPPED_CONFIGS / f"{options.config}.yaml", RunConfig), compile="never")
    if options.tiny:
        shipped = smaller(shipped)
        shipped = replace(shipped, objective=replace(shipped.objective, sequence_frames=16))
    device = torch.device("cpu")
    batch = batch_of(options.config, shipped, device, None)
    updates = {
        name: step_of(replace(shipped, objective=replace(shipped.objective, rollout=rollout)), device, batch)[0]
        for name, rollout in RECIPES.items()
    }
    for update in updates.values():
        update()
    best = dict.fromkeys(updates, float("inf"))
    for _ in range(options.rounds):
        for name, update in updates.items():
            best[name] = min(best[name], cpu_seconds(update, options.num_threads))
    print(f"{options.config}, {batch} examples, {options.num_threads} threads\n{'':<30}{'ms':>10}{'ratio':>8}")
    for name, seconds in best.items():
        print(f"{name:<30}{seconds * 1e3:>10.1f}{seconds / best['normal']:>8.2f}")
    ratios = {name: seconds / best["normal"] for name, seconds in best.items()}
    print(json.dumps({"config": options.config, "batch": batch, "threads": options.num_threads, "ratios": ratios}))


if __name__ == "__main__":
    main()
