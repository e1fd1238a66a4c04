"""The options and the summary of `wm synth`."""

from dataclasses import dataclass

from datasets.synth.slp_layout import Version

FIRST_FRAME = -123
"""Frame id of a game's first frame (SPEC.md, Frame Start)."""
TIMER_FRAMES = 480 * 60
"""Length of the in-game timer, in frames."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthOptions:
    """Which replays to generate. The same options give the same bytes."""

    num_games: int = 60
    """Number of valid games."""
    seed: int = 0
    """Seed of all random numbers. Game i of a seed does not depend on `num_games` and `batch_games`."""
    version: str = "3.16.0"
    """Slippi version of the files: 2.0 to 2.2 or 3.7 to 3.16. peppi-py cannot read 3.0 to 3.6 files without items."""
    max_frames: int = 8_000
    """Maximum length of a game, in frames from id 0 on. 28,800 is the in-game timer (end method TIME); with fewer
    frames the player who is behind quits (NO CONTEST)."""
    rollbacks: bool = False
    """Also write mispredicted frames, as netplay does: ids repeat, and the last row of an id is final."""
    random_ports: bool = False
    """Put the players on any two of the four ports instead of 1 and 2."""
    broken: int = 0
    """Number of additional corrupt files. Their names end in the kind of corruption."""
    batch_games: int = 1024
    """Games that are simulated together. Affects memory (about 0.5 MB per game) and speed, but not the content."""

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
    """What `synthesize` wrote."""

    games: int
    """Number of valid games."""
    frames: int
    """Frames of the valid games, without rollback frames."""
    num_bytes: int
    """Size of all files, including the corrupt ones."""
    seconds: float
    """Wall-clock time."""
    broken: int
    """Number of corrupt files."""
