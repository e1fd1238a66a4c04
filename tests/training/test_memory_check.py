"""The memory check: out of memory shows before training, and the check changes no state."""

from __future__ import annotations

import copy
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_runs import tiny_run

from datasets.runtime.errors import UserError
from datasets.runtime.hardware import available_memory_bytes
from datasets.runtime.process.host_memory import PeakHostMemory
from wm.config.model_config import ModelConfig
from wm.config.run_config import ObjectiveConfig, OptimizerConfig, RunConfig
from wm.config.typed_yaml import to_plain
from wm.data.synthetic_batch import synthetic_batch
from wm.model.encoding import Frames, category, controllers
from wm.model.world_model import build_model
from wm.training import memory_check
from wm.training.memory_check import check_memory, estimate_cpu_memory, largest_batch_size, largest_power_of_two
from wm.training.optimizer import Optimizer
from wm.training.train_step import TrainStep

CPU = torch.device("cpu")
DEVICES = [
    CPU,
    pytest.param(torch.device("cuda"), marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA")),
]


@pytest.fixture
def config(tmp_path) -> RunConfig:
    return tiny_run(Path("no corpus is needed"), tmp_path / "run")


@pytest.fixture(autouse=True)
def deterministic_kernels():
    """Equal sums in equal runs, also on a GPU."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def made(config: RunConfig, device: torch.device = CPU) -> tuple[torch.nn.Module, Optimizer, TrainStep]:
    torch.manual_seed(0)
    model = build_model(config.model, config.objective.context_frames).to(device)
    optimizer = Optimizer(model, config)
    return model, optimizer, TrainStep(model, optimizer, config, device)


def tensors_of(model: torch.nn.Module, optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """Weights and moments, copied."""
    found = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for part, state in enumerate(optimizer.state_dict()["parts"]):
        for number, moments in state["state"].items():
            found |= {f"{part}.{number}.{name}": tensor.clone() for name, tensor in moments.items()}
    return found


def groups_of(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Options of the parameter groups, without the learning rate, which each update sets."""
    groups = [group for part in state["parts"] for group in part["param_groups"]]
    return [{name: value for name, value in group.items() if name != "lr"} for group in groups]


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert not [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]


def mlp(config: RunConfig) -> RunConfig:
    return replace(
        config,
        model=ModelConfig(kind="mlp", hidden_sizes=(32, 16)),
        objective=ObjectiveConfig(kind="window", context_frames=6),
    )


def muon(config: RunConfig) -> RunConfig:
    objective = replace(config.objective, swap_players=True, mirror=True)
    return replace(config, optimizer=replace(config.optimizer, kind="muon", micro_batch_size=3), objective=objective)


VARIANTS: list[Callable[[RunConfig], RunConfig]] = [lambda config: config, mlp, muon]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", VARIANTS, ids=["mamba2", "mlp", "muon"])
@pytest.mark.parametrize("updates_before", [0, 2])
def test_training_after_a_memory_check_is_bit_for_bit_training_without_one(config, variant, updates_before, device):
    config = variant(config)
    outcomes = []
    for is_checked in (False, True):
        model, optimizer, step = made(config, device)
        for number in range(updates_before):
            step(synthetic_batch(config, 4, device), 1e-3, number)
        before = tensors_of(model, optimizer), copy.deepcopy(optimizer.state_dict()), torch.get_rng_state()
        if is_checked:
            check_memory(step, 8)
            assert_equal(before[0], tensors_of(model, optimizer))
            assert groups_of(before[1]) == groups_of(optimizer.state_dict())
            assert torch.equal(before[2], torch.get_rng_state())
            assert all(parameter.grad is None for parameter in model.parameters())
            assert step.synchronize({}).num_steps == 0
        for number in range(updates_before, updates_before + 3):
            step(synthetic_batch(config, 5, device), 1e-3, number)
        outcomes.append((tensors_of(model, optimizer), torch.rand(3), step.synchronize({}).loss))
    assert_equal(outcomes[0][0], outcomes[1][0])
    assert torch.equal(outcomes[0][1], outcomes[1][1])
    if updates_before == 0:
        assert outcomes[0][2] == outcomes[1][2]


def test_the_memory_check_updates_with_a_full_batch_in_micro_batches(config, monkeypatch):
    config = replace(config, optimizer=replace(config.optimizer, micro_batch_size=5))
    _, _, step = made(config)
    seen: list[tuple[int, int]] = []
    accumulate = step._accumulate

    def look(frames: Frames, *rest: object) -> None:
        seen.append((frames.floats.shape[0], frames.num_frames))
        accumulate(frames, *rest)

    monkeypatch.setattr(step, "_accumulate", look)
    check_memory(step, 23)
    assert seen[-5:] == [(5, 17)] * 4 + [(3, 17)]
    assert max(examples for examples, _ in seen) == 5


def test_synthetic_frames_have_the_shapes_types_and_ranges_of_real_ones(config):
    share = synthetic_batch(config, 6, CPU, workers=3)
    again = synthetic_batch(config, 6, CPU, workers=3)
    assert share.frames.floats.shape[:3] == (6, 17, 2) and share.frames.floats.dtype == torch.float32
    assert share.frames.codes.shape[:3] == (6, 17, 2) and share.frames.codes.dtype == torch.int16
    assert share.game.shape == (18, share.frames.game.shape[1]) and share.game.dtype == torch.int16
    assert share.num_examples == 18
    assert torch.equal(share.frames.codes, again.frames.codes) and torch.equal(share.frames.floats, again.frames.floats)
    sticks = controllers(share.frames)
    assert float(sticks.min()) >= 0 and float(sticks.max()) <= 1
    action = share.frames.code_column("action")
    assert torch.equal(action, category(share.frames, "action"))  # nothing is clamped
    assert len(action.unique()) > 50


def test_a_batch_that_does_not_fit_is_refused_in_one_line_before_it_is_tried(config):
    examples = int(1e12) // 10_000
    config = replace(config, optimizer=replace(config.optimizer, batch_size=examples))
    _, _, step = made(config)
    with pytest.raises(UserError) as refusal, PeakHostMemory() as peak:
        check_memory(step, examples)
    message = str(refusal.value)
    assert "\n" not in message
    assert message.startswith(
        "an update of 100,000,000 examples of 17 frames per worker (0.1 M parameters, fp32) needs"
    )
    assert "GB of memory are free beside the frames" in message
    assert message.endswith("or a smaller optimizer.batch_size or optimizer.batch_size: auto")
    assert peak.bytes is not None and peak.bytes < 2e9


def test_memory_for_the_frames_is_reserved(config):
    _, _, step = made(config)
    free = available_memory_bytes()
    check_memory(step, 4, reserved_bytes=free // 2)
    with pytest.raises(
        UserError, match=r"4 examples .* 0\.0 GB .* free .* use data.device_cache: never or a smaller data"
    ):
        check_memory(step, 4, reserved_bytes=2 * free)
    assert largest_batch_size(step, 10**9, reserved_bytes=2 * free) == 1


def test_a_micro_batch_makes_the_same_batch_fit(config):
    _, _, step = made(config)
    whole = estimate_cpu_memory(step, 4_096)
    config = replace(config, optimizer=replace(config.optimizer, micro_batch_size=32))
    _, _, step = made(config)
    parts = estimate_cpu_memory(step, 4_096)
    assert whole is not None and parts is not None
    assert parts(4_096) < 0.2 * whole(4_096)


MEASURE = """
import json, sys, torch
torch.set_num_threads(1)
from pathlib import Path
from typing import Any
from wm.config.run_config import RunConfig
from wm.training.memory_check import _peak, estimate_cpu_memory
from wm.model.world_model import build_model
from wm.training.optimizer import Optimizer
from wm.training.train_step import TrainStep
from wm.config.typed_yaml import from_plain
config = from_plain(json.loads(sys.argv[1]), RunConfig, "test")
model = build_model(config.model, config.objective.context_frames)
step = TrainStep(model, Optimizer(model, config), config, torch.device("cpu"))
estimate = estimate_cpu_memory(step, int(sys.argv[2]))
print(json.dumps([estimate(int(sys.argv[2])), _peak(step, int(sys.argv[2]))]))
"""


@pytest.mark.parametrize("micro_batch", [None, 32])
def test_the_memory_of_a_full_step_is_extrapolated_from_small_ones(config, micro_batch):
    config = replace(
        config,
        model=ModelConfig(d_model=256, num_layers=2, scan_backend="torch"),
        objective=ObjectiveConfig(sequence_frames=32),
        optimizer=OptimizerConfig(micro_batch_size=micro_batch),
    )
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(to_plain(config)), "128"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    estimated, measured = json.loads(done.stdout)
    assert 0.9 * measured < estimated < 2 * measured


REFUSED = """
import json, resource, sys, torch
torch.set_num_threads(1)
from datasets.runtime.errors import UserError
from wm.config.run_config import RunConfig
from wm.training.memory_check import check_memory
from wm.model.world_model import build_model
from wm.training.optimizer import Optimizer
from wm.training.train_step import TrainStep
from wm.config.typed_yaml import from_plain
config = from_plain(json.loads(sys.argv[1]), RunConfig, "test")
model = build_model(config.model, config.objective.context_frames)
step = TrainStep(model, Optimizer(model, config), config, torch.device("cpu"))
check_memory(step, 2)
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 200_000_000, resource.RLIM_INFINITY))
try:
    check_memory(step, 2_000)
except UserError as error:
    print(error)
check_memory(step, 2)
print("continues")
"""


def test_a_step_that_runs_out_of_memory_is_a_users_error_and_the_process_can_continue(config):
    config = replace(config, model=ModelConfig(d_model=64, num_layers=2, scan_backend="torch"))
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, json.dumps(to_plain(config))],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    printed = done.stdout.splitlines()
    assert printed[1:] == ["continues"]
    assert printed[0].startswith("an update of 2,000 examples of 17 frames per worker (")
    assert "ran out of memory" in printed[0]


def test_other_errors_are_raised_unchanged(config, monkeypatch):
    _, _, step = made(config)

    def broken(*_: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(step, "_accumulate", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        check_memory(step, 4)


@pytest.mark.parametrize("device", DEVICES)
def test_auto_takes_the_largest_power_of_two_that_leaves_enough_updates_per_epoch(config, device, monkeypatch):
    monkeypatch.setattr("wm.training.memory_check.available_memory_bytes", lambda: 10**12)  # memory is not the limit
    config = replace(config, optimizer=replace(config.optimizer, batch_size="auto", total_targets=10**9))
    model, optimizer, step = made(config, device)
    before = tensors_of(model, optimizer)
    examples = 64 * 50
    assert largest_batch_size(step, examples * 16) == 32
    assert largest_batch_size(step, 10**9) == 4_096
    assert largest_batch_size(step, 20) == 1
    assert_equal(before, tensors_of(model, optimizer))


def test_sizes_are_tried_from_the_largest_down_so_that_no_kernel_is_tuned_for_a_tiny_batch():
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= 600

    assert largest_power_of_two(5_000, fits) == 512
    assert tried == [4_096, 2_048, 1_024, 512]
    assert largest_power_of_two(1, fits) == 1
    assert largest_power_of_two(4_096, lambda size: False) == 1


def test_auto_fills_only_a_share_of_the_free_memory(config, monkeypatch):
    config = replace(config, optimizer=replace(config.optimizer, batch_size="auto", total_targets=10**9))
    _, _, step = made(config)
    estimate = estimate_cpu_memory(step, 4_096)
    assert estimate is not None
    # A machine with four times the memory for 300 examples: 256 is the largest power of two.
    monkeypatch.setattr(memory_check, "available_memory_bytes", lambda: int(4 * estimate(300)))
    assert largest_batch_size(step, 10**9) in (128, 256, 512)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert largest_batch_size(step, 10**9) <= 8


def test_available_memory_is_less_than_the_machines_and_falls_with_an_allocation():
    falls = []
    for _ in range(5):  # other processes allocate and free memory as well
        free = available_memory_bytes()
        assert 0 < free <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        # Not from the heap, which keeps what was freed before.
        with PeakHostMemory() as peak, mmap.mmap(-1, 400_000_000) as block:
            np.frombuffer(block, np.uint8).fill(1)
            falls.append(free - available_memory_bytes())
        assert peak.bytes is not None and 380e6 < peak.bytes < 450e6
    assert np.median(falls) > 100e6


TWO_RANKS = """
import json, sys, torch
import torch.distributed as dist
torch.set_num_threads(1)
from datasets.runtime.errors import UserError
from wm.training import memory_check
from wm.config.run_config import RunConfig
from wm.data.synthetic_batch import synthetic_batch
from wm.model.world_model import build_model
from wm.training.optimizer import Optimizer
from wm.training.train_step import TrainStep
from wm.config.typed_yaml import from_plain
rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
config = from_plain(json.loads(sys.argv[3]), RunConfig, "test")
cpu = torch.device("cpu")
ends = []
for is_checked in (False, True):
    torch.manual_seed(0)
    model = build_model(config.model, config.objective.context_frames)
    step = TrainStep(model, Optimizer(model, config), config, cpu)
    if is_checked:
        memory_check.check_memory(step, 8)
    for number in range(3):
        step(synthetic_batch(config, 4, cpu, workers=2), 1e-3, number)
    ends.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
if rank == 1:
    memory_check.available_memory_bytes = lambda: 1_000
try:
    memory_check.check_memory(step, 8)
except UserError as error:
    print(error)
del step, model  # a DistributedDataParallel that outlives its group may abort the process at exit
dist.destroy_process_group()
"""


def test_a_rank_that_has_too_little_memory_stops_all_and_the_check_changes_none(config, tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_RANKS, str(rank), str(tmp_path / "store"), json.dumps(to_plain(config))],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        ends = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(end[1][-2_000:] for end in ends)
    assert ends[0][0] == ends[1][0]
    assert ends[0][0].startswith("an update of 8 examples of 17 frames per worker (")
