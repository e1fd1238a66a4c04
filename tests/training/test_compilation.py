"""A compiled network learns the same; if compilation fails, a run warns and continues in eager mode."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import losses, run, tiny_run, with_targets

from wm.config.model_config import ModelConfig
from wm.config.run_config import OptimizerConfig, RunConfig
from wm.model.world_model import build_model
from wm.runs.run import PROFILE_FILE
from wm.runs.run_log import read_log
from wm.training.compilation import should_compile


@pytest.fixture
def config(tiny_corpus: Path, tmp_path: Path, monkeypatch) -> RunConfig:
    """Six updates of a tiny network, with an empty compilation cache."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
    torch.compiler.reset()
    return with_targets(tiny_run(tiny_corpus, tmp_path / "run"), 6)


def was_compiled(config: RunConfig) -> bool:
    return json.loads((config.out / PROFILE_FILE).read_text())["compiled"]


@pytest.mark.slow
def test_a_compiled_network_learns_the_same_and_is_compiled_once(config, tmp_path):
    run(config)
    torch._dynamo.utils.counters.clear()
    compiled = replace(config, out=tmp_path / "compiled", compile="always")
    run(compiled)
    assert (was_compiled(config), was_compiled(compiled)) == (False, True)
    assert losses(compiled) == pytest.approx(losses(config), rel=1e-4)
    assert (
        torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    )  # neither the evaluation's shapes nor smaller batches


@pytest.mark.slow
def test_a_run_continues_in_eager_mode_if_the_compiler_fails(config, tmp_path, monkeypatch):
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, str(compiler)))
    result = run(replace(config, compile="always"))
    assert result.targets_seen >= config.optimizer.total_targets
    assert not was_compiled(config)
    (problem,) = [row["message"] for row in read_log(config.out) if row["kind"] == "problem"]
    assert problem.startswith("torch.compile failed; continuing in eager mode (") and "\n" not in problem


def test_auto_compiles_long_schedules_on_a_cpu_with_a_compiler(config, monkeypatch):
    cpu, medium = torch.device("cpu"), ModelConfig(d_model=256, num_layers=4)
    with torch.device("meta"):
        model, mlp = build_model(medium, 10), build_model(ModelConfig(kind="mlp"), 10)
    short, long = (replace(config, optimizer=OptimizerConfig(total_targets=n)) for n in (1_000_000, 4_000_000))
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert should_compile(model, long, cpu)
    assert not should_compile(model, short, cpu)
    with monkeypatch.context() as two_ranks:
        two_ranks.setattr("wm.training.distributed.world_size", lambda: 2)
        assert not should_compile(model, long, cpu)
    assert not should_compile(model, long, torch.device("cuda"))
    assert not should_compile(model, replace(long, compile="never"), cpu)
    assert should_compile(model, replace(short, compile="always"), torch.device("cuda"))
    assert not should_compile(mlp, replace(long, compile="always"), cpu)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not should_compile(model, long, cpu)
