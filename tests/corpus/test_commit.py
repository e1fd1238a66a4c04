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
from pathlib import Path
from typing import Any

import chunks
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chunks import Plan, all_rows, encode_plan, files_of, game_of, keys_of, same_rows, short_games, stage
from hypothesis import given
from hypothesis import strategies as st

from datasets.corpus.chunk import EncodeOptions
from datasets.corpus.commit import Committer
from datasets.corpus.commit_files import GameFiles, durable_file_record, move_files, stage_files
from datasets.corpus.commit_log import COMMITS, list_commits, read_commit
from datasets.corpus.dedupe import resolve
from datasets.corpus.known_games import DroppedGame, KnownGame, KnownGames
from datasets.corpus.manifest import CORPUS_FILE, FOLLOWERS, FRAMES, GAMES, IN_PROGRESS_FILE
from datasets.corpus.reader import open_corpus
from datasets.corpus.verify import verify
from datasets.replays.game import Game
from datasets.runtime.durable_files import write_json_atomically
from datasets.runtime.errors import UserError

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
NUM_FILE_OPERATIONS = 120
"""Lower bound of the file operations while PLAN is encoded."""


@pytest.fixture(scope="module")
def games(synthetic_replays: Path) -> dict[str, Game]:
    """Short games by letter."""
    return short_games(synthetic_replays)


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
        ("source-0", 0, "replaced"),
        ("source-0", 1, "replaced"),
        ("source-0", 2, "replaced"),
        ("source-1", 1, "not_a_replay"),
        ("source-1", 2, "replaced"),
        ("source-2", 3, "duplicate"),
        ("source-3", 1, "replaced"),
        ("source-4", 1, "duplicate_game"),
        ("source-4", 0, "replaced"),
        ("source-5", 0, "not_a_replay"),
        ("source-5", 2, "duplicate"),
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
            "source": "s", "member": place, "path": None,
        }
        for place, name in enumerate(names)
    ]  # fmt: skip
    taken: set[int] = set()
    for number, at in enumerate(range(0, len(rows), chunk_size)):
        chunk = rows[at : at + chunk_size]
        resolution = resolve(known, number, chunk)
        taken |= {row["member"] for row, keep in zip(chunk, resolution.keep, strict=True) if keep}
        removed = {game.game_id for game in resolution.replaced}
        taken -= {member for member in taken if member < at and rows[member]["game_id"] in removed}
        assert [reject["member"] for reject in resolution.rejects] == [
            row["member"] for row, keep in zip(chunk, resolution.keep, strict=True) if not keep
        ]
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


def test_known_games_do_not_match_dropped_ones_and_list_them_by_commit():
    known = KnownGames()
    first, second = KnownGame("00" * 16, "aa" * 16, 5, True, 3), KnownGame("01" * 16, "bb" * 16, 6, False, 4)
    known.add([first, second])
    assert known.matches(first.game_id, second.fingerprint) == [first, second]
    assert known.matches(first.game_id, first.fingerprint) == [first]
    known.drop(first, "replaced")
    assert known.matches(first.game_id, first.fingerprint) == []
    assert known.with_id(second.game_id) == [second]
    known.add([first._replace(commit=7)])
    assert known.with_id(first.game_id) == [first._replace(commit=7)]
    assert list(known.dropped_by_commit()) == [(3, [DroppedGame(first.game_id, "replaced")])]


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


@pytest.mark.parametrize("seed", range(10))
def test_a_corpus_killed_at_any_moment_and_resumed_equals_an_uninterrupted_one(
    seed, games_file, games, uninterrupted, tmp_path
):
    out = tmp_path / "corpus"
    moment = random.Random(seed).randint(1, NUM_FILE_OPERATIONS)
    killed = encode_in_subprocess(games_file, out, moment)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2_000:]
    encode_plan(PLAN, games, out)
    assert same_rows(out, uninterrupted)
    assert files_of(out) == files_of(uninterrupted)
    assert verify(out).is_sound


def test_a_corpus_killed_repeatedly_equals_an_uninterrupted_one(games_file, games, uninterrupted, tmp_path):
    out = tmp_path / "corpus"
    for moment in (20, 31, 24, 17):
        assert encode_in_subprocess(games_file, out, moment).returncode == -signal.SIGKILL
    encode_plan(PLAN, games, out)
    assert same_rows(out, uninterrupted)
    assert files_of(out) == files_of(uninterrupted)


def test_the_moments_of_the_kills_are_within_a_run(games_file, tmp_path):
    finished = encode_in_subprocess(games_file, tmp_path / "corpus", 0)
    assert int(finished.stdout) >= NUM_FILE_OPERATIONS


def test_readers_see_the_old_corpus_while_games_are_being_replaced(games, uninterrupted, tmp_path, monkeypatch):
    out = tmp_path / "corpus"
    encode_plan(PLAN[:2], games, out)
    before = all_rows(out)

    def kill_before_the_manifest(path: Path, content: dict[str, Any]) -> None:
        if path.name == CORPUS_FILE:
            raise KeyboardInterrupt
        write_json_atomically(path, content)

    with monkeypatch.context() as patched:
        patched.setattr("datasets.corpus.commit.write_json_atomically", kill_before_the_manifest)
        with pytest.raises(KeyboardInterrupt):
            encode_plan(PLAN, games, out)
    after = all_rows(out)
    assert all(before[name].equals(after[name]) for name in before)
    encode_plan(PLAN, games, out)
    assert sorted(open_corpus(out).games["game_id"].to_pylist()) == sorted(ids(EXPECTED_GAMES, games))


def test_every_file_is_flushed_to_disk_before_a_commit_lists_it(games, tmp_path, monkeypatch):
    out = tmp_path / "corpus"
    synced: set[tuple[int, int]] = set()
    problems: list[str] = []
    num_commits = 0
    fsync, move = os.fsync, os.replace

    def recording_fsync(descriptor: int) -> None:
        fsync(descriptor)
        synced.add((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_mtime_ns))

    def recording_replace(source: Any, target: Any) -> None:
        nonlocal num_commits
        if Path(target).parent.name == COMMITS:
            num_commits += 1
            commit = json.loads(Path(source).read_text())
            files = [out / table / facts["name"] for table, facts in commit["files"].items()]
            for path in (Path(source), *files, *(file.parent for file in files)):
                if (path.stat().st_ino, path.stat().st_mtime_ns) not in synced:
                    problems.append(f"{path} is not flushed, but {target} is published")
        move(source, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    encode_plan(PLAN, games, out)
    assert num_commits > len(PLAN)
    assert problems == []


def staged_chunk(folder: Path, chunk: Sequence[str], games: dict[str, Game]) -> GameFiles:
    """A chunk's files with the records of their worker."""
    folder.mkdir()
    result = stage(folder, 0, chunk, games)
    frames = folder / result.frames_file
    record = durable_file_record(frames, pq.read_metadata(frames).num_rows)
    return GameFiles(games=result.games, frames=frames, followers=None, records={frames.name: record})


def test_a_file_with_a_record_from_its_worker_is_not_read_again(games, tmp_path):
    chunk = staged_chunk(tmp_path / "staging", ("a", "b"), games)
    chunk.records[chunk.frames.name]["blake2b"] = "computed by the worker"
    staged = stage_files(tmp_path / "staging", "000007", chunk, [True, True], [])
    assert staged.files[FRAMES] == chunk.records[chunk.frames.name] | {"name": "shard-000007.parquet"}
    assert staged.paths[FRAMES] == chunk.frames


def test_a_file_that_loses_games_is_rewritten_with_a_new_record(games, tmp_path):
    chunk = staged_chunk(tmp_path / "staging", ("a", "b", "c"), games)
    staged = stage_files(tmp_path / "staging", "000007", chunk, [True, False, True], [])
    assert staged.files[FRAMES]["rows"] == 600
    kept, whole = pq.read_table(staged.paths[FRAMES]), pq.read_table(chunk.frames)
    stayed = pa.concat_tables([whole.slice(0, 300), whole.slice(600)])
    assert kept.drop_columns("game_id").equals(stayed.drop_columns("game_id"))
    assert kept["game_id"].to_pylist() == stayed["game_id"].to_pylist()
    assert kept["game_id"].chunk(0).dictionary.to_pylist() == ids("ac", games)
    assert [game["first_row"] for game in pq.read_table(staged.paths[GAMES]).to_pylist()] == [0, 300]


def test_a_staged_file_that_is_truncated_or_missing_is_never_committed(games, tmp_path):
    (tmp_path / FRAMES).mkdir()
    for number, damage in enumerate((Path.unlink, lambda path: os.truncate(path, 100))):
        chunk = staged_chunk(tmp_path / str(number), ("a", "b"), games)
        staged = stage_files(tmp_path / str(number), "000007", chunk, [True, True], [])
        damage(chunk.frames)
        with pytest.raises(UserError, match="all machines must see"):
            move_files(tmp_path, staged)
    assert not list((tmp_path / FRAMES).iterdir())


def test_a_worker_of_a_killed_run_cannot_write_into_a_newer_run(games, tmp_path):
    out = tmp_path / "corpus"
    stale = Committer(out, EncodeOptions()).staging
    committer = Committer(out, EncodeOptions())
    assert committer.staging != stale
    with pytest.raises(FileNotFoundError):
        stage(stale, 0, ("a",), games)
    committer.finish()


def test_commit_numbers_continue_after_the_last_one_when_one_is_missing(games, tmp_path):
    out = tmp_path / "corpus"
    encode_plan([("a",), ("b",), ("c",)], games, out)
    (out / COMMITS / "000001.json").unlink()
    encode_plan([("a",), ("b",), ("c",)], games, out)
    assert list_commits(out) == (["000000.json", "000002.json", "000003.json"], [])
    assert sorted(open_corpus(out).games["game_id"].to_pylist()) == sorted(ids("abc", games))
    assert verify(out).is_sound


def test_the_newest_revision_of_a_commit_is_current(tmp_path):
    (tmp_path / COMMITS).mkdir()
    for name in ("000010.json", "000002-1.json", "000002-10.json", "000002-9.json", "000002.json", ".000003.json.1"):
        (tmp_path / COMMITS / name).write_text("{}")
    live, older = list_commits(tmp_path)
    assert live == ["000002-10.json", "000010.json"]
    assert older == ["000002.json", "000002-1.json", "000002-9.json"]


def test_a_damaged_commit_stops_an_encode_with_a_hint(games, uninterrupted, tmp_path):
    out = tmp_path / "corpus"
    shutil.copytree(uninterrupted, out)
    path = out / COMMITS / "000002.json"
    path.write_text(path.read_text().replace(f'"{keys_of(2, PLAN[2])[0]}"', '"0123456789abcdef01234567"'))
    with pytest.raises(UserError, match=r"000002\.json is missing or damaged.*wm corpus repair"):
        read_commit(out, "000002.json")
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
