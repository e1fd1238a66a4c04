"""Scans of folders, special and damaged files, and source files that name a corpus' sources."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import pickle
import shutil
import socket
import time
import zipfile
from pathlib import Path

import pyarrow as pa
import pytest
from archive_making import write_archive
from source_listing import CODE, GAME_ID, contents, listed, peak_bytes, rejection

from datasets.legacy.meta_json import Metadata, Readable
from datasets.runtime.errors import ReplayError, UserError
from datasets.sources import storage
from datasets.sources.archives import decompress
from datasets.sources.read_errors import UNREACHABLE, is_transient, rejection_of
from datasets.sources.reading import read_ahead, read_input
from datasets.sources.scan import Inputs, survey
from datasets.sources.source_lists import resolve


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A dump: nested folders, plain and gzipped files, a zip of both, and things that are no replays."""
    root = tmp_path / "dump"
    (root / "b").mkdir(parents=True)
    (root / "b" / "one.slp").write_bytes(b"one")
    (root / "a.slp.gz").write_bytes(gzip.compress(b"two"))
    (root / "notes.txt").write_text("no replay")
    with zipfile.ZipFile(root / "c.zip", "w") as archive:
        archive.writestr("z/four.slp", b"four")
        archive.writestr("readme.md", b"no replay")
        archive.writestr("three.slp.gz", gzip.compress(b"three"))
    return root


def test_all_replays_of_a_folder_are_found_in_the_order_of_their_names(folder):
    inputs = Inputs([str(folder)], lambda key: False)
    found = list(inputs)
    assert [read_input(replay) for replay in found] == [b"two", b"one", b"four", b"three"]
    assert inputs.drain_skipped().num_ignored == 2
    assert [(replay.source, replay.member, replay.name) for replay in found] == [
        ("dump", 0, "a.slp.gz"), ("dump", 1, "b/one.slp"), ("c.zip", 0, "z/four.slp"), ("c.zip", 2, "three.slp.gz"),
    ]  # fmt: skip


def test_a_survey_counts_what_a_scan_then_finds(folder):
    found = survey([str(folder)])
    assert found.num_inputs == 4
    assert found.num_bytes == sum(replay.num_bytes for replay in listed(folder))


def test_listing_twice_gives_the_same_keys(folder):
    first, second = listed(folder), listed(folder)
    assert first == second
    assert len({replay.key for replay in first}) == len(first)
    assert all(len(replay.key) == 24 and int(replay.key, 16) >= 0 for replay in first)


def test_inputs_that_are_done_are_skipped_and_counted_and_change_no_other_input(folder):
    every = listed(folder)
    for done in every:
        inputs = Inputs([str(folder)], done.key.__eq__)
        assert list(inputs) == [replay for replay in every if replay != done]
        passed = inputs.drain_skipped()
        assert (passed.num_done, passed.num_bytes, passed.num_ignored) == (1, done.num_bytes, 2)
        assert inputs.drain_skipped().num_ignored == 0


def test_a_source_named_twice_is_listed_once(folder):
    assert len(listed(folder, folder, folder / "c.zip", f"{folder}/../dump", f"file://{folder}")) == 4


def test_inputs_can_be_pickled(folder):
    replays = listed(folder)
    assert pickle.loads(pickle.dumps(replays)) == replays


def test_a_changed_file_is_a_new_input(folder):
    before = {replay.key for replay in listed(folder)}
    (folder / "b" / "one.slp").write_bytes(b"another")
    assert len(before & {replay.key for replay in listed(folder)}) == 3


def test_suffixes_are_read_in_any_case_and_the_resource_forks_of_macos_are_ignored(tmp_path):
    (tmp_path / "A.SLP").write_bytes(b"one")
    (tmp_path / "b.Slp.Gz").write_bytes(gzip.compress(b"two"))
    (tmp_path / "._A.SLP").write_bytes(b"icon")
    assert contents(tmp_path) == [b"one", b"two"]


def test_reading_ahead_gives_every_input_in_order_with_its_bytes_or_its_rejection(folder):
    (folder / "a1.slp.gz").write_bytes(b"no gzip")
    found = list(read_ahead(listed(folder)))
    assert [replay.name for replay, _ in found] == [
        "a.slp.gz", "a1.slp.gz", "b/one.slp", "z/four.slp", "three.slp.gz",
    ]  # fmt: skip
    with pytest.raises(ReplayError, match="no gzip file, or a damaged one"):
        found[1][1]()
    assert [read() for _, read in [found[0], *found[2:]]] == [b"two", b"one", b"four", b"three"]


def test_a_truncated_gzip_is_rejected(tmp_path):
    (tmp_path / f"{CODE}.slp.gz").write_bytes(gzip.compress(os.urandom(5_000))[:-2_000])
    (replay,) = listed(tmp_path)
    assert rejection(replay) == (
        "unopenable",
        "EOFError: Compressed file ended before the end-of-stream marker was reached",
    )


def test_a_gzip_of_several_members_is_one_replay(tmp_path):
    (tmp_path / "a.slp.gz").write_bytes(gzip.compress(b"one ") + gzip.compress(b"two") + bytes(512))
    assert contents(tmp_path) == [b"one two"]


def test_a_gzip_bomb_is_rejected_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(decompress, "MAX_REPLAY_BYTES", 1 << 20)
    (tmp_path / "a.slp.gz").write_bytes(gzip.compress(bytes(200 << 20), 1))
    (replay,) = listed(tmp_path)
    assert peak_bytes(lambda: rejection(replay)) < 8 << 20
    assert rejection(replay) == ("too_large", "more than 1 MB uncompressed")


def test_a_file_larger_than_any_replay_is_rejected_unread(folder, monkeypatch):
    monkeypatch.setattr(decompress, "MAX_REPLAY_BYTES", 2)
    assert {rejection(replay)[0] for replay in listed(folder)} == {"too_large"}
    assert [replay.rejection is not None for replay in listed(folder)] == [True] * 4


def test_an_empty_file_is_an_input_without_bytes(tmp_path):
    (tmp_path / "a.slp").write_bytes(b"")
    assert contents(tmp_path) == [b""]


def test_files_deleted_changed_or_replaced_by_pipes_after_the_listing_stop_nothing(tmp_path):
    for name in "abc":
        (tmp_path / f"{CODE}{name}.slp").write_bytes(b"old")
    gone, changed, pipe = listed(tmp_path)
    Path(gone.container).unlink()
    Path(changed.container).write_bytes(b"new and longer")
    Path(pipe.container).unlink()
    os.mkfifo(pipe.container)
    assert rejection(gone) == (UNREACHABLE, "FileNotFoundError: No such file or directory")
    assert read_input(changed) == b"new and longer"
    assert rejection(pipe) == ("unopenable", "not a regular file")


def test_cyclic_and_dangling_links_do_not_end_the_scan(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.slp").write_bytes(b"one")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "c.slp").symlink_to(tmp_path / "c.slp")
    (tmp_path / "d.slp").symlink_to(tmp_path / "nowhere")
    (tmp_path / "e.slp").symlink_to(tmp_path / "a" / "one.slp")
    one, circle, nowhere = listed(tmp_path)
    assert read_input(one) == b"one"
    assert rejection(circle) == ("unopenable", "OSError: Too many levels of symbolic links")
    assert rejection(nowhere) == ("unopenable", "FileNotFoundError: No such file or directory")


def test_special_files_are_rejected_and_never_block(tmp_path):
    os.mkfifo(tmp_path / "a.slp")
    os.mkfifo(tmp_path / "b.zip")
    (tmp_path / "c.slp").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "ignored")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "d.slp"))
        found = [(replay.name, rejection(replay)) for replay in listed(tmp_path)]
    assert found == [
        ("a.slp", ("unopenable", "a pipe, not a file")),
        ("b.zip", ("unopenable", "a pipe, not a file")),
        ("c.slp", ("unopenable", "a device, not a file")),
        ("d.slp", ("unopenable", "a socket, not a file")),
    ]


def test_a_file_with_transient_read_errors_is_retried_and_then_left_for_the_next_run(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "RETRY_AFTER_S", (0.01, 0.01))
    (tmp_path / "a.slp").symlink_to("/proc/self/mem")  # reading it is an I/O error
    (replay,) = listed(tmp_path)
    assert rejection(replay)[0] == UNREACHABLE


@pytest.mark.parametrize(
    ("error", "location", "expected"),
    [
        (OSError(errno.EIO, ""), "/a.slp", True),
        (OSError(errno.ESTALE, ""), "/a.slp", True),
        (OSError(errno.ENOTCONN, ""), "/a.slp", True),
        (PermissionError(errno.EACCES, ""), "/a.slp", True),
        (FileNotFoundError(errno.ENOENT, ""), "/a.slp", True),
        (MemoryError(), "", True),
        (ReplayError(UNREACHABLE, ""), "", True),
        (OSError("AWS Error SLOW_DOWN during GetObject operation"), "s3://bucket/a.slp", True),
        (OSError(errno.ELOOP, ""), "/a.slp", False),
        (OSError("ZSTD decompression failed"), "", False),
        (gzip.BadGzipFile("Not a gzipped file"), "", False),
        (EOFError(), "", False),
        (ReplayError("wrong_size", ""), "", False),
    ],
)
def test_an_outage_is_told_from_damage(error, location, expected):
    assert is_transient(error, location) == expected
    assert (rejection_of(error, location)[0] == UNREACHABLE) == expected


def test_files_on_a_disk_that_is_gone_are_not_all_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "RETRY_AFTER_S", (0.05, 0.05))
    for number in range(60):
        (tmp_path / f"{number:02}.slp").symlink_to("/proc/self/mem")  # reading it is an I/O error
    (tmp_path / "good.slp").write_bytes(b"good")
    *lost, good = listed(tmp_path)
    started = time.monotonic()
    assert {rejection(replay)[0] for replay in lost} == {UNREACHABLE}
    assert time.monotonic() - started < 60 * 0.1 / 2
    assert read_input(good) == b"good"


@pytest.mark.parametrize("kind", ["", ".zip", ".tar"])
def test_parsed_games_wait_for_a_meta_json_that_cannot_be_read_for_now(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(storage, "RETRY_AFTER_S", ())
    root = parsed_folder(tmp_path / "parsed")
    if kind:
        members = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        shutil.rmtree(root)
        root = write_archive(tmp_path / f"dump{kind}", members)
    whole = {replay.key: replay.meta for replay in listed(root) if replay.kind == "parsed"}
    assert list(whole.values()) == [{"stage": 31, "players": [{"port": 0}]}]
    read = Metadata.read

    def failing(table: Metadata, file: Readable) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Metadata, "read", failing)
    (game,) = (replay for replay in listed(root) if replay.kind == "parsed")
    assert rejection(game) == (UNREACHABLE, "meta.json: OSError: Input/output error")
    monkeypatch.setattr(Metadata, "read", read)
    assert {replay.key: replay.meta for replay in listed(root) if replay.kind == "parsed"} == whole


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_and_folders_without_permission_are_rejected(tmp_path):
    (tmp_path / "a.slp").write_bytes(b"secret")
    (tmp_path / "a.slp").chmod(0)
    (tmp_path / "b").mkdir(mode=0)
    (tmp_path / "c.zip").write_bytes(b"secret")
    (tmp_path / "c.zip").chmod(0)
    assert [rejection(replay)[1].rsplit(": ", 1)[1] for replay in listed(tmp_path)] == ["Permission denied"] * 3
    (tmp_path / "b").chmod(0o700)


def test_a_folder_that_cannot_be_listed_is_rejected_and_its_neighbours_are_read(tmp_path):
    (tmp_path / "z.slp").write_bytes(b"after it")
    inner = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(20):  # a path longer than the system takes in one call
            os.mkdir("d" * 250, dir_fd=inner)
            below = os.open("d" * 250, os.O_RDONLY, dir_fd=inner)
            os.close(inner)
            inner = below
    finally:
        os.close(inner)
    unlisted, after = listed(tmp_path)
    assert rejection(unlisted) == ("unopenable", "OSError: File name too long")
    assert read_input(after) == b"after it"


def test_files_whose_names_are_not_utf8_are_read_and_their_names_can_be_stored(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.slp")).write_bytes(b"one")
    with zipfile.ZipFile(tmp_path / os.fsdecode(b"dump\xff.zip"), "w") as archive:
        archive.writestr("two.slp", b"two")
    found = listed(tmp_path)
    assert [read_input(replay) for replay in found] == [b"one", b"two"]
    assert pa.array([replay.name for replay in found] + [found[1].source]).to_pylist() == [
        "caf\ufffd.slp", "two.slp", "dump\ufffd.zip",
    ]  # fmt: skip
    assert pickle.loads(pickle.dumps(found)) == found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dump.rar", "unsupported archive format .rar; repack it as .zip or .7z"),
        ("game.slpz", "unsupported compressed replay .slpz; decompress it to .slp"),
        ("Game.ZLP", "unsupported compressed replay .zlp; decompress it to .slp"),
    ],
)
def test_unsupported_archives_and_compressed_replays_are_rejected_rather_than_ignored(tmp_path, name, message):
    path = tmp_path / "folder" / name
    path.parent.mkdir()
    path.write_bytes(b"x")
    for source in (path.parent, path):
        (replay,) = listed(source)
        assert (replay.member, rejection(replay)) == (-1, ("unopenable", message))
    with pytest.raises(UserError, match=message):
        survey([str(path)])
    inside, good = listed(write_archive(tmp_path / "dump.zip", {name: b"x", "good.slp": b"y"}))
    assert rejection(inside)[0] in ("unopenable", "nested_archive")
    assert read_input(good) == b"y"


def test_a_link_to_a_folder_above_the_source_is_not_followed(tmp_path):
    source = tmp_path / "dumps" / "mine"
    source.mkdir(parents=True)
    (tmp_path / "other.slp").write_bytes(b"not named")
    (tmp_path / "dumps" / "linked").mkdir()
    (tmp_path / "dumps" / "linked" / "b.slp").write_bytes(b"beside")
    (source / "a.slp").write_bytes(b"named")
    (source / "up").symlink_to("../..")
    (source / "beside").symlink_to("../linked")
    assert sorted(contents(source)) == [b"beside", b"named"]


def parsed_folder(root: Path, game_id: str = GAME_ID) -> Path:
    """The older pipeline's output, for one game."""
    (root / "games").mkdir(parents=True)
    (root / "games" / game_id).write_bytes(b"columns")
    (root / "games" / "notes").write_bytes(b"no game")
    players = [{"port": 0, "name_tag": CODE, "netplay": {"code": CODE}}]
    entry = {"slp_md5": game_id, "stage": 31, "source_file": CODE, "players": players}
    (root / "meta.json").write_text(json.dumps([entry]))
    return root


def test_parsed_games_are_recognised_and_carry_what_meta_json_says_without_names(tmp_path):
    parsed_folder(tmp_path / "parsed")
    for source in (tmp_path, tmp_path / "parsed", tmp_path / "parsed" / "games"):
        (replay,) = listed(source)
        assert (replay.kind, replay.name) == ("parsed", GAME_ID)
        assert replay.meta == {"stage": 31, "players": [{"port": 0}]}
        assert read_input(replay) == b"columns"


def test_parsed_games_without_meta_json_are_read_and_a_damaged_one_is_rejected(tmp_path):
    root = parsed_folder(tmp_path)
    (root / "meta.json").write_text("[{]")
    named, replay = listed(root)
    assert rejection(named)[1].startswith("meta.json: JSONDecodeError")
    assert (replay.meta, read_input(replay)) == (None, b"columns")
    (root / "meta.json").unlink()
    assert listed(root) == [replay]


def test_a_large_meta_json_takes_little_memory(tmp_path):
    root = parsed_folder(tmp_path)
    ids = [hashlib.md5(str(number).encode()).hexdigest() for number in range(30_000)]
    rows = [{"slp_md5": name, "stage": number, "raw": "x" * 600} for number, name in enumerate([*ids, GAME_ID])]
    (root / "meta.json").write_text(json.dumps(rows, indent=1))
    del rows
    assert (root / "meta.json").stat().st_size > 20e6
    assert peak_bytes(lambda: listed(root)) < 8e6
    assert listed(root)[0].meta == {"stage": 30_000}


def test_an_unsupported_source_is_an_error_that_lists_the_supported_ones(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for place in (folder / "nowhere", folder / "notes.txt", tmp_path / "empty"):
        with pytest.raises(UserError, match=r"\.zip"):
            survey([str(place)])


def test_a_source_deleted_after_the_survey_is_left_for_the_next_run(folder):
    survey([str(folder)])
    shutil.rmtree(folder)
    (replay,) = listed(folder)
    assert rejection(replay) == (
        UNREACHABLE, "listing incomplete: FileNotFoundError: No such file or directory",
    )  # fmt: skip


def test_a_source_file_expands_to_its_sources(tmp_path, monkeypatch):
    monkeypatch.setenv("DUMPS", "s3://bucket")
    monkeypatch.setenv("HOME", "at-home")
    path = tmp_path / "mine.yaml"
    path.write_text("description: mine\nsources: ['${DUMPS}/a.zip', ~/Slippi, b]\n")
    assert resolve([str(path), "c/d.zip"]) == ["s3://bucket/a.zip", "at-home/Slippi", "b", "c/d.zip"]


def test_a_shipped_name_is_a_source_unless_a_folder_of_that_name_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MELEE_RANKED", "a.zip")
    assert resolve(["ranked"]) == ["a.zip"]
    (tmp_path / "ranked").mkdir()
    assert resolve(["ranked"]) == ["ranked"]
    with pytest.raises(UserError, match="ranked, slippi"):
        resolve(["unheard-of"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources: [a]\nfilter: x", "filter: unknown; expected description and sources"),
        ("sources: []", r"sources: found \[\], expected a list"),
        ("sources: a", "sources: found 'a', expected a list"),
        ("sources: [a, 3]", "sources.1: found 3, expected a path or URI"),
        ("sources: ['$UNSET_ONE/a']", "sources.0: found .UNSET_ONE, which is not set"),
        ("sources: [a]\ndescription: 3", "description: found 3, expected text"),
        ("[a", "invalid YAML"),
        ("a", "found str, expected the keys"),
    ],
)
def test_a_wrong_source_file_is_an_error_that_says_where(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=f"mine.yaml: {message}"):
        resolve([str(path)])


def test_a_source_on_a_disk_that_fails_is_an_outage_and_not_missing(folder, monkeypatch):
    monkeypatch.setattr(storage, "RETRY_AFTER_S", ())
    failing, real_stat = str(folder), os.stat

    def stat(path, *arguments, **options):
        if path == failing:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real_stat(path, *arguments, **options)

    monkeypatch.setattr(os, "stat", stat)
    found = survey([failing])
    assert (found.num_inputs, found.ranged_sources) == (1, ())
    (replay,) = listed(folder)
    assert rejection(replay) == (UNREACHABLE, "listing incomplete: OSError: Input/output error")


def test_a_path_below_a_file_does_not_exist(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="does not exist"):
        survey([str(tmp_path / "file" / "x.slp")])
