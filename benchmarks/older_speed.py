"""How fast the older system's recipe trains, and ours, each with its own data path, in one run.

    python benchmarks/older_speed.py [CORPUS] [--seconds 20] [--workers 0]

For the Mamba-2 of the older system's size and the MLP; the reference at K = 10, ours as in the config.
Prints a table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from inputs.synthetic_corpus import synthetic_corpus
from older_system.recipe import CONTEXT_FRAMES, OlderRecipe

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import GameIndex, index_games
from datasets.schema.splits import SplitConfig
from wm.config.run_config import RunConfig
from wm.config.shipped import SHIPPED_CONFIGS
from wm.config.typed_yaml import load_yaml
from wm.data.training_data import TrainingData
from wm.runs.run import Run
from wm.runs.run_log import read_log
from wm.training.trainer import train

Kind = Literal["mamba2", "mlp"]
OLDER_D_MODEL = 384
"""Width of the older system's Mamba-2, for the same network in both."""


def reference_speed(index: GameIndex, kind: Kind, seconds: float, **options: Any) -> float:
    """Targets a second of the reference, data path included, after a second of warming up."""
    recipe = OlderRecipe(index, kind, **options)
    recipe.train_until(min(1.0, seconds / 4))
    before, targets_before = recipe.seconds, recipe.targets_seen
    recipe.train_until(before + seconds)
    return (recipe.targets_seen - targets_before) / (recipe.seconds - before)


def our_speed(index: GameIndex, kind: Kind, seconds: float) -> float:
    """Targets a second of `wm.training.trainer.train` on the same games, data path included: median of its progress
    lines."""
    config = load_yaml(SHIPPED_CONFIGS / ("mlp.yaml" if kind == "mlp" else "mamba2-medium.yaml"), RunConfig)
    with tempfile.TemporaryDirectory() as out:
        config = replace(
            config,
            out=Path(out),
            use_gpu=torch.cuda.is_available(),
            max_seconds=seconds,
            log_every_s=seconds / 8,
            compile="never",  # it takes longer than this
            model=replace(config.model, encoding=2, d_model=OLDER_D_MODEL),
            optimizer=replace(config.optimizer, total_targets=10**12),
            eval=replace(config.eval, contexts=(CONTEXT_FRAMES,), num_targets=100, every_targets=10**12),
        )
        train(Run(config), TrainingData(train=index, evaluation=index), lambda rows: None, None)
        speeds = [row["targets_per_s"] for row in read_log(Path(config.out)) if row["kind"] == "train"]
    return float(np.median(speeds[1:] or speeds))  # the first line has the start in it


def main() -> None:
    """Print the speeds of both, Mamba-2 and MLP."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", type=Path, help="synthetic games where none is named")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--workers", type=int, default=0, help="processes of the reference's DataLoader")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        index = index_games(open_corpus(arguments.corpus or synthetic_corpus(Path(scratch), 16)), "all", SplitConfig())
        found: dict[str, Any] = {"device": "cuda" if torch.cuda.is_available() else "cpu"}
        print(f"{'targets/s':<12}{'ours':>12}{'older':>12}{'ratio':>8}")
        kinds: dict[str, Kind] = {"medium": "mamba2", "mlp": "mlp"}
        # All of the reference's first: our trainer changes the allocator's settings, for the whole process.
        references = {
            name: reference_speed(index, kind, arguments.seconds, num_workers=arguments.workers)
            for name, kind in kinds.items()
        }
        for name, kind in kinds.items():
            ours, reference = our_speed(index, kind, arguments.seconds), references[name]
            print(f"{name:<12}{ours:>12,.0f}{reference:>12,.0f}{ours / reference:>8.1f}", flush=True)
            found |= {f"{name}_targets_per_s": ours, f"reference_{name}_targets_per_s": reference}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
