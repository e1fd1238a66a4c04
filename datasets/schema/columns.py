"""The corpus' columns: the meaning of each stands beside it. A stored format is an interface.

Changelog of FORMAT_VERSION
    1  first: games, frames, followers, rejects and commits as `docs/architecture.md` describes them.
    2  games also come from the older pipelines' parsed files (`form`, `may_hold_rollbacks`), which do not say
       everything (version and ports may be null); a commit may have revisions, which drop games.
"""

from __future__ import annotations

import pyarrow as pa

FORMAT_VERSION = 2
"""Raised when an older reader would misread a corpus; the reader then says how to make it again."""

FIRST_FRAME_ID = -123
"""Slippi numbers frames from the start of the countdown; players move from id 0 on (SPEC.md, Frame Start)."""

POST_COLUMNS: dict[str, pa.DataType] = {
    "character": pa.uint8(),  # internal id, of this frame: Sheik and Zelda change
    "action": pa.uint16(),  # action state id
    "x": pa.float32(),  # game units
    "y": pa.float32(),
    "facing": pa.int8(),  # -1 left, +1 right
    "percent": pa.float32(),
    "shield": pa.float32(),  # health, 60 when whole
    "last_attack": pa.uint8(),  # attack id this player last landed
    "combo": pa.uint8(),
    "last_hit_by": pa.uint8(),  # port of whoever hit this player last, 6 = nobody
    "stocks": pa.uint8(),
    "state_age": pa.float32(),  # frames within the action state, fractional, -2 .. about 200
    "flags_0": pa.uint8(),  # the five state bit flag bytes of SPEC.md, Post-Frame Update
    "flags_1": pa.uint8(),
    "flags_2": pa.uint8(),
    "flags_3": pa.uint8(),
    "flags_4": pa.uint8(),
    "hitstun": pa.float32(),  # frames left; 0 where flag byte 3 says that there is none
    "airborne": pa.uint8(),  # 0 or 1
    "ground": pa.uint16(),  # id of the surface last stood on, 65535 = none
    "jumps": pa.uint8(),  # jumps left
    "l_cancel": pa.uint8(),  # 0 none, 1 done, 2 missed
    "hurtbox": pa.uint8(),  # 0 vulnerable, 1 invulnerable, 2 intangible; absent before 2.1
    "self_air_x": pa.float32(),  # game units a frame; velocities absent before 3.5
    "self_y": pa.float32(),
    "attack_x": pa.float32(),  # knockback
    "attack_y": pa.float32(),
    "self_ground_x": pa.float32(),
    "hitlag": pa.float32(),  # frames left; absent before 3.8
}
"""What a player is after a frame, by column name without its `p0_` / `p1_`."""

PRE_COLUMNS: dict[str, pa.DataType] = {
    "main_x": pa.int8(),  # processed stick times 80: exact, the game's own grid
    "main_y": pa.int8(),
    "c_x": pa.int8(),
    "c_y": pa.int8(),
    "trigger": pa.uint8(),  # processed trigger times 140: exact
    "buttons": pa.uint16(),  # physical buttons, bits as in SPEC.md, Pre-Frame Update
}
"""What a player's controller said for a frame."""

VELOCITY_COLUMNS = ("self_air_x", "self_y", "attack_x", "attack_y", "self_ground_x")
OPTIONAL_FIELDS: dict[str, tuple[str, ...]] = {
    "velocity": VELOCITY_COLUMNS,
    "hitlag": ("hitlag",),
    "hurtbox": ("hurtbox",),
}
"""Fields that older Slippi versions do not write; their columns are null there, and `games.has_*` says so."""

PLAYER_COLUMNS = POST_COLUMNS | PRE_COLUMNS
NUM_PLAYERS = 2

FRAMES_SCHEMA = pa.schema(
    [
        pa.field("game_id", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("frame", pa.int32(), nullable=False),  # Slippi frame id, from FIRST_FRAME_ID without a gap
        *(
            pa.field(f"p{player}_{name}", dtype)
            for player in range(NUM_PLAYERS)
            for name, dtype in PLAYER_COLUMNS.items()
        ),
    ]
)
"""A row per frame; player 0 is the lower port."""

FOLLOWERS_SCHEMA = pa.schema(
    [
        pa.field("game_id", pa.dictionary(pa.int32(), pa.string()), nullable=False),
        pa.field("frame", pa.int32(), nullable=False),
        pa.field("player", pa.uint8(), nullable=False),
        *(pa.field(name, dtype) for name, dtype in PLAYER_COLUMNS.items()),
    ]
)
"""The Ice Climbers' partner, a row for each frame in which there is one."""

GAMES_SCHEMA = pa.schema(
    [
        pa.field("game_id", pa.string(), nullable=False),  # md5 of the uncompressed .slp, hexadecimal
        pa.field(
            "fingerprint", pa.string(), nullable=False
        ),  # same game in other bytes: see `datasets.replays.slp_reader`
        pa.field("source", pa.string(), nullable=False),  # name of the archive or folder
        pa.field("member", pa.int64(), nullable=False),  # number of the file in it, from 0, in listing order
        pa.field("path", pa.string()),  # only with --keep-paths: file names may hold connect codes
        pa.field("form", pa.string(), nullable=False),  # slp, or an older pipeline's: `datasets.replays.game`
        pa.field("slippi_version", pa.string()),  # null where the form does not say, as are ports, is_pal, ...
        pa.field("num_frames", pa.int32(), nullable=False),
        pa.field("num_rollback_rows", pa.int32(), nullable=False),  # rows that were sent again, removed
        pa.field("num_follower_rows", pa.int32(), nullable=False),  # of both players' partners
        pa.field("may_hold_rollbacks", pa.bool_(), nullable=False),  # could not be told: kept out of validation
        pa.field("stage", pa.uint16(), nullable=False),
        pa.field("p0_character", pa.uint8(), nullable=False),  # external ids, as chosen
        pa.field("p1_character", pa.uint8(), nullable=False),
        pa.field("p0_port", pa.uint8()),  # 1 .. 4
        pa.field("p1_port", pa.uint8()),
        pa.field("winner", pa.int8()),  # player 0 or 1; null where stocks and percent are level
        pa.field("end_method", pa.uint8()),  # SPEC.md, Game End; null where the file has none
        pa.field("is_pal", pa.bool_()),
        pa.field("start_time", pa.string()),  # ISO 8601, from the metadata
        *(pa.field(f"has_{name}", pa.bool_(), nullable=False) for name in OPTIONAL_FIELDS),
        pa.field("split_key", pa.string(), nullable=False),
        pa.field("split_number", pa.float64(), nullable=False),  # see `datasets.schema.splits`
        pa.field("shard", pa.string(), nullable=False),  # file name in frames/
        pa.field("first_row", pa.int64(), nullable=False),  # of this game in its shard
        pa.field("row_group", pa.int32(), nullable=False),
    ]
)

REJECTS_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string(), nullable=False),
        pa.field("member", pa.int64(), nullable=False),
        pa.field("path", pa.string()),
        pa.field("game_id", pa.string()),  # null where the bytes could not be had
        pa.field("code", pa.string(), nullable=False),  # see `datasets.checks.filters.REASONS`
        pa.field("message", pa.string(), nullable=False),
    ]
)

TOURNAMENT_STAGES: dict[int, str] = {
    2: "Fountain of Dreams",
    3: "Pokémon Stadium",
    8: "Yoshi's Story",
    28: "Dream Land",
    31: "Battlefield",
    32: "Final Destination",
}
"""External stage ids in use at tournaments."""

CHARACTERS: tuple[str, ...] = (
    "Captain Falcon", "Donkey Kong", "Fox", "Game & Watch", "Kirby", "Bowser", "Link", "Luigi", "Mario",
    "Marth", "Mewtwo", "Ness", "Peach", "Pikachu", "Ice Climbers", "Jigglypuff", "Samus", "Yoshi", "Zelda",
    "Sheik", "Falco", "Young Link", "Dr. Mario", "Roy", "Pichu", "Ganondorf",
)  # fmt: skip
"""Names by external character id."""


def character_name(external_id: int) -> str:
    """The name of a character, or its number where the id is not a playable one."""
    return CHARACTERS[external_id] if external_id < len(CHARACTERS) else f"character {external_id}"


def stage_name(stage: int) -> str:
    """The name of a tournament stage, or its number."""
    return TOURNAMENT_STAGES.get(stage, f"stage {stage}")
