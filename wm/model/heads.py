"""What the model says of frame t, and what is already known without it: the priors it only has to correct.

Shape legend: B = batch, T = frames, P = players (2), C = channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from datasets.schema.columns import NUM_PLAYERS
from wm.model.encoding import CONTINUOUS_SCALES, EMBEDDINGS, Frames, ahead, category, constant, positions

DELTAS = ("percent", "x", "y", "shield")
"""Predicted as differences to the frame before."""
VELOCITIES = ("self_air_x", "self_y", "self_ground_x", "attack_x", "attack_y")
"""Predicted as differences to the frame before; absent in old versions."""
DYNAMICS = ("hitlag", "stocks", "combo")
"""Predicted as values."""
BINARIES = ("facing", "invulnerable", "on_ground")
CATEGORIES = ("action", "jumps", "l_cancel", "hurtbox", "ground", "last_attack")

NUM_NUMBERS = len(DELTAS) + len(VELOCITIES) + len(DYNAMICS)
NUM_OUTPUTS = NUM_NUMBERS + len(BINARIES) + sum(EMBEDDINGS[name][0] for name in CATEGORIES)
"""Outputs of the heads, for one player."""

SIDEWAYS = ("x", "self_air_x", "self_ground_x", "attack_x")
"""Numbers whose corrections are said as forward and back: a move goes the same way forward, right or left."""
INITIAL_STAY_LOGIT = 4.0
"""Log-odds by which a category starts out as staying what it is; learned from there, for each value."""
NUM_AGES = 120
"""Frames that an action has lasted, for each of which its log-odds of staying are learned: most end by themselves."""
AGE_UNIT = 10.0
"""Log-odds in the unit of that table: Adam moves an entry by about the learning rate, whatever it is of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Of the frames after each context frame. Numbers are in raw units (game units, percent, frames)."""

    deltas: Tensor
    """(B, T, P, 4), see DELTAS."""
    velocities: Tensor
    """(B, T, P, 5), differences."""
    dynamics: Tensor
    """(B, T, P, 3), values."""
    binaries: Tensor
    """(B, T, P, 3), logits."""
    categories: dict[str, Tensor]
    """name -> (B, T, P, values), logits."""


def velocity_prior(frames: Frames) -> Tensor:
    """Displacement if a player moves on with its velocities: own (of air or ground) plus knockback.

    Returns:
        float32 (B, T, P, 2), x and y in game units; 0 in games that lack velocities.
    """
    airborne = frames.code_column("airborne") != 0
    own_x = torch.where(airborne, frames.float_column("self_air_x"), frames.float_column("self_ground_x"))
    x = own_x + frames.float_column("attack_x")
    y = frames.float_column("self_y") + frames.float_column("attack_y")
    return torch.stack([x, y], dim=-1)


def displacement_prior(frames: Frames, before: Tensor | None = None) -> Tensor:
    """The velocity prior where the game has velocities, elsewhere the last displacement.

    Args:
        before: (B, 1, P, 2), positions in the frame before the first; None if there is none, and then the
            first displacement is 0.
    Returns:
        float32 (B, T, P, 2), game units.
    """
    here = positions(frames)
    before = here[:, :1] if before is None else before
    displacement = here - torch.cat([before, here[:, :-1]], dim=1)
    has_velocity = frames.present("velocity")[:, None, None, None] > 0
    return torch.where(has_velocity, velocity_prior(frames), displacement)


class Heads(nn.Module):
    """Hidden vector -> Prediction, as a correction to what the frame before already tells."""

    def __init__(self, width: int, *, use_age_bias: bool) -> None:
        """
        Args:
            use_age_bias: learn the log-odds of staying in an action for each frame of its age.
        """
        super().__init__()
        self.linear = nn.Linear(width, NUM_PLAYERS * NUM_OUTPUTS)
        with torch.no_grad():
            self.linear.weight.mul_(0.1)
            self.linear.bias.zero_()
            rows = self.linear.weight.view(NUM_PLAYERS, NUM_OUTPUTS, width)
            rows[:, :NUM_NUMBERS] = 0  # numbers start at their prior
        self.stay = nn.ParameterDict(
            {name: nn.Parameter(torch.full((EMBEDDINGS[name][0],), INITIAL_STAY_LOGIT)) for name in CATEGORIES}
        )
        sideways = torch.tensor([name in SIDEWAYS for name in (*DELTAS, *VELOCITIES)])
        self.register_buffer("sideways", sideways, persistent=False)
        self.stay_at_age = nn.Parameter(torch.zeros(EMBEDDINGS["action"][0] * NUM_AGES)) if use_age_bias else None

    def forward(self, hidden_BTC: Tensor, frames: Frames, prior_BTPC: Tensor) -> Prediction:
        """
        Args:
            hidden_BTC: (B, T, width), of the context frames.
            frames: the context frames.
            prior_BTPC: (B, T, P, 2), displacement prior in game units.
        """
        out = self.linear(hidden_BTC).unflatten(-1, (NUM_PLAYERS, NUM_OUTPUTS)).float()
        sizes = [len(DELTAS) + len(VELOCITIES), len(DYNAMICS), len(BINARIES)]
        differences, dynamics, binaries, *logits = out.split(
            [*sizes, *(EMBEDDINGS[name][0] for name in CATEGORIES)], dim=-1
        )
        differences = differences * torch.where(self.sideways, ahead(frames)[..., None], 1.0)
        deltas, velocities = differences.split([len(DELTAS), len(VELOCITIES)], dim=-1)
        zero = torch.zeros_like(prior_BTPC[..., :1])
        categories = {}
        for name, values in zip(CATEGORIES, logits, strict=True):
            last = category(frames, name)[..., None]
            stays = self.stay[name][last]
            if name == "action" and self.stay_at_age is not None:
                age = category(frames, "state_age")[..., None].clamp(max=NUM_AGES - 1)
                stays = stays + AGE_UNIT * self.stay_at_age[last * NUM_AGES + age]
            categories[name] = values.scatter_add(-1, last, stays)
        return Prediction(
            deltas=deltas + torch.cat([zero, prior_BTPC, zero], dim=-1),
            velocities=velocities,
            dynamics=dynamics + _dynamics_prior(frames),
            binaries=binaries,
            categories=categories,
        )


def _dynamics_prior(frames: Frames) -> Tensor:
    """Hitlag runs down by one a frame; stocks and combo stay."""
    hitlag = (frames.float_column("hitlag") - 1).clamp(min=0)
    stocks, combo = (frames.code_column(name).float() for name in ("stocks", "combo"))
    return torch.stack([hitlag, stocks, combo], dim=-1)


def raw(frames: Frames, name: str) -> Tensor:
    """A number in raw units: float32 (B, T, P)."""
    if name in ("stocks", "combo"):
        return frames.code_column(name).float()
    return frames.float_column(name)


def scales(names: tuple[str, ...], device: torch.device) -> Tensor:
    """The encoding's factors for some fields: float32 (len(names),)."""
    return constant(tuple(CONTINUOUS_SCALES[name] for name in names), device)
