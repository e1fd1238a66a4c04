"""7z archives: methods, blocks, damage, hostile directories, and the process that reads them."""

from __future__ import annotations

import io
import lzma
import multiprocessing
import os
import random
import signal
import struct
import time
import zlib
from pathlib import Path

import psutil
import py7zr
import pytest
from source_listing import contents, listed, peak_bytes, rejection

from datasets.sources.archives import decompress, sevenzip_process
from datasets.sources.archives.sevenzip_directory import SUPPORTED
from datasets.sources.read_errors import UNREACHABLE
from datasets.sources.reading import read_input
from datasets.sources.scan import Inputs, survey

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
    "PPMd": [{"id": py7zr.FILTER_PPMD, "order": 6, "mem": "16m"}],
    "Brotli": [{"id": py7zr.FILTER_BROTLI, "level": 3}],
    "x86, LZMA": [{"id": py7zr.FILTER_X86}, {"id": py7zr.FILTER_LZMA, "preset": 6}],
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


def with_header(packed_streams: bytes, header: bytes) -> bytes:
    """A 7z of these compressed streams and this directory, with valid checksums (7zFormat.txt, "SignatureHeader")."""
    start = struct.pack("<2QL", len(packed_streams), len(header), zlib.crc32(header))
    return b"7z\xbc\xaf\x27\x1c\0\4" + struct.pack("<L", zlib.crc32(start)) + start + packed_streams + header


def split(content: bytes) -> tuple[bytes, bytes]:
    """The compressed streams and the directory of a 7z."""
    offset, size = struct.unpack_from("<2Q", content, 12)
    return content[32 : 32 + offset], content[32 + offset : 32 + offset + size]


def test_an_unsupported_method_is_named_for_each_member_and_the_next_block_is_read(tmp_path):
    blocks = {"a.slp": CONTENT, "b.slp": CONTENT[1:]}, {"c.slp": b"good"}
    path = packed(tmp_path / "dump.7z", *blocks, filters=METHODS["none"], is_encoded=False)
    streams, header = split(path.read_bytes())
    copy, unknown = b"\x01\x01\x00", b"\x01\x01\x77"  # a block of one method, whose id has one byte
    path.write_bytes(with_header(streams, header.replace(copy, unknown, 1)))
    found = {replay.name: replay for replay in listed(path)}
    for name in ("a.slp", "b.slp"):
        assert rejection(found[name]) == ("unopenable", f"compression method 77; {SUPPORTED}")
    assert read_input(found["c.slp"]) == b"good"


@pytest.mark.parametrize("has_hidden_names", [False, True])
def test_an_encrypted_archive_is_rejected(tmp_path, has_hidden_names):
    options = {"password": "secret", "header_encryption": has_hidden_names}
    path = packed(tmp_path / "dump.7z", {"a.slp": CONTENT, "b.slp": b"x"}, **options)
    found = listed(path)
    assert [replay.member for replay in found] == ([-1] if has_hidden_names else [0, 1])
    assert {rejection(replay) for replay in found} == {("encrypted", "the archive is encrypted")}


def test_a_directory_that_is_not_compressed_is_read(tmp_path):
    assert contents(packed(tmp_path / "dump.7z", {"a.slp": CONTENT}, is_encoded=False)) == [CONTENT]


def test_an_empty_archive_has_no_inputs(tmp_path):
    with py7zr.SevenZipFile(tmp_path / "dump.7z", "w"):
        pass
    assert listed(tmp_path / "dump.7z") == []


def first_block_destroyed(path: Path) -> None:
    """Overwrite the beginning of the compressed bytes."""
    content = path.read_bytes()
    path.write_bytes(content[:32] + b"\xff" * 50 + content[82:])


def test_a_block_without_a_member_to_read_is_not_decompressed(tmp_path):
    path = packed(tmp_path / "dump.7z", {"a.slp": CONTENT, "b.slp": b"two"}, {"c.slp": b"three"})
    done = frozenset(replay.key for replay in listed(path) if replay.name != "c.slp")
    first_block_destroyed(path)
    assert [read_input(replay) for replay in listed(path, done=done)] == [b"three"]


def test_members_rejected_by_name_or_size_are_not_decompressed(tmp_path, monkeypatch):
    path = packed(tmp_path / "dump.7z", {"large.slp": CONTENT, "inner.zip": CONTENT}, {"small.slp": b"small"})
    monkeypatch.setattr(decompress, "MAX_REPLAY_BYTES", len(CONTENT) - 1)
    first_block_destroyed(path)
    found = {replay.name: replay for replay in listed(path)}
    assert rejection(found["large.slp"])[0] == "too_large"
    assert rejection(found["inner.zip"])[0] == "nested_archive"
    assert read_input(found["small.slp"]) == b"small"


def test_every_member_of_a_damaged_block_is_rejected_and_the_next_block_is_read(tmp_path):
    members = {f"{number}.slp": os.urandom(2_000) for number in range(4)}
    path = packed(tmp_path / "dump.7z", members, {"last.slp": b"good"})
    whole = {replay.member: replay.key for replay in listed(path)}
    first_block_destroyed(path)
    found = sorted(listed(path), key=lambda replay: replay.member)
    assert [rejection(replay)[0] for replay in found[:4]] == ["unopenable"] * 4
    assert read_input(found[4]) == b"good"
    assert [replay.key == whole[replay.member] for replay in found] == [False] * 4 + [True]


def test_blocks_are_extracted_in_turn_in_the_same_order_whatever_is_done(tmp_path):
    blocks = [{f"{block}-{number}.slp": os.urandom(900) for number in range(4)} for block in range(6)]
    path = packed(tmp_path / "dump.7z", *blocks)
    every = listed(path)
    assert [replay.name for replay in every[:6]] == [f"{b}-{n}.slp" for n in (0, 1) for b in range(4)][:6]
    assert {replay.name: read_input(replay) for replay in every} == {k: v for block in blocks for k, v in block.items()}
    for seed in range(5):
        done = frozenset(replay.key for replay in random.Random(seed).sample(every, 11))
        left = [replay.name for replay in every if replay.key not in done]
        assert [replay.name for replay in listed(path, done=done)] == left


def test_a_scan_that_is_abandoned_leaves_no_process_behind(tmp_path):
    blocks = [{f"{block}-{number}.slp": os.urandom(600_000) for number in range(4)} for block in range(3)]
    path = packed(tmp_path / "dump.7z", *blocks)
    scan = iter(Inputs([str(path)], lambda key: False))
    next(scan)
    children = multiprocessing.active_children()
    assert len(children) == 3
    scan.close()
    assert multiprocessing.active_children() == []
    assert not any(psutil.pid_exists(child.pid) for child in children if child.pid is not None)


@pytest.mark.parametrize(
    ("killed_by", "code", "message"),
    [
        (signal.SIGXCPU, "unopenable", "reading makes no progress: the CPU time limit was exceeded"),
        (signal.SIGSEGV, "unopenable", "the reader of 7z archives crashed (SIGSEGV)"),
        (signal.SIGALRM, UNREACHABLE, "listing incomplete: no data for 180 s"),
        (signal.SIGKILL, UNREACHABLE, "listing incomplete: the reader of 7z archives ended (-9)"),
    ],
)
def test_a_process_that_dies_rejects_the_archive_and_the_next_one_is_read(tmp_path, killed_by, code, message):
    members = {f"{number}.slp": os.urandom(800_000) for number in range(5)}
    path = packed(tmp_path / "a.7z", members, filters=METHODS["none"])
    packed(tmp_path / "b.7z", {"good.slp": CONTENT})
    scan = iter(Inputs([str(tmp_path)], lambda key: False))
    first = next(scan)
    (child,) = multiprocessing.active_children()
    assert child.pid is not None
    os.kill(child.pid, killed_by)
    *between, rejected, last = scan
    assert read_input(first) == members["0.slp"]
    assert len(between) < 4
    assert (rejected.source, rejection(rejected)) == (path.name, (code, message))
    assert read_input(last) == CONTENT


def test_a_directory_that_takes_endless_cpu_time_is_rejected(tmp_path, monkeypatch):
    path = packed(tmp_path / "dump.7z", {"a.slp": CONTENT})
    monkeypatch.setattr(sevenzip_process, "CHILD_MODULE", "sevenzip_child_with_endless_loop")
    (rejected,) = listed(path)
    assert rejection(rejected) == ("unopenable", "reading makes no progress: the CPU time limit was exceeded")


def test_a_transient_read_error_leaves_the_rest_of_the_block_for_the_next_run(tmp_path, monkeypatch):
    members = {f"{number}.slp": os.urandom(3_000_000) for number in range(4)}
    path = packed(tmp_path / "dump.7z", members, filters=METHODS["none"])
    keys = [replay.key for replay in listed(path)]
    monkeypatch.setattr(sevenzip_process, "CHILD_MODULE", "sevenzip_child_with_read_errors")
    found = listed(path)
    assert [replay.key for replay in found] == keys
    assert [read_input(replay) for replay in found[:2]] == list(members.values())[:2]
    assert [rejection(replay)[0] for replay in found[2:]] == [UNREACHABLE] * 2
    monkeypatch.undo()
    done = frozenset(replay.key for replay in found[:2])
    assert [read_input(replay) for replay in listed(path, done=done)] == list(members.values())[2:]


def test_members_that_were_rejected_are_not_read_again_until_the_archive_is_repaired(tmp_path):
    path = packed(tmp_path / "dump.7z", {"a.slp": CONTENT, "b.slp": b"two"})
    whole = path.read_bytes()
    first_block_destroyed(path)
    rejected = frozenset(replay.key for replay in listed(path))
    assert listed(path, done=rejected) == []
    path.write_bytes(whole)
    assert [read_input(replay) for replay in listed(path, done=rejected)] == [CONTENT, b"two"]


def test_a_member_whose_checksum_is_wrong_is_rejected_and_its_neighbours_are_read(tmp_path):
    members = {name: name.encode() * 20 for name in ("one.slp", "two.slp", "three.slp")}
    path = packed(tmp_path / "dump.7z", members, filters=METHODS["none"])
    path.write_bytes(path.read_bytes().replace(b"two.slp" * 20, b"two.slp" * 19 + b"xxx.slp"))
    one, two, three = listed(path)
    assert (read_input(one), read_input(three)) == (members["one.slp"], members["three.slp"])
    assert rejection(two)[0] == "wrong_size"


def number_7z(value: int) -> bytes:
    """A number of up to four bytes as 7z stores it: the leading ones of the first byte count those that follow."""
    return b"\xe0" + struct.pack("<L", value)[:3] if value < 1 << 24 else b"\xf0" + struct.pack("<L", value)


def self_referencing_header() -> bytes:
    """An encoded header that is its own compressed stream: 50 bytes that decode to themselves."""
    size = 18
    header = bytes([0x17, 6, 0, 1, 9, size, 0, 7, 11, 1, 0, 1, 1, 0, 12, size, 0, 0])
    assert len(header) == size
    return with_header(b"", header)


def header_with_540_000_members() -> bytes:
    """Each of 300 blocks states that it holds 1,800 members, in 1.8 kB."""
    blocks = 300
    count = b"\xc0" + struct.pack("<H", blocks)
    header = b"\x01\x04\x06\x00" + count + b"\x09" + bytes(blocks) + b"\0"
    header += b"\x07\x0b" + count + b"\x00" + b"\x01\x01\x00" * blocks + b"\x0c" + bytes(blocks) + b"\0"
    header += b"\x08\x0d" + b"\x87\x08" * blocks
    return with_header(b"", header)


def compressed_header_with_300_000_members() -> bytes:
    """A directory of 300,000 one-letter names that LZMA packs into a kilobyte."""
    members = 300_000
    names = b"\0" + b"a\0\0\0" * members
    header = b"\x01\x05" + number_7z(members) + b"\x11" + number_7z(len(names)) + names + b"\0\0"
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 20}]
    stream = lzma.compress(header, lzma.FORMAT_RAW, filters=filters)
    encoded = b"\x17\x06\x00\x01\x09" + number_7z(len(stream)) + b"\0"
    encoded += b"\x07\x0b\x01\x00\x01\x21\x21\x01\x10\x0c" + number_7z(len(header)) + b"\0\0"
    return with_header(stream, encoded)


@pytest.mark.parametrize(
    ("archive", "num_bytes"),
    [
        (self_referencing_header, 50),
        (header_with_540_000_members, 2_500),
        (compressed_header_with_300_000_members, 2_500),
    ],
)
def test_a_hostile_directory_is_one_reject_within_seconds_and_costs_no_memory_here(tmp_path, archive, num_bytes):
    path = tmp_path / "dump.7z"
    path.write_bytes(archive())
    assert path.stat().st_size <= num_bytes

    def scan() -> None:
        started = time.process_time()
        assert survey([str(path)]).num_inputs == 1
        (rejected,) = listed(path)
        assert (rejected.member, rejection(rejected)[0]) == (-1, "unopenable")
        assert time.process_time() - started < 1

    started = time.monotonic()
    assert peak_bytes(scan) < 5e6
    assert time.monotonic() - started < 60  # the CPU limit is 6 s for each of the two


def test_random_changes_of_the_directory_stop_nothing_and_cost_no_memory_here(tmp_path):
    path = packed(tmp_path / "dump.7z", {f"{number}.slp": CONTENT for number in range(9)}, is_encoded=False)
    whole = path.read_bytes()
    streams, original = split(whole)
    numbers = random.Random(3)

    def attack() -> None:
        for _ in range(250):
            header = bytearray(original)
            for _ in range(numbers.choice((1, 2, 8))):
                header[numbers.randrange(len(header))] = numbers.choice((0, 1, 0x7F, 0xFF, numbers.randrange(256)))
            path.write_bytes(with_header(streams, bytes(header)))
            for replay in Inputs([str(path)], lambda key: False):
                assert replay.rejection is not None or len(read_input(replay)) <= len(whole) + 9 * len(CONTENT)

    assert peak_bytes(attack) < 20 << 20


def test_the_directory_of_a_large_archive_is_scanned_in_little_memory(tmp_path):
    number = 3_000
    members = {f"a-folder/with-a-long-name-{index:06}.slp": b"x" for index in range(number)}
    path = packed(tmp_path / "dump.7z", members, filters=METHODS["none"])
    del members
    found = 0

    def scan() -> None:
        nonlocal found
        found = sum(1 for _ in Inputs([str(path)], lambda key: False))

    assert peak_bytes(scan) < 3e6
    assert found == number


def test_a_dictionary_that_does_not_fit_is_one_reject_with_numbers_and_a_larger_limit_reads_it(tmp_path):
    options = {"filters": [{"id": py7zr.FILTER_LZMA2, "preset": 6, "dict_size": 16 << 20}]}
    path = packed(tmp_path / "dump.7z", {"a.slp": CONTENT, "b.slp": b"two"}, **options)
    with py7zr.SevenZipFile(path, "a", filters=[{"id": py7zr.FILTER_LZMA2, "preset": 0}]) as archive:
        archive.writef(io.BytesIO(b"three"), "c.slp")
    rejected, small = Inputs([str(path)], lambda key: False, dictionary_bytes=4 << 20)
    assert (rejected.member, rejection(rejected)) == (
        -1,
        (
            "too_much_memory",
            "1 of 2 blocks need a dictionary of up to 16 MB, and the reader may take 4 MB; allow more with --memory, "
            "or repack the archive with a smaller dictionary",
        ),
    )
    assert read_input(small) == b"three"
    done = frozenset({rejected.key, small.key})
    assert [read_input(replay) for replay in listed(path, done=done)] == [CONTENT, b"two"]


def test_a_dictionary_of_4_gb_is_one_reject(tmp_path):
    path = packed(tmp_path / "dump.7z", {"a.slp": CONTENT}, filters=METHODS["LZMA2"], is_encoded=False)
    streams, header = split(path.read_bytes())
    position = header.index(b"\x21\x21\x01") + 3  # LZMA2 with one byte of properties: 40 is a dictionary of 4 GB
    path.write_bytes(with_header(streams, header[:position] + b"\x28" + header[position + 1 :]))
    (replay,) = listed(path)
    code, message = rejection(replay)
    assert code == "too_much_memory"
    assert "a dictionary of up to 4095 MB, and the reader may take 1024 MB" in message
