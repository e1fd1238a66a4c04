"""What a piece of work moves between host and device, and how often the host waits for it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

try:
    import resource
except ImportError:  # Windows
    resource = None

NUM_CALLS = 3
MARK = "measured"
WAITING_CALLS = (
    "cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy",
    "cuStreamSynchronize", "cuCtxSynchronize", "cuEventSynchronize",
)  # fmt: skip
"""Calls of the CUDA runtime and driver in which the host waits; cudaMemcpyAsync does not."""
READS = ("aten::_local_scalar_dense", "aten::nonzero")
"""Operators whose result the host needs: every .item(), float(), bool() and boolean index ends in one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """Per call; None where it does not apply to the device."""

    bytes_to_device: float | None
    bytes_to_host: float | None
    host_syncs: float | None
    scalar_reads: float
    page_faults: float | None


def measure_traffic(work: Callable[[], Any], device: torch.device) -> Traffic:
    """Run `work`, warm already, a few times under the profiler."""
    faults = None if device.type == "cuda" else page_faults_of(work)
    on_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])]
    with profile(activities=activities) as profiled:
        with record_function(MARK):
            for _ in range(NUM_CALLS):
                work()
        if on_cuda:
            torch.cuda.synchronize()
    reads = sum(event.count for event in profiled.key_averages() if event.key in READS) / NUM_CALLS
    if not on_cuda:
        return Traffic(
            bytes_to_device=None, bytes_to_host=None, host_syncs=None, scalar_reads=reads, page_faults=faults
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiled.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    to_device, to_host, syncs = count_events(events)
    return Traffic(
        bytes_to_device=to_device / NUM_CALLS,
        bytes_to_host=to_host / NUM_CALLS,
        host_syncs=syncs / NUM_CALLS,
        scalar_reads=reads,
        page_faults=None,
    )


def count_events(events: list[dict[str, Any]]) -> tuple[float, float, int]:
    """Bytes to the device, bytes to the host and waits in a trace of Chrome's format.

    Waits count within the mark alone, since the profiler itself waits at its end.
    """
    spans = [
        (e["ts"], e["ts"] + e["dur"]) for e in events if e.get("name") == MARK and e.get("cat") == "user_annotation"
    ]
    to_device = to_host = 0.0
    syncs = 0
    for event in events:
        name = event.get("name", "")
        if event.get("cat") == "gpu_memcpy":
            num_bytes = float(event.get("args", {}).get("bytes", 0))
            to_device += num_bytes if "HtoD" in name else 0.0
            to_host += num_bytes if "DtoH" in name else 0.0
        elif name in WAITING_CALLS and any(start <= event["ts"] <= end for start, end in spans):
            syncs += 1
    return to_device, to_host, syncs


def page_faults_of(work: Callable[[], Any]) -> float | None:
    """Minor page faults of this process for a call; None where the system does not count them."""
    if resource is None:
        return None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(NUM_CALLS):
        work()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / NUM_CALLS
