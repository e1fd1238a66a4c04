"""The dry step: out of memory shows before the data starts, and nothing is left of it but that."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_runs import tiny_run

from datasets.loading.frames import GameIndex
from datasets.runtime.errors import UserError
from wm.config.model_config import ModelConfig
from wm.config.run_config import ObjectiveConfig, OptimizerConfig, RunConfig
from wm.config.typed_yaml import to_plain
from wm.data.synthetic_batch import made_up_share
from wm.model.encoding import Frames, category, controllers
from wm.model.world_model import build_model
from wm.training import memory_check as room
from wm.training.host_memory import PeakOfHost, available_bytes
from wm.training.memory_check import dry_step, largest_batch
from wm.training.optimizer import Optimizer
from wm.training.train_step import Step

CPU = torch.device("cpu")
DEVICES = [
    CPU,
    pytest.param(torch.device("cuda"), marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA")),
]


@pytest.fixture
def config(tmp_path) -> RunConfig:
    return tiny_run(Path("no corpus is needed"), tmp_path / "run")


@pytest.fixture(autouse=True)
def plain_kernels():
    """Equal sums in equal runs, also on a GPU."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def made(config: RunConfig, device: torch.device = CPU) -> tuple[torch.nn.Module, Optimizer, Step]:
    torch.manual_seed(0)
    model = build_model(config.model, config.objective.context_frames).to(device)
    optimizer = Optimizer(model, config)
    return model, optimizer, Step(model, optimizer, config, device)


def tensors_of(model: torch.nn.Module, optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """Weights and moments, copied."""
    found = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for part, state in enumerate(optimizer.state_dict()["parts"]):
        for number, moments in state["state"].items():
            found |= {f"{part}.{number}.{name}": tensor.clone() for name, tensor in moments.items()}
    return found


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
def test_training_after_a_dry_step_is_bit_for_bit_training_without_one(config, variant, updates_before, device):
    config = variant(config)
    outcomes = []
    for is_dry in (False, True):
        model, optimizer, step = made(config, device)
        for number in range(updates_before):
            step(made_up_share(config, 4, device), 1e-3, number)
        before = tensors_of(model, optimizer), copy.deepcopy(optimizer.state_dict()), torch.get_rng_state()
        if is_dry:
            dry_step(step, config, 8)
            assert_equal(before[0], tensors_of(model, optimizer))
            assert [part["param_groups"] for part in before[1]["parts"]] == [
                part["param_groups"] for part in optimizer.state_dict()["parts"]
            ]
            assert torch.equal(before[2], torch.get_rng_state())
            assert all(parameter.grad is None for parameter in model.parameters())
            assert step.read({}).num_steps == 0
        for number in range(updates_before, updates_before + 3):
            step(made_up_share(config, 5, device), 1e-3, number)
        outcomes.append((tensors_of(model, optimizer), torch.rand(3), step.read({}).loss))
    assert_equal(outcomes[0][0], outcomes[1][0])
    assert torch.equal(outcomes[0][1], outcomes[1][1])
    if updates_before == 0:
        assert outcomes[0][2] == outcomes[1][2]


def test_the_dry_step_is_an_update_of_the_full_batch_in_its_micro_batches(config, monkeypatch):
    config = replace(config, optimizer=replace(config.optimizer, micro_batch_size=5))
    _, _, step = made(config)
    seen: list[tuple[int, int]] = []
    accumulate = step._accumulate

    def look(frames: Frames, factors: torch.Tensor) -> None:
        seen.append((frames.floats.shape[0], frames.num_frames))
        accumulate(frames, factors)

    monkeypatch.setattr(step, "_accumulate", look)
    dry_step(step, config, 23)
    assert seen[-5:] == [(5, 17)] * 4 + [(3, 17)]
    assert max(examples for examples, _ in seen) == 5


def test_made_up_frames_are_of_the_shapes_types_and_ranges_of_real_ones(config):
    share = made_up_share(config, 6, CPU, workers=3)
    again = made_up_share(config, 6, CPU, workers=3)
    assert share.frames.floats.shape[:3] == (6, 17, 2) and share.frames.floats.dtype == torch.float32
    assert share.frames.codes.shape[:3] == (6, 17, 2) and share.frames.codes.dtype == torch.int16
    assert share.game.shape == (18, share.frames.game.shape[1]) and share.game.dtype == torch.int16
    assert share.num_examples == 18
    assert torch.equal(share.frames.codes, again.frames.codes) and torch.equal(share.frames.floats, again.frames.floats)
    sticks = controllers(share.frames)
    assert float(sticks.min()) >= 0 and float(sticks.max()) <= 1
    action = share.frames.code_column("action")
    assert torch.equal(action, category(share.frames, "action"))  # nothing had to be clamped
    assert len(action.unique()) > 50


def test_a_batch_that_memory_does_not_hold_is_refused_in_one_line_before_it_is_tried(config):
    examples = int(1e12) // 10_000
    config = replace(config, optimizer=replace(config.optimizer, batch_size=examples))
    _, _, step = made(config)
    with pytest.raises(UserError) as refusal, PeakOfHost() as peak:
        dry_step(step, config, examples)
    message = str(refusal.value)
    assert "\n" not in message
    assert message.startswith("an update of 100,000,000 examples of 17 frames a worker (0.1 M parameters, fp32) needs")
    assert "GB of memory are free" in message
    assert message.endswith("or a smaller optimizer.batch_size or optimizer.batch_size: auto")
    assert peak.bytes is not None and peak.bytes < 2e9


def test_the_frames_need_their_place_beside_the_step(config):
    _, _, step = made(config)
    free = available_bytes()
    dry_step(step, config, 4, reserved_bytes=free // 2)
    with pytest.raises(UserError, match=r"4 examples .* 0\.0 GB .* free .* use data.device_cache: never or a smaller"):
        dry_step(step, config, 4, reserved_bytes=2 * free)
    assert largest_batch(step, config, games(10**9), CPU, reserved_bytes=2 * free) == 1


def test_a_micro_batch_makes_the_same_batch_fit(config):
    _, _, step = made(config)
    whole = room._measure(step, config, 4_096)
    config = replace(config, optimizer=replace(config.optimizer, micro_batch_size=32))
    _, _, step = made(config)
    parts = room._measure(step, config, 4_096)
    assert whole is not None and parts is not None
    assert parts.bytes_of(4_096) < 0.2 * whole.bytes_of(4_096)


MEASURE = """
import json, sys, torch
torch.set_num_threads(1)
from pathlib import Path
from wm.config.run_config import RunConfig
from wm.training.memory_check import _measure, _peak
from wm.model.world_model import build_model
from wm.training.optimizer import Optimizer
from wm.training.train_step import Step
from wm.config.typed_yaml import from_plain
config = from_plain(json.loads(sys.argv[1]), RunConfig, "test")
model = build_model(config.model, config.objective.context_frames)
step = Step(model, Optimizer(model, config), config, torch.device("cpu"))
needs = _measure(step, config, int(sys.argv[2]))
print(json.dumps([needs.bytes_of(int(sys.argv[2])), _peak(step, config, int(sys.argv[2]))]))
"""


@pytest.mark.parametrize("micro_batch_size", [None, 32])
def test_what_a_full_step_takes_is_foretold_from_small_ones(config, micro_batch_size):
    config = replace(
        config,
        model=ModelConfig(d_model=256, num_layers=2, scan_backend="torch"),
        objective=ObjectiveConfig(sequence_frames=32),
        optimizer=OptimizerConfig(micro_batch_size=micro_batch_size),
    )
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, json.dumps(to_plain(config)), "128"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    foretold, taken = json.loads(done.stdout)
    assert 0.9 * taken < foretold < 2 * taken


REFUSED = """
import json, resource, sys, torch
torch.set_num_threads(1)
from datasets.runtime.errors import UserError
from wm.config.run_config import RunConfig
from wm.training.memory_check import dry_step
from wm.model.world_model import build_model
from wm.training.optimizer import Optimizer
from wm.training.train_step import Step
from wm.config.typed_yaml import from_plain
config = from_plain(json.loads(sys.argv[1]), RunConfig, "test")
model = build_model(config.model, config.objective.context_frames)
step = Step(model, Optimizer(model, config), config, torch.device("cpu"))
dry_step(step, config, 2)
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 200_000_000, resource.RLIM_INFINITY))
try:
    dry_step(step, config, 2_000)
except UserError as error:
    print(error)
dry_step(step, config, 2)
print("and on")
"""


def test_a_step_that_the_system_refuses_memory_is_a_users_error_and_leaves_a_sound_process(config):
    config = replace(config, model=ModelConfig(d_model=64, num_layers=2, scan_backend="torch"))
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, json.dumps(to_plain(config))],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    said = done.stdout.splitlines()
    assert said[1:] == ["and on"]
    assert said[0].startswith("an update of 2,000 examples of 17 frames a worker (")
    assert "was refused memory" in said[0]


def test_an_error_that_is_not_about_memory_is_raised_as_itself(config, monkeypatch):
    _, _, step = made(config)

    def broken(*_: object) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(step, "_accumulate", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        dry_step(step, config, 4)


def games(num_frames: int) -> GameIndex:
    """An index of which only the number of frames is asked."""
    nothing = np.zeros(1)
    return GameIndex(
        corpus=None,  # pyrefly: ignore
        game_ids=nothing, num_frames=np.array([num_frames]), shards=nothing, row_groups=nothing,
        first_rows=nothing, characters=nothing, facts=nothing,
    )  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
def test_auto_takes_the_largest_power_of_two_that_leaves_an_epoch_its_updates(config, device):
    config = replace(config, optimizer=replace(config.optimizer, batch_size="auto"))
    model, optimizer, step = made(config, device)
    before = tensors_of(model, optimizer)
    examples = 64 * 50
    assert largest_batch(step, config, games(examples * 16), device) == 32
    assert largest_batch(step, config, games(10**9), device) == 4_096
    assert largest_batch(step, config, games(20), device) == 1
    assert_equal(before, tensors_of(model, optimizer))


def test_auto_takes_no_more_than_a_part_of_the_free_memory(config, monkeypatch):
    config = replace(config, optimizer=replace(config.optimizer, batch_size="auto"))
    _, _, step = made(config)
    needs = room._measure(step, config, 4_096)
    assert needs is not None
    # A machine with four times what 300 examples need: 256 are the largest power of two.
    monkeypatch.setattr(room, "available_bytes", lambda: int(4 * needs.bytes_of(300)))
    assert largest_batch(step, config, games(10**9), CPU) in (128, 256, 512)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "64")
    assert largest_batch(step, config, games(10**9), CPU) <= 8


def test_free_memory_is_less_than_the_machines_and_falls_when_it_is_taken():
    free = available_bytes()
    assert 0 < free <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with PeakOfHost() as peak:
        block = np.ones(50_000_000)
        held = available_bytes()
        del block
    assert peak.bytes is not None and 380e6 < peak.bytes < 450e6
    assert free - held > 100e6


TWO_RANKS = """
import json, sys, torch
import torch.distributed as dist
torch.set_num_threads(1)
from datasets.runtime.errors import UserError
from wm.training import memory_check as room
from wm.config.run_config import RunConfig
from wm.data.synthetic_batch import made_up_share
from wm.model.world_model import build_model
from wm.training.optimizer import Optimizer
from wm.training.train_step import Step
from wm.config.typed_yaml import from_plain
rank, meeting = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
config = from_plain(json.loads(sys.argv[3]), RunConfig, "test")
cpu = torch.device("cpu")
ends = []
for is_dry in (False, True):
    torch.manual_seed(0)
    model = build_model(config.model, config.objective.context_frames)
    step = Step(model, Optimizer(model, config), config, cpu)
    if is_dry:
        room.dry_step(step, config, 8)
    for number in range(3):
        step(made_up_share(config, 4, cpu, workers=2), 1e-3, number)
    ends.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())
if rank == 1:
    room.available_bytes = lambda: 1_000
try:
    room.dry_step(step, config, 8)
except UserError as error:
    print(error)
del step, model  # a DistributedDataParallel that outlives its group now and then aborts the process at its end
dist.destroy_process_group()
"""


def test_a_rank_that_has_too_little_memory_stops_all_and_a_dry_step_changes_none(config, tmp_path):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_RANKS, str(rank), str(tmp_path / "meeting"), json.dumps(to_plain(config))],
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
    assert ends[0][0].startswith("an update of 8 examples of 17 frames a worker (")
