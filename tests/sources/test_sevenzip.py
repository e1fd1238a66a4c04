"""7z archives in particular: methods, blocks, damage, directories made up by an enemy."""

from __future__ import annotations

import io
import os
import random
import struct
import threading
import zlib
from pathlib import Path

import py7zr
import pytest
from source_listing import contents, fault, listed, peak_bytes

from datasets.runtime.errors import ReplayError
from datasets.sources.decompress import dictionary_size
from datasets.sources.reading import read_input
from datasets.sources.scan import Inputs

CONTENT = bytes(range(256)) * 40
METHODS = {
    "LZMA": [{"id": py7zr.FILTER_LZMA, "preset": 6}],
    "LZMA2": [{"id": py7zr.FILTER_LZMA2, "preset": 6}],
    "x86, LZMA2": [{"id": py7zr.FILTER_X86}, {"id": py7zr.FILTER_LZMA2, "preset": 6}],
    "delta, LZMA2": [{"id": py7zr.FILTER_DELTA, "dist": 4}, {"id": py7zr.FILTER_LZMA2, "preset": 6}],
    "delta, LZMA": [{"id": py7zr.FILTER_DELTA}, {"id": py7zr.FILTER_LZMA, "preset": 6}],
    "bzip2": [{"id": py7zr.FILTER_BZIP2}],
    "deflate": [{"id": py7zr.FILTER_DEFLATE}],
    "zstd": [{"id": py7zr.FILTER_ZSTD, "level": 3}],
    "none": [{"id": py7zr.FILTER_COPY}],
}
UNREAD = {
    "PPMd": [{"id": py7zr.FILTER_PPMD, "order": 6, "mem": "16m"}],
    "Brotli": [{"id": py7zr.FILTER_BROTLI, "level": 3}],
    "LZMA with an x86 converter": [{"id": py7zr.FILTER_X86}, {"id": py7zr.FILTER_LZMA, "preset": 6}],
}


def packed(path: Path, *blocks: dict[str, bytes], filters=None, is_encoded: bool = True, **options) -> Path:
    """A 7z with one solid block for each set of members."""
    for index, members in enumerate(blocks):
        with py7zr.SevenZipFile(path, "a" if index else "w", filters=filters, **options) as archive:
            archive.set_encoded_header_mode(is_encoded)
            for name, content in members.items():
                archive.writef(io.BytesIO(content), name)
    return path


@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_read(tmp_path, method):
    members = {"a.slp": CONTENT, "b.slp": b"", "c.slp": os.urandom(3_001)}
    path = packed(tmp_path / "dump.7z", members, filters=METHODS[method])
    assert {replay.name: read_input(replay) for replay in listed(path)} == members


@pytest.mark.parametrize("method", UNREAD)
def test_a_method_that_is_not_read_is_named_for_each_member(tmp_path, method):
    path = packed(tmp_path / "dump.7z", {"a.slp": CONTENT, "b.slp": CONTENT[1:]}, filters=UNREAD[method])
    faults = [fault(replay) for replay in listed(path)]
    assert [code for code, _ in faults] == ["unopenable"] * 2
    assert faults[0][1].startswith(f"compression method {method};")


@pytest.mark.parametrize("has_hidden_names", [False, True])
def test_an_encrypted_archive_is_refused(tmp_path, has_hidden_names):
    options = {"password": "secret", "header_encryption": has_hidden_names}
    path = packed(tmp_path / "dump.7z", {"a.slp": CONTENT, "b.slp": b"x"}, **options)
    found = listed(path)
    assert [replay.member for replay in found] == ([-1] if has_hidden_names else [0, 1])
    assert {fault(replay) for replay in found} == {("encrypted", "the archive is encrypted")}


def test_a_directory_that_is_not_compressed_is_read(tmp_path):
    assert contents(packed(tmp_path / "dump.7z", {"a.slp": CONTENT}, is_encoded=False)) == [CONTENT]


def test_an_archive_of_nothing_holds_nothing(tmp_path):
    with py7zr.SevenZipFile(tmp_path / "dump.7z", "w"):
        pass
    assert listed(tmp_path / "dump.7z") == []


def first_block_destroyed(path: Path) -> None:
    """Overwrite the beginning of the compressed bytes."""
    content = path.read_bytes()
    path.write_bytes(content[:32] + b"\xff" * 50 + content[82:])


def test_a_block_all_of_whose_members_are_done_is_not_decompressed(tmp_path):
    path = packed(tmp_path / "dump.7z", {"a.slp": CONTENT, "b.slp": b"two"}, {"c.slp": b"three"})
    done = frozenset(replay.key for replay in listed(path) if replay.name != "c.slp")
    first_block_destroyed(path)
    assert [read_input(replay) for replay in listed(path, done=done)] == [b"three"]


def test_every_wanted_member_of_a_damaged_block_is_named_and_the_next_block_is_read(tmp_path):
    members = {f"{number}.slp": os.urandom(2_000) for number in range(4)}
    path = packed(tmp_path / "dump.7z", members, {"last.slp": b"good"})
    whole = {replay.member: replay.key for replay in listed(path)}
    first_block_destroyed(path)
    found = sorted(listed(path), key=lambda replay: replay.member)
    assert [fault(replay)[0] for replay in found[:4]] == ["unopenable"] * 4
    assert read_input(found[4]) == b"good"
    assert [replay.key == whole[replay.member] for replay in found] == [False] * 4 + [True]


def test_blocks_are_unpacked_in_turn_in_the_same_order_whatever_is_done(tmp_path):
    blocks = [{f"{block}-{number}.slp": os.urandom(900) for number in range(4)} for block in range(6)]
    path = packed(tmp_path / "dump.7z", *blocks)
    every = listed(path)
    assert [replay.name for replay in every[:6]] == [f"{b}-{n}.slp" for n in (0, 1) for b in range(4)][:6]
    assert {replay.name: read_input(replay) for replay in every} == {k: v for block in blocks for k, v in block.items()}
    for seed in range(5):
        done = frozenset(replay.key for replay in random.Random(seed).sample(every, 11))
        left = [replay.name for replay in every if replay.key not in done]
        assert [replay.name for replay in listed(path, done=done)] == left


def test_a_walk_that_is_given_up_leaves_no_thread_behind(tmp_path):
    blocks = [{f"{block}-{number}.slp": os.urandom(60_000) for number in range(4)} for block in range(3)]
    walk = iter(Inputs([str(packed(tmp_path / "dump.7z", *blocks))], lambda key: False))
    next(walk)
    walk.close()
    for thread in threading.enumerate():
        if thread.name.startswith("unpack-7z"):
            thread.join(timeout=10)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("unpack-7z")]


def test_members_that_were_refused_are_not_read_again_until_the_archive_is_repaired(tmp_path):
    path = packed(tmp_path / "dump.7z", {"a.slp": CONTENT, "b.slp": b"two"})
    whole = path.read_bytes()
    first_block_destroyed(path)
    refused = frozenset(replay.key for replay in listed(path))
    assert listed(path, done=refused) == []
    path.write_bytes(whole)
    assert [read_input(replay) for replay in listed(path, done=refused)] == [CONTENT, b"two"]


def test_a_member_whose_checksum_is_wrong_is_refused_and_its_neighbours_are_read(tmp_path):
    members = {name: name.encode() * 20 for name in ("one.slp", "two.slp", "three.slp")}
    path = packed(tmp_path / "dump.7z", members, filters=METHODS["none"])
    path.write_bytes(path.read_bytes().replace(b"two.slp" * 20, b"two.slp" * 19 + b"xxx.slp"))
    one, two, three = listed(path)
    assert (read_input(one), read_input(three)) == (members["one.slp"], members["three.slp"])
    assert fault(two)[0] == "wrong_size"


def test_no_directory_that_an_enemy_makes_up_stops_the_walk_or_takes_much_memory(tmp_path):
    path = packed(tmp_path / "dump.7z", {f"{number}.slp": CONTENT for number in range(9)}, is_encoded=False)
    whole = path.read_bytes()
    offset, size = struct.unpack_from("<2Q", whole, 12)
    start = 32 + offset
    numbers = random.Random(3)

    def attack() -> None:
        for _ in range(250):
            header = bytearray(whole[start : start + size])
            for _ in range(numbers.choice((1, 2, 8))):
                header[numbers.randrange(len(header))] = numbers.choice((0, 1, 0x7F, 0xFF, numbers.randrange(256)))
            place = struct.pack("<2QL", offset, size, zlib.crc32(header))
            head = whole[:8] + struct.pack("<L", zlib.crc32(place)) + place
            path.write_bytes(head + whole[32:start] + header)
            for replay in Inputs([str(path)], lambda key: False):
                assert replay.rejection is not None or len(read_input(replay)) <= len(whole) + 9 * len(CONTENT)

    assert peak_bytes(attack) < 200 << 20


def test_the_directory_of_a_huge_archive_is_walked_in_little_memory(tmp_path):
    number = 3_000
    members = {f"a-folder/with-a-long-name-{index:06}.slp": b"x" for index in range(number)}
    path = packed(tmp_path / "dump.7z", members, filters=METHODS["none"])
    del members
    found = 0

    def walk() -> None:
        nonlocal found
        found = sum(1 for _ in Inputs([str(path)], lambda key: False))

    assert peak_bytes(walk) < 3e6  # its names are 0.5, and the buffer for reading 1
    assert found == number


def test_a_dictionary_is_no_larger_than_its_block_and_a_huge_one_is_refused():
    assert dictionary_size(1 << 31, 5_000) == 5_000
    with pytest.raises(ReplayError, match="an LZMA dictionary of 2048 MB"):
        dictionary_size(1 << 31, 1 << 40)
