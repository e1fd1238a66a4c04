"""What `wm synth` can be asked for, and what it says when it is done."""

from dataclasses import dataclass

from datasets.synth.slp_layout import Version

FIRST_FRAME = -123
"""Frame id of a game's first frame (SPEC.md, Frame Start)."""
TIMER_FRAMES = 480 * 60
"""Length of the in-game timer, in frames."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthOptions:
    """Which games to make; the same options give the same bytes."""

    num_games: int = 60
    """Good games to write."""
    seed: int = 0
    """Seed of all random numbers. Game i of a seed is the same whatever `num_games` and `batch_games` are."""
    version: str = "3.16.0"
    """Slippi version of the files: 2.0 to 2.2 and 3.7 to 3.16. peppi-py cannot read item-less 3.0 to 3.6 files."""
    max_frames: int = 8_000
    """A game that is still undecided after this many frames ends, in frames counted from id 0. 28,800 is the game's
    own timer (method TIME); with fewer the player who is behind quits (method NO CONTEST)."""
    rollbacks: bool = False
    """Also writes mispredicted frames, as netplay does: ids go back and repeat, the last row of an id counts."""
    random_ports: bool = False
    """Players on any two of the four ports instead of 1 and 2."""
    broken: int = 0
    """Additional broken files; their names end in the kind of fault."""
    batch_games: int = 1024
    """Games simulated in lockstep: memory (about 0.5 MB each) and speed only, never content."""

    def __post_init__(self) -> None:
        for name, least in (("num_games", 0), ("seed", 0), ("broken", 0), ("batch_games", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least {least}")
        if not 1 <= self.max_frames <= TIMER_FRAMES:
            raise ValueError(f"max_frames={self.max_frames}: expected 1 to {TIMER_FRAMES} (the game's timer)")
        if self.seed >= 2**63:
            raise ValueError(f"seed={self.seed}: expected less than 2**63")
        version = Version.parse(self.version)
        if self.rollbacks and not version.has((3, 0)):
            raise ValueError(f"rollbacks=True with version={self.version!r}: expected 3.7 or later (netplay's files)")


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthSummary:
    """What one call wrote."""

    games: int
    """Good games."""
    frames: int
    """Frames of the good games, each counted once (both players together)."""
    num_bytes: int
    """Bytes of all files, broken ones included."""
    seconds: float
    """Wall-clock time."""
    broken: int
    """Broken files."""
