"""A dream as a `.slp` file: the true game until the dream begins, then the imagined frames.

Hitstun and the state flags that the model predicts are written; what it does not is zero: other flags, and the
instances of moves.
Tools that show the recorded states play such a file; the game itself, which computes them again from the controllers,
shows another game.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, FrameArrays, GameIndex
from datasets.schema.columns import OPTIONAL_FIELDS
from datasets.synth.slp_writer import write_slp
from wm.model.dynamics.consistency import FLAG_COLUMNS, NOBODY
from wm.model.encoding import Frames

_NAMES = {
    "state": "action", "x": "x", "y": "y", "direction": "facing", "percent": "percent", "shield": "shield",
    "last_attack_landed": "last_attack", "combo_count": "combo", "stocks": "stocks", "state_age": "state_age",
    "airborne": "airborne", "ground": "ground", "jumps": "jumps", "l_cancel": "l_cancel", "hurtbox_state": "hurtbox",
    "self_x_air": "self_air_x", "self_y": "self_y", "knockback_x": "attack_x", "knockback_y": "attack_y",
    "self_x_ground": "self_ground_x", "hitlag": "hitlag", "misc_as": "hitstun",
    "stick_x_steps": "main_x", "stick_y_steps": "main_y",
    "c_x_steps": "c_x", "c_y_steps": "c_y", "trigger_steps": "trigger", "buttons": "buttons",
}  # fmt: skip
"""Column of the writer -> column of frames in memory."""
_UNSIGNED = ("ground", "buttons")


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedDream:
    """A game that the writer of `datasets.synth.slp_writer` encodes (`Recording`)."""

    stage_id: int
    external_characters: tuple[int, int]
    internal_characters: np.ndarray
    """uint8 (T, 2)."""
    ports: tuple[int, int]
    columns: dict[str, np.ndarray]
    index: int = 0
    costumes: tuple[int, int] = (0, 1)
    random_seed: int = 0
    is_quit: bool = False

    @property
    def num_frames(self) -> int:
        """T."""
        return len(self.columns["x"])

    @property
    def timed_out(self) -> bool:
        """Whether both players have stocks left."""
        return bool((self.columns["stocks"][-1] > 0).all())

    @property
    def winner(self) -> int:
        """The player with more stocks, then with less percent."""
        stocks, percent = (self.columns[name][-1].tolist() for name in ("stocks", "percent"))
        return int((stocks[1], -percent[1]) > (stocks[0], -percent[0]))


def dream_as_slp(index: GameIndex, game: int, before: FrameArrays, imagined: Frames) -> bytes:
    """The bytes of a `.slp`, of the oldest version that records what the game's replay recorded.

    Args:
        game: position in the index.
        before: all true frames of the game before the dream.
        imagined: one dream, (1, T).
    """
    floats = np.concatenate([before.floats, imagined.floats[0].float().numpy()])
    codes = np.concatenate([before.codes, imagined.codes[0].numpy()])
    columns = {name: _column(floats, codes, source) for name, source in _NAMES.items()}
    row = index.corpus.games.slice(index.row_of(game), 1).to_pylist()[0]
    ports = (row["p0_port"], row["p1_port"])
    if row["form"] == "slp":
        columns["state_flags"] = np.stack([_column(floats, codes, name) for name in FLAG_COLUMNS], axis=-1)
        columns["last_hit_by"] = _column(floats, codes, "last_hit_by")
    else:
        columns["last_hit_by"] = np.full((len(floats), 2), NOBODY, np.uint8)
        columns["fast_fall"] = np.zeros((len(floats), 2), np.uint8)  # not recorded; a part of the flags
    recording = RecordedDream(
        stage_id=row["stage"],
        external_characters=(row["p0_character"], row["p1_character"]),
        internal_characters=_column(floats, codes, "character").astype(np.uint8),
        ports=(0, 1) if None in ports else (ports[0] - 1, ports[1] - 1),
        columns=columns,
    )
    version = version_of({name: bool(row[f"has_{name}"]) for name in OPTIONAL_FIELDS})
    return write_slp(recording, version=version, played_on="wm rollout")


def version_of(has: dict[str, bool]) -> str:
    """Slippi version that records the optional fields of a game; 3.10 has no animation index yet."""
    if has["velocity"]:
        return "3.10.0" if has["hitlag"] else "3.7.0"
    return "2.2.0" if has["hurtbox"] else "2.0.0"


def _column(floats: np.ndarray, codes: np.ndarray, name: str) -> np.ndarray:
    if name in FLOAT_COLUMNS:
        return floats[..., FLOAT_COLUMNS.index(name)]
    values = codes[..., CODE_COLUMNS.index(name)]
    return values.view(np.uint16) if name in _UNSIGNED else values
