"""Training speed beside its floor: the bare matrix products of the same step, in the same run.

    python benchmarks/train.py [CORPUS]

The floor multiplies matrices of the step's shapes and precision and does nothing else. A corpus of synthetic games
is made where none is named. Prints a table and one JSON line.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import torch

from datasets.corpus import open_corpus
from datasets.encode import EncodeOptions, encode, encode_in_process
from datasets.frames import index_games
from datasets.sequences import SequenceStream
from datasets.splits import SplitConfig
from datasets.synth import SynthOptions, synthesise
from wm.config import ObjectiveConfig, OptimiserConfig, RunConfig
from wm.encoding import to_frames
from wm.losses import OPTIMISED_WEIGHTS, optimised_parts
from wm.model import ModelConfig, build_model, num_parameters
from wm.optimiser import make_optimiser
from wm.precision import autocast, uses_bf16

NUM_STEPS = 12
ROUNDS = 3
GPU_BATCH = 512


def synthetic_corpus(folder: Path) -> Path:
    """A small corpus of synthetic games, and a word about it."""
    print("no corpus named: 16 synthetic games")
    synthesise(folder / "replays", SynthOptions(num_games=16))
    encode([folder / "replays"], folder / "corpus", EncodeOptions(), encode_in_process)
    return folder / "corpus"


def product_shapes(model: torch.nn.Module) -> list[tuple[int, int]]:
    """(out, in) of every matrix that multiplies each frame's vector."""
    return [(m.out_features, m.in_features) for m in model.modules() if isinstance(m, torch.nn.Linear)]


def floor_seconds(shapes: list[tuple[int, int]], rows: int, device: torch.device, dtype: torch.dtype) -> float:
    """Seconds of a step's matrix products alone: forward, and both gradients."""
    pairs = [
        (torch.randn(rows, wide, device=device, dtype=dtype), torch.randn(tall, wide, device=device, dtype=dtype))
        for tall, wide in shapes
    ]

    def products() -> None:
        for x, weight in pairs:
            y = x @ weight.t()
            _ = y.t() @ x
            _ = y @ weight

    return timed(products, device)


def timed(work, device: torch.device) -> float:
    """Seconds of one call, the best of a few rounds."""
    work()
    best = float("inf")
    for _ in range(ROUNDS):
        synchronise(device)
        started = time.perf_counter()
        for _ in range(NUM_STEPS):
            work()
        synchronise(device)
        best = min(best, (time.perf_counter() - started) / NUM_STEPS)
    return best


def synchronise(device: torch.device) -> None:
    """Wait for the GPU, where there is one."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(corpus: Path) -> dict:
    """Targets a second of the medium model, and of its floor."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    batch_size = GPU_BATCH if device.type == "cuda" else 16
    config = RunConfig(
        model=ModelConfig(), objective=ObjectiveConfig(), optimiser=OptimiserConfig(batch_size=batch_size)
    )
    index = index_games(open_corpus(corpus), "all", SplitConfig())
    batches = iter(SequenceStream(index, sequence_frames=65, stride=64, batch_size=batch_size, seed=0))
    model = build_model(config.model, 10).to(device)
    optimiser = make_optimiser(model, config)

    def step() -> None:
        frames = to_frames(next(batches), device)
        last = frames.num_frames - 1
        with autocast(device, "auto"):
            prediction = model(frames)
        parts = optimised_parts(prediction, frames.slice(0, last), frames.slice(1, last + 1))
        means = [OPTIMISED_WEIGHTS[n] * p.total.sum() / p.count.sum().clamp(min=1) for n, p in parts.items()]
        loss = torch.stack(means).sum()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    targets = batch_size * 64
    dtype = torch.bfloat16 if uses_bf16(device, "auto") else torch.float32
    floor = floor_seconds(product_shapes(model), targets, device, dtype)
    seconds = timed(step, device)
    loading = timed(lambda: next(batches), device)
    flops = 6 * targets * sum(tall * wide for tall, wide in product_shapes(model))
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "precision": str(dtype).removeprefix("torch."),
        "parameters": num_parameters(model),
        "targets_per_s": targets / seconds,
        "floor_targets_per_s": targets / floor,
        "share_of_floor": floor / seconds,
        "loading_share": loading / seconds,
        "floor_gflop_per_s": flops / floor / 1e9,
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(sys.argv[1]) if len(sys.argv) > 1 else synthetic_corpus(Path(folder))
        result = measure(corpus)
    for name, value in result.items():
        print(f"{name:>22}  {value:,.3f}" if isinstance(value, float) else f"{name:>22}  {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
