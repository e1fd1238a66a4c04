"""`wm corpus verify` and `repair`: every kind of damage is found, what is intact is kept, the rest encoded again."""

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
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chunks import Plan, all_rows, encode_plan, files_of, locked_by_another_process, stage

from datasets.corpus.chunk import EncodeOptions
from datasets.corpus.commit import Committer
from datasets.corpus.commit_log import COMMITS, read_commit
from datasets.corpus.data_files import file_record
from datasets.corpus.maintenance.repair import repair
from datasets.corpus.maintenance.verify import verify
from datasets.corpus.reader import open_corpus
from datasets.corpus.state import CORPUS_FILE, FOLLOWERS, FRAMES, GAMES, IN_PROGRESS_FILE, REJECTS, dump_json
from datasets.replays.game import Game
from datasets.runtime.errors import UserError
from datasets.runtime.storage.folder import open_folder

PLAN: Plan = (("a", "b", "-"), ("c", "d"), ("e'", "a*"), ("e", "f", "-"))
SECOND = "000001"
"""Stem of the commit that most tests damage."""


@pytest.fixture(scope="module")
def sound(games, tmp_path_factory) -> Path:
    """A sound corpus of four commits, each with its own files, of which the last one removes a game."""
    out = tmp_path_factory.mktemp("sound") / "corpus"
    for number, chunk in enumerate(PLAN):
        encode_plan([chunk], games, out, number)
    return out


@pytest.fixture(scope="module")
def sound_rows(sound) -> dict[str, pa.Table]:
    """The frames and partners of the sound corpus."""
    return sorted_by_game(sound)


@pytest.fixture
def corpus(sound, tmp_path) -> Path:
    """A copy of the sound corpus, to be damaged."""
    return shutil.copytree(sound, tmp_path / "corpus")


def change_json(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a commit or `corpus.json`, and update its checksum."""
    content = json.loads(path.read_text())
    del content["checksum"]
    change(content)
    path.write_bytes(dump_json(content))


def change_commit(root: Path, change: Callable[[dict[str, Any]], Any], stem: str = SECOND) -> None:
    """Change a commit and update its checksum."""
    change_json(root / COMMITS / f"{stem}.json", change)


def file_of_second(root: Path, table: str) -> Path:
    """A data file of the second commit; of the first one if it has no rejects."""
    for stem in (SECOND, "000000"):
        files = read_commit(open_folder(root), f"{COMMITS}/{stem}.json")["files"]
        if table in files:
            return root / table / files[table][0][0]
    raise AssertionError(table)


def rewrite(root: Path, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change rows of a file of the second commit, and update its record in the commit and in `corpus.json`."""
    path = file_of_second(root, table)
    changed = change(pq.read_table(path))
    pq.write_table(changed, path)
    record = list(file_record(path, changed.num_rows))

    def update(content: dict[str, Any]) -> None:
        records = content["files"].get(table, [])
        content["files"] |= {table: [record if one[0] == record[0] else one for one in records]} if records else {}

    for name in (CORPUS_FILE, f"{COMMITS}/000000.json", f"{COMMITS}/{SECOND}.json"):
        change_json(root / name, update)


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
    change_json(root / CORPUS_FILE, lambda content: content.update(changes))


def swap(first: Path, second: Path) -> None:
    aside = first.with_suffix(".aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def swap_shards(root: Path) -> None:
    """Swap the shards of the first two commits."""
    names = [record.name for record in open_corpus(root).state.files[FRAMES]]
    swap(root / FRAMES / names[0], root / FRAMES / names[1])


DAMAGE: dict[str, tuple[Callable[[Path], Any], str, int]] = {
    "a byte of the frames is flipped": (lambda root: flip_a_byte(file_of_second(root, FRAMES)), "checksum", 2),
    "a byte of the partners is flipped": (lambda root: flip_a_byte(file_of_second(root, FOLLOWERS)), "checksum", 2),
    "a games file is cut off": (lambda root: os.truncate(file_of_second(root, GAMES), 1_000), "1,000 bytes, expec", 2),
    "a shard is missing": (lambda root: file_of_second(root, FRAMES).unlink(), "is missing", 2),
    "a rejects file is missing": (lambda root: file_of_second(root, REJECTS).unlink(), "is missing", 0),
    "a commit is missing": (lambda root: (root / COMMITS / f"{SECOND}.json").unlink(), "missing or damaged", 0),
    "a commit is cut off": (lambda root: os.truncate(root / COMMITS / f"{SECOND}.json", 300), "missing or damaged", 0),
    "a commit is no object": (lambda root: (root / COMMITS / f"{SECOND}.json").write_text("7"), "damaged", 0),
    "a character of a commit is changed": (lambda root: flip_a_byte(root / COMMITS / f"{SECOND}.json"), "damaged", 0),
    "a commit lacks a field": (lambda root: change_commit(root, lambda c: c.pop("retired")), "no field retired", 0),
    "the last commit is damaged": (lambda root: os.truncate(root / COMMITS / "000003.json", 99), "damaged", 0),
    "two shards are swapped": (swap_shards, "bytes|checksum", 4),
    "a commit counts different rejects": (
        lambda root: change_commit(root, lambda c: c["rejects"].update(short=1)), "does not match the commits", 0
    ),
    "a commit has one input too many": (
        lambda root: change_commit(root, lambda c: c["inputs"].append("ab" * 12)), "1 inputs of the commits", 0
    ),
    "a split number is not its key's": (
        lambda root: rewrite(root, GAMES, set_values("split_number", put(1, 0.01))), "split number that is not", 1
    ),
    "a game has the wrong first row": (
        lambda root: rewrite(root, GAMES, set_values("first_row", put(1, 299))), "not at its rows", 1
    ),
    "a game has the wrong row group": (
        lambda root: rewrite(root, GAMES, set_values("row_group", put(1, 1))), "row group that is missing", 1
    ),
    "a game has the wrong shard": (
        lambda root: rewrite(root, GAMES, set_values("shard", put(1, "other.parquet"))), "does not have", 1
    ),
    "a game is in the corpus twice": (
        lambda root: rewrite(root, GAMES, lambda t: set_values("game_id", put(1, t["game_id"][0].as_py()))(t)),
        "is in the corpus twice",
        2,
    ),
    "a frame is missing": (
        lambda root: rewrite(root, FRAMES, lambda t: pa.concat_tables([t.slice(0, 50), t.slice(51)])), "its rows", 2
    ),
    "a frame id is wrong": (
        lambda root: rewrite(root, FRAMES, set_values("frame", put(350, 0))), "frame ids with a gap", 1
    ),
    "a frame is another game's": (
        lambda root: rewrite(root, FRAMES, set_values("game_id", put(350, "0" * 32))), "not at its rows", 1
    ),
    "frames lack a column": (
        lambda root: rewrite(root, FRAMES, lambda t: t.drop_columns("frame")), "does not have the columns", 2
    ),
    "a partner belongs to no game": (
        lambda root: rewrite(root, FOLLOWERS, set_values("game_id", put(0, "0" * 32))), "other rows than", 1
    ),
    "a partner is in a frame that does not exist": (
        lambda root: rewrite(root, FOLLOWERS, set_values("frame", put(-1, 500))), "other rows than", 1
    ),
    "a partner's row is duplicated": (
        lambda root: rewrite(root, FOLLOWERS, set_values("frame", put(1, -113))), "not sorted", 1
    ),
    "the manifest is missing": (lambda root: (root / CORPUS_FILE).unlink(), "corpus.json: it is missing", 0),
    "the manifest is cut off": (lambda root: os.truncate(root / CORPUS_FILE, 100), "corpus.json.*damaged", 0),
    "a character of the manifest is changed": (lambda root: flip_a_byte(root / CORPUS_FILE), "corpus.json.*damaged", 0),
    "the manifest counts other games": (lambda root: edit_manifest(root, num_games=9), "not match the commits", 0),
    "the manifest counts other rejects": (lambda root: edit_manifest(root, rejects={}), "not match the commits", 0),
    "the manifest has other options": (lambda root: edit_manifest(root, options={}), "not match the commits", 0),
}  # fmt: skip
"""Kind of damage -> how to cause it, what verify reports, and the number of games that repair drops."""


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
    report = repair(corpus)
    assert report.text.endswith("there was nothing to repair")
    assert files_of(corpus) == files_of(sound)


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_and_repaired_and_what_was_dropped_is_encoded_again(what, corpus, sound_rows, games):
    damage, message, num_dropped = DAMAGE[what]
    damage(corpus)
    report = verify(corpus)
    assert not report.is_sound
    assert any(re.search(message, f"{problem.path}: {problem.message}") for problem in report.problems), report.text
    repaired = repair(corpus)
    assert repaired.num_games == 6 - num_dropped, repaired.text
    after = verify(corpus)
    assert after.is_sound, after.text
    assert after.notes == ()
    encode_inputs(PLAN, games, corpus)
    assert verify(corpus).is_sound
    assert sorted_by_game(corpus) == sound_rows


def encode_inputs(plan: Plan, games: dict[str, Game], out: Path) -> None:
    """Encode the inputs that the corpus does not have, one by one."""
    with Committer(out, EncodeOptions()) as committer:
        done = set(committer.done_keys().tolist())
        for number, chunk in enumerate(plan):
            result = stage(committer, number, chunk, games)
            keys = tuple(key for key in result.keys if int(key[:16], 16) not in done)
            rows = [[row for row in rows if row["key"] in keys] for rows in (result.games, result.rejects)]
            if keys:
                committer.add(replace(result, keys=keys, games=rows[0], rejects=rows[1]))
        committer.finish()


def sorted_by_game(root: Path) -> dict[str, pa.Table]:
    """All frames and partners, in an order that does not depend on the commits."""
    rows = all_rows(root)
    keys = [("game_id", "ascending"), ("frame", "ascending")]
    return {table: rows[table].sort_by(keys).combine_chunks() for table in (FRAMES, FOLLOWERS)}


def test_files_that_no_commit_lists_are_reported_and_removed(corpus, sound):
    shutil.copy(file_of_second(corpus, FRAMES), corpus / FRAMES / "of-a-killed-run.parquet")
    report = verify(corpus)
    assert report.is_sound
    assert "note: 1 files that no commit lists" in report.text
    assert "removed 1 files that no commit lists" in repair(corpus).text
    assert files_of(corpus) == files_of(sound)


def test_rejects_with_unknown_codes_are_reported_and_kept(corpus):
    rewrite(corpus, REJECTS, set_values("code", put(0, "of_the_future")))
    assert not verify(corpus).is_sound
    repair(corpus)
    report = verify(corpus)
    assert report.is_sound
    assert "does not know: of_the_future" in report.text


@pytest.mark.parametrize("look", [verify, repair, open_corpus, lambda root: Committer(root, EncodeOptions())])
def test_a_corpus_of_format_1_is_refused_with_a_hint_and_kept(look, corpus):
    edit_manifest(corpus, format_version=1)
    before = files_of(corpus)
    with pytest.raises(UserError, match=r"format 1, this version reads 2 and 3; encode the replays again into a new"):
        look(corpus)
    assert files_of(corpus) == before


def test_a_half_written_corpus_is_repaired_to_what_is_committed(corpus):
    options = json.loads((corpus / CORPUS_FILE).read_text())["options"]
    (corpus / IN_PROGRESS_FILE).write_bytes(dump_json({"format_version": 3, "options": options}))
    (corpus / CORPUS_FILE).unlink()
    assert "run the same `wm encode` to finish it" in verify(corpus).text
    assert repair(corpus).num_games == 6
    assert verify(corpus).is_sound
    assert not (corpus / IN_PROGRESS_FILE).exists()


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
    repair(corpus)
    assert verify(corpus).is_sound


REPAIR_SCRIPT = """
import sys
from pathlib import Path
from chunks import kill_at
from datasets.corpus.maintenance.repair import repair
kill_at(int(sys.argv[2]))
repair(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_repair_can_be_repeated(seed, corpus, games, sound_rows):
    flip_a_byte(file_of_second(corpus, FRAMES))
    os.truncate(corpus / COMMITS / "000002.json", 50)
    moment = random.Random(seed).randint(1, 12)
    path = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", REPAIR_SCRIPT, str(corpus), str(moment)]
    killed = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "PYTHONPATH": path})
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2_000:]
    repair(corpus)
    assert verify(corpus).is_sound
    encode_inputs(PLAN, games, corpus)
    assert sorted_by_game(corpus) == sound_rows


def test_a_report_of_many_problems_stays_short(corpus):
    for number in range(100):
        (corpus / COMMITS / f"{number:06d}.json").write_text("{}")
    (corpus / CORPUS_FILE).unlink()
    report = verify(corpus)
    assert len(report.problems) > 90
    assert len(report.text.splitlines()) < 60
    assert "more" in report.text
    with pytest.raises(UserError, match="no readable commit"):
        repair(corpus)


def test_the_corpus_of_real_games_is_sound(dev_corpus):
    report = verify(dev_corpus)
    assert report.is_sound, report.text
    assert (report.num_games, report.num_frames) == (42, 369_099)
