"""Seconds of training until the validation reaches marks of `change_acc`, in this process, without Ray.

    PYTHONPATH=.:benchmarks python benchmarks/gpu/seconds_to_quality.py TRAIN_CORPUS EVAL_CORPUS [--seconds 120]

Trains a config on all games of one corpus and evaluates it at K = 10 on those of another one. Seconds are training
time, without the validations. Further `--dotted.name value` options change the config. Ends at the last mark.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

from inputs.synthetic_corpus import synthetic_corpus
from measures.in_process import TINY_NETWORK, config_with, folder_options, train_in_process
from measures.results_file import ResultsFile

CONTEXT_FRAMES = 10
NAMES = ("change_acc", "pos_mae", "val_loss")


class ReachedError(Exception):
    """The last mark is reached."""


def main() -> None:
    """Train until the last mark, or for `--seconds`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train_corpus", nargs="?", type=Path)
    parser.add_argument("eval_corpus", nargs="?", type=Path)
    parser.add_argument("--config", default="mamba2-medium")
    parser.add_argument("--marks", type=float, nargs="+", default=[0.70, 0.75])
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tiny", action="store_true", help="a small network for a second, for tests")
    options, further = parser.parse_known_args()
    if options.tiny:
        further = [*TINY_NETWORK, "--eval.every-targets", "200", "--optimizer.total-targets", "2000", *further]
    results = ResultsFile(options.json, config=options.config, options=further, marks={})
    started = time.monotonic()

    def on_validation(rows: list[dict[str, Any]]) -> None:
        row = rows[0]
        point = {name: row[name] for name in ("seconds", "targets_seen", *NAMES)}
        results.append("curve", point | {"wall_s": time.monotonic() - started})
        metrics = "  ".join(f"{name} {row[name]:.3f}" for name in NAMES if row[name] is not None)
        print(f"{row['seconds']:>8.1f} s {row['targets_seen']:>14,} targets  {metrics}", flush=True)
        reached = results.content["marks"]
        for mark in options.marks:
            if str(mark) not in reached and (row["change_acc"] or 0.0) >= mark:
                results.set("marks", reached | {str(mark): point})
                reached = results.content["marks"]
                print(f"change_acc {mark} after {row['seconds']:.1f} s", flush=True)
        if len(reached) == len(options.marks):
            raise ReachedError

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        if options.eval_corpus is None:
            options.train_corpus = options.eval_corpus = synthetic_corpus(Path(folder), 4, 2_000)
        words = [*folder_options(options.train_corpus, Path(folder) / "run")]
        words += ["--eval-corpus", options.eval_corpus.resolve(), "--eval.split", "all"]
        words += ["--eval.contexts", CONTEXT_FRAMES, "--max-seconds", options.seconds, *further]
        with contextlib.suppress(ReachedError):
            train_in_process(config_with(options.config, words), on_validation)
    results.finish()


if __name__ == "__main__":
    main()
