"""What validation costs a run: gathering its frames once, one validation, and its share of the training time.

    python benchmarks/measures/validation.py CORPUS [--config mamba2-large] [--contexts 1 5 10 30 60 120]

CORPUS is split as a run splits it. `benchmarks/inputs/copied_corpus.py` makes one of 20,000 games from a small one. A
training step of the config's batch is timed in the same process, so that the share (validation's seconds over those of
training on --every-targets) hardly depends on the machine's load.
Prints a table, last a JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import BYTES_PER_FRAME, index_games
from datasets.runtime.hardware import num_cores
from datasets.runtime.process.host_memory import raise_malloc_thresholds
from wm.config.run_config import RunConfig
from wm.config.shipped import SHIPPED_CONFIGS
from wm.config.typed_yaml import load_yaml
from wm.data.synthetic_batch import synthetic_batch
from wm.evaluation.evaluator import evaluate_windows
from wm.evaluation.game_sums import metric_values, serialize, sums_by_game
from wm.evaluation.target_frames import EvaluationFrames
from wm.model.world_model import WorldModel, build_model
from wm.training.optimizer import Optimizer
from wm.training.train_step import TrainStep


def seconds_of(work: Callable[[], Any], seconds: float, device: torch.device) -> float:
    """The fastest of the calls that fit in some seconds; at least one."""
    times: list[float] = []
    while not times or sum(times) < seconds:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return min(times)


def training_speed(model: WorldModel, config: RunConfig, device: torch.device, seconds: float) -> float:
    """Targets a second of updates on one batch that is already on the device."""
    size = (
        config.optimizer.reference_batch_size if config.optimizer.batch_size == "auto" else config.optimizer.batch_size
    )
    assert isinstance(size, int)
    step, share = TrainStep(model, Optimizer(model, config), config, device), synthetic_batch(config, size, device)
    return size * config.objective.predictions / seconds_of(lambda: step(share, 1e-4, 0), seconds, device)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one corpus and config."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = load_yaml(SHIPPED_CONFIGS / f"{options.config}.yaml", RunConfig)
    contexts, every = tuple(options.contexts), options.every_targets or config.eval.every_targets
    index = index_games(open_corpus(options.corpus), "validation", config.split, for_evaluation=True)
    model = build_model(config.model, config.objective.context_frames).to(device)
    started = time.perf_counter()
    frames = EvaluationFrames(index, options.targets, max(contexts), device, num_threads=max(1, num_cores() // 2))
    (kept,) = frames
    gather_s = time.perf_counter() - started
    by_context, sums = {}, {}
    for context in contexts:

        def evaluate(context: int = context) -> None:
            records = evaluate_windows(model, kept, context, device, config.precision)
            sums[context] = sums_by_game(records, index.game_ids)
            metric_values(sums[context])

        by_context[context] = seconds_of(evaluate, options.seconds, device)
    store_s = seconds_of(lambda: serialize(sums, {}), 0.0, torch.device("cpu"))
    speed = training_speed(model, config, device, options.seconds)
    validation_s = sum(by_context.values()) + store_s
    frames.close()
    return {
        "device": device.type,
        "config": options.config,
        "validation_games": len(index),
        "targets": len(kept),
        "games_read": len(sums[contexts[0]]),
        "kept_mb": len(kept.floats) * BYTES_PER_FRAME / 1e6,
        "gather_s": gather_s,
        "seconds_by_context": by_context,
        "store_s": store_s,
        "stored_mb": len(serialize(sums, {})) / 1e6,
        "validation_s": validation_s,
        "train_targets_per_s": speed,
        "every_targets": every,
        "share": validation_s * speed / every,
    }


def main() -> None:
    """Measure, print the table and the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--config", default="mamba2-large")
    parser.add_argument("--contexts", type=int, nargs="+", default=[1, 5, 10, 30, 60, 120])
    parser.add_argument("--targets", type=int, default=2_000)
    parser.add_argument("--every-targets", type=int, help="by default the config's")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each measurement")
    options = parser.parse_args()
    raise_malloc_thresholds()
    found = measure(options)
    print(
        f"{found['targets']:,} targets of {found['games_read']:,} games (of {found['validation_games']:,}): "
        f"{found['kept_mb']:.0f} MB gathered once in {found['gather_s']:.1f} s"
    )
    for context, seconds in found["seconds_by_context"].items():
        print(f"  K = {context:<4} {seconds:8.2f} s {found['targets'] / seconds:12,.0f} targets/s")
    print(f"  stored   {found['store_s']:8.2f} s {found['stored_mb']:12.1f} MB")
    print(
        f"one validation {found['validation_s']:.2f} s = {found['share']:.2%} of training on "
        f"{found['every_targets']:,} targets at {found['train_targets_per_s']:,.0f}/s"
    )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
