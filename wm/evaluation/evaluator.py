"""Evaluate a model on fixed evaluation frames (`datasets.loading.targets`).

Shape legend: B = batch, T = frames, P = players (2), M = evaluation frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from datasets.loading.frames import GameIndex, read_games
from datasets.loading.sequences import gather, take_rows
from datasets.loading.targets import Targets
from datasets.schema.columns import NUM_PLAYERS
from wm.evaluation.metrics import EvalRecords, concatenate
from wm.model.encoding import Frames, category, controllers, to_frames
from wm.model.heads import Prediction
from wm.model.precision import autocast
from wm.model.world_model import Mamba2WorldModel, WorldModel, WorldState
from wm.objective.losses import ground_truth, val_loss_parts
from wm.objective.weights import VAL_LOSS_WEIGHTS

F = TypeVar("F", Frames, Prediction)
READ_FRAMES = 1_000_000
"""Frames in host memory at once."""
WINDOW_BATCH_FRAMES = 4_096
STREAM_GAMES = 32
STREAM_CHUNK_FRAMES = 64


def evaluate_windows(
    model: WorldModel, index: GameIndex, targets: Targets, context: int, device: torch.device, precision: str
) -> EvalRecords:
    """Predict each target from exactly `context` frames, from zero state."""
    parts = []
    batch_size = max(1, WINDOW_BATCH_FRAMES // (context + 1)) * (8 if device.type == "cuda" else 1)
    with _evaluation_mode(model), autocast(device, precision):
        for games, frames in target_windows(index, targets, context, batch_size, device):
            prediction = model(frames, last_only=True)
            before, after = frames.slice(context - 1, context), frames.slice(context, context + 1)
            parts.append(_records(prediction, before, after, games))
    return concatenate(parts)


def evaluate_stream(
    model: WorldModel, index: GameIndex, targets: Targets, device: torch.device, precision: str
) -> EvalRecords:
    """Predict each target with the recurrent state carried through the whole game before it."""
    assert isinstance(model, Mamba2WorldModel), "only a recurrent model streams"
    target_frames = {int(game): targets.frames[targets.games == game] for game in np.unique(targets.games)}
    order = sorted(target_frames, key=lambda game: int(index.num_frames[game]))
    parts = []
    with _evaluation_mode(model), autocast(device, precision):
        for start in range(0, len(order), STREAM_GAMES):
            games = order[start : start + STREAM_GAMES]
            parts += _stream_games(model, index, games, [target_frames[game] for game in games], device)
    return concatenate(parts)


@contextmanager
def _evaluation_mode(model: WorldModel) -> Iterator[None]:
    """`eval()` and inference mode; restores the previous mode."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


def target_windows(
    index: GameIndex, targets: Targets, context: int, batch_size: int, device: torch.device
) -> Iterator[tuple[np.ndarray, Frames]]:
    """Batches of windows of `context` + 1 frames that end at the targets: int64 (B,) games, and Frames.

    At most about READ_FRAMES frames are in host memory at once.
    """
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
    """The targets' games in groups of about READ_FRAMES frames, and the indices of each group's targets."""
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
    target_frames: list[np.ndarray],
    device: torch.device,
) -> list[EvalRecords]:
    """Stream several games as one batch. Shorter games are padded; the padding is discarded."""
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
        selected = [
            (row, frame - 1 - start)
            for row, frames_of_game in enumerate(target_frames)
            for frame in frames_of_game
            if start < frame <= start + STREAM_CHUNK_FRAMES
        ]
        if selected:
            rows, positions = (torch.tensor(values, device=device) for values in zip(*selected, strict=True))
            owners = np.asarray(games)[rows.cpu().numpy()]
            parts.append(
                _records(
                    _select(prediction, rows, positions),
                    _select(before, rows, positions),
                    _select(after, rows, positions),
                    owners,
                )
            )
    return parts


def _select(frames: F, rows: Tensor, positions: Tensor) -> F:
    """One frame from each of some rows of a batch, as a batch with T = 1; `game` has no axis T."""

    def select(name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: select(name, item) for key, item in value.items()}
        return value[rows] if name == "game" else value[rows, positions][:, None]

    return replace(frames, **{field.name: select(field.name, getattr(frames, field.name)) for field in fields(frames)})


def _records(prediction: Prediction, before: Frames, after: Frames, games: np.ndarray) -> EvalRecords:
    """Records of one prediction per row of a batch; `before` and `after` have T = 1."""
    truth = ground_truth(before, after)
    error = (prediction.deltas[..., 1:3] - truth.deltas[..., 1:3]).abs().mean(-1)
    predicted = prediction.categories["action"].argmax(-1)
    parts = val_loss_parts(prediction, before, after)
    totals = {name: parts[name].total.flatten().double().cpu().numpy() for name in VAL_LOSS_WEIGHTS}
    counts = {name: parts[name].count.flatten().double().cpu().numpy() for name in VAL_LOSS_WEIGHTS}
    return records_of(games, before, after, predicted, error, totals, counts)


def records_of(
    games: np.ndarray,
    before: Frames,
    after: Frames,
    predicted_BTP: Tensor,
    error_BTP: Tensor,
    totals: dict[str, np.ndarray],
    counts: dict[str, np.ndarray],
) -> EvalRecords:
    """Tensors on any device -> records in host memory.

    Args:
        games: int64 (B,).
        before: the last context frame, T = 1.
        after: the target frame, T = 1.
        predicted_BTP: int64 (B, 1, P), predicted actions.
        error_BTP: (B, 1, P), position errors, game units.
        totals: as `EvalRecords.loss_totals`.
        counts: as `EvalRecords.loss_counts`.
    """

    def pairs(tensor: Tensor) -> np.ndarray:
        return tensor.reshape(-1, NUM_PLAYERS).cpu().numpy()

    return EvalRecords(
        games=games,
        previous_action=pairs(category(before, "action")),
        true_action=pairs(category(after, "action")),
        predicted_action=pairs(predicted_BTP),
        position_error=pairs(error_BTP.double()),
        loss_totals=totals,
        loss_counts=counts,
    )
