"""A whole `wm train` from Parquet to weights: targets a second, and what share of the step alone that is.

    python benchmarks/end_to_end.py CORPUS [--seconds 30] [--config CONFIG] [--step-json FILE] [--dotted.name value ...]

Trains twice: with frames held on the device, and with pools read from Parquet all the time. Speeds are medians over the
progress lines, less the first. --step-json is what `train_step.py` printed; its head is what the share is of. Further
`--dotted.name value` go to `wm train`. Prints a table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from inputs.synthetic_corpus import synthetic_corpus

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import index_games
from datasets.schema.splits import SplitConfig
from wm.config.shipped import SHIPPED_CONFIGS
from wm.runs.run_log import read_log

LINES_PER_RUN = 12
EPOCH_GAMES = 2_000
NEVER_TARGETS = 10**12
TINY_TARGETS = 1_000_000
TINY_OPTIONS = "--model.d_model 32 --model.headdim 16 --model.d_state 8 --model.num_layers 1 --optimizer.batch-size 4"


def run_training(corpus: Path, resident: str, options: argparse.Namespace, out: Path) -> dict[str, float]:
    """One `wm train`: its steady speed, and the share of the time that it waited for frames."""
    words: list[Any] = [sys.executable, "-m", "wm.cli", "train", options.config, "--out", out, "--train-corpus", corpus]
    words += ["--train-split", "all", "--eval.split", "all", "--eval.contexts", 10, "--eval.num-targets", 200]
    words += ["--eval.every-targets", NEVER_TARGETS, "--optimizer.total-targets", options.total_targets]
    words += ["--max-seconds", options.seconds, "--log-every-s", options.seconds / LINES_PER_RUN, "--compile", "never"]
    words += ["--data.device_cache", resident, *(["--use-gpu"] if torch.cuda.is_available() else []), *options.further]
    subprocess.run([str(word) for word in words], check=True)
    rows = [row for row in read_log(out) if row["kind"] == "train"]
    rows = rows[1:] or rows
    return {
        name: statistics.median(row.get(name, float("nan")) for row in rows) for name in ("targets_per_s", "wait_share")
    }


def step_alone(file: Path | None) -> float | None:
    """Targets a second in the last line of `train_step.py`'s output, if it can be read."""
    if file is None or not file.exists():
        return None
    for line in reversed(file.read_text().splitlines()):
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            continue
        return found.get("targets_per_s") if isinstance(found, dict) else None
    return None


def main() -> None:
    """Train both ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", type=Path, help="synthetic games where none is named")
    parser.add_argument("--seconds", type=float, default=30.0, help="of training, each way")
    parser.add_argument("--config", type=Path, default=SHIPPED_CONFIGS / "mamba2-medium.yaml")
    parser.add_argument("--step-json", type=Path, help="output of train_step.py")
    parser.add_argument("--tiny", action="store_true", help="a small network for a second, one way, for tests")
    options, options.further = parser.parse_known_args()
    if options.tiny:
        options.seconds, options.further = 1.0, [*TINY_OPTIONS.split(), *options.further]
    options.total_targets = TINY_TARGETS if options.tiny else NEVER_TARGETS
    alone = step_alone(options.step_json)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        corpus = (options.corpus or synthetic_corpus(scratch, 4 if options.tiny else 64, 2_000)).resolve()
        index = index_games(open_corpus(corpus), "all", SplitConfig())
        ways = {"parquet": "never"} if options.tiny else {"parquet": "never", "resident": "always"}
        found = {name: run_training(corpus, resident, options, scratch / name) for name, resident in ways.items()}
    epoch_frames = EPOCH_GAMES * float(index.num_frames.mean())
    print(f"{'':<12}{'targets/s':>12}{'waiting':>9}{'of the step alone':>19}{f'epoch of {EPOCH_GAMES:,} games, s':>28}")
    figures: dict[str, Any] = {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}
    figures |= {"config": options.config.stem, "frames": int(index.num_frames.sum()), "step_targets_per_s": alone}
    for name, row in found.items():
        share = None if alone is None else row["targets_per_s"] / alone
        seconds = epoch_frames / row["targets_per_s"]
        cells = f"{row['targets_per_s']:>12,.0f}{row['wait_share']:>9.1%}{'-' if share is None else f'{share:.0%}':>19}"
        print(f"{name:<12}{cells}{seconds:>28.1f}")
        figures[name] = row | {"share_of_step": share, f"epoch_of_{EPOCH_GAMES}_games_s": seconds}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
