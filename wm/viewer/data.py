"""What the page holds of dreams: columns of frames as base64, about 0.5 KB a frame, and a few facts in words.

Shape legend: S = starts, T = frames, P = players (2), C = columns.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from datasets.loading.frames import CODE_COLUMNS, FLOAT_COLUMNS, GameIndex
from datasets.loading.targets import COUNTDOWN_FRAMES
from datasets.schema.melee_ids import character_name
from wm.model.dynamics.imagination import concatenate
from wm.model.encoding import Frames, position_errors
from wm.model.state_fields import PRESENCE as STATE_FLAGS
from wm.rollout.dreams import Dreams
from wm.viewer.geometry import (
    FOUNTAIN,
    FOUNTAIN_AT_REST,
    FOUNTAIN_GROUNDS,
    RANDALL_PATH,
    RANDALL_PERIOD,
    RANDALL_WIDTH,
    stage_as_json,
)

NUM_SHOWN_CONTEXT = 60
"""True frames before a dream that the page shows at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewedDream:
    """One dream beside the truth."""

    label: str
    """What to call it, such as its kind of event."""
    game_id: str
    stage: int
    characters: tuple[int, int]
    """External ids."""
    first_frame: int
    """Slippi frame id of the first imagined frame."""
    truth: Frames
    """One sequence, (1, num_context + T): what was observed, and what followed in the game."""
    imagined: Frames
    """(1, T)."""
    imagines_hitstun: bool
    """Whether `imagined` holds hitstun."""
    platforms: np.ndarray | None
    """float32 (2, num_context + T), heights of the moving platforms of Fountain of Dreams; None on other stages."""

    @property
    def num_context(self) -> int:
        """True frames before the dream."""
        return self.truth.num_frames - self.imagined.num_frames

    @property
    def position_error(self) -> np.ndarray:
        """float32 (T,), mean of |dx| and |dy| over both players, game units."""
        truth = self.truth.slice(self.num_context, self.truth.num_frames)
        return position_errors(self.imagined, truth)[0].numpy()


def viewed_dream(index: GameIndex, found: Dreams, number: int, label: str) -> ViewedDream:
    """One of some dreams, with what the page shows around it.

    Args:
        number: position in `found`.
    """
    game = int(found.starts.games[number])
    first = int(found.starts.frames[number]) - COUNTDOWN_FRAMES
    context = found.context.examples(number, number + 1)
    context = context.slice(max(0, context.num_frames - NUM_SHOWN_CONTEXT), context.num_frames)
    truth = concatenate([context, found.truth.examples(number, number + 1)])
    stage = int(index.facts[game, 0])
    return ViewedDream(
        label=label,
        game_id=str(index.game_ids[game]),
        stage=stage,
        characters=(int(index.characters[game, 0]), int(index.characters[game, 1])),
        first_frame=first,
        truth=truth,
        imagined=found.imagined.examples(number, number + 1),
        imagines_hitstun=found.predicts_hitstun,
        platforms=fountain_platforms(index, game, first - context.num_frames, truth) if stage == FOUNTAIN else None,
    )


def fountain_platforms(index: GameIndex, game: int, first: int, truth: Frames) -> np.ndarray:
    """Heights of the moving platforms: float32 (2, T).

    From the corpus' table `stage`; where it says nothing, the height of a player who stands there, from that frame
    until somebody stands there again; else FOUNTAIN_AT_REST.

    Args:
        first: Slippi frame id of the first frame.
    """
    heights = np.full((2, truth.num_frames), np.nan, np.float32)
    ground, airborne = (truth.code_column(name)[0].numpy() for name in ("ground", "airborne"))
    y = truth.float_column("y")[0].numpy()
    for side, surface in enumerate(FOUNTAIN_GROUNDS):
        for player in range(ground.shape[1]):
            stands = (ground[:, player] == surface) & (airborne[:, player] == 0)
            heights[side, stands] = y[stands, player]
    for frame, side, height in _recorded_heights(index, game):
        heights[side, max(0, frame - first) :] = height
    return np.stack([_held(row) for row in heights])


def _recorded_heights(index: GameIndex, game: int) -> Iterable[tuple[int, int, float]]:
    """Frame, side and height of each recorded move of a platform, in order; none if the corpus does not hold them."""
    row = index.row_of(game)
    if not index.corpus.games["num_stage_rows"][row].as_py():
        return
    for table in index.corpus.optional_rows("stage", [row]):
        yield from _moves(table)


def _moves(table: pa.Table) -> Iterable[tuple[int, int, float]]:
    for values in table.select(["frame", "left_platform", "right_platform"]).to_pylist():
        for side, name in enumerate(("left_platform", "right_platform")):
            if values[name] is not None:
                yield values["frame"], side, values[name]


def _held(heights: np.ndarray) -> np.ndarray:
    """The last known height at each frame, before it the first known one."""
    known = np.flatnonzero(np.isfinite(heights))
    if not len(known):
        return np.full_like(heights, FOUNTAIN_AT_REST)
    return heights[known[np.maximum(np.searchsorted(known, np.arange(len(heights)), side="right") - 1, 0)]]


def page_data(dreams: Sequence[ViewedDream]) -> dict[str, Any]:
    """The JSON data of a page; `wm/viewer/static/page/data.js` reads it."""
    return {
        "floats": list(FLOAT_COLUMNS),
        "codes": list(CODE_COLUMNS),
        "stages": {str(dream.stage): stage_as_json(dream.stage) for dream in dreams},
        "randall": {"width": RANDALL_WIDTH, "period": RANDALL_PERIOD, "path": RANDALL_PATH},
        "dreams": [_dream_as_json(dream) for dream in dreams],
    }


def _dream_as_json(dream: ViewedDream) -> dict[str, Any]:
    heights = dream.platforms
    has_velocity, has_hitstun = (bool(dream.truth.present(name)) for name in ("velocity", STATE_FLAGS))
    return {
        "label": dream.label,
        "game": dream.game_id[:8],
        "stage": dream.stage,
        "names": [character_name(character) for character in dream.characters],
        "firstFrame": dream.first_frame,
        "numContext": dream.num_context,
        "numFrames": dream.imagined.num_frames,
        "positionError": [round(float(value), 3) for value in dream.position_error],
        "truth": _columns(dream.truth),
        "dream": _columns(dream.imagined),
        "hasVelocity": has_velocity,
        "hasHitstun": {"truth": has_hitstun, "dream": has_hitstun and dream.imagines_hitstun},
        "platforms": None if heights is None else {"left": _base64(heights[0]), "right": _base64(heights[1])},
    }


def _columns(frames: Frames) -> dict[str, str]:
    """All columns, frame after frame and player after player."""
    return {"floats": _base64(frames.floats[0].float().numpy()), "codes": _base64(frames.codes[0].numpy())}


def _base64(values: np.ndarray) -> str:
    little = values.astype(values.dtype.newbyteorder("<"))
    return base64.b64encode(np.ascontiguousarray(little).tobytes()).decode()
