"""Profiles, machines and runs for tests of plans: round numbers, so that results can be checked by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from cluster.plan.machines import LOCAL, Catalogue, Gpu, Machine, MachineGroup
from cluster.plan.profile import MeasuredProfile, parse_profile
from cluster.plan.proposals import Limits
from cluster.plan.workload import Network, Workload

NOW = datetime(2026, 11, 28, 22, 0, tzinfo=UTC)
NETWORK = Network(
    num_parameters=1_000_000, flops_per_target=1e7, kind="mamba2", encoding=4, objective="sequence", predictions=64,
    width=1_024,
)  # fmt: skip
"""10 MFLOP for a target."""
GPU_BOX = Machine(
    name="gpu-box", gpus=4, gpu="A100-40GB", cores=64, memory_gb=500.0, disk_gb=1_000.0, link_gb_per_s=200.0,
    network_gb_per_s=10.0, usd_per_hour=8.0, spot_usd_per_hour=3.0, source="a test", checked_on=date(2026, 1, 1),
)  # fmt: skip
ONE_GPU = replace(GPU_BOX, name="one-gpu", gpus=1, usd_per_hour=2.0, spot_usd_per_hour=None)
CPU_BOX = replace(GPU_BOX, name="cpu-box", gpus=0, gpu=None, cores=8, usd_per_hour=0.5)
KNOWN = Catalogue(
    machines={machine.name: machine for machine in (GPU_BOX, ONE_GPU, CPU_BOX)},
    gpus={
        "A100-40GB": Gpu(pattern="A100.*40GB", memory_gb=40.0, bf16_tflops=300.0),
        "H100": Gpu(pattern="H100", memory_gb=80.0, bf16_tflops=900.0),
    },
)


def measured(network: Network = NETWORK, source: str = "profile.json", **content: Any) -> MeasuredProfile:
    """A profile of one A100 with 100,000 targets/s, 1 TFLOP/s with `NETWORK`."""
    plain = {
        "profile_version": 2, "device": "cuda", "device_name": "NVIDIA A100-SXM4-40GB", "workers": 1, "threads": 1,
        "batch_size": 512, "targets_per_s": 100_000.0, "start_s": 30.0, "warm_up_s": 10.0, "end_s": 5.0,
        "final_evaluation": {"number": 1, "seconds": 2.0, "frames": 20_000},
        "checkpoints": {"number": 10, "seconds": 1.0}, "checkpoint_bytes": 12_000_000, "peak_gb": 2.0,
        "device_peak_gb": 5.0, "num_parameters": network.num_parameters, "flops_per_target": network.flops_per_target,
    }  # fmt: skip
    found = parse_profile(plain | content, Path(source))
    return replace(found, network=network)


def workload(targets: int = 360_000_000, **fields: Any) -> Workload:
    """An hour of training at the speed of `measured`, evaluated at 10 frames of context."""
    plain: dict[str, Any] = {
        "name": "medium", "network": NETWORK, "targets": targets, "batch_size": None, "validation_every": 100_000_000,
        "validation_frames": 20_000, "final_frames": 200_000, "checkpoint_every_s": 300.0, "kept_checkpoints": 3,
        "pool_frames": 4_000_000,
    }  # fmt: skip
    return Workload(**plain | fields)


def local(of: MeasuredProfile) -> MachineGroup:
    """The machine of a profile."""
    is_gpu = of.profile.device == "cuda"
    machine = replace(ONE_GPU if is_gpu else CPU_BOX, name=LOCAL, usd_per_hour=0.0, cores=None if is_gpu else of.cores)
    return MachineGroup(machine=replace(machine, gpus=of.profile.workers if is_gpu else 0))


def limits(hours: float | None = None, usd: float | None = None) -> Limits:
    """Limits from NOW on."""
    return Limits(hours=hours, usd=usd, now=NOW)
