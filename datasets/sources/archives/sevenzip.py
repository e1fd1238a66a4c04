"""7z archives: a solid block can only be read from its start, so one reader carries the contents to many parsers.

Child processes read the archive (`sevenzip_process`), several at once where it has several blocks: child k of n
extracts blocks k, k + n, ... Members are taken from them in turn, in an order that depends neither on speed nor on what
is done already.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from datasets.legacy.meta_json import Metadata
from datasets.runtime.stored_file import StoredFile
from datasets.sources.archives.members import Member
from datasets.sources.archives.sevenzip_process import CONTENT, NAME_ONLY, SKIP, SevenZipProcess
from datasets.sources.inputs import ReplayInput
from datasets.sources.names import META_NAME, key_of, parsed_root
from datasets.sources.read_errors import READ_ERRORS, UNREACHABLE, rejection_of
from datasets.sources.scan_state import SourceScan, rejected_archive

MAX_CHILDREN = 4
DICTIONARY_BYTES = 256 * 2**20
"""Of all children together: blocks with large dictionaries (7-Zip's highest level: 256 MB) are extracted one by one."""


def list_7z(archive: StoredFile, scan: SourceScan) -> Iterator[ReplayInput]:
    """The members to read, each with its content; blocks without one are not decompressed.

    In memory: a byte for each file, and a member at a time. Each child holds the directory, a dictionary and a member.
    """
    try:
        with ExitStack() as stack:
            yield from _Reader(archive, scan, stack).inputs()
    except READ_ERRORS as error:
        yield from rejected_archive(scan, archive, rejection_of(error))


class _Reader:
    """Reads an archive: first its directory, to decide what is extracted, then that."""

    def __init__(self, archive: StoredFile, scan: SourceScan, stack: ExitStack) -> None:
        self._archive = archive
        self._scan = scan
        self._stack = stack
        self._states = bytearray()
        """SKIP, NAME_ONLY or CONTENT, by the member's number."""
        self._tables: dict[str, Metadata] = {}

    def inputs(self) -> Iterator[ReplayInput]:
        """The members to read; without content where the scan only counts."""
        first = self._stack.enter_context(SevenZipProcess.take())
        first.send({"location": self._archive.location, "is_listing": True})
        meta_numbers: list[int] = []
        has_parsed = False
        while "rows" in (message := first.receive()):
            for row in message["rows"]:
                member, block, _ = self._member(row)
                if member.kind == "meta":
                    meta_numbers.append(member.number)
                self._set_state(member.number, SKIP)
                if not self._is_admitted(member):
                    continue
                has_parsed |= member.kind == "parsed"
                if block < 0 or not self._scan.reads_contents:
                    replay = member.input(self._archive)
                    yield replace(replay, content=b"") if self._scan.reads_contents else replay
                else:
                    self._set_state(member.number, NAME_ONLY if member.rejection() else CONTENT)
        for number in meta_numbers if has_parsed else ():
            self._set_state(number, CONTENT)
        if self._scan.reads_contents:
            yield from self._extract(first, message["num_blocks"], message["dictionary_bytes"])
        else:
            first.send(None)
            first.release()

    def _member(self, row: list[Any]) -> tuple[Member, int, int]:
        """A member, its block and its index there, from `sevenzip_process.MEMBER_FIELDS`."""
        number, block, index, name, num_bytes, stored_bytes, crc = row
        member = Member(
            number=number,
            name=name,
            num_bytes=num_bytes,
            stored_bytes=stored_bytes,
            checksum=(self._archive.num_bytes, self._archive.mtime_ns) if crc is None else crc,
        )
        return member, block, index

    def _is_admitted(self, member: Member) -> bool:
        if not member.is_candidate:
            self._scan.ignore(member.name)
            return False
        keys = member.key(self._archive), self._key_if_damaged(member)
        return self._scan.admit(*keys, num_bytes=member.stored_bytes)

    def _set_state(self, number: int, state: int) -> None:
        self._states.extend(bytes(max(0, number + 1 - len(self._states))))
        self._states[number] = state

    def _key_if_damaged(self, member: Member) -> str:
        """Key of a member that cannot be read: in the repaired archive it is another input."""
        return key_of(member.key(self._archive), self._archive.num_bytes, self._archive.mtime_ns)

    def _extract(self, first: SevenZipProcess, num_blocks: int, dictionary_bytes: int) -> Iterator[ReplayInput]:
        """The members of some blocks: the first of each, the second of each, and so on."""
        if not any(self._states):
            first.send(None)
            first.release()
            return
        at_once = max(1, min(MAX_CHILDREN, DICTIONARY_BYTES // max(1, dictionary_bytes), num_blocks))
        others = [self._stack.enter_context(SevenZipProcess.take()) for _ in range(at_once - 1)]
        for other in others:
            other.send({"location": self._archive.location, "is_listing": False})
        states = bytes(self._states)
        for other in others:
            other.receive()
        heads: dict[SevenZipProcess, list[Any]] = {}
        for position, child in enumerate([first, *others]):
            child.send({"first": position, "step": at_once})
            child.send_bytes(states)
            self._advance(child, heads)
        while heads:
            child = min(heads, key=lambda child: (heads[child][1] // at_once, heads[child][2], heads[child][1]))
            member = self._member(heads[child])[0]
            if member.kind == "meta":
                yield from self._read_meta(member, child)
            else:
                yield self._input(member, child)
            self._advance(child, heads)

    def _advance(self, child: SevenZipProcess, heads: dict[SevenZipProcess, list[Any]]) -> None:
        message = child.receive()
        if message is None:
            heads.pop(child, None)
            child.release()
        else:
            heads[child] = message["member"]

    def _input(self, member: Member, child: SevenZipProcess) -> ReplayInput:
        content = b"".join(iter(child.receive_bytes, b""))
        error = child.receive_error()
        replay = member.input(self._archive)
        if replay.rejection is not None:
            return replay
        if error is not None:
            key = replay.key if error[0] == UNREACHABLE else self._key_if_damaged(member)
            return replace(replay, key=key, rejection=error)
        if replay.kind == "parsed" and (table := self._tables.get(parsed_root(member.name))) is not None:
            replay = replace(replay, meta=table.get(replay.name))
        return replace(replay, content=content)

    def _read_meta(self, member: Member, child: SevenZipProcess) -> Iterator[ReplayInput]:
        table = self._tables.setdefault(member.name[: -len(META_NAME)], Metadata())
        stream = _Stream(child)
        rejection = None
        try:
            table.read(stream)
        except READ_ERRORS as error:
            rejection = rejection_of(error)
        stream.skip_to_end()
        rejection = child.receive_error() or rejection
        if rejection is not None:
            code, message = rejection
            yield from rejected_archive(self._scan, self._archive, (code, f"{META_NAME}: {message}"))


class _Stream:
    """The content of a member as a file, by the pieces in which the child sends it."""

    def __init__(self, child: SevenZipProcess) -> None:
        self._child = child
        self._is_at_end = False

    def read(self, size: int) -> bytes:
        """The next piece, whatever its size; empty at the end."""
        content = b"" if self._is_at_end else self._child.receive_bytes()
        self._is_at_end = not content
        return content

    def skip_to_end(self) -> None:
        """Drop what was not read."""
        while self.read(1):
            pass
