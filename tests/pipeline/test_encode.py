"""`wm encode` from sources to corpus: accepted games, rejects, resuming after kills, and one-line errors."""

from __future__ import annotations

import dataclasses
import errno
import gzip
import itertools
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import peppi_py
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archive_making import write_archive
from chunks import all_rows, locked_by_another_process

from datasets import cli
from datasets.checks.filters import FilterConfig
from datasets.corpus.chunk import EncodeOptions
from datasets.corpus.commit import Committer
from datasets.corpus.commit_log import COMMITS
from datasets.corpus.maintenance.verify import verify
from datasets.corpus.reader import open_corpus
from datasets.corpus.state import FRAMES, IN_PROGRESS_FILE, TABLES
from datasets.pipeline.encode import EncodeSummary, encode, encode_in_process
from datasets.runtime.errors import UserError
from datasets.schema.reject_reasons import REJECT_REASONS

KILL_SCRIPT = """
import importlib, itertools, os, signal, sys
from pathlib import Path
from datasets.corpus.chunk import EncodeOptions
from datasets.pipeline.encode import encode, encode_in_process

source, out, number, module, name, at, when = sys.argv[1:]
module = importlib.import_module(module)
original, calls = getattr(module, name), itertools.count(1)

def terminate(number, frame):
    sys.exit(128 + number)

def counted_call(*arguments, **options):
    is_last = next(calls) == int(at)
    if is_last and when == "before":
        os.kill(os.getpid(), int(number))
    result = original(*arguments, **options)
    if is_last:
        os.kill(os.getpid(), int(number))
    return result

import datasets.corpus.commit
import datasets.pipeline.feed

datasets.corpus.commit.Committer.__init__.__kwdefaults__["commit_seconds"] = 0.0  # a commit for each chunk
datasets.pipeline.feed.MIN_CHUNK_INPUTS = 4
signal.signal(signal.SIGTERM, terminate)
setattr(module, name, counted_call)
encode([Path(source)], Path(out), EncodeOptions(), encode_in_process)
"""
KILL_MOMENTS = {
    "while the folder is locked": ("os", "fsync", 1, "before"),
    "after the folder was locked": ("os", "fsync", 1, "after"),
    "while the second chunk is parsed": ("datasets.pipeline.encode_chunk", "parse_replay", 6, "after"),
    "after the first files were stored": ("datasets.pipeline.encode", "store_files", 1, "after"),
    "before the third files were stored": ("datasets.pipeline.encode", "store_files", 3, "before"),
    "before the first commit": ("datasets.corpus.commit", "write_commit", 1, "before"),
    "while a commit is written to a temporary file": ("os", "link", 1, "before"),
    "after one commit": ("datasets.corpus.commit", "write_commit", 1, "after"),
    "after three commits": ("datasets.corpus.commit", "write_commit", 3, "after"),
    "before the merge of small files": ("datasets.corpus.commit", "merge_files", 1, "before"),
    "before the merged files are committed": ("datasets.corpus.commit", "write_commit", 5, "before"),
    "before the manifest": ("datasets.corpus.commit", "require_files", 2, "after"),
    "after the manifest": ("datasets.corpus.commit", "unlisted_files", 1, "before"),
}


def encode_here(source: Path | list[Path], out: Path, **options: Any) -> EncodeSummary:
    """Encode in this process."""
    places = source if isinstance(source, list) else [source]
    return encode(places, out, EncodeOptions(**options), encode_in_process)


def encode_until_signal(
    source: Path, out: Path, moment: tuple[str, str, int, str], number: signal.Signals = signal.SIGKILL
) -> None:
    """Encode in a process that gets a signal at one moment. SIGTERM raises SystemExit there."""
    arguments = [str(source), str(out), str(int(number)), *map(str, moment)]
    process = subprocess.run([sys.executable, "-c", KILL_SCRIPT, *arguments], capture_output=True, check=False)
    expected = -signal.SIGKILL if number == signal.SIGKILL else 128 + number
    assert process.returncode == expected, process.stderr.decode()[-2_000:]


def assert_sound(root: Path) -> None:
    """The corpus is sound, and no other file is left."""
    report = verify(root)
    assert report.is_sound, report.text
    assert report.notes == ()
    others = {path.name for path in root.iterdir()} - {*TABLES, COMMITS, "corpus.json", "encode.lock"}
    assert others == set()


def few_synthetic(folder: Path, synthetic: Path) -> None:
    """12 synthetic games, the first of them twice, and three files that are not replays."""
    games = sorted(synthetic.glob("*.slp"))[:12]
    for path in games:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "z-again.slp").write_bytes(games[0].read_bytes())
    for number in range(3):
        (folder / f"a-page-{number}.slp").write_bytes(b"<!DOCTYPE html>" * (number + 1))


@pytest.fixture(autouse=True, scope="module")
def small_chunks() -> Iterator[None]:
    """Few files are several chunks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.pipeline.feed.MIN_CHUNK_INPUTS", 4)
        yield


@pytest.fixture(scope="module")
def few_replays(have_real_replays, request, tmp_path_factory) -> Path:
    """16 files, four chunks: small games, Ice Climbers, a game and its duplicate with other bytes, rejects."""
    folder = tmp_path_factory.mktemp("few")
    if not have_real_replays:
        few_synthetic(folder, request.getfixturevalue("synthetic_replays"))
        return folder
    inventory, read_real = request.getfixturevalue("inventory"), request.getfixturevalue("read_real")
    dev = sorted((row for row in inventory if row["set"] == "dev"), key=lambda row: int(row["frames"]))
    odd = [row for row in inventory if row["set"] == "edge" and row["why"] in ("short", "peppi_fails")]
    names = [row["file"] for row in dev[:9]]
    names += [row["file"] for row in dev if "Ice Climbers" in row["character_names"]][:1]
    names += ["518a86732694c96b.slp", "b5c188ae887c0171.slp"]
    names += [row["file"] for row in odd]
    for name in list(dict.fromkeys(names))[:16]:
        (folder / name).write_bytes(read_real(name))
    return folder


@pytest.fixture(scope="module")
def uninterrupted(few_replays, tmp_path_factory) -> Path:
    """The corpus of the few replays."""
    out = tmp_path_factory.mktemp("uninterrupted") / "corpus"
    encode_here(few_replays, out)
    return out


@pytest.fixture(scope="module")
def expected_rows(uninterrupted) -> dict[str, pa.Table]:
    """Every row of that corpus."""
    return all_rows(uninterrupted)


@pytest.fixture(scope="module")
def dump_corpus(real_replays, tmp_path_factory) -> Path:
    """The corpus of dev.zip and edge.zip: good games and everything else that a real dump contains."""
    out = tmp_path_factory.mktemp("dump") / "corpus"
    encode_here([real_replays / "dev.zip", real_replays / "edge.zip"], out)
    return out


def test_all_dev_games_are_accepted(dev_corpus):
    corpus = open_corpus(dev_corpus)
    assert corpus.games.num_rows == corpus.state.num_games == 42
    assert sum(corpus.games["num_frames"].to_pylist()) == corpus.state.num_frames == 369_099
    assert corpus.rejects.num_rows == 0
    assert_sound(dev_corpus)


def test_the_games_table_matches_the_inventory(dev_corpus, real_replays, inventory):
    members = [Path(name).name.removesuffix(".gz") for name in zipfile.ZipFile(real_replays / "dev.zip").namelist()]
    facts = {row["file"]: row for row in inventory}
    for game in open_corpus(dev_corpus).games.to_pylist():
        row = facts[members[game["member"]]]
        assert game["source"] == "dev.zip"
        assert game["path"] is None
        assert game["slippi_version"] == row["slippi_version"]
        assert (game["num_frames"], game["stage"]) == (int(row["frames"]), int(row["stage"]))
        assert game["num_rollback_rows"] == int(row["rollback_rows"])
        assert f"{game['p0_port']}|{game['p1_port']}" == row["port_numbers"]
        assert f"{game['p0_character']}|{game['p1_character']}" == row["characters"]
        assert game["end_method"] == (int(row["end_method"]) if row["end_method"] else None)
        assert str(game["is_pal"]) == row["is_pal"]
        missing = {name for name in ("velocities", "hitlag", "hurtbox_state") if name in row["fields_none"]}
        found = {"velocity": "velocities", "hitlag": "hitlag", "hurtbox": "hurtbox_state"}
        assert {long for short, long in found.items() if not game[f"has_{short}"]} == missing


def test_only_the_dev_games_of_a_dump_are_accepted(dump_corpus, dev_corpus):
    corpus = open_corpus(dump_corpus)
    assert corpus.games["game_id"].to_pylist() == open_corpus(dev_corpus).games["game_id"].to_pylist()
    assert corpus.rejects.num_rows == 70
    assert corpus.rejects["member"].to_pylist() == list(range(70))
    assert set(corpus.rejects["code"].to_pylist()) <= set(REJECT_REASONS)
    assert all(corpus.rejects["message"].to_pylist())
    assert Counter(corpus.rejects["code"].to_pylist())["duplicate_game"] == 1


def test_a_game_with_other_bytes_is_accepted_alone_and_rejected_as_a_duplicate(inventory, read_real, tmp_path):
    twin = next(row for row in inventory if row["expected_default"].startswith("accept alone"))
    original = twin["why"].removeprefix("content_duplicate_of_")
    (tmp_path / "b.slp").write_bytes(read_real(twin["file"]))
    assert encode_here(tmp_path / "b.slp", tmp_path / "alone").num_games == 1
    (tmp_path / "a.slp").write_bytes(read_real(original))
    summary = encode_here([tmp_path / "a.slp", tmp_path / "b.slp"], tmp_path / "both")
    assert (summary.num_games, summary.rejects) == (1, {"duplicate_game": 1})
    again = encode_here([tmp_path / "b.slp", tmp_path / "a.slp"], tmp_path / "alone")
    assert (again.num_games, again.rejects) == (0, {"duplicate_game": 1})


def test_the_same_bytes_under_two_names_are_accepted_once(few_replays, tmp_path):
    game = min(few_replays.iterdir(), key=lambda path: (path.stat().st_size < 1e6, path.stat().st_size))
    (tmp_path / "a.slp").write_bytes(game.read_bytes())
    (tmp_path / "b.slp.gz").write_bytes(gzip.compress(game.read_bytes(), 1))
    summary = encode_here([tmp_path / "a.slp", tmp_path / "b.slp.gz"], tmp_path / "out")
    assert (summary.num_games, summary.rejects) == (1, {"duplicate": 1})


def test_encoding_on_ray_gives_the_same_corpus_as_in_one_process(few_replays, expected_rows, tmp_path, ray_session):
    from datasets.pipeline.ray_encode import encode_on_ray

    summary = encode([few_replays], tmp_path / "ray", EncodeOptions(), encode_on_ray)
    assert summary.num_inputs == 16
    assert all_rows(tmp_path / "ray") == expected_rows
    assert_sound(tmp_path / "ray")


def test_a_second_run_does_nothing(few_replays, uninterrupted):
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*.parquet")}
    summary = encode_here(few_replays, uninterrupted)
    assert (summary.num_already_done, summary.num_games, summary.rejects) == (16, 0, {})
    assert {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*.parquet")} == before


def test_new_sources_only_add(few_replays, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for number, path in enumerate(sorted(few_replays.iterdir())):
        folder = first if number % 2 else second
        folder.mkdir(exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    out = tmp_path / "corpus"
    encode_here(first, out)
    before = open_corpus(out)
    games = before.games
    commits = before.commits
    summary = encode_here([second, first], out)
    after = open_corpus(out)
    assert summary.num_already_done == 8
    assert summary.num_games == after.games.num_rows - games.num_rows > 0
    assert after.games.slice(0, games.num_rows).equals(games)
    assert after.commits[: len(commits)] == commits
    assert before.state.paths().items() <= after.state.paths().items()
    assert len(set(after.games["game_id"].to_pylist())) == after.games.num_rows
    assert_sound(out)


def test_the_few_replays_hold_what_the_kills_must_not_lose(uninterrupted):
    corpus = open_corpus(uninterrupted)
    codes = set(corpus.rejects["code"].to_pylist())
    assert codes & {"duplicate", "duplicate_game"}
    assert {table: len(files) for table, files in corpus.state.files.items() if files and table != "followers"} == {
        "frames": 1, "games": 1, "rejects": 1
    }  # fmt: skip


@pytest.mark.parametrize("moment", KILL_MOMENTS)
def test_a_killed_encode_that_is_resumed_equals_an_uninterrupted_one(moment, few_replays, expected_rows, tmp_path):
    out = tmp_path / "corpus"
    encode_until_signal(few_replays, out, KILL_MOMENTS[moment])
    if moment != "after the manifest":
        with pytest.raises(UserError, match=r"half-written|holds no"):
            open_corpus(out)
    encode_here(few_replays, out)
    assert all_rows(out) == expected_rows
    assert_sound(out)


@pytest.mark.parametrize("moment", [name for name in KILL_MOMENTS if "manifest" not in name])
def test_an_encode_stopped_by_sigterm_exits_at_once_and_can_be_resumed(moment, few_replays, expected_rows, tmp_path):
    out = tmp_path / "corpus"
    encode_until_signal(few_replays, out, KILL_MOMENTS[moment], signal.SIGTERM)
    encode_here(few_replays, out)
    assert all_rows(out) == expected_rows
    assert_sound(out)


def test_an_encode_killed_repeatedly_equals_an_uninterrupted_one(few_replays, expected_rows, tmp_path):
    out = tmp_path / "corpus"
    for moment in itertools.islice(KILL_MOMENTS.values(), 3, 6):
        encode_until_signal(few_replays, out, moment)
    encode_here(few_replays, out)
    assert all_rows(out) == expected_rows
    assert_sound(out)


def test_files_of_a_killed_run_are_removed_by_a_run_over_other_sources(few_replays, tmp_path):
    out = tmp_path / "corpus"
    encode_until_signal(few_replays, out, ("datasets.corpus.commit", "write_commit", 2, "before"))
    largest = max(few_replays.iterdir(), key=lambda path: path.stat().st_size)
    encode_here(largest, out)
    assert_sound(out)


def test_readers_see_the_old_corpus_while_it_grows(few_replays, tmp_path):
    out = tmp_path / "corpus"
    largest = max(few_replays.iterdir(), key=lambda path: path.stat().st_size)
    encode_here(largest, out)
    before = open_corpus(out).games
    encode_until_signal(few_replays, out, ("datasets.corpus.commit", "write_commit", 4, "before"))
    assert open_corpus(out).games.equals(before)


def test_two_encodes_never_write_to_one_corpus(few_replays, tmp_path):
    out = tmp_path / "corpus"
    with locked_by_another_process(out), pytest.raises(UserError, match="another encode"):
        encode_here(few_replays, out)
    assert encode_here(few_replays, out).num_games > 0


def test_options_that_differ_from_those_of_the_corpus_are_refused(few_replays, uninterrupted):
    with pytest.raises(UserError, match=r"filters\.min_frames is 1800 there, 600 here"):
        encode_here(few_replays, uninterrupted, filters=FilterConfig(min_frames=600))
    with pytest.raises(UserError, match="keep_paths"):
        encode_here(few_replays, uninterrupted, keep_paths=True)
    assert_sound(uninterrupted)


def test_a_folder_that_is_not_a_corpus_is_left_untouched(few_replays, tmp_path):
    (tmp_path / "letter.txt").write_text("dear diary")
    with pytest.raises(UserError, match="is not a corpus"):
        encode_here(few_replays, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    with pytest.raises(UserError, match="is not a corpus"):
        encode_here(few_replays, tmp_path / "letter.txt")


def test_a_corpus_of_another_format_is_refused_and_kept(few_replays, uninterrupted, tmp_path):
    manifest = json.loads((uninterrupted / "corpus.json").read_text())
    (tmp_path / "corpus.json").write_text(json.dumps(manifest | {"format_version": 999}))
    with pytest.raises(UserError, match="format 999"):
        encode_here(few_replays, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.json"]


def test_an_empty_folder_is_an_error_and_makes_no_corpus(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no \.slp"):
        encode_here(tmp_path / "empty", tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def test_a_folder_without_a_good_game_is_an_error_that_counts_the_reasons(tmp_path):
    source = tmp_path / "bad"
    source.mkdir()
    (source / "page.slp").write_bytes(b"<!DOCTYPE html>")
    (source / "cut.slp.gz").write_bytes(gzip.compress(os.urandom(4_000))[:-1_000])
    (source / "broken.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match="none of 3 inputs is a training game") as refused:
        encode_here(source, tmp_path / "corpus")
    assert "2 unopenable" in str(refused.value)
    assert "1 not_a_replay" in str(refused.value)
    rejects = open_corpus(tmp_path / "corpus").rejects.to_pylist()
    assert [reject["code"] for reject in rejects] == ["unopenable", "unopenable", "not_a_replay"]
    with pytest.raises(UserError, match="1 not_a_replay"):
        encode_here(source, tmp_path / "corpus")
    assert open_corpus(tmp_path / "corpus").rejects.num_rows == 3


def test_an_unreachable_input_is_not_a_reject_and_is_encoded_by_the_next_run(few_replays, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    largest, other = sorted(few_replays.iterdir(), key=lambda path: path.stat().st_size)[-2:]
    (source / "a.slp").write_bytes(largest.read_bytes())
    (source / "b.slp").symlink_to("/proc/self/mem")  # reading it is an I/O error
    summary = encode_here(source, tmp_path / "corpus")
    assert (summary.num_games, summary.num_unread, summary.rejects.total()) == (1, 1, 0)
    (source / "b.slp").unlink()
    (source / "b.slp").write_bytes(other.read_bytes())
    summary = encode_here(source, tmp_path / "corpus")
    assert (summary.num_games, summary.num_already_done, summary.num_unread) == (1, 1, 0)


def test_inputs_that_cannot_be_read_are_counted_and_the_first_are_named_and_the_exit_code_is_1(
    tmp_path, monkeypatch, capsys
):
    source = tmp_path / "source"
    source.mkdir()
    for number in range(12):
        (source / f"{number:02}.slp").write_bytes(b"x")

    def failing(*arguments: int) -> bytes:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "pread", failing)
    monkeypatch.setattr("datasets.sources.storage.RETRY_AFTER_S", (0.01,))
    monkeypatch.setattr("datasets.pipeline.ray_encode.encode_on_ray", lambda feed, **limits: encode_in_process(feed))
    assert cli.encode([str(source), "--out", str(tmp_path / "corpus")]) == 1
    said, *lines = capsys.readouterr().out.splitlines()[-12:]
    assert said == "12 inputs could not be read; run the same command again:"
    named = [f"{source / f'{number:02}.slp'}: OSError: Input/output error" for number in range(10)]
    assert lines == [*named, "and 2 more"]
    assert open_corpus(tmp_path / "corpus").rejects.num_rows == 0


def test_a_folder_that_cannot_be_listed_for_now_is_named_and_the_next_run_finds_what_lies_behind_it(
    few_replays, tmp_path, monkeypatch
):
    monkeypatch.setattr("datasets.sources.storage.RETRY_AFTER_S", (0.01, 0.01))
    largest, other = sorted(few_replays.iterdir(), key=lambda path: path.stat().st_size)[-2:]
    source = tmp_path / "source"
    for name, replay in (("good", largest), ("lost", other)):
        (source / name).mkdir(parents=True)
        (source / name / "a.slp").write_bytes(replay.read_bytes())
    listdir, num_tries = os.listdir, 0

    def failing(path: str | Path) -> list[str]:
        nonlocal num_tries
        if Path(path).name == "lost":
            num_tries += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return listdir(path)

    with monkeypatch.context() as outage:
        outage.setattr(os, "listdir", failing)
        summary = encode_here(source, tmp_path / "corpus")
    assert num_tries == 2 * 3  # by the survey, and by the feed
    assert (summary.num_games, summary.num_unread, summary.rejects.total()) == (1, 1, 0)
    assert summary.unread == [(str(source / "lost"), "listing incomplete: OSError: Input/output error")]
    summary = encode_here(source, tmp_path / "corpus")
    assert (summary.num_games, summary.num_already_done, summary.num_unread) == (1, 1, 0)


def test_a_damaged_member_of_a_zip_is_read_once_the_archive_is_repaired(few_replays, tmp_path):
    largest, other = sorted(few_replays.iterdir(), key=lambda path: path.stat().st_size)[-2:]
    path = write_archive(tmp_path / "dump.zip", {"a.slp": largest.read_bytes(), "b.slp": other.read_bytes()})
    whole = path.read_bytes()
    path.write_bytes(whole[:500] + bytes(100) + whole[600:])
    summary = encode_here(path, tmp_path / "corpus")
    assert (summary.num_games, summary.rejects.total()) == (1, 1)
    summary = encode_here(path, tmp_path / "corpus")
    assert (summary.num_games, summary.num_already_done) == (0, 2)
    path.write_bytes(whole)
    summary = encode_here(path, tmp_path / "corpus")
    assert (summary.num_games, summary.num_already_done, summary.rejects.total()) == (1, 1, 0)


def test_a_disk_that_fills_up_is_a_one_line_error_and_the_encode_can_be_resumed(
    few_replays, expected_rows, tmp_path, monkeypatch
):
    def write_to_full_disk(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("datasets.corpus.commit.store_rows", write_to_full_disk)
        with pytest.raises(
            UserError, match=f"cannot write to {tmp_path / 'c'}: no space left on device on the disk"
        ) as e:
            encode_here(few_replays, tmp_path / "c")
    assert "\n" not in str(e.value)
    encode_here(few_replays, tmp_path / "c")
    assert all_rows(tmp_path / "c") == expected_rows


def test_temporary_files_of_a_killed_first_write_do_not_block_a_folder(few_replays, expected_rows, tmp_path):
    for name in (".encoding.json.123", ".corpus.json.123", "encode.lock"):
        (tmp_path / name).touch()
    encode_here(few_replays, tmp_path)
    assert all_rows(tmp_path) == expected_rows
    assert_sound(tmp_path)


def test_progress_is_reported_after_each_commit(few_replays, tmp_path):
    progress: list[tuple[int, int]] = []
    summary = encode(
        [few_replays],
        tmp_path / "corpus",
        EncodeOptions(),
        encode_in_process,
        on_commit=lambda summary, bytes_left: progress.append((summary.num_games, bytes_left)),
    )
    lefts = [bytes_left for _, bytes_left in progress]
    assert len(set(lefts)) == 4
    assert lefts == sorted(lefts, reverse=True)
    assert lefts[-1] == 0
    assert progress[-1][0] == summary.num_games


def test_an_interrupted_encode_leaves_an_unfinished_corpus(few_replays, tmp_path):
    def interrupted(summary: EncodeSummary, bytes_left: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode([few_replays], tmp_path / "c", EncodeOptions(), encode_in_process, on_commit=interrupted)
    assert (tmp_path / "c" / IN_PROGRESS_FILE).exists()
    with pytest.raises(UserError, match="half-written"):
        open_corpus(tmp_path / "c")


def private_texts(real_replays: Path, tmp_path: Path) -> set[str]:
    """Names, connect codes and tags of all readable real replays. Never printed."""
    found: set[str] = set()
    for archive in (zipfile.ZipFile(real_replays / name) for name in ("dev.zip", "edge.zip")):
        for name in archive.namelist():
            content = archive.read(name)
            path = tmp_path / "game.slp"
            path.write_bytes(gzip.decompress(content) if name.endswith(".gz") else content)
            try:
                game = peppi_py.read_slippi(str(path), skip_frames=True)
            except BaseException as error:
                assert not isinstance(error, KeyboardInterrupt)
                continue
            for player in game.start.players:
                found.add(player.name_tag or "")
                found.update(() if player.netplay is None else dataclasses.asdict(player.netplay).values())
            metadata = game.metadata or {}
            found.add(metadata.get("consoleNick") or "")
            for player in (metadata.get("players") or {}).values():
                found.update((player.get("names") or {}).values())
    return {text for text in found if isinstance(text, str) and len(text) >= 4}


def test_no_name_or_connect_code_is_anywhere_in_a_corpus(dump_corpus, real_replays, tmp_path):
    texts: set[str] = set()
    raw = b""
    for path in dump_corpus.rglob("*"):
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            for column in table.columns:
                if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type):
                    texts.update(text for text in column.cast(pa.string()).unique().to_pylist() if text)
        if path.is_file() and FRAMES not in path.parts:
            raw += path.read_bytes()
    private = private_texts(real_replays, tmp_path)
    assert len(private) > 30
    num_leaks = sum(name in text for name in private for text in texts)
    num_leaks += sum(name.encode() in raw for name in private)
    assert num_leaks == 0


def test_paths_are_kept_only_on_request(few_replays, tmp_path):
    largest = max(few_replays.iterdir(), key=lambda path: path.stat().st_size)
    encode_here(largest, tmp_path / "with", keep_paths=True)
    encode_here(largest, tmp_path / "without")
    assert open_corpus(tmp_path / "with").games["path"].to_pylist() == [largest.name]
    assert open_corpus(tmp_path / "without").games["path"].to_pylist() == [None]


def test_a_corpus_is_marked_as_half_written_from_the_start(tmp_path):
    committer = Committer(tmp_path / "corpus", EncodeOptions())
    with pytest.raises(UserError, match="half-written"):
        open_corpus(tmp_path / "corpus")
    committer.finish()
    assert open_corpus(tmp_path / "corpus").games.num_rows == 0
