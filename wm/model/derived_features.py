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
from wm.model.stages import NO_SURFACE, stage_rows, surface_below, surface_table

FOURIER_PERIODS = (4.0, 16.0, 64.0, 256.0)
"""Wavelengths of the Fourier features of a position, game units."""
EGOCENTRIC_STICKS = ("main_x", "c_x")
EGOCENTRIC_VELOCITIES = ("self_air_x", "self_ground_x", "attack_x")
STICK_THRESHOLDS = tuple(steps / STICK_GRID for steps in (-63.5, -52.5, -22.5, 22.5, 52.5, 63.5))
"""Positions of a stick, in [-1, 1] relative to the facing direction, beyond which the game starts other actions: walks,
jumps and crouches, dashes. They lie between two steps of the stick, so that no rounding decides."""
TRIGGER_THRESHOLDS = tuple(steps / TRIGGER_GRID for steps in (0.5, 42.5))
"""Of the analog trigger in [0, 1]: touched, and far enough for a shield."""
TOUCH = 0.005
"""Game units that a player who stands may be below a surface, by rounding and by what is known of slopes."""

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
    beyond_edge = x.abs() - table[..., 0, 2]  # the right end of the segment at the right ledge
    features = [
        (gap / 20).clamp(-1, 3),
        (gap / 8).clamp(-1, 1),
        (gap < -TOUCH).float(),
        (gap_before / 8).clamp(-1, 1),
        (surface == NO_SURFACE).float(),
        (beyond_edge / 20).clamp(-3, 3),
        (beyond_edge / 2).clamp(-1, 1),
        (beyond_edge > 0).float(),
        x.sign() * facing_sign(frames),
    ]
    return torch.stack(features, dim=-1).flatten(2)
