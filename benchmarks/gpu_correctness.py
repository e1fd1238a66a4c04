"""Whether this device computes what the CPU computes: kernels, whole updates, frames held on it, and no waiting.

    python benchmarks/gpu_correctness.py [CORPUS] [--tiny]

Errors are differences over the largest value (outputs) or norms of differences over norms (gradients, updates):
- scan: each backend against a float64 recurrence, forward and backward, with and without an initial state.
- network: each backend and precision against plain torch in float32 on the CPU, outputs and gradients.
- step: frames one by one, with a state, against the sequence pass.
- update: three updates of `wm.training.train_step.TrainStep` in float32 on the device against the CPU.
- feed: the same batches, bit for bit, from frames held on the device and from pools.
- waiting (CUDA alone): torch raises an error wherever the host would wait for the device within an update.
Tolerances: float32 products of the kernels are TF32 (10 bits), those of bf16 have 8. Exit code 1 where any is missed.
The last line is one JSON object. Without a GPU the same runs on the CPU, with the plain backend alone.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from inputs.synthetic_corpus import synthetic_corpus
from torch import Tensor
from torch.nn import functional as F

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import GameIndex, index_games
from datasets.loading.sequences import SequenceOrder
from datasets.schema.splits import SplitConfig
from wm.config.model_config import ModelConfig
from wm.config.run_config import DataConfig, ObjectiveConfig, RunConfig
from wm.config.shipped import SHIPPED_CONFIGS
from wm.config.typed_yaml import load_yaml
from wm.data.batches import BatchLoader, LocalBatch
from wm.data.synthetic_batch import synthetic_batch
from wm.model import ssd, ssd_triton
from wm.model.encoding import Frames, controllers
from wm.model.heads import Prediction
from wm.model.precision import autocast
from wm.model.world_model import Mamba2WorldModel, WorldModel, build_model
from wm.training.optimizer import Optimizer
from wm.training.train_step import TrainStep

SCAN_FRAMES = (10, 64, 100)
SCAN_TOLERANCES = {
    ("torch", "fp32"): 1e-4,
    ("triton", "fp32"): 5e-3,
    ("torch", "bf16"): 3e-2,
    ("triton", "bf16"): 3e-2,
}
NETWORK_TOLERANCES = {
    ("torch", "fp32"): 1e-4, ("triton", "fp32"): 1e-2, ("torch", "bf16"): 6e-2, ("triton", "bf16"): 6e-2,
}  # fmt: skip
STEP_TOLERANCES = {"torch": 1e-4, "triton": 5e-3}
UPDATE_TOLERANCE = 2e-2
"""AdamW's first updates have nearly the size of the rate however small the gradient, so that rounding turns some."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
NUM_UPDATES = 3
NUDGE = 0.02
"""Standard deviation of what is added to the first weights: the heads' own are partly zero."""
MAX_BATCHES = 40
POOL_FRAMES = 4_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One comparison; `problem` is set where it could not be made."""

    name: str
    error: float
    tolerance: float
    problem: str | None = None

    @property
    def is_right(self) -> bool:
        """A difference that is not a number is none that fits."""
        return self.problem is None and self.error <= self.tolerance

    def __str__(self) -> str:
        found = self.problem or f"{self.error:9.1e}  (at most {self.tolerance:.0e})"
        return f"{'right' if self.is_right else 'WRONG':<7}{self.name:<52}{found}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What all checks share."""

    device: torch.device
    backends: tuple[str, ...]
    tiny: bool
    index: GameIndex


def apart(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest value."""
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))


def norm_apart(found: list[Tensor], expected: list[Tensor]) -> float:
    """Norm of the difference over the norm."""
    found, expected = ([t.detach().double().cpu() for t in tensors] for tensors in (found, expected))
    difference = sum(float((f - e).square().sum()) for f, e in zip(found, expected, strict=True))
    return (difference / max(1e-300, sum(float(e.square().sum()) for e in expected))) ** 0.5


def recurrence(x_BTHD, dt_BTH, a_H, b_BTN, c_BTN, state_BHDN=None, return_state=True):
    """The scan's definition, a frame at a time (Dao and Gu 2024, equation 1); the slow twin of `wm.model.ssd.scan`."""
    num_games, num_frames, num_heads, width = x_BTHD.shape
    state = x_BTHD.new_zeros(num_games, num_heads, width, b_BTN.shape[-1]) if state_BHDN is None else state_BHDN
    outputs = []
    for t in range(num_frames):
        decay = (dt_BTH[:, t] * a_H).exp()[..., None, None]
        state = decay * state + torch.einsum("bhd,bh,bn->bhdn", x_BTHD[:, t], dt_BTH[:, t], b_BTN[:, t])
        outputs.append(torch.einsum("bhdn,bn->bhd", state, c_BTN[:, t]))
    return torch.stack(outputs, dim=1), state


def scan_inputs(num_frames: int, with_state: bool, dtype: torch.dtype, tiny: bool) -> list[Tensor]:
    """x, dt, A, B, C and the state before, on the CPU, float64 values that `dtype` (of x, B, C) holds exactly."""
    random = torch.Generator().manual_seed(num_frames)
    heads, width, states = (2, 16, 16) if tiny else (6, 64, 64)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    x, b, c = normal(2, num_frames, heads, width), normal(2, num_frames, states), normal(2, num_frames, states)
    inputs = [x.to(dtype), F.softplus(normal(2, num_frames, heads) - 2), -normal(heads).exp(), b.to(dtype), c.to(dtype)]
    return [tensor.double() for tensor in (*inputs, *([normal(2, heads, width, states)] if with_state else []))]


def scanned(scan: Callable, inputs: list[Tensor], weights: tuple[Tensor, Tensor]) -> list[Tensor]:
    """y, the state after, and the gradients of all inputs."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    y, state = scan(*leaves, return_state=True)
    ((y.double() * weights[0].to(y.device)).sum() + (state.double() * weights[1].to(y.device)).sum()).backward()
    return [y, state, *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def check_scans(scene: Scene) -> Iterator[Check]:
    """Each backend's scan against the recurrence."""
    for num_frames, with_state, precision in itertools.product(SCAN_FRAMES, (False, True), DTYPES):
        dtype = DTYPES[precision]
        inputs = scan_inputs(num_frames, with_state, dtype, scene.tiny)
        random = torch.Generator().manual_seed(1)
        x, b = inputs[0], inputs[3]
        state_shape = x.shape[0], x.shape[2], x.shape[3], b.shape[-1]
        weights = torch.randn(x.shape, generator=random).double(), torch.randn(state_shape, generator=random).double()
        expected = scanned(recurrence, inputs, weights)
        types = [dtype, torch.float32, torch.float32, dtype, dtype, torch.float32]
        cast = [t.to(scene.device, kind) for t, kind in zip(inputs, types, strict=False)]
        for backend in scene.backends:
            found = scanned(ssd_triton.scan if backend == "triton" else ssd.scan, cast, weights)
            yield Check(
                name=f"scan, {backend}, {precision}, {num_frames} frames{' after a state' if with_state else ''}",
                error=max(apart(f, e) for f, e in zip(found, expected, strict=True)),
                tolerance=SCAN_TOLERANCES[backend, precision],
            )


def base_config(tiny: bool) -> RunConfig:
    """Medium under `sequence`, small where tiny."""
    config = load_yaml(SHIPPED_CONFIGS / "mamba2-medium.yaml", RunConfig)
    if not tiny:
        return config
    model = ModelConfig(d_model=32, num_layers=2, d_state=8, headdim=16)
    return replace(config, model=model, objective=ObjectiveConfig(sequence_frames=16))


def with_backend(config: RunConfig, backend: str, precision: str) -> RunConfig:
    """The same by another backend, in another precision."""
    model = replace(config.model, scan_backend=backend)  # pyrefly: ignore[bad-argument-type]
    return replace(config, model=model, precision=precision)  # pyrefly: ignore[bad-argument-type]


def nudged_model(config: RunConfig, device: torch.device) -> WorldModel:
    """A network whose weights are all away from zero, the same on every device."""
    torch.manual_seed(0)
    model = build_model(config.model, config.objective.context_frames)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(NUDGE * torch.randn_like(parameter))
    return model.to(device)


def tensors_of(prediction: Prediction) -> list[Tensor]:
    """Everything a prediction says."""
    numbers = [prediction.deltas, prediction.velocities, prediction.dynamics, prediction.binaries]
    return [*numbers, *prediction.categories.values()]


def passed(config: RunConfig, device: torch.device, share: LocalBatch) -> tuple[list[Tensor], list[Tensor]]:
    """What a network says of a share, and its gradients: an update at rate 0."""
    model = nudged_model(config, device)
    with torch.no_grad(), autocast(device, config.precision):
        said = tensors_of(model(share.frames))
    TrainStep(model, Optimizer(model, config), config, device)(share, 0.0, 0)
    return said, [p.grad for p in model.parameters() if p.grad is not None]


def check_networks(scene: Scene) -> Iterator[Check]:
    """Each backend and precision on the device against plain torch in float32 on the CPU."""
    config = base_config(scene.tiny)
    cpu = torch.device("cpu")
    expected = passed(with_backend(config, "torch", "fp32"), cpu, synthetic_batch(config, 4, cpu))
    share = synthetic_batch(config, 4, scene.device)
    for backend, precision in itertools.product(scene.backends, DTYPES):
        said, gradients = passed(with_backend(config, backend, precision), scene.device, share)
        errors = [apart(found, right) for found, right in zip(said, expected[0], strict=True)]
        name, tolerance = f"network, {backend}, {precision}", NETWORK_TOLERANCES[backend, precision]
        yield Check(name=f"{name}, outputs", error=max(errors), tolerance=tolerance)
        yield Check(name=f"{name}, gradients", error=norm_apart(gradients, expected[1]), tolerance=tolerance)


def check_steps(scene: Scene) -> Iterator[Check]:
    """Frames one by one against the sequence pass."""
    for backend in scene.backends:
        config = with_backend(base_config(scene.tiny), backend, "fp32")
        model = nudged_model(config, scene.device)
        assert isinstance(model, Mamba2WorldModel)
        frames = synthetic_batch(config, 2, scene.device).frames
        with torch.no_grad():
            whole = tensors_of(model(frames))
            state, parts = None, []
            for t in range(frames.num_frames - 1):
                following: Frames = frames.slice(t + 1, t + 2)
                prediction, state = model.step(state, frames.slice(t, t + 1), controllers(following))
                parts.append(tensors_of(prediction))
        one_by_one = [torch.cat(steps, dim=1) for steps in zip(*parts, strict=True)]
        error = max(apart(found, right) for found, right in zip(one_by_one, whole, strict=True))
        yield Check(name=f"step, {backend}, fp32", error=error, tolerance=STEP_TOLERANCES[backend])


def updated(config: RunConfig, device: torch.device) -> tuple[list[Tensor], float]:
    """What three updates change of the weights, and the mean loss."""
    model = nudged_model(config, device)
    before = copy.deepcopy(list(model.parameters()))
    step = TrainStep(model, Optimizer(model, config), config, device)
    share = synthetic_batch(config, 4, device)
    for number in range(NUM_UPDATES):
        step(share, config.optimizer.learning_rate, number)
    return [now - old for now, old in zip(model.parameters(), before, strict=True)], step.synchronize({}).loss


def check_updates(scene: Scene) -> Iterator[Check]:
    """Whole updates in float32 on the device against the CPU: sequences, windows, and accumulated micro-batches."""
    plain = with_backend(base_config(scene.tiny), "torch", "fp32")
    window = replace(plain, objective=replace(plain.objective, kind="window"))
    expected = {id(config): updated(config, torch.device("cpu")) for config in (plain, window)}
    micro = replace(plain, optimizer=replace(plain.optimizer, micro_batch_size=1))
    for name, config, twin in (("sequence", plain, plain), ("window", window, window), ("micro-batches", micro, plain)):
        changes, loss = updated(config, scene.device)
        right_changes, right_loss = expected[id(twin)]
        yield Check(name=f"update, {name}, loss", error=abs(loss / right_loss - 1), tolerance=1e-4)
        yield Check(
            name=f"update, {name}, weights", error=norm_apart(changes, right_changes), tolerance=UPDATE_TOLERANCE
        )


def feed_of(scene: Scene, config: RunConfig, resident: str) -> BatchLoader:
    """Batches of 8, from pools that are small, so that a few are passed."""
    order = SequenceOrder(
        scene.index, sequence_frames=config.objective.example_frames, stride=config.objective.predictions,
        batch_size=8, seed=0, pool_frames=POOL_FRAMES,
    )  # fmt: skip
    data = DataConfig(device_cache=resident)  # pyrefly: ignore[bad-argument-type]
    return BatchLoader(order, scene.index, scene.device, data=data)


def check_feeds(scene: Scene) -> Iterator[Check]:
    """The same batches from frames on the device and from pools."""
    config = base_config(tiny=True)
    different = 0
    with feed_of(scene, config, "always") as resident, feed_of(scene, config, "never") as pools:
        for first, second in itertools.islice(zip(resident, pools, strict=True), MAX_BATCHES):
            pairs = ((first.frames.floats, second.frames.floats), (first.frames.codes, second.frames.codes))
            different += not all(torch.equal(a, b) for a, b in (*pairs, (first.game, second.game)))
    yield Check(name=f"feed, {MAX_BATCHES} batches that differ", error=float(different), tolerance=0)


@contextmanager
def no_waiting() -> Iterator[None]:
    """Torch raises wherever the host would wait for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check_waiting(scene: Scene) -> Iterator[Check]:
    """Updates, each with its batch from the feed, in which the host never waits."""
    if scene.device.type != "cuda":
        return
    plain = base_config(scene.tiny)
    window = replace(plain, objective=replace(plain.objective, kind="window"))
    mlp = load_yaml(SHIPPED_CONFIGS / "mlp.yaml", RunConfig)
    augmented = replace(plain, objective=replace(plain.objective, swap_players=True, mirror=True))
    configs = {"sequence": plain, "window": window, "mlp": mlp, "augmented": augmented}
    for name, config in configs.items():
        model = nudged_model(config, scene.device)
        step = TrainStep(model, Optimizer(model, config), config, scene.device)
        with feed_of(scene, config, "always") as feed:
            for number in range(NUM_UPDATES):
                step(next(feed), 1e-4, number)
            with no_waiting():
                for number in range(NUM_UPDATES):
                    step(next(feed), 1e-4, number)
        yield Check(name=f"waiting, {name}", error=0.0, tolerance=0.0)


CHECKS = (check_scans, check_networks, check_steps, check_updates, check_feeds, check_waiting)


def run_checks(scene: Scene) -> list[Check]:
    """All of them; one that fails with an exception is wrong, and the next goes on."""
    done = []
    for check in CHECKS:
        try:
            for found in check(scene):
                done.append(found)
                print(found, flush=True)
        except Exception as error:
            words = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            done.append(Check(name=check.__name__, error=float("nan"), tolerance=0.0, problem=words))
            print(done[-1], flush=True)
    return done


def main() -> None:
    """Check everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", type=Path, help="synthetic games where none is named")
    parser.add_argument("--tiny", action="store_true", help="small networks, for tests")
    arguments = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    with tempfile.TemporaryDirectory() as scratch:
        corpus = arguments.corpus or synthetic_corpus(Path(scratch), 4, 2_000)
        scene = Scene(
            device=torch.device("cuda" if on_gpu else "cpu"),
            backends=("torch", "triton") if on_gpu and ssd_triton.available() else ("torch",),
            tiny=arguments.tiny,
            index=index_games(open_corpus(corpus), "all", SplitConfig()),
        )
        done = run_checks(scene)
    wrong = [check.name for check in done if not check.is_right]
    found: dict[str, Any] = {"device": torch.cuda.get_device_name() if on_gpu else "cpu", "backends": scene.backends}
    print(f"{len(done)} checks, {len(wrong)} wrong" + ("" if on_gpu else "; no GPU here: kernels were not checked"))
    print(json.dumps(found | {"checks": len(done), "wrong": wrong}))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
