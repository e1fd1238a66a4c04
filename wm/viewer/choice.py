"""Which dreams a page shows when no game is named: of each kind of event the median, the best and the worst one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from datasets.loading.frames import GameIndex
from wm.model.encoding import position_errors
from wm.rollout.baselines import stand_still
from wm.rollout.dreams import Dreams
from wm.rollout.events import EVENTS, event_of
from wm.viewer.data import ViewedDream, viewed_dream

DEATH = "death"
"""Of this kind only dreams in which a stock is lost, if there are any: a respawn alone is no death."""
KINDS: dict[str, tuple[str, ...]] = {
    "hit": ("hit",),
    DEATH: ("death and respawn",),
    "ledge": ("ledge",),
    "neutral": ("landing", "none"),
}
"""Kind -> the events of it."""
EVENT_FRAMES = 90
"""Frames after the start in which an event counts, so that it is soon seen."""
MAX_SHOWN_FRAMES = 180
"""Frames of each dream of a page with several, where nothing else is asked for: three seconds."""


def interesting_dreams(index: GameIndex, batches: Iterable[Dreams]) -> list[ViewedDream]:
    """Up to three dreams of each kind that occurs: of median error, and the best and worst beside standing still.

    Args:
        batches: of random starts.
    """
    found = list(batches)
    kinds = np.concatenate([event_of(batch.context, batch.truth.slice(0, EVENT_FRAMES)) for batch in found])
    error, still = (np.concatenate(parts) for parts in zip(*(_errors(batch) for batch in found), strict=True))
    dies = np.concatenate([_dies(batch) for batch in found])
    place = [(batch, number) for batch in found for number in range(len(batch.starts))]
    chosen: list[ViewedDream] = []
    for kind, events in KINDS.items():
        members = np.flatnonzero(np.isin(kinds, [EVENTS.index(event) for event in events]))
        if kind == DEATH and dies[members].any():
            members = members[dies[members]]
        for word, number in _examples(members, error, still):
            batch, row = place[number]
            chosen.append(viewed_dream(index, batch, row, f"{kind}, {word}"))
    return chosen


def _examples(members: np.ndarray, error: np.ndarray, still: np.ndarray) -> list[tuple[str, int]]:
    """The word for each chosen dream and its number; fewer where there are not three."""
    if not len(members):
        return []
    ratio = error[members] / np.maximum(still[members], 1.0)
    median = np.argsort(error[members], kind="stable")[len(members) // 2]
    chosen: dict[int, str] = {}
    for word, row in (("typical", median), ("best", np.argmin(ratio)), ("worst", np.argmax(ratio))):
        chosen.setdefault(int(members[row]), word)
    return [(word, number) for number, word in chosen.items()]


def _dies(batch: Dreams) -> np.ndarray:
    """Whether a player truly loses a stock in the first EVENT_FRAMES frames: bool (S,)."""
    before = batch.context.code_column("stocks")[:, -1]
    after = batch.truth.slice(0, EVENT_FRAMES).code_column("stocks")[:, -1]
    return (after < before).any(-1).numpy()


def _errors(batch: Dreams) -> tuple[np.ndarray, np.ndarray]:
    """Mean position error of each dream, and of standing still: float64 (S,), game units."""
    return (
        position_errors(batch.imagined, batch.truth).mean(1).double().numpy(),
        position_errors(stand_still(batch.context, batch.truth), batch.truth).mean(1).double().numpy(),
    )
