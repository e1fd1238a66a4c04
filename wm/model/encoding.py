"""Raw columns of the corpus -> input features of the network. Normalization happens here; the corpus is raw.

Names and constants follow the older system, with which results are compared (`docs/architecture.md`).
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
from wm.model.ops.lookup import lookup

POSITION_SCALE = 0.05
CONTINUOUS_SCALES: dict[str, float] = {
    "percent": 0.01, "x": POSITION_SCALE, "y": POSITION_SCALE, "shield": 0.01, "self_air_x": 0.05, "self_y": 0.05,
    "self_ground_x": 0.05, "attack_x": 0.05, "attack_y": 0.05, "hitlag": 0.1, "stocks": 0.25, "combo": 0.1,
}  # fmt: skip
"""Continuous feature -> scale factor from raw units."""
EMBEDDINGS: dict[str, tuple[int, int]] = {
    "action": (400, 32), "state_age": (150, 8), "jumps": (8, 4), "character": (33, 8), "l_cancel": (3, 2),
    "hurtbox": (3, 2), "ground": (32, 4), "last_attack": (64, 8),
}  # fmt: skip
"""Categorical feature -> number of values, embedding width."""
NUM_STAGES = 33
"""External stage ids of games between two players."""
STAGE_EMBEDDING = (NUM_STAGES, 4)
"""A mirrored stage takes the place of an id that no tournament stage has (`stage_category`)."""
BINARY = ("facing", "invulnerable", "on_ground")
STICKS = ("main_x", "main_y", "c_x", "c_y")
STICK_GRID, TRIGGER_GRID = 80.0, 140.0
BUTTON_BITS: dict[str, int] = {
    "A": 0x0100, "B": 0x0200, "X": 0x0400, "Y": 0x0800, "Z": 0x0010, "L": 0x0040, "R": 0x0020, "D_UP": 0x0008,
}  # fmt: skip
"""Bit masks of the physical buttons (SPEC.md, Pre-Frame Update)."""

NUM_CONTROLLER = len(STICKS) + 1 + len(BUTTON_BITS)
NUM_STATE = len(CONTINUOUS_SCALES) + len(BINARY) + sum(width for _, width in EMBEDDINGS.values())
PRESENCE = ("has_velocity", "has_hitlag", "has_hurtbox")
"""Columns of a game that every encoding sees."""
_FIRST_PRESENCE = GAME_COLUMNS.index(PRESENCE[0])
_PRESENCE_COLUMNS = slice(_FIRST_PRESENCE, _FIRST_PRESENCE + len(PRESENCE))
assert GAME_COLUMNS[_PRESENCE_COLUMNS] == PRESENCE
FIRST_PORT = len(GAME_COLUMNS) - NUM_PLAYERS
"""First of the last columns of a game, the ports."""
assert GAME_COLUMNS[FIRST_PORT:] == tuple(f"p{player}_port" for player in range(NUM_PLAYERS))

Layout = tuple[tuple[int, int], ...]
"""Blocks of a feature vector, in order: number of players (1: shared by both) and features of each."""
CONTROLLER_LAYOUT: Layout = ((NUM_PLAYERS, NUM_CONTROLLER),)
FRAME_LAYOUT: Layout = ((NUM_PLAYERS, NUM_STATE), *CONTROLLER_LAYOUT, (1, STAGE_EMBEDDING[1] + len(PRESENCE)))


def layout_width(layout: Layout) -> int:
    """Number of features."""
    return sum(players * width for players, width in layout)


def swapped_players(layout: Layout) -> list[int]:
    """The order of the features of a layout that exchanges players 0 and 1."""
    order: list[int] = []
    for players, width in layout:
        block = np.arange(len(order), len(order) + players * width).reshape(players, width)
        order += block[::-1].ravel().tolist()
    return order


NUM_FRAME_FEATURES = layout_width(FRAME_LAYOUT)
NUM_CONTROLLER_FEATURES = layout_width(CONTROLLER_LAYOUT)

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

    @property
    def last(self) -> Frames:
        """The last frame, T = 1."""
        return self.slice(self.num_frames - 1, self.num_frames)

    def float_column(self, name: str) -> Tensor:
        """float32 (B, T, P), raw units."""
        return self.floats[..., _FLOAT[name]]

    def code_column(self, name: str) -> Tensor:
        """int64 (B, T, P)."""
        return self.codes[..., _CODE[name]].long()

    @property
    def ports(self) -> Tensor:
        """int64 (B, P), 1 to 4; 0 where nothing tells them."""
        return self.game[:, FIRST_PORT:].long()

    def present(self, field: str) -> Tensor:
        """float32 (B,): 1 where the game's version has the optional field."""
        return present(self.game, field)


def stage_category(game_BC: Tensor) -> Tensor:
    """Row of the embedding of a game's stage: int64 (B,)."""
    stage = game_BC[:, 0].long()
    return torch.where(stage < 0, NUM_STAGES + stage, stage).clamp(0, NUM_STAGES - 1)


def present(game_BC: Tensor, field: str) -> Tensor:
    """float32 (B,): 1 where a game's version has the optional field; `game_BC` is int16 (B, C)."""
    return game_BC[:, GAME_COLUMNS.index(f"has_{field}")].float()


@functools.cache
def cached_tensor(
    values: tuple[float, ...] | tuple[tuple[float, ...], ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> Tensor:
    """A small constant tensor, copied to the device once. Never an inference tensor, even if created in evaluation."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def to_frames(batch: Batch, device: torch.device | str = "cpu") -> Frames:
    """A batch of raw columns -> Frames on a device."""

    def move(array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        if torch.device(device).type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(device, non_blocking=True)

    return Frames(floats=move(batch.floats), codes=move(batch.codes), game=move(batch.game))


def category(frames: Frames, name: str) -> Tensor:
    """Index of a categorical feature, clamp(floor(v), 0, n - 1): int64 (B, T, P)."""
    size = EMBEDDINGS[name][0]
    if name == "state_age":
        return frames.float_column(name).floor().long().clamp(0, size - 1)  # in this order NaN is an index, too
    values = frames.code_column(name)
    if name == "ground":
        values = values + 1  # -1 means no ground
    return values.clamp(0, size - 1)


def continuous(frames: Frames, name: str) -> Tensor:
    """A continuous feature in scaled units: float32 (B, T, P)."""
    raw = frames.float_column(name) if name in _FLOAT else frames.code_column(name).float()
    return raw * CONTINUOUS_SCALES[name]


def binary(frames: Frames, name: str) -> Tensor:
    """A binary feature: float32 (B, T, P), 0 or 1."""
    if name == "facing":
        return (frames.code_column("facing") > 0).float()
    if name == "invulnerable":
        return (frames.code_column("hurtbox") != 0).float()
    return (frames.code_column("airborne") == 0).float()


def facing_sign(frames: Frames) -> Tensor:
    """Facing direction of each player: float32 (B, T, P), 1 right, -1 left."""
    return 2 * binary(frames, "facing") - 1


def positions(frames: Frames) -> Tensor:
    """float32 (B, T, P, 2), x and y in game units."""
    return torch.stack([frames.float_column("x"), frames.float_column("y")], dim=-1)


def position_errors(imagined: Frames, truth: Frames) -> Tensor:
    """Mean of |dx| and |dy| over both players: float32 (B, T), game units."""
    return (positions(imagined) - positions(truth)).abs().mean((-1, -2))


def controllers(frames: Frames) -> Tensor:
    """Controller features of both players, sticks and trigger in [0, 1], buttons 0 or 1: float32 (B, T, 26)."""
    sticks = (frames.codes[..., _STICK_COLUMNS].float() / STICK_GRID + 1) / 2
    trigger = frames.code_column("trigger")[..., None] / TRIGGER_GRID
    bits = cached_tensor(tuple(BUTTON_BITS.values()), frames.codes.device, torch.int16)
    buttons = (frames.codes[..., _CODE["buttons"], None] & bits) != 0
    return torch.cat([sticks, trigger, buttons.float()], dim=-1).flatten(2)


class FrameEncoder(nn.Module):
    """Raw frames -> per-frame feature vectors with learned embeddings of the categorical features."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict({n: nn.Embedding(size, width) for n, (size, width) in EMBEDDINGS.items()})
        self.stage = nn.Embedding(*STAGE_EMBEDDING)
        floats = [_FLOAT[name] for name in CONTINUOUS_SCALES if name in _FLOAT]
        codes = [_CODE[name] for name in list(CONTINUOUS_SCALES)[len(floats) :]]  # CONTINUOUS_SCALES lists floats first
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
        embedded = [
            lookup(table.get_parameter("weight"), category(frames, name)) for name, table in self.embeddings.items()
        ]
        players = torch.cat([*numbers, *embedded], dim=-1).flatten(2)
        stage = lookup(self.stage.weight, stage_category(frames.game))
        facts = torch.cat([stage, frames.game[:, _PRESENCE_COLUMNS].float()], dim=-1)
        facts = facts[:, None].expand(-1, frames.num_frames, -1)
        return torch.cat([players, controllers(frames), facts], dim=-1)
