"""Our Triton kernels without a GPU: against plain torch in Triton's interpreter, and through Triton's compiler."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton not installed")

SCRIPT = r"""
import json
import torch
from torch.nn import functional as F

from datasets.runtime.errors import UserError
from wm.config.model_config import ModelConfig
from wm.model import scan_backend
from wm.model.ops import aligned, fused_ops, ssd
from wm.model.ops.autograd_ops import CausalConvolution
from wm.model.mamba2 import Mamba2Mixer

torch.set_num_threads(1)
found = {}


def compare(name, ours, reference, inputs, names):
    results = []
    for function in (ours, reference):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        out = function(*leaves)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
        (out * weight).sum().backward()
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for what, first, second in zip(["output", *names], *results):
        found[f"{name}: {what}"] = float((first - second).abs().max() / second.abs().max().clamp(min=1e-30))


def conv(wide, weight, bias):
    return fused_ops.conv_silu(wide[..., 10:90], weight, bias)


def conv_reference(wide, weight, bias):
    return F.silu(CausalConvolution.apply(F.pad(wide[..., 10:90], (0, 0, 3, 0)), weight.t().contiguous(), bias))


HEADS, WIDTH, STATES = 3, 16, 32
SIZES = [HEADS * WIDTH, HEADS * WIDTH + 2 * STATES]


def scan(wide, dt, a, d):
    z, xbc = wide.split(SIZES, -1)
    return fused_ops.chunk_scan(xbc, dt, a, d, z, WIDTH)


def scan_reference(wide, dt, a, d):
    z, xbc = wide.split(SIZES, -1)
    x, b, c = xbc.split([HEADS * WIDTH, STATES, STATES], -1)
    x = x.unflatten(-1, (HEADS, WIDTH))
    return (ssd.scan(x, dt, a, b, c)[0] + d[:, None] * x).flatten(-2) * F.silu(z)


for frames in (1, 10, 64, 70):
    torch.manual_seed(frames)
    inputs = [torch.randn(2, frames, 100), torch.randn(80, 4), torch.randn(80)]
    compare(f"conv of {frames} frames", conv, conv_reference, inputs, ["input", "weight", "bias"])
for frames in (1, 10, 64):
    torch.manual_seed(frames)
    dt, a = F.softplus(torch.randn(2, frames, HEADS) - 2), -torch.exp(torch.randn(HEADS))
    inputs = [torch.randn(2, frames, sum(SIZES)), dt, a, torch.randn(HEADS)]
    compare(f"scan of {frames} frames", scan, scan_reference, inputs, ["zxbc", "dt", "a", "d"])

config = ModelConfig(d_model=32, d_state=16, headdim=16, scan_backend="triton")
cpu = torch.device("cpu")
aligned.needs_alignment = lambda device: True  # in_proj is 130 wide: as on CUDA, it is padded
found["backend"] = scan_backend.choose_scan_backend(config, cpu, "fp32", 16).backend

torch.compiler.reset()
mixer = Mamba2Mixer(32, d_state=16, headdim=16, expand=2, d_conv=4, scan_backend="triton")
explained = torch._dynamo.explain(mixer)(torch.randn(2, 10, 32))
found["graph breaks"] = explained.graph_break_count

right = scan_backend.fused_ops.chunk_scan
scan_backend.fused_ops.chunk_scan = lambda xbc, dt, a, d, z, headdim: right(xbc, dt, a, 2 * d, z, headdim)
try:
    scan_backend.choose_scan_backend(config, cpu, "fp32", 16)
except UserError as error:
    found["wrong kernel"] = str(error)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict:
    """What the interpreter found: differences relative to the largest value, and more."""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    return json.loads(done.stdout.splitlines()[-1])


@needs_triton
@pytest.mark.parametrize(("kernel", "cases", "tensors"), [("conv", 4, 4), ("scan", 3, 5)])
def test_a_kernel_and_its_gradients_equal_plain_torch(found, kernel, cases, tensors):
    differences = {name: value for name, value in found.items() if name.startswith(f"{kernel} of")}
    assert len(differences) == cases * tensors
    assert not {name: value for name, value in differences.items() if not value < 1e-5}


@needs_triton
def test_kernels_that_compute_what_torch_computes_are_chosen(found):
    assert found["backend"] == "triton"


@needs_triton
def test_kernels_that_compute_something_else_are_refused_in_one_line(found):
    message = found["wrong kernel"]
    assert re.fullmatch(r"model\.scan_backend is triton, but the .* is wrong by .*%\); set .*: auto", message), message


@needs_triton
def test_torch_compile_sees_a_block_with_kernels_as_one_graph(found):
    assert found["graph breaks"] == 0


COMPILE = r"""
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from wm.model.ops import fused_ops, triton_kernels

SCAN = {"num_heads": 8, "width": 64, "states": 64, "block_t": 64}
CONV = {"num_channels": 640, "taps": 4, **fused_ops.CONV_BLOCK}
KERNELS = {"scan_forward": SCAN, "scan_backward": SCAN, "conv_silu_forward": CONV, "conv_silu_backward": CONV}
WIDE = {"dt_ptr", "a_ptr", "d_ptr", "grad_dt_ptr", "partial_ptr", "w_ptr", "bias_ptr"}
for name, constants in KERNELS.items():
    kernel = getattr(triton_kernels, name)
    types = {}
    for argument in kernel.arg_names:
        pointer = "*fp32" if argument in WIDE else "*bf16"
        types[argument] = pointer if argument.endswith("_ptr") else "i32"
    types |= dict.fromkeys(constants, "constexpr")
    values = {(kernel.arg_names.index(argument),): value for argument, value in constants.items()}
    source = ASTSource(kernel, types, constexprs=values)
    options = {"num_warps": fused_ops.NUM_WARPS[name.rpartition("_")[2]]}
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    print(name, built.metadata.shared)
"""


@needs_triton
def test_the_kernels_compile_for_an_h100(tmp_path):
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    shared = {name: int(size) for name, size in (line.split() for line in done.stdout.splitlines())}
    assert len(shared) == 4
    assert max(shared.values()) <= 99 * 1024  # what smaller GPUs have too
