"""Reads the bytes of a .slp into a `Game`, in raw units. Pure functions without Ray or state.

`benchmarks/encode.py` compares the speed with that of peppi-py alone.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
from peppi_py._peppi import read_slippi  # pyrefly: ignore[missing-import]
from peppi_py.frame import Data, Frame, Post, Pre
from peppi_py.game import End, Start
from peppi_py.game import Game as PeppiGame
from peppi_py.parse import dc_from_json, frames_from_sa

from datasets.replays.event_repair import repair
from datasets.replays.game import (
    Columns,
    CrossCheck,
    Follower,
    FrameRows,
    Game,
    GameFacts,
    PlayerCrossCheck,
    PlayerFacts,
)
from datasets.replays.optional_tables import read_optional
from datasets.runtime.errors import ReplayError
from datasets.schema.columns import FIRST_FRAME_ID, NUM_PLAYERS, POST_COLUMNS, PRE_COLUMNS
from datasets.schema.melee_ids import HUMAN
from datasets.schema.optional_tables import OptionalTable

SLIPPI_MAGIC = b"{U\x03raw"
"""First bytes of a .slp: a UBJSON object whose first key is `raw` (SPEC.md, The raw element)."""

OLDEST_VERSION = (2, 0, 0)
"""Older versions lack airborne, ground, jumps and l_cancel, which every encoding needs."""

ITEMS_OFF = -1
"""Item spawn frequency without items."""
STICK_GRID = 80.0
TRIGGER_GRID = 140.0
"""Steps of the processed sticks and triggers between 0 and 1."""
ROUNDING = 4e-7
"""Relative difference that float32 rounding explains: 3 ULP."""
HITSTUN_FLAG = 0x02
"""Bit of state flag byte 3: the action state variable holds the remaining frames of hitstun."""

PARSER_ERRORS: dict[str, str] = {
    "failed to fill whole buffer": "the replay is truncated",
    "unknown event": "an event has an unknown command byte",
    "invalid payload size": "the event sizes at the start are damaged",
    "zero-size event payload": "the event sizes at the start are damaged",
    "The children must have an equal number of values": "a pre-frame or post-frame event is missing in some frames",
    "A StructArray must contain at least one field": "the Slippi version is not supported (3.0 to 3.6)",
    "assertion `left == right` failed": "an event has an unexpected frame id",
    "on a `None` value": "an event refers to a player who is not in the game",
    "index out of bounds": "an event refers to a port that does not exist",
}
"""Part of an error message of peppi-py 0.8.6 -> what it means."""


def parse_replay(
    content: bytes,
    *,
    repair_old: bool = False,
    tables: Sequence[OptionalTable] = (),
    game_id: str | None = None,
) -> Game:
    """Read one replay.

    Args:
        content: an uncompressed .slp file.
        tables: to read beside the players' frames, if the file records them.
        repair_old: also read Slippi 3.0 to 3.6, whose events peppi-py only reads after a rewrite
            (`datasets.replays.event_repair`).
        game_id: `game_id_of(content)`, if it has been computed already.
    Raises:
        ReplayError: the bytes hold no game that can be stored (codes in `datasets.schema.reject_reasons`).
    """
    parsed, raw_frames = _parse_with_peppi(content, repair_old)
    version = tuple(parsed.start.slippi.version)
    if version < OLDEST_VERSION:
        raise ReplayError("old_version", f"Slippi {_dotted(version)}, expected 2.0.0 or newer")
    if parsed.frames is None or len(parsed.frames.id) == 0:  # pyrefly: ignore[bad-argument-type]
        raise ReplayError("no_frames", "the replay has no frames")
    if len(parsed.frames.ports) != NUM_PLAYERS:
        raise ReplayError("not_two_players", f"{len(parsed.frames.ports)} players, expected 2")
    frame_ids = parsed.frames.id.to_numpy()  # pyrefly: ignore[missing-attribute]
    rows = final_rows(frame_ids)
    num_frames = len(frame_ids) if rows is None else len(rows)
    players, cross_checks = zip(*(_player_columns(port.leader, rows) for port in parsed.frames.ports), strict=True)
    return Game(
        game_id=game_id or game_id_of(content),
        facts=_facts(parsed),
        players=players,
        followers=tuple(_followers(parsed.frames, rows)),
        num_frames=num_frames,
        num_rollback_rows=len(frame_ids) - num_frames,
        optional=_optional(tables, raw_frames, rows, [int(player.port) for player in parsed.start.players]),
        cross_check=CrossCheck(players=cross_checks, last_frame=_last_frame(parsed)),
    )


def game_id_of(content: bytes) -> str:
    """The id of a game: the md5 of its uncompressed .slp, hexadecimal, as in slippi_db."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def final_rows(frame_ids: np.ndarray) -> np.ndarray | None:
    """The final row of each frame: the last row with its id, ordered by id.

    Args:
        frame_ids: int32 (rows,). Netplay resimulates frames after a rollback, so ids repeat and go back.
    Returns:
        int64 (frames,), or None if no frame was resimulated.
    Raises:
        ReplayError: an id is missing, or the game does not start at FIRST_FRAME_ID.
    """
    if (np.diff(frame_ids) == 1).all():
        rows, ids = None, frame_ids
    else:
        ids, from_end = np.unique(frame_ids[::-1], return_index=True)
        rows = len(frame_ids) - 1 - from_end
    if ids[0] != FIRST_FRAME_ID:
        raise ReplayError("odd_first_frame", f"first frame id {ids[0]}, expected {FIRST_FRAME_ID}")
    if int(ids[-1]) - int(ids[0]) + 1 != len(ids):
        missing = int(ids[-1]) - int(ids[0]) + 1 - len(ids)
        raise ReplayError("frame_gap", f"{missing} frame ids are missing before id {ids[-1]}")
    return rows


def _facts(parsed: PeppiGame) -> GameFacts:
    start, end = parsed.start, parsed.end
    ports = [int(player.port) for player in start.players]
    placed = {int(player.port): player.placement for player in end.players or ()} if end is not None else {}
    quitter = None if end is None or end.lras_initiator is None else int(end.lras_initiator)
    start_time = (parsed.metadata or {}).get("startAt")
    return GameFacts(
        form="slp",
        slippi_version=start.slippi.version,
        stage=start.stage,
        players=tuple(
            PlayerFacts(
                character=player.character,
                port=int(player.port) + 1,
                is_human=int(player.type) == HUMAN,
                stocks=player.stocks,
            )
            for player in start.players
        ),
        is_teams=start.is_teams,
        has_items=start.item_spawn_frequency != ITEMS_OFF,
        match_id=start.match.id if start.match is not None else "",
        is_pal=start.is_pal,
        start_time=None if start_time is None else str(start_time),
        end_method=None if end is None else int(end.method),
        placements=tuple(placed[port] for port in ports) if all(port in placed for port in ports) else None,
        quitter=ports.index(quitter) if quitter in ports else None,
    )


def _last_frame(parsed: PeppiGame) -> int | None:
    last_frame = (parsed.metadata or {}).get("lastFrame")
    return last_frame if isinstance(last_frame, int) else None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version)


@contextmanager
def _as_path(content: bytes) -> Iterator[str]:
    """A path that peppi-py can open: an in-memory file on Linux, a temporary file elsewhere."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("replay")
        try:
            with os.fdopen(descriptor, "wb", closefd=False) as file:
                file.write(content)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
    else:
        with tempfile.NamedTemporaryFile(suffix=".slp") as file:
            file.write(content)
            file.flush()
            yield file.name


@contextmanager
def _without_panic_messages() -> Iterator[None]:
    """Discard what Rust prints to file descriptor 2 when it panics; the reject message already contains it."""
    saved = os.dup(2)
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(devnull)


def _parse_with_peppi(content: bytes, repair_old: bool) -> tuple[PeppiGame, pa.StructArray | None]:
    """The parsed replay, and its frames as Arrow arrays: peppi-py's own classes have no items and no stage events."""
    if not content.startswith(SLIPPI_MAGIC):
        raise ReplayError("not_a_replay", f"the file begins with {content[:8]!r}, expected {SLIPPI_MAGIC!r}")
    repaired = repair(content) if repair_old else None
    try:
        with _as_path(content if repaired is None else repaired.content) as path, _without_panic_messages():
            raw = read_slippi(path, False)
            parsed = PeppiGame(
                dc_from_json(Start, raw.start),
                raw.end and dc_from_json(End, raw.end),
                raw.metadata,
                frames_from_sa(raw.frames),
            )
        if repaired is not None:
            parsed.start.slippi.version = repaired.version
        return parsed, raw.frames
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except OSError as error:
        raise ReplayError("unreadable", _explained(error)) from error
    except BaseException as error:  # a Rust panic is a BaseException
        if not repair_old and (old := repair(content)) is not None:
            message = f"peppi-py cannot read Slippi {_dotted(old.version)}; use --repair-old"
            raise ReplayError("parser_failed", message) from error
        raise ReplayError("parser_failed", _explained(error)) from error


def _explained(error: BaseException) -> str:
    """What an error of peppi-py means for the replay, with the first line of its message."""
    message = (str(error).splitlines() or [type(error).__name__])[0][:200]
    meaning = next((text for part, text in PARSER_ERRORS.items() if part in message), "")
    return f"{meaning or 'the parser cannot read this replay'} (peppi-py: {message})"


def _numpy(array, rows: np.ndarray | None) -> np.ndarray:
    values = array.to_numpy(zero_copy_only=array.null_count == 0)
    return values if rows is None else values[rows]


def _player_columns(data: Data, rows: np.ndarray | None) -> tuple[Columns, PlayerCrossCheck]:
    """The pre-frame and post-frame columns of a player, and its cross-check values."""
    if data.post.state.null_count or data.pre.buttons.null_count:
        raise ReplayError("player_absent", "a player has no data in some frames")
    try:
        post, off_facing = _post_columns(data.post, rows)
        pre, off_grid = _pre_columns(data.pre, rows)
    except ValueError as error:
        raise ReplayError("bad_values", str(error)) from error
    pre_frame = {"action": data.pre.state, "x": data.pre.position.x, "y": data.pre.position.y}
    pre_frame |= {"percent": data.pre.percent, "buttons": data.pre.buttons}
    cross_check = PlayerCrossCheck(
        pre_frame={name: None if array is None else _numpy(array, rows) for name, array in pre_frame.items()},
        off_grid=off_grid | off_facing,
    )
    return post | pre, cross_check


def _post_columns(post: Post, rows: np.ndarray | None) -> tuple[Columns, dict[str, np.ndarray]]:
    """The post-frame columns, and the frames in which the facing is not -1, 0 or 1."""
    sources: dict[str, object] = {
        "character": post.character, "action": post.state, "x": post.position.x, "y": post.position.y,
        "facing": post.direction, "percent": post.percent, "shield": post.shield,
        "last_attack": post.last_attack_landed, "combo": post.combo_count, "last_hit_by": post.last_hit_by,
        "stocks": post.stocks, "state_age": post.state_age, "airborne": post.airborne, "ground": post.ground,
        "jumps": post.jumps, "l_cancel": post.l_cancel, "hurtbox": post.hurtbox_state, "hitlag": post.hitlag,
    }  # fmt: skip
    flags = post.state_flags or (None,) * 5
    sources |= {f"flags_{index}": flag for index, flag in enumerate(flags)}
    velocities = post.velocities
    sources |= {
        "self_air_x": velocities and velocities.self_x_air,
        "self_y": velocities and velocities.self_y,
        "attack_x": velocities and velocities.knockback_x,
        "attack_y": velocities and velocities.knockback_y,
        "self_ground_x": velocities and velocities.self_x_ground,
    }
    columns: Columns = {name: None if s is None else _numpy(s, rows) for name, s in sources.items()}
    columns["facing"], off_facing = _on_grid(columns["facing"], 1.0, np.int8)  # pyrefly: ignore
    columns["hitstun"] = None
    if post.misc_as is not None and columns["flags_3"] is not None:
        in_hitstun = (columns["flags_3"] & HITSTUN_FLAG) != 0
        columns["hitstun"] = np.where(in_hitstun, _numpy(post.misc_as, rows), np.float32(0))
    return {name: columns[name] for name in POST_COLUMNS}, {"facing": off_facing} if len(off_facing) else {}


def _pre_columns(pre: Pre, rows: np.ndarray | None) -> tuple[Columns, dict[str, np.ndarray]]:
    """The controller columns, and the frames of each in which the recorded value is not a multiple of the step."""
    sticks = {"main_x": pre.joystick.x, "main_y": pre.joystick.y, "c_x": pre.cstick.x, "c_y": pre.cstick.y}
    steps = {name: _on_grid(_numpy(array, rows), STICK_GRID, np.int8) for name, array in sticks.items()}
    steps["trigger"] = _on_grid(_numpy(pre.triggers, rows), TRIGGER_GRID, np.uint8)
    columns = {name: values for name, (values, _) in steps.items()} | {"buttons": _numpy(pre.buttons_physical, rows)}
    return {name: columns[name] for name in PRE_COLUMNS}, {name: off for name, (_, off) in steps.items() if len(off)}


def _on_grid(values: np.ndarray, grid: float, dtype: type[np.integer]) -> tuple[np.ndarray, np.ndarray]:
    """Round values to steps of 1 / `grid`, and find those that are not exact multiples.

    Raises:
        ValueError: a value is more than half a step outside of the dtype's range.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = values * np.float32(grid)
        steps = np.rint(scaled).astype(dtype)
        off = np.flatnonzero(~(np.abs(scaled - steps) <= np.abs(scaled) * np.float32(ROUNDING)))
        if len(off) and not (np.abs(steps[off] - scaled[off]) <= 0.5).all():
            raise ValueError("a stick, a trigger or the facing is out of range")
    return steps, off


def _followers(frames: Frame, rows: np.ndarray | None) -> Iterator[Follower]:
    for player, port in enumerate(frames.ports):
        if port.follower is None:
            continue
        present = port.follower.post.state.is_valid().to_numpy(zero_copy_only=False)
        present_rows = np.flatnonzero(present if rows is None else present[rows])
        if not len(present_rows):
            continue
        kept = present_rows if rows is None else rows[present_rows]
        take: Callable = lambda array, kept=kept: array.take(kept)  # noqa: E731
        data = _map_arrays(port.follower, take)
        yield Follower(player=player, rows=present_rows, columns=_player_columns(data, None)[0])


def _optional(
    tables: Sequence[OptionalTable], raw_frames: pa.StructArray | None, rows: np.ndarray | None, ports: list[int]
) -> dict[OptionalTable, FrameRows]:
    found = {table: read_optional(table, raw_frames, rows, ports) for table in tables}
    return {table: frame_rows for table, frame_rows in found.items() if frame_rows is not None}


def _map_arrays(node: Any, take: Callable) -> Any:
    """Apply `take` to every array of a peppi-py structure."""
    if node is None:
        return None
    if isinstance(node, tuple):
        return tuple(_map_arrays(part, take) for part in node)
    if hasattr(node, "take"):
        return take(node)
    return type(node)(**{name: _map_arrays(getattr(node, name), take) for name in node.__slots__})
