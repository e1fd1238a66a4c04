"""Fields that encoding 4 adds: hitstun, state flags, and the animation of an action.

Slippi records state flags and hitstun from version 2.0 on, the older pipelines mostly not: their games are marked by
`has_state_flags` and see zeros.

Shape legend: B = batch, T = frames, P = players (2), C = channels, F = flags.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from datasets.loading.frames import CODE_COLUMNS
from datasets.schema.columns import NUM_PLAYERS
from wm.config.model_config import ModelConfig
from wm.model.encoding import Frames, Layout, cached_tensor

PRESENCE = "state_flags"
"""Name of the optional field whose presence tells whether a game has hitstun and flags."""
FLAGS: dict[str, tuple[str, int]] = {
    "fast_fall": ("flags_1", 0x08), "in_hitlag": ("flags_1", 0x20), "defender_in_hitlag": ("flags_1", 0x10),
    "intangible": ("flags_1", 0x04), "hit_by_nobody": ("last_hit_by", 0x04),
    "in_hitstun": ("flags_3", 0x02), "shields": ("flags_2", 0x80), "holds": ("flags_2", 0x04),
    "dead": ("flags_4", 0x40), "off_screen": ("flags_4", 0x80), "flag_0_04": ("flags_0", 0x04),
    "flag_0_08": ("flags_0", 0x08), "flag_0_10": ("flags_0", 0x10), "flag_0_20": ("flags_0", 0x20),
    "flag_0_40": ("flags_0", 0x40), "flag_0_80": ("flags_0", 0x80), "flag_1_02": ("flags_1", 0x02),
    "flag_3_01": ("flags_3", 0x01), "flag_3_10": ("flags_3", 0x10), "flag_3_20": ("flags_3", 0x20),
    "flag_3_40": ("flags_3", 0x40), "flag_3_80": ("flags_3", 0x80), "flag_4_04": ("flags_4", 0x04),
}  # fmt: skip
"""Flag -> column and bit (SPEC.md, State Bit Flags, where it has a name); of last_hit_by, 6 is nobody and 0 .. 3 are
ports. Other bits are set in less than 0.02 % of the frames of real replays, or equal one of these."""
_COLUMNS = tuple(CODE_COLUMNS.index(column) for column, _ in FLAGS.values())
_MASKS = tuple(mask for _, mask in FLAGS.values())
NUM_FLAGS = {"none": 0, "known": 4, "known_and_hit": 5, "all": len(FLAGS)}
"""Value of `model.fields.flags` -> how many of FLAGS, from the first on."""
HITSTUN_SCALE = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class StateFields:
    """Which of the fields a network sees and predicts."""

    hitstun: bool = False
    num_flags: int = 0
    """The first ones of FLAGS."""
    animation: bool = False

    @property
    def layout(self) -> Layout:
        """Of `state_features`."""
        width = 3 * self.hitstun + self.num_flags
        return ((NUM_PLAYERS, width), (1, 1)) if width else ()

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Outputs of a player: hitstun, animation, flags."""
        return int(self.hitstun), 3 * self.animation, self.num_flags


def state_fields(config: ModelConfig) -> StateFields:
    """The fields of a network."""
    chosen = config.fields
    if config.encoding < 4:
        return StateFields()
    return StateFields(hitstun=chosen.hitstun, num_flags=NUM_FLAGS[chosen.flags], animation=chosen.animation)


def flags_of(frames: Frames, num_flags: int) -> Tensor:
    """The first flags: float32 (B, T, P, F), 0 or 1."""
    device = frames.codes.device
    columns = cached_tensor(_COLUMNS[:num_flags], device, torch.long)
    return (
        (frames.codes.index_select(-1, columns) & cached_tensor(_MASKS[:num_flags], device, torch.int16)) != 0
    ).float()


def state_features(fields: StateFields, frames: Frames) -> list[Tensor]:
    """Hitstun and flags as features: none, or one of float32 (B, T, width of the fields' layout)."""
    if not fields.layout:
        return []
    features = []
    if fields.hitstun:
        hitstun = frames.float_column("hitstun")
        features.append(torch.stack([hitstun * HITSTUN_SCALE, (hitstun > 0).float(), (hitstun > 1).float()], -1))
    if fields.num_flags:
        features.append(flags_of(frames, fields.num_flags))
    has = frames.present(PRESENCE)[:, None, None, None]
    players = (torch.cat(features, dim=-1) * has).flatten(2)
    return [torch.cat([players, has[..., 0].expand(-1, frames.num_frames, -1)], dim=-1)]


def hitstun_prior(frames: Frames) -> Tensor:
    """Hitstun falls by one a frame, and stands still in hitlag: float32 (B, T, P)."""
    hitstun = frames.float_column("hitstun")
    return torch.where(in_hitlag(frames), hitstun, (hitstun - 1).clamp(min=0))


def in_hitlag(frames: Frames) -> Tensor:
    """Whether hitlag holds a player until the next frame; never where hitlag is not recorded. bool (B, T, P)."""
    return frames.float_column("hitlag") > 1
