"""The columns of a corpus, each with its meaning and unit. The stored format is an interface.

Changelog of FORMAT_VERSION
    1  The first format: games, frames, followers, rejects and commits as in `docs/architecture.md`.
    2  Games also come from the older pipelines' parsed files (`form`, `may_hold_rollbacks`), which lack some metadata
       (version and ports may be null). A commit may have revisions, which remove games.
    3  Also in object storage. Workers name shards; a commit lists the files of many chunks, and removes games and
       rejects of earlier commits without rewriting files, until a shard is merged with others. `corpus.json` lists all
       files with checksums. New columns: `games.key`, `games.row_in_group`, `rejects.key`, `rejects.tool_version`. The
       partners of a shard's games are in the file of the same name in followers/. Games that break a learned rule are
       stored, with `games.suspect_rules` and `games.suspect_frames`. items/ and stage/ (`optional_tables.py`), if asked
       for: `games.num_item_rows` and `games.num_stage_rows`.
"""

from __future__ import annotations

from typing import Literal

import pyarrow as pa

FORMAT_VERSION = 3
"""Incremented when older code would misread a corpus. On a mismatch the reader says how to encode it again."""

FIRST_FRAME_ID = -123
"""Frame id at the start of the countdown. Players can move from id 0 on (SPEC.md, Frame Start)."""

POST_COLUMNS: dict[str, pa.DataType] = {
    "character": pa.uint8(),  # internal id; changes during a game for Sheik and Zelda
    "action": pa.uint16(),  # action state id
    "x": pa.float32(),  # game units
    "y": pa.float32(),
    "facing": pa.int8(),  # -1 left, +1 right
    "percent": pa.float32(),
    "shield": pa.float32(),  # shield health, at most 60
    "last_attack": pa.uint8(),  # id of the last attack that this player landed
    "combo": pa.uint8(),
    "last_hit_by": pa.uint8(),  # port of the player who last hit this one, 6 = none
    "stocks": pa.uint8(),
    "state_age": pa.float32(),  # animation frame of the action state, fractional, -2 .. about 200
    "flags_0": pa.uint8(),  # the five state bit flag bytes of SPEC.md, Post-Frame Update
    "flags_1": pa.uint8(),
    "flags_2": pa.uint8(),
    "flags_3": pa.uint8(),
    "flags_4": pa.uint8(),
    "hitstun": pa.float32(),  # frames left; 0 unless flag byte 3 marks hitstun
    "airborne": pa.uint8(),  # 0 or 1
    "ground": pa.uint16(),  # id of the last surface stood on, 65535 = none
    "jumps": pa.uint8(),  # jumps left
    "l_cancel": pa.uint8(),  # 0 none, 1 successful, 2 missed
    "hurtbox": pa.uint8(),  # 0 vulnerable, 1 invulnerable, 2 intangible; absent before 2.1
    "self_air_x": pa.float32(),  # game units per frame; velocities are absent before 3.5
    "self_y": pa.float32(),
    "attack_x": pa.float32(),  # knockback
    "attack_y": pa.float32(),
    "self_ground_x": pa.float32(),
    "hitlag": pa.float32(),  # frames left; absent before 3.8
}
"""State of a player after a frame (post-frame). Stored names have a `p0_` or `p1_` prefix."""

PRE_COLUMNS: dict[str, pa.DataType] = {
    "main_x": pa.int8(),  # processed stick value times 80: exact, the game's own resolution
    "main_y": pa.int8(),
    "c_x": pa.int8(),
    "c_y": pa.int8(),
    "trigger": pa.uint8(),  # processed trigger value times 140: exact
    "buttons": pa.uint16(),  # physical buttons, bits as in SPEC.md, Pre-Frame Update
}
"""Controller input of a player for a frame (pre-frame)."""

VELOCITY_COLUMNS = ("self_air_x", "self_y", "attack_x", "attack_y", "self_ground_x")
OPTIONAL_FIELDS: dict[str, tuple[str, ...]] = {
    "velocity": VELOCITY_COLUMNS,
    "hitlag": ("hitlag",),
    "hurtbox": ("hurtbox",),
}
"""Fields that older Slippi versions do not record: their columns are null and `games.has_*` is false."""

Form = Literal["slp", "parsed-v2", "parsed-v3", "slippi-db"]
"""What a game was read from: a .slp, or the output of one of the older pipelines (`datasets.legacy`)."""
FORMS_WITHOUT_PERCENT: tuple[Form, ...] = ("slippi-db",)
"""Forms without percent, stocks and state age, which every encoding needs. Their games are stored but not read."""

PLAYER_COLUMNS = POST_COLUMNS | PRE_COLUMNS
NUM_PLAYERS = 2

FRAMES_SCHEMA = pa.schema(
    [
        pa.field("game_id", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("frame", pa.int32(), nullable=False),  # Slippi frame id, consecutive from FIRST_FRAME_ID
        *(
            pa.field(f"p{player}_{name}", dtype)
            for player in range(NUM_PLAYERS)
            for name, dtype in PLAYER_COLUMNS.items()
        ),
    ]
)
"""One row per frame; player 0 has the lower port."""

FOLLOWERS_SCHEMA = pa.schema(
    [
        pa.field("game_id", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("frame", pa.int32(), nullable=False),
        pa.field("player", pa.uint8(), nullable=False),
        *(pa.field(name, dtype) for name, dtype in PLAYER_COLUMNS.items()),
    ]
)
"""The Ice Climbers' partner: one row per frame in which it is present."""

GAMES_SCHEMA = pa.schema(
    [
        pa.field("game_id", pa.string(), nullable=False),  # md5 of the uncompressed .slp, hexadecimal
        pa.field("fingerprint", pa.string(), nullable=False),  # equal for one game in other bytes: `Game.fingerprint`
        pa.field("source", pa.string(), nullable=False),  # name of the archive or folder
        pa.field("member", pa.int64(), nullable=False),  # index of the file in the source, in listing order
        pa.field("path", pa.string()),  # null without --keep-paths: file names may contain connect codes
        pa.field("form", pa.string(), nullable=False),  # see `Form`
        pa.field("slippi_version", pa.string()),  # null if the form does not record it, like ports, is_pal, ...
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("num_rollback_rows", pa.int32(), nullable=False),  # rows replaced by resimulated frames, removed
        pa.field("num_follower_rows", pa.int32(), nullable=False),  # over both players' partners
        pa.field(
            "num_item_rows", pa.int32()
        ),  # `datasets.schema.optional_tables`; null if not recorded or not asked for
        pa.field("num_stage_rows", pa.int32()),
        pa.field("may_hold_rollbacks", pa.bool_(), nullable=False),  # not evaluated on
        pa.field("suspect_rules", pa.uint32()),  # bits of `datasets.schema.suspect_rules`; null if not checked
        pa.field("suspect_frames", pa.int32()),  # frames that these rules concern; null if not checked
        pa.field("stage", pa.uint16(), nullable=False),
        pa.field("p0_character", pa.uint8(), nullable=False),  # external id, as selected
        pa.field("p1_character", pa.uint8(), nullable=False),
        pa.field("p0_port", pa.uint8()),  # 1 .. 4
        pa.field("p1_port", pa.uint8()),
        pa.field("winner", pa.int8()),  # player 0 or 1; null for a draw
        pa.field("end_method", pa.uint8()),  # SPEC.md, Game End; null without one
        pa.field("is_pal", pa.bool_()),
        pa.field("start_time", pa.string()),  # ISO 8601, from the metadata
        *(pa.field(f"has_{name}", pa.bool_(), nullable=False) for name in OPTIONAL_FIELDS),
        pa.field("split_key", pa.string(), nullable=False),
        pa.field("split_number", pa.float64(), nullable=False),  # see `datasets.schema.splits`
        pa.field("shard", pa.string(), nullable=False),  # file name in frames/
        pa.field("first_row", pa.int64(), nullable=False),  # of this game in the shard
        pa.field("row_group", pa.int32(), nullable=False),
        pa.field("row_in_group", pa.int32()),  # first row of this game in its row group; null in format 2
        pa.field("key", pa.string()),  # identity of the input: `ReplayInput.key`; null in format 2
    ]
)

REJECTS_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("member", pa.int64(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("game_id", pa.string()),  # null if the bytes could not be read
        pa.field("code", pa.string(), nullable=False),  # see `datasets.schema.reject_reasons`
        pa.field("message", pa.string(), nullable=False),
        pa.field("key", pa.string()),  # identity of the input; this and the next ones are null in format 2
        pa.field("location_key", pa.string()),  # hash of where it lies; what is found there later supersedes the row
        pa.field("tool_version", pa.string()),  # of the program that rejected it
    ]
)
