"""The corpus as readers see it: whole games, in order, in stable splits."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datasets.corpus.chunk import ChunkResult, EncodeOptions
from datasets.corpus.info import corpus_info, describe
from datasets.corpus.reader import Corpus, open_corpus
from datasets.corpus.shard import ROW_GROUP_FRAMES
from datasets.corpus.state import CORPUS_FILE, FOLLOWERS, FRAMES, GAMES, IN_PROGRESS_FILE, STATE_VERSION
from datasets.pipeline.encode import encode, encode_in_process
from datasets.pipeline.feed import Feed
from datasets.replays.slp_reader import parse_replay
from datasets.runtime.errors import UserError
from datasets.runtime.version import tool_version
from datasets.schema.columns import (
    FIRST_FRAME_ID,
    FOLLOWERS_SCHEMA,
    FRAMES_SCHEMA,
    NUM_PLAYERS,
    OPTIONAL_FIELDS,
    PLAYER_COLUMNS,
)
from datasets.schema.splits import SplitConfig, in_split, split_number


@pytest.fixture
def corpus(dev_corpus: Path) -> Corpus:
    """The dev games' corpus."""
    return open_corpus(dev_corpus)


@lru_cache(maxsize=3)
def rows_of_shard(path: Path) -> pa.Table:
    """The rows of a shard, which is read once for its games."""
    return pq.read_table(path)


def rows_of(corpus: Corpus, game: dict) -> pa.Table:
    """A game's rows in its shard."""
    return rows_of_shard(corpus.shard_path(game["shard"])).slice(game["first_row"], game["num_frames"])


def test_the_games_table_locates_the_rows_of_each_game(corpus):
    shards = {}
    for game in corpus.games.to_pylist():
        shards[game["shard"]] = rows_of_shard(corpus.shard_path(game["shard"]))
        rows = rows_of(corpus, game)
        assert rows["game_id"].unique().to_pylist() == [game["game_id"]]
    assert sum(table.num_rows for table in shards.values()) == sum(corpus.games["num_frames"].to_pylist())


def test_each_row_group_holds_whole_games(corpus):
    games = corpus.games.to_pylist()
    for shard in {game["shard"] for game in games}:
        file = pq.ParquetFile(corpus.shard_path(shard))
        found = []
        for group in range(file.num_row_groups):
            names = file.read_row_group(group, ["game_id"])["game_id"].to_pylist()
            found += [(name, group, num_frames) for name, num_frames in Counter(names).items()]
        expected = [(g["game_id"], g["row_group"], g["num_frames"]) for g in games if g["shard"] == shard]
        assert found == expected


def test_a_row_group_closes_with_the_game_that_fills_it(tmp_path, dev_corpus, read_real, inventory):
    games = sorted((row for row in inventory if row["set"] == "dev"), key=lambda row: -int(row["frames"]))[:32]
    for row in games:
        (tmp_path / row["file"]).write_bytes(read_real(row["file"]))
    encode([tmp_path], tmp_path / "corpus", EncodeOptions(), one_chunk)
    corpus = open_corpus(tmp_path / "corpus")
    (shard,) = set(corpus.games["shard"].to_pylist())
    file = pq.ParquetFile(corpus.shard_path(shard))
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
    longest = max(corpus.games["num_frames"].to_pylist())
    assert len(sizes) > 3
    assert all(ROW_GROUP_FRAMES <= size < ROW_GROUP_FRAMES + longest for size in sizes[:-1])
    for game in corpus.games.to_pylist():
        start = sum(sizes[: game["row_group"]])
        assert start <= game["first_row"]
        assert game["first_row"] + game["num_frames"] <= start + sizes[game["row_group"]]


def one_chunk(feed: Feed) -> Iterable[ChunkResult]:
    """All inputs in one chunk, so in one shard."""
    return encode_in_process(dataclasses.replace(feed, chunk_inputs=1_000))


def test_frames_of_a_game_run_from_the_countdown_without_a_gap(corpus):
    for game in corpus.games.to_pylist()[::5]:
        frames = rows_of(corpus, game)["frame"].to_numpy()
        assert np.array_equal(frames, np.arange(FIRST_FRAME_ID, FIRST_FRAME_ID + game["num_frames"]))


def test_frames_are_stored_in_the_schema_with_the_values_of_the_replay_reader(corpus, read_real, inventory):
    by_id = {game["game_id"]: game for game in corpus.games.to_pylist()}
    for row in [row for row in inventory if row["set"] == "dev"][::6]:
        parsed = parse_replay(read_real(row["file"]))
        stored = rows_of(corpus, by_id[parsed.game_id])
        assert stored.schema.equals(FRAMES_SCHEMA, check_metadata=False)
        for player in range(NUM_PLAYERS):
            for name in PLAYER_COLUMNS:
                column, values = stored[f"p{player}_{name}"], parsed.players[player][name]
                if values is None:
                    assert column.null_count == len(column), name
                else:
                    assert np.array_equal(column.to_numpy(), values), name


def test_columns_are_null_exactly_where_the_games_table_says_so(corpus):
    without = Counter()
    for game in corpus.games.to_pylist():
        rows = rows_of(corpus, game)
        for field, names in OPTIONAL_FIELDS.items():
            without[field] += not game[f"has_{field}"]
            for column in (rows[f"p{player}_{name}"] for player in range(NUM_PLAYERS) for name in names):
                assert column.null_count == (0 if game[f"has_{field}"] else len(column))
        optional = {name for names in OPTIONAL_FIELDS.values() for name in names}
        for name in set(PLAYER_COLUMNS) - optional:
            assert rows[f"p0_{name}"].null_count == 0, name
    assert without == {"velocity": 13, "hitlag": 19, "hurtbox": 12}


def test_followers_hold_the_ice_climbers_partner_and_nobody_else(corpus):
    names = [record.name for record in corpus.state.files[FOLLOWERS]]
    table = pa.concat_tables([pq.read_table(corpus.root / FOLLOWERS / name) for name in names])
    assert table.schema.equals(FOLLOWERS_SCHEMA, check_metadata=False)
    climbers = 14
    games = {game["game_id"]: game for game in corpus.games.to_pylist()}
    played = {g for g, game in games.items() if climbers in (game["p0_character"], game["p1_character"])}
    assert set(table["game_id"].to_pylist()) == played
    for row in table.slice(0, 50).to_pylist():
        game = games[row["game_id"]]
        assert game[f"p{row['player']}_character"] == climbers
        leader = rows_of(corpus, game).slice(row["frame"] - FIRST_FRAME_ID, 1).to_pylist()[0]
        assert leader["frame"] == row["frame"]
        assert row["character"] != leader[f"p{row['player']}_character"]


def test_the_winner_is_whoever_has_stocks_left(corpus):
    for game in corpus.games.to_pylist():
        last = rows_of(corpus, game).slice(game["num_frames"] - 1).to_pylist()[0]
        stocks = (last["p0_stocks"], last["p1_stocks"])
        if 0 in stocks and stocks[0] != stocks[1]:
            assert game["winner"] == int(stocks[1] > stocks[0])


def test_other_tools_read_the_frames_as_plain_parquet(corpus):
    table = pq.ParquetDataset(corpus.root / FRAMES).read(columns=["game_id", "frame", "p0_percent"])
    table = table.set_column(0, "game_id", table["game_id"].cast(pa.string()))
    counted = table.group_by("game_id").aggregate([("frame", "count")])
    assert dict(zip(counted["game_id"].to_pylist(), counted["frame_count"].to_pylist(), strict=True)) == dict(
        zip(corpus.games["game_id"].to_pylist(), corpus.games["num_frames"].to_pylist(), strict=True)
    )


def test_a_frame_takes_less_than_16_bytes_on_disk(corpus):
    assert corpus.num_bytes(FRAMES) / corpus.state.num_frames < 16


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"format_version": null', "\x00"])
def test_a_damaged_manifest_is_refused(content, tmp_path):
    (tmp_path / CORPUS_FILE).write_text(content)
    with pytest.raises(UserError, match="damaged"):
        open_corpus(tmp_path)


def test_another_format_version_is_refused_with_a_hint(dev_corpus, tmp_path):
    manifest = json.loads((dev_corpus / CORPUS_FILE).read_text())
    (tmp_path / CORPUS_FILE).write_text(json.dumps(manifest | {"format_version": STATE_VERSION + 1}))
    with pytest.raises(UserError, match=f"format {STATE_VERSION + 1}.*encode the replays again"):
        open_corpus(tmp_path)


def test_the_manifest_names_the_tool_version(tiny_corpus):
    assert json.loads((tiny_corpus / CORPUS_FILE).read_text())["tool_version"] == tool_version()


def test_a_folder_that_is_not_a_corpus_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no corpus\.json"):
        open_corpus(tmp_path)
    with pytest.raises(UserError, match=r"holds no corpus\.json"):
        open_corpus(tmp_path / "nowhere")
    (tmp_path / IN_PROGRESS_FILE).write_text("{}")
    with pytest.raises(UserError, match="half-written"):
        open_corpus(tmp_path)


def test_a_file_that_no_commit_lists_is_ignored(dev_corpus, tmp_path):
    copy = tmp_path / "corpus"
    shutil.copytree(dev_corpus, copy)
    games = next((copy / "games").iterdir())
    shutil.copy(games, games.with_name("games-999999.parquet"))
    assert open_corpus(copy).games.equals(open_corpus(dev_corpus).games)


def test_a_split_number_is_the_first_64_bits_of_the_keys_blake2b(corpus):
    for key, number in zip(
        corpus.games["split_key"].to_pylist(), corpus.games["split_number"].to_pylist(), strict=True
    ):
        head = hashlib.blake2b(key.encode()).hexdigest()[:16]
        assert number == split_number(key) == float(Fraction(int(head, 16), 2**64))
        assert 0 <= number < 1


@given(st.text(max_size=40))
def test_a_split_number_is_never_one(key):
    assert 0 <= split_number(key) < 1


def test_games_of_a_match_share_a_split_key_and_others_have_their_own(corpus):
    games = corpus.games.to_pylist()
    with_match = [game for game in games if game["split_key"] != game["game_id"]]
    assert len(with_match) == 2
    assert all(game["split_key"].startswith("mode.") for game in with_match)


def test_a_game_never_moves_between_splits_when_the_corpus_grows(corpus, real_replays, tmp_path, read_real, inventory):
    out = tmp_path / "corpus"
    for number, row in enumerate([row for row in inventory if row["set"] == "dev"][:9]):
        (tmp_path / f"{number % 3}").mkdir(exist_ok=True)
        (tmp_path / f"{number % 3}" / row["file"]).write_bytes(read_real(row["file"]))
    numbers: dict[str, float] = {}
    for step in range(3):
        encode([tmp_path / f"{step}"], out, EncodeOptions(), encode_in_process)
        games = open_corpus(out).games
        now = dict(zip(games["game_id"].to_pylist(), games["split_number"].to_pylist(), strict=True))
        assert numbers.items() <= now.items()
        numbers = now
    whole = dict(zip(corpus.games["game_id"].to_pylist(), corpus.games["split_number"].to_pylist(), strict=True))
    assert numbers.items() <= whole.items()


shares = st.floats(0, 1, allow_nan=False)


@given(st.lists(st.floats(0, 1, exclude_max=True), max_size=30), shares, shares)
def test_each_game_is_in_exactly_one_split(numbers, test_fraction, validation_fraction):
    if validation_fraction > 1 - test_fraction:
        with pytest.raises(ValueError, match="validation_fraction"):
            SplitConfig(test_fraction=test_fraction, validation_fraction=validation_fraction)
        return
    config = SplitConfig(test_fraction=test_fraction, validation_fraction=validation_fraction)
    array = np.array(numbers, dtype=np.float64)
    members = {split: in_split(array, split, config) for split in ("train", "validation", "test", "all")}
    for index, number in enumerate(numbers):
        if number < test_fraction:
            expected = "test"
        elif number < test_fraction + validation_fraction:
            expected = "validation"
        else:
            expected = "train"
        found = [split for split in ("train", "validation", "test") if members[split][index]]
        assert found == [expected]
    assert members["all"].all()


def test_info_counts_games_frames_and_rejects(corpus, inventory):
    info = corpus_info(corpus)
    rows = [row for row in inventory if row["set"] == "dev"]
    assert (info.num_games, info.num_frames) == (42, 369_099)
    assert info.games_by_version == dict(sorted(Counter(row["slippi_version"] for row in rows).items()))
    assert info.games_without == {"velocity": 13, "hitlag": 19, "hurtbox": 12, "items": 42, "stage": 42}
    assert sum(info.games_by_split.values()) == sum(info.games_by_stage.values()) == 42
    assert info.games_by_character["Ice Climbers"] == sum("Ice Climbers" in row["character_names"] for row in rows)
    assert info.games_by_character["Fox"] == sum("Fox" in row["character_names"].split("|") for row in rows)
    assert info.rejects == []
    assert "369,099" in describe(info, show_rejects=True)
    assert info.bytes_per_frame == corpus.num_bytes(FRAMES) / 369_099


def test_info_names_each_reject(tmp_path):
    with pytest.raises(UserError):
        (tmp_path / "page.slp").write_bytes(b"<!DOCTYPE html>")
        encode([tmp_path / "page.slp"], tmp_path / "corpus", EncodeOptions(), encode_in_process)
    info = corpus_info(open_corpus(tmp_path / "corpus"))
    assert info.rejects_by_reason == {"not_a_replay": 1}
    assert "#0" in describe(info, show_rejects=True)
    assert "#0" not in describe(info, show_rejects=False)


def test_synthetic_games_become_a_corpus(tiny_corpus, synthetic_replays):
    corpus = open_corpus(tiny_corpus)
    files = [path for path in synthetic_replays.rglob("*") if path.is_file()]
    assert corpus.games.num_rows + corpus.rejects.num_rows == len(files)
    assert corpus.games.num_rows >= 10
    for game in corpus.games.to_pylist():
        rows = rows_of(corpus, game)
        assert pc.min(rows["frame"]).as_py() == FIRST_FRAME_ID
        assert rows.num_rows == game["num_frames"]


def test_an_incomplete_copy_is_refused(tiny_corpus, tmp_path):
    for number, damage in enumerate((Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1]))):
        copy = tmp_path / str(number)
        shutil.copytree(tiny_corpus, copy)
        open_corpus(copy)
        damage(min((copy / FRAMES).glob("*.parquet")))
        with pytest.raises(UserError, match="drop what is damaged with `wm corpus repair"):
            open_corpus(copy)


def test_a_damaged_table_is_a_one_line_error(tiny_corpus, tmp_path):
    copy = shutil.copytree(tiny_corpus, tmp_path / "corpus")
    path = min((copy / GAMES).iterdir())
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(UserError, match=r"cannot be read.*wm corpus verify"):
        _ = open_corpus(copy).games


def test_the_manifest_lists_every_data_file_so_that_opening_reads_no_commit(tiny_corpus):
    corpus = open_corpus(tiny_corpus)
    on_disk = {path.relative_to(tiny_corpus).as_posix() for path in tiny_corpus.rglob("*.parquet")}
    assert set(corpus.state.paths()) == on_disk
    for table in corpus.state.files:
        sizes = [path.stat().st_size for path in (tiny_corpus / table).glob("*")]
        assert corpus.num_bytes(table) == sum(sizes)
