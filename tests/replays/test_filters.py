"""Which games are accepted and which are rejected, on the odd files of real dumps."""

from __future__ import annotations

import dataclasses
import struct

import numpy as np
import pytest

from datasets.checks.filters import FilterConfig, check_game, damage_taken
from datasets.checks.value_ranges import VALUE_RANGES
from datasets.replays.game import Game
from datasets.replays.slp_reader import parse_replay
from datasets.runtime.errors import ReplayError
from datasets.schema.columns import PLAYER_COLUMNS
from datasets.schema.reject_reasons import REJECT_REASONS

GOOD_GAME = "1b72eddbd56faf6f.slp"


def code_of(content: bytes, filters: FilterConfig) -> str | None:
    """Reject code of a replay; None if it is accepted."""
    try:
        check_game(parse_replay(content), filters)
    except ReplayError as error:
        assert error.message
        return error.code
    return None


def with_value(game: Game, column: str, value: float) -> Game:
    """The game with one value of player 1 changed."""
    values = game.players[1][column].copy()
    values[500] = value
    return dataclasses.replace(game, players=(game.players[0], game.players[1] | {column: values}))


def test_each_odd_file_is_accepted_or_rejected_as_the_inventory_expects(inventory, read_real):
    edge = [row for row in inventory if row["set"] == "edge"]
    assert len(edge) == 70
    for row in edge:
        code = code_of(read_real(row["file"]), FilterConfig())
        assert (code is None) == row["expected_default"].startswith("accept"), (row["file"], code)
        assert code is None or code in REJECT_REASONS


def test_each_reason_of_the_inventory_is_in_the_message(inventory, read_real):
    words = {"cpu_player", "items_on", "odd_stage", "odd_stocks", "short", "low_damage", "idle_player"}
    checked = 0
    for row in inventory:
        reasons = set(row["why"].split("+"))
        if row["set"] != "edge" or not reasons <= words | {"odd_timer", "no_game_end"}:
            continue
        game = parse_replay(read_real(row["file"]))
        with pytest.raises(ReplayError) as rejected:
            check_game(game, FilterConfig())
        named = {part.split(":")[0] for part in rejected.value.message.split("; ")}
        assert reasons & words <= named, row["file"]
        checked += 1
    assert checked > 10


@pytest.mark.parametrize(
    ("why", "filters"),
    [
        ("odd_stage", FilterConfig(any_stage=True)),
        ("low_damage", FilterConfig(min_damage_percent=0.0)),
        ("short", FilterConfig(min_frames=1, min_damage_percent=0.0)),
        ("idle_player", FilterConfig(allow_idle=True, min_damage_percent=0.0)),
        ("cpu_player", FilterConfig(allow_cpu=True)),
        ("cpu_player+items_on", FilterConfig(allow_cpu=True, allow_items=True)),
        ("cpu_player+odd_stocks", FilterConfig(allow_cpu=True, num_stocks=0, min_damage_percent=0.0)),
    ],
)
def test_each_filter_can_be_relaxed(why, filters, inventory, read_real):
    rows = [row for row in inventory if row["set"] == "edge" and row["why"] == why]
    codes = {code_of(read_real(row["file"]), filters) for row in rows}
    assert None in codes


def test_a_team_game_of_two_is_accepted_on_request(read_real):
    game = parse_replay(read_real(GOOD_GAME))
    game = dataclasses.replace(game, facts=dataclasses.replace(game.facts, is_teams=True))
    with pytest.raises(ReplayError) as rejected:
        check_game(game, FilterConfig())
    assert rejected.value.code == "teams"
    check_game(game, FilterConfig(allow_teams=True))


def test_unknown_metadata_never_rejects_a_game(read_real):
    game = parse_replay(read_real(GOOD_GAME))
    players = tuple(dataclasses.replace(p, port=None, is_human=None, stocks=None) for p in game.facts.players)
    unknown = {name: None for name in ("slippi_version", "is_teams", "has_items", "is_pal", "start_time", "end_method")}
    facts = dataclasses.replace(game.facts, players=players, placements=None, **unknown)
    check_game(dataclasses.replace(game, facts=facts, cross_check=None), FilterConfig())


@pytest.mark.parametrize(
    "options",
    [{"min_frames": 0}, {"min_damage_percent": -1.0}, {"min_damage_percent": float("nan")}, {"num_stocks": 100}],
)
def test_an_invalid_filter_is_rejected_by_name(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        FilterConfig(**options)


def test_a_filter_can_be_made_stricter(read_real):
    content = read_real(GOOD_GAME)
    assert code_of(content, FilterConfig()) is None
    assert code_of(content, FilterConfig(min_frames=20_000)) == "short"
    assert code_of(content, FilterConfig(min_damage_percent=400.0)) == "low_damage"
    assert code_of(content, FilterConfig(num_stocks=3)) == "odd_stocks"


def test_damage_is_the_sum_of_all_increases_in_percent(read_real):
    game = parse_replay(read_real(GOOD_GAME))
    for player, columns in enumerate(game.players):
        total, before = 0.0, 0.0
        for percent in columns["percent"].tolist():
            total += max(0.0, percent - before)
            before = percent
        assert damage_taken(game, player) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize(
    ("column", "value"),
    [("percent", 1e30), ("x", -2e8), ("state_age", 1e9), ("stocks", 200), ("jumps", 255), ("main_x", -128)],
)
def test_a_value_out_of_range_is_rejected(column, value, read_real):
    game = parse_replay(read_real(GOOD_GAME))
    check_game(game, FilterConfig())
    with pytest.raises(ReplayError) as rejected:
        check_game(with_value(game, column, value), FilterConfig())
    assert rejected.value.code == "bad_values"
    assert column in rejected.value.message


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_rejected(value, read_real):
    content = read_real(GOOD_GAME)
    position = parse_replay(content).players[0]["x"][1_000]
    code = code_of(content.replace(struct.pack(">f", position), struct.pack(">f", value)), FilterConfig())
    assert code == "bad_values"


def test_each_value_range_belongs_to_a_column_and_lies_within_its_dtype():
    for name, (lowest, highest) in VALUE_RANGES.items():
        assert lowest < highest
        dtype = np.dtype(PLAYER_COLUMNS[name].to_pandas_dtype())
        limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
        assert limits.min <= lowest and highest <= limits.max


def test_reject_codes_are_words_with_a_description():
    for code, text in REJECT_REASONS.items():
        assert code.replace("_", "").isalpha() and code.islower()
        assert len(text) > 5
