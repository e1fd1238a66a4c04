"""The Triton kernels against plain torch, without a GPU: Triton's interpreter runs them in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from datasets.runtime.errors import UserError
from wm.model.ops import ssd_triton

NEEDED = ("triton", "mamba_ssm", "einops")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
needs_kernels = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed: run `make gpu`")

SCRIPT = r"""
import contextlib, importlib.machinery, json, sys, types
import torch

# The kernels ask for a device and its size; the interpreter has none.
torch.cuda.device = lambda *_: contextlib.nullcontext()
torch.cuda.get_device_properties = lambda *_: types.SimpleNamespace(multi_processor_count=1)
torch.set_num_threads(1)

from wm.model.ops import ssd_triton

from wm.model.ops import ssd
from wm.model.mamba2 import Mamba2Mixer

found = {}


def apart(first, second):
    # Largest difference, relative to the largest value.
    first, second = first.detach(), second.detach()
    return float((first - second).abs().max() / second.abs().max().clamp(min=1e-30))


def scan_case(name, num_frames, with_state):
    torch.manual_seed(num_frames)
    inputs = [
        torch.randn(2, num_frames, 2, 16),
        torch.nn.functional.softplus(torch.randn(2, num_frames, 2) - 2),
        -torch.exp(torch.randn(2)),
        torch.randn(2, num_frames, 16),
        torch.randn(2, num_frames, 16),
    ] + ([torch.randn(2, 2, 16, 16)] if with_state else [])
    names = ["x", "dt", "a", "b", "c", "state"]
    weight_y, weight_state = torch.randn(2, num_frames, 2, 16), torch.randn(2, 2, 16, 16)
    results = {}
    for backend, scan in (("torch", ssd.scan), ("triton", ssd_triton.scan)):
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        y, state = scan(*leaves, return_state=True) if with_state else scan(*leaves)
        loss = (y * weight_y).sum() + ((state * weight_state).sum() if with_state else 0)
        loss.backward()
        values = {"y": y} | ({"state after": state} if with_state else {})
        results[backend] = values | {f"gradient of {n}": t.grad for n, t in zip(names, leaves)}
    for what, value in results["triton"].items():
        found[f"{name}: {what}"] = apart(value, results["torch"][what])


scan_case("scan of 10 frames", 10, False)
scan_case("scan of 70 frames with a state", 70, True)

torch.manual_seed(1)
sizes = dict(d_state=16, headdim=16, expand=2, d_conv=4)
ours = {backend: Mamba2Mixer(32, **sizes, scan_backend=backend) for backend in ("torch", "triton")}
with torch.no_grad():
    for parameter in ours["torch"].parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
ours["triton"].load_state_dict(ours["torch"].state_dict())

# mamba_ssm's module wants the model hub only to publish models with.
hub = types.ModuleType("huggingface_hub")
hub.__spec__ = importlib.machinery.ModuleSpec("huggingface_hub", None)
hub.PyTorchModelHubMixin = type("PyTorchModelHubMixin", (), {})
sys.modules.setdefault("huggingface_hub", hub)
from mamba_ssm.modules.mamba2 import Mamba2

theirs = Mamba2(32, **sizes, chunk_size=64, use_mem_eff_path=False)
theirs.load_state_dict(ours["torch"].state_dict(), strict=True)
Mamba2Mixer(32, **sizes, scan_backend="torch").load_state_dict(Mamba2(32, **sizes).state_dict(), strict=True)
found["names loaded both ways"] = sorted(theirs.state_dict())

u, weight = torch.randn(2, 10, 32), torch.randn(2, 10, 32)
results = {}
for name, mixer in {"torch": ours["torch"], "triton": ours["triton"], "mamba-ssm": theirs}.items():
    leaf = u.clone().requires_grad_()
    out = mixer(leaf) if name == "mamba-ssm" else mixer(leaf)[0]
    (out * weight).sum().backward()
    gradients = {f"gradient of {n}": p.grad for n, p in mixer.named_parameters()}
    results[name] = {"output": out, "gradient of the input": leaf.grad} | gradients
for name in ("triton", "mamba-ssm"):
    for what, value in results[name].items():
        found[f"mixer, {name}: {what}"] = apart(value, results["torch"][what])

with torch.no_grad():
    whole, _ = ours["torch"](u)
    first, state = ours["triton"](u[:, :6], return_state=True)
    second, _ = ours["triton"](u[:, 6:], state)
found["mixer, triton: in two parts"] = apart(torch.cat([first, second], dim=1), whole)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found() -> dict:
    """Differences, relative to the largest value, that the interpreter found."""
    environment = os.environ | {"TRITON_INTERPRET": "1", "MAMBA_DETERMINISTIC": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    return json.loads(done.stdout.splitlines()[-1])


def checked(found: dict, prefix: str) -> dict[str, float]:
    return {name: difference for name, difference in found.items() if name.startswith(prefix)}


@needs_kernels
@pytest.mark.parametrize("case", ["scan of 10 frames", "scan of 70 frames with a state"])
def test_the_kernels_scan_and_its_gradients_equal_plain_torch(found, case):
    differences = checked(found, case)
    assert len(differences) == (8 if "state" in case else 6)
    assert not {name: d for name, d in differences.items() if not d < 1e-5}


@needs_kernels
@pytest.mark.parametrize("other", ["triton", "mamba-ssm"])
def test_a_whole_mixer_equals_plain_torch_forward_and_backward(found, other):
    differences = checked(found, f"mixer, {other}")
    assert len(differences) == 10 + (other == "triton")
    assert not {name: d for name, d in differences.items() if not d < 1e-5}


@needs_kernels
def test_a_state_dict_loads_strictly_into_mamba_ssm_and_back(found):
    assert found["names loaded both ways"] == sorted(
        ["dt_bias", "A_log", "D", "in_proj.weight", "conv1d.weight", "conv1d.bias", "norm.weight", "out_proj.weight"]
    )


def test_kernels_asked_for_where_they_are_missing_is_a_users_error(monkeypatch):
    ssd_triton._chunk_scan.cache_clear()
    monkeypatch.setattr(ssd_triton, "available", lambda: False)
    with pytest.raises(UserError, match="make gpu"):
        ssd_triton._chunk_scan()
