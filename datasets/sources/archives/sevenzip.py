"""7z archives: a solid block can only be read from its start, so one reader carries the contents to many parsers.

Child processes read the archive (`sevenzip_child`), several at once where it has several blocks: child k of n extracts
blocks k, k + n, ... Their members are merged in an order that depends neither on speed nor on what is done already.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain

from datasets.legacy.meta_json import Metadata
from datasets.runtime.stored_file import StoredFile
from datasets.sources.archives.members import Member, note_unread, with_meta
from datasets.sources.archives.sevenzip_process import CONTENT, MEMORY_BYTES, NAME_ONLY, Row, child_generator
from datasets.sources.inputs import ReplayInput
from datasets.sources.names import META_NAME, parsed_root
from datasets.sources.read_errors import READ_ERRORS, UNREACHABLE, rejection_of
from datasets.sources.scan_state import SourceScan, rejected_archive

MAX_CHILDREN = 4
SHARED_BYTES = 256 * 2**20
"""Of the dictionaries of all children, if there are several: large ones (7-Zip's highest level: 256 MB) are used one by
one."""


def list_7z(archive: StoredFile, scan: SourceScan) -> Iterator[ReplayInput]:
    """The members to read, each with its content; blocks without one are not decompressed.

    In memory: a byte for each file, and a member for each child. A child holds the directory, a dictionary and a
    member.
    """
    try:
        yield from _inputs(archive, scan)
    except READ_ERRORS as error:
        yield from rejected_archive(scan, archive, rejection_of(error))


def _inputs(archive: StoredFile, scan: SourceScan) -> Iterator[ReplayInput]:
    states = bytearray()  # by the member's number
    meta_numbers: list[int] = []
    has_parsed = False
    memory_bytes = MEMORY_BYTES + scan.dictionary_bytes
    with child_generator("list_members", archive.location, memory_bytes) as items:
        dictionaries = next(items)
        largest = max(dictionaries, default=0)
        if largest > scan.dictionary_bytes:
            rejection = "too_much_memory", _too_large_text(dictionaries, scan.dictionary_bytes)
            yield from rejected_archive(scan, archive, rejection)
        fitting = [num_bytes for num_bytes in dictionaries if num_bytes <= scan.dictionary_bytes]
        for row in chain.from_iterable(items):
            if row.block >= 0 and dictionaries[row.block] > scan.dictionary_bytes:
                continue
            member = _member(archive, row)
            states.extend(bytes(max(0, row.number + 1 - len(states))))
            if member.kind == "meta":
                meta_numbers.append(row.number)
            if not member.is_candidate:
                scan.ignore(member.name)
            elif scan.admit(member.key(archive), member.key_if_damaged(archive), num_bytes=member.stored_bytes):
                has_parsed |= member.kind == "parsed"
                if not scan.reads_contents:
                    yield member.input(archive)
                elif row.block < 0:
                    yield replace(member.input(archive), content=b"")
                else:
                    states[row.number] = NAME_ONLY if member.rejection() else CONTENT
    for number in meta_numbers if has_parsed else ():
        states[number] = CONTENT
    if any(states) and scan.reads_contents:
        shared_bytes = min(SHARED_BYTES, scan.dictionary_bytes)
        at_once = max(1, min(MAX_CHILDREN, shared_bytes // max(1, *fitting, 1), len(dictionaries)))
        yield from _extracted(archive, scan, memory_bytes, at_once, bytes(states))


def _too_large_text(dictionaries: list[int], limit: int) -> str:
    too_large = [num_bytes for num_bytes in dictionaries if num_bytes > limit]
    return (
        f"{len(too_large)} of {len(dictionaries)} blocks need a dictionary of up to {max(too_large) >> 20} MB, and the "
        f"reader may take {limit >> 20} MB; allow more with --memory, or repack the archive with a smaller dictionary"
    )


def _extracted(
    archive: StoredFile, scan: SourceScan, memory_bytes: int, at_once: int, states: bytes
) -> Iterator[ReplayInput]:
    """The members of `at_once` blocks: the first of each, the second of each, and so on; then of the next blocks."""
    tables: defaultdict[str, Metadata] = defaultdict(Metadata)
    with ExitStack() as stack:
        children = [
            stack.enter_context(child_generator("extract", archive.location, memory_bytes, first, at_once, states))
            for first in range(at_once)
        ]
        items = heapq.merge(*children, key=lambda item: (item[0].block // at_once, item[0].index, item[0].block))
        for row, content, rejection in items:
            member = _member(archive, row)
            if member.kind == "meta":
                table = tables[member.name[: -len(META_NAME)]]
                if content is not None:
                    table.add([content])
                if rejection is not None:
                    code, message = rejection
                    noted = note_unread(table, (code, f"{META_NAME}: {message}"))
                    yield from rejected_archive(scan, archive, noted)
                continue
            replay = member.input(archive)
            if rejection is not None:
                key = replay.key if rejection[0] == UNREACHABLE else member.key_if_damaged(archive)
                yield replace(replay, key=key, rejection=rejection)
            elif replay.rejection is not None:
                yield replay
            else:
                table = tables.get(parsed_root(member.name)) if replay.kind == "parsed" else None
                yield with_meta(replace(replay, content=content), table)


def _member(archive: StoredFile, row: Row) -> Member:
    return Member(
        number=row.number,
        name=row.name,
        num_bytes=row.num_bytes,
        stored_bytes=row.stored_bytes,
        checksum=(archive.num_bytes, archive.mtime_ns) if row.crc is None else row.crc,
    )
