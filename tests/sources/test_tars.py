"""Tars: formats, links, damaged headers, streams."""

from __future__ import annotations

import errno
import gzip
import io
import os
import tarfile
import time

import pytest
from archive_making import tar_bytes, write_archive, zstd
from source_listing import CODE, contents, listed, peak_bytes, rejection

from datasets.sources import storage
from datasets.sources.read_errors import UNREACHABLE
from datasets.sources.reading import read_input
from datasets.sources.scan import Inputs

LONG = "a-folder/" * 40 + "a.slp"


@pytest.fixture(params=[".tar", ".tar.gz"])
def kind(request: pytest.FixtureRequest) -> str:
    """A tar that can be sought in, and one that cannot."""
    return request.param


def packed(tmp_path, kind: str, content: bytes):
    """A tar's bytes as a file of that kind."""
    path = tmp_path / f"dump{kind}"
    path.write_bytes(content if kind == ".tar" else gzip.compress(content))
    return path


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_and_names_beyond_ascii_are_read(tmp_path, kind, form):
    members = {LONG: b"long", "café.slp": b"accent", "b.slp": b"plain"}
    path = packed(tmp_path, kind, tar_bytes(members, form))
    assert {replay.name: read_input(replay) for replay in listed(path)} == members


def test_the_oldest_form_is_read(tmp_path, kind):
    assert contents(packed(tmp_path, kind, tar_bytes({"a.slp": b"x"}, tarfile.USTAR_FORMAT))) == [b"x"]


def test_a_name_that_is_no_utf8_is_read(tmp_path, kind):
    content = tar_bytes({"caf\udce9.slp": b"x"}, tarfile.GNU_FORMAT)
    (replay,) = listed(packed(tmp_path, kind, content))
    assert (replay.name, read_input(replay)) == ("caf\ufffd.slp", b"x")


def test_a_size_in_an_extended_header_counts(tmp_path, kind):
    info = tarfile.TarInfo("a.slp")
    info.size, info.pax_headers = 600, {"size": "600"}
    content = bytearray(info.tobuf(tarfile.PAX_FORMAT) + bytes(b"x" * 600).ljust(1024, b"\0") + bytes(1024))
    plain = content.index(b"a.slp", 1024)
    content[plain + 124 : plain + 136] = b"00000000003\0"
    content[plain + 148 : plain + 156] = b" " * 8
    content[plain + 148 : plain + 156] = b"%06o\0 " % sum(content[plain : plain + 512])
    assert contents(packed(tmp_path, kind, bytes(content))) == [b"x" * 600]


@pytest.mark.parametrize(
    ("type_", "message"),
    [
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.LNKTYPE, "a link to another member"),
        (tarfile.FIFOTYPE, "a pipe"),
        (tarfile.CHRTYPE, "a device"),
    ],
)
def test_a_member_that_is_no_regular_file_is_rejected_and_its_neighbour_is_read(tmp_path, kind, type_, message):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        info = tarfile.TarInfo(f"{CODE}.slp")
        info.type, info.linkname = type_, "secret"
        archive.addfile(info)
        folder = tarfile.TarInfo("folder.slp")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        good = tarfile.TarInfo("good.slp")
        good.size = 4
        archive.addfile(good, io.BytesIO(b"good"))
    odd, after = listed(packed(tmp_path, kind, file.getvalue()))
    assert rejection(odd) == ("unsafe_path", message)
    assert read_input(after) == b"good"


def test_a_sparse_file_is_rejected_and_its_neighbour_is_read(tmp_path, kind):
    info = tarfile.TarInfo("a.slp")
    info.size, info.pax_headers = 512, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.slp"}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info, io.BytesIO(b"1\n0\n5\n".ljust(512, b"\0")))
        good = tarfile.TarInfo("good.slp")
        archive.addfile(good, io.BytesIO())
    sparse, after = listed(packed(tmp_path, kind, file.getvalue()))
    assert rejection(sparse)[1] == "a sparse file; pack it as a plain one"
    assert read_input(after) == b""


def test_members_behind_a_damaged_header_are_read_and_the_archive_is_rejected(tmp_path, kind):
    content = bytearray(tar_bytes({f"{number}.slp": bytes(700) for number in range(5)}, tarfile.GNU_FORMAT))
    second = content.index(b"1.slp")
    content[second : second + 512] = b"\xaa" * 512
    found = listed(packed(tmp_path, kind, bytes(content)))
    assert [replay.name for replay in found[:-1]] == ["0.slp", "2.slp", "3.slp", "4.slp"]
    assert rejection(found[-1]) == ("unopenable", f"the archive has a damaged header at byte {second}")


def test_a_member_that_states_a_larger_size_than_the_archive_is_rejected(tmp_path, kind):
    content = tar_bytes({"a.slp": b"x", "b.slp": bytes(100)}, tarfile.GNU_FORMAT)
    header = tarfile.TarInfo("b.slp")
    header.size = 50_000
    second = content.index(b"b.slp")
    content = content[:second] + header.tobuf(tarfile.GNU_FORMAT) + content[second + 512 :]
    good, lies, whole = listed(packed(tmp_path, kind, content))
    assert read_input(good) == b"x"
    assert rejection(lies)[0] == "unopenable"
    assert (whole.member, rejection(whole)) == (-1, ("unopenable", "the archive is cut off"))


def test_a_truncated_member_is_another_input_in_the_complete_archive(tmp_path):
    path = write_archive(tmp_path / "dump.tar", {"a.slp": b"x" * 5_000})
    content = path.read_bytes()
    path.write_bytes(content[:3_000])
    rejected = frozenset(replay.key for replay in listed(path))
    path.write_bytes(content)
    assert [read_input(replay) for replay in listed(path, done=rejected)] == [b"x" * 5_000]


def test_compressed_tars_of_several_pieces_are_read(tmp_path):
    content = tar_bytes({"a.slp": b"one", "b.slp": bytes(5_000)})
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(content[:700]) + gzip.compress(content[700:]))
    (tmp_path / "b.tar.zst").write_bytes(zstd(content[:700]) + zstd(content[700:]))
    assert contents(tmp_path / "a.tar.gz") == contents(tmp_path / "b.tar.zst") == [b"one", bytes(5_000)]


def test_one_member_of_a_stream_is_in_memory_at_a_time(tmp_path):
    members = {f"{number}.slp": bytes([number]) * 2_000_000 for number in range(20)}
    for kind in (".tar.gz", ".tar.zst", ".7z"):
        path = write_archive(tmp_path / f"dump{kind}", members)

        def scan(path=path) -> None:
            assert sum(len(replay.content or b"") for replay in Inputs([str(path)], lambda key: False)) == 40_000_000

        assert peak_bytes(scan) < 27e6, kind  # of which the 7z's dictionary is 16


def test_listing_a_local_tar_reads_only_its_headers(tmp_path, monkeypatch):
    path = write_archive(tmp_path / "dump.tar", {f"{number}.slp": bytes(1_000_000) for number in range(30)})
    read, num_bytes = os.pread, 0

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        nonlocal num_bytes
        num_bytes += size
        return read(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", counted)
    assert len(listed(path)) == 30
    assert num_bytes < 32 * 5_000


def test_a_transient_read_error_is_retried_and_then_leaves_the_archive_for_the_next_run(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "RETRY_AFTER_S", (0.01, 0.01))
    members = {f"{number}.slp": os.urandom(2_000_000) for number in range(4)}
    path = write_archive(tmp_path / "dump.tar.gz", members)
    keys = [replay.key for replay in listed(path)]
    read, num_errors = os.pread, 2

    def failing(descriptor: int, size: int, offset: int) -> bytes:
        nonlocal num_errors
        if offset > 4_500_000 and num_errors:
            num_errors -= 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", failing)
    assert contents(path) == list(members.values())
    num_errors = 100
    found = listed(path)
    assert [read_input(replay) for replay in found if replay.rejection is None] == list(members.values())[:2]
    assert {rejection(replay)[0] for replay in found if replay.rejection is not None} == {UNREACHABLE}
    num_errors = 0
    done = frozenset(replay.key for replay in found if replay.rejection is None)
    assert [replay.key for replay in listed(path, done=done)] == keys[2:]


def test_a_header_with_a_long_number_costs_no_time(tmp_path, kind):
    info = tarfile.TarInfo("a.slp")
    info.pax_headers = {"comment": "1" * 900_000}  # quadratic in tarfile before Python 3.11.10 (CVE-2024-6232)
    started = time.process_time()
    content = tar_bytes({"good.slp": b"x"})[:1024] + info.tobuf(tarfile.PAX_FORMAT) + bytes(1024)
    good, rejected = listed(packed(tmp_path, kind, content))
    assert read_input(good) == b"x"
    assert rejection(rejected) == ("unopenable", "a header with a number of 100 digits")
    assert time.process_time() - started < 5
