"""Checks that the GPU computes what the CPU computes: kernels, updates, cached frames, and no host synchronization.

    PYTHONPATH=.:benchmarks python benchmarks/gpu/gpu_correctness.py [CORPUS] [--tiny]

Errors are relative to the largest value (outputs) or norm (gradients, updates):
- kernels: a block with the Triton kernels against plain torch, as before each training run.
- scan: each backend (triton is mamba-ssm, where installed) against a float64 recurrence, forward and backward, with
  and without an initial state.
- network: each backend and precision against plain torch in float32 on the CPU, outputs and gradients.
- step: the recurrent step, frame by frame, against the sequence pass.
- update: three updates of `wm.training.train_step.TrainStep` in float32 on the device against the CPU.
- graph (CUDA): updates replayed as a CUDA graph against the same in eager mode, on different batches.
- loader: the same batches, bit for bit, from the device cache and from pools.
- synchronization (CUDA): torch raises an error if the host would wait for the device within an update.
Tolerances: float32 products of the kernels are TF32 (10 bits), those of bf16 have 8. Exit code 1 if any is exceeded.
The last line is one JSON object. Without a GPU the checks run on the CPU with the torch backend.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from inputs.synthetic_corpus import synthetic_corpus
from measures.results_file import ResultsFile
from measures.scan_checks import DTYPES, Check, Scene, check_scans, max_error, norm_error
from measures.step_cases import plain_config
from torch import Tensor

from datasets.corpus.reader import open_corpus
from datasets.loading.frames import index_games
from datasets.loading.sequences import SequenceOrder
from datasets.schema.splits import SplitConfig
from wm.config.model_config import ModelConfig
from wm.config.run_config import DataConfig, ObjectiveConfig, RunConfig
from wm.config.shipped import SHIPPED_CONFIGS
from wm.config.typed_yaml import load_yaml
from wm.data.batches import BatchLoader, LocalBatch
from wm.data.synthetic_batch import synthetic_batch
from wm.model.encoding import Frames, controllers
from wm.model.heads import Prediction
from wm.model.precision import autocast
from wm.model.scan_backend import kernel_problem
from wm.model.world_model import Mamba2WorldModel, WorldModel, build_model
from wm.training.compilation import WARM_UP_UPDATES
from wm.training.optimizer import Optimizer
from wm.training.train_step import TrainStep

NETWORK_TOLERANCES = {
    ("torch", "fp32"): 1e-4, ("triton", "fp32"): 1e-2, ("torch", "bf16"): 6e-2, ("triton", "bf16"): 6e-2,
}  # fmt: skip
STEP_TOLERANCES = {"torch": 1e-4, "triton": 5e-3}
UPDATE_TOLERANCE = 2e-2
"""AdamW's first updates are about as large as the learning rate for any gradient, so rounding can change their sign."""
NUM_UPDATES = 3
PERTURBATION = 0.02
"""Standard deviation of noise added to the initial weights, because some weights of the heads start at zero."""
MAX_BATCHES = 40
POOL_FRAMES = 4_000


def base_config(tiny: bool) -> RunConfig:
    """Medium under `sequence`, small where tiny."""
    config = plain_config("mamba2-medium")
    if not tiny:
        return config
    model = ModelConfig(d_model=32, num_layers=2, d_state=8, headdim=16)
    return replace(config, model=model, objective=ObjectiveConfig(sequence_frames=16))


def with_backend(config: RunConfig, backend: str, precision: str) -> RunConfig:
    """The same by another backend, in another precision."""
    model = replace(config.model, scan_backend=backend)  # pyrefly: ignore[bad-argument-type]
    return replace(config, model=model, precision=precision)  # pyrefly: ignore[bad-argument-type]


def perturbed_model(config: RunConfig, device: torch.device) -> WorldModel:
    """A network without zero weights, the same on every device."""
    torch.manual_seed(0)
    model = build_model(config.model, config.objective.context_frames)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(PERTURBATION * torch.randn_like(parameter))
    return model.to(device)


def tensors_of(prediction: Prediction) -> list[Tensor]:
    """All tensors of a prediction."""
    numbers = [prediction.deltas, prediction.velocities, prediction.dynamics, prediction.binaries]
    return [*numbers, *prediction.categories.values()]


def outputs_and_gradients(
    config: RunConfig, device: torch.device, batch: LocalBatch
) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs of the network, and the gradients of a training step with learning rate 0."""
    model = perturbed_model(config, device)
    with torch.no_grad(), autocast(device, config.precision):
        outputs = tensors_of(model(batch.frames))
    TrainStep(model, Optimizer(model, config), config, device)(batch, 0.0, 0)
    return outputs, [p.grad for p in model.parameters() if p.grad is not None]


def check_kernels(scene: Scene) -> Iterator[Check]:
    """What decides before a run whether its scan runs in kernels."""
    if "triton" not in scene.backends:
        return
    for name, precision in itertools.product(["mamba2-medium", "mamba2-large", "mamba2-xl"], DTYPES):
        config = load_yaml(SHIPPED_CONFIGS / f"{name}.yaml", RunConfig)
        problem = kernel_problem(config.model, scene.device, precision, config.objective.example_frames - 1)
        yield Check(name=f"kernels, {name}, {precision}", error=0.0, tolerance=0.0, problem=problem)


def check_networks(scene: Scene) -> Iterator[Check]:
    """Each backend and precision on the device against plain torch in float32 on the CPU."""
    config = base_config(scene.tiny)
    cpu = torch.device("cpu")
    expected = outputs_and_gradients(with_backend(config, "torch", "fp32"), cpu, synthetic_batch(config, 4, cpu))
    batch = synthetic_batch(config, 4, scene.device)
    for backend, precision in itertools.product(scene.backends, DTYPES):
        outputs, gradients = outputs_and_gradients(with_backend(config, backend, precision), scene.device, batch)
        errors = [max_error(found, right) for found, right in zip(outputs, expected[0], strict=True)]
        name, tolerance = f"network, {backend}, {precision}", NETWORK_TOLERANCES[backend, precision]
        yield Check(name=f"{name}, outputs", error=max(errors), tolerance=tolerance)
        yield Check(name=f"{name}, gradients", error=norm_error(gradients, expected[1]), tolerance=tolerance)


def check_steps(scene: Scene) -> Iterator[Check]:
    """The recurrent step against the sequence pass."""
    for backend in scene.backends:
        config = with_backend(base_config(scene.tiny), backend, "fp32")
        model = perturbed_model(config, scene.device)
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
        error = max(max_error(found, right) for found, right in zip(one_by_one, whole, strict=True))
        yield Check(name=f"step, {backend}, fp32", error=error, tolerance=STEP_TOLERANCES[backend])


def updated(config: RunConfig, device: torch.device) -> tuple[list[Tensor], float]:
    """Change of the weights in three updates, and the mean loss."""
    model = perturbed_model(config, device)
    before = copy.deepcopy(list(model.parameters()))
    step = TrainStep(model, Optimizer(model, config), config, device)
    batch = synthetic_batch(config, 4, device)
    for number in range(NUM_UPDATES):
        step(batch, config.optimizer.learning_rate, number)
    return [now - old for now, old in zip(model.parameters(), before, strict=True)], step.synchronize({}).loss


def check_updates(scene: Scene) -> Iterator[Check]:
    """Whole updates in float32 on the device against the CPU: sequences, windows, and accumulated micro-batches."""
    plain = with_backend(base_config(scene.tiny), "torch", "fp32")
    window = replace(plain, objective=replace(plain.objective, kind="window"))
    expected = {id(config): updated(config, torch.device("cpu")) for config in (plain, window)}
    micro = replace(plain, optimizer=replace(plain.optimizer, micro_batch_size=1))
    for name, config, reference in (
        ("sequence", plain, plain),
        ("window", window, window),
        ("micro-batches", micro, plain),
    ):
        changes, loss = updated(config, scene.device)
        right_changes, right_loss = expected[id(reference)]
        yield Check(name=f"update, {name}, loss", error=abs(loss / right_loss - 1), tolerance=1e-4)
        yield Check(
            name=f"update, {name}, weights", error=norm_error(changes, right_changes), tolerance=UPDATE_TOLERANCE
        )


def check_graphs(scene: Scene) -> Iterator[Check]:
    """Updates replayed as a CUDA graph against the same in eager mode."""
    if scene.device.type != "cuda":
        return
    plain = with_backend(base_config(scene.tiny), scene.backends[-1], "fp32")
    augmented = replace(plain, objective=replace(plain.objective, swap_players=True, mirror=True))
    changes = []
    for config in (augmented, replace(augmented, cuda_graph=True)):
        model = perturbed_model(config, scene.device)
        before = copy.deepcopy(list(model.parameters()))
        problems: list[str] = []
        step = TrainStep(model, Optimizer(model, config), config, scene.device, problems.append)
        batch = synthetic_batch(config, 4, scene.device)
        for number in range(2 * WARM_UP_UPDATES):
            shifted = replace(batch.frames, floats=batch.frames.floats + number)
            step(replace(batch, frames=shifted), config.optimizer.learning_rate / (number + 1), number)
        changes.append([now - old for now, old in zip(model.parameters(), before, strict=True)])
        if problems or step.is_captured != config.cuda_graph:
            raise RuntimeError(*problems)
    yield Check(name="graph, weights", error=norm_error(changes[1], changes[0]), tolerance=UPDATE_TOLERANCE)


def loader_of(scene: Scene, config: RunConfig, resident: str) -> BatchLoader:
    """Batches of 8 from several small pools."""
    order = SequenceOrder(
        scene.index, sequence_frames=config.objective.example_frames, stride=config.objective.predictions,
        batch_size=8, seed=0, pool_frames=POOL_FRAMES,
    )  # fmt: skip
    data = DataConfig(device_cache=resident)  # pyrefly: ignore[bad-argument-type]
    return BatchLoader(order, scene.index, scene.device, data=data)


def check_loaders(scene: Scene) -> Iterator[Check]:
    """The same batches from the device cache and from pools."""
    config = base_config(tiny=True)
    different = 0
    with loader_of(scene, config, "always") as resident, loader_of(scene, config, "never") as pools:
        for first, second in itertools.islice(zip(resident, pools, strict=True), MAX_BATCHES):
            pairs = ((first.frames.floats, second.frames.floats), (first.frames.codes, second.frames.codes))
            different += not all(torch.equal(a, b) for a, b in (*pairs, (first.game, second.game)))
    yield Check(name=f"loader, different batches of {MAX_BATCHES}", error=float(different), tolerance=0)


@contextmanager
def no_synchronization() -> Iterator[None]:
    """Torch raises an error if the host would wait for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check_synchronization(scene: Scene) -> Iterator[Check]:
    """Updates, batches included, without host synchronization."""
    if scene.device.type != "cuda":
        return
    plain = base_config(scene.tiny)
    window = replace(plain, objective=replace(plain.objective, kind="window"))
    mlp = load_yaml(SHIPPED_CONFIGS / "mlp.yaml", RunConfig)
    augmented = replace(plain, objective=replace(plain.objective, swap_players=True, mirror=True))
    configs = {"sequence": plain, "window": window, "mlp": mlp, "augmented": augmented}
    for name, config in configs.items():
        model = perturbed_model(config, scene.device)
        step = TrainStep(model, Optimizer(model, config), config, scene.device)
        with loader_of(scene, config, "always") as loader:
            for number in range(NUM_UPDATES):
                step(next(loader), 1e-4, number)
            with no_synchronization():
                for number in range(NUM_UPDATES):
                    step(next(loader), 1e-4, number)
        yield Check(name=f"synchronization, {name}", error=0.0, tolerance=0.0)


CHECKS = (
    check_kernels, check_networks, check_updates, check_graphs, check_scans, check_steps, check_loaders,
    check_synchronization,
)  # fmt: skip


def run_checks(scene: Scene, results: ResultsFile | None = None) -> list[Check]:
    """Run all checks; an exception counts as a wrong check."""
    done: list[Check] = []

    def add(found: Check) -> None:
        done.append(found)
        print(found, flush=True)
        if results is not None:
            results.append("checks" if found.is_right else "wrong", asdict(found))

    for check in CHECKS:
        try:
            for found in check(scene):
                add(found)
        except Exception as error:
            words = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            add(Check(name=check.__name__, error=float("nan"), tolerance=0.0, problem=words))
    return done


def main() -> None:
    """Check everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", type=Path, help="synthetic games where none is named")
    parser.add_argument("--json", type=Path, help="file that holds the results so far at any time")
    parser.add_argument("--tiny", action="store_true", help="small networks, for tests")
    arguments = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    with tempfile.TemporaryDirectory() as scratch:
        corpus = arguments.corpus or synthetic_corpus(Path(scratch), 4, 2_000)
        scene = Scene(
            device=torch.device("cuda" if on_gpu else "cpu"),
            backends=("torch", "triton") if on_gpu and find_spec("triton") else ("torch",),
            tiny=arguments.tiny,
            index=index_games(open_corpus(corpus), "all", SplitConfig()),
        )
        results = ResultsFile(arguments.json, backends=scene.backends)
        done = run_checks(scene, results)
    results.finish()
    wrong = [check.name for check in done if not check.is_right]
    found: dict[str, Any] = {"device": torch.cuda.get_device_name() if on_gpu else "cpu", "backends": scene.backends}
    print(f"{len(done)} checks, {len(wrong)} wrong" + ("" if on_gpu else "; no GPU here: kernels were not checked"))
    print(json.dumps(found | {"checks": len(done), "wrong": wrong}))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
