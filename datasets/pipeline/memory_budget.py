"""How much memory an encode may use, and how it is divided among the parsers and the object store.

Guarded by `benchmarks/encode_memory.py`, which measures the peak against the limit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from datasets.runtime.errors import UserError
from datasets.runtime.hardware import total_memory_bytes

DEFAULT_SHARE = 0.25
"""Of the machine's memory, where the user names no limit."""

MB = 10**6
BASE_BYTES = 950 * MB
"""The driver and Ray's own processes on a local Ray (`benchmarks/encode_memory.py`)."""
READER_BYTES = 350 * MB
"""The reader of the sources: the window of a 7z, and one chunk of contents on its way into the object store."""
PARSER_BYTES = 310 * MB
"""A parsing worker with its child, at work on ordinary games."""
SPARE_BYTES = 220 * MB
"""What a child may take beyond that for one extraordinary input, before it is refused."""
CLUSTER_SPARE_BYTES = 1_000 * MB
"""The same on the machines of a cluster, which have a few GB for each CPU."""
MIN_OBJECT_STORE_BYTES = 150 * MB
OBJECT_STORE_BYTES_PER_PARSER = 100 * MB
"""Three chunks of contents on their way to each parser (`datasets.pipeline.encode.MAX_CONTENT_BYTES`)."""

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """How a limit is shared out on one machine."""

    limit_bytes: int
    num_parsers: int
    parser_spare_bytes: int
    """What each parser's child may take beyond what it has after its start."""
    object_store_bytes: int


def parse_bytes(text: str) -> int:
    """Bytes of `6GB`, `1.5 GiB`, `800M` or a plain number.

    Raises:
        UserError: it is none of these.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if match is None or match[2] not in UNITS:
        raise UserError(f"memory is {text!r}; expected bytes with a unit, such as 6GB or 1.5GiB")
    return int(float(match[1]) * UNITS[match[2]])


def plan_memory(limit_bytes: int | None, num_cores: int) -> MemoryPlan:
    """Share a limit among parsers and the object store.

    Args:
        limit_bytes: for all processes together; None takes DEFAULT_SHARE of the machine.
        num_cores: most parsers that are worth starting.
    Raises:
        UserError: the limit does not even hold one parser, or is more than the machine has.
    """
    machine = total_memory_bytes()
    one = PARSER_BYTES + SPARE_BYTES + OBJECT_STORE_BYTES_PER_PARSER
    least = BASE_BYTES + READER_BYTES + MIN_OBJECT_STORE_BYTES + one
    limit = max(int(machine * DEFAULT_SHARE), least) if limit_bytes is None else limit_bytes
    if limit < least:
        raise UserError(
            f"--memory is {limit / 1e9:.1f} GB, an encode needs {least / 1e9:.1f} GB; name more by --memory"
        )
    if limit > machine:
        raise UserError(
            f"an encode would take {limit / 1e9:.1f} GB, this machine has {machine / 1e9:.1f} GB; name less"
        )
    left = limit - BASE_BYTES - READER_BYTES - MIN_OBJECT_STORE_BYTES
    num_parsers = max(1, min(num_cores, left // one))
    return MemoryPlan(
        limit_bytes=limit,
        num_parsers=num_parsers,
        parser_spare_bytes=left // num_parsers - PARSER_BYTES - OBJECT_STORE_BYTES_PER_PARSER,
        object_store_bytes=MIN_OBJECT_STORE_BYTES + num_parsers * OBJECT_STORE_BYTES_PER_PARSER,
    )


def plan_for_cluster(num_cpus: int) -> MemoryPlan:
    """What each of a cluster's parsers may take, whose machines are not this one.

    Args:
        num_cpus: of the whole cluster; each node runs as many parsers as its CPUs and memory allow.
    """
    return MemoryPlan(
        limit_bytes=num_cpus * (PARSER_BYTES + CLUSTER_SPARE_BYTES),
        num_parsers=num_cpus,
        parser_spare_bytes=CLUSTER_SPARE_BYTES,
        object_store_bytes=MIN_OBJECT_STORE_BYTES + num_cpus * OBJECT_STORE_BYTES_PER_PARSER,
    )
