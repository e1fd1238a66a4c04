"""A compiled network learns the same; where nothing can be compiled, a run says so and goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_runs import losses, run, tiny_run, with_targets

from wm.compiling import is_to_be_compiled
from wm.config import RunConfig
from wm.model import ModelConfig, build_model
from wm.run_folder import PROFILE_FILE, read_log


@pytest.fixture
def config(tiny_corpus: Path, tmp_path: Path, monkeypatch) -> RunConfig:
    """Six updates of a tiny network, with nothing compiled before."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    monkeypatch.setenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
    torch.compiler.reset()
    return with_targets(tiny_run(tiny_corpus, tmp_path / "run"), 6)


def is_compiled(config: RunConfig) -> bool:
    return json.loads((config.out / PROFILE_FILE).read_text())["compiled"]


@pytest.mark.slow
def test_a_compiled_network_learns_the_same_and_is_compiled_once(config, tmp_path):
    run(config)
    torch._dynamo.utils.counters.clear()
    compiled = replace(config, out=tmp_path / "compiled", compile="cpu")
    run(compiled)
    assert (is_compiled(config), is_compiled(compiled)) == (False, True)
    assert losses(compiled) == pytest.approx(losses(config), rel=1e-4)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # not the judge's shapes, nor smaller batches


@pytest.mark.slow
def test_a_run_goes_on_uncompiled_where_the_compiler_fails(config, tmp_path, monkeypatch):
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, str(compiler)))
    result = run(replace(config, compile="cpu"))
    assert result.targets_seen >= config.optimiser.total_targets
    assert not is_compiled(config)
    (problem,) = [row["message"] for row in read_log(config.out) if row["kind"] == "problem"]
    assert problem.startswith("the network runs as it is, it cannot be compiled here (") and "\n" not in problem


def test_without_a_compiler_nothing_is_compiled(config, monkeypatch):
    cpu, model = torch.device("cpu"), build_model(config.model, 5)
    asks = replace(config, compile="cpu")
    monkeypatch.setenv("PATH", "")
    assert not is_to_be_compiled(model, asks, cpu)
    assert is_to_be_compiled(model, replace(config, compile="always"), cpu)
    assert not is_to_be_compiled(model, replace(config, compile="never"), cpu)


def test_on_a_gpu_and_for_the_mlp_nothing_is_compiled_unless_it_pays(config):
    asks = replace(config, compile="cpu")
    assert not is_to_be_compiled(build_model(config.model, 5), asks, torch.device("cuda"))
    assert not is_to_be_compiled(build_model(ModelConfig(kind="mlp"), 5), asks, torch.device("cpu"))
