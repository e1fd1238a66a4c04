"""Encodes a game as a `.slp` file: a simulated one, or any other `Recording`.

Source: Slippi SPEC.md (project-slippi/slippi-wiki), The raw element, Events, The metadata element. Files contain no
names, tags or connect codes. All frames of a game are encoded at once with numpy.
"""

import struct
from datetime import UTC, datetime, timedelta
from typing import Protocol

import numpy as np

from datasets.synth.actions import ANIMATION, TRAITS, Action, Trait
from datasets.synth.controllers import STICK_STEPS, TRIGGER_STEPS, Button
from datasets.synth.options import FIRST_FRAME, TIMER_FRAMES
from datasets.synth.slp_layout import (
    EVENT_PAYLOADS,
    FRAME_BOOKEND,
    FRAME_START,
    GAME_END,
    GAME_START,
    POST_FRAME,
    PRE_FRAME,
    Layout,
    Version,
)  # fmt: skip
from datasets.synth.state import START_STOCKS

_NO_PORT, _EMPTY_SLOT = 0xFF, 3
TIME, GAME, NO_CONTEST = 1, 2, 7
"""End methods of Game End."""
_FIRST_START = datetime(2020, 1, 1, tzinfo=UTC)


class Recording(Protocol):
    """What a file is made of. Frame i has the id i - 123."""

    @property
    def index(self) -> int:
        """Number of the game, from which its start time follows."""
        ...

    @property
    def stage_id(self) -> int:
        """External id."""
        ...

    @property
    def external_characters(self) -> tuple[int, int]:
        """External ids, as selected."""
        ...

    @property
    def internal_characters(self) -> np.ndarray:
        """uint8 (2,), or (T, 2) if they change during the game."""
        ...

    @property
    def ports(self) -> tuple[int, int]:
        """Port indices, 0 to 3, ascending."""
        ...

    @property
    def costumes(self) -> tuple[int, int]: ...

    @property
    def random_seed(self) -> int: ...

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """(T, 2) each: `CONTROLLER_COLUMNS` and `POST_COLUMNS` of `datasets.synth.simulation`, and `self_x_ground` if
        it differs from what these say."""
        ...

    @property
    def timed_out(self) -> bool:
        """Whether the game ends while both players have stocks."""
        ...

    @property
    def is_quit(self) -> bool:
        """Whether the loser quits a game that ends before its time; otherwise the recording just stops."""
        ...

    @property
    def num_frames(self) -> int:
        """T."""
        ...

    @property
    def winner(self) -> int:
        """0 or 1."""
        ...


def frame_rows(game: Recording, layout: Layout) -> np.ndarray:
    """All frame events of a game.

    Returns:
        structured array (T,) of `layout.row()`: one row per frame id, ascending from -123.
    """
    rows = np.zeros(game.num_frames, layout.row())
    ids = np.arange(FIRST_FRAME, FIRST_FRAME + game.num_frames, dtype=np.int32)
    seeds = (game.random_seed + (ids - FIRST_FRAME).astype(np.uint64) * 0x9E3779B1 & 0xFFFFFFFF).astype(np.uint32)
    _fill_pre(rows["pre"], game, layout.version)
    _fill_post(rows["post"], game)
    for name, command in (("pre", PRE_FRAME), ("post", POST_FRAME)):
        rows[name]["command"] = command
        rows[name]["frame"] = ids[:, None]
        rows[name]["port"] = game.ports
    rows["pre"]["random_seed"] = seeds[:, None]
    if layout.frame_start is not None:
        start = rows["start"]
        start["command"], start["frame"], start["random_seed"] = FRAME_START, ids, seeds
        if layout.version.has((3, 10)):
            start["scene_frame_counter"] = ids - FIRST_FRAME
    if layout.bookend is not None:
        bookend = rows["bookend"]
        bookend["command"], bookend["frame"], bookend["latest_finalized_frame"] = FRAME_BOOKEND, ids, ids
    return rows


def _previous(column: np.ndarray) -> np.ndarray:
    """The column shifted by one frame; the first frame repeats."""
    return np.concatenate([column[:1], column[:-1]])


def _fill_pre(pre: np.ndarray, game: Recording, version: Version) -> None:
    columns = game.columns
    for name in ("state", "x", "y", "direction", "percent"):
        pre[name] = _previous(columns[name])
    sticks = ("stick_x_steps", "stick_y_steps", "c_x_steps", "c_y_steps")
    for name, source in zip(("joystick_x", "joystick_y", "cstick_x", "cstick_y"), sticks, strict=True):
        pre[name] = columns[source] / np.float32(STICK_STEPS)
    trigger = columns["trigger_steps"] / np.float32(TRIGGER_STEPS)
    buttons = columns["buttons"]
    pre["triggers"] = trigger
    pre["buttons_physical"] = buttons
    pre["buttons"] = _processed_buttons(columns)
    right = (buttons & Button.R) != 0
    pre["trigger_l"] = np.where(right, 0, trigger)
    pre["trigger_r"] = np.where(right, trigger, 0)
    pre["raw_analog_x"] = columns["stick_x_steps"]
    if version.has((3, 15)):
        pre["raw_analog_y"] = columns["stick_y_steps"]


def _processed_buttons(columns: dict[str, np.ndarray]) -> np.ndarray:
    """uint32 (T, 2): the physical buttons and the directions of both sticks (SPEC.md, Processed Buttons)."""
    word = columns["buttons"].astype(np.uint32)
    for name, shift, high, low in (
        ("stick_y_steps", 0, 0x10000, 0x20000), ("stick_x_steps", 0, 0x80000, 0x40000),
        ("c_y_steps", 4, 0x10000, 0x20000), ("c_x_steps", 4, 0x80000, 0x40000),
    ):  # fmt: skip
        word |= (columns[name] > 22).astype(np.uint32) * np.uint32(high << shift)
        word |= (columns[name] < -22).astype(np.uint32) * np.uint32(low << shift)
    word |= (columns["trigger_steps"] > 0).astype(np.uint32) << np.uint32(31)
    return word


def _fill_post(post: np.ndarray, game: Recording) -> None:
    columns, names = game.columns, set(post.dtype.names or ())
    for name in names & columns.keys():
        post[name] = columns[name]
    post["character"] = game.internal_characters
    post["state_flags"] = columns["state_flags"] if "state_flags" in columns else state_flags(columns)
    if "animation_index" in names:
        post["animation_index"] = ANIMATION[columns["state"]]
    if "self_x_ground" in names - columns.keys():
        post["self_x_ground"] = np.where(columns["airborne"], 0, columns["self_x_air"])


def state_flags(columns: dict[str, np.ndarray]) -> np.ndarray:
    """uint8 (T, 2, 5): the five bytes of state bit flags (SPEC.md, State Bit Flags); unknown bits are 0."""
    state = columns["state"]
    traits = TRAITS[np.minimum(state, len(TRAITS) - 1)]  # Kirby has actions beyond the table, none of these kinds
    flags = np.zeros((*state.shape, 5), np.uint8)
    flags[..., 1] = (columns["hurtbox_state"] > 0) * np.uint8(0x04)
    flags[..., 1] |= columns["fast_fall"] * np.uint8(0x08)
    flags[..., 1] |= (columns["hitlag"] > 0) * np.uint8(0x20)
    flags[..., 2] = ((traits & Trait.SHIELD) != 0) * np.uint8(0x80)
    flags[..., 3] = (((traits & Trait.DAMAGE) != 0) & (columns["misc_as"] > 0)) * np.uint8(0x02)
    flags[..., 4] = (state <= Action.DEAD_UP) * np.uint8(0x40)
    return flags


def game_start(game: Recording, layout: Layout) -> bytes:
    """The Game Start event (SPEC.md, Game Start and Game Info Block)."""
    event = bytearray(layout.start_bytes)
    version = layout.version
    event[0:5] = bytes([GAME_START, version.major, version.minor, version.patch, 0])
    # Stock mode, no friendly fire, items off, no points for self-destructs: the bytes of a ranked game.
    event[0x5:0xA] = bytes.fromhex("32018e4cc3")
    event[0x10:0x13] = bytes.fromhex("ffff6e")
    struct.pack_into(">HI", event, 0x13, game.stage_id, TIMER_FRAMES // 60)
    event[0x25:0x2D] = b"\xff" * 8
    struct.pack_into(">fff", event, 0x31, 1.0, 1.0, 1.0)
    for slot in range(6):
        at = 0x65 + 0x24 * slot
        player = game.ports.index(slot) if slot in game.ports else None
        character = game.external_characters[player] if player is not None else 0x1A
        kind, costume = (0, game.costumes[player]) if player is not None else (_EMPTY_SLOT, 0)
        event[at : at + 4] = bytes([character, kind, START_STOCKS, costume])
        event[at + 0x8], event[at + 0xA], event[at + 0xC] = 9, 0x78, 0x40
        event[at + 0xE], event[at + 0xF] = 4, 1
        # In real files, and in peppi, ratios and scale are 4 bytes after the offsets of SPEC.md.
        struct.pack_into(">fff", event, at + 0x18, 1.0, 1.0, 1.0)
    struct.pack_into(">I", event, 0x13D, game.random_seed)
    for slot in range(4):
        struct.pack_into(">II", event, 0x141 + 8 * slot, 1, 1)
    if version.has((3, 7)):
        event[0x1A3:0x1A5] = bytes([2, 2])
    if version.has((3, 12)):
        event[0x2BD] = 1
    return bytes(event)


def game_end(game: Recording, layout: Layout) -> bytes:
    """The Game End event: method, port of the player who quit, placements (SPEC.md, Game End)."""
    loser = game.ports[1 - game.winner]
    if not game.timed_out:
        method, quitter = GAME, _NO_PORT
    elif game.num_frames + FIRST_FRAME >= TIMER_FRAMES:
        method, quitter = TIME, _NO_PORT
    else:
        method, quitter = NO_CONTEST, loser if game.is_quit else _NO_PORT
    placements = bytes(0 if slot == game.ports[game.winner] else 1 if slot == loser else _NO_PORT for slot in range(4))
    return (bytes([GAME_END, method, quitter]) + placements)[: layout.end_bytes]


def metadata(game: Recording, played_on: str = "synth") -> dict:
    """The metadata element (SPEC.md, The metadata Element). The start time follows from the game's index."""
    start = _FIRST_START + timedelta(minutes=10 * game.index)
    players = {
        str(port): {"characters": {str(character): game.num_frames}}
        for port, character in zip(game.ports, np.atleast_2d(game.internal_characters)[0].tolist(), strict=True)
    }
    return {
        "startAt": start.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lastFrame": game.num_frames + FIRST_FRAME - 1,
        "players": players,
        "playedOn": played_on,
    }


def ubjson(value: dict | str | int) -> bytes:
    """Encode as UBJSON: objects, strings shorter than 256 bytes, 32-bit integers."""
    if isinstance(value, dict):
        items = (_short_string(key) + ubjson(item) for key, item in value.items())
        return b"{" + b"".join(items) + b"}"
    if isinstance(value, str):
        return b"S" + _short_string(value)
    return b"l" + struct.pack(">i", value)


def _short_string(text: str) -> bytes:
    raw = text.encode()
    return b"U" + bytes([len(raw)]) + raw


def event_payloads(layout: Layout) -> bytes:
    """The Event Payloads event: the payload size of each event type."""
    sizes = layout.payload_sizes()
    body = b"".join(struct.pack(">BH", command, size) for command, size in sizes.items())
    return bytes([EVENT_PAYLOADS, len(body) + 1]) + body


def slp_file(events: list[bytes], meta: dict) -> bytes:
    """A complete file: the event stream and the metadata."""
    size = struct.pack(">i", sum(len(event) for event in events))
    return b"".join([b"{U\x03raw[$U#l", size, *events, b"U\x08metadata", ubjson(meta), b"}"])


def write_slp(
    game: Recording, *, version: str = "3.16.0", rows: np.ndarray | None = None, played_on: str = "synth"
) -> bytes:
    """The bytes of a `.slp` file.

    Args:
        version: see `SynthOptions.version`.
        rows: frame events in the version's layout, instead of `frame_rows(game, layout)`.
        played_on: what made the game, for the metadata.
    """
    layout = Layout.of(Version.parse(version))
    rows = frame_rows(game, layout) if rows is None else rows
    events = [event_payloads(layout), game_start(game, layout), rows.tobytes(), game_end(game, layout)]
    return slp_file(events, metadata(game, played_on))
