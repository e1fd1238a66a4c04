"""`wm corpus verify` finds every kind of damage; `wm corpus repair` drops it, so that it can be encoded again."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chunks import Plan, all_rows, encode_plan, files_of, locked_by_another_process, short_games

from datasets.corpus.chunk import EncodeOptions
from datasets.corpus.commit import Committer
from datasets.corpus.commit_files import file_record
from datasets.corpus.commit_log import COMMITS, read_commit, with_checksum
from datasets.corpus.manifest import CORPUS_FILE, FOLLOWERS, FRAMES, GAMES, IN_PROGRESS_FILE, REJECTS
from datasets.corpus.reader import open_corpus
from datasets.corpus.verify import repair, verify
from datasets.replays.game import Game
from datasets.runtime.durable_files import write_json_atomically
from datasets.runtime.errors import UserError

PLAN: Plan = (("a", "b", "-"), ("c", "d"), ("e'", "a*"), ("e", "f", "-"))
SECOND = "000001"
"""Stem of the commit that most tests damage."""


@pytest.fixture(scope="module")
def games(synthetic_replays: Path) -> dict[str, Game]:
    """Short games by letter."""
    return short_games(synthetic_replays)


@pytest.fixture(scope="module")
def sound(games, tmp_path_factory) -> Path:
    """A sound corpus of four commits, one of them revised."""
    out = tmp_path_factory.mktemp("sound") / "corpus"
    encode_plan(PLAN, games, out)
    return out


@pytest.fixture
def corpus(sound, tmp_path) -> Path:
    """A copy of the sound corpus, to be damaged."""
    return shutil.copytree(sound, tmp_path / "corpus")


def change_commit(root: Path, change: Callable[[dict[str, Any]], Any], name: str = f"{SECOND}.json") -> None:
    """Change a commit and update its checksum."""
    commit = read_commit(root, name)
    change(commit)
    write_json_atomically(root / COMMITS / name, with_checksum(commit))


def rewrite(root: Path, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change rows of a file of the second commit, and update its record there and in the manifest."""
    commit = read_commit(root, f"{SECOND}.json")
    path = root / table / commit["files"][table]["name"]
    changed = change(pq.read_table(path))
    pq.write_table(changed, path)
    facts = file_record(path, changed.num_rows)
    change_commit(root, lambda commit: commit["files"].update({table: facts}))
    manifest = json.loads((root / CORPUS_FILE).read_text())
    for listed in manifest["files"][table]:
        if listed[0] == facts["name"]:
            listed[1:] = [facts["rows"], facts["bytes"]]
    write_json_atomically(root / CORPUS_FILE, manifest)


def set_values(column: str, change: Callable[[list[Any]], Any]) -> Callable[[pa.Table], pa.Table]:
    """A function that changes some values of one column."""

    def changed(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist()
        change(values)
        field = table.schema.field(column)
        return table.set_column(table.schema.get_field_index(column), field, pa.array(values, type=field.type))

    return changed


def put(place: int, value: Any) -> Callable[[list[Any]], None]:
    """A function that sets one value of a list."""
    return lambda values: values.__setitem__(place, value)


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit_manifest(root: Path, **changes: Any) -> None:
    manifest = json.loads((root / CORPUS_FILE).read_text())
    (root / CORPUS_FILE).write_text(json.dumps(manifest | changes))


def swap(first: Path, second: Path) -> None:
    aside = first.with_suffix(".aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def swap_shards_with_their_records(root: Path) -> None:
    """Swap two shards and their records."""
    swap(root / FRAMES / "shard-000000.parquet", root / FRAMES / f"shard-{SECOND}.parquet")
    for name in ("000000", SECOND):
        facts = file_record(root / FRAMES / f"shard-{name}.parquet", 600)
        change_commit(root, lambda commit, facts=facts: commit["files"].update({FRAMES: facts}), f"{name}.json")


def commit_a_game_again(root: Path, games: dict[str, Game]) -> None:
    """Add another corpus's commit, with a game that is already in the second commit."""
    other = root.with_name("other")
    encode_plan([("g",), ("h",), ("h*",), ("h'",), ("d", "i")], games, other, first_number=100)
    name = "000004.json"
    for table in (FRAMES, FOLLOWERS, GAMES):
        for path in (other / table).glob("*-000004.parquet"):
            shutil.copy(path, root / table)
    shutil.copy(other / COMMITS / name, root / COMMITS)


def commit_inputs_again(root: Path) -> None:
    """Make a commit list another commit's inputs."""
    inputs = read_commit(root, "000000.json")["inputs"]
    change_commit(root, lambda commit: commit.update(inputs=inputs[:2]))


def name_the_first_shard(root: Path) -> None:
    facts = read_commit(root, "000000.json")["files"][FRAMES]
    change_commit(root, lambda commit: commit["files"].update({FRAMES: facts}))


def frames_of_second(root: Path) -> Path:
    return root / FRAMES / f"shard-{SECOND}.parquet"


DAMAGE: dict[str, tuple[Callable[[Path], Any], str, int]] = {
    "a byte of the frames is flipped": (lambda root: flip_a_byte(frames_of_second(root)), "checksum", 1),
    "a byte of the partners is flipped": (lambda root: flip_a_byte(next((root / FOLLOWERS).iterdir())), "checksum", 1),
    "a games file is cut off": (
        lambda root: os.truncate(root / GAMES / f"games-{SECOND}.parquet", 1_000),
        "has 1,000 bytes, expected",
        1,
    ),
    "a shard is missing": (lambda root: frames_of_second(root).unlink(), "is missing", 1),
    "a rejects file is missing": (lambda root: (root / REJECTS / "rejects-000000.parquet").unlink(), "is missing", 1),
    "a commit is missing": (lambda root: (root / COMMITS / f"{SECOND}.json").unlink(), "missing or damaged", 0),
    "a commit is cut off": (lambda root: os.truncate(root / COMMITS / f"{SECOND}.json", 300), "missing or damaged", 1),
    "a commit is no object": (lambda root: (root / COMMITS / f"{SECOND}.json").write_text("7"), "damaged", 1),
    "a character of a commit is changed": (
        lambda root: (root / COMMITS / f"{SECOND}.json").write_text(
            (root / COMMITS / f"{SECOND}.json").read_text().replace('"inputs": [\n  "', '"inputs": [\n  "0', 1)
        ),
        "checksum mismatch",
        1,
    ),
    "a commit lacks a field": (lambda root: change_commit(root, lambda c: c.pop("replaced")), "not a valid commit", 1),
    "a commit lists a file in an unknown table": (
        lambda root: change_commit(root, lambda c: c["files"].update(more=c["files"][FRAMES])), "unknown table", 1
    ),
    "two shards are swapped": (
        lambda root: swap(root / FRAMES / "shard-000000.parquet", frames_of_second(root)), "bytes|checksum", 2
    ),
    "two shards are swapped with their records": (swap_shards_with_their_records, "rows of another game", 2),
    "two commits list one shard": (name_the_first_shard, "belongs to another commit", 1),
    "two commits have the same inputs": (commit_inputs_again, "already in an earlier commit", 1),
    "a commit counts different rejects": (
        lambda root: change_commit(root, lambda c: c["rejects"].update(short=1)), "its rejects are", 1
    ),
    "a commit has one input too many": (
        lambda root: change_commit(root, lambda c: c["inputs"].append("ab" * 12)), "3 inputs became 2 games", 1
    ),
    "a commit counts different frames": (
        lambda root: change_commit(root, lambda c: put(2, 299)(c["games"][0])), "different games than the commit", 1
    ),
    "a commit lists the wrong games as parsed": (
        lambda root: change_commit(root, lambda c: c.update(parsed=[c["games"][0][0]])), "from an older pipeline", 1
    ),
    "a commit was made with other options": (
        lambda root: change_commit(root, lambda c: c["options"].update(keep_paths=True)), "its options differ", 1
    ),
    "a file does not have the recorded rows": (
        lambda root: change_commit(root, lambda c: c["files"][FRAMES].update(rows=601)), "600 rows, expected 601", 1
    ),
    "a split number is not its key's": (
        lambda root: rewrite(root, GAMES, set_values("split_number", put(1, 0.01))), "split number that is not", 1
    ),
    "a game has the wrong first row": (
        lambda root: rewrite(root, GAMES, set_values("first_row", put(1, 299))), "does not start at row 299", 1
    ),
    "a game has the wrong row group": (
        lambda root: rewrite(root, GAMES, set_values("row_group", put(1, 1))), "does not hold the games", 1
    ),
    "a game has the wrong shard": (
        lambda root: rewrite(root, GAMES, set_values("shard", put(1, "shard-000000.parquet"))), "lists rows", 1
    ),
    "a frame is missing": (
        lambda root: rewrite(root, FRAMES, lambda t: pa.concat_tables([t.slice(0, 50), t.slice(51)])), "not hold", 1
    ),
    "a frame id is wrong": (
        lambda root: rewrite(root, FRAMES, set_values("frame", put(350, 0))), "frame ids with a gap", 1
    ),
    "a frame is another game's": (
        lambda root: rewrite(root, FRAMES, set_values("game_id", put(350, "0" * 32))), "rows of another game", 1
    ),
    "frames lack a column": (
        lambda root: rewrite(root, FRAMES, lambda t: t.drop_columns("p1_x")), "does not have the columns", 1
    ),
    "a partner belongs to no game": (
        lambda root: rewrite(root, FOLLOWERS, set_values("game_id", put(0, "0" * 32))), "belong to no game or player", 1
    ),
    "a partner is in a frame that does not exist": (
        lambda root: rewrite(root, FOLLOWERS, set_values("frame", put(-1, 500))), "frames that its games do not have", 1
    ),
    "a partner's row is duplicated": (
        lambda root: rewrite(root, FOLLOWERS, set_values("frame", put(1, -113))), "duplicate or unsorted", 1
    ),
    "the manifest is missing": (lambda root: (root / CORPUS_FILE).unlink(), "corpus.json: it is missing", 0),
    "the manifest is cut off": (lambda root: os.truncate(root / CORPUS_FILE, 100), "corpus.json: it is damaged", 0),
    "the manifest is outdated": (
        lambda root: edit_manifest(root, commits=["000000.json"]), "does not list 3 commits", 0
    ),
    "the manifest counts other games": (lambda root: edit_manifest(root, num_games=9), "num_games: 9, expected 6", 0),
    "the manifest counts other rejects": (lambda root: edit_manifest(root, rejects={}), "rejects: it does not", 0),
    "the manifest has other options": (lambda root: edit_manifest(root, options={}), "options: it does not match", 0),
    "the manifest's commits are out of order": (
        lambda root: edit_manifest(root, commits=["000001.json", "000000.json"]), "out of order", 0
    ),
}  # fmt: skip
"""Kind of damage -> how to cause it, what verify reports, and the number of commits that repair drops."""


def test_verify_of_a_sound_corpus_reports_what_was_checked(sound):
    progress: list[tuple[int, int]] = []
    report = verify(sound, on_progress=lambda done, total: progress.append((done, total)))
    assert report.is_sound
    assert report.notes == ()
    assert (report.num_commits, report.num_games, report.num_frames) == (4, 6, 1_800)
    num_bytes = sum(path.stat().st_size for path in sound.rglob("*.parquet"))
    assert report.num_bytes == num_bytes
    assert progress[-1] == (num_bytes, num_bytes)
    assert [done for done, _ in progress] == sorted(done for done, _ in progress)
    assert f"{sound} is sound: 6 games and 1,800 frames in 4 commits" in report.text
    assert "MB/s" in report.text


def test_repairing_a_sound_corpus_changes_nothing(corpus, sound):
    before = all_rows(corpus)
    report = repair(corpus)
    assert report.text.endswith("there was nothing to repair")
    assert all(before[name].equals(table) for name, table in all_rows(corpus).items())
    assert files_of(corpus) == files_of(sound)


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_and_repaired_and_dropped_inputs_are_encoded_again(what, corpus, sound, games):
    damage, message, num_dropped = DAMAGE[what]
    damage(corpus)
    report = verify(corpus)
    assert not report.is_sound
    assert any(
        re.search(message, f"{problem.commit or CORPUS_FILE}: {problem.message}") for problem in report.problems
    ), report.text
    repaired = repair(corpus)
    assert len(repaired.dropped) == num_dropped, repaired.text
    after = verify(corpus)
    assert after.is_sound, after.text
    assert after.notes == ()
    encode_plan(PLAN, games, corpus)
    assert verify(corpus).is_sound
    assert sorted_by_game(corpus) == sorted_by_game(sound)


def sorted_by_game(root: Path) -> dict[str, pa.Table]:
    """All frames and partners, in an order that does not depend on the commits."""
    rows = all_rows(root)
    keys = [("game_id", "ascending"), ("frame", "ascending")]
    return {table: rows[table].sort_by(keys).combine_chunks() for table in (FRAMES, FOLLOWERS)}


def test_of_a_duplicated_game_the_later_one_is_dropped(corpus, games):
    commit_a_game_again(corpus, games)
    (corpus / CORPUS_FILE).unlink()
    (problem,) = [problem for problem in verify(corpus).problems if problem.commit is not None]
    assert (problem.commit, problem.game_id) == ("000004.json", games["d"].game_id)
    assert "is already in commit 1" in problem.message
    report = repair(corpus)
    assert (report.dropped, report.num_games_revised) == ({}, 1)
    assert "dropped 1 games that the corpus has elsewhere" in report.text
    assert verify(corpus).is_sound
    assert (corpus / COMMITS / "000004-1.json").exists()
    names = open_corpus(corpus).games["game_id"].to_pylist()
    assert (names.count(games["d"].game_id), names.count(games["i"].game_id)) == (1, 1)
    assert open_corpus(corpus).rejects.to_pylist()[-1]["code"] == "duplicate"


def test_a_replacement_that_was_not_carried_out_is_found_and_repaired(games, tmp_path):
    encode_plan([("a'", "b'")], games, tmp_path)
    revised = tmp_path / COMMITS / "000000.json"
    before = revised.read_bytes()
    files = {path: path.read_bytes() for path in tmp_path.rglob("*-000000.parquet")}
    encode_plan([("a",)], games, tmp_path, first_number=1)
    for path, content in files.items():
        path.write_bytes(content)
    (tmp_path / COMMITS / "000000-1.json").unlink()
    revised.write_bytes(before)
    (tmp_path / CORPUS_FILE).unlink()
    (problem,) = [problem for problem in verify(tmp_path).problems if problem.commit is not None]
    assert (problem.commit, problem.game_id) == ("000000.json", games["a"].game_id)
    assert repair(tmp_path).num_games_revised == 1
    assert verify(tmp_path).is_sound
    assert open_corpus(tmp_path).games["form"].to_pylist() == ["parsed-v2", "slp"]


def test_files_that_no_commit_lists_are_reported_and_removed(corpus, sound):
    shutil.copy(frames_of_second(corpus), corpus / FRAMES / "shard-000099.parquet")
    shutil.copy(corpus / COMMITS / "000002-1.json", corpus / COMMITS / "000002.json")
    report = verify(corpus)
    assert report.is_sound
    assert "note: 2 files that no commit lists" in report.text
    assert "removed 2 files that no commit lists" in repair(corpus).text
    assert files_of(corpus) == files_of(sound)


def test_rejects_with_unknown_codes_are_reported_and_kept(corpus):
    table = pq.read_table(corpus / REJECTS / "rejects-000000.parquet")
    path = corpus / REJECTS / "rejects-000000.parquet"
    pq.write_table(set_values("code", put(0, "of_the_future"))(table), path)
    change_commit(
        corpus,
        lambda c: c.update(rejects={"of_the_future": 1}) or c["files"].update({REJECTS: file_record(path, 1)}),
        "000000.json",
    )
    repair(corpus)
    report = verify(corpus)
    assert report.is_sound
    assert "does not know: of_the_future" in report.text
    assert report.num_commits == 4


@pytest.mark.parametrize("look", [verify, repair, open_corpus, lambda root: Committer(root, EncodeOptions())])
def test_a_corpus_of_format_1_is_refused_with_a_hint_and_kept(look, corpus):
    edit_manifest(corpus, format_version=1)
    before = files_of(corpus)
    with pytest.raises(UserError, match=r"format 1, this version reads 2; encode the replays again into a new folder"):
        look(corpus)
    assert files_of(corpus) == before


@pytest.mark.parametrize("look", [verify, repair])
def test_commits_of_format_1_are_refused_and_kept_also_without_a_manifest(look, corpus):
    (corpus / CORPUS_FILE).unlink()
    for path in (corpus / COMMITS).iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 1}))
    before = files_of(corpus)
    with pytest.raises(UserError, match=r"format 1, this version reads 2"):
        look(corpus)
    assert files_of(corpus) == before


def test_a_half_written_corpus_is_not_sound_and_repair_keeps_what_is_committed(corpus):
    manifest = json.loads((corpus / CORPUS_FILE).read_text())
    write_json_atomically(corpus / IN_PROGRESS_FILE, {"format_version": 2, "options": manifest["options"]})
    (corpus / CORPUS_FILE).unlink()
    report = verify(corpus)
    assert not report.is_sound
    assert "run the same `wm encode` to finish it" in report.text
    assert repair(corpus).num_games == 6
    assert verify(corpus).is_sound
    assert not (corpus / IN_PROGRESS_FILE).exists()


def test_a_corpus_whose_growth_was_interrupted_is_sound_as_it_was(corpus, games):
    committer = Committer(corpus, EncodeOptions())
    committer.finish()
    write_json_atomically(corpus / IN_PROGRESS_FILE, json.loads((corpus / CORPUS_FILE).read_text()))
    shutil.copy(frames_of_second(corpus), corpus / FRAMES / "shard-000004.parquet")
    report = verify(corpus)
    assert report.is_sound
    assert len(report.notes) == 1
    assert "interrupted" in report.notes[0]


def test_a_folder_that_is_not_a_corpus_is_neither_verified_nor_repaired(tmp_path):
    (tmp_path / "letter.txt").write_text("dear diary")
    for look in (verify, repair):
        with pytest.raises(UserError, match="holds no"):
            look(tmp_path)
        with pytest.raises(UserError, match="holds no"):
            look(tmp_path / "nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_corpus_that_is_being_written_is_not_repaired(corpus):
    with locked_by_another_process(corpus), pytest.raises(UserError, match="an encode is writing"):
        repair(corpus)
    assert repair(corpus).is_sound


REPAIR_SCRIPT = """
import sys
from pathlib import Path
from chunks import kill_at
from datasets.corpus.verify import repair
kill_at(int(sys.argv[2]))
repair(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_repair_can_be_repeated(seed, corpus, games, sound):
    flip_a_byte(frames_of_second(corpus))
    os.truncate(corpus / CORPUS_FILE, 50)
    moment = random.Random(seed).randint(1, 12)
    path = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", REPAIR_SCRIPT, str(corpus), str(moment)]
    killed = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2_000:]
    repair(corpus)
    assert verify(corpus).is_sound
    encode_plan(PLAN, games, corpus)
    assert sorted_by_game(corpus) == sorted_by_game(sound)


def test_a_report_of_many_problems_stays_short(corpus):
    for path in (corpus / COMMITS).iterdir():
        path.write_text("{}")
    for number in range(10, 100):
        (corpus / COMMITS / f"{number:06d}.json").write_text("{}")
    (corpus / CORPUS_FILE).unlink()
    report = verify(corpus)
    assert len(report.problems) == 95
    assert len(report.text.splitlines()) < 60
    assert "... and 45 more" in report.text
    with pytest.raises(UserError, match="no readable commit"):
        repair(corpus)


def test_the_corpus_of_real_games_is_sound(dev_corpus):
    report = verify(dev_corpus)
    assert report.is_sound, report.text
    assert (report.num_games, report.num_frames) == (42, 369_099)
