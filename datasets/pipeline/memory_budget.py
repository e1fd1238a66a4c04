"""The memory limit of an encode, and how it is divided among the parsers and the object store.

Guarded by `benchmarks/encode_memory.py`, which measures the peak against the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ByteSize, TypeAdapter

from datasets.runtime.errors import UserError
from datasets.runtime.hardware import total_memory_bytes
from datasets.sources.archives.sevenzip import SHARED_BYTES
from datasets.sources.scan_state import MAX_DICTIONARY_BYTES

DEFAULT_FRACTION = 0.25
"""Default limit, as a fraction of the machine's memory."""

MB = 10**6
BASE_BYTES = 950 * MB
"""The driver and the processes of a local Ray (`benchmarks/encode_memory.py`)."""
READER_BYTES = 350 * MB
"""A task that reads an archive: 7z dictionaries of SHARED_BYTES, and one chunk of contents before it is in the object
store. A larger dictionary takes from the headroom of the parsers."""
OBJECT_STORE_BYTES_PER_READER = 100 * MB
"""Chunks of contents that a reader has finished and no parser has taken yet."""
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

    num_parsers: int
    num_readers: int
    """Archives that are open at once, of those that can only be read from their start."""
    parser_headroom_bytes: int
    """What each parser's child may use beyond what it has after its start."""
    dictionary_bytes: int
    """Largest dictionary of a 7z that is read."""
    object_store_bytes: int | None
    """None on a cluster: Ray Data takes half of the object stores of all nodes that there are at the moment."""


def parse_bytes(text: str | None, option: str) -> int | None:
    """Bytes of `6GB`, `1.5 GiB`, `800M` or a plain number; None for an option that was not given.

    Args:
        option: name of the option that holds it.

    Raises:
        UserError: it is not a positive size.
    """
    if text is None:
        return None
    try:
        num_bytes = int(TypeAdapter(ByteSize).validate_python(text + "B" if text[-1:] in "iI" else text))
    except (ValueError, OverflowError):
        num_bytes = 0
    if num_bytes <= 0:
        raise UserError(f"{option} {text!r}: expected a positive size with a unit, such as 6GB or 1.5GiB")
    return num_bytes


def plan_memory(limit_bytes: int | None, num_cores: int, num_archives: int = 0) -> MemoryPlan:
    """Divide a limit among parsers, readers and the object store.

    Args:
        limit_bytes: for all processes together; None is DEFAULT_FRACTION of the machine.
        num_cores: maximum number of parsers. A reader of an archive keeps one or two of them busy.
        num_archives: archives that can only be read from their start.
    Raises:
        UserError: the limit is too small for one parser, or exceeds the machine's memory.
    """
    machine = total_memory_bytes()
    per_parser = PARSER_BYTES + MIN_HEADROOM_BYTES + OBJECT_STORE_BYTES_PER_PARSER
    per_reader = READER_BYTES + OBJECT_STORE_BYTES_PER_READER
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
    num_readers = max(1, min(num_archives, num_cores // 2, 1 + (left - num_parsers * per_parser) // per_reader))
    left -= (num_readers - 1) * per_reader
    dictionary_bytes = SHARED_BYTES
    if num_archives:
        spare = (left - num_parsers * per_parser) // 2 // num_readers
        dictionary_bytes = min(MAX_DICTIONARY_BYTES, SHARED_BYTES + max(0, spare))
        left -= num_readers * (dictionary_bytes - SHARED_BYTES)
    return MemoryPlan(
        dictionary_bytes=dictionary_bytes,
        num_parsers=num_parsers,
        num_readers=num_readers,
        parser_headroom_bytes=left // num_parsers - PARSER_BYTES - OBJECT_STORE_BYTES_PER_PARSER,
        object_store_bytes=MIN_OBJECT_STORE_BYTES
        + (num_readers - 1) * OBJECT_STORE_BYTES_PER_READER
        + num_parsers * OBJECT_STORE_BYTES_PER_PARSER,
    )


def plan_for_cluster(
    nodes: Sequence[tuple[float, float]],
    num_archives: int = 0,
    headroom_bytes: int = CLUSTER_HEADROOM_BYTES,
    max_workers: int | None = None,
) -> MemoryPlan:
    """How an encode starts on a cluster. Ray Data adds parsers and readers for nodes that join later.

    Args:
        nodes: CPUs and bytes of memory that Ray has on each node; a node runs as many parsers as both allow.
        num_archives: archives that can only be read from their start; half of the CPUs at most read them.
        headroom_bytes: see `MemoryPlan`.
        max_workers: maximum number of parsers.
    """
    workers = sum(int(min(cpus, memory // (PARSER_BYTES + headroom_bytes))) for cpus, memory in nodes)
    num_readers = min(num_archives, workers // 2)
    return MemoryPlan(
        dictionary_bytes=MAX_DICTIONARY_BYTES,
        num_parsers=max(1, min(workers - num_readers, max_workers or workers)),
        num_readers=num_readers,
        parser_headroom_bytes=headroom_bytes,
        object_store_bytes=None,
    )
