"""The metadata of an older pipeline's game: from its entry in `meta.json`, and from its first row.

Entries are another program's output. A field that is missing or of an unexpected type counts as unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from datasets.replays.game import Columns, GameFacts, PlayerFacts
from datasets.runtime.errors import ReplayError
from datasets.schema.columns import FIRST_FRAME_ID, NUM_PLAYERS, Form
from datasets.schema.melee_ids import EXTERNAL_CHARACTERS, HUMAN

EXTERNAL_STAGES: dict[int, int] = {8: 2, 18: 3, 6: 8, 26: 28, 24: 31, 25: 32}
"""Internal stage id, as in slippi_db's frames -> external id."""


def game_facts(form: Form, meta: dict[str, Any] | None, players: Sequence[Columns], stages: np.ndarray) -> GameFacts:
    """Collect the metadata of a game.

    Args:
        meta: its entry in `meta.json`, if there is one.
        players: both players' columns.
        stages: int64 (rows,), the stage in each row: external ids, or internal ids in slippi_db's form.
    Raises:
        ReplayError: a character or the stage is invalid, or there are not two players.
    """
    entry = meta or {}
    if _int(entry.get("num_players"), NUM_PLAYERS) != NUM_PLAYERS:
        raise ReplayError("not_two_players", f"{entry['num_players']} players, expected {NUM_PLAYERS}")
    version, winner, match = entry.get("slippi_version"), _int(entry.get("winner")), entry.get("match")
    match_id = match.get("id") if isinstance(match, dict) else None
    start_time = entry.get("startAt")
    return GameFacts(
        form=form,
        slippi_version=_version(version),
        stage=_stage(form, entry, stages),
        players=tuple(_player(entry, player, columns) for player, columns in enumerate(players)),
        is_teams=_bool(entry.get("is_teams")),
        has_items=None,
        match_id=match_id if isinstance(match_id, str) and match_id.isascii() else "",
        is_pal=_bool(entry.get("is_pal")),
        start_time=start_time if isinstance(start_time, str) and start_time.isascii() else None,
        end_method=_int(entry.get("game_end_method")) or None,  # also 0 without a Game End
        placements=(winner, 1 - winner) if winner in (0, 1) else None,
    )


def expected_frames(form: Form, meta: dict[str, Any] | None) -> int | None:
    """Number of frames according to slippi_db's entry, which has the id of the last one; None for other forms."""
    last_frame = _int((meta or {}).get("lastFrame"))
    return None if last_frame is None or form != "slippi-db" else last_frame - FIRST_FRAME_ID + 1


def _player(entry: dict[str, Any], player: int, columns: Columns) -> PlayerFacts:
    character, stocks = columns["character"], columns["stocks"]
    assert character is not None
    internal = int(character[0])
    if internal not in EXTERNAL_CHARACTERS:
        raise ReplayError("bad_values", f"character {internal}, expected at most {max(EXTERNAL_CHARACTERS)}")
    listed = entry.get("players")
    entry_player = listed[player] if isinstance(listed, list) and len(listed) == NUM_PLAYERS else None
    player_type = _int(entry_player.get("type")) if isinstance(entry_player, dict) else None
    port = _int(entry_player.get("port")) if isinstance(entry_player, dict) and player_type is not None else None
    return PlayerFacts(
        character=EXTERNAL_CHARACTERS[internal],
        port=port + 1 if port is not None and 0 <= port < 4 else None,
        is_human=None if player_type is None else player_type == HUMAN,
        stocks=None if stocks is None else int(stocks[0]),
    )


def _stage(form: Form, entry: dict[str, Any], stages: np.ndarray) -> int:
    """External id. Some parsed games have 0 in their frames and the stage only in their entry."""
    recorded, listed = int(stages[0]), _int(entry.get("stage"))
    if (stages != recorded).any():
        raise ReplayError("bad_values", f"stage ranges from {stages.min()} to {stages.max()}, expected a single stage")
    external = EXTERNAL_STAGES.get(recorded, 0) if form == "slippi-db" else recorded
    if listed is None or external in (0, listed):
        external = external or listed or 0
    else:
        raise ReplayError("bad_values", f"stage {external} in the frames, but {listed} in meta.json")
    if not 0 < external < 2**16:
        raise ReplayError("odd_stage", f"unknown stage {recorded}")
    return external


def _version(value: Any) -> tuple[int, int, int] | None:
    if not isinstance(value, list) or len(value) != 3 or any(_int(part) is None for part in value):
        return None
    first, second, third = value
    return first, second, third


def _int(value: Any, default: int | None = None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _bool(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None
