"""Targets per second of a network on some machines, from profiles of other networks or machines.

Measured where a profile is of the same network, batch and number of workers. Everything else is an estimate, and says
why: sizes are scaled by their FLOPs at the measured FLOPs per second (with profiles of several sizes by a power law
through them), workers by a ring all-reduce of the gradients after each update, in which nothing overlaps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cluster.plan.machines import LOCAL, Catalogue, MachineGroup
from cluster.plan.profile import MeasuredProfile
from cluster.plan.workload import Network, Workload
from datasets.runtime.errors import UserError

SAME = 0.01
"""Relative difference of parameters and FLOPs within which two networks are the same."""
SAME_BATCH = 1.5
"""Ratio of the batches of a worker up to which a profile counts as measured for both."""
BYTES_PER_GRADIENT = 4
"""fp32."""
ACHIEVED_BANDWIDTH = 0.5
"""Assumed share of the nominal bandwidth that an all-reduce reaches."""
DEFAULT_LINK_GB_PER_S, DEFAULT_NETWORK_GB_PER_S, CPU_LINK_GB_PER_S = 16.0, 1.25, 2.0
"""Assumed where a machine's are not known: PCIe 4.0 with 8 lanes, 10 Gbit/s, and processes of one machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """How fast a run is."""

    base: MeasuredProfile
    """The profile that it is scaled from."""
    workers: int
    batch_size: int | None
    """Examples over all workers."""
    targets_per_s: float
    """Of all workers, waits for input and all-reduce included."""
    communication_share: float
    """Of the training time, in the all-reduce."""
    estimates: tuple[str, ...]
    """Why it is an estimate; empty if it was measured."""


def speed_of(
    workload: Workload,
    profiles: Sequence[MeasuredProfile],
    group: MachineGroup,
    known: Catalogue,
    workers: int | None = None,
) -> Speed:
    """The speed of a run.

    Args:
        workers: by default one for each GPU, and on machines without GPUs as many as the profile has on each.
    Raises:
        UserError: no profile is of such a machine and network.
    """
    is_gpu = group.machine.gpus > 0
    fitting = _fitting(workload.network, profiles, is_gpu)
    base = _nearest(workload, fitting, workers or group.num_gpus or None)
    workers = workers or group.num_gpus or base.profile.workers * group.number
    estimates: list[str] = []
    unit_rate = _rate_of_one(workload.network, fitting, base, estimates)
    unit_rate *= _device_factor(base, group, known, estimates)
    base_local = (base.profile.batch_size or 1) / base.profile.workers
    local = base_local if workload.batch_size is None else workload.batch_size / workers
    if base.profile.batch_size is not None and not 1 / SAME_BATCH <= local / base_local <= SAME_BATCH:
        estimates.append(f"batches of {local:g} examples for each worker (measured: {base_local:g})")
    if is_gpu:
        worker_rate = unit_rate
    else:
        cores = group.number * (group.machine.cores or base.cores) if group.machine.name != LOCAL else base.cores
        worker_rate = unit_rate * cores / workers
    is_as_measured = workers == base.profile.workers and group.number == 1
    seconds = local * workload.network.predictions / worker_rate
    exchange_s = 0.0 if is_as_measured else _all_reduce_s(workload.network, workers, group)
    if not is_as_measured:
        estimates.append(
            f"{workers} workers from a profile of {base.profile.workers}: an all-reduce of "
            f"{BYTES_PER_GRADIENT * workload.network.num_parameters / 1e6:.0f} MB takes {1e3 * exchange_s:.2g} ms of "
            f"{1e3 * (seconds + exchange_s):.3g} ms for an update"
        )
    return Speed(
        base=base,
        workers=workers,
        batch_size=workload.batch_size or (round(local * workers) if base.profile.batch_size else None),
        targets_per_s=workers * local * workload.network.predictions / (seconds + exchange_s),
        communication_share=exchange_s / (seconds + exchange_s),
        estimates=tuple(estimates),
    )


def _fitting(network: Network, profiles: Sequence[MeasuredProfile], is_gpu: bool) -> list[MeasuredProfile]:
    """Profiles of the same kind of device, network and encoding."""
    reasons = []
    fitting = []
    for one in profiles:
        theirs = one.network
        if (one.profile.device == "cuda") != is_gpu:
            reasons.append(f"{one.source} is of a {'GPU' if one.profile.device == 'cuda' else 'CPU'}")
        elif theirs.kind is not None and network.kind is not None and theirs.kind != network.kind:
            reasons.append(f"{one.source} is of model.kind {theirs.kind}, the config has {network.kind}")
        elif theirs.encoding is not None and network.encoding is not None and theirs.encoding != network.encoding:
            reasons.append(f"{one.source} is of encoding {theirs.encoding}, the config has {network.encoding}")
        else:
            fitting.append(one)
    if not fitting:
        needed = "a machine with GPUs" if is_gpu else "a machine without GPUs"
        raise UserError(
            f"no profile fits: {'; '.join(reasons)}; run `wm profile` with this config on {needed}, and name its file "
            "with --profile"
        )
    return fitting


def _nearest(workload: Workload, fitting: Sequence[MeasuredProfile], workers: int | None) -> MeasuredProfile:
    """The profile that is nearest: first by size and objective, then by the number of workers, then by the batch."""

    def distance(one: MeasuredProfile) -> tuple[float, ...]:
        theirs, network = one.network, workload.network
        size = 0.0 if is_same(theirs, network) else abs(math.log(theirs.flops_per_target / network.flops_per_target))
        count = 0.0 if workers is None else abs(math.log(one.profile.workers / workers))
        batch = 0.0
        if workload.batch_size and one.profile.batch_size:
            local, asked = one.profile.batch_size / one.profile.workers, workload.batch_size / (workers or 1)
            batch = abs(math.log(local / asked))
        return float(theirs.objective not in (None, network.objective)), size, count, batch

    return min(fitting, key=distance)


def is_same(first: Network, second: Network) -> bool:
    """Whether two networks with their objectives cost the same."""
    pairs = (
        (first.num_parameters, second.num_parameters),
        (first.flops_per_target, second.flops_per_target),
    )
    return all(abs(a / b - 1) <= SAME for a, b in pairs)


def _rate_of_one(
    network: Network, fitting: Sequence[MeasuredProfile], base: MeasuredProfile, estimates: list[str]
) -> float:
    """Targets per second of one GPU, or of one CPU core."""
    if is_same(network, base.network):
        return base.targets_per_s / _units(base)
    ratio = network.flops_per_target / base.network.flops_per_target
    flops_per_s, slope = _efficiency(fitting)
    text = f"scaled by FLOPs: {ratio:.2g} times those of the measured {base.network.size_text} parameters"
    if slope is not None:
        text += f", at a speed that grows with FLOPs to the power {slope:.2f} (fit of {len(fitting)} profiles)"
    elif base.network.objective not in (None, network.objective):
        text += f", measured with the objective {base.network.objective}"
    estimates.append(text)
    predicted = flops_per_s(network.flops_per_target) / flops_per_s(base.network.flops_per_target)
    return base.targets_per_s / _units(base) / ratio * predicted


def _efficiency(profiles: Sequence[MeasuredProfile]) -> tuple[Callable[[float], float], float | None]:
    """FLOPs per second of one unit by the FLOPs of a target, and the exponent; None: the same for every size."""
    x = np.log([one.network.flops_per_target for one in profiles])
    y = np.log([one.flops_per_s / _units(one) for one in profiles])
    if np.ptp(x) < math.log(1 + 10 * SAME):
        return (lambda _flops: 1.0), None
    slope = float(np.clip(np.polyfit(x, y, 1)[0], 0.0, 1.0))
    return (lambda flops: math.exp(slope * math.log(flops))), slope


def _units(one: MeasuredProfile) -> int:
    """GPUs, or CPU cores."""
    return one.profile.workers if one.profile.device == "cuda" else one.cores


def _device_factor(base: MeasuredProfile, group: MachineGroup, known: Catalogue, estimates: list[str]) -> float:
    """How much faster the machine's device is than the profile's."""
    machine = group.machine
    if machine.name == LOCAL:
        return 1.0
    if not machine.gpus:
        estimates.append(f"a core of {machine.name} is taken for as fast as one of {base.profile.device_name or '?'}")
        return 1.0
    measured = known.kind_of(base.profile.device_name)
    if machine.gpu == measured:
        return 1.0
    peaks = [None if kind is None else known.gpus[kind].bf16_tflops for kind in (machine.gpu, measured)]
    name = base.profile.device_name or "an unknown GPU"
    if peaks[0] is None or peaks[1] is None:
        estimates.append(f"measured on {name}; taken for as fast as {machine.gpu}, whose ratio is not known")
        return 1.0
    estimates.append(
        f"measured on {name}; {machine.gpu} is taken for {peaks[0] / peaks[1]:.2g} times as fast (peaks, data sheets)"
    )
    return peaks[0] / peaks[1]


def _all_reduce_s(network: Network, workers: int, group: MachineGroup) -> float:
    """Of a ring: each worker sends and receives 2 (n - 1) / n times the gradients."""
    if workers == 1:
        return 0.0
    machine = group.machine
    if group.number > 1:
        bandwidth = machine.network_gb_per_s or DEFAULT_NETWORK_GB_PER_S
    elif machine.gpus:
        bandwidth = machine.link_gb_per_s or DEFAULT_LINK_GB_PER_S
    else:
        bandwidth = CPU_LINK_GB_PER_S
    num_bytes = 2 * (workers - 1) / workers * BYTES_PER_GRADIENT * network.num_parameters
    return num_bytes / (ACHIEVED_BANDWIDTH * bandwidth * 1e9)
