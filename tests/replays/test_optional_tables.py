"""Items and stage events of replays: every value is that of the file, in the final simulation of its frame."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from slp_events import ITEM, TRANSFORMATION, WIND, events_of, item_event, platform_event, with_3_18_events

from datasets.replays.game import FrameRows, Game
from datasets.replays.slp_reader import parse_replay
from datasets.schema.columns import FIRST_FRAME_ID
from datasets.schema.optional_tables import OPTIONAL_TABLES

FRAME_START = 0x3A

# SPEC.md, Item Update: column -> offset from the command byte, format, version of Slippi since.
ITEM_FIELDS = {
    "type": (0x5, "H", (3, 0)), "state": (0x7, "B", (3, 0)), "facing": (0x8, "f", (3, 0)),
    "velocity_x": (0xC, "f", (3, 0)), "velocity_y": (0x10, "f", (3, 0)), "x": (0x14, "f", (3, 0)),
    "y": (0x18, "f", (3, 0)), "damage_taken": (0x1C, "H", (3, 0)), "expiration": (0x1E, "f", (3, 0)),
    "spawn_id": (0x22, "I", (3, 0)), "missile": (0x26, "B", (3, 2)), "turnip": (0x27, "B", (3, 2)),
    "is_launched": (0x28, "B", (3, 2)), "charge": (0x29, "B", (3, 2)), "owner": (0x2A, "b", (3, 6)),
    "instance": (0x2B, "H", (3, 16)),
}  # fmt: skip


def items_read_slowly(content: bytes) -> tuple[tuple[int, int], dict[int, list[dict[str, float]]]]:
    """The version, and by frame id the items of its last simulation."""
    _, events, _ = events_of(content)
    version = (events[0][1], events[0][2])
    found: dict[int, list[dict[str, float]]] = {}
    for event in events:
        if event[0] == FRAME_START:
            found[struct.unpack_from(">i", event, 1)[0]] = []
        if event[0] == ITEM:
            fields = {name: (at, kind) for name, (at, kind, since) in ITEM_FIELDS.items() if version >= since}
            values = {name: struct.unpack_from(">" + kind, event, at)[0] for name, (at, kind) in fields.items()}
            found[struct.unpack_from(">i", event, 1)[0]].append(values)
    return version, found


def table_of(game: Game, table: str) -> FrameRows:
    rows = game.optional[table]
    assert list(rows.columns) == OPTIONAL_TABLES[table].names[2:]
    return rows


@pytest.fixture(scope="module")
def synthetic(synthetic_replays) -> bytes:
    """The newest version that `wm synth` writes."""
    contents = [path.read_bytes() for path in sorted(synthetic_replays.rglob("*.slp"))]
    return max(contents, key=lambda content: events_of(content)[1][0][1:3])


def test_every_value_of_every_item_of_real_games_equals_the_file(inventory, read_real):
    accepted = [entry for entry in inventory if entry["set"] == "dev"]
    games = {(entry["slippi_version"], entry["rollback_rows"] != "0"): entry["file"] for entry in accepted}
    num_items = 0
    for file in games.values():
        content = read_real(file)
        game = parse_replay(content, tables=("items",))
        version, slow = items_read_slowly(content)
        if version < (3, 0):
            assert game.optional == {}
            continue
        items = table_of(game, "items")
        ports = [player.port - 1 for player in game.facts.players]
        expected = [(frame - FIRST_FRAME_ID, item) for frame, rows in sorted(slow.items()) for item in rows]
        assert items.rows.tolist() == [row for row, _ in expected]
        for name, (*_, since) in ITEM_FIELDS.items():
            if version < since:
                assert items.columns[name] is None
                continue
            values = [item[name] for _, item in expected]
            if name == "owner":
                values = [ports.index(port) if port in ports else -1 for port in values]
            np.testing.assert_array_equal(items.columns[name], np.array(values, items.columns[name].dtype), name)
        num_items += len(expected)
    assert num_items > 1_000


def test_without_asking_nothing_is_read(synthetic):
    assert parse_replay(synthetic).optional == {}


def test_stage_events_are_a_row_for_each_frame_with_a_change(synthetic):
    content = with_3_18_events(
        synthetic,
        {
            -123: [platform_event(-123, 0, 20.0), platform_event(-123, 1, 28.0)],
            5: [platform_event(5, 1, 27.5)],
            7: [struct.pack(">BiB", WIND, 7, 2)],
            8: [struct.pack(">BiHH", TRANSFORMATION, 8, 2, 9), struct.pack(">BiHH", TRANSFORMATION, 8, 3, 9)],
        },
    )
    stage = table_of(parse_replay(content, tables=("items", "stage")), "stage")
    assert (stage.rows + FIRST_FRAME_ID).tolist() == [-123, 5, 7, 8]
    assert {name: values.tolist() for name, values in stage.columns.items()} == {
        "left_platform": [28.0, 27.5, None, None],
        "right_platform": [20.0, None, None, None],
        "wind": [None, None, 2, None],
        "transformation_event": [None, None, None, 3],
        "transformation": [None, None, None, 9],
    }


def test_a_stage_without_changes_has_a_table_without_rows(synthetic):
    stage = table_of(parse_replay(with_3_18_events(synthetic, {}), tables=("stage",)), "stage")
    assert stage.rows.tolist() == []
    assert [len(values) for values in stage.columns.values()] == [0] * 5


def test_items_belong_to_players_and_keep_their_order(synthetic):
    game = parse_replay(synthetic)
    first, second = (player.port - 1 for player in game.facts.players)
    other = next(port for port in range(4) if port not in (first, second))
    rows = {0: [item_event(0, 4, second), item_event(0, 3, first)], 1: [item_event(1, 4, other), item_event(1, 3, -1)]}
    items = table_of(parse_replay(with_3_18_events(synthetic, rows), tables=("items",)), "items")
    assert (items.rows + FIRST_FRAME_ID).tolist() == [0, 0, 1, 1]
    assert items.columns["owner"].tolist() == [1, 0, -1, -1]
    assert items.columns["spawn_id"].tolist() == [4, 3, 4, 3]
    assert set(items.columns["turnip"]) == {6} and set(items.columns["instance"]) == {17}


def test_a_version_without_stage_events_has_no_such_table(synthetic):
    assert "stage" not in parse_replay(synthetic, tables=("items", "stage")).optional
