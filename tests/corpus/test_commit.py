"""Committing chunks: no duplicate games, .slp replaces parsed forms, and a kill loses and duplicates nothing."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import chunks
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chunks import Plan, all_rows, encode_plan, files_of, game_of, keys_of, same_rows, stage
from hypothesis import given
from hypothesis import strategies as st

from datasets.corpus.chunk import EncodeOptions
from datasets.corpus.commit import Committer
from datasets.corpus.commit_log import COMMITS, list_commits, new_commit, read_commit, write_commit
from datasets.corpus.dedupe import resolve
from datasets.corpus.known_games import KnownGame, KnownGames
from datasets.corpus.maintenance.compact import compact
from datasets.corpus.maintenance.verify import verify
from datasets.corpus.reader import open_corpus
from datasets.corpus.state import CORPUS_FILE, FOLLOWERS, FRAMES, GAMES, IN_PROGRESS_FILE, REJECTS
from datasets.replays.game import Game
from datasets.runtime.errors import UserError
from datasets.runtime.storage.folder import open_folder

PLAN: Plan = (
    ("a'", "b'", "c'~"),
    ("d", "-", "e'"),
    ("a", "e", "f", "f"),
    ("b*", "g'", "g", "c"),
    ("h'", "h'*"),
    ("-", "h", "c'"),
)
"""Games that are repeated in every way, and parsed forms that are replaced in their own chunk and in later ones."""
EXPECTED_GAMES = ["d", "a", "e", "f", "b*", "g", "c", "h"]
EXPECTED_REJECTS = {"replaced": 6, "duplicate": 2, "duplicate_game": 1, "not_a_replay": 2}
NUM_FILE_OPERATIONS = 90
"""Lower bound of the file operations while PLAN is encoded."""


@pytest.fixture(scope="module")
def uninterrupted(games, tmp_path_factory) -> Path:
    """The corpus of PLAN."""
    out = tmp_path_factory.mktemp("uninterrupted") / "corpus"
    encode_plan(PLAN, games, out)
    return out


@pytest.fixture(scope="module")
def games_file(games, tmp_path_factory) -> Path:
    """The games, for another process."""
    path = tmp_path_factory.mktemp("games") / "games.pickle"
    path.write_bytes(pickle.dumps(games))
    return path


def encode_in_subprocess(games_file: Path, out: Path, moment: int) -> subprocess.CompletedProcess[str]:
    """Encode PLAN in a process that kills itself before its `moment`-th file operation."""
    plan = "/".join(" ".join(chunk) for chunk in PLAN)
    command = [sys.executable, chunks.__file__, str(games_file), plan, str(out), str(moment)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def ids(names: Sequence[str], games: dict[str, Game]) -> list[str]:
    """The ids of a plan's games."""
    return [game_of(name, games).game_id for name in names]


def codes(root: Path) -> list[tuple[str, int, str]]:
    """Source, member and code of each reject."""
    return [(row["source"], row["member"], row["code"]) for row in open_corpus(root).rejects.to_pylist()]


def test_no_game_is_stored_twice_and_a_slp_replaces_a_parsed_form(games, uninterrupted):
    corpus = open_corpus(uninterrupted)
    assert corpus.games["game_id"].to_pylist() == ids(EXPECTED_GAMES, games)
    assert set(corpus.games["form"].to_pylist()) == {"slp"}
    assert Counter(corpus.rejects["code"].to_pylist()) == EXPECTED_REJECTS
    assert corpus.state.rejects == EXPECTED_REJECTS
    assert corpus.state.num_games == len(EXPECTED_GAMES)
    assert corpus.state.num_frames == 300 * len(EXPECTED_GAMES)
    assert verify(uninterrupted).text.startswith(f"{uninterrupted} is sound")


def test_every_input_is_a_game_or_a_reject(uninterrupted):
    corpus = open_corpus(uninterrupted)
    places = [(row["source"], row["member"]) for row in corpus.games.to_pylist() + corpus.rejects.to_pylist()]
    assert sorted(places) == [(f"source-{n}", m) for n, chunk in enumerate(PLAN) for m in range(len(chunk))]
    keys = [key for commit in corpus.commits for key in commit["inputs"]]
    assert sorted(keys) == sorted(key for number, chunk in enumerate(PLAN) for key in keys_of(number, chunk))


def test_rejects_name_the_reason_and_the_game_that_they_duplicate(games, uninterrupted):
    assert codes(uninterrupted) == [
        ("source-1", 1, "not_a_replay"),
        ("source-2", 3, "duplicate"),
        ("source-0", 0, "replaced"),
        ("source-1", 2, "replaced"),
        ("source-3", 1, "replaced"),
        ("source-0", 1, "replaced"),
        ("source-0", 2, "replaced"),
        ("source-4", 1, "duplicate_game"),
        ("source-5", 0, "not_a_replay"),
        ("source-5", 2, "duplicate"),
        ("source-4", 0, "replaced"),
    ]
    messages = {row["code"]: row["message"] for row in open_corpus(uninterrupted).rejects.to_pylist()}
    assert messages["duplicate"] == f"the corpus has this game as {games['c'].game_id}"
    assert messages["duplicate_game"] == f"the corpus has this game as {games['h'].game_id}"
    assert messages["replaced"] == "replaced by its .slp"


def test_replaced_games_are_removed_from_the_parquet_files(uninterrupted, games):
    paths = [str(path) for path in (uninterrupted / FRAMES).glob("*.parquet")]
    counted = Counter(pa.concat_tables([pq.read_table(path) for path in paths])["game_id"].to_pylist())
    assert counted == dict.fromkeys(ids(EXPECTED_GAMES, games), 300)
    paths = [str(path) for path in (uninterrupted / GAMES).glob("*.parquet")]
    assert len(pa.concat_tables([pq.read_table(path) for path in paths])) == len(EXPECTED_GAMES)


def test_followers_are_stored_only_for_games_that_are_kept(uninterrupted, games):
    stored = all_rows(uninterrupted)[FOLLOWERS]
    expected = {game_of(n, games).game_id: 190 for n in EXPECTED_GAMES if game_of(n, games).followers}
    assert Counter(stored["game_id"].to_pylist()) == expected
    assert len(expected) == 3


@pytest.mark.parametrize(
    ("chunks", "kept", "expected"),
    [
        ((("a'", "a"),), "a", ["replaced"]),
        ((("a", "a'"),), "a", ["duplicate"]),
        ((("a'",), ("a'~", "a'")), "a'", ["duplicate", "duplicate"]),
        ((("a'",), ("a",)), "a", ["replaced"]),
        ((("a'~",), ("a",)), "a", ["replaced"]),
        ((("a'*",), ("a",)), "a", ["replaced"]),
        ((("a'*",), ("b", "a'")), "a'*", ["duplicate_game"]),
        ((("a",), ("a*",)), "a", ["duplicate_game"]),
        ((("a", "a", "a"),), "a", ["duplicate", "duplicate"]),
        ((("a*",), ("a'~",), ("a",)), "a*", ["replaced", "duplicate_game"]),
    ],
)
@pytest.mark.parametrize("runs", ["one run", "one run per chunk"])
def test_the_first_slp_of_a_game_is_kept_or_else_the_first_parsed_form(chunks, kept, expected, runs, games, tmp_path):
    out = tmp_path / "corpus"
    if runs == "one run":
        encode_plan(chunks, games, out)
    else:
        for number, chunk in enumerate(chunks):
            encode_plan([chunk], games, out, number)
    corpus = open_corpus(out)
    others = [game_of(name, games).game_id for chunk in chunks for name in chunk if name == "b"]
    assert [g for g in corpus.games["game_id"].to_pylist() if g not in others] == [game_of(kept, games).game_id]
    assert sorted(corpus.rejects["code"].to_pylist()) == sorted(expected)
    assert verify(out).is_sound


NAMES = st.sampled_from([letter + form for letter in "ab" for form in ("", "*", "'", "'*", "'~", "~")])


@given(st.lists(NAMES, max_size=12), st.integers(1, 4))
def test_resolve_agrees_with_a_slow_reference(names, chunk_size):
    known = KnownGames()
    rows = [
        {
            "game_id": f"{ord(name[0]):030x}" + ("01" if "*" in name else "00"),
            "fingerprint": f"{ord(name[0]):030x}" + ("01" if "~" in name else "00"),
            "num_frames": 1, "form": "parsed-v2" if "'" in name else "slp",
            "source": "s", "member": place, "path": None, "key": f"{place:024x}", "shard": "shard",
        }
        for place, name in enumerate(names)
    ]  # fmt: skip
    taken: set[int] = set()
    for at in range(0, len(rows), chunk_size):
        resolution = resolve(known, rows[at : at + chunk_size])
        taken |= {row["member"] for row in resolution.kept}
        taken -= {game.parsed["member"] for game in resolution.replaced}
        rejected = {reject["member"] for reject in resolution.rejects}
        assert rejected | {row["member"] for row in resolution.kept} >= set(range(at, min(at + chunk_size, len(rows))))
        assert rejected.isdisjoint(taken)
    assert taken == slow_resolve(rows)


def slow_resolve(rows: list[dict[str, Any]]) -> set[int]:
    """Members of the games that a corpus holds in the end, resolved one game after another."""
    held: list[dict[str, Any]] = []
    for row in rows:
        matches = [h for h in held if h["game_id"] == row["game_id"] or h["fingerprint"] == row["fingerprint"]]
        if row["form"] == "slp":
            held = [h for h in held if h not in matches or h["form"] == "slp"]
            matches = [h for h in matches if h["form"] == "slp"]
        if not matches:
            held.append(row)
    return {row["member"] for row in held}


def test_known_games_are_found_by_id_and_fingerprint_until_they_are_removed():
    known = KnownGames()
    first = KnownGame("00" * 16, "aa" * 16, 5, {"source": "s"})
    second = KnownGame("01" * 16, "bb" * 16, 6)
    known.add([first, second])
    assert known.matches(first.game_id, second.fingerprint) == [first, second]
    assert known.matches(first.game_id, first.fingerprint) == [first]
    assert known.known_values("fingerprint", ["bb" * 16, "cc" * 16]) == {"bb" * 16}
    assert list(known.final_ids()) == ["01" * 16]
    known.remove(first.game_id)
    assert known.matches(first.game_id, first.fingerprint) == []
    assert known.with_id(second.game_id) == [second]


def test_done_keys_are_the_sorted_keys_of_all_commits(games, uninterrupted, tmp_path):
    out = tmp_path / "corpus"
    shutil.copytree(uninterrupted, out)
    committer = Committer(out, EncodeOptions())
    keys = sorted(int(key[:16], 16) for number, chunk in enumerate(PLAN) for key in keys_of(number, chunk))
    assert committer.done_keys().dtype == np.uint64
    assert committer.done_keys().tolist() == keys
    committer.finish()
    assert same_rows(out, uninterrupted)


def test_a_second_run_changes_no_data_file(games, uninterrupted):
    before = {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*.parquet")}
    committer = encode_plan(PLAN, games, uninterrupted)
    assert (committer.num_games, committer.num_frames) == (len(EXPECTED_GAMES), 300 * len(EXPECTED_GAMES))
    assert committer.reject_counts == EXPECTED_REJECTS
    assert {path: path.stat().st_mtime_ns for path in uninterrupted.rglob("*.parquet")} == before


@pytest.mark.parametrize("seed", range(8))
def test_a_corpus_killed_at_any_moment_and_resumed_equals_an_uninterrupted_one(
    seed, games_file, games, uninterrupted, tmp_path
):
    out = tmp_path / "corpus"
    moment = random.Random(seed).randint(1, NUM_FILE_OPERATIONS)
    killed = encode_in_subprocess(games_file, out, moment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2_000:]
    encode_plan(PLAN, games, out)
    assert same_rows(out, uninterrupted)
    assert verify(out).text.startswith(f"{out} is sound")
    assert verify(out).notes == ()


def test_a_corpus_killed_repeatedly_equals_an_uninterrupted_one(games_file, games, uninterrupted, tmp_path):
    out = tmp_path / "corpus"
    for moment in (20, 31, 24):
        assert encode_in_subprocess(games_file, out, moment).returncode == -signal.SIGKILL
    encode_plan(PLAN, games, out)
    assert same_rows(out, uninterrupted)


def test_the_moments_of_the_kills_are_within_a_run(games_file, tmp_path):
    finished = encode_in_subprocess(games_file, tmp_path / "corpus", 0)
    assert int(finished.stdout) >= NUM_FILE_OPERATIONS


def test_many_chunks_in_one_commit_give_the_same_corpus_as_one_commit_for_each(games, uninterrupted, tmp_path):
    encode_plan(PLAN, games, tmp_path, commit_seconds=60.0)
    assert len(open_corpus(tmp_path).commits) < len(open_corpus(uninterrupted).commits)
    assert same_rows(tmp_path, uninterrupted)
    assert verify(tmp_path).is_sound


def test_a_small_corpus_has_one_file_for_each_table(uninterrupted):
    assert {table: len(files) for table, files in open_corpus(uninterrupted).state.files.items()} == {
        FRAMES: 1, FOLLOWERS: 1, GAMES: 1, REJECTS: 1
    }  # fmt: skip


def test_readers_see_the_old_corpus_while_it_grows_and_an_encode_deletes_no_file_of_theirs(games, tmp_path):
    encode_plan(PLAN[:2], games, tmp_path)
    before, files = all_rows(tmp_path), files_of(tmp_path) - {CORPUS_FILE}
    corpus = open_corpus(tmp_path)
    with Committer(tmp_path, EncodeOptions(), commit_seconds=0.0) as committer:
        for number, chunk in enumerate(PLAN[2:], 2):
            committer.add(stage(committer, number, chunk, games))
    after = all_rows(tmp_path)
    assert all(before[name].equals(after[name]) for name in before)
    encode_plan(PLAN, games, tmp_path)
    assert files <= files_of(tmp_path)
    assert corpus.rejects.equals(before["rejects"])
    assert open_corpus(tmp_path).games["game_id"].to_pylist() == ids(EXPECTED_GAMES, games)
    assert verify(tmp_path).is_sound


def test_every_file_is_flushed_to_disk_before_a_commit_lists_it(games, tmp_path, monkeypatch):
    out = tmp_path / "corpus"
    synced: set[tuple[int, int]] = set()
    problems: list[str] = []
    num_commits = 0
    fsync, link = os.fsync, os.link

    def recording_fsync(descriptor: int) -> None:
        fsync(descriptor)
        synced.add((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_mtime_ns))

    def recording_link(source: Any, target: Any) -> None:
        nonlocal num_commits
        assert Path(target).parent.name == COMMITS
        num_commits += 1
        files = json.loads(Path(source).read_text())["files"]
        listed = [out / table / name for table, records in files.items() for name, *_ in records]
        for path in (Path(source), *listed, *(file.parent for file in listed)):
            if (path.stat().st_ino, path.stat().st_mtime_ns) not in synced:
                problems.append(f"{path} is not flushed, but {target} is published")
        link(source, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "link", recording_link)
    encode_plan(PLAN, games, out)
    assert num_commits > len(PLAN)
    assert problems == []


def test_a_worker_of_a_killed_run_cannot_write_into_a_newer_run(games, tmp_path):
    out = tmp_path / "corpus"
    with Committer(out, EncodeOptions()) as stale:
        stage(stale, 0, ("a",), games)
    with Committer(out, EncodeOptions()) as committer:
        assert committer.staging != stale.staging
        with pytest.raises(FileNotFoundError):
            stage(stale, 1, ("b",), games)
        committer.finish()
    assert list((out / FRAMES).iterdir()) == []


def test_an_input_that_is_tried_again_supersedes_its_reject(games, tmp_path):
    encode_plan([("a", "-", "-")], games, tmp_path)
    key = keys_of(0, "a--")[1]
    with Committer(tmp_path, EncodeOptions(), retry=["not_a_replay"]) as committer:
        assert len(committer.done_keys()) == 1
        result = stage(committer, 0, ("a", "b", "-"), games)
        own = [row for row in result.games if row["key"] == key]
        committer.add(replace(result, keys=(key,), games=own, rejects=[]))
        committer.finish()
    corpus = open_corpus(tmp_path)
    assert corpus.games["game_id"].to_pylist() == ids("ab", games)
    assert corpus.rejects["key"].to_pylist() == [keys_of(0, "a--")[2]]
    assert corpus.state.rejects == {"not_a_replay": 1}
    assert verify(tmp_path).text.startswith(f"{tmp_path} is sound")


def test_ids_of_games_that_nothing_replaces_are_known_before_parsing(games, tmp_path):
    encode_plan([("a", "b'")], games, tmp_path)
    with Committer(tmp_path, EncodeOptions()) as committer:
        assert list(committer.known_game_ids()) == [games["a"].game_id]


def test_compacting_merges_files_and_drops_the_rows_of_removed_games(games, tmp_path):
    for number, chunk in enumerate(PLAN):
        encode_plan([chunk], games, tmp_path, number)
    before = all_rows(tmp_path)
    assert len(open_corpus(tmp_path).state.files[FRAMES]) > 3
    assert "merged into 4" in compact(tmp_path).text
    corpus = open_corpus(tmp_path)
    assert {table: len(files) for table, files in corpus.state.files.items()} == {
        FRAMES: 1, FOLLOWERS: 1, GAMES: 1, REJECTS: 1
    }  # fmt: skip
    after = all_rows(tmp_path)
    positions = ["first_row", "row_group", "row_in_group"]
    assert after["games"].drop_columns(positions).equals(before["games"].drop_columns(positions))
    assert all(after[name].equals(before[name]) for name in (FRAMES, FOLLOWERS, REJECTS))
    assert pq.read_metadata(corpus.shard_path(corpus.games["shard"][0].as_py())).num_rows == 300 * len(EXPECTED_GAMES)
    assert verify(tmp_path).notes == ()
    encode_plan([("a'", "g~")], games, tmp_path, len(PLAN))
    assert Counter(open_corpus(tmp_path).rejects["code"].to_pylist()) == Counter(EXPECTED_REJECTS) + Counter(
        duplicate=2
    )


def test_a_game_is_replaced_also_after_its_shard_was_merged(games, tmp_path):
    encode_plan([("a'", "b"), ("c", "d'")], games, tmp_path)
    encode_plan([("e",)], games, tmp_path, 2)
    compact(tmp_path)
    encode_plan([("a", "d")], games, tmp_path, 3)
    assert open_corpus(tmp_path).games["game_id"].to_pylist() == ids("bcead", games)
    assert verify(tmp_path).text.startswith(f"{tmp_path} is sound")


COMPACT_SCRIPT = """
import sys
from pathlib import Path
from chunks import kill_at
from datasets.corpus.maintenance.compact import compact
kill_at(int(sys.argv[2]))
compact(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("moment", [3, 9, 13, 17])
def test_a_killed_compaction_can_be_repeated(moment, games, tmp_path):
    for number, chunk in enumerate(PLAN[:3]):
        encode_plan([chunk], games, tmp_path, number)
    before = all_rows(tmp_path)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", COMPACT_SCRIPT, str(tmp_path), str(moment)]
    killed = subprocess.run(command, capture_output=True, check=False, env=environment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2_000:]
    compact(tmp_path)
    after = all_rows(tmp_path)
    assert all(after[name].equals(before[name]) for name in (FRAMES, FOLLOWERS, REJECTS))
    assert verify(tmp_path).notes == ()


def test_whoever_finds_its_commit_number_taken_stops_with_one_line(games, tmp_path):
    with Committer(tmp_path, EncodeOptions(), commit_seconds=0.0) as committer:
        write_commit(committer.folder, 0, new_commit({"of": "another writer"}))
        with pytest.raises(UserError, match="another command has written commit 0 of") as refused:
            committer.add(stage(committer, 0, ("a",), games))
    assert "\n" not in str(refused.value)


def test_a_damaged_or_missing_commit_stops_an_encode_with_a_hint(games, uninterrupted, tmp_path):
    for number, damage in enumerate((Path.unlink, lambda path: path.write_text(path.read_text().replace("0", "1", 1)))):
        out = shutil.copytree(uninterrupted, tmp_path / str(number))
        damage(out / COMMITS / "000002.json")
        with pytest.raises(UserError, match=r"000002\.json is missing or damaged.*wm corpus repair"):
            encode_plan(PLAN, games, out)
        assert (out / IN_PROGRESS_FILE).exists()


def test_a_missing_file_stops_an_encode_with_a_hint(games, uninterrupted, tmp_path):
    out = tmp_path / "corpus"
    shutil.copytree(uninterrupted, out)
    next((out / FRAMES).iterdir()).unlink()
    with pytest.raises(UserError, match="wm corpus repair"):
        encode_plan(PLAN, games, out)
    assert (out / CORPUS_FILE).exists()


def test_a_corpus_of_format_2_is_not_written(tmp_path):
    (tmp_path / CORPUS_FILE).write_text('{"format_version": 2, "options": {}}')
    with pytest.raises(UserError, match="has corpus format 2, which is read but not written any more"):
        Committer(tmp_path, EncodeOptions())
    assert files_of(tmp_path) == {CORPUS_FILE}


def test_a_full_commit_supersedes_all_before_it(tmp_path):
    folder = open_folder(tmp_path)
    for number in (1, 2, 3):
        write_commit(folder, number, new_commit({}, replaces_all=number == 2))
    write_commit(folder, 0, new_commit({}))
    current, superseded = list_commits(folder)
    assert current == ["commits/000002-full.json", "commits/000003.json"]
    assert superseded == ["commits/000000.json", "commits/000001.json"]
    assert read_commit(folder, current[0])["replaces_all"]
