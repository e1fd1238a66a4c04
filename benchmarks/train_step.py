"""The step alone: forward, backward, clip and optimizer on a batch that lies on the device already.

    python benchmarks/train_step.py [--configs mlp mamba2-medium ...] [--objectives window] [--seconds-per-case 5]
    python benchmarks/train_step.py --cases mamba2-medium:triton:graph:512 ... [--json FILE] [--limit-per-case 60]

For every shipped config, both objectives and both backends (kernels on CUDA alone): targets a second, the share of the
peak of a large square matrix product in the same precision measured just before and after, what crosses between host
and device, and how often the host waits. Operations are counted on paper (`flops.py`). Guards
`wm/training/train_step.py`, `wm/model/mamba2.py`, `wm/model/ops/ssd.py` and `wm/training/optimizer.py`. Prints a table;
the last line is one JSON object, in whose head stands the case of mamba2-medium with the objective `sequence`.

"reads" are operators whose result the host needs: on CUDA each makes it wait, on a CPU they cost nothing (the fused
AdamW reads its step counters there, and the trainer whether the gradient is finite). Speeds are those of the best of
five rounds, as that of the matrix product. Batches are those of the configs; on a CPU large and xl take fewer. Under
`window` a Mamba-2 gets as many frames as under `sequence`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from measures.flops import flops_per_target
from measures.host_traffic import measure_traffic
from measures.results_file import ResultsFile
from measures.step_cases import SHIPPED, Case, batch_of, cases, time_limit

from datasets.runtime.errors import UserError
from datasets.runtime.process.host_memory import PeakHostMemory, raise_malloc_thresholds
from wm.config.run_config import RunConfig
from wm.data.synthetic_batch import synthetic_batch
from wm.model.precision import uses_bf16
from wm.model.world_model import build_model
from wm.training.compilation import should_compile
from wm.training.optimizer import Optimizer
from wm.training.train_step import TrainStep

HEAD_CASE = ("mamba2-medium", "sequence")
WARM_UP_STEPS = 5  # a CUDA graph is captured in the fourth
ROUNDS = 5
MATMUL_SIZE = {"cuda": 8192, "cpu": 2048}
TINY_MATMUL_SIZE = 256
MATMUL_SECONDS, TINY_MATMUL_SECONDS = 0.3, 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One row of the table."""

    config: str
    objective: str
    backend: str
    precision: str
    compiled: bool
    graph: bool
    batch: int
    targets_per_s: float
    flops_per_target: float
    matmul_tflops: float
    share_of_matmul_peak: float
    step_ms: float
    bytes_to_device_per_step: float | None
    """None where the device is the host."""
    bytes_to_host_per_step: float | None
    host_syncs_per_step: float | None
    scalar_reads_per_step: float
    page_faults_per_step: float | None
    """Minor ones; None on CUDA."""
    peak_memory_mb: float | None
    """Of the device's tensors on CUDA; else of the process, beyond what it held before; None where nobody tells."""


def matmul_flops(device: torch.device, dtype: torch.dtype, tiny: bool) -> float:
    """Operations a second of a large square matrix product, the best of a third of a second."""
    size = TINY_MATMUL_SIZE if tiny else MATMUL_SIZE[device.type]
    budget = TINY_MATMUL_SECONDS if tiny else MATMUL_SECONDS
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    repeats = 20 if device.type == "cuda" else 1
    best, started = 0.0, time.perf_counter()
    _ = a @ b
    while time.perf_counter() - started < budget:
        seconds = seconds_of(lambda: a @ b, device, repeats)
        best = max(best, 2 * size**3 / seconds)
    return best


def seconds_of(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Seconds of one call."""
    synchronise(device)
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    synchronise(device)
    return (time.perf_counter() - started) / repeats


def synchronise(device: torch.device) -> None:
    """Wait for the GPU, where there is one."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(case: Case, device: torch.device, arguments: argparse.Namespace) -> Result:
    """One case: speed first, then what crosses between host and device."""
    name, backend, config, asked = case
    dtype = torch.bfloat16 if uses_bf16(device, config.precision) else torch.float32
    before = matmul_flops(device, dtype, arguments.tiny)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    batch = batch_of(name, config, device, asked)
    targets = batch * config.objective.predictions
    with contextlib.nullcontext() if device.type == "cuda" else PeakHostMemory() as host_peak:
        work, compiles = step_of(config, device, batch)
        for _ in range(WARM_UP_STEPS):
            work()
        repeats = max(1, round(arguments.seconds_per_case / ROUNDS / seconds_of(work, device, 1)))
        seconds = min(seconds_of(work, device, repeats) for _ in range(ROUNDS))
    peak = torch.cuda.max_memory_allocated(device) if host_peak is None else host_peak.bytes
    traffic = measure_traffic(work, device)
    matmul = max(before, matmul_flops(device, dtype, arguments.tiny))
    flops = flops_per_target(config)
    return Result(
        config=name,
        objective=config.objective.kind,
        backend="-" if config.model.kind == "mlp" else backend,
        precision=str(dtype).removeprefix("torch."),
        compiled=compiles,
        graph=config.cuda_graph and device.type == "cuda",
        batch=batch,
        targets_per_s=targets / seconds,
        flops_per_target=flops,
        matmul_tflops=matmul / 1e12,
        share_of_matmul_peak=flops * targets / seconds / matmul,
        step_ms=seconds * 1e3,
        bytes_to_device_per_step=traffic.bytes_to_device,
        bytes_to_host_per_step=traffic.bytes_to_host,
        host_syncs_per_step=traffic.host_syncs,
        scalar_reads_per_step=traffic.scalar_reads,
        page_faults_per_step=traffic.page_faults,
        peak_memory_mb=None if peak is None else peak / 1e6,
    )


def step_of(config: RunConfig, device: torch.device, batch: int) -> tuple[Callable[[], None], bool]:
    """A call that makes one update as the trainer does, always on the same share; and whether it is compiled."""
    torch.manual_seed(0)
    model = build_model(config.model, config.objective.context_frames).to(device)
    compiles = should_compile(model, config, device)
    if compiles:
        torch.compiler.reset()  # what was compiled for other cases counts against a limit
        model.compile(dynamic=False)
    step = TrainStep(model, Optimizer(model, config), config, device, _fail)
    share = synthetic_batch(config, batch, device)
    return lambda: step(share, config.optimizer.learning_rate, 0), compiles


def _fail(problem: str) -> None:
    raise RuntimeError(problem)


WIDTHS = {
    "config": 18, "objective": 10, "backend": 8, "dtype": 9, "batch": 6, "targets/s": 12, "MFLOP/t": 9, "of matmul": 10,
    "ms": 9, "to dev B": 10, "to host B": 10, "syncs": 7, "reads": 7, "faults": 8, "peak MB": 9,
}  # fmt: skip
"""Columns of the table; bytes, waits, reads and page faults are those of a step."""


def line(cells: list[str]) -> str:
    """A row of the table, words to the left and figures to the right."""
    return "".join(
        f"{cell:<{width}}" if number < 4 else f"{cell:>{width}}"
        for number, (cell, width) in enumerate(zip(cells, WIDTHS.values(), strict=True))
    )


def cells_of(result: Result) -> list[str]:
    """A case's cells; a dash where a figure does not apply."""
    last = (
        result.bytes_to_device_per_step, result.bytes_to_host_per_step, result.host_syncs_per_step,
        result.scalar_reads_per_step, result.page_faults_per_step, result.peak_memory_mb,
    )  # fmt: skip
    return [
        result.config,
        result.objective,
        result.backend,
        result.precision + ("*" if result.compiled else "") + ("g" if result.graph else ""),
        str(result.batch),
        f"{result.targets_per_s:,.0f}",
        f"{result.flops_per_target / 1e6:.1f}",
        f"{result.share_of_matmul_peak:.1%}",
        f"{result.step_ms:.1f}",
        *("-" if figure is None else f"{figure:,.0f}" for figure in last),
    ]


def head_of(results: list[Result]) -> Result:
    """The case that stands for the run: medium under `sequence`, the backend of `auto`, compiled on a CPU."""
    chosen = [result for result in results if (result.config, result.objective) == HEAD_CASE]
    return (chosen or results)[-1]


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def main() -> None:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", nargs="+", choices=SHIPPED, default=list(SHIPPED))
    parser.add_argument("--objectives", nargs="+", choices=["sequence", "window"], default=["sequence", "window"])
    parser.add_argument("--backends", nargs="+", choices=["torch", "triton"], help="default: what can run here")
    parser.add_argument("--seconds-per-case", type=float, default=5.0)
    parser.add_argument(
        "--batch", type=int, help="sequences in a batch, or windows of as many frames; default: the config's"
    )
    parser.add_argument(
        "--compile", choices=["never", "always"], help="default: both for sequences on a CPU, else never"
    )
    parser.add_argument("--cases", nargs="+", help="CONFIG:BACKEND:MODE:BATCH instead; one that fails is reported")
    parser.add_argument("--limit-per-case", type=float, help="seconds after which a case fails")
    parser.add_argument("--json", type=Path, help="file that holds the results so far at any time")
    parser.add_argument("--most-seconds", type=float, help="start no further case after this many seconds")
    parser.add_argument("--tiny", action="store_true", help="small models and batches, for tests")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.seconds_per_case = 0.0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    has_triton = device.type == "cuda" and importlib.util.find_spec("triton") is not None
    backends = arguments.backends or (["torch", "triton"] if has_triton else ["torch"])
    modes = ["compiled" if arguments.compile == "always" else "eager"]
    if device.type == "cpu":
        raise_malloc_thresholds()  # as the trainer does
        if arguments.compile is None and not arguments.tiny:
            modes = ["eager", "compiled"]
    results, skipped, started = [], 0, time.monotonic()
    file = ResultsFile(arguments.json)
    print(line(list(WIDTHS)))
    for case in cases(arguments, backends, modes):
        if arguments.most_seconds is not None and time.monotonic() - started > arguments.most_seconds and results:
            skipped += 1
            continue
        try:
            with time_limit(arguments.limit_per_case):
                results.append(measure(case, device, arguments))
        except (RuntimeError, TimeoutError, UserError) as error:
            if not arguments.cases:
                raise
            name, backend, config, batch = case
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
            print(
                f"{name} {backend} batch {batch} compile {config.compile} graph {config.cuda_graph}: {reason}",
                flush=True,
            )
            file.append("failed", {"config": name, "backend": backend, "batch": batch, "reason": reason})
        else:
            print(line(cells_of(results[-1])), flush=True)
            file.append("cases", asdict(results[-1]))
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print("* compiled, g CUDA graph; MFLOP/t: of a target; bytes, syncs, reads and page faults: of a step")
    if skipped:
        print(f"{skipped} cases were not measured: {arguments.most_seconds:.0f} s were over")
    file.finish()
    if not results:
        raise SystemExit("no case could be measured")
    head = asdict(head_of(results))
    names = (
        "config",
        "objective",
        "backend",
        "precision",
        "compiled",
        "targets_per_s",
        "flops_per_target",
        "share_of_matmul_peak",
    )
    found: dict[str, Any] = {"device": device_name(device), "matmul_tflops": head["matmul_tflops"]}
    found |= {name: head[name] for name in names}
    print(json.dumps(found | {"tiny": arguments.tiny, "cases": [asdict(result) for result in results]}))


if __name__ == "__main__":
    main()
