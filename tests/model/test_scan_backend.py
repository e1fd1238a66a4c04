"""Where the kernels fail, `auto` takes plain torch and says why; and padded layers compute what unpadded ones do."""

from __future__ import annotations

import sys
import types
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from datasets.runtime.errors import UserError
from wm.config.model_config import ModelConfig
from wm.model import scan_backend
from wm.model.ops import aligned, ssd_triton
from wm.model.scan_backend import ScanChoice, choose_scan_backend

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
CONFIG = ModelConfig(d_model=32, d_state=16, headdim=16)


def test_auto_is_torch_on_a_cpu_without_a_word():
    assert choose_scan_backend(CONFIG, CPU, "auto", 64) == ScanChoice(backend="torch")


def failing(*_: object) -> None:
    raise RuntimeError("Failed to find C compiler.\nPlease specify via CC environment variable")


def test_kernels_that_fail_are_replaced_under_auto_and_an_error_under_triton(monkeypatch):
    monkeypatch.setattr(scan_backend, "_wrong_numbers", failing)
    choice = choose_scan_backend(CONFIG, CUDA, "auto", 64)
    assert choice.backend == "torch"
    assert choice.note is not None and "\n" not in choice.note
    assert choice.note.startswith("the scan runs in plain torch") and "Failed to find C compiler" in choice.note
    with pytest.raises(UserError, match="Failed to find C compiler"):
        choose_scan_backend(replace(CONFIG, scan_backend="triton"), CUDA, "auto", 64)


@pytest.mark.parametrize("change", [{"headdim": 8}, {"d_state": 20}])
def test_a_shape_that_only_mamba_ssm_takes_says_so_where_it_is_missing(monkeypatch, change):
    monkeypatch.setattr(ssd_triton, "available", lambda: False)
    choice = choose_scan_backend(replace(CONFIG, **change), CUDA, "auto", 64)
    assert choice.note is not None and "mamba-ssm, which is not installed (`make gpu`)" in choice.note
    assert "of 65 frames" in str(choose_scan_backend(CONFIG, CUDA, "auto", 65).note)


def test_a_missing_triton_says_so(monkeypatch):
    monkeypatch.setattr(scan_backend.importlib.util, "find_spec", lambda _name: None)
    assert "Triton is not installed" in str(choose_scan_backend(CONFIG, CUDA, "auto", 64).note)


@pytest.mark.parametrize(("inputs", "outputs"), [(26, 16), (16, 525), (27, 13), (16, 16)])
def test_a_padded_layer_equals_an_unpadded_one(monkeypatch, inputs, outputs):
    torch.manual_seed(0)
    results = []
    for pads in (False, True):
        monkeypatch.setattr(aligned, "needs_alignment", lambda _device, pads=pads: pads)
        generator = torch.Generator().manual_seed(0)
        shapes = ((2, 3, inputs), (outputs, inputs), (outputs,))
        leaves = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
        out = aligned.aligned_linear(*leaves)
        out.square().sum().backward()
        results.append([out, *(leaf.grad for leaf in leaves)])
        torch.testing.assert_close(out, F.linear(*leaves))
    torch.testing.assert_close(results[0], results[1])


def test_kernels_are_tuned_again_after_the_comparison(monkeypatch):
    class Autotuner:
        cache = {"key without the batch size": "a config for four sequences"}  # noqa: RUF012

    module = types.ModuleType("mamba_ssm.ops.triton.kernels")
    module.kernel = Autotuner()  # pyrefly: ignore[missing-attribute]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(scan_backend, "_wrong_numbers", lambda *_: None)
    assert choose_scan_backend(CONFIG, CUDA, "auto", 64).backend == "triton"
    assert not Autotuner.cache
