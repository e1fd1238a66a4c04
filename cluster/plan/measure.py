"""`wm profile`: measures a config on this machine, by a short run of the trainer, or without a corpus by its step."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from datasets.corpus.state import CORPUS_FILE
from datasets.runtime.errors import UserError
from datasets.runtime.uris import is_remote
from datasets.runtime.version import tool_version
from wm.config.run_config import RunConfig
from wm.config.run_paths import with_absolute_paths
from wm.config.typed_yaml import to_plain
from wm.runs.run import PROFILE_FILE, PROFILE_VERSION

SECONDS = 25.0
"""Of updates."""
WARM_UP_S, COMPILE_S = 5.0, 75.0
"""Training time before: the log's first interval, which is not counted, with compilation if there is any."""
LOG_EVERY_S = 2.0
MAX_EVALUATED_FRAMES = 100_000
"""Of the evaluation: as long as training on a third of them."""


def measure(config: RunConfig, seconds: float = SECONDS) -> dict[str, Any]:
    """Measure a config on this machine, or on the cluster that RAY_ADDRESS names.

    With a corpus, by `wm train` in a process of its own, with all its workers: start, updates with their waits for
    input, an evaluation, checkpoints, end. Without one, by the training step of one worker on synthetic frames.

    Args:
        seconds: of updates that are measured, after the first ones.
    Returns:
        A throughput profile of PROFILE_VERSION.
    Raises:
        UserError: the run cannot start as configured; or it ended before it had a speed.
    """
    measured_at = datetime.now(UTC).isoformat(timespec="seconds")
    if has_corpus(config):
        found = _measure_run(config, seconds) | {"data": "corpus"}
    else:
        from wm.launch.synthetic_profile import measure_synthetic

        found = {"profile_version": PROFILE_VERSION} | measure_synthetic(config, seconds)
    facts = {"measured_at": measured_at, "tool_version": tool_version()}
    if found.get("targets_per_s"):
        from tune.search.cost import cost_of

        flops = cost_of(config).train_flops_per_target
        speed = found.get("mean_targets_per_s") or found["targets_per_s"]
        facts |= {"flops_per_target": flops, "flops_per_s": flops * speed}
    return found | facts


def has_corpus(config: RunConfig) -> bool:
    """Whether the training corpus is there; one in object storage is taken to be."""
    return is_remote(str(config.train_corpus)) or (Path(config.train_corpus) / CORPUS_FILE).is_file()


def short_run(config: RunConfig, out: Path, seconds: float) -> RunConfig:
    """The config of a run that is only measured: the same network, batches and schedule, but it ends early."""
    frames = sum(k for k in config.contexts if k != "stream")
    num_targets = max(config.max_workers, min(config.eval.num_targets, MAX_EVALUATED_FRAMES // max(1, frames)))
    warm_up = COMPILE_S if _compiles(config) else WARM_UP_S
    return replace(
        with_absolute_paths(config),
        out=out,
        init_from=None,
        max_seconds=seconds + warm_up,
        log_every_s=LOG_EVERY_S,
        checkpoint=replace(config.checkpoint, storage_path=None),
        eval=replace(
            config.eval,
            num_targets=num_targets,
            validation_targets=min(num_targets, config.eval.validation_targets),
            every_targets=2**62,
        ),
    )


def _compiles(config: RunConfig) -> bool:
    import torch

    from wm.model.world_model import build_model
    from wm.training.compilation import should_compile

    with torch.device("meta"):
        model = build_model(config.model, config.objective.context_frames)
    return should_compile(model, config, torch.device("cuda" if config.use_gpu else "cpu"))


def _measure_run(config: RunConfig, seconds: float) -> dict[str, Any]:
    """The profile of a short run, with the seconds of its end."""
    folder = _run_folder(config)
    try:
        path = folder.with_suffix(".yaml")
        path.write_text(yaml.safe_dump(to_plain(short_run(config, folder, seconds)), sort_keys=False))
        started = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "wm.cli", "train", str(path)], check=False)
        wall_s = time.monotonic() - started
        if done.returncode:
            raise UserError(f"the run that was to be measured ended with exit code {done.returncode}; see above")
        content = json.loads((folder / PROFILE_FILE).read_bytes())
    finally:
        shutil.rmtree(folder.parent, ignore_errors=True)
    parts = [content[name]["seconds"] for name in ("validations", "final_evaluation", "checkpoints")]
    known = (content["start_s"] or 0.0) + content["train_s"] + sum(parts)
    return content | {"wall_s": wall_s, "end_s": max(0.0, wall_s - known)}


def _run_folder(config: RunConfig) -> Path:
    """A folder in a new one: beside the run's own where that is absolute, since a cluster's nodes share that place."""
    out = config.out
    beside = Path(out).parent if not is_remote(str(out)) and Path(out).is_absolute() else None
    if beside is not None:
        beside.mkdir(parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix="wm-profile-", dir=beside)) / "run"
