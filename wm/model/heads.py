"""Prediction heads, and the physics priors that their outputs correct.

Shape legend: B = batch, T = frames, P = players (2), C = channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from datasets.schema.columns import NUM_PLAYERS
from wm.model.animation import age_table
from wm.model.encoding import CONTINUOUS_SCALES, EMBEDDINGS, Frames, cached_tensor, category, facing_sign, positions
from wm.model.motion.candidates import MOTION, NUM_MODES, VELOCITIES, Candidates, mode_mask, usual_modes
from wm.model.motion.choice import MotionPrediction
from wm.model.ops.aligned import aligned_linear
from wm.model.ops.lookup import lookup, lookup_element
from wm.model.state_fields import StateFields, flags_of, hitstun_prior, in_hitlag

DELTAS = ("percent", "x", "y", "shield")
"""Predicted as differences from the previous frame."""
DYNAMICS = ("hitlag", "stocks", "combo")
"""Predicted as absolute values."""
BINARIES = ("facing", "invulnerable", "on_ground")
CATEGORIES = ("action", "jumps", "l_cancel", "hurtbox", "ground", "last_attack")

NUM_NUMBERS = len(DELTAS) + len(VELOCITIES) + len(DYNAMICS)
NUM_OUTPUTS = NUM_NUMBERS + len(BINARIES) + sum(EMBEDDINGS[name][0] for name in CATEGORIES)
"""Outputs of the heads per player."""

NO_STATE_FIELDS = StateFields()
FACING_RELATIVE = ("x", "self_air_x", "self_ground_x", "attack_x")
"""Differences predicted relative to the facing direction, so that a move looks the same to the right and left."""
INITIAL_STAY_LOGIT = 4.0
"""Initial bias of the logit of a category's previous value; learned per value."""
NUM_AGES = 120
"""Ages of an action, in frames, with a learned bias of its logit: most actions end after a fixed time."""
AGE_BIAS_SCALE = 10.0
"""Scale of the age bias: Adam changes a parameter by about the learning rate per step, whatever its unit."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """The frame after each context frame, in raw units (game units, percent, frames)."""

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
    hitstun: Tensor | None = None
    """(B, T, P), frames. This and the next ones: None from networks without these fields (`StateFields`)."""
    animation: Tensor | None = None
    """(B, T, P, 3): logit that the same action begins again; how far it advances if it goes on, in animation frames;
    first age of the next action beyond that of `wm.model.animation`."""
    flags: Tensor | None = None
    """(B, T, P, F), logits, the first ones of `wm.model.state_fields.FLAGS`."""
    motion: MotionPrediction | None = None
    """The choice of which the deltas of x and y and the velocities are the means."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Prediction:
        """With every tensor replaced by the function's result for it."""

        def of(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            if isinstance(value, dict):
                return {name: of(item) for name, item in value.items()}
            if value is None:
                return None
            return replace(value, **{field.name: of(getattr(value, field.name)) for field in fields(value)})

        return of(self)


def velocity_prior(frames: Frames) -> Tensor:
    """Displacement at constant velocity: self-induced (air or ground) plus knockback.

    Returns:
        float32 (B, T, P, 2), x and y in game units; 0 in games without velocities.
    """
    airborne = frames.code_column("airborne") != 0
    own_x = torch.where(airborne, frames.float_column("self_air_x"), frames.float_column("self_ground_x"))
    x = own_x + frames.float_column("attack_x")
    y = frames.float_column("self_y") + frames.float_column("attack_y")
    return torch.stack([x, y], dim=-1)


def displacement_prior(frames: Frames, before: Tensor | None = None, *, stops_in_hitlag: bool = False) -> Tensor:
    """The velocity prior if the game has velocities, else the last displacement.

    Args:
        stops_in_hitlag: no displacement while a player stays in hitlag.
        before: (B, 1, P, 2), positions in the frame before the first; None: the first displacement is 0.
    Returns:
        float32 (B, T, P, 2), game units.
    """
    here = positions(frames)
    before = here[:, :1] if before is None else before
    displacement = here - torch.cat([before, here[:, :-1]], dim=1)
    has_velocity = frames.present("velocity")[:, None, None, None] > 0
    prior = torch.where(has_velocity, velocity_prior(frames), displacement)
    if stops_in_hitlag:
        prior = prior * ~in_hitlag(frames)[..., None]
    return prior


class Heads(nn.Module):
    """Hidden vector -> Prediction, as a correction of the prior from the current frame."""

    def __init__(
        self,
        width: int,
        *,
        shared: bool,
        use_age_bias: bool,
        fields: StateFields = NO_STATE_FIELDS,
        physics: bool = False,
    ) -> None:
        """
        Args:
            shared: one hidden vector and the same weights for each player, instead of one vector for both.
            use_age_bias: learn a bias of the current action's logit for each age of the action.
            fields: further fields that are predicted.
            physics: choose motion among candidates.
        """
        super().__init__()
        num_players = 1 if shared else NUM_PLAYERS
        self.fields = fields
        self.num_mode_logits = len(MOTION) * NUM_MODES if physics else 0
        self.num_outputs = NUM_OUTPUTS + sum(fields.sizes) + self.num_mode_logits
        self.linear = nn.Linear(width, num_players * self.num_outputs)
        with torch.no_grad():
            self.linear.weight.mul_(0.1)
            self.linear.bias.zero_()
            rows = self.linear.weight.view(num_players, self.num_outputs, width)
            rows[:, :NUM_NUMBERS] = 0  # numbers start at their prior
            rows[:, NUM_OUTPUTS : NUM_OUTPUTS + sum(fields.sizes[:2])] = 0
        if physics:
            self.register_buffer("mode_mask", mode_mask(), persistent=False)
            with torch.no_grad():
                biases = self.linear.bias.view(num_players, self.num_outputs)
                biases[:, -self.num_mode_logits :] = INITIAL_STAY_LOGIT * usual_modes().flatten()
        if fields.num_flags:
            self.stay_flags = nn.Parameter(torch.full((fields.num_flags,), INITIAL_STAY_LOGIT / 2))
        if fields.animation:
            self.register_buffer("speeds", age_table()[:, 1:2], persistent=False)
        self.stay = nn.ParameterDict(
            {name: nn.Parameter(torch.full((EMBEDDINGS[name][0],), INITIAL_STAY_LOGIT)) for name in CATEGORIES}
        )
        facing_relative = torch.tensor([name in FACING_RELATIVE for name in (*DELTAS, *VELOCITIES)])
        self.register_buffer("facing_relative", facing_relative, persistent=False)
        self.stay_at_age = nn.Parameter(torch.zeros(EMBEDDINGS["action"][0] * NUM_AGES)) if use_age_bias else None

    def forward(
        self, hidden: Tensor, frames: Frames, prior_BTPC: Tensor, candidates: Candidates | None = None
    ) -> Prediction:
        """
        Args:
            hidden: (B, T, width), or (B, T, P, width) if shared: hidden vectors of the context frames.
            frames: the context frames.
            prior_BTPC: (B, T, P, 2), displacement prior in game units.
            candidates: of the motion.
        """
        out = (
            aligned_linear(hidden, self.linear.weight, self.linear.bias)
            .view(*prior_BTPC.shape[:-1], self.num_outputs)
            .float()
        )
        *state_outputs, modes = out[..., NUM_OUTPUTS:].split([*self.fields.sizes, self.num_mode_logits], dim=-1)
        sizes = [len(DELTAS) + len(VELOCITIES), len(DYNAMICS), len(BINARIES)]
        differences, dynamics, binaries, *logits = out[..., :NUM_OUTPUTS].split(
            [*sizes, *(EMBEDDINGS[name][0] for name in CATEGORIES)], dim=-1
        )
        differences = differences * torch.where(self.facing_relative, facing_sign(frames)[..., None], 1.0)
        deltas, velocities = differences.split([len(DELTAS), len(VELOCITIES)], dim=-1)
        zero = torch.zeros_like(prior_BTPC[..., :1])
        categories = {}
        for name, values in zip(CATEGORIES, logits, strict=True):
            current = category(frames, name)
            stay_logit = lookup(self.stay[name][:, None], current)
            if name == "action" and self.stay_at_age is not None:
                age = category(frames, "state_age").clamp(max=NUM_AGES - 1)
                age_bias = lookup_element(self.stay_at_age.view(-1, NUM_AGES), current, age)
                stay_logit = stay_logit + AGE_BIAS_SCALE * age_bias[..., None]
            categories[name] = values.scatter_add(-1, current[..., None], stay_logit)
        deltas = deltas + torch.cat([zero, prior_BTPC, zero], dim=-1)
        motion = None
        if candidates is not None:
            motion = self._motion(modes, candidates, torch.cat([velocities, deltas[..., 1:3]], dim=-1))
            changes = motion.mean()
            velocities, place = changes.split([len(VELOCITIES), 2], dim=-1)
            deltas = torch.cat([deltas[..., :1], place, deltas[..., 3:]], dim=-1)
        return Prediction(
            deltas=deltas,
            velocities=velocities,
            dynamics=dynamics + _dynamics_prior(frames),
            binaries=binaries,
            categories=categories,
            motion=motion,
            **self._state_parts(state_outputs, frames),
        )

    def _motion(self, modes: Tensor, candidates: Candidates, regressed: Tensor) -> MotionPrediction:
        logits = modes.unflatten(-1, (len(MOTION), NUM_MODES)).masked_fill(~self.mode_mask, -torch.inf)
        changes = torch.cat([regressed[..., None], candidates.changes[..., 1:]], dim=-1)
        return MotionPrediction(
            logits=logits, candidates=changes, values=candidates.values, airborne=candidates.airborne
        )

    def _state_parts(self, outputs: Sequence[Tensor], frames: Frames) -> dict[str, Tensor]:
        """The parts of a prediction that `fields` add."""
        hitstun, animation, flags = outputs
        parts = {}
        if self.fields.hitstun:
            parts["hitstun"] = hitstun[..., 0] + hitstun_prior(frames)
        if self.fields.animation:
            speed = lookup(self.speeds, category(frames, "action")) * ~in_hitlag(frames)[..., None]
            zero = torch.zeros_like(speed)
            parts["animation"] = animation + torch.cat([zero, speed, zero], dim=-1)
        if self.fields.num_flags:
            parts["flags"] = flags + (2 * flags_of(frames, self.fields.num_flags) - 1) * self.stay_flags
        return parts


def _dynamics_prior(frames: Frames) -> Tensor:
    """Hitlag decreases by one per frame; stocks and combo are constant."""
    hitlag = (frames.float_column("hitlag") - 1).clamp(min=0)
    stocks, combo = (frames.code_column(name).float() for name in ("stocks", "combo"))
    return torch.stack([hitlag, stocks, combo], dim=-1)


def raw_values(frames: Frames, name: str) -> Tensor:
    """A continuous feature in raw units: float32 (B, T, P)."""
    if name in ("stocks", "combo"):
        return frames.code_column(name).float()
    return frames.float_column(name)


def feature_scales(names: tuple[str, ...], device: torch.device) -> Tensor:
    """The encoding's scale factors of some features: float32 (len(names),)."""
    return cached_tensor(tuple(CONTINUOUS_SCALES[name] for name in names), device)
