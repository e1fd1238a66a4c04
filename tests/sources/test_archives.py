"""Behaviour common to all kinds of archives: members, keys, progress, damage, parsed games."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from pathlib import Path

import pytest
from archive_making import raw_zip, valid_member, write_archive
from source_listing import CODE, GAME_ID, content_or_code, listed, peak_bytes, rejection

from datasets.runtime.errors import UserError
from datasets.sources.archives import decompress
from datasets.sources.reading import read_ahead, read_input
from datasets.sources.scan import Inputs, survey

KINDS = (".zip", ".7z", ".tar", ".tar.gz", ".tar.zst")
CHECKED = (".zip", ".7z")
"""Kinds that hold a checksum of each member."""
REPLAYS = {
    f"set/{CODE}-{number}.slp": bytes([number]) * 3_000 + random.Random(number).randbytes(300) for number in range(1, 6)
}
MEMBERS = {
    "set/empty.slp": b"",
    "set/readme.md": b"no replay",
    **REPLAYS,
    "set/6.slp.gz": gzip.compress(b"six"),
    "set/inner.zip": raw_zip(valid_member("a.slp", b"a")),
}
CONTENTS = [b"", *REPLAYS.values(), b"six"]


@pytest.fixture(params=KINDS)
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The same members in an archive of each kind."""
    return write_archive(tmp_path / f"dump{request.param}", MEMBERS)


def test_every_kind_of_archive_gives_the_same_members(archive):
    inputs = Inputs([str(archive)], lambda key: False)
    found = list(inputs)
    assert [replay.name for replay in found] == [name for name in MEMBERS if name != "set/readme.md"]
    assert [content_or_code(replay) for replay in found] == [*CONTENTS, "nested_archive"]
    assert [(replay.source, replay.member) for replay in found] == [
        (archive.name, number) for number in (0, *range(2, 9))
    ]
    assert inputs.drain_skipped().num_ignored == 1


def test_only_members_that_are_not_done_are_carried_and_the_others_keep_their_keys(archive):
    keys = [replay.key for replay in listed(archive)]
    assert len(set(keys)) == len(keys)
    inputs = Inputs([str(archive)], frozenset(keys[1::2]).__contains__)
    assert [replay.key for replay in inputs] == keys[::2]
    assert inputs.drain_skipped().num_done == len(keys[1::2])


def test_an_archive_that_moved_has_the_same_inputs(archive, tmp_path):
    before = [replay.key for replay in listed(archive)]
    (tmp_path / "elsewhere").mkdir()
    moved = archive.rename(tmp_path / "elsewhere" / archive.name)
    assert [replay.key for replay in listed(moved)] == before


def test_progress_adds_up_to_what_the_survey_says(archive):
    total = survey([str(archive)]).num_bytes
    replays = listed(archive)
    assert sum(replay.num_bytes for replay in replays) == pytest.approx(total, rel=0.02)
    inputs = Inputs([str(archive)], {replay.key for replay in replays}.__contains__)
    assert list(inputs) == []
    assert inputs.drain_skipped().num_bytes == pytest.approx(total, rel=0.02)


def test_an_archive_truncated_anywhere_gives_its_whole_members_and_is_rejected_once(archive):
    whole = archive.read_bytes()
    for size in sorted({0, 1, 20, 31, 511, 512, len(whole) - 1, *range(100, len(whole), len(whole) // 23)}):
        archive.write_bytes(whole[:size])
        found = listed(archive)
        taken = [content for content in map(content_or_code, found) if isinstance(content, bytes)]
        assert taken == CONTENTS[: len(taken)]
        num_named = sum(replay.member == -1 for replay in found)
        has_lost_padding = taken == CONTENTS and archive.suffix not in CHECKED  # a tar may end after its last member
        assert num_named == 1 or (num_named == 0 and has_lost_padding), size
    num_whole = {".zip": len(CONTENTS), ".tar": len(CONTENTS)}.get(archive.suffix, 0)
    assert len(taken) >= num_whole


def test_damage_anywhere_stops_nothing_and_where_there_are_checksums_changes_no_replay(archive):
    whole = archive.read_bytes()
    numbers = random.Random(7)
    for _ in range(100):
        damaged = bytearray(whole)
        for _ in range(numbers.choice((1, 8))):
            damaged[numbers.randrange(len(damaged))] = numbers.randrange(256)
        archive.write_bytes(damaged)
        try:
            assert survey([str(archive)]).num_inputs > 0
        except UserError as error:
            assert CODE not in str(error)
        found = {content for content in map(content_or_code, listed(archive)) if isinstance(content, bytes)}
        assert archive.suffix not in CHECKED or found <= set(CONTENTS)


def test_a_file_that_is_no_archive_is_rejected(archive):
    archive.write_bytes(random.randbytes(5_000))
    (replay,) = listed(archive)
    assert (replay.member, rejection(replay)[0]) == (-1, "unopenable")
    first = replay.key
    archive.write_bytes(random.randbytes(6_000))
    assert listed(archive)[0].key != first


@pytest.mark.parametrize("name", ["/abs/a.slp", "../a.slp", "a/../../a.slp", "..\\a.slp", "C:\\a.slp"])
@pytest.mark.parametrize("kind", [".zip", ".tar", ".tar.gz"])
def test_member_paths_that_leave_the_archives_folder_are_rejected(tmp_path, kind, name):
    unsafe, safe = listed(write_archive(tmp_path / f"dump{kind}", {name: b"x", "a..b/c.slp": b"y"}))
    assert rejection(unsafe)[0] == "unsafe_path"
    assert read_input(safe) == b"y"


def test_a_decompression_bomb_is_rejected_in_bounded_memory_and_the_next_member_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(decompress, "MAX_REPLAY_BYTES", 1 << 20)
    bomb = bytes(64 << 20)
    members = {"a.slp": bomb, "b.slp.gz": gzip.compress(bomb, 1), "c.slp": b"good"}
    paths = [write_archive(tmp_path / f"dump{kind}", members) for kind in KINDS]
    for path in paths:
        found: list[bytes | str] = []
        peak = peak_bytes(lambda path=path, found=found: found.extend(map(content_or_code, listed(path))))
        assert found == ["too_large", "too_large", b"good"], path.name
        assert peak < 24 << 20, path.name  # 16 MB are the dictionary of the 7z


@pytest.mark.parametrize("meta_is_first", [True, False])
def test_parsed_games_in_archives_carry_what_meta_json_says(tmp_path, meta_is_first):
    meta = {"old/meta.json": json.dumps([{"slp_md5": GAME_ID, "stage": 31, "source_file": CODE}]).encode()}
    games = {f"old/games/{GAME_ID}": b"columns", "old/games/readme": b"no game"}
    for kind in KINDS:
        path = write_archive(tmp_path / f"dump{kind}", meta | games if meta_is_first else games | meta)
        (replay,) = listed(path)
        assert (replay.kind, replay.name, read_input(replay)) == ("parsed", GAME_ID, b"columns")
        comes_later = not meta_is_first and kind not in (".zip", ".tar")
        assert replay.meta == (None if comes_later else {"stage": 31})


def test_a_damaged_meta_json_is_rejected_and_its_games_are_read(tmp_path):
    for kind in KINDS:
        path = write_archive(tmp_path / f"dump{kind}", {"meta.json": b"[{,", f"games/{GAME_ID}": b"columns"})
        named, replay = sorted(listed(path), key=lambda replay: replay.member)
        assert rejection(named)[1].startswith("meta.json: JSONDecodeError"), kind
        assert (replay.meta, read_input(replay)) == (None, b"columns")


def test_every_real_archive_is_read_byte_for_byte(real_replays, inventory):
    known = {row["sha256"]: row["set"] for row in inventory}
    for name, number in (("dev.zip", 42), ("edge.zip", 70), ("pool.7z", 73)):
        digests = {hashlib.sha256(read()).hexdigest() for _, read in read_ahead(listed(real_replays / name))}
        assert len(digests & known.keys()) == number


def test_the_real_parsed_sets_are_read_with_their_entries_and_without_names(real_replays):
    for name, number in (("parsed-v2.tar", 5), ("parsed-v3.tar", 7), ("slippi-db-toy.zip", 1)):
        found = listed(real_replays / name)
        assert [replay.kind for replay in found] == ["parsed"] * number
        assert all(replay.meta and "stage" in replay.meta for replay in found)
        assert not {"name", "raw", "source_file"} & {key for replay in found for key in replay.meta or {}}
        assert all(read_input(replay).startswith(b"\x78") for replay in found)  # zlib
