"""Games of the older pipelines have the values of their .slp, or null."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from older_pipeline import Recording, stored

from datasets.corpus.chunk import EncodeOptions
from datasets.corpus.info import corpus_info
from datasets.corpus.reader import open_corpus
from datasets.legacy.parsed_container import MAX_PARQUET_BYTES, MAX_ROWS
from datasets.legacy.parsed_game import BUTTONS, parse_parsed_game
from datasets.loading.frames import index_games
from datasets.pipeline.encode import encode, encode_in_process
from datasets.replays.game import Game
from datasets.replays.slp_reader import parse_replay
from datasets.runtime.errors import ReplayError, UserError
from datasets.schema.columns import PLAYER_COLUMNS, VELOCITY_COLUMNS
from datasets.schema.splits import SplitConfig, in_split

ARCHIVES = {"parsed-v2": "parsed-v2.tar", "parsed-v3": "parsed-v3.tar", "slippi-db": "slippi-db-toy.zip"}
IN_NO_FORM = {"last_hit_by"}
FLAGS = {f"flags_{index}" for index in range(5)}
ONLY_V3 = FLAGS | {"hitstun"}
NOT_IN_SLIPPI_DB = {
    *ONLY_V3, *VELOCITY_COLUMNS, "percent", "stocks", "state_age", "l_cancel", "ground", "last_attack", "combo",
    "hurtbox", "hitlag",
}  # fmt: skip
LOST_FLAGS = ("44625a474ab3d3de506477e5d9280671", "fb259e5cb36154a7662f741fdb87c110")
"""Games of parsed-v3 without state flags, for which the pipeline wrote zeros."""
ROLLBACK_GAME = "3f8a2624de42f84a942cc6b6775aa45b"
CLEAN_GAME = "0addeb324a519cb6.slp"


@pytest.fixture(scope="module")
def parsed_games(real_replays) -> dict[tuple[str, str], tuple[bytes, dict[str, Any]]]:
    """The real files with their entries of meta.json, by form and game id."""
    games = {}
    for form, archive in ARCHIVES.items():
        files = dict(_files(real_replays / archive))
        entries = {entry["slp_md5"]: entry for entry in json.loads(files.pop("meta.json"))}
        games |= {(form, name): (content, entries[name]) for name, content in files.items()}
    return games


@pytest.fixture(scope="module")
def replays(inventory, read_real) -> dict[str, bytes]:
    """The dev replays, by game id."""
    contents = (read_real(row["file"]) for row in inventory if row["set"] == "dev")
    return {hashlib.md5(content).hexdigest(): content for content in contents}


def _files(archive: Path) -> Iterator[tuple[str, bytes]]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            yield from ((Path(name).name, opened.read(name)) for name in opened.namelist() if not name.endswith("/"))
    else:
        with tarfile.open(archive) as opened:
            for member in opened:
                if (file := opened.extractfile(member)) is not None:
                    yield Path(member.name).name, file.read()


def _shared(game: Game, other: Game) -> list[tuple[int, str]]:
    """Player and name of each column that both games have."""
    return [
        (player, name)
        for player in range(2)
        for name in PLAYER_COLUMNS
        if game.players[player][name] is not None and other.players[player][name] is not None
    ]


def _known(values: np.ndarray | None, name: str) -> np.ndarray:
    """The values without the buttons that no form has: A while Z is pressed, Start and three of the D-pad."""
    assert values is not None
    if name != "buttons":
        return values
    values = values & np.uint16(sum(BUTTONS.values()))
    return np.where(values & BUTTONS["Z"], values & np.uint16(~BUTTONS["A"] & 0xFFFF), values).astype(np.uint16)


def _rows(game: Game, names: list[tuple[int, str]]) -> list[bytes]:
    columns = [_known(game.players[player][name], name) for player, name in names]
    table = np.rec.fromarrays(columns)
    return [row.tobytes() for row in table]


def test_every_row_of_the_replay_is_present_in_order_with_the_same_values(parsed_games, replays):
    for (form, game_id), (content, entry) in parsed_games.items():
        game, replay = parse_parsed_game(content, game_id, entry), parse_replay(replays[game_id])
        names = _shared(game, replay)
        assert len(names) >= 28
        assert all(game.players[p][n].dtype == replay.players[p][n].dtype for p, n in names)
        remaining = iter(_rows(game, names))
        assert all(row in remaining for row in _rows(replay, names)), (form, game_id)


def test_exactly_the_columns_that_a_form_lacks_are_null(parsed_games, replays):
    for (form, game_id), (content, entry) in parsed_games.items():
        game, replay = parse_parsed_game(content, game_id, entry), parse_replay(replays[game_id])
        expected = {"parsed-v2": ONLY_V3, "parsed-v3": set(), "slippi-db": NOT_IN_SLIPPI_DB}[form] | IN_NO_FORM
        expected |= ONLY_V3 if game_id in LOST_FLAGS else set()
        for columns, of_replay in zip(game.players, replay.players, strict=True):
            assert {name for name, values in columns.items() if values is None} == expected, (form, game_id)
            assert {name for name, values in of_replay.items() if values is None} <= expected


def test_the_metadata_of_a_game_is_unknown_or_that_of_its_replay(parsed_games, replays):
    for (form, game_id), (content, entry) in parsed_games.items():
        game, facts = parse_parsed_game(content, game_id, entry), parse_replay(replays[game_id]).facts
        known = game.facts
        assert (game.game_id, known.form, known.stage) == (game_id, form, facts.stage)
        assert [p.character for p in known.players] == [p.character for p in facts.players]
        for name in ("slippi_version", "is_teams", "is_pal", "end_method"):
            assert getattr(known, name) in (None, getattr(facts, name)), (form, game_id, name)
        for player, of_replay in zip(known.players, facts.players, strict=True):
            assert player.port in (None, of_replay.port)
            assert player.is_human in (None, of_replay.is_human)
            assert player.stocks in (None, of_replay.stocks)
    _, entry = parsed_games["slippi-db", "6827921534249607dafa57e9a67f8df4"]
    assert known.slippi_version == (3, 16, 0)
    assert [(p.port, p.is_human) for p in known.players] == [(1, True), (2, True)]
    assert known.placements == (1, 0) and entry["winner"] == 1


def test_rollback_frames_are_removed_or_the_game_is_flagged(parsed_games, replays):
    for (form, game_id), (content, entry) in parsed_games.items():
        game, replay = parse_parsed_game(content, game_id, entry), parse_replay(replays[game_id])
        assert game.may_hold_rollbacks or game.num_frames == replay.num_frames
        assert game.num_frames >= replay.num_frames
        assert game.may_hold_rollbacks == (form == "slippi-db" or replay.num_rollback_rows > 0)


def test_all_421_rollback_rows_of_a_game_are_removed(parsed_games):
    game = parse_parsed_game(*_arguments(parsed_games, "parsed-v2", ROLLBACK_GAME))
    assert (game.num_frames, game.num_rollback_rows) == (8_868, 421)
    assert game.may_hold_rollbacks  # 404 rollbacks are too many to be certain of each


def _arguments(parsed_games, form: str, game_id: str) -> tuple[bytes, str, dict[str, Any]]:
    content, entry = parsed_games[form, game_id]
    return content, game_id, entry


def test_the_tests_write_the_forms_like_the_pipelines(parsed_games, replays):
    for (form, game_id), (content, _) in parsed_games.items():
        fields = Recording(replays[game_id]).fields(form)
        if game_id in LOST_FLAGS:
            fields = {name: v * 0 if "state_flags" in name or "hitstun" in name else v for name, v in fields.items()}
        ours, theirs = (parse_parsed_game(c, game_id, None) for c in (stored(fields), content))
        assert (ours.facts, ours.num_frames) == (theirs.facts, theirs.num_frames)
        for columns, others in zip(ours.players, theirs.players, strict=True):
            for name, values in columns.items():
                assert (values is None) == (others[name] is None), (form, game_id, name)
                assert values is None or np.array_equal(values, others[name]), (form, game_id, name)


def test_fields_that_an_old_replay_lacks_are_null_in_every_form(replays):
    seen = set()
    for game_id, content in replays.items():
        replay = parse_replay(content)
        absent = {name for name, values in replay.players[0].items() if values is None}
        if not absent or replay.num_rollback_rows or absent in seen:
            continue
        seen.add(frozenset(absent))
        recording = Recording(content)
        for form in ("parsed-v2", "parsed-v3"):
            game = parse_parsed_game(stored(recording.fields(form)), game_id, None)
            names = _shared(game, replay)
            assert all(game.players[p][name] is None for p in range(2) for name in absent)
            assert _rows(game, names) == _rows(replay, names)
    assert {frozenset({"hitlag"}), frozenset({"hitlag", "hurtbox", *VELOCITY_COLUMNS})} <= seen


@pytest.fixture(scope="module")
def fields(read_real) -> dict[str, np.ndarray]:
    """Fields of a real game in the form parsed-v3, for tests to change."""
    return Recording(read_real(CLEAN_GAME)).fields("parsed-v3")


def _with_value(fields: dict[str, Any], name: str, row: int, value: float) -> dict[str, Any]:
    values = fields[name].copy()
    values[row] = value
    return fields | {name: values}


@pytest.mark.parametrize(
    ("field", "value", "column"),
    [
        ("p0.x", np.nan, "x"),
        ("p1.percent", np.inf, "percent"),
        ("p0.stocks", 3.5, "stocks"),
        ("p0.controller.main_stick.x", 1.2, "main_x"),
        ("p1.controller.c_stick.y", np.nan, "c_y"),
        ("p0.controller.shoulder", -0.1, "trigger"),
        ("stage", 31, "stage"),
    ],
)
def test_impossible_values_are_rejected_and_named(fields, field, value, column):
    with pytest.raises(ReplayError, match=rf"\b{column}\b") as caught:
        parse_parsed_game(stored(_with_value(fields, field, 500, value)), "0" * 32, None)
    assert caught.value.code == "bad_values"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        (lambda f: {"p0.character": np.full_like(f["p0.character"], 29)}, "bad_values"),
        (lambda f: {"p0.action": f["p0.action"].astype(np.int64) - 400}, "bad_values"),
        (lambda f: {"p0.action": np.roll(f["p0.action"], -300)}, "odd_first_frame"),
        (lambda f: {f"p{p}.jumps_left": f["p0.jumps_left"] * 0 for p in range(2)}, "old_version"),
        (lambda f: {"stage": f["stage"] * 0}, "odd_stage"),
        (lambda f: {name.replace("p1", "p2"): v for name, v in f.items() if name.startswith("p1")}, "not_two_players"),
        (lambda f: {"p0.y": pa.array(f["p0.y"], mask=np.arange(len(f["p0.y"])) == 7)}, "player_absent"),
        (lambda f: {"p0.y": np.full(len(f["p0.y"]), "high")}, "unreadable"),
    ],
)
def test_invalid_games_are_rejected_with_their_reason(fields, changes, code):
    with pytest.raises(ReplayError) as caught:
        parse_parsed_game(stored(fields | changes(fields)), "0" * 32, None)
    assert caught.value.code == code


@pytest.mark.parametrize("name", ["p0.percent", "p1.controller.buttons.Z", "p0.on_ground", "stage"])
def test_a_missing_required_field_is_rejected_and_named(fields, name):
    with pytest.raises(ReplayError, match=name.replace(".", r"\.")) as caught:
        parse_parsed_game(stored({other: values for other, values in fields.items() if other != name}), "0" * 32, None)
    assert caught.value.code == "unreadable"


def test_bytes_that_are_not_a_parsed_game_are_rejected(fields):
    whole = stored(fields)
    table = io.BytesIO()
    pq.write_table(pa.table({"x": [1.0]}), table)
    for content in (b"", b"no zlib", whole[:-100], zlib.compress(b"no Parquet" * 100), zlib.compress(table.getvalue())):
        with pytest.raises(ReplayError) as caught:
            parse_parsed_game(content, "0" * 32, None)
        assert caught.value.code == "unreadable"


def test_a_file_without_rows_is_rejected_as_no_frames(fields):
    with pytest.raises(ReplayError) as caught:
        parse_parsed_game(stored({name: values[:0] for name, values in fields.items()}), "0" * 32, None)
    assert caught.value.code == "no_frames"


def test_a_decompression_bomb_is_rejected_before_it_fills_memory(fields):
    small = {name: np.zeros(MAX_ROWS + 1, dtype=values.dtype) for name, values in fields.items()}
    for content in (zlib.compress(bytes(MAX_PARQUET_BYTES + 1)), stored(small)):
        assert len(content) < MAX_PARQUET_BYTES / 100
        with pytest.raises(ReplayError) as caught:
            parse_parsed_game(content, "0" * 32, None)
        assert caught.value.code == "too_large"


def test_damage_inside_the_compressed_data_never_crashes_the_reader(fields):
    seeded = random.Random(3)
    data = zlib.decompress(stored(fields))
    codes = set()
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(4):
            damaged[seeded.randrange(len(data))] ^= seeded.randrange(1, 256)
        try:
            parse_parsed_game(zlib.compress(bytes(damaged), 1), "0" * 32, None)
        except ReplayError as error:
            codes.add(error.code)
    assert "unreadable" in codes


def test_uncompressed_parquet_is_accepted(fields):
    content = stored(fields)
    plain = parse_parsed_game(zlib.decompress(content), "0" * 32, None)
    assert plain.fingerprint == parse_parsed_game(content, "0" * 32, None).fingerprint


def test_the_a_button_is_kept_if_the_form_records_the_physical_one(fields):
    z = fields["p0.controller.buttons.Z"]
    assert z.any()
    noted = parse_parsed_game(stored(fields), "0" * 32, None).players[0]["buttons"]
    held = parse_parsed_game(stored(fields | {"p0.controller.buttons.A": z & False}), "0" * 32, None).players[0][
        "buttons"
    ]
    assert not (noted[z] & BUTTONS["A"]).any()
    assert not (held & BUTTONS["A"]).any()
    half = fields["p0.controller.buttons.A"] & (np.arange(len(z)) % 2 == 0)
    physical = parse_parsed_game(stored(fields | {"p0.controller.buttons.A": half}), "0" * 32, None).players[0][
        "buttons"
    ]
    assert np.array_equal((physical & BUTTONS["A"]) != 0, half)


def test_clipped_hitstun_is_not_stored(fields):
    game = parse_parsed_game(stored(fields), "0" * 32, None)
    counts = np.flatnonzero(fields["p0.state_flags_3"] & 2)
    cut = parse_parsed_game(stored(_with_value(fields, "p0.hitstun_remaining", counts[5], 0.0)), "0" * 32, None)
    beside = np.flatnonzero((fields["p0.state_flags_3"] & 2) == 0)
    odd = parse_parsed_game(stored(_with_value(fields, "p0.hitstun_remaining", beside[5], np.nan)), "0" * 32, None)
    assert cut.players[0]["hitstun"] is None and cut.players[1]["hitstun"] is not None
    assert np.array_equal(odd.players[0]["hitstun"], game.players[0]["hitstun"])


def test_invalid_metadata_counts_as_unknown(fields):
    content = stored(fields)
    bare = parse_parsed_game(content, "0" * 32, None).facts
    nonsense = {
        "stage": "Final Destination", "slippi_version": [3, "x", 0], "players": [1, 2], "match": [], "winner": "p0",
        "is_pal": 0, "game_end_method": 0, "startAt": 5, "lastFrame": None,
    }  # fmt: skip
    assert parse_parsed_game(content, "0" * 32, nonsense).facts == bare
    assert (bare.slippi_version, bare.is_pal, bare.match_id, bare.start_time) == (None, None, "", None)
    assert [player.port for player in bare.players] == [None, None]


def test_the_stage_comes_from_the_entry_if_the_frames_lack_it(fields):
    nowhere = stored(fields | {"stage": fields["stage"] * 0})
    assert parse_parsed_game(nowhere, "0" * 32, {"stage": 32}).facts.stage == 32
    with pytest.raises(ReplayError, match="stage 32 in the frames, but 31 in meta"):
        parse_parsed_game(stored(fields), "0" * 32, {"stage": 31})


def test_an_entry_with_four_players_is_rejected(fields):
    with pytest.raises(ReplayError) as caught:
        parse_parsed_game(stored(fields), "0" * 32, {"num_players": 4})
    assert caught.value.code == "not_two_players"


def test_slippi_db_games_with_missing_frames_are_rejected_and_all_others_flagged(parsed_games):
    content, game_id, entry = _arguments(parsed_games, "slippi-db", "6827921534249607dafa57e9a67f8df4")
    assert parse_parsed_game(content, game_id, entry).may_hold_rollbacks
    with pytest.raises(ReplayError) as caught:
        parse_parsed_game(content, game_id, entry | {"lastFrame": entry["lastFrame"] + 1})
    assert caught.value.code == "frame_gap"


numbers = st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=20)


@given(numbers, st.randoms(use_true_random=False))
def test_flagged_games_are_never_evaluated_on_and_train_only_by_their_split_number(split_numbers, seeded):
    array = np.array(split_numbers)
    flags = np.array([seeded.random() < 0.5 for _ in split_numbers])
    config = SplitConfig(test_fraction=0.3, validation_fraction=0.3)
    for split in ("test", "validation"):
        assert np.array_equal(in_split(array, split, config, flags), in_split(array, split, config) & ~flags)
    for split in ("train", "all"):
        assert np.array_equal(in_split(array, split, config, flags), in_split(array, split, config))


@pytest.fixture(scope="module")
def parsed_corpus(real_replays, tmp_path_factory) -> Path:
    """A corpus of the real games of parsed-v2: two without rollbacks, three with many."""
    out = tmp_path_factory.mktemp("parsed") / "corpus"
    encode([real_replays / ARCHIVES["parsed-v2"]], out, EncodeOptions(), encode_in_process)
    return out


def test_flagged_games_of_a_corpus_are_not_evaluated_on(parsed_corpus):
    corpus = open_corpus(parsed_corpus)
    flags = corpus.games["may_hold_rollbacks"].to_pylist()
    assert sorted(flags) == [False, False, True, True, True]
    everything = SplitConfig(test_fraction=0.0, validation_fraction=1.0)
    evaluated = index_games(corpus, "validation", everything)
    flag_of = dict(zip(corpus.games["game_id"].to_pylist(), flags, strict=True))
    assert sorted(flag_of[game_id] for game_id in evaluated.game_ids) == [False, False]
    assert len(index_games(corpus, "all", everything)) == 5
    assert list(index_games(corpus, "all", everything, for_evaluation=True).game_ids) == list(evaluated.game_ids)
    with pytest.raises(UserError, match="train split"):
        index_games(corpus, "train", everything)


def test_info_does_not_count_flagged_games_in_the_evaluation_splits(parsed_corpus):
    corpus = open_corpus(parsed_corpus)
    splits = corpus_info(corpus).games_by_split
    assert splits == {s: len(_indexed(corpus, s)) for s in ("train", "validation", "test")}


def _indexed(corpus, split) -> list[str]:
    try:
        return list(index_games(corpus, split, SplitConfig()).game_ids)
    except UserError:
        return []
