"""Death and respawn by rule: a blast zone kills, and what follows takes its time and goes its way.

Times and values are those of the project's training replays. There a star KO takes 176 or 132 frames; 176 is used.
Shape legend: B = batch, T = frames, P = players (2).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DEAD_DOWN, DEAD_LEFT, DEAD_RIGHT, DEAD_UP_STAR, DEAD_UP_CAMERA, DEAD_UP_CAMERA_FALL = 0, 1, 2, 4, 6, 7
LAST_DEAD, REBIRTH, REBIRTH_WAIT, FALL = 10, 12, 13, 29
NUM_SCRIPTED = REBIRTH_WAIT + 1
"""Actions below this one begin and end by rule, not by prediction."""
DEATHS_ABOVE = (DEAD_UP_STAR, DEAD_UP_CAMERA)
"""What may begin beyond the upper blast zone; the network decides which."""
KILLING_KNOCKBACK = 2.4
"""Upward speed of knockback, game units per frame, above which the upper blast zone kills, and below which it does not.
In the training replays with velocities all 61 players die who are beyond it at more than 2.56, and none in the 115
player frames at less than 1.61; nothing lies between. In the development replays it is 18 of 18, and none in 26."""
SCRIPT: dict[int, tuple[int, int]] = {
    DEAD_UP_STAR: (176, REBIRTH), DEAD_UP_CAMERA: (51, DEAD_UP_CAMERA_FALL), DEAD_UP_CAMERA_FALL: (78, REBIRTH),
    REBIRTH: (60, REBIRTH_WAIT), REBIRTH_WAIT: (300, FALL),
}  # fmt: skip
"""Action -> its frames, and the action that follows. After REBIRTH and in REBIRTH_WAIT a player may also leave."""
OTHER_DEATH = (60, REBIRTH)
STOCK_LOSS_AFTER = {DEAD_UP_STAR: 131, DEAD_UP_CAMERA_FALL: 43}
"""Frames of the action after which the stock is lost; 0 for others that kill, never for those that do not."""
MANY_JUMPS = {4: 5, 15: 5}
"""Internal character id -> jumps left after a respawn (Kirby, Jigglypuff); 1 for others."""
REBIRTH_FRAMES = SCRIPT[REBIRTH][0]
NEVER = 1_000_000


def script_table() -> Tensor:
    """Frames, successor and frames until the loss of the stock, by action below NUM_SCRIPTED: int64 (14, 3)."""
    loss_of = {action: 0 for action in range(LAST_DEAD + 1)} | {DEAD_UP_CAMERA: NEVER} | STOCK_LOSS_AFTER
    rows = [(*SCRIPT.get(action, OTHER_DEATH), loss_of.get(action, NEVER)) for action in range(NUM_SCRIPTED)]
    return torch.tensor(rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fates:
    """What the rules decide about the next frame, all (B, T, P)."""

    action: Tensor
    """int64, the action after the rules."""
    frames_in_action: Tensor
    """int64, frames since it began."""
    stocks: Tensor
    """int64."""


def allowed_actions(before: Tensor, beyond: Tensor, is_launched: Tensor, is_known: Tensor, num_actions: int) -> Tensor:
    """Which actions the network may choose: bool (B, T, P, actions).

    Args:
        before: int64 (B, T, P), action in the frame before.
        beyond: bool (B, T, P), whether the predicted place is above the upper blast zone.
        is_launched: bool (B, T, P), whether the knockback of the frame before kills there (KILLING_KNOCKBACK).
        is_known: bool (B, 1, 1), whether the game records knockback; otherwise the network decides.
    """
    number = torch.arange(num_actions, device=before.device)
    is_alive = before > REBIRTH_WAIT
    may_die = beyond & is_alive & (is_launched | ~is_known)
    must_die = beyond & is_alive & is_launched & is_known
    is_death_above = (number == DEATHS_ABOVE[0]) | (number == DEATHS_ABOVE[1])
    waits = (number == REBIRTH_WAIT) & ((before == REBIRTH) | (before == REBIRTH_WAIT))[..., None]
    return ((number >= NUM_SCRIPTED) & ~must_die[..., None]) | waits | (is_death_above & may_die[..., None])


def decide(
    before: Tensor, frames_in_action: Tensor, stocks: Tensor, chosen: Tensor, place: Tensor, zone: Tensor, table: Tensor
) -> Fates:
    """Apply the rules of death and respawn to a chosen action.

    Args:
        before: int64 (B, T, P), action in the frame before; `frames_in_action` and `stocks` likewise.
        chosen: int64 (B, T, P), the network's choice among `allowed_actions`.
        place: (B, T, P, 2), predicted position.
        zone: (B, T, P, 4), blast zones.
        table: see `script_table`.
    """
    left, right, low, _ = zone.unbind(-1)
    x, y = place.unbind(-1)
    action = torch.where(x < left, DEAD_LEFT, torch.where(x > right, DEAD_RIGHT, chosen))
    action = torch.where(y < low, DEAD_DOWN, action)
    duration, successor, _ = table[before.clamp(max=NUM_SCRIPTED - 1)].unbind(-1)
    is_over = (frames_in_action + 1 >= duration) & ((stocks > 0) | (before >= REBIRTH))
    scripted = torch.where(is_over, successor, before)
    is_scripted = before < NUM_SCRIPTED
    may_leave = (before == REBIRTH_WAIT) | ((before == REBIRTH) & is_over)
    leaves = may_leave & (chosen != REBIRTH_WAIT)
    action = torch.where(is_scripted & ~leaves, scripted, action)
    count = torch.where(action == before, frames_in_action + 1, 0)
    loss_after = table[:, 2][action.clamp(max=NUM_SCRIPTED - 1)]
    is_loss = (action <= LAST_DEAD) & (count == loss_after)
    return Fates(action=action, frames_in_action=count, stocks=(stocks - is_loss.long()).clamp(min=0))
