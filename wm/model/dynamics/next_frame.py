"""`Prediction` -> the next `Frames`: every field fed back or derived, by the rules of the game.

Field by field:
    x, y, velocities           last value plus the difference of the most probable candidate (`wm.model.motion`), or the
                               predicted one, velocities within bounds; by rule in death and respawn
    shield                     last value plus the predicted difference, within bounds; by rule in death and respawn
    percent                    never falls but by a respawn; a difference below SMALLEST_HIT is no hit
    hitlag                     a whole number that falls by one a frame, or rises
    action, stocks             `wm.model.dynamics.deaths`: blast zones, times of death and respawn
    state_age                  `wm.model.dynamics.action_age`
    jumps, l_cancel, last_attack, combo, facing        as predicted
    hitstun                    a whole number that falls by one a frame outside of hitlag, unless predicted otherwise
    hurtbox, ground, airborne, flags, last_hit_by      `wm.model.dynamics.consistency`
    character, controllers     the last ones; those given
What a game's version does not record stays 0, as it was fed in training.

Shape legend: B = batch, T = frames, P = players (2), C = columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS
from datasets.schema.columns import NUM_PLAYERS, VELOCITY_COLUMNS
from wm.model.animation import age_table
from wm.model.dynamics.action_age import next_age
from wm.model.dynamics.consistency import NO_GROUND, flag_columns, hurtbox_logits, surface
from wm.model.dynamics.deaths import (
    DEAD_UP_STAR,
    KILLING_KNOCKBACK,
    LAST_DEAD,
    MANY_JUMPS,
    NUM_SCRIPTED,
    REBIRTH,
    REBIRTH_FRAMES,
    REBIRTH_WAIT,
    Fates,
    allowed_actions,
    decide,
    script_table,
)
from wm.model.dynamics.sampling import MOST_PROBABLE, Sampling
from wm.model.dynamics.stage_rules import blast_zone_table, respawn_height_table, respawn_place_table
from wm.model.encoding import Frames, category
from wm.model.heads import DELTAS, DYNAMICS, VELOCITIES, Prediction
from wm.model.stages import stage_rows
from wm.model.state_fields import PRESENCE, hitstun_prior, in_hitlag

CONTROLLER_COLUMNS = ("main_x", "main_y", "c_x", "c_y", "trigger", "buttons")
assert CODE_COLUMNS[-len(CONTROLLER_COLUMNS) :] == CONTROLLER_COLUMNS
NUM_CONTROLLER_COLUMNS = len(CONTROLLER_COLUMNS)
SMALLEST_HIT = 0.5
"""Percent. In the training replays the smallest of 7,546 rises is 0.91."""
MAX_PORT = 4
MAX_PERCENT, MAX_SHIELD, MAX_VELOCITY, MAX_HITLAG, MAX_HITSTUN, MAX_COMBO = 999.0, 60.0, 100.0, 100.0, 200.0, 255
HITSTUN_TOLERANCE = 0.6
"""Frames by which a prediction may differ from what follows by rule, which then counts."""
_VELOCITY_ORDER = tuple(VELOCITIES.index(name) for name in VELOCITY_COLUMNS)


@dataclass(frozen=True, kw_only=True, slots=True)
class ActionClock:
    """What the columns of a frame do not tell about its action."""

    speed: Tensor
    """float32 (B, 1, P), animation frames per frame."""
    frames: Tensor
    """int64 (B, 1, P), frames since the action began."""


class FeedBack(Protocol):
    """Makes the next frame of a prediction."""

    def __call__(
        self, last: Frames, clock: ActionClock, prediction: Prediction, controllers_BTPC: Tensor
    ) -> tuple[Frames, ActionClock]:
        """
        Args:
            last: the frame that was predicted from, T = 1.
            prediction: of the frame after, T = 1.
            controllers_BTPC: int16 (B, 1, P, 6), CONTROLLER_COLUMNS of the frame after.
        Returns:
            The frame after, whose codes have the type of those of `last` (`Imagination.imagine` says why), and its
            clock.
        """
        ...


class GameRules(nn.Module):
    """The feed-back of this project. It has no parameters; as a module it moves its tables to the model's device."""

    def __init__(self, sampling: Sampling = MOST_PROBABLE) -> None:
        super().__init__()
        self.sampling = sampling
        self.register_buffer("blast_zones", blast_zone_table(), persistent=False)
        self.register_buffer("respawn_heights", respawn_height_table(), persistent=False)
        self.register_buffer("respawn_places", respawn_place_table(), persistent=False)
        self.register_buffer("ages", age_table(), persistent=False)
        self.register_buffer("script", script_table(), persistent=False)
        self.register_buffer("first_ports", torch.arange(1, NUM_PLAYERS + 1), persistent=False)

    def forward(
        self, last: Frames, clock: ActionClock, prediction: Prediction, controllers_BTPC: Tensor
    ) -> tuple[Frames, ActionClock]:
        """See `FeedBack`."""
        zone = stage_rows(last, self.blast_zones)
        floats = self._numbers(last, prediction)
        before = last.code_column("action")
        place = torch.stack([floats["x"], floats["y"]], dim=-1)
        fates = self._fates(last, clock, prediction, place, zone)
        codes = self._categories(last, prediction, fates)
        same = fates.action == before
        entry = self.ages[fates.action.clamp(max=len(self.ages) - 1)]
        frozen = in_hitlag(last)
        floats["state_age"], speed = next_age(
            last.float_column("state_age"), clock.speed, same, frozen, entry, prediction.animation
        )
        self._script(last, fates, floats, codes)
        codes |= self._flags(last, prediction, floats, codes["airborne"])
        frames = Frames(
            floats=torch.stack([floats[name] for name in FLOAT_COLUMNS], dim=-1),
            codes=torch.cat(
                [
                    torch.stack([codes[name] for name in CODE_COLUMNS[:-NUM_CONTROLLER_COLUMNS]], dim=-1).to(
                        last.codes.dtype
                    ),
                    controllers_BTPC,
                ],
                dim=-1,
            ),
            game=last.game,
        )
        return frames, ActionClock(speed=speed, frames=fates.frames_in_action)

    def _numbers(self, last: Frames, prediction: Prediction) -> dict[str, Tensor]:
        """Continuous columns before the rules of death and respawn, but `state_age`."""
        changes = dict(zip(DELTAS, prediction.deltas.unbind(-1), strict=True))
        velocity_changes = prediction.velocities
        if prediction.motion is not None:
            chosen = prediction.motion.most_probable()
            velocity_changes, place = chosen[..., : len(VELOCITIES)], chosen[..., len(VELOCITIES) :]
            changes |= {"x": place[..., 0], "y": place[..., 1]}
        percent, shield = last.float_column("percent"), last.float_column("shield")
        damage = torch.where(changes["percent"] < SMALLEST_HIT, 0.0, changes["percent"])
        first = FLOAT_COLUMNS.index(VELOCITY_COLUMNS[0])
        velocities = last.floats[..., first : first + len(VELOCITY_COLUMNS)]
        velocities = (velocities + velocity_changes[..., _VELOCITY_ORDER]).clamp(-MAX_VELOCITY, MAX_VELOCITY)
        velocities = velocities * last.present("velocity")[:, None, None, None]
        falling = (last.float_column("hitlag") - 1).clamp(min=0)
        hitlag = torch.maximum(prediction.dynamics[..., DYNAMICS.index("hitlag")].round(), falling)
        return {
            "x": last.float_column("x") + changes["x"],
            "y": last.float_column("y") + changes["y"],
            "percent": (percent + damage).clamp(max=MAX_PERCENT),
            "shield": (shield + changes["shield"]).clamp(0.0, MAX_SHIELD),
            "hitlag": hitlag.clamp(max=MAX_HITLAG) * last.present("hitlag")[:, None, None],
            "hitstun": _hitstun(last, prediction) * last.present(PRESENCE)[:, None, None],
        } | dict(zip(VELOCITY_COLUMNS, velocities.unbind(-1), strict=True))

    def _fates(self, last: Frames, clock: ActionClock, prediction: Prediction, place: Tensor, zone: Tensor) -> Fates:
        before = last.code_column("action")
        logits = prediction.categories["action"]
        beyond, launched = place[..., 1] > zone[..., 3], last.float_column("attack_y") > KILLING_KNOCKBACK
        has_velocity = last.present("velocity")[:, None, None] > 0
        allowed = allowed_actions(before, beyond, launched, has_velocity, logits.shape[-1])
        chosen = self._code(last, "action", logits.masked_fill(~allowed, -torch.inf))
        return decide(before, clock.frames, last.code_column("stocks"), chosen, place, zone, self.script)

    def _categories(self, last: Frames, prediction: Prediction, fates: Fates) -> dict[str, Tensor]:
        """Integer columns before the rules of death and respawn, without `_flags` and the controllers."""
        binaries = prediction.binaries
        names = ("jumps", "l_cancel", "last_attack", "ground")
        chosen = {name: self._code(last, name, prediction.categories[name]) for name in names}
        facing = self.sampling.binary("facing", binaries[..., 0])
        on_ground = self.sampling.binary("on_ground", binaries[..., 2])
        hurtbox = self.sampling.category("hurtbox", hurtbox_logits(prediction))
        ground, airborne = surface(on_ground, chosen["ground"], last.code_column("ground"))
        combo = prediction.dynamics[..., DYNAMICS.index("combo")].round().clamp(0, MAX_COMBO)
        return {
            "action": fates.action,
            "character": last.code_column("character"),
            "stocks": fates.stocks,
            "jumps": chosen["jumps"],
            "l_cancel": chosen["l_cancel"],
            "hurtbox": hurtbox * last.present("hurtbox")[:, None, None].long(),
            "ground": ground,
            "last_attack": chosen["last_attack"],
            "combo": combo.long(),
            "facing": 2 * facing.long() - 1,
            "airborne": airborne,
        }

    def _flags(
        self, last: Frames, prediction: Prediction, floats: dict[str, Tensor], airborne: Tensor
    ) -> dict[str, Tensor]:
        """State flags and `last_hit_by`, which follow from the columns after the rules of death and respawn."""
        flags = None if prediction.flags is None else self.sampling.binary("flags", prediction.flags)
        has_hitlag = last.present("hitlag")[:, None, None] > 0
        found = flag_columns(flags, floats, airborne, last.code_column("last_hit_by"), self._ports(last), has_hitlag)
        has_flags = last.present(PRESENCE)[:, None, None].long()
        return {name: values * has_flags for name, values in found.items()}

    def _code(self, last: Frames, name: str, logits: Tensor) -> Tensor:
        """A category as its column stores it. Several codes may share the last category: then an unchanged category is
        an unchanged code."""
        chosen = self.sampling.category(name, logits)
        code = chosen - 1 if name == "ground" else chosen  # the category of NO_GROUND is 0
        return torch.where(chosen == category(last, name), last.code_column(name), code)

    def _ports(self, last: Frames) -> Tensor:
        """1 to 4, of players without known ports 1 and 2: int64 (B, P)."""
        return torch.where(last.ports > 0, last.ports, self.first_ports).clamp(max=MAX_PORT)

    def _respawn_places(self, last: Frames) -> tuple[Tensor, Tensor]:
        """x and facing of each player on the respawn platform: float32 (B, 1, P) twice."""
        places = stage_rows(last, self.respawn_places)[:, 0, 0]
        chosen = torch.take_along_dim(places, (self._ports(last) - 1)[..., None], dim=1)
        return chosen[:, None, :, 0], chosen[:, None, :, 1]

    def _script(self, last: Frames, fates: Fates, floats: dict[str, Tensor], codes: dict[str, Tensor]) -> None:
        """Overwrite the columns that death and respawn decide, in place."""
        action = fates.action
        if not torch.compiler.is_compiling() and not bool((action < NUM_SCRIPTED).any()):
            return
        is_dead, is_reborn, waits = action <= LAST_DEAD, action == REBIRTH, action == REBIRTH_WAIT
        begins, begins_death = (group & (fates.frames_in_action == 0) for group in (is_reborn, is_dead))
        stays = ((action < DEAD_UP_STAR) & (fates.frames_in_action > 0)) | waits
        top, end = stage_rows(last, self.respawn_heights).unbind(-1)
        place, side_faced = self._respawn_places(last)
        fall = (top - end) / (REBIRTH_FRAMES - 1)
        for name in VELOCITY_COLUMNS:
            floats[name] = torch.where(stays | begins_death | is_reborn, 0.0, floats[name])
        platform_moves = is_reborn & (last.present("velocity")[:, None, None] > 0)
        floats["self_y"] = torch.where(platform_moves, -fall, floats["self_y"])
        x = torch.where(begins, place, last.float_column("x"))
        floats["x"] = torch.where(stays | is_reborn, x, floats["x"])
        height = torch.where(is_reborn, top - fall * fates.frames_in_action, last.float_column("y"))
        floats["y"] = torch.where(stays | is_reborn, height, floats["y"])
        floats["percent"] = torch.where(is_reborn, 0.0, floats["percent"])
        floats["shield"] = torch.where(is_reborn, MAX_SHIELD, floats["shield"])
        for name in ("hitlag", "hitstun"):
            floats[name] = torch.where(is_dead | is_reborn | waits, 0.0, floats[name])
        character = codes["character"]
        jumps = torch.ones_like(character)
        for number, left in MANY_JUMPS.items():
            jumps = torch.where(character == number, left, jumps)
        resets = {"jumps": jumps, "ground": NO_GROUND, "last_attack": 0, "combo": 0, "l_cancel": 0}
        for name, value in resets.items():
            codes[name] = torch.where(is_reborn, value, codes[name])
        codes["facing"] = torch.where(begins, side_faced.long(), codes["facing"])
        kept = (is_dead | is_reborn | waits) & ~begins
        for name in ("facing", "last_attack", "jumps", "ground"):
            codes[name] = torch.where(kept, last.code_column(name), codes[name])
        codes["hurtbox"] = torch.where(is_dead | is_reborn | waits, 0, codes["hurtbox"])
        codes["airborne"] = torch.where(is_dead | is_reborn | waits, 1, codes["airborne"])


def _hitstun(last: Frames, prediction: Prediction) -> Tensor:
    """Hitstun of the next frame: one less, or as before in hitlag, unless another number is predicted."""
    falling = hitstun_prior(last)
    if prediction.hitstun is None:
        return falling
    before = last.float_column("hitstun")
    predicted = prediction.hitstun.round().clamp(0.0, MAX_HITSTUN)
    return torch.where(
        (prediction.hitstun - falling).abs() < HITSTUN_TOLERANCE,
        falling,
        torch.where((prediction.hitstun - before).abs() < HITSTUN_TOLERANCE, before, predicted),
    )
