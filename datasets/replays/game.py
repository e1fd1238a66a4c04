"""One game in memory, from any source: the input of the checks and of the corpus."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from datasets.schema.columns import Form
from datasets.schema.optional_tables import OptionalTable

Columns = dict[str, np.ndarray | None]
"""Column name (without player) -> array (frames,) of the column's dtype; None if the source does not record it."""

NO_CONTEST = 7
"""End method of a game that a player quit, or that was reset (SPEC.md, Game End)."""

FINGERPRINT_FRAMES = 1_200
"""Frames from the start of the game whose positions identify it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayerFacts:
    """A player's settings in Game Start; None if the source does not record them."""

    character: int
    """External id, as selected."""
    port: int | None
    """1 to 4."""
    is_human: bool | None
    """False for a CPU player."""
    stocks: int | None
    """At the start of the game."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GameFacts:
    """A game's metadata; None for what the source does not record."""

    form: Form
    slippi_version: tuple[int, int, int] | None
    stage: int
    """External id."""
    players: tuple[PlayerFacts, ...]
    is_teams: bool | None
    has_items: bool | None
    match_id: str
    """Id of the netplay match; empty without one."""
    is_pal: bool | None
    start_time: str | None
    """ISO 8601."""
    end_method: int | None
    """SPEC.md, Game End."""
    placements: tuple[int, ...] | None
    """Final placement of each player, 0 is first. Of no meaning after NO_CONTEST."""
    quitter: int | None = None
    """Player who ended the game (SPEC.md, Game End: LRAS initiator); None if nobody did."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Follower:
    """The Ice Climbers' partner, in the frames in which it is present."""

    player: int
    rows: np.ndarray
    """int64, indices into the game's frames."""
    columns: Columns


@dataclass(frozen=True, kw_only=True, slots=True)
class FrameRows:
    """A game's rows of an optional table: any number for a frame."""

    rows: np.ndarray
    """int64, indices into the game's frames, ascending."""
    columns: Columns
    """(len(rows),); a masked array where single values are null."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayerCrossCheck:
    """Values of a player that a .slp records in addition to the stored columns."""

    pre_frame: Columns
    """`action`, `x`, `y`, `percent` and processed `buttons` (uint32) before each frame, when the game reads the inputs:
    (frames,), as recorded (SPEC.md, Pre-Frame Update)."""
    off_grid: dict[str, np.ndarray]
    """Column -> frames (int64) whose recorded value is not the stored integer times the column's step, but for float32
    rounding; only columns with such frames."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossCheck:
    """Redundant values of a .slp. They are not stored, but expose damage (`datasets.checks.plausibility`)."""

    players: tuple[PlayerCrossCheck, ...]
    last_frame: int | None
    """Id of the last frame according to the metadata; None without metadata."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Game:
    """One game as the corpus stores it. Frame ids are consecutive from FIRST_FRAME_ID."""

    game_id: str
    """md5 of the uncompressed .slp, hexadecimal, as slippi_db names games."""
    facts: GameFacts
    players: tuple[Columns, ...]
    followers: tuple[Follower, ...]
    num_frames: int
    num_rollback_rows: int
    """Rows that were removed because a resimulated frame replaces them."""
    may_hold_rollbacks: bool = False
    """The source has no frame ids, and rollback frames could not be detected with certainty."""
    optional: Mapping[OptionalTable, FrameRows] = field(default_factory=dict)
    """The tables that were asked for and that the source records."""
    cross_check: CrossCheck | None = None
    """Only for games read from a .slp."""

    @property
    def fingerprint(self) -> str:
        """Identifies a game whose file has other bytes, such as an anonymised copy.

        Returns:
            128-bit blake2b of the stage, the characters and the first FINGERPRINT_FRAMES positions, hexadecimal.
        """
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((self.facts.stage, [player.character for player in self.facts.players])).encode())
        for columns in self.players:
            for name in ("x", "y"):
                values = columns[name]
                assert values is not None
                digest.update(np.ascontiguousarray(values[:FINGERPRINT_FRAMES]).tobytes())
        return digest.hexdigest()

    @property
    def winner(self) -> int | None:
        """The player who did not quit, or else was placed first, or else has more stocks at the end, or less percent.

        None for a draw: nobody quit, and the players are level in stocks and percent.
        """
        facts = self.facts
        if facts.quitter is not None:
            return 1 - facts.quitter
        leads = [self._leader(name, sign) for name, sign in (("stocks", 1), ("percent", -1))]
        if all(lead == 0 for lead in leads):
            return None
        placed = facts.placements if facts.end_method != NO_CONTEST else None
        if placed is not None and placed[0] != placed[1]:
            return int(placed[1] < placed[0])
        lead = next((lead for lead in leads if lead), 0)
        return int(lead < 0) if lead else None

    def _leader(self, name: str, sign: int) -> float | None:
        """By how much player 0 leads at the end; None if the source does not record the column."""
        ends = [float(values[-1]) for columns in self.players if (values := columns[name]) is not None]
        return sign * (ends[0] - ends[1]) if len(ends) == len(self.players) else None
