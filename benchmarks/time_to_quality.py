"""Quality of a model after a given training time: this project with several seeds, and the older recipe.

    python benchmarks/time_to_quality.py TRAIN_CORPUS EVAL_CORPUS [--seconds 180 600] [--total-targets 1000000 4000000]

This project's model is trained by `wm train` and evaluated by `wm eval` at K = 10 on 20,000 frames of all games of the
eval corpus. Each of the `--seconds` is a separate run, because the schedule ends at --total-targets (by default the
config's). The older recipe has a constant learning rate, so one run is evaluated at each of them. Seconds are training
time, from the first batch requested to the last update, without evaluation. Further `--dotted.name value` options are
passed to `wm train`.

Prints the curves and the table; the last line is one JSON object: for the first of the `--seconds` the worst seed's
figures (the worst of each metric), the same for the older recipe with prefix `reference_`, all under `at`, and the
targets per second of both MLPs (`older_speed.py`).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from inputs.synthetic_corpus import synthetic_corpus
from older_speed import our_speed, reference_speed
from older_system.recipe import CONTEXT_FRAMES, OlderRecipe

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import index_games
from datasets.schema.splits import SplitConfig
from wm.config.run_config import RunConfig
from wm.config.shipped import SHIPPED_CONFIGS
from wm.config.typed_yaml import load_yaml
from wm.runs.run_log import read_log

METRICS = ("change_acc", "pos_mae", "val_loss")
LOWER_IS_BETTER = ("pos_mae", "val_loss")
PROGRESS_TARGETS = 2_000
CURVE_POINTS = 6
WINDOW_BATCH = 256
"""Windows per batch under objective `window`, as in the older recipe."""
TINY_NETWORK = (
    "--compile never --model.d_model 32 --model.headdim 16 --model.d_state 8 --model.num_layers 1 --log-every-s 0.2"
)

Point = dict[str, Any]
"""seconds, targets and METRICS."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """One run: its learning curve, and its final evaluation."""

    name: str
    seed: int
    asked_seconds: float
    curve: list[Point]
    final: Point
    baselines: dict[str, dict[str, Any]]

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        return {"name": self.name, "seed": self.seed, "asked_seconds": self.asked_seconds} | {
            "final": self.final,
            "curve": self.curve,
        }


def point(seconds: float, targets: int, metrics: dict[str, Any]) -> Point:
    """A point of a learning curve."""
    return {"seconds": seconds, "targets": targets} | {name: metrics[name] for name in METRICS}


def train_ours(
    options: argparse.Namespace, objective: str, seconds: float, total_targets: int | None, seed: int
) -> Trained:
    """`wm train`, then `wm eval` at K = 10 on all games of the eval corpus."""
    run = options.out / f"{objective}-{seconds:g}s-seed-{seed}"
    wm = [sys.executable, "-m", "wm.cli"]
    words = ["--train-corpus", options.train_corpus, "--eval-corpus", options.eval_corpus, "--out", run]
    words += ["--max-seconds", seconds, "--seed", seed, "--eval.contexts", CONTEXT_FRAMES]
    words += ["--eval.validation-targets", options.validation_targets, "--eval.num-targets", options.validation_targets]
    if total_targets is not None:
        words += ["--optimizer.total-targets", total_targets]
    if objective != load_yaml(options.config, RunConfig).objective.kind:
        words += ["--objective.kind", objective, "--objective.context-frames", CONTEXT_FRAMES]
        if objective == "window":
            words += ["--optimizer.batch-size", WINDOW_BATCH]
    gpu = ["--use-gpu"] if torch.cuda.is_available() else []
    words += [*options.further, *gpu]
    subprocess.run([*wm, "train", options.config, *map(str, words)], check=True)
    command = ["eval", run, options.eval_corpus, "--split", "all", "--context", CONTEXT_FRAMES]
    command += ["--num-targets", options.num_targets, *gpu]
    subprocess.run([*wm, *map(str, command)], check=True, stdout=subprocess.DEVNULL)
    evaluation = json.loads((run / "eval.json").read_text())
    rows = [row for row in read_log(run) if row["kind"] == "eval" and row["context"] == CONTEXT_FRAMES]
    curve = [point(row["seconds"], row["targets_seen"], row) for row in rows]
    values = [
        {name: None if metric is None else metric["value"] for name, metric in result["metrics"].items()}
        for result in evaluation["results"]
    ]
    return Trained(
        name=objective,
        seed=seed,
        asked_seconds=seconds,
        curve=curve[:-1],
        final=point(curve[-1]["seconds"], curve[-1]["targets"], values[0]),
        baselines={r["predictor"]: v for r, v in zip(evaluation["results"][1:], values[1:], strict=True)},
    )


def train_reference(options: argparse.Namespace, seed: int) -> list[Trained]:
    """One run of the older recipe, evaluated at each of the requested times."""
    train = index_games(open_corpus(options.train_corpus), "all", SplitConfig())
    evaluation = index_games(open_corpus(options.eval_corpus), "all", SplitConfig(), for_evaluation=True)
    kind = load_yaml(options.config, RunConfig).model.kind
    size = {"d_model": 64, "num_layers": 1} if options.tiny else {}
    reference = OlderRecipe(train, kind, seed=seed, num_workers=options.reference_workers, **size)
    last = max(options.reference_seconds)
    between = [last * (i + 1) / CURVE_POINTS for i in range(CURVE_POINTS)]
    curve: list[Point] = []
    learnt = []
    for mark in sorted({*between, *options.reference_seconds}):
        reference.train_until(mark)
        if mark in options.reference_seconds:
            final = point(
                reference.seconds, reference.targets_seen, reference.evaluate(evaluation, options.num_targets)
            )
            learnt.append(
                Trained(name="reference", seed=seed, asked_seconds=mark, curve=list(curve), final=final, baselines={})
            )
        else:
            curve.append(
                point(
                    reference.seconds,
                    reference.targets_seen,
                    reference.evaluate(evaluation, options.validation_targets),
                )
            )
    return learnt


def worst(runs: list[Trained]) -> Point:
    """The worst seed by each metric; targets and seconds of the seed with the fewest targets."""
    least = min(runs, key=lambda run: run.final["targets"]).final
    found: Point = {"seconds": least["seconds"], "targets": least["targets"]}
    for name in METRICS:
        values = [run.final[name] for run in runs if run.final[name] is not None]
        found[name] = (max if name in LOWER_IS_BETTER else min)(values, default=None)
    return found


def table(runs: list[Trained]) -> str:
    """Each run's learning curve and final evaluation, then the baselines."""
    lines = [f"{'':<28}{'targets':>12}{'seconds':>9}" + "".join(f"{name:>12}" for name in METRICS)]

    def cells(values: dict[str, Any]) -> str:
        figures = (values.get(name) for name in METRICS)
        return "".join(f"{'-' if value is None else f'{value:.3f}':>12}" for value in figures)

    for run in runs:
        for place in run.curve:
            lines.append(f"{'':<28}{place['targets']:>12,}{place['seconds']:>9.0f}{cells(place)}")
        name = f"{run.name}, {run.asked_seconds:g} s, seed {run.seed}"
        lines.append(f"{name:<28}{run.final['targets']:>12,}{run.final['seconds']:>9.0f}{cells(run.final)}")
    for name, metrics in (runs[0].baselines if runs else {}).items():
        lines.append(f"{name:<49}{cells(metrics)}")
    return "\n".join(lines)


def summary(ours: list[Trained], references: list[Trained], options: argparse.Namespace) -> dict[str, Any]:
    """First part of the JSON: the first objective at each of the times, and the older recipe."""
    at = {}
    for seconds in options.seconds:
        chosen = [run for run in ours if run.name == options.objectives[0] and run.asked_seconds == seconds]
        beside = [run for run in references if run.asked_seconds == seconds]
        at[f"{seconds:g}"] = worst(chosen) | {
            f"reference_{name}": value for name, value in (worst(beside) if beside else {}).items()
        }
    return at[f"{options.seconds[0]:g}"] | {
        "objective": options.objectives[0],
        "worst_of_seeds": options.seeds,
        "at": at,
    }


def parsed() -> argparse.Namespace:
    """The command line; `further` holds the options for `wm train`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train_corpus", nargs="?", type=Path)
    parser.add_argument("eval_corpus", nargs="?", type=Path)
    parser.add_argument("--seconds", type=float, nargs="+", default=[180.0])
    parser.add_argument("--total-targets", type=int, nargs="+", help="for each of the --seconds, or one for all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--config", type=Path, default=SHIPPED_CONFIGS / "mamba2-medium.yaml")
    parser.add_argument("--objectives", nargs="+", choices=["sequence", "window"], default=["sequence"])
    parser.add_argument(
        "--reference-seconds", type=float, nargs="*", help="of the older recipe; default: as --seconds; none skips it"
    )
    parser.add_argument("--reference-seeds", type=int, default=1)
    parser.add_argument("--reference-workers", type=int, default=0, help="processes of the older recipe's DataLoader")
    parser.add_argument("--mlp-seconds", type=float, default=15.0, help="to time both MLPs; 0 skips them")
    parser.add_argument("--num-targets", type=int, default=20_000, help="frames of the final evaluation")
    parser.add_argument("--out", type=Path, default=Path("runs/time-to-quality"))
    parser.add_argument("--tiny", action="store_true", help="seconds on synthetic games, for tests")
    options, options.further = parser.parse_known_args()
    options.validation_targets = PROGRESS_TARGETS
    if options.tiny:
        options.seconds, options.seeds, options.mlp_seconds = [1.0], 1, 0.2
        options.num_targets, options.validation_targets = 200, 50
        options.further = [*TINY_NETWORK.split(), "--eval.every-targets", "300", *options.further]
    elif options.train_corpus is None or options.eval_corpus is None:
        parser.error("name a training corpus and an evaluation corpus")
    if options.reference_seconds is None:
        options.reference_seconds = options.seconds
    if options.total_targets is not None and len(options.total_targets) not in (1, len(options.seconds)):
        parser.error("--total-targets: one number, or one for each of the --seconds")
    return options


def measure(options: argparse.Namespace) -> None:
    """Make all runs and print the results."""
    totals = options.total_targets or [None]
    totals = totals * len(options.seconds) if len(totals) == 1 else totals
    references = [
        run
        for seed in range(options.reference_seeds if options.reference_seconds else 0)
        for run in train_reference(options, seed)
    ]
    ours = [
        train_ours(options, objective, seconds, total, seed)
        for objective in options.objectives
        for seconds, total in zip(options.seconds, totals, strict=True)
        for seed in range(options.seeds)
    ]
    print("\n" + table([*ours, *references]))
    found = {"device": "cuda" if torch.cuda.is_available() else "cpu", "config": options.config.stem}
    found |= summary(ours, references, options)
    if options.mlp_seconds:
        index = index_games(open_corpus(options.train_corpus), "all", SplitConfig())
        reference = reference_speed(index, "mlp", options.mlp_seconds, num_workers=options.reference_workers)
        speeds = our_speed(index, "mlp", options.mlp_seconds), reference
        found |= {"mlp_targets_per_s": speeds[0], "reference_mlp_targets_per_s": speeds[1]}
        print(f"MLP: {speeds[0]:,.0f} targets/s, reference {speeds[1]:,.0f}, ratio {speeds[0] / speeds[1]:.1f}")
    print(
        json.dumps(
            found | {"runs": [run.plain() for run in ours], "reference_runs": [run.plain() for run in references]}
        )
    )


def main() -> None:
    """Measure; --tiny uses synthetic games unless a corpus is named."""
    options = parsed()
    with tempfile.TemporaryDirectory() as scratch:
        if options.tiny:
            options.out = Path(scratch) / "runs"
            if options.eval_corpus is None:
                options.train_corpus = options.eval_corpus = synthetic_corpus(Path(scratch), 4, 2_000)
        measure(options)


if __name__ == "__main__":
    main()
