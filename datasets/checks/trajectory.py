"""One player's way through a game, with the frames marked in which the game leaves him alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from datasets.replays.game import Columns, Game, PlayerEvidence
from datasets.schema.columns import FIRST_FRAME_ID

HITLAG_FLAG = 0x20
"""Bit of state flag byte 1: frozen by a hit given or taken (SPEC.md, State Bit Flags 2)."""

REBIRTH = 12
"""Action of a new life; those below it are deaths."""
FIRST_SPECIAL = 341
"""Actions from here on are the character's own; Yoshi's shield is among them."""


@dataclass(frozen=True, kw_only=True)
class Track:
    """One player of one game, or an Ice Climber's partner. Masks are made when they are first asked for."""

    player: int
    character: int
    """External id."""
    is_human: bool
    """Inputs are a controller's; those of CPU players and partners are computed."""
    has_items: bool
    stage: int
    columns: Columns
    evidence: PlayerEvidence | None

    @cached_property
    def names(self) -> frozenset[str]:
        """Columns that the source holds."""
        return frozenset(name for name, values in self.columns.items() if values is not None)

    @cached_property
    def names_before(self) -> frozenset[str]:
        """Columns of which the source says how frames begin."""
        before = {} if self.evidence is None else self.evidence.before
        return frozenset(name for name, values in before.items() if values is not None)

    def __getitem__(self, name: str) -> np.ndarray:
        """A column that is there."""
        values = self.columns[name]
        assert values is not None
        return values

    def before(self, name: str) -> np.ndarray:
        """A column as it was when each frame's inputs were read."""
        assert self.evidence is not None
        values = self.evidence.before[name]
        assert values is not None
        return values

    @cached_property
    def frozen(self) -> np.ndarray:
        """bool (frames,): in hitlag."""
        return (self["flags_1"] & np.uint8(HITLAG_FLAG)) != 0

    @cached_property
    def stays(self) -> np.ndarray:
        """bool (frames - 1,): entry i says that frame i + 1 has the action of frame i, from its beginning on."""
        action = self["action"]
        stays = action[1:] == action[:-1]
        return stays & (self.before("action")[1:] == action[1:]) if "action" in self.names_before else stays

    @cached_property
    def undisturbed(self) -> np.ndarray:
        """bool (frames - 1,): `stays`, and hitlag in neither of the two frames."""
        return self.stays & ~(self.frozen[1:] | self.frozen[:-1])

    @cached_property
    def steady(self) -> np.ndarray:
        """bool (frames - 2,): entry i says that frames i to i + 2 are undisturbed."""
        return self.undisturbed[1:] & self.undisturbed[:-1]

    @cached_property
    def airborne(self) -> np.ndarray:
        """bool (frames,)."""
        return self["airborne"] != 0


Finding = tuple[str, str, np.ndarray]
"""Reason code, what was found in the first of some frames, and the frames."""

MAX_ODD_FRAMES = 16
"""Frames of a player that may break a rule that is known from experience; more is not damage but another way to play
on: a modified game, a scripted recording, a character that was not among those measured."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """Something that holds for every track of a sound game."""

    check: Callable[[Track], Iterator[Finding]]
    """Yields what contradicts the rule; findings of no frames are none."""
    needs: frozenset[str]
    """Columns without which it is not asked."""
    needs_before: frozenset[str] = frozenset()
    """Columns of which the source must say how frames begin."""
    from_experience: bool = True
    """Whether it is known from measured games only, not from what the columns mean."""
    of_partners: bool = False
    """Holds for the Ice Climbers' partner too, whose inputs and states the game handles in another order."""

    def findings(self, track: Track) -> list[tuple[str, str]]:
        """Reason code and message of what contradicts the rule."""
        if not (self.needs <= track.names and self.needs_before <= track.names_before):
            return []
        return [
            (code, f"player {track.player}: {text}{at(frames)}")
            for code, text, frames in self.check(track)
            if not (self.from_experience and len(frames) > MAX_ODD_FRAMES)
        ]


def players_of(game: Game) -> list[Track]:
    """Both players' tracks."""
    evidence = (None, None) if game.evidence is None else game.evidence.players
    return [
        Track(
            player=player,
            character=facts.character,
            is_human=facts.is_human is not False,
            has_items=bool(game.facts.has_items),
            stage=game.facts.stage,
            columns=columns,
            evidence=seen,
        )
        for player, (facts, columns, seen) in enumerate(zip(game.facts.players, game.players, evidence, strict=True))
    ]


def partners_of(game: Game) -> list[Track]:
    """The tracks of Ice Climbers' partners, cut where they are away."""
    return [
        Track(
            player=follower.player,
            character=game.facts.players[follower.player].character,
            is_human=False,
            has_items=bool(game.facts.has_items),
            stage=game.facts.stage,
            columns={name: None if values is None else values[piece] for name, values in follower.columns.items()},
            evidence=None,
        )
        for follower in game.followers
        for piece in _unbroken(follower.rows)
    ]


def _unbroken(rows: np.ndarray) -> list[slice]:
    ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def frames_where(mask: np.ndarray) -> np.ndarray:
    """Indices of what is true: `np.flatnonzero` without its own calls, which cost as much as a short column."""
    return mask.nonzero()[0]


def at(frames: np.ndarray) -> str:
    """Where: the first of some frames by id, and how many more there are; empty without frames."""
    more = f" and in {len(frames) - 1} more" if len(frames) > 1 else ""
    return f" at frame {int(frames[0]) + FIRST_FRAME_ID}{more}" if len(frames) else ""
