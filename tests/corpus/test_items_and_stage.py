"""Items and stage events in a corpus: stored if asked for, checked, kept by merges, and read game by game."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from slp_events import events_of, item_event, platform_event, with_3_18_events

from datasets.checks.filters import FilterConfig
from datasets.corpus.chunk import EncodeOptions
from datasets.corpus.info import corpus_info
from datasets.corpus.maintenance.compact import compact
from datasets.corpus.maintenance.verify import verify
from datasets.corpus.reader import Corpus, open_corpus
from datasets.pipeline.encode import encode, encode_in_process
from datasets.runtime.errors import UserError

FILTERS = FilterConfig(min_frames=1, min_damage_percent=0, allow_idle=True, num_stocks=0)


@pytest.fixture(scope="module")
def replays(synthetic_replays, tmp_path_factory) -> Path:
    """Two games of 3.18 with items and platforms, and one of 3.16."""
    folder = tmp_path_factory.mktemp("with-items")
    contents = [path.read_bytes() for path in sorted(synthetic_replays.rglob("*.slp"))]
    newest = [content for content in contents if events_of(content)[1][0][1:3] == bytes([3, 16])][:3]
    port = 0
    rows = {frame: [item_event(frame, 1, port), item_event(frame, 2, port)] for frame in range(10, 20)}
    rows[15] = [*rows[15], platform_event(15, 1, 21.5)]
    for number, content in enumerate(newest):
        written = content if number == 2 else with_3_18_events(content, rows)
        (folder / f"{number}.slp").write_bytes(written)
    return folder


def encoded(replays: Path, out: Path, **options) -> Corpus:
    encode([replays], out, EncodeOptions(filters=FILTERS, **options), encode_in_process)
    return open_corpus(out)


def test_both_tables_are_stored_checked_and_read_by_game(replays, tmp_path):
    corpus = encoded(replays, tmp_path / "corpus", tables=("stage", "items"))
    assert corpus.games["num_item_rows"].to_pylist() == [20, 20, 0]
    assert corpus.games["num_stage_rows"].to_pylist() == [1, 1, None]
    _, items, none = corpus.optional_rows("items", range(3))
    assert items["frame"].to_pylist() == [frame for frame in range(10, 20) for _ in range(2)]
    assert set(items["game_id"].to_pylist()) == {corpus.games["game_id"][1].as_py()}
    (stage,) = corpus.optional_rows("stage", [0])
    assert stage["left_platform"].to_pylist() == [21.5]
    assert none.num_rows == 0 and none.schema == items.schema
    assert corpus_info(corpus).games_without | {"items": 0, "stage": 1} == corpus_info(corpus).games_without
    assert verify(corpus.root).is_sound


def test_the_file_of_a_shard_is_read_once_for_all_its_games(replays, tmp_path, monkeypatch):
    corpus = encoded(replays, tmp_path / "corpus", tables=("items",))
    assert len(corpus.state.files["items"]) == 1 and corpus.games.num_rows == 3
    one_by_one = [next(corpus.optional_rows("items", [game])) for game in range(3)]
    opened, open_file = [], Corpus.open_file
    monkeypatch.setattr(Corpus, "open_file", lambda self, path: opened.append(path) or open_file(self, path))
    assert list(corpus.optional_rows("items", range(3))) == one_by_one
    assert len(opened) == 1


def test_a_parser_process_reads_them_without_pandas(replays):
    script = (
        "import sys; from datasets.pipeline.parser_main import _WithoutPandas; "
        "sys.meta_path.insert(0, _WithoutPandas()); "
        "from datasets.replays.slp_reader import parse_replay; "
        "from datasets.corpus.shard import optional_table; "
        "game = parse_replay(open(sys.argv[1], 'rb').read(), tables=('items', 'stage')); "
        "print(*(optional_table(game, table).num_rows for table in ('items', 'stage')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, replays / "0.slp"], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("20 1\n", "")


def test_without_asking_nothing_is_stored_and_reading_says_how_to_get_it(replays, tmp_path):
    corpus = encoded(replays, tmp_path / "corpus")
    assert not {"items", "stage"} & corpus.state.files.keys()
    with pytest.raises(UserError, match="encoded without --tables items"):
        next(corpus.optional_rows("items", [0]))


def test_a_missing_or_changed_table_is_damage(replays, tmp_path):
    corpus = encoded(replays, tmp_path / "corpus", tables=("items",))
    (path,) = (corpus.root / "items").iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert not verify(corpus.root).is_sound
    path.unlink()
    assert not verify(corpus.root).is_sound


def test_a_file_that_a_killed_encode_left_is_deleted_by_the_next(replays, tmp_path):
    left = tmp_path / "corpus" / "items" / "0123.parquet"
    encoded(replays, tmp_path / "corpus")
    left.parent.mkdir()
    left.write_bytes(b"half")
    encoded(replays, tmp_path / "corpus")
    assert not left.exists()


def test_a_merge_keeps_every_row(replays, tmp_path):
    out, options = tmp_path / "corpus", EncodeOptions(filters=FILTERS, tables=("items",))
    for names in (["0.slp"], ["1.slp", "2.slp"]):
        encode([replays / name for name in names], out, options, encode_in_process)
    before = open_corpus(out)
    rows = [table.to_pylist() for table in before.optional_rows("items", range(3))]
    compact(out)
    after = open_corpus(out)
    assert [table.to_pylist() for table in after.optional_rows("items", range(3))] == rows
    assert len(after.state.files["items"]) == 1
    assert verify(out).is_sound
