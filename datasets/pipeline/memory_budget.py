"""The memory limit of an encode, and how it is divided among the parsers and the object store.

Guarded by `benchmarks/encode_memory.py`, which measures the peak against the limit.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ByteSize, TypeAdapter

from datasets.runtime.errors import UserError
from datasets.runtime.hardware import total_memory_bytes

DEFAULT_FRACTION = 0.25
"""Default limit, as a fraction of the machine's memory."""

MB = 10**6
BASE_BYTES = 950 * MB
"""The driver and the processes of a local Ray (`benchmarks/encode_memory.py`)."""
READER_BYTES = 350 * MB
"""The task that reads the sources: the window of a 7z, and one chunk of contents before it is in the object store."""
PARSER_BYTES = 310 * MB
"""A worker and its child, while they parse ordinary games."""
MIN_HEADROOM_BYTES = 220 * MB
"""What a child may use beyond that for one unusual input, before the input is rejected; at least."""
CLUSTER_HEADROOM_BYTES = 1_000 * MB
"""The same on the machines of a cluster, which have a few GB per CPU."""
MIN_OBJECT_STORE_BYTES = 150 * MB
OBJECT_STORE_BYTES_PER_PARSER = 100 * MB
"""Three chunks of contents queued for each parser (`datasets.pipeline.feed.MAX_CONTENT_BYTES`)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """How a memory limit is divided on one machine."""

    limit_bytes: int
    num_parsers: int
    parser_headroom_bytes: int
    """What each parser's child may use beyond what it has after its start."""
    object_store_bytes: int


def parse_bytes(text: str) -> int:
    """Bytes of `6GB`, `1.5 GiB`, `800M` or a plain number.

    Raises:
        UserError: it is not a positive size.
    """
    try:
        num_bytes = int(TypeAdapter(ByteSize).validate_python(text + "B" if text[-1:] in "iI" else text))
    except (ValueError, OverflowError):
        num_bytes = 0
    if num_bytes <= 0:
        raise UserError(f"memory is {text!r}; expected a positive size with a unit, such as 6GB or 1.5GiB")
    return num_bytes


def plan_memory(limit_bytes: int | None, num_cores: int) -> MemoryPlan:
    """Divide a limit among parsers and the object store.

    Args:
        limit_bytes: for all processes together; None is DEFAULT_FRACTION of the machine.
        num_cores: maximum number of parsers.
    Raises:
        UserError: the limit is too small for one parser, or exceeds the machine's memory.
    """
    machine = total_memory_bytes()
    per_parser = PARSER_BYTES + MIN_HEADROOM_BYTES + OBJECT_STORE_BYTES_PER_PARSER
    minimum = BASE_BYTES + READER_BYTES + MIN_OBJECT_STORE_BYTES + per_parser
    if machine < minimum:
        raise UserError(f"an encode needs {minimum / 1e9:.1f} GB of memory; this machine has {machine / 1e9:.1f} GB")
    limit = max(int(machine * DEFAULT_FRACTION), minimum) if limit_bytes is None else limit_bytes
    if not minimum <= limit <= machine:
        raise UserError(
            f"--memory is {limit / 1e9:.1f} GB; expected at least the {minimum / 1e9:.1f} GB that an encode needs "
            f"and at most the {machine / 1e9:.1f} GB of this machine"
        )
    left = limit - BASE_BYTES - READER_BYTES - MIN_OBJECT_STORE_BYTES
    num_parsers = max(1, min(num_cores, left // per_parser))
    return MemoryPlan(
        limit_bytes=limit,
        num_parsers=num_parsers,
        parser_headroom_bytes=left // num_parsers - PARSER_BYTES - OBJECT_STORE_BYTES_PER_PARSER,
        object_store_bytes=MIN_OBJECT_STORE_BYTES + num_parsers * OBJECT_STORE_BYTES_PER_PARSER,
    )


def plan_for_cluster(num_cpus: int) -> MemoryPlan:
    """Memory for the parsers of a cluster, whose machines differ from this one.

    Args:
        num_cpus: of the whole cluster; each node runs as many parsers as its CPUs and memory allow.
    """
    return MemoryPlan(
        limit_bytes=num_cpus * (PARSER_BYTES + CLUSTER_HEADROOM_BYTES),
        num_parsers=num_cpus,
        parser_headroom_bytes=CLUSTER_HEADROOM_BYTES,
        object_store_bytes=MIN_OBJECT_STORE_BYTES + num_cpus * OBJECT_STORE_BYTES_PER_PARSER,
    )
