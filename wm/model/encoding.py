"""What the model sees of a frame: raw columns in, features out. The corpus holds nothing normalised.

Terms and constants follow the older system, whose results are the yardstick (`docs/architecture.md`).
Shape legend: B = batch, T = frames, P = players (2), C = channels.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GAME_COLUMNS
from datasets.loading.sequences import Batch
from datasets.schema.columns import NUM_PLAYERS

ENCODING_VERSION = 2
"""Raised when features or targets change their meaning; a checkpoint of another version is refused."""

POSITION_SCALE = 0.05
CONTINUOUS_SCALES: dict[str, float] = {
    "percent": 0.01, "x": POSITION_SCALE, "y": POSITION_SCALE, "shield": 0.01, "self_air_x": 0.05, "self_y": 0.05,
    "self_ground_x": 0.05, "attack_x": 0.05, "attack_y": 0.05, "hitlag": 0.1, "stocks": 0.25, "combo": 0.1,
}  # fmt: skip
"""Continuous features and what their raw units are multiplied by."""
EMBEDDINGS: dict[str, tuple[int, int]] = {
    "action": (400, 32), "state_age": (150, 8), "jumps": (8, 4), "character": (33, 8), "l_cancel": (3, 2),
    "hurtbox": (3, 2), "ground": (32, 4), "last_attack": (64, 8),
}  # fmt: skip
"""Categories: number of values, width of the embedding."""
STAGE_EMBEDDING = (33, 4)
BINARY = ("facing", "invulnerable", "on_ground")
STICKS = ("main_x", "main_y", "c_x", "c_y")
STICK_GRID, TRIGGER_GRID = 80.0, 140.0
BUTTON_BITS: dict[str, int] = {
    "A": 0x0100, "B": 0x0200, "X": 0x0400, "Y": 0x0800, "Z": 0x0010, "L": 0x0040, "R": 0x0020, "D_UP": 0x0008,
}  # fmt: skip
"""Bits of the physical buttons (SPEC.md, Pre-Frame Update)."""

NUM_CONTROLLER = len(STICKS) + 1 + len(BUTTON_BITS)
PRESENCE = GAME_COLUMNS[1:]
NUM_FRAME_FEATURES = (
    NUM_PLAYERS
    * (len(CONTINUOUS_SCALES) + len(BINARY) + NUM_CONTROLLER + sum(width for _, width in EMBEDDINGS.values()))
    + STAGE_EMBEDDING[1]
    + len(PRESENCE)
)
NUM_CONTROLLER_FEATURES = NUM_PLAYERS * NUM_CONTROLLER
PERIODS = (4.0, 16.0, 64.0, 256.0)
"""Of the waves that tell where a player comes to, game units."""
FORWARD_STICKS = ("main_x", "c_x")
FORWARD_VELOCITIES = ("self_air_x", "self_ground_x", "attack_x")
NUM_RELATIONS = NUM_PLAYERS * (len(FORWARD_STICKS) + len(FORWARD_VELOCITIES) + 2)
NUM_WAVES = NUM_PLAYERS * 4 * len(PERIODS)

_FLOAT = {name: column for column, name in enumerate(FLOAT_COLUMNS)}
_CODE = {name: column for column, name in enumerate(CODE_COLUMNS)}
_STICK_COLUMNS = slice(_CODE[STICKS[0]], _CODE[STICKS[-1]] + 1)
assert CODE_COLUMNS[_STICK_COLUMNS] == STICKS


@dataclass(frozen=True, kw_only=True, slots=True)
class Frames:
    """Frames on a device, raw units; columns as in `datasets.loading.frames`.

    floats: float32 (B, T, P, C); codes: int16 (B, T, P, C); game: int16 (B, C).
    """

    floats: Tensor
    codes: Tensor
    game: Tensor

    def slice(self, start: int, end: int) -> Frames:
        """Frames start .. end-1 of every sequence."""
        return Frames(floats=self.floats[:, start:end], codes=self.codes[:, start:end], game=self.game)

    def examples(self, start: int, end: int) -> Frames:
        """Sequences start .. end-1."""
        return Frames(floats=self.floats[start:end], codes=self.codes[start:end], game=self.game[start:end])

    @property
    def num_frames(self) -> int:
        return self.floats.shape[1]

    def float_column(self, name: str) -> Tensor:
        """float32 (B, T, P), raw units."""
        return self.floats[..., _FLOAT[name]]

    def code_column(self, name: str) -> Tensor:
        """int64 (B, T, P)."""
        return self.codes[..., _CODE[name]].long()

    def present(self, field: str) -> Tensor:
        """float32 (B,): 1 where the game's version has the optional field."""
        return present(self.game, field)


def present(game_BC: Tensor, field: str) -> Tensor:
    """float32 (B,): 1 where a game's version has the optional field; `game_BC` is int16 (B, C)."""
    return game_BC[:, GAME_COLUMNS.index(f"has_{field}")].float()


@functools.cache
def constant(values: tuple[float, ...] | tuple[tuple[float, ...], ...], device: torch.device) -> Tensor:
    """A small tensor that goes to the device once; also where it is first asked for while judging."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)


def to_frames(batch: Batch, device: torch.device | str = "cpu") -> Frames:
    """Move a batch of raw columns to a device."""

    def move(array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if torch.device(device).type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)

    return Frames(floats=move(batch.floats), codes=move(batch.codes), game=move(batch.game))


def category(frames: Frames, name: str) -> Tensor:
    """A category's index, clamp(floor(v), 0, n - 1): int64 (B, T, P)."""
    size = EMBEDDINGS[name][0]
    if name == "state_age":
        return frames.float_column(name).floor().clamp(0, size - 1).long()
    values = frames.code_column(name)
    if name == "ground":
        values = values + 1  # none is -1
    return values.clamp(0, size - 1)


def continuous(frames: Frames, name: str) -> Tensor:
    """A continuous field in scaled units: float32 (B, T, P)."""
    raw = frames.float_column(name) if name in _FLOAT else frames.code_column(name).float()
    return raw * CONTINUOUS_SCALES[name]


def binary(frames: Frames, name: str) -> Tensor:
    """A yes-no field: float32 (B, T, P), 0 or 1."""
    if name == "facing":
        return (frames.code_column("facing") > 0).float()
    if name == "invulnerable":
        return (frames.code_column("hurtbox") != 0).float()
    return (frames.code_column("airborne") == 0).float()


def ahead(frames: Frames) -> Tensor:
    """The direction that each player faces: float32 (B, T, P), 1 is right and -1 left."""
    return 2 * binary(frames, "facing") - 1


def positions(frames: Frames) -> Tensor:
    """float32 (B, T, P, 2), x and y in game units."""
    return torch.stack([frames.float_column("x"), frames.float_column("y")], dim=-1)


def controllers(frames: Frames) -> Tensor:
    """Sticks and trigger in [0, 1] and buttons 0 or 1, both players: float32 (B, T, 26)."""
    sticks = (frames.codes[..., _STICK_COLUMNS].float() / STICK_GRID + 1) / 2
    trigger = frames.code_column("trigger")[..., None] / TRIGGER_GRID
    pressed = frames.code_column("buttons")
    buttons = torch.stack([(pressed & bit) != 0 for bit in BUTTON_BITS.values()], dim=-1)
    return torch.cat([sticks, trigger, buttons.float()], dim=-1).flatten(2)


def relations(frames: Frames, controllers_BTC: Tensor) -> Tensor:
    """What no weighted sum of features says, and a network learns late, since it would have to multiply them.

    Sticks of the next frame, velocities and the way to the other player as forward and back instead of right and
    left: a turn, a jump back and a back air go the same way forward.

    Args:
        frames: the context frames.
        controllers_BTC: (B, T, 26), of the frame after each of them.
    Returns:
        float32 (B, T, NUM_RELATIONS).
    """
    sticks = controllers_BTC.unflatten(-1, (NUM_PLAYERS, NUM_CONTROLLER))
    place = positions(frames)
    way = (place.flip(2) - place) * POSITION_SCALE
    sideways = [
        *(2 * sticks[..., STICKS.index(name)] - 1 for name in FORWARD_STICKS),
        *(continuous(frames, name) for name in FORWARD_VELOCITIES),
        way[..., 0],
    ]
    forward = torch.stack(sideways, dim=-1) * ahead(frames)[..., None]
    return torch.cat([forward, way[..., 1:]], dim=-1).flatten(2)


def waves(frames: Frames, displacement_BTPC: Tensor) -> Tensor:
    """Where players come to if they go on as they do: sines and cosines, from fine to coarse.

    Scaled units tell a place to a tenth of the stage; a landing is a matter of a fraction of a game unit.

    Args:
        frames: the context frames.
        displacement_BTPC: (B, T, P, 2), what the prior says, game units.
    Returns:
        float32 (B, T, NUM_WAVES).
    """
    there = positions(frames) + displacement_BTPC
    angles = torch.cat([there * (2 * torch.pi / period) for period in PERIODS], dim=-1)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(2)


class FrameEncoder(nn.Module):
    """Raw frames -> features of a frame."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict({n: nn.Embedding(size, width) for n, (size, width) in EMBEDDINGS.items()})
        self.stage = nn.Embedding(*STAGE_EMBEDDING)
        floats = [_FLOAT[name] for name in CONTINUOUS_SCALES if name in _FLOAT]
        codes = [_CODE[name] for name in list(CONTINUOUS_SCALES)[len(floats) :]]  # floats come first there
        self.register_buffer("float_columns", torch.tensor(floats), persistent=False)
        self.register_buffer("code_columns", torch.tensor(codes), persistent=False)
        self.register_buffer("scales", torch.tensor(list(CONTINUOUS_SCALES.values())), persistent=False)

    def forward(self, frames: Frames) -> Tensor:
        """
        Returns:
            float32 (B, T, NUM_FRAME_FEATURES).
        """
        floats = frames.floats.index_select(-1, self.float_columns)
        codes = frames.codes.index_select(-1, self.code_columns).float()
        numbers = [torch.cat([floats, codes], dim=-1) * self.scales]
        numbers += [binary(frames, name)[..., None] for name in BINARY]
        embedded = [table(category(frames, name)) for name, table in self.embeddings.items()]
        players = torch.cat([*numbers, *embedded], dim=-1).flatten(2)
        stage = self.stage(frames.game[:, 0].long().clamp(0, STAGE_EMBEDDING[0] - 1))
        facts = torch.cat([stage, frames.game[:, 1:].float()], dim=-1)
        facts = facts[:, None].expand(-1, frames.num_frames, -1)
        return torch.cat([players, controllers(frames), facts], dim=-1)
