"""Where the time of an update goes: by group of kernels, the host's share, launches, and the share of the peak.

    PYTHONPATH=.:benchmarks python benchmarks/gpu/step_profile.py [--batch 512] [--modes eager graph]

Prints, for each mode, milliseconds per update: wall-clock time, time in kernels by group, time that the host takes to
launch the update, and the longest kernels. On a CPU the groups are of operators. Guards `wm/model/` on CUDA.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from measures.flops import flops_per_target
from measures.results_file import ResultsFile
from measures.step_cases import MODES, config_of_mode, plain_config, smaller
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from train_step import matmul_flops, seconds_of, step_of, synchronise

from wm.config.run_config import RunConfig
from wm.model.precision import uses_bf16

NUM_STEPS = 5
NUM_LONGEST = 25
GROUPS = (
    ("scan", r"scan_(for|back)ward|_chunk_|_state_passing|_bmm_chunk"),
    ("convolution", r"conv_silu|conv1d"),
    ("matrix products", r"gemm|cutlass|cublas|nvjet|wgmma|xmma|aten::(mm|bmm|addmm)$|splitK"),
    ("optimizer", r"adam|multi_tensor|lpnorm"),
    ("compiled", r"^triton_|CompiledFxGraph"),
    ("copies", r"[Mm]emcpy|[Mm]emset|copy|CatArray|aten::(copy_|cat|fill_|zero_)$"),
    ("look-ups", r"index|gather|scatter|embedding|[Rr]adix|[Ss]ort"),
    ("reductions", r"reduce|norm|softmax|aten::(sum|mean|max|argmax)"),
    ("element-wise", r"elementwise|vectorized|unrolled|aten::"),
)
"""Group of kernels -> pattern of their names; the first that matches counts."""


def group_of(name: str) -> str:
    """The group of a kernel or operator."""
    return next((group for group, pattern in GROUPS if re.search(pattern, name)), "other")


def profiled(config: RunConfig, device: torch.device, batch: int, tiny: bool) -> dict[str, Any]:
    """One mode of one config."""
    work, _ = step_of(config, device, batch)
    for _ in range(6):  # compilation, and the capture of the graph
        work()
    wall = min(seconds_of(work, device, NUM_STEPS) for _ in range(3))
    synchronise(device)
    started = time.perf_counter()
    for _ in range(NUM_STEPS):
        work()
    host = (time.perf_counter() - started) / NUM_STEPS
    on_cuda = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]) as found:
        for _ in range(NUM_STEPS):
            work()
        synchronise(device)
    times: Counter[str] = Counter()
    launches = 0
    for event in found.key_averages():
        if on_cuda != (event.device_type == DeviceType.CUDA):
            continue
        times[event.key] += (event.self_device_time_total if on_cuda else event.self_cpu_time_total) / NUM_STEPS / 1e3
        launches += event.count / NUM_STEPS
    groups: Counter[str] = Counter()
    for name, milliseconds in times.items():
        groups[group_of(name)] += milliseconds
    dtype = torch.bfloat16 if uses_bf16(device, config.precision) else torch.float32
    flops = flops_per_target(config) * batch * config.objective.predictions
    return {
        "batch": batch,
        "targets_per_s": batch * config.objective.predictions / wall,
        "wall_ms": wall * 1e3,
        "host_ms": host * 1e3,
        "kernels_ms": sum(times.values()),
        "launches": launches,
        "tflops": flops / wall / 1e12,
        "share_of_matmul_peak": flops / wall / matmul_flops(device, dtype, tiny),
        "groups_ms": dict(groups.most_common()),
        "longest_ms": dict(times.most_common(NUM_LONGEST)),
    }


def main() -> None:
    """Profile each mode."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="mamba2-medium")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=["eager"])
    parser.add_argument("--backend", choices=["torch", "triton"], default="torch")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tiny", action="store_true", help="a small network, for tests")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    results = ResultsFile(options.json, config=options.config, backend=options.backend)
    shipped = plain_config(options.config)
    for mode in options.modes:
        config = config_of_mode(smaller(shipped) if options.tiny else shipped, options.backend, mode)
        try:
            found = profiled(config, device, 4 if options.tiny else options.batch, options.tiny)
        except Exception as error:
            print(f"{mode}: {type(error).__name__}: {str(error)[:300]}", flush=True)
            results.append("failed", {"mode": mode, "error": str(error)[:1_000]})
            continue
        results.append("modes", {"mode": mode, **found})
        print(
            f"\n{options.config}, {options.backend}, {mode}, batch {found['batch']}: "
            f"{found['targets_per_s']:,.0f} targets/s, {found['wall_ms']:.2f} ms, "
            f"host {found['host_ms']:.2f} ms, kernels {found['kernels_ms']:.2f} ms, "
            f"{found['launches']:,.0f} launches, {found['share_of_matmul_peak']:.1%} of the matmul peak",
        )
        for group, milliseconds in found["groups_ms"].items():
            print(f"  {group:<18}{milliseconds:>9.3f} ms {milliseconds / found['kernels_ms']:>7.1%}")
        for name, milliseconds in found["longest_ms"].items():
            print(f"    {milliseconds:>9.3f} ms  {name[:100]}")
        print(flush=True)
    results.finish()
    if "modes" not in results.content:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
