"""Overhead of Ray Train: the same run in one plain process and under Ray Train with one worker, alternating.

    python benchmarks/ray_overhead.py [CORPUS] [--seconds 60] [--config CONFIG] [--rounds 2] [--num-threads N]

A short plain run measures how many targets fill the seconds; then plain and Ray runs alternate on that many targets,
each in its own process. With --num-threads below the number of cores, a core is left for Ray's helper processes.
Start-up is reported separately: from the command to the first update, including the start of Ray. The steady speed of
a variant is the median over the progress lines of its runs, without the first line of each. `overhead_share` is the
loss of steady speed, and `run_of_180_s_share` how much longer a run of three minutes takes, start-up included.
`progress_ms` and `report_ms` are what two workers wait for Ray every ten seconds (notice of a preemption), and for each
validation (metrics and a pointer to the checkpoint), medians.
Prints a table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from inputs.synthetic_corpus import synthetic_corpus

from wm.config.model_config import ModelConfig
from wm.config.run_config import ObjectiveConfig, RunConfig
from wm.config.shipped import SHIPPED_CONFIGS
from wm.config.typed_yaml import from_plain, load_yaml, to_plain
from wm.runs.run_log import read_log

LINES_PER_LEG = 12
POLL_SECONDS = 0.02
PATIENCE_SECONDS = 600.0
RUN_SECONDS = 180.0
CALIBRATION_SHARE = 0.2
NUM_REPORTING, NUM_REPORTS, REPORT_EVERY_S = 2, 8, 1.5
TINY_TARGETS = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Leg:
    """One run of one variant."""

    way: str
    startup_s: float
    """From the command to the first update."""
    total_s: float
    """From the command to the end of its process."""
    speeds: list[float]
    """Targets per second, by progress line."""
    targets: int

    @property
    def steady(self) -> list[float]:
        """Speeds without the first line, which is a warm-up."""
        return self.speeds[1:] or self.speeds


def run_leg(way: str, config: RunConfig, scratch: Path) -> Leg:
    """Train in a new process and follow its log."""
    scratch.mkdir(parents=True)
    config = replace(config, out=scratch / "run")
    file = scratch / "config.json"
    file.write_text(json.dumps(to_plain(config)))
    started = time.monotonic()
    with (scratch / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, __file__, "--leg", way, str(file)], stdout=output, stderr=subprocess.STDOUT
        )
        startup = None
        while process.poll() is None and time.monotonic() - started < PATIENCE_SECONDS:
            if startup is None and (first := next(iter(lines_of(Path(config.out))), None)) is not None:
                startup = time.monotonic() - started - first["seconds"]
            time.sleep(POLL_SECONDS)
        total = time.monotonic() - started
        if process.poll() is None:
            process.kill()
    lines = lines_of(Path(config.out))
    if process.returncode != 0 or not lines:
        sys.exit(f"the {way} leg failed:\n{(scratch / 'output.txt').read_text()[-2_000:]}")
    if startup is None:
        startup = total - lines[-1]["seconds"]
    speeds = [line["targets_per_s"] for line in lines]
    return Leg(way=way, startup_s=startup, total_s=total, speeds=speeds, targets=lines[-1]["targets_seen"])


def lines_of(out: Path) -> list[dict[str, Any]]:
    """A run's progress lines so far."""
    try:
        return [row for row in read_log(out) if row["kind"] == "train"]
    except OSError:  # the log is being created
        return []


def child(way: str, config: RunConfig) -> None:
    """One run in this process: the same training function, with or without Ray."""
    if way == "ray":
        from wm.launch.ray_train import train_on_ray

        train_on_ray(config)
        return
    from wm.data.training_data import open_data
    from wm.runs.run import Run
    from wm.training.device import set_num_threads
    from wm.training.trainer import train

    set_num_threads(config, 1)
    run = Run(config)
    data = open_data(config)
    run.claim()
    run.checkpoints.newest_intact()  # as a run under Ray does
    train(run, data, lambda rows: None, None)


def leg_config(options: argparse.Namespace) -> RunConfig:
    """The config of every run, without validations or checkpoints before the end."""
    config = load_yaml(options.config, RunConfig)
    if options.tiny:
        model = ModelConfig(d_model=32, num_layers=1, d_state=8, headdim=16)
        config = replace(config, model=model, objective=ObjectiveConfig(sequence_frames=16))
    if options.batch is not None:
        config = replace(config, optimizer=replace(config.optimizer, batch_size=options.batch))
    return replace(
        config,
        compile="never",  # it takes as long either way
        num_threads="auto" if options.num_threads is None else options.num_threads,
        train_corpus=options.corpus.resolve(),
        train_split="all",
        use_gpu=torch.cuda.is_available(),
        log_every_s=options.seconds / LINES_PER_LEG,
        eval=replace(
            config.eval, split="all", contexts=(10,), num_targets=100, validation_targets=100, every_targets=10**12
        ),
    )


def with_targets(config: RunConfig, total: int, max_seconds: float | None = None) -> RunConfig:
    """The same config with another number of targets."""
    return replace(config, max_seconds=max_seconds, optimizer=replace(config.optimizer, total_targets=total))


def measure(options: argparse.Namespace, scratch: Path) -> list[Leg]:
    """Calibrate, then make all runs."""
    config = leg_config(options)
    if options.tiny:
        return legs_of(config, TINY_TARGETS, options.rounds, scratch)
    seconds = max(3.0, CALIBRATION_SHARE * options.seconds)
    trial = replace(with_targets(config, 10**12, seconds), log_every_s=seconds / LINES_PER_LEG)
    total = int(max(run_leg("plain", trial, scratch / "calibration").speeds) * options.seconds)
    print(f"{total:,} targets a leg", flush=True)
    return legs_of(config, total, options.rounds, scratch)


def legs_of(config: RunConfig, total: int, rounds: int, scratch: Path) -> list[Leg]:
    """Alternate plain and Ray runs."""
    legs = []
    for number in range(rounds):
        for way in ("plain", "ray"):
            legs.append(run_leg(way, with_targets(config, total), scratch / f"{way}-{number}"))
            print(line(legs[-1]), flush=True)
    return legs


def line(leg: Leg) -> str:
    """A row of the table."""
    speed = statistics.median(leg.steady)
    return f"{leg.way:<10}{leg.targets:>12,}{speed:>12,.0f}{leg.startup_s:>12.1f}{leg.total_s:>12.1f}"


def summary(legs: list[Leg]) -> dict[str, Any]:
    """Medians of both variants, and the overhead."""
    by_way = {way: [leg for leg in legs if leg.way == way] for way in ("plain", "ray")}
    speeds = {way: statistics.median(s for leg in some for s in leg.steady) for way, some in by_way.items()}
    startups = {way: statistics.median(leg.startup_s for leg in some) for way, some in by_way.items()}
    overhead = 1 - speeds["ray"] / speeds["plain"]
    plain_run = startups["plain"] + RUN_SECONDS
    ray_run = startups["ray"] + RUN_SECONDS * speeds["plain"] / speeds["ray"]
    return {
        "overhead_share": overhead,
        "plain_targets_per_s": speeds["plain"],
        "ray_targets_per_s": speeds["ray"],
        "startup_s": startups["ray"],
        "plain_startup_s": startups["plain"],
        "run_of_180_s_plain_s": plain_run,
        "run_of_180_s_ray_s": ray_run,
        "run_of_180_s_share": ray_run / plain_run - 1,
    }


def reporting_ms() -> dict[str, float]:
    """How long a worker is held by what it tells and asks Ray."""
    import ray.train
    from ray.train.torch import TorchTrainer

    from datasets.runtime.ray_cluster import start_ray

    start_ray(min_cpus=NUM_REPORTING)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        api: Any = ray.train  # what it exports depends on RAY_TRAIN_V2_ENABLED, which type checkers do not know
        worker: Any = _report_repeatedly  # Ray returns what it returns, but does not declare that it may
        trainer = TorchTrainer(
            worker,
            train_loop_config={"out": f"{folder}/run"},
            scaling_config=api.ScalingConfig(num_workers=NUM_REPORTING),
            run_config=api.RunConfig(storage_path=f"{folder}/ray"),
        )
        result = trainer.fit()
    ray.shutdown()
    return cast(Any, result).return_value


def _report_repeatedly(task: dict[str, Any]) -> dict[str, float]:
    """Runs on each worker."""
    from wm.evaluation.metrics import METRICS
    from wm.launch import ray_reporter
    from wm.runs.run import Run

    ray_reporter.MIN_REPORT_S = 0.0
    out = Path(task["out"])
    out.mkdir(exist_ok=True)
    reporter = ray_reporter.RayReporter(Run(RunConfig(out=out)))
    shared = {"targets_seen": 1, "seconds": 1.0, "num_targets": 1, "epochs": 1.0}
    rows = [{"context": context, **shared, **dict.fromkeys(METRICS, 0.5)} for context in (1, 5, 10, 30, 60, 120)]
    seconds: dict[str, list[float]] = {"progress_ms": [], "report_ms": []}
    for _ in range(NUM_REPORTS):
        time.sleep(REPORT_EVERY_S)
        began = time.perf_counter()
        reporter.on_progress({"loss": 1.0})
        between = time.perf_counter()
        reporter.on_validation(rows)
        seconds["progress_ms"].append(between - began)
        seconds["report_ms"].append(time.perf_counter() - between)
    return {name: 1e3 * statistics.median(found) for name, found in seconds.items()}


def main() -> None:
    """Measure both variants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", type=Path, help="synthetic games where none is named")
    parser.add_argument("--seconds", type=float, default=60.0, help="of training per run")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each variant")
    parser.add_argument("--config", type=Path, default=SHIPPED_CONFIGS / "mamba2-medium.yaml")
    parser.add_argument("--batch", type=int, help="sequences in a batch; default: the config's")
    parser.add_argument("--num-threads", type=int, help="of the worker; default: one for each core")
    parser.add_argument("--tiny", action="store_true", help="a small network for a second, for tests")
    parser.add_argument("--leg", nargs=2, metavar=("WAY", "CONFIG"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.leg:
        way, file = options.leg
        child(way, from_plain(json.loads(Path(file).read_text()), RunConfig, file))
        return
    if options.tiny:
        options.seconds, options.rounds = 1.0, 1
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        if options.corpus is None:
            options.corpus = synthetic_corpus(scratch, 4 if options.tiny else 32, 2_000 if options.tiny else 9_000)
        print(f"{'':<10}{'targets':>12}{'targets/s':>12}{'start, s':>12}{'in all, s':>12}")
        found = summary(measure(options, scratch))
    print(
        f"Ray takes {found['overhead_share']:.1%} of the steady speed and starts "
        f"{found['startup_s'] - found['plain_startup_s']:.1f} s later; a run of three minutes is "
        f"{found['run_of_180_s_share']:.1%} longer"
    )
    found |= reporting_ms()
    print(
        f"two workers wait {found['progress_ms']:.0f} ms every ten seconds, {found['report_ms']:.0f} ms per validation"
    )
    print(json.dumps({"device": "cuda" if torch.cuda.is_available() else "cpu"} | found))


if __name__ == "__main__":
    main()
