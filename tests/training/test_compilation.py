"""A compiled network learns the same; where nothing can be compiled, a run says so and goes on."""

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
from wm.runs.run_folder import PROFILE_FILE, read_log
from wm.training.compilation import is_to_be_compiled


@pytest.fixture
def config(tiny_corpus: Path, tmp_path: Path, monkeypatch) -> RunConfig:
    """Six updates of a tiny network, with nothing compiled before."""
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
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # not the judge's shapes, nor smaller batches


@pytest.mark.slow
def test_a_run_goes_on_uncompiled_where_the_compiler_fails(config, tmp_path, monkeypatch):
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, str(compiler)))
    result = run(replace(config, compile="always"))
    assert result.targets_seen >= config.optimizer.total_targets
    assert not was_compiled(config)
    (problem,) = [row["message"] for row in read_log(config.out) if row["kind"] == "problem"]
    assert problem.startswith("the network runs as it is, it cannot be compiled here (") and "\n" not in problem


def test_auto_compiles_on_a_cpu_with_a_compiler_what_is_worth_it(config, monkeypatch):
    cpu, medium = torch.device("cpu"), ModelConfig(d_model=384, num_layers=4)
    with torch.device("meta"):
        model, mlp = build_model(medium, 10), build_model(ModelConfig(kind="mlp"), 10)
    short, long = (replace(config, optimizer=OptimizerConfig(total_targets=n)) for n in (1_000_000, 4_000_000))
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert is_to_be_compiled(model, long, cpu)
    assert not is_to_be_compiled(model, short, cpu)
    assert not is_to_be_compiled(model, replace(long, num_workers=2), cpu)
    assert not is_to_be_compiled(model, long, torch.device("cuda"))
    assert not is_to_be_compiled(model, replace(long, compile="never"), cpu)
    assert is_to_be_compiled(model, replace(short, compile="always"), torch.device("cuda"))
    assert not is_to_be_compiled(mlp, replace(long, compile="always"), cpu)
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not is_to_be_compiled(model, long, cpu)
