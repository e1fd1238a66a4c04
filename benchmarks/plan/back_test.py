"""Back-test of `wm plan`: predicted against actual time of real training runs on this machine's CPU.

    python benchmarks/plan/back_test.py CORPUS --results plan.json [--seconds 60] [--clock wall] [--cases medium large]

For each case `wm profile` measures, `wm plan`'s arithmetic predicts the run, and `wm train` runs at once, so that both
see about the same load. Two predictions are judged: `own` from the case's own profile, and `scaled` from the profiles
of the other cases alone (sizes by FLOPs, batches, workers), as for a size that was never measured.

The clock: `wall` is the time of the whole `wm train`, with Ray's start. On a machine that does other work as well use
`--clock cpu`: the processor time of rank 0's process with one thread, from its start to its end, predicted from the
processor times in a profile by the same arithmetic. The same trainer runs without Ray then, which is not in that time,
nor is waiting for other ranks.

--results keeps what is done: the same command continues after the cases that it has. Prints a table; the last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from plain_run import run_plainly

from cluster.plan.estimate import estimate
from cluster.plan.measure import measure, short_run
from cluster.plan.plan import groups_of
from cluster.plan.profile import MeasuredProfile, parse_profile
from cluster.plan.workload import workload_of
from datasets.runtime.durable_files import write_json_atomically
from datasets.runtime.errors import UserError
from wm.config.run_config import RunConfig
from wm.config.shipped import SHIPPED_CONFIGS
from wm.config.typed_yaml import load_yaml, to_plain
from wm.runs.run import PROFILE_FILE

Words = list[str]
SMALL = ["--model.d-model", "128", "--model.num-layers", "2"]
LARGE = ["--model.d-model", "384", "--model.num-layers", "6"]
XL = ["--model.d-model", "512", "--model.num-layers", "4"]
WINDOW = ["--objective.kind", "window", "--objective.context-frames", "10"]
CASES: dict[str, tuple[str, Words]] = {
    "medium": ("mamba2-medium", []),
    "small": ("mamba2-medium", SMALL),
    "medium, 2 workers": ("mamba2-medium", ["--optimizer.batch-size", "16", "--num-workers", "2"]),
    "large": ("mamba2-medium", LARGE),
    "mlp": ("mlp", []),
    "medium, batch 32": ("mamba2-medium", ["--optimizer.batch-size", "32"]),
    "medium, windows": ("mamba2-medium", [*WINDOW, "--optimizer.batch-size", "64"]),
    "small, 2 workers": ("mamba2-medium", [*SMALL, "--optimizer.batch-size", "16", "--num-workers", "2"]),
    "xl": ("mamba2-medium", XL),
    "mlp, batch 64": ("mlp", ["--optimizer.batch-size", "64"]),
}
"""Name -> shipped config and overrides."""
SCALED = "medium", "small", "large", "xl", "medium, batch 32", "medium, 2 workers", "small, 2 workers", "mlp, batch 64"
"""Cases that are also predicted from the profiles of others."""
EVALUATION = ["--eval.contexts", "10", "--eval.num-targets", "2000", "--eval.validation-targets", "500"]
TINY = ["--model.d-model", "32", "--model.headdim", "16", "--model.d-state", "8", "--model.num-layers", "1"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """Of the command line."""

    corpus: Path
    seconds: float
    profile_seconds: float
    clock: str
    tiny: bool


def config_of(name: str, options: Options) -> RunConfig:
    """The run of a case, on a schedule that it does not reach the end of."""
    shipped, words = CASES[name]
    more = [*words, *EVALUATION, "--train-corpus", str(options.corpus), "--compile", "never"]
    more += ["--num-threads", "1"] if options.clock == "cpu" else []
    more += TINY if options.tiny else []
    return load_yaml(SHIPPED_CONFIGS / f"{shipped}.yaml", RunConfig, more)


def on_clock(content: dict[str, Any], clock: str) -> dict[str, Any]:
    """A profile in processor time instead of the wall's."""
    if clock == "wall":
        return content
    parts = {
        name: content[name] | {"seconds": content[name]["cpu_s"]}
        for name in ("validations", "final_evaluation", "checkpoints")
    }
    return content | parts | {
        "mean_targets_per_s": content["mean_targets_per_s"] * content["steady_s"] / content["steady_cpu_s"],
        "mean_wait_share": 0.0,
        "start_s": content["start_cpu_s"],
        "warm_up_s": content["warm_up_cpu_s"],
        "end_s": 0.0,
    }  # fmt: skip


def predict(config: RunConfig, name: str, profiles: list[MeasuredProfile]) -> dict[str, Any]:
    """Seconds of a run by its parts."""
    groups, known = groups_of((), (), profiles)
    found = estimate(workload_of(config, name), profiles, groups[0], known, config.max_workers)
    return {"seconds": 3_600 * found.hours, "parts": found.seconds, "estimates": list(found.estimates)}


def measure_plainly(config: RunConfig, options: Options) -> dict[str, Any]:
    """As `measure`, without Ray."""
    with tempfile.TemporaryDirectory(prefix="wm-plan-") as folder:
        run_plainly(short_run(config, Path(folder) / "run", options.profile_seconds))
        return json.loads((Path(folder) / "run" / PROFILE_FILE).read_text())


def run_case(name: str, options: Options) -> dict[str, Any]:
    """Profile, predict and run one case."""
    config = config_of(name, options)
    load_before = os.getloadavg()[0]
    content = measure_plainly(config, options) if options.clock == "cpu" else measure(config, options.profile_seconds)
    measured = parse_profile(on_clock(content, options.clock), Path(name))
    update = config.objective.predictions * (measured.profile.batch_size or 1)
    targets = max(1, round(options.seconds * measured.targets_per_s / update)) * update
    config = replace(
        config,
        optimizer=replace(config.optimizer, total_targets=targets),
        eval=replace(config.eval, every_targets=max(1, targets // 3)),
    )
    predicted = predict(config, name, [measured])
    with tempfile.TemporaryDirectory(prefix="wm-plan-") as folder:
        path, config = Path(folder) / "config.yaml", replace(config, out=Path(folder) / "run")
        started = time.monotonic()
        if options.clock == "cpu":
            run_plainly(config)
        else:
            path.write_text(yaml.safe_dump(to_plain(config), sort_keys=False))
            command = [sys.executable, "-m", "wm.cli", "train", str(path)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall_s = time.monotonic() - started
        ran = json.loads((Path(folder) / "run" / PROFILE_FILE).read_text())
    return {
        "name": name,
        "targets": targets,
        "workers": measured.profile.workers,
        "batch_size": measured.profile.batch_size,
        "parameters": measured.network.num_parameters,
        "actual_s": wall_s if options.clock == "wall" else ran["cpu_s"],
        "wall_s": wall_s,
        "own": predicted,
        "load": [load_before, os.getloadavg()[0]],
        "profile": content,
        "ran": ran,
    }


def scaled_prediction(case: dict[str, Any], all_cases: list[dict[str, Any]], options: Options) -> dict[str, Any] | None:
    """A case predicted from the profiles of the other cases alone; None if none fits."""
    if case["name"] not in SCALED:
        return None
    others = [
        parse_profile(on_clock(one["profile"], options.clock), Path(one["name"]))
        for one in all_cases
        if one["name"] != case["name"]
    ]
    config = config_of(case["name"], options)
    config = replace(
        config,
        optimizer=replace(config.optimizer, total_targets=case["targets"]),
        eval=replace(config.eval, every_targets=max(1, case["targets"] // 3)),
    )
    same_kind = [one for one in others if one.network.kind == config.model.kind]
    try:
        return predict(config, case["name"], same_kind) if same_kind else None
    except UserError:
        return None


def error_of(predicted: dict[str, Any] | None, case: dict[str, Any]) -> float | None:
    """Predicted over actual, less one."""
    return None if predicted is None else predicted["seconds"] / case["actual_s"] - 1


def summary(errors: list[float]) -> dict[str, float] | None:
    """Median and worst of the absolute errors."""
    if not errors:
        return None
    return {"median": statistics.median(map(abs, errors)), "worst": max(map(abs, errors)), "runs": len(errors)}


def report(cases: list[dict[str, Any]], options: Options) -> dict[str, Any]:
    """Print the table; returns the JSON."""
    names = f"{'run':<20}{'M par.':>7}{'batch':>7}{'targets':>11}{'actual s':>10}"
    print(f"{names}{'own':>9}{'error':>8}{'scaled':>9}{'error':>8}")
    own, scaled = [], []
    for case in cases:
        other = scaled_prediction(case, cases, options)
        own_error, scaled_error = error_of(case["own"], case), error_of(other, case)
        own.append(own_error or 0.0)
        scaled += [] if scaled_error is None else [scaled_error]
        print(
            f"{case['name']:<20}{case['parameters'] / 1e6:>7.1f}{case['batch_size']:>7}{case['targets']:>11,}"
            f"{case['actual_s']:>10.1f}{case['own']['seconds']:>9.1f}{own_error:>+8.1%}"
            + ("" if other is None else f"{other['seconds']:>9.1f}{scaled_error:>+8.1%}")
        )
    loads = [load for case in cases for load in case["load"]]
    return {
        "benchmark": "plan",
        "clock": options.clock,
        "seconds": options.seconds,
        "own": summary(own),
        "scaled": summary(scaled),
        "load": [min(loads), max(loads)] if loads else None,
        "runs": [
            {"name": c["name"], "actual_s": c["actual_s"], "predicted_s": c["own"]["seconds"], "targets": c["targets"]}
            for c in cases
        ],
    }


def main() -> None:
    """Run what is not in the results yet, and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--results", type=Path, help="file to keep results in, and to continue from")
    parser.add_argument("--seconds", type=float, default=60.0, help="training time of each run, on the clock")
    parser.add_argument("--profile-seconds", type=float, default=25.0, help="of updates that `wm profile` measures")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--tiny", action="store_true", help="a tiny network, for tests")
    arguments = parser.parse_args()
    options = Options(
        corpus=arguments.corpus.resolve(), seconds=arguments.seconds, profile_seconds=arguments.profile_seconds,
        clock=arguments.clock, tiny=arguments.tiny,
    )  # fmt: skip
    done: list[dict[str, Any]] = []
    if arguments.results is not None and arguments.results.is_file():
        done = json.loads(arguments.results.read_text()).get("cases", [])
    for name in arguments.cases:
        if name in {case["name"] for case in done}:
            continue
        done.append(run_case(name, options))
        if arguments.results is not None:
            write_json_atomically(arguments.results, {"clock": options.clock, "cases": done})
        print(f"{name}: done", file=sys.stderr, flush=True)
    print(json.dumps(report(done, options)))


if __name__ == "__main__":
    main()
