"""Zips: methods, wrong fields, 64-bit fields, large directories, recovery of truncated archives."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from archive_making import RawMember, raw_zip, valid_member, zstd
from source_listing import CODE, contents, listed, peak_bytes, rejection

from datasets.sources.archives import decompress
from datasets.sources.reading import read_input
from datasets.sources.scan import Inputs, survey

CONTENT = b"a replay " * 500


def zipped(tmp_path: Path, *members: RawMember, **options) -> Path:
    """A raw zip on disk."""
    path = tmp_path / "dump.zip"
    path.write_bytes(raw_zip(*members, **options))
    return path


def deflated(content: bytes) -> bytes:
    """Raw deflate, as zips hold it."""
    return zlib.compress(content)[2:-4]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_are_read_as_python_writes_them(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "dump.zip", "w", method) as archive:
        archive.writestr("a.slp", CONTENT)
        archive.writestr("b.slp.gz", gzip.compress(CONTENT))
    assert contents(tmp_path / "dump.zip") == [CONTENT, CONTENT]


@pytest.mark.parametrize("method", [93, 20])
def test_zstd_members_of_one_or_several_frames_are_read(tmp_path, method):
    member = valid_member("a.slp", CONTENT, method, zstd(CONTENT[:100]) + zstd(CONTENT[100:]))
    assert contents(zipped(tmp_path, member)) == [CONTENT]


@pytest.mark.parametrize(("method", "name"), [(9, "deflate64"), (98, "ppmd"), (77, "unknown")])
def test_a_method_that_is_not_read_is_named(tmp_path, method, name):
    unread, good = listed(zipped(tmp_path, valid_member("a.slp", CONTENT, method), valid_member("b.slp", CONTENT)))
    assert rejection(unread)[1].startswith(f"compression method {method} ({name})")
    assert read_input(good) == CONTENT


def test_an_archive_with_data_descriptors_is_read(tmp_path):
    class Unseekable(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            return file.write(data)

    file = (tmp_path / "dump.zip").open("wb")
    with file, zipfile.ZipFile(Unseekable(), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.slp", CONTENT)
    assert contents(tmp_path / "dump.zip") == [CONTENT]


def test_members_of_the_same_name_are_both_read(tmp_path):
    assert contents(zipped(tmp_path, valid_member("a.slp", b"one"), valid_member("a.slp", b"two"))) == [b"one", b"two"]


def test_data_before_and_after_the_archive_is_skipped(tmp_path):
    path = zipped(tmp_path, valid_member("a.slp", CONTENT), prefix=b"#!/bin/sh a program that unpacks itself")
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"a comment"
    assert contents(path) == [CONTENT]


def test_fields_of_64_bits_are_read(tmp_path):
    members = [valid_member("a.slp", b"one"), valid_member("b.slp", b"two")]
    members[1].is_zip64 = True
    assert contents(zipped(tmp_path, *members, is_zip64=True)) == [b"one", b"two"]
    assert contents(zipped(tmp_path, *members, prefix=b"prefix", is_zip64=True)) == [b"one", b"two"]


def test_a_local_header_longer_than_expected_is_read_over(tmp_path):
    path = tmp_path / "dump.zip"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("a" * 300 + ".slp")
        info.extra = struct.pack("<2H", 0x9999, 5_000) + bytes(5_000)
        archive.writestr(info, CONTENT)
    assert contents(path) == [CONTENT]


def test_an_encrypted_member_is_rejected_and_its_neighbour_is_read(tmp_path):
    secret = valid_member(f"{CODE}.slp", CONTENT)
    secret.flags = 1
    rejected, good = listed(zipped(tmp_path, secret, valid_member("b.slp", b"good")))
    assert rejection(rejected) == ("encrypted", "the member is encrypted")
    assert read_input(good) == b"good"


@pytest.mark.parametrize("num_bytes", [len(CONTENT) - 1, len(CONTENT) + 1, 0])
@pytest.mark.parametrize("method", [0, 8, 12, 93])
def test_a_member_that_states_a_wrong_size_is_rejected(tmp_path, num_bytes, method):
    stored = {0: CONTENT, 8: deflated(CONTENT), 12: bz2.compress(CONTENT), 93: zstd(CONTENT)}[method]
    member = valid_member("a.slp", CONTENT, method, stored)
    member.num_bytes = num_bytes
    (replay,) = listed(zipped(tmp_path, member))
    assert rejection(replay)[0] == "wrong_size"


def test_a_member_whose_checksum_is_wrong_is_rejected_and_its_neighbours_are_read(tmp_path):
    members = [valid_member(f"{CODE}-{text}.slp", text.encode() * 20) for text in ("one", "two", "three")]
    path = zipped(tmp_path, *members)
    path.write_bytes(path.read_bytes().replace(b"two" * 20, b"two" * 19 + b"xxx"))
    one, two, three = listed(path)
    assert (read_input(one), read_input(three)) == (b"one" * 20, b"three" * 20)
    assert rejection(two) == ("wrong_size", "CRC mismatch between the member and the archive's directory")


def test_a_decompression_bomb_that_states_a_small_size_is_rejected_in_little_memory(tmp_path):
    for method, stored in ((8, deflated(bytes(64 << 20))), (12, bz2.compress(bytes(64 << 20)))):
        member = valid_member("a.slp", bytes(1_000), method, stored)
        (replay,) = listed(zipped(tmp_path, member))
        assert peak_bytes(lambda replay=replay: rejection(replay)) < 4 << 20
        assert rejection(replay)[0] == "wrong_size"


def test_a_member_stored_in_more_bytes_than_any_replay_is_rejected_unread(tmp_path):
    member = valid_member("a.slp", b"x", 8)
    member.stored_bytes = decompress.MAX_REPLAY_BYTES + 1
    (replay,) = listed(zipped(tmp_path, member))
    assert replay.rejection is not None
    assert replay.rejection[0] == "too_large"


def test_a_member_that_lies_outside_of_the_archive_is_rejected(tmp_path):
    member = valid_member("a.slp", b"x")
    member.stored_bytes = member.num_bytes = 50_000
    (replay,) = listed(zipped(tmp_path, member))
    assert rejection(replay) == ("unopenable", "the archive ends within this member")


def test_workers_read_members_without_the_directory(tmp_path):
    path = zipped(tmp_path, valid_member("a.slp", CONTENT), valid_member("b.slp", b"two"))
    found = listed(path)
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"PK\1\2")])
    assert [read_input(replay) for replay in found] == [CONTENT, b"two"]


def test_an_archive_replaced_after_the_listing_gives_no_wrong_bytes(tmp_path):
    path = zipped(tmp_path, valid_member("a.slp", b"old"))
    (replay,) = listed(path)
    zipped(tmp_path, valid_member("a.slp", b"new"))
    assert rejection(replay)[0] == "wrong_size"
    assert contents(path) == [b"new"]


def test_a_member_in_another_part_of_a_split_archive_is_rejected(tmp_path):
    path = zipped(tmp_path, valid_member("a.slp", b"x"), valid_member("b.slp", b"y"))
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\1\2") + 34] = 3
    path.write_bytes(content)
    elsewhere, here = listed(path)
    assert rejection(elsewhere)[1] == "the archive is split and the member is in another part; join the parts first"
    assert read_input(here) == b"y"


def test_a_disk_number_that_is_in_the_64_bit_field_is_read(tmp_path):
    name, extra = b"a.slp", struct.pack("<2HQL", 1, 12, len(CONTENT), 0)  # APPNOTE 4.5.3: uncompressed size, disk
    local = struct.pack(
        "<4s5H3L2H", b"PK\3\4", 45, 0, 0, 0, 0x21, zlib.crc32(CONTENT), len(CONTENT), len(CONTENT), 5, 0
    )
    facts = (45, 45, 0, 0, 0, 0x21, zlib.crc32(CONTENT), len(CONTENT), 0xFFFFFFFF, len(name), len(extra))
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", *facts, 0, 0xFFFF, 0, 0, 0) + name + extra
    start = len(local + name + CONTENT)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, len(entry), start, 0)
    (tmp_path / "dump.zip").write_bytes(local + name + CONTENT + entry + end)
    assert contents(tmp_path / "dump.zip") == [CONTENT]


def test_disk_numbers_in_the_64_bit_field_are_read(real_replays):
    found = listed(real_replays / "found" / "zip64_disk.zip")
    assert [len(read_input(replay)) for replay in found] == [652_353, 652_354, 652_354]


def test_members_behind_a_damaged_directory_entry_are_read_and_the_archive_is_rejected_once(tmp_path):
    path = zipped(tmp_path, *(valid_member(f"{number}.slp", b"x") for number in range(9)))
    keys = [replay.key for replay in listed(path)]
    content = path.read_bytes()
    fifth = [at for at in range(len(content)) if content.startswith(b"PK\1\2", at)][4]
    path.write_bytes(content[:fifth] + b"xxxx" + content[fifth + 4 :])
    rejected, *found = listed(path)
    assert [replay.key for replay in found] == keys
    assert rejection(rejected) == (
        "unopenable", "the archive is cut off or damaged, or no zip: its directory cannot be read",
    )  # fmt: skip


def test_whole_members_of_a_streamed_archive_that_is_cut_off_are_read(real_replays):
    rejected, *found = listed(real_replays / "found" / "streamed_cut.zip")
    assert [len(read_input(replay)) for replay in found] == [652_353, 652_354]
    assert rejected.member == -1


@pytest.mark.parametrize("layout", ["<4s3L", "<4sL2Q"])
def test_data_descriptors_of_32_and_64_bits_are_found_among_false_ones(tmp_path, layout):
    first = os.urandom(1_048_570) + b"PK\7\x08" + os.urandom(3_000)  # across the end of a block that is read
    content = b""
    for name, member in ((b"a.slp", first), (b"b.slp", b"two"), (b"c.slp", b"cut off")):
        content += struct.pack("<4s5H3L2H", b"PK\3\4", 45, 8, 0, 0, 0x21, 0, 0, 0, len(name), 0) + name + member
        content += struct.pack(layout, b"PK\7\x08", zlib.crc32(member), len(member), len(member))
    (tmp_path / "dump.zip").write_bytes(content[:-20])
    assert [read_input(replay) for replay in listed(tmp_path / "dump.zip")[1:]] == [first, b"two"]


def test_the_directory_of_a_large_zip_takes_less_than_a_kilobyte_for_each_member(tmp_path):
    path = tmp_path / "dump.zip"
    number = 66_000  # more than fit the fields of 16 bits
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(number):
            archive.writestr(f"a-folder/with-a-long-name-{index:06}.slp", b"x")
    assert survey([str(path)]).num_inputs == number
    inputs = iter(Inputs([str(path)], lambda key: False))
    assert peak_bytes(lambda: [next(inputs) and None for _ in range(5_000)]) < 66e6


def test_a_link_in_a_zip_is_not_followed(tmp_path):
    info = zipfile.ZipInfo("a.slp")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "dump.zip", "w") as archive:
        archive.writestr(info, os.fsencode(tmp_path / "secret"))
    (tmp_path / "secret").write_bytes(b"secret")
    assert contents(tmp_path / "dump.zip") != [b"secret"]
