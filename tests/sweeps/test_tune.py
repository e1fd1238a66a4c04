"""Sweeps: axes expand into trials, results into a choice of K, and one sweep runs on Ray."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from snapshots import list_checkpoints

from datasets.runtime.errors import UserError
from tune.config import SweepConfig
from tune.search.cost import cost_of
from tune.search.trials import trials_of
from wm.config.typed_yaml import from_plain
from wm.model.world_model import build_model, num_parameters

ROOT = Path(__file__).resolve().parents[2]


def a_sweep(**content: Any) -> SweepConfig:
    return from_plain(content, SweepConfig, "sweep.yaml")


# -- cost


def test_the_cost_of_a_context_grows_with_it_and_counts_the_network_itself():
    trial = trials_of(a_sweep(axes={"size": ["small"]}, base={"eval": {"contexts": [1, 10, 20]}}))[0]
    cost = cost_of(trial.config)
    assert cost.num_parameters == num_parameters(build_model(trial.config.model, 10))
    assert cost.window_flops[1] > 2 * 0.8 * cost.num_parameters
    assert 5 < cost.window_flops[10] / cost.window_flops[1] < 10  # the heads run once
    window = a_sweep(base={"objective": {"kind": "window", "context_frames": 10}}, axes={"size": ["small"]})
    assert 5 < cost_of(trials_of(window)[0].config).train_flops_per_target / cost.train_flops_per_target < 10


# -- a real sweep

TINY = {
    "model": {"d_model": 32, "headdim": 32, "d_state": 16, "num_layers": 1},
    "objective": {"sequence_frames": 16},
    "optimizer": {"total_targets": 512, "batch_size": 4, "warmup_targets": 64},
    "eval": {"contexts": [1, 5], "num_targets": 60, "validation_targets": 30, "every_targets": 128},
    "checkpoint": {"every_s": 0.001},
}


def read_results(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def without_seconds(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "seconds"}


def test_a_sweep_stops_the_weak_trial_writes_a_row_for_each_trial_k_and_targets_and_resumes(
    ray_session: None, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from tune.running.sweep import run_sweep

    out = tmp_path / "sweep"
    sweep = a_sweep(
        out=str(out),
        axes={"optimizer.learning_rate": [1e-2, 1e-9]},
        asha={"grace": 256, "reduction_factor": 2, "metric": "val_loss", "context": 5},
        max_concurrent=1,
        base=TINY | {"train_corpus": str(tiny_corpus)},
    )
    run_sweep(sweep)
    rows = read_results(out)
    strong, weak = (trial.name for trial in trials_of(sweep))
    assert Counter((row["trial"], row["context"], row["targets_seen"]) for row in rows) == Counter(
        [(strong, k, t) for t in (128, 256, 384, 512) for k in (1, 5)]
        + [(weak, k, t) for t in (128, 256) for k in (1, 5)]
    )
    assert {(row["trial"], row["state"]) for row in rows} == {(strong, "finished"), (weak, "stopped")}
    printed = capsys.readouterr().out
    assert any(verdict in printed for verdict in ("is enough", "is needed", "Not decided"))

    # As after a killed command: the strong trial resumes from its last checkpoint, the weak one stays stopped.
    checkpoints = list_checkpoints(out / "trials" / strong / "checkpoints")
    shutil.rmtree(checkpoints[-1])
    run_sweep(sweep)
    printed = capsys.readouterr().out
    assert "1 of them ended before" in printed
    assert list(map(without_seconds, read_results(out))) == list(map(without_seconds, rows))
    assert list_checkpoints(out / "trials" / strong / "checkpoints")[-1].name == checkpoints[-1].name

    run_sweep(sweep)
    assert "2 of them ended before" in capsys.readouterr().out

    with pytest.raises(UserError, match="contains a sweep with other options"):
        run_sweep(
            a_sweep(
                out=str(out),
                axes={"seed": [1]},
                asha={"enabled": False},
                base=TINY | {"train_corpus": str(tiny_corpus)},
            )
        )
    with pytest.raises(UserError, match="exists and is not a sweep"):
        run_sweep(
            a_sweep(
                out=str(tiny_corpus),
                axes={"seed": [1]},
                asha={"enabled": False},
                base=TINY | {"train_corpus": str(tiny_corpus)},
            )
        )
