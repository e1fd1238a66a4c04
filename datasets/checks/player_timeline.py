"""One player's columns over a game, with the masks that the plausibility checks share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from datasets.replays.game import Columns, Game, PlayerCrossCheck

HITLAG_FLAG = 0x20
"""Bit of state flag byte 1: the player is in hitlag (SPEC.md, State Bit Flags 2)."""

REBIRTH = 12
"""Action state of a respawn. Lower ids are deaths."""
FIRST_SPECIAL = 341
"""First character-specific action state. Yoshi's shield is among them."""


@dataclass(frozen=True, kw_only=True)
class PlayerTimeline:
    """One player of a game, or an Ice Climbers' partner. Masks are computed on first use."""

    player: int
    first_frame: int
    """Index of the first frame within the game."""
    is_follower: bool
    character: int
    """External id."""
    is_human: bool
    """Whether the inputs come from a controller. CPU players' and partners' inputs are computed."""
    has_items: bool
    stage: int
    """External id."""
    columns: Columns
    cross_check: PlayerCrossCheck | None

    @cached_property
    def names(self) -> frozenset[str]:
        """The columns that the source records."""
        return frozenset(name for name, values in self.columns.items() if values is not None)

    @cached_property
    def pre_frame_names(self) -> frozenset[str]:
        """The columns that the source also records before each frame."""
        pre_frame = {} if self.cross_check is None else self.cross_check.pre_frame
        return frozenset(name for name, values in pre_frame.items() if values is not None)

    def __getitem__(self, name: str) -> np.ndarray:
        """A recorded post-frame column."""
        values = self.columns[name]
        assert values is not None
        return values

    def pre_frame(self, name: str) -> np.ndarray:
        """A column as recorded before each frame, when the game reads the inputs."""
        assert self.cross_check is not None
        values = self.cross_check.pre_frame[name]
        assert values is not None
        return values

    @cached_property
    def in_hitlag(self) -> np.ndarray:
        """bool (frames,)."""
        return (self["flags_1"] & np.uint8(HITLAG_FLAG)) != 0

    @cached_property
    def same_action(self) -> np.ndarray:
        """bool (frames - 1,): entry i is whether frame i + 1 has the action of frame i, before and after its update."""
        action = self["action"]
        same = action[1:] == action[:-1]
        return same & (self.pre_frame("action")[1:] == action[1:]) if "action" in self.pre_frame_names else same

    @cached_property
    def uninterrupted(self) -> np.ndarray:
        """bool (frames - 1,): `same_action`, and neither of the two frames is in hitlag."""
        return self.same_action & ~(self.in_hitlag[1:] | self.in_hitlag[:-1])

    @cached_property
    def steady(self) -> np.ndarray:
        """bool (frames - 2,): entry i is whether frames i to i + 2 are uninterrupted."""
        return self.uninterrupted[1:] & self.uninterrupted[:-1]

    @cached_property
    def airborne(self) -> np.ndarray:
        """bool (frames,)."""
        return self["airborne"] != 0


def timelines(game: Game) -> list[PlayerTimeline]:
    """The timelines of both players and of their partners."""
    return [*player_timelines(game), *follower_timelines(game)]


def player_timelines(game: Game) -> list[PlayerTimeline]:
    """The timelines of both players."""
    cross_checks = (None, None) if game.cross_check is None else game.cross_check.players
    return [
        PlayerTimeline(
            player=player,
            first_frame=0,
            is_follower=False,
            character=facts.character,
            is_human=facts.is_human is not False,
            has_items=bool(game.facts.has_items),
            stage=game.facts.stage,
            columns=columns,
            cross_check=cross_check,
        )
        for player, (facts, columns, cross_check) in enumerate(
            zip(game.facts.players, game.players, cross_checks, strict=True)
        )
    ]


def follower_timelines(game: Game) -> list[PlayerTimeline]:
    """The timelines of the Ice Climbers' partners, one for each run of consecutive frames."""
    return [
        PlayerTimeline(
            player=follower.player,
            first_frame=int(follower.rows[run.start]),
            is_follower=True,
            character=game.facts.players[follower.player].character,
            is_human=False,
            has_items=bool(game.facts.has_items),
            stage=game.facts.stage,
            columns={name: None if values is None else values[run] for name, values in follower.columns.items()},
            cross_check=None,
        )
        for follower in game.followers
        for run in _consecutive_runs(follower.rows)
    ]


def _consecutive_runs(rows: np.ndarray) -> list[slice]:
    ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def frames_where(mask: np.ndarray) -> np.ndarray:
    """Indices of the true entries: `np.flatnonzero` without its overhead, which is as costly as a short column."""
    return mask.nonzero()[0]


def is_isolated(frames: np.ndarray) -> np.ndarray:
    """Mask of those of some ascending frames whose neighbours are not among them."""
    apart = frames[1:] - frames[:-1] > 1
    mask = np.ones(len(frames), bool)
    mask[1:] &= apart
    mask[:-1] &= apart
    return mask


def isolated(frames: np.ndarray) -> np.ndarray:
    """Those of some ascending frames whose neighbours are not among them."""
    return frames[is_isolated(frames)]


def flipped_bits(values: np.ndarray) -> np.ndarray:
    """Bits of integers that change in a frame and again in the next: entry i belongs to frame i + 1."""
    changes = values[1:] ^ values[:-1]
    return changes[1:] & changes[:-1]
