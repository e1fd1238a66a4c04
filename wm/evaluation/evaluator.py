"""Judge a model, and the baselines it must beat, on the same frames.

Shape legend: B = batch, T = frames, P = players (2), M = judged frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from datasets.loading.frames import GameIndex, read_games
from datasets.loading.sequences import gather, take_rows
from datasets.loading.targets import Targets
from datasets.schema.columns import NUM_PLAYERS
from wm.evaluation.metrics import Judgement, concatenate
from wm.model.encoding import Frames, category, controllers, positions, to_frames
from wm.model.heads import Prediction, displacement_prior
from wm.model.precision import autocast
from wm.model.world_model import Mamba2WorldModel, WorldModel, WorldState
from wm.objective.losses import truth_of, val_loss_parts
from wm.objective.weights import VAL_LOSS_WEIGHTS

Context = int | Literal["stream"]
Baseline = Literal["repeat last frame", "last displacement", "last velocities"]
BASELINES: tuple[Baseline, ...] = ("repeat last frame", "last displacement", "last velocities")

READ_FRAMES = 1_000_000
"""Frames in memory at once while judging."""
WINDOW_BATCH_FRAMES = 4_096
STREAM_GAMES = 32
STREAM_CHUNK_FRAMES = 64


def judge_windows(
    model: WorldModel, index: GameIndex, targets: Targets, context: int, device: torch.device, precision: str
) -> Judgement:
    """Judge each target from exactly `context` frames, from zero state."""
    parts = []
    batch_size = max(1, WINDOW_BATCH_FRAMES // (context + 1)) * (8 if device.type == "cuda" else 1)
    with _judging(model), autocast(device, precision):
        for games, frames in _windows(index, targets, context, batch_size, device):
            prediction = model(frames, last_only=True)
            before, after = frames.slice(context - 1, context), frames.slice(context, context + 1)
            parts.append(_judgement(prediction, before, after, games))
    return concatenate(parts)


def judge_stream(
    model: WorldModel, index: GameIndex, targets: Targets, device: torch.device, precision: str
) -> Judgement:
    """Judge each target with the state carried through the whole game before it."""
    assert isinstance(model, Mamba2WorldModel), "only a recurrent model streams"
    wanted = {int(game): targets.frames[targets.games == game] for game in np.unique(targets.games)}
    order = sorted(wanted, key=lambda game: int(index.num_frames[game]))
    parts = []
    with _judging(model), autocast(device, precision):
        for start in range(0, len(order), STREAM_GAMES):
            games = order[start : start + STREAM_GAMES]
            parts += _stream_games(model, index, games, [wanted[game] for game in games], device)
    return concatenate(parts)


def judge_baseline(name: Baseline, index: GameIndex, targets: Targets) -> Judgement:
    """Judge a rule that needs no model; where a game has no velocities, its last displacement stands in."""
    parts = []
    for games, frames in _windows(index, targets, 2, WINDOW_BATCH_FRAMES, torch.device("cpu")):
        before, last, after = (frames.slice(i, i + 1) for i in range(3))
        if name == "repeat last frame":
            moved = torch.zeros_like(positions(last))
        elif name == "last displacement":
            moved = positions(last) - positions(before)
        else:
            moved = displacement_prior(last, positions(before))
        error = (moved - (positions(after) - positions(last))).abs().mean(-1)
        said = category(last, "action")
        parts.append(_pairs(games, last, after, said, error, {}, {}))
    return concatenate(parts)


@contextmanager
def _judging(model: WorldModel) -> Iterator[None]:
    """Evaluation mode without gradients, and back."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def _windows(
    index: GameIndex, targets: Targets, context: int, batch_size: int, device: torch.device
) -> Iterator[tuple[np.ndarray, Frames]]:
    """Targets' games, and their windows of `context` + 1 frames, with few games in memory at a time."""
    for games, chosen in _game_groups(index, targets):
        frames = read_games(index, games)
        lengths = index.num_frames[games]
        offset = dict(zip(games.tolist(), (np.cumsum(lengths) - lengths).tolist(), strict=True))
        first_rows = np.array([offset[int(game)] for game in targets.games[chosen]])
        starts = first_rows + targets.frames[chosen] - context
        for start in range(0, len(chosen), batch_size):
            part = slice(start, start + batch_size)
            owners = targets.games[chosen][part]
            batch = gather(frames, index.facts[owners], starts[part], context + 1)
            yield owners, to_frames(batch, device)


def _game_groups(index: GameIndex, targets: Targets) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Games of the targets in groups of about READ_FRAMES, and the targets of each group."""
    games = np.unique(targets.games)
    ends = np.cumsum(index.num_frames[games])
    for group in range(int(ends[-1]) // READ_FRAMES + 1):
        members = games[(ends - 1) // READ_FRAMES == group]
        if len(members):
            yield members, np.flatnonzero(np.isin(targets.games, members))


def _stream_games(
    model: Mamba2WorldModel,
    index: GameIndex,
    games: list[int],
    wanted: list[np.ndarray],
    device: torch.device,
) -> list[Judgement]:
    """Some games side by side, from their first frames on; a game that ends repeats its last frame unheard."""
    lengths = index.num_frames[games]
    frames = read_games(index, games)
    offsets = np.cumsum(lengths) - lengths
    state: WorldState | None = None
    parts = []
    facts = index.facts[np.asarray(games)]
    for start in range(0, int(lengths.max()) - 1, STREAM_CHUNK_FRAMES):
        rows = np.minimum(start + np.arange(STREAM_CHUNK_FRAMES + 1), lengths[:, None] - 1) + offsets[:, None]
        chunk = to_frames(take_rows(frames, facts, rows), device)
        before, after = chunk.slice(0, STREAM_CHUNK_FRAMES), chunk.slice(1, STREAM_CHUNK_FRAMES + 1)
        prediction, state = model.observe(before, controllers(after), state, return_state=True)
        picks = [
            (row, frame - 1 - start)
            for row, frames_wanted in enumerate(wanted)
            for frame in frames_wanted[(frames_wanted > start) & (frames_wanted <= start + STREAM_CHUNK_FRAMES)]
        ]
        if picks:
            rows_picked, places = (torch.tensor(values, device=device) for values in zip(*picks, strict=True))
            owners = np.asarray(games)[rows_picked.cpu().numpy()]
            parts.append(
                _judgement(
                    _pick_prediction(prediction, rows_picked, places),
                    _pick_frames(before, rows_picked, places),
                    _pick_frames(after, rows_picked, places),
                    owners,
                )
            )
    return parts


def _pick_frames(frames: Frames, rows: Tensor, places: Tensor) -> Frames:
    return Frames(
        floats=frames.floats[rows, places][:, None],
        codes=frames.codes[rows, places][:, None],
        game=frames.game[rows],
    )


def _pick_prediction(prediction: Prediction, rows: Tensor, places: Tensor) -> Prediction:
    def pick(tensor: Tensor) -> Tensor:
        return tensor[rows, places][:, None]

    return Prediction(
        deltas=pick(prediction.deltas),
        velocities=pick(prediction.velocities),
        dynamics=pick(prediction.dynamics),
        binaries=pick(prediction.binaries),
        categories={name: pick(logits) for name, logits in prediction.categories.items()},
    )


def _judgement(prediction: Prediction, before: Frames, after: Frames, games: np.ndarray) -> Judgement:
    """One judged frame for each row of a batch; `before` and `after` have T = 1."""
    truth = truth_of(before, after)
    error = (prediction.deltas[..., 1:3] - truth.deltas[..., 1:3]).abs().mean(-1)
    said = prediction.categories["action"].argmax(-1)
    parts = val_loss_parts(prediction, before, after)
    totals = {name: parts[name].total.flatten().double().cpu().numpy() for name in VAL_LOSS_WEIGHTS}
    counts = {name: parts[name].count.flatten().double().cpu().numpy() for name in VAL_LOSS_WEIGHTS}
    return _pairs(games, before, after, said, error, totals, counts)


def _pairs(
    games: np.ndarray,
    before: Frames,
    after: Frames,
    said_BTP: Tensor,
    error_BTP: Tensor,
    totals: dict[str, np.ndarray],
    counts: dict[str, np.ndarray],
) -> Judgement:
    def pairs(tensor: Tensor) -> np.ndarray:
        return tensor.reshape(-1, NUM_PLAYERS).cpu().numpy()

    return Judgement(
        games=games,
        previous_action=pairs(category(before, "action")),
        true_action=pairs(category(after, "action")),
        said_action=pairs(said_BTP),
        position_error=pairs(error_BTP.double()),
        loss_totals=totals,
        loss_counts=counts,
    )
