"""Features that are products or thresholds of the raw ones: what a button press, a stage or a facing direction means.

The game decides by such conditions. A network learns each of them only from many examples; given as features, most are
learned in the first minute.

Shape legend: B = batch, T = frames, P = players (2), C = channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from datasets.schema.columns import NUM_PLAYERS
from wm.model.encoding import (
    BUTTON_BITS,
    NUM_CONTROLLER,
    POSITION_SCALE,
    STAGE_EMBEDDING,
    STICK_GRID,
    STICKS,
    TRIGGER_GRID,
    Frames,
    Layout,
    continuous,
    controllers,
    facing_sign,
    layout_width,
    positions,
)

FOURIER_PERIODS = (4.0, 16.0, 64.0, 256.0)
"""Wavelengths of the Fourier features of a position, game units."""
EGOCENTRIC_STICKS = ("main_x", "c_x")
EGOCENTRIC_VELOCITIES = ("self_air_x", "self_ground_x", "attack_x")
STICK_THRESHOLDS = tuple(steps / STICK_GRID for steps in (-63.5, -52.5, -22.5, 22.5, 52.5, 63.5))
"""Positions of a stick, in [-1, 1] relative to the facing direction, beyond which the game starts other actions: walks,
jumps and crouches, dashes. They lie between two steps of the stick, so that no rounding decides."""
TRIGGER_THRESHOLDS = tuple(steps / TRIGGER_GRID for steps in (0.5, 42.5))
"""Of the analog trigger in [0, 1]: touched, and far enough for a shield."""
STAGE_SURFACES: dict[int, tuple[tuple[float, float, float], ...]] = {
    2: ((0.0029, -63.35, 63.35), (42.75, -14.25, 14.25)),
    3: ((0.0, -87.75, 87.75), (25.0, -55.0, -25.0), (25.0, 25.0, 55.0)),
    8: ((0.0, -56.0, 56.0), (42.0, -15.75, 15.75), (23.45, -59.5, -28.0), (23.45, 28.0, 59.5)),
    28: ((0.0089, -77.27, 77.27), (51.4254, -19.02, 19.02), (30.1422, -61.39, -31.73), (30.2426, 31.7, 63.07)),
    31: ((0.0, -68.4, 68.4), (54.4, -18.8, 18.8), (27.2, -57.6, -20.0), (27.2, 20.0, 57.6)),
    32: ((0.0, -85.57, 85.57),),
}
"""Fixed surfaces by external stage id, the main one first: height, left and right end in game units. Moving platforms
and slopes are left out. In real replays players stand on them within 0.2 units."""
NUM_SURFACES = 4
NO_SURFACE = -200.0
"""Height of the surface below a player who has none: lower than every blast zone."""
SURFACE_TOLERANCE = 8.0
"""How far below a surface a player may still be to land on it, game units: in the air, feet are above the position."""

EGOCENTRIC_LAYOUT: Layout = ((NUM_PLAYERS, len(EGOCENTRIC_STICKS) + len(EGOCENTRIC_VELOCITIES) + 2),)
FOURIER_LAYOUT: Layout = ((NUM_PLAYERS, 4 * len(FOURIER_PERIODS)),)
EVENT_LAYOUT: Layout = (
    (
        NUM_PLAYERS,
        len(BUTTON_BITS) + len(STICKS) * (1 + 2 * len(STICK_THRESHOLDS)) + 2 * len(TRIGGER_THRESHOLDS),
    ),
)
GEOMETRY_LAYOUT: Layout = ((NUM_PLAYERS, 9),)
NUM_EGOCENTRIC_FEATURES = layout_width(EGOCENTRIC_LAYOUT)
NUM_FOURIER_FEATURES = layout_width(FOURIER_LAYOUT)


class DerivedFeatures(nn.Module):
    """All derived features of an encoding. It has no parameters."""

    def __init__(self, encoding: int, *, fourier: bool) -> None:
        """
        Args:
            encoding: as `ModelConfig.encoding`.
            fourier: with `fourier_features`.
        """
        super().__init__()
        self.has_fourier, self.has_events = fourier, encoding >= 3
        self.layout: Layout = (
            *EGOCENTRIC_LAYOUT,
            *(FOURIER_LAYOUT if fourier else ()),
            *((*EVENT_LAYOUT, *GEOMETRY_LAYOUT) if self.has_events else ()),
        )
        if self.has_events:
            self.register_buffer("stick_thresholds", torch.tensor(STICK_THRESHOLDS), persistent=False)
            self.register_buffer("trigger_thresholds", torch.tensor(TRIGGER_THRESHOLDS), persistent=False)
            self.register_buffer("surfaces", surface_table(), persistent=False)

    def forward(self, frames: Frames, controllers_BTC: Tensor, displacement_BTPC: Tensor) -> Tensor:
        """
        Args:
            frames: the context frames.
            controllers_BTC: (B, T, 26), controllers of the following frames.
            displacement_BTPC: (B, T, P, 2), displacement prior in game units.
        Returns:
            float32 (B, T, width of the layout).
        """
        features = [egocentric_features(frames, controllers_BTC)]
        if self.has_fourier:
            features.append(fourier_features(frames, displacement_BTPC))
        if self.has_events:
            thresholds = self.stick_thresholds, self.trigger_thresholds
            features.append(controller_events(frames, controllers_BTC, *thresholds))
            features.append(geometry_features(frames, displacement_BTPC, self.surfaces))
        return torch.cat(features, dim=-1)


def egocentric_features(frames: Frames, controllers_BTC: Tensor) -> Tensor:
    """Horizontal features relative to the facing direction: sticks, velocities and the vector to the opponent.

    A move then looks the same in both facing directions. A network would have to learn these products of features.

    Args:
        frames: the context frames.
        controllers_BTC: (B, T, 26), controllers of the following frames.
    Returns:
        float32 (B, T, NUM_EGOCENTRIC_FEATURES).
    """
    sticks = controllers_BTC.unflatten(-1, (NUM_PLAYERS, NUM_CONTROLLER))
    position = positions(frames)
    to_opponent = (position.flip(2) - position) * POSITION_SCALE
    horizontal = [
        *(2 * sticks[..., STICKS.index(name)] - 1 for name in EGOCENTRIC_STICKS),
        *(continuous(frames, name) for name in EGOCENTRIC_VELOCITIES),
        to_opponent[..., 0],
    ]
    relative = torch.stack(horizontal, dim=-1) * facing_sign(frames)[..., None]
    return torch.cat([relative, to_opponent[..., 1:]], dim=-1).flatten(2)


def fourier_features(frames: Frames, displacement_BTPC: Tensor) -> Tensor:
    """Sines and cosines of the extrapolated positions, at several wavelengths.

    Scaled coordinates resolve a position to a tenth of the stage; a landing depends on a fraction of a game unit.

    Args:
        frames: the context frames.
        displacement_BTPC: (B, T, P, 2), displacement prior in game units.
    Returns:
        float32 (B, T, NUM_FOURIER_FEATURES).
    """
    extrapolated = positions(frames) + displacement_BTPC
    angles = torch.cat([extrapolated * (2 * torch.pi / period) for period in FOURIER_PERIODS], dim=-1)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(2)


def controller_events(
    frames: Frames, controllers_BTC: Tensor, stick_thresholds_C: Tensor, trigger_thresholds_C: Tensor
) -> Tensor:
    """What changes on the controllers: pressed buttons, and sticks and triggers that pass a threshold.

    Args:
        frames: the context frames.
        controllers_BTC: (B, T, 26), controllers of the following frames.
    Returns:
        float32 (B, T, width of EVENT_LAYOUT).
    """
    before, after = (c.unflatten(-1, (NUM_PLAYERS, NUM_CONTROLLER)) for c in (controllers(frames), controllers_BTC))
    num_sticks = len(STICKS)
    facing = facing_sign(frames)
    signs = torch.stack([facing, torch.ones_like(facing)] * (num_sticks // 2), dim=-1)
    stick_before, stick_after = ((2 * c[..., :num_sticks] - 1) * signs for c in (before, after))
    pressed = after[..., num_sticks + 1 :] * (1 - before[..., num_sticks + 1 :])
    events = [pressed, stick_after - stick_before]
    trigger_before, trigger_after = (c[..., num_sticks : num_sticks + 1] for c in (before, after))
    for old, new, thresholds in (
        (stick_before, stick_after, stick_thresholds_C),
        (trigger_before, trigger_after, trigger_thresholds_C),
    ):
        was_beyond, is_beyond = ((value[..., None] > thresholds).float().flatten(-2) for value in (old, new))
        events += [is_beyond, is_beyond - was_beyond]
    return torch.cat(events, dim=-1).flatten(2)


def surface_table() -> Tensor:
    """STAGE_SURFACES by stage id, also of mirrored stages (`wm.data.augment.mirror`): float32 (33, NUM_SURFACES, 3).

    An absent surface has its left end to the right of its right end.
    """
    num_stages = STAGE_EMBEDDING[0]
    table = torch.tensor([NO_SURFACE, 1.0, -1.0]).repeat(num_stages, NUM_SURFACES, 1)
    for stage, surfaces in STAGE_SURFACES.items():
        for number, (height, left, right) in enumerate(surfaces):
            table[stage, number] = torch.tensor([height, left, right])
            table[num_stages - 1 - stage, number] = torch.tensor([height, -right, -left])
    return table


def stage_rows(frames: Frames, table: Tensor) -> Tensor:
    """The rows of a table by stage id, such as `surface_table`, for the stages of games: (B, 1, 1, ...)."""
    return table[frames.game[:, 0].long().clamp(0, STAGE_EMBEDDING[0] - 1)][:, None, None]


def surface_below(x: Tensor, y: Tensor, surfaces: Tensor) -> Tensor:
    """Height of the surface on which a player at a place would land, or NO_SURFACE.

    Args:
        x, y: (B, T, P), game units.
        surfaces: see `stage_rows`.
    Returns:
        float32 (B, T, P), game units.
    """
    height, left, right = surfaces.unbind(-1)
    is_below = (x[..., None] >= left) & (x[..., None] <= right) & (y[..., None] >= height - SURFACE_TOLERANCE)
    return torch.where(is_below, height, NO_SURFACE).amax(-1)


def geometry_features(frames: Frames, displacement_BTPC: Tensor, surfaces: Tensor) -> Tensor:
    """Each player's height above the surface below, and distance from the edge of the stage, if the motion continues.

    Args:
        frames: the context frames.
        displacement_BTPC: (B, T, P, 2), displacement prior in game units.
        surfaces: see `surface_table`.
    Returns:
        float32 (B, T, width of GEOMETRY_LAYOUT).
    """
    here = positions(frames)
    x, y = (here + displacement_BTPC).unbind(-1)
    y_before = here[..., 1]
    table = stage_rows(frames, surfaces)
    surface = surface_below(x, y_before, table)
    gap, gap_before = y - surface, y_before - surface
    beyond_edge = x.abs() - table[..., 0, 2]
    features = [
        (gap / 20).clamp(-1, 3),
        (gap / 8).clamp(-1, 1),
        (gap < 0).float(),
        (gap_before / 8).clamp(-1, 1),
        (surface == NO_SURFACE).float(),
        (beyond_edge / 20).clamp(-3, 3),
        (beyond_edge / 2).clamp(-1, 1),
        (beyond_edge > 0).float(),
        x.sign() * facing_sign(frames),
    ]
    return torch.stack(features, dim=-1).flatten(2)
