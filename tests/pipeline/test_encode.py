"""Sources to corpus: what is taken, what is named, and what a kill at any moment cannot break."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import peppi_py
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chunks import locked_by_another_process, same_rows

from datasets.checks.filters import FilterConfig
from datasets.corpus.chunk import EncodeOptions
from datasets.corpus.commit import Committer
from datasets.corpus.commit_files import file_record
from datasets.corpus.commit_log import COMMITS
from datasets.corpus.manifest import FOLLOWERS, FRAMES, IN_PROGRESS_FILE
from datasets.corpus.reader import open_corpus
from datasets.pipeline.encode import EncodeSummary, encode, encode_in_process
from datasets.runtime.errors import UserError
from datasets.schema.reject_reasons import REJECT_REASONS

KILL_SCRIPT = """
import importlib, itertools, os, signal, sys
from pathlib import Path
from datasets.corpus.chunk import EncodeOptions
from datasets.pipeline.encode import encode, encode_in_process

source, out, module, name, at, when = sys.argv[1:]
module = importlib.import_module(module)
original, calls = getattr(module, name), itertools.count(1)

def deadly(*arguments, **options):
    last = next(calls) == int(at)
    if last and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*arguments, **options)
    if last:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(module, name, deadly)
encode([Path(source)], Path(out), EncodeOptions(), encode_in_process)
"""
KILL_MOMENTS = {
    "while the folder is claimed": ("os", "fsync", 1, "before"),
    "after the folder was claimed": ("datasets.corpus.commit", "write_json_atomically", 1, "after"),
    "while the second chunk is parsed": ("datasets.pipeline.encode_chunk", "parse_replay", 6, "after"),
    "after the first frames were moved": ("datasets.corpus.commit", "move_files", 1, "after"),
    "after later rows were written": ("datasets.corpus.commit", "move_files", 2, "before"),
    "between moving files and the first commit": ("datasets.corpus.commit", "write_json_atomically", 2, "before"),
    "while a commit is written aside": ("os", "fsync", 3, "after"),
    "after one commit": ("datasets.corpus.commit", "write_json_atomically", 2, "after"),
    "after three commits": ("datasets.corpus.commit", "write_json_atomically", 4, "after"),
    "before the manifest": ("datasets.corpus.commit", "write_json_atomically", 6, "before"),
    "after the manifest": ("datasets.corpus.commit", "write_json_atomically", 6, "after"),
}


def encode_plainly(source: Path | list[Path], out: Path, **options: Any) -> EncodeSummary:
    """Encode in this process."""
    places = source if isinstance(source, list) else [source]
    return encode(places, out, EncodeOptions(**options), encode_in_process)


def killed(source: Path, out: Path, moment: tuple[str, str, int, str]) -> None:
    """Encode in a process that is killed at one moment."""
    arguments = [str(source), str(out), *map(str, moment)]
    process = subprocess.run([sys.executable, "-c", KILL_SCRIPT, *arguments], capture_output=True, check=False)
    assert process.returncode == -signal.SIGKILL, process.stderr.decode()[-2_000:]


def assert_sound(root: Path) -> None:
    """Each file is named by one commit and is what that commit says; nothing unfinished is left."""
    corpus = open_corpus(root)
    named = [(folder, facts) for commit in corpus.commits for folder, facts in commit["files"].items()]
    for folder, facts in named:
        assert file_record(root / folder / facts["name"], facts["rows"]) == facts
        assert pq.read_metadata(root / folder / facts["name"]).num_rows == facts["rows"]
    on_disk = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    expected = {f"{folder}/{facts['name']}" for folder, facts in named}
    expected |= {f"{COMMITS}/{name}" for name in corpus.manifest["commits"]}
    assert on_disk == expected | {"corpus.json", "encode.lock"}


def few_synthetic(folder: Path, synthetic: Path) -> None:
    """12 synthetic games, the first of them again, and three files that are no replays."""
    games = sorted(synthetic.glob("*.slp"))[:12]
    for path in games:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "z-again.slp").write_bytes(games[0].read_bytes())
    for number in range(3):
        (folder / f"a-page-{number}.slp").write_bytes(b"<!DOCTYPE html>" * (number + 1))


@pytest.fixture(scope="module")
def few_replays(have_real_replays, request, tmp_path_factory) -> Path:
    """16 files, four chunks: small games, Ice Climbers, a game and its twin in other bytes, rejects."""
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
def undisturbed(few_replays, tmp_path_factory) -> Path:
    """The corpus of the few replays."""
    out = tmp_path_factory.mktemp("undisturbed") / "corpus"
    encode_plainly(few_replays, out)
    return out


@pytest.fixture(scope="module")
def dump_corpus(real_replays, tmp_path_factory) -> Path:
    """The corpus of dev.zip and edge.zip: good games and all that a real dump also holds."""
    out = tmp_path_factory.mktemp("dump") / "corpus"
    encode_plainly([real_replays / "dev.zip", real_replays / "edge.zip"], out)
    return out


def test_all_dev_games_are_taken(dev_corpus):
    corpus = open_corpus(dev_corpus)
    assert corpus.games.num_rows == corpus.manifest["num_games"] == 42
    assert sum(corpus.games["num_frames"].to_pylist()) == corpus.manifest["num_frames"] == 369_099
    assert corpus.rejects.num_rows == 0
    assert_sound(dev_corpus)


def test_games_rows_say_what_the_inventory_says(dev_corpus, real_replays, inventory):
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


def test_beside_the_dev_games_nothing_of_the_odd_files_is_taken(dump_corpus, dev_corpus):
    corpus = open_corpus(dump_corpus)
    assert corpus.games["game_id"].to_pylist() == open_corpus(dev_corpus).games["game_id"].to_pylist()
    assert corpus.rejects.num_rows == 70
    assert corpus.rejects["member"].to_pylist() == list(range(70))
    assert set(corpus.rejects["code"].to_pylist()) <= set(REJECT_REASONS)
    assert all(corpus.rejects["message"].to_pylist())
    assert Counter(corpus.rejects["code"].to_pylist())["duplicate_game"] == 1


def test_a_game_in_other_bytes_is_taken_alone_and_refused_beside_its_twin(inventory, read_real, tmp_path):
    twin = next(row for row in inventory if row["expected_default"].startswith("accept alone"))
    original = twin["why"].removeprefix("content_duplicate_of_")
    (tmp_path / "b.slp").write_bytes(read_real(twin["file"]))
    assert encode_plainly(tmp_path / "b.slp", tmp_path / "alone").num_games == 1
    (tmp_path / "a.slp").write_bytes(read_real(original))
    summary = encode_plainly([tmp_path / "a.slp", tmp_path / "b.slp"], tmp_path / "both")
    assert (summary.num_games, summary.rejects) == (1, {"duplicate_game": 1})
    again = encode_plainly([tmp_path / "b.slp", tmp_path / "a.slp"], tmp_path / "alone")
    assert (again.num_games, again.rejects) == (0, {"duplicate_game": 1})


def test_the_same_bytes_under_two_names_are_taken_once(few_replays, tmp_path):
    game = min(few_replays.iterdir(), key=lambda path: (path.stat().st_size < 1e6, path.stat().st_size))
    (tmp_path / "a.slp").write_bytes(game.read_bytes())
    (tmp_path / "b.slp.gz").write_bytes(gzip.compress(game.read_bytes(), 1))
    summary = encode_plainly([tmp_path / "a.slp", tmp_path / "b.slp.gz"], tmp_path / "out")
    assert (summary.num_games, summary.rejects) == (1, {"duplicate": 1})


def test_encoding_on_ray_gives_the_same_corpus_as_in_one_process(few_replays, undisturbed, tmp_path, ray_session):
    from datasets.pipeline.ray_encode import encode_on_ray

    summary = encode([few_replays], tmp_path / "ray", EncodeOptions(), encode_on_ray)
    assert summary.num_inputs == 16
    assert same_rows(tmp_path / "ray", undisturbed)
    assert_sound(tmp_path / "ray")


def test_a_second_run_does_nothing(few_replays, undisturbed):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*.parquet")}
    summary = encode_plainly(few_replays, undisturbed)
    assert (summary.num_already_done, summary.num_games, summary.rejects) == (16, 0, {})
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*.parquet")} == before


def test_new_sources_only_add(few_replays, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for number, path in enumerate(sorted(few_replays.iterdir())):
        folder = first if number % 2 else second
        folder.mkdir(exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    out = tmp_path / "corpus"
    encode_plainly(first, out)
    before = open_corpus(out)
    games = before.games
    commits = before.commits
    summary = encode_plainly([second, first], out)
    after = open_corpus(out)
    assert summary.num_already_done == 8
    assert summary.num_games == after.games.num_rows - games.num_rows > 0
    assert after.games.slice(0, games.num_rows).equals(games)
    assert after.commits[: len(commits)] == commits
    assert len(set(after.games["game_id"].to_pylist())) == after.games.num_rows
    assert_sound(out)


def test_the_moments_of_the_kills_lie_within_a_run_of_four_commits(undisturbed, have_real_replays):
    corpus = open_corpus(undisturbed)
    assert len(corpus.commits) == 4
    codes = set(corpus.rejects["code"].to_pylist())
    assert codes & {"duplicate", "duplicate_game"}
    assert not have_real_replays or any(FOLLOWERS in commit["files"] for commit in corpus.commits)


@pytest.mark.parametrize("moment", KILL_MOMENTS)
def test_a_killed_encode_that_is_run_again_is_as_if_undisturbed(moment, few_replays, undisturbed, tmp_path):
    out = tmp_path / "corpus"
    killed(few_replays, out, KILL_MOMENTS[moment])
    if moment != "after the manifest":
        with pytest.raises(UserError, match=r"half-written|holds no"):
            open_corpus(out)
    encode_plainly(few_replays, out)
    assert same_rows(out, undisturbed)
    assert_sound(out)


def test_an_encode_killed_again_and_again_is_as_if_undisturbed(few_replays, undisturbed, tmp_path):
    out = tmp_path / "corpus"
    for moment in itertools.islice(KILL_MOMENTS.values(), 3, 6):
        killed(few_replays, out, moment)
    encode_plainly(few_replays, out)
    assert same_rows(out, undisturbed)
    assert_sound(out)


def test_files_of_a_killed_run_do_not_outlive_a_run_over_other_sources(few_replays, tmp_path):
    out = tmp_path / "corpus"
    killed(few_replays, out, ("datasets.corpus.commit", "write_json_atomically", 3, "before"))
    largest = max(few_replays.iterdir(), key=lambda path: path.stat().st_size)
    encode_plainly(largest, out)
    assert_sound(out)


def test_while_a_finished_corpus_grows_readers_see_it_as_it_was(few_replays, tmp_path):
    out = tmp_path / "corpus"
    largest = max(few_replays.iterdir(), key=lambda path: path.stat().st_size)
    encode_plainly(largest, out)
    before = open_corpus(out).games
    killed(few_replays, out, ("datasets.corpus.commit", "write_json_atomically", 4, "before"))
    assert open_corpus(out).games.equals(before)


def test_two_encodes_never_write_into_one_corpus(few_replays, tmp_path):
    out = tmp_path / "corpus"
    with locked_by_another_process(out), pytest.raises(UserError, match="another encode"):
        encode_plainly(few_replays, out)
    assert encode_plainly(few_replays, out).num_games > 0


def test_other_options_than_those_of_the_corpus_are_refused(few_replays, undisturbed):
    with pytest.raises(UserError, match=r"filters\.min_frames is 1800 there, 600 here"):
        encode_plainly(few_replays, undisturbed, filters=FilterConfig(min_frames=600))
    with pytest.raises(UserError, match="keep_paths"):
        encode_plainly(few_replays, undisturbed, keep_paths=True)
    assert_sound(undisturbed)


def test_a_folder_that_is_no_corpus_is_left_untouched(few_replays, tmp_path):
    (tmp_path / "letter.txt").write_text("dear diary")
    with pytest.raises(UserError, match="is not a corpus"):
        encode_plainly(few_replays, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
    with pytest.raises(UserError, match="is not a corpus"):
        encode_plainly(few_replays, tmp_path / "letter.txt")


def test_a_corpus_of_another_format_is_refused_and_kept(few_replays, undisturbed, tmp_path):
    manifest = json.loads((undisturbed / "corpus.json").read_text())
    (tmp_path / "corpus.json").write_text(json.dumps(manifest | {"format_version": 999}))
    with pytest.raises(UserError, match="format 999"):
        encode_plainly(few_replays, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.json"]


def test_an_empty_folder_is_an_error_and_makes_no_corpus(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no \.slp"):
        encode_plainly(tmp_path / "empty", tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


def test_a_folder_without_a_good_game_is_an_error_that_counts_the_reasons(tmp_path):
    source = tmp_path / "bad"
    source.mkdir()
    (source / "page.slp").write_bytes(b"<!DOCTYPE html>")
    (source / "cut.slp.gz").write_bytes(gzip.compress(os.urandom(4_000))[:-1_000])
    (source / "broken.zip").write_bytes(b"no zip")
    with pytest.raises(UserError, match="none of 3 inputs is a training game") as refused:
        encode_plainly(source, tmp_path / "corpus")
    assert "2 unopenable" in str(refused.value)
    assert "1 not_a_replay" in str(refused.value)
    rejects = open_corpus(tmp_path / "corpus").rejects.to_pylist()
    assert [reject["code"] for reject in rejects] == ["unopenable", "unopenable", "not_a_replay"]
    with pytest.raises(UserError, match="1 not_a_replay"):
        encode_plainly(source, tmp_path / "corpus")
    assert open_corpus(tmp_path / "corpus").rejects.num_rows == 3


def test_an_input_that_cannot_be_reached_is_no_reject_and_is_taken_by_the_next_run(few_replays, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    largest, other = sorted(few_replays.iterdir(), key=lambda path: path.stat().st_size)[-2:]
    (source / "a.slp").write_bytes(largest.read_bytes())
    (source / "b.slp").symlink_to("/proc/self/mem")  # reading it is an I/O error
    summary = encode_plainly(source, tmp_path / "corpus")
    assert (summary.num_games, summary.num_unreachable, summary.rejects.total()) == (1, 1, 0)
    (source / "b.slp").unlink()
    (source / "b.slp").write_bytes(other.read_bytes())
    summary = encode_plainly(source, tmp_path / "corpus")
    assert (summary.num_games, summary.num_already_done, summary.num_unreachable) == (1, 1, 0)


def test_progress_is_told_after_each_commit(few_replays, tmp_path):
    told: list[tuple[int, int]] = []
    summary = encode(
        [few_replays],
        tmp_path / "corpus",
        EncodeOptions(),
        encode_in_process,
        on_commit=lambda summary, bytes_left: told.append((summary.num_games, bytes_left)),
    )
    lefts = [bytes_left for _, bytes_left in told]
    assert len(set(lefts)) == 4
    assert lefts == sorted(lefts, reverse=True)
    assert lefts[-1] == 0
    assert told[-1][0] == summary.num_games


def test_an_interrupted_encode_leaves_a_folder_that_says_so(few_replays, tmp_path):
    def interrupted(summary: EncodeSummary, bytes_left: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode([few_replays], tmp_path / "c", EncodeOptions(), encode_in_process, on_commit=interrupted)
    assert (tmp_path / "c" / IN_PROGRESS_FILE).exists()
    with pytest.raises(UserError, match="half-written"):
        open_corpus(tmp_path / "c")


def private_texts(real_replays: Path, tmp_path: Path) -> set[str]:
    """Names, connect codes and tags of all real replays that can be read. Never printed."""
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
    encode_plainly(largest, tmp_path / "with", keep_paths=True)
    encode_plainly(largest, tmp_path / "without")
    assert open_corpus(tmp_path / "with").games["path"].to_pylist() == [largest.name]
    assert open_corpus(tmp_path / "without").games["path"].to_pylist() == [None]


def test_a_corpus_is_ours_from_the_first_instant(tmp_path):
    committer = Committer(tmp_path / "corpus", EncodeOptions())
    with pytest.raises(UserError, match="half-written"):
        open_corpus(tmp_path / "corpus")
    committer.finish()
    assert open_corpus(tmp_path / "corpus").games.num_rows == 0
