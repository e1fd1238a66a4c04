"""Memory of a worker's GPU and of a machine, and the size of checkpoints."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.plan.machines import Catalogue, MachineGroup
from cluster.plan.profile import MeasuredProfile
from cluster.plan.speed import SAME, Speed, is_same
from cluster.plan.workload import Workload
from datasets.loading.frames import BYTES_PER_FRAME

GB = 1e9
STATE_BYTES_PER_PARAMETER = 16
"""fp32: weight, gradient and AdamW's two moments."""
CHECKPOINT_BYTES_PER_PARAMETER = 12
"""fp32: weight and two moments."""
RESIDENT_SHARE = 0.3
"""Of a device's memory up to which the frames stay in it (`data.device_cache_fraction`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Peaks."""

    gpu_gb: float | None
    """Of each GPU; None on machines without."""
    host_gb: float | None
    """Of each machine, all its workers together; None if it was not measured."""
    gpu_limit_gb: float | None
    host_limit_gb: float | None
    is_measured: bool
    """Whether the profile is of the same network, batch and frames."""

    @property
    def problem(self) -> str | None:
        """Why it does not fit; None if it fits, or nobody knows."""
        for name, needed, limit in (
            ("a GPU", self.gpu_gb, self.gpu_limit_gb),
            ("a machine", self.host_gb, self.host_limit_gb),
        ):
            if needed is not None and limit is not None and needed > limit:
                return f"{name} needs {needed:.1f} GB and has {limit:.1f} GB"
        return None


def memory_of(workload: Workload, speed: Speed, group: MachineGroup, known: Catalogue) -> Memory:
    """Memory of a run."""
    base, machine = speed.base, group.machine
    is_gpu = machine.gpus > 0
    gpu = None if machine.gpu is None else known.gpus[machine.gpu]
    frames = workload.corpus_frames or float(base.profile.train_frames or 0)
    cached_gb = min(frames, 2.0 * workload.pool_frames) * BYTES_PER_FRAME / GB
    if is_gpu and gpu is not None and frames * BYTES_PER_FRAME / GB <= RESIDENT_SHARE * gpu.memory_gb:
        cached_gb = frames * BYTES_PER_FRAME / GB
    measured_cache_gb = (base.profile.train_frames or 0) * BYTES_PER_FRAME / GB if base.profile.resident else 0.0
    gpu_gb = None
    host_gb = base.profile.peak_gb
    if is_gpu and base.profile.device_peak_gb is not None:
        gpu_gb = _scaled(workload, speed, base.profile.device_peak_gb - measured_cache_gb) + cached_gb
    elif not is_gpu and host_gb is not None:
        host_gb = _scaled(workload, speed, host_gb - measured_cache_gb) + cached_gb
    workers_here = -(-speed.workers // group.number)
    return Memory(
        gpu_gb=gpu_gb,
        host_gb=None if host_gb is None else host_gb * workers_here,
        gpu_limit_gb=None if gpu is None else gpu.memory_gb,
        host_limit_gb=machine.memory_gb,
        is_measured=is_same(workload.network, base.network)
        and speed.workers == base.profile.workers
        and abs(_batch_ratio(speed) - 1) < SAME
        and abs(cached_gb - measured_cache_gb) < 0.1 * max(1.0, measured_cache_gb),
    )


def checkpoint_bytes(workload: Workload, base: MeasuredProfile) -> float:
    """Of one checkpoint: as measured, scaled with the parameters."""
    measured = base.profile.checkpoint_bytes or CHECKPOINT_BYTES_PER_PARAMETER * base.network.num_parameters
    return measured * workload.network.num_parameters / base.network.num_parameters


def _scaled(workload: Workload, speed: Speed, measured_gb: float) -> float:
    """A worker's peak: the state by parameters, the rest by batch and width."""
    base = speed.base
    state_gb = STATE_BYTES_PER_PARAMETER * base.network.num_parameters / GB
    rest_gb = max(0.0, measured_gb - state_gb)
    width = (workload.network.width or 1) / (base.network.width or workload.network.width or 1)
    length = workload.network.predictions * workload.network.frames_per_target
    base_length = base.network.predictions * base.network.frames_per_target
    ratio = _batch_ratio(speed) * width * length / base_length
    if base.profile.device == "cpu":
        ratio = max(1.0, ratio)  # most of it is the process itself
    return STATE_BYTES_PER_PARAMETER * workload.network.num_parameters / GB + rest_gb * ratio


def _batch_ratio(speed: Speed) -> float:
    """A worker's examples over those of the profile."""
    base = speed.base.profile
    if speed.batch_size is None or base.batch_size is None:
        return 1.0
    return speed.batch_size / speed.workers / (base.batch_size / base.workers)
