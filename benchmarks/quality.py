"""How good a model is after a few minutes: several seeds through `wm train`, judged with intervals.

    python benchmarks/quality.py TRAIN_CORPUS EVAL_CORPUS [--seconds 180] [--seeds 3] [--config CONFIG]

Seconds count from the first batch asked for to the last update. Prints the curve of each seed, the final table
beside the baselines, and one JSON line.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from wm.run_folder import read_log

METRICS = ("change_acc", "action_acc", "pos_mae", "val_loss")


def train_and_judge(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One seed: `wm train`, then `wm eval` at K = 10 on all games of the eval corpus."""
    run = arguments.out / f"seed-{seed}"
    wm = [sys.executable, "-m", "wm.cli"]
    corpora = ["--train-corpus", arguments.train_corpus, "--eval-corpus", arguments.eval_corpus]
    limits = ["--max-seconds", str(arguments.seconds), "--seed", str(seed), "--out", str(run)]
    subprocess.run([*wm, "train", arguments.config, *corpora, *limits], check=True)
    judge = [*wm, "eval", str(run), arguments.eval_corpus, "--split", "all", "--context", "10"]
    subprocess.run(judge, check=True, stdout=subprocess.DEVNULL)
    evaluation = json.loads((run / "eval.json").read_text())
    log = read_log(run)
    curve = [row for row in log if row["kind"] == "eval" and row["context"] == 10]
    final = curve.pop()
    return {
        "seed": seed,
        "targets_seen": final["targets_seen"],
        "seconds": final["seconds"],
        "metrics": evaluation["results"][0]["metrics"],
        "baselines": {result["predictor"]: result["metrics"] for result in evaluation["results"][1:]},
        "curve": [[row["targets_seen"], row["seconds"], row["change_acc"], row["pos_mae"]] for row in curve],
    }


def cell(metric: dict[str, float] | None) -> str:
    """A value with its interval."""
    return "" if metric is None else f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train_corpus")
    parser.add_argument("eval_corpus")
    parser.add_argument("--seconds", type=float, default=180)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--config", default="configs/mamba2-medium.yaml")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"))
    arguments = parser.parse_args()
    results = [train_and_judge(arguments, seed) for seed in range(arguments.seeds)]
    for result in results:
        print(f"\nseed {result['seed']}:   targets   seconds  change_acc  pos_mae")
        for targets, seconds, change_acc, pos_mae in result["curve"]:
            print(f"{'':>8}{targets:>10,}{seconds:>10.0f}{change_acc:>12.3f}{pos_mae:>9.3f}")
    print(f"\n{'':<20}{'targets':>10}{'seconds':>9}" + "".join(f"{name:>24}" for name in METRICS))
    for result in results:
        cells = "".join(f"{cell(result['metrics'].get(name)):>24}" for name in METRICS)
        print(f"seed {result['seed']:<15}{result['targets_seen']:>10,}{result['seconds']:>9.0f}{cells}")
    for name, metrics in results[0]["baselines"].items():
        print(f"{name:<39}" + "".join(f"{cell(metrics.get(m)):>24}" for m in METRICS))
    worst = {
        "worst_change_acc": min(result["metrics"]["change_acc"]["value"] for result in results),
        "worst_pos_mae": max(result["metrics"]["pos_mae"]["value"] for result in results),
    }
    print(json.dumps(worst | {"results": results}))


if __name__ == "__main__":
    main()
