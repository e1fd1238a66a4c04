"""Hours, dollars, memory and disk of one run on one group of machines: arithmetic on a profile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cluster.plan.machines import Catalogue, MachineGroup
from cluster.plan.memory import GB, Memory, checkpoint_bytes, memory_of
from cluster.plan.profile import MeasuredProfile
from cluster.plan.speed import Speed, speed_of
from cluster.plan.workload import Workload

CORPUS_BYTES_PER_FRAME = 16.3
"""Of all ranked games as Parquet (`docs/encode-at-scale.md`: 14.5 to 16)."""
EVALUATION_RATIO = 3.0
"""Training frames that take as long as one of an evaluation's: a backward pass takes two forward passes."""
PARTS = {
    "start": "start-up",
    "warm_up": "compilation and warm-up",
    "compute": "compute",
    "input": "input",
    "all_reduce": "all-reduce",
    "validations": "validation",
    "final_evaluation": "final evaluation",
    "checkpoints": "checkpoints",
    "end": "end",
}
"""Key -> words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a run is expected to take."""

    workload: Workload
    group: MachineGroup
    speed: Speed
    seconds: dict[str, float]
    """By part, see PARTS."""
    memory: Memory
    disk_gb: float
    """Of a run's checkpoints, and of the corpus where its size is known."""
    num_checkpoints: int
    """Written during the run."""
    checkpoint_gb: float
    """Of one."""
    estimates: tuple[str, ...]
    """Why figures were estimated and not measured; empty if all were."""

    @property
    def hours(self) -> float:
        """From the command to its end; machines that are still to come are not counted."""
        return sum(self.seconds.values()) / 3_600

    @property
    def usd(self) -> float:
        """Of all machines for that time."""
        return self.hours * self.group.usd_per_hour

    @property
    def limited_by(self) -> str:
        """The part that takes the most time."""
        return PARTS[max(self.seconds, key=lambda part: self.seconds[part])]

    @property
    def is_estimate(self) -> bool:
        """Whether anything was scaled from another size, batch, machine or number of workers."""
        return bool(self.estimates)

    def plain(self) -> dict[str, Any]:
        """As JSON data."""
        workload = self.workload
        return {
            "hours": self.hours,
            "usd": self.usd,
            "targets": workload.targets,
            "estimate": self.is_estimate,
            "estimate_reasons": list(self.estimates),
            "size": workload.name,
            "parameters": workload.network.num_parameters,
            "objective": workload.network.objective,
            "games": workload.games,
            "epochs": workload.epochs,
            "machines": self.group.text,
            "usd_per_hour": self.group.usd_per_hour,
            "price_source": f"{self.group.machine.source}, {self.group.machine.checked_on}",
            "workers": self.speed.workers,
            "batch_size": self.speed.batch_size,
            "targets_per_s": self.speed.targets_per_s,
            "flops_per_s": self.speed.targets_per_s * workload.network.flops_per_target,
            "seconds": self.seconds,
            "limited_by": self.limited_by,
            "gpu_memory_gb": self.memory.gpu_gb,
            "host_memory_gb": self.memory.host_gb,
            "disk_gb": self.disk_gb,
            "checkpoints": self.num_checkpoints,
            "checkpoint_gb": self.checkpoint_gb,
        }


def estimate(
    workload: Workload,
    profiles: Sequence[MeasuredProfile],
    group: MachineGroup,
    known: Catalogue,
    workers: int | None = None,
) -> Estimate:
    """Estimate one run.

    Args:
        profiles: the nearest one is taken; those of other sizes say how speed depends on it.
        workers: see `speed_of`.
    Raises:
        UserError: no profile is of such a machine and network.
    """
    speed = speed_of(workload, profiles, group, known, workers)
    base, reasons = speed.base, list(speed.estimates)
    training_s = workload.targets / speed.targets_per_s
    waited = base.wait_share * (1 - speed.communication_share)
    frame_s = _evaluation_s_per_frame(workload, speed, reasons)
    checkpoint_s = base.checkpoint_s * workload.network.num_parameters / base.network.num_parameters
    num_checkpoints = _num_checkpoints(workload, training_s)
    seconds = {
        "start": _measured(base.profile.start_s, "start-up", reasons),
        "warm_up": base.profile.warm_up_s or 0.0,
        "compute": training_s * (1 - speed.communication_share - waited),
        "input": training_s * waited,
        "all_reduce": training_s * speed.communication_share,
        "validations": workload.num_validations * workload.validation_frames * frame_s,
        "final_evaluation": workload.final_frames * frame_s,
        "checkpoints": num_checkpoints * checkpoint_s,
        "end": base.profile.end_s or 0.0,
    }
    if base.profile.data == "synthetic":
        reasons.append("the profile was measured without a corpus: waits for input are not in it")
    if workload.has_stream:
        reasons.append("evaluations of whole games (stream) are not counted")
    memory = memory_of(workload, speed, group, known)
    if not memory.is_measured:
        reasons.append("memory: 16 bytes for each parameter, and activations scaled from the measured peak")
    corpus_gb = 0.0 if workload.corpus_frames is None else CORPUS_BYTES_PER_FRAME * workload.corpus_frames / GB
    one_gb = checkpoint_bytes(workload, base) / GB
    return Estimate(
        workload=workload,
        group=group,
        speed=speed,
        seconds=seconds,
        memory=memory,
        disk_gb=corpus_gb + (workload.kept_checkpoints + 1) * one_gb,  # one more while it is written
        num_checkpoints=num_checkpoints,
        checkpoint_gb=one_gb,
        estimates=tuple(dict.fromkeys(reasons)),
    )


def _measured(value: float | None, name: str, reasons: list[str]) -> float:
    if value is None:
        reasons.append(f"{name} was not measured, and counts as 0")
    return value or 0.0


def _evaluation_s_per_frame(workload: Workload, speed: Speed, reasons: list[str]) -> float:
    """Scaled like training from what was measured, or as a third of the time of a training frame."""
    base = speed.base
    measured = base.evaluation_s_per_frame
    if measured is None:
        if workload.validation_frames or workload.final_frames:
            reasons.append("evaluations were not measured: a frame counts as a third of a training frame")
        return 1 / (EVALUATION_RATIO * speed.targets_per_s * workload.network.frames_per_target)
    frames_per_s = speed.targets_per_s * workload.network.frames_per_target
    return measured * base.targets_per_s * base.network.frames_per_target / frames_per_s


def _num_checkpoints(workload: Workload, training_s: float) -> int:
    """By the clock, at the end of each epoch, before and after the final evaluation."""
    by_clock = int(training_s / workload.checkpoint_every_s) if workload.checkpoint_every_s else 0
    return by_clock + int(workload.epochs or 0) + 2
