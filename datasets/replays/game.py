"""One game in memory, whatever it was read from: what the checks look at and what the corpus stores."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

Columns = dict[str, np.ndarray | None]
"""Column name (without player) -> array (frames,) in the corpus' dtype; None where the source has none."""

FINGERPRINT_FRAMES = 1_200


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayerFacts:
    """What was settled about a player before the game; None where the source does not say."""

    character: int
    """External id, as chosen."""
    port: int | None
    """1 to 4."""
    is_human: bool | None
    stocks: int | None
    """At the start."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GameFacts:
    """What a source says of a game beside its frames; None where it does not say."""

    form: str
    """What it was read from: `slp`, or the older pipelines' `parsed-v2`, `parsed-v3`, `slippi-db`."""
    slippi_version: tuple[int, int, int] | None
    stage: int
    """External id."""
    players: tuple[PlayerFacts, ...]
    is_teams: bool | None
    has_items: bool | None
    match_id: str
    """Empty outside of matches."""
    is_pal: bool | None
    start_time: str | None
    """ISO 8601."""
    end_method: int | None
    """SPEC.md, Game End."""
    placements: tuple[int, ...] | None
    """By player, 0 is first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Follower:
    """The Ice Climbers' partner: only the frames in which it is there."""

    player: int
    rows: np.ndarray
    """int64, indices into the game's frames."""
    columns: Columns


@dataclass(frozen=True, kw_only=True, slots=True)
class PlayerEvidence:
    """What a .slp says of a player a second time."""

    before: Columns
    """`action`, `x`, `y`, `percent` and processed `buttons` (uint32) when a frame's inputs are read: (frames,), as
    the file has them (SPEC.md, Pre-Frame Update)."""
    off_grid: dict[str, int]
    """Column -> frames in which the file's number is not one that the stored integer stands for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What a .slp says twice. It is not stored: it shows damage (`datasets.checks.consistency`)."""

    players: tuple[PlayerEvidence, ...]
    last_frame: int | None
    """Id of the last frame by the metadata, where the file has any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Game:
    """One game as the corpus stores it; frame ids run from FIRST_FRAME_ID without a gap."""

    game_id: str
    """md5 of the uncompressed .slp, hexadecimal, as slippi_db names games."""
    facts: GameFacts
    players: tuple[Columns, ...]
    followers: tuple[Follower, ...]
    num_frames: int
    num_rollback_rows: int
    """Rows that were sent again, and were removed."""
    may_hold_rollbacks: bool = False
    """The source has no frame ids, and rows that were sent again could not be told from the others."""
    evidence: Evidence | None = None
    """Only of games from a .slp."""

    @property
    def fingerprint(self) -> str:
        """Equal for the same game in different bytes: stage, characters, and the first positions.

        Returns:
            128 bits of blake2b over stage, characters and the first FINGERPRINT_FRAMES frames, hexadecimal.
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
        """The player placed first, or else with more stocks at the end, or else with less damage."""
        placements = self.facts.placements
        if placements is not None and placements[0] != placements[1]:
            return int(placements[1] < placements[0])
        for name, sign in (("stocks", 1), ("percent", -1)):
            ends = [sign * float(values[-1]) for columns in self.players if (values := columns[name]) is not None]
            if len(ends) == len(self.players) and ends[0] != ends[1]:
                return int(ends[1] > ends[0])
        return None
