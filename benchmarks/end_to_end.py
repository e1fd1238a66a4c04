"""A whole training run in this process, from Parquet to weights: its speed, and the share of the step alone that is.

    python benchmarks/end_to_end.py CORPUS [--seconds 30] [--step-json FILE] [--json FILE] [--dotted.name value ...]

Trains twice, with validations: with pools read from Parquet all the time, and with frames held on the device. Speeds
are medians over the progress lines, less the first, and do not contain the validations; by the clock they are targets
over all seconds. --step-json is a file of `train_step.py`; the share is of its fastest case of the same config and
batch. Further `--dotted.name value` options change the config. Prints a table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from inputs.synthetic_corpus import synthetic_corpus
from measures.in_process import TINY_NETWORK, config_with, folder_options, train_in_process
from measures.results_file import ResultsFile

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import index_games
from datasets.schema.splits import SplitConfig
from wm.runs.run import PROFILE_FILE
from wm.runs.run_log import read_log

LINES_PER_RUN = 12
EPOCH_GAMES = 2_000
NEVER_TARGETS = 10**12
TINY_TARGETS = 1_000


def run_training(corpus: Path, cache: str, options: argparse.Namespace, out: Path) -> dict[str, float]:
    """One run: its steady speed, the share of the time that it waited for frames, and its speed by the clock."""
    words: list[Any] = [*folder_options(corpus, out), "--eval.split", "all", "--eval.contexts", 10]
    words += ["--eval.num-targets", 200 if options.tiny else 2_000, "--optimizer.total-targets", options.total_targets]
    words += ["--max-seconds", options.seconds, "--log-every-s", options.seconds / LINES_PER_RUN, "--compile", "never"]
    words += ["--data.device_cache", cache, *options.further]
    started, between = time.monotonic(), []
    config = config_with(options.config, words)
    result = train_in_process(config, lambda _rows: between.append(time.monotonic()))
    seconds = time.monotonic() - started
    rows = [row for row in read_log(out) if row["kind"] == "train"]
    rows = rows[1:] or rows
    names = ("targets_per_s", "wait_share")
    steady = {name: statistics.median(row.get(name, float("nan")) for row in rows) for name in names}
    batch = json.loads((out / PROFILE_FILE).read_text())
    facts = {name: batch[name] for name in ("batch_size", "core", "compiled", "cuda_graph")}
    return steady | facts | {
        "wall_targets_per_s": result.targets_seen / seconds, "wall_s": seconds, "training_s": result.seconds,
        "validations": len(between),
    }  # fmt: skip


def step_alone(file: Path | None, config: str, batch: int) -> float | None:
    """Targets a second of the fastest case of a config and batch in a file of `train_step.py`."""
    if file is None or not file.exists():
        return None
    cases = json.loads(file.read_text()).get("cases", [])
    speeds = [case["targets_per_s"] for case in cases if (case["config"], case["batch"]) == (config, batch)]
    return max(speeds, default=None)


def main() -> None:
    """Train both ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", type=Path, help="synthetic games where none is named")
    parser.add_argument("--seconds", type=float, default=30.0, help="of training, each way")
    parser.add_argument("--config", default="mamba2-medium")
    parser.add_argument("--step-json", type=Path, help="file that train_step.py wrote")
    parser.add_argument("--json", type=Path, help="file that holds the results so far at any time")
    parser.add_argument("--tiny", action="store_true", help="a small network for a second, one way, for tests")
    options, options.further = parser.parse_known_args()
    if options.tiny:
        options.seconds, options.further = 1.0, [*TINY_NETWORK, *options.further]
    options.total_targets = TINY_TARGETS if options.tiny else NEVER_TARGETS
    results = ResultsFile(options.json, config=options.config, options=options.further)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        corpus = (options.corpus or synthetic_corpus(scratch, 4 if options.tiny else 64, 2_000)).resolve()
        index = index_games(open_corpus(corpus), "all", SplitConfig())
        epoch_frames = EPOCH_GAMES * float(index.num_frames.mean())
        print(f"{'':<12}{'targets/s':>12}{'by the clock':>14}{'waiting':>9}{'of the step alone':>19}{'epoch, s':>10}")
        ways = {"parquet": "never"} if options.tiny else {"parquet": "never", "resident": "always"}
        for name, cache in ways.items():
            row: dict[str, Any] = run_training(corpus, cache, options, scratch / name)
            alone = step_alone(options.step_json, options.config, row["batch_size"])
            share = None if alone is None else row["targets_per_s"] / alone
            seconds = epoch_frames / row["targets_per_s"]
            results.set(name, row | {"share_of_step": share, f"epoch_of_{EPOCH_GAMES}_games_s": seconds})
            cells = f"{row['targets_per_s']:>12,.0f}{row['wall_targets_per_s']:>14,.0f}{row['wait_share']:>9.1%}"
            print(f"{name:<12}{cells}{'-' if share is None else f'{share:.0%}':>19}{seconds:>10.1f}", flush=True)
    results.finish()
    print(json.dumps(results.content))


if __name__ == "__main__":
    main()
