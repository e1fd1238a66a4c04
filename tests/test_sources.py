"""What is found in folders and archives, and what damaged ones do."""

from __future__ import annotations

import gzip
import os
import zipfile
from pathlib import Path

import pytest

from datasets import sources
from datasets.errors import ReplayError, UserError
from datasets.sources import list_inputs, read_input

CODE = "SOME#123"
"""Stands for a connect code in a file's name."""


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


def contents(*places: Path) -> list[bytes]:
    """The bytes of all inputs, in listing order."""
    return [read_input(replay) for replay in list_inputs(places).inputs]


def code_and_message(place: Path) -> tuple[str, str]:
    """How the only input of a source is refused."""
    (replay,) = list_inputs([place]).inputs
    with pytest.raises(ReplayError) as refused:
        read_input(replay)
    return refused.value.code, refused.value.message


def test_all_replays_of_a_folder_are_found_in_the_order_of_their_names(folder):
    listing = list_inputs([folder])
    assert contents(folder) == [b"two", b"one", b"four", b"three"]
    assert listing.num_ignored == 2
    assert [(replay.source, replay.member) for replay in listing.inputs] == [
        ("dump", 0), ("dump", 1), ("c.zip", 0), ("c.zip", 2),
    ]  # fmt: skip


def test_listing_twice_gives_the_same_keys(folder):
    first, second = (list_inputs([folder]).inputs for _ in range(2))
    assert first == second
    assert len({replay.key for replay in first}) == len(first)


def test_a_source_named_twice_is_listed_once(folder):
    assert len(list_inputs([folder, folder, folder / "c.zip"]).inputs) == 4


def test_a_changed_file_is_a_new_input(folder):
    before = {replay.key for replay in list_inputs([folder]).inputs}
    (folder / "b" / "one.slp").write_bytes(b"another")
    assert len(before & {replay.key for replay in list_inputs([folder]).inputs}) == 3


def test_members_of_the_same_name_are_both_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("game.slp", b"first")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("game.slp", b"second")
    assert contents(tmp_path / "twice.zip") == [b"first", b"second"]


def test_the_directory_of_a_zip_is_read_once_for_all_its_members(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for number in range(50):
            archive.writestr(f"{number}.slp", b"x")
    opened = []

    class Counted(zipfile.ZipFile):
        def __init__(self, *arguments, **options):
            opened.append(arguments)
            super().__init__(*arguments, **options)

    monkeypatch.setattr(sources.zipfile, "ZipFile", Counted)
    assert contents(tmp_path / "many.zip") == [b"x"] * 50
    assert len(opened) == 1


def test_a_zip_that_was_replaced_is_read_anew(tmp_path):
    path = tmp_path / "games.zip"
    for number, content in enumerate([b"old", b"new"]):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("game.slp", content)
        os.utime(path, ns=(number, number))
        assert contents(path) == [content]


def test_a_truncated_gzip_is_refused_by_name(tmp_path):
    path = tmp_path / f"{CODE}.slp.gz"
    path.write_bytes(gzip.compress(os.urandom(5_000))[:-2_000])
    code, message = code_and_message(path)
    assert code == "unopenable"
    assert CODE not in message


def test_a_damaged_member_is_refused_and_its_neighbours_are_read(tmp_path):
    path = tmp_path / "games.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("one", "two", "three"):
            archive.writestr(f"{CODE}-{name}.slp", name.encode() * 20)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"two" * 20, b"two" * 19 + b"xxx"))
    one, two, three = list_inputs([path]).inputs
    assert (read_input(one), read_input(three)) == (b"one" * 20, b"three" * 20)
    with pytest.raises(ReplayError, match="CRC") as refused:
        read_input(two)
    assert CODE not in refused.value.message


def test_a_file_that_is_gone_is_refused_without_its_path(folder):
    replay = next(replay for replay in list_inputs([folder]).inputs if not replay.in_zip)
    Path(replay.container).unlink()
    with pytest.raises(ReplayError, match="FileNotFoundError") as refused:
        read_input(replay)
    assert str(folder) not in refused.value.message


def test_a_file_larger_than_any_replay_is_refused(folder, monkeypatch):
    monkeypatch.setattr(sources, "MAX_REPLAY_BYTES", 2)
    for replay in list_inputs([folder]).inputs:
        with pytest.raises(ReplayError, match="more than"):
            read_input(replay)


def test_a_zip_that_is_none_is_reported_beside_the_good_sources(folder):
    (folder / "broken.zip").write_bytes(b"PK\x03\x04 and nothing more")
    listing = list_inputs([folder])
    assert len(listing.inputs) == 4
    ((name, message),) = listing.broken_archives
    assert name == "broken.zip"
    assert "BadZipFile" in message


def test_what_cannot_be_a_source_is_an_error_that_says_what_can(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    for place in (folder / "nowhere", folder / "notes.txt", tmp_path / "empty"):
        with pytest.raises(UserError, match=r"\.zip"):
            list_inputs([place])


def test_every_real_member_is_listed_and_read(real_replays):
    listing = list_inputs([real_replays / "dev.zip", real_replays / "edge.zip"])
    assert len(listing.inputs) == 42 + 70
    assert not listing.broken_archives
    assert all(read_input(replay) for replay in listing.inputs[-5:])
