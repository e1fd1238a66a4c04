"""Evaluate a model on fixed evaluation frames (`datasets.loading.targets`).

Each target is predicted from exactly its last K frames, from zero state, for each K: sum(K) frames pass through the
network for a target, 226 for K = 1, 5, 10, 30, 60, 120. One pass at the longest K cannot serve the others. From the
second layer on, the network's state at a frame depends on where the window began, in a way that no correction undoes:
the prediction from the last 10 frames is not among the outputs of the last 120, whose position 10 predicts an earlier
frame. What depends on a frame alone (the encoder and the first layer's input projection) could be shared among the
contexts, but is less than a tenth of the work. What is shared are the frames themselves, which are read once, kept, and
sliced for every K (`wm.evaluation.target_frames`). Guarded by `benchmarks/measures/validation.py`.

Shape legend: B = batch, T = frames, P = players (2), M = evaluation frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from datasets.loading.sequences import concatenated_ranges
from datasets.schema.columns import NUM_PLAYERS
from wm.evaluation.metrics import Context, EvalRecords, concatenate
from wm.evaluation.target_frames import TargetFrames
from wm.model.encoding import Frames, category, controllers
from wm.model.heads import Prediction
from wm.model.precision import autocast
from wm.model.world_model import Mamba2WorldModel, WorldModel, WorldState
from wm.objective.losses import ground_truth, val_loss_parts
from wm.objective.weights import VAL_LOSS_WEIGHTS

C = TypeVar("C", bound=Context)
WINDOW_BATCH_FRAMES = {"cpu": 2_048, "cuda": 65_536}
"""Frames of a batch of windows, by type of device. On a GPU a frame takes about 20 KB in the medium network."""
STREAM_GAMES = 32
STREAM_CHUNK_FRAMES = 64


def evaluate_contexts(
    model: WorldModel, groups: Iterable[TargetFrames], contexts: Sequence[C], device: torch.device, precision: str
) -> dict[C, EvalRecords]:
    """Predict each target at each context; the frames are taken once. No entry if there is no target."""
    parts: dict[C, list[EvalRecords]] = {context: [] for context in contexts}
    for frames in groups:
        for context in contexts:
            if isinstance(context, int):
                parts[context].append(evaluate_windows(model, frames, context, device, precision))
            else:
                parts[context].append(evaluate_stream(model, frames, device, precision))
    return {context: concatenate(records) for context, records in parts.items() if records}


def evaluate_windows(
    model: WorldModel, frames: TargetFrames, context: int, device: torch.device, precision: str
) -> EvalRecords:
    """Predict each target from exactly `context` frames, from zero state."""
    parts = []
    batch_size = max(1, WINDOW_BATCH_FRAMES[device.type] // (context + 1))
    with _evaluation_mode(model), autocast(device, precision):
        for games, windows in frames.windows(context, batch_size, device):
            prediction = model(windows, last_only=True)
            before, after = windows.slice(context - 1, context), windows.slice(context, context + 1)
            parts.append(_records(prediction, before, after, games))
    return concatenate(parts)


def evaluate_stream(model: WorldModel, frames: TargetFrames, device: torch.device, precision: str) -> EvalRecords:
    """Predict each target with the recurrent state carried through the whole game before it.

    At most STREAM_GAMES games of STREAM_CHUNK_FRAMES frames pass through the network at once.

    Args:
        frames: with all frames of each game before its last target.
    """
    assert isinstance(model, Mamba2WorldModel), "only a recurrent model streams"
    starts = np.flatnonzero(np.diff(frames.targets.games, prepend=-1))
    ends = np.append(starts[1:], len(frames))
    order = np.argsort(frames.targets.frames[ends - 1], kind="stable")  # batches of games of similar length
    parts: list[EvalRecords] = []
    positions: list[np.ndarray] = []
    with _evaluation_mode(model), autocast(device, precision):
        for first in range(0, len(order), STREAM_GAMES):
            games = order[first : first + STREAM_GAMES]
            for chosen, records in _stream_games(model, frames, starts[games], ends[games], device):
                positions.append(chosen)
                parts.append(records)
    return concatenate(parts).take(np.argsort(np.concatenate(positions)))


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


def _stream_games(
    model: Mamba2WorldModel, frames: TargetFrames, starts: np.ndarray, ends: np.ndarray, device: torch.device
) -> Iterator[tuple[np.ndarray, EvalRecords]]:
    """Stream several games as one batch: positions of targets, and their records, in order of time. Shorter games are
    padded; the padding is discarded.

    Args:
        starts: int64 (B,), position of each game's first target.
        ends: int64 (B,), exclusive.
    """
    targets = frames.targets
    last_rows, first_rows = frames.rows[ends - 1], frames.rows[starts] - targets.frames[starts]
    game_of_target = np.repeat(np.arange(len(starts)), ends - starts)
    chosen = concatenated_ranges(starts, ends)
    chunk_of_target = (targets.frames[chosen] - 1) // STREAM_CHUNK_FRAMES
    state: WorldState | None = None
    for number in range(int(chunk_of_target.max()) + 1):
        start = number * STREAM_CHUNK_FRAMES
        rows = np.minimum(first_rows[:, None] + start + np.arange(STREAM_CHUNK_FRAMES + 1), last_rows[:, None])
        chunk = frames.take(rows, starts, device)
        before, after = chunk.slice(0, STREAM_CHUNK_FRAMES), chunk.slice(1, STREAM_CHUNK_FRAMES + 1)
        prediction, state = model.observe(before, controllers(after), state, return_state=True)
        here = np.flatnonzero(chunk_of_target == number)
        if len(here):
            batch_rows = torch.from_numpy(game_of_target[here]).to(device)
            positions = torch.from_numpy(targets.frames[chosen[here]] - 1 - start).to(device)
            yield (
                chosen[here],
                _records(
                    prediction.map(partial(_at, rows=batch_rows, positions=positions)),
                    _select(before, batch_rows, positions),
                    _select(after, batch_rows, positions),
                    targets.games[chosen[here]],
                ),
            )


def _at(values: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
    """One frame from each of some rows of a batch, (B, T, ...) -> (rows, 1, ...)."""
    return values[rows, positions][:, None]


def _select(frames: Frames, rows: Tensor, positions: Tensor) -> Frames:
    """As `_at`, of frames."""
    floats, codes = (_at(values, rows, positions) for values in (frames.floats, frames.codes))
    return Frames(floats=floats, codes=codes, game=frames.game[rows])


def _records(prediction: Prediction, before: Frames, after: Frames, games: np.ndarray) -> EvalRecords:
    """Records of one prediction per row of a batch; `before` and `after` have T = 1."""
    truth = ground_truth(before, after)
    error = (prediction.deltas[..., 1:3] - truth.deltas[..., 1:3]).abs().mean(-1)
    predicted = prediction.categories["action"].argmax(-1)
    parts = val_loss_parts(prediction, before, after)
    # One copy to the host for all parts.
    totals = torch.stack([parts[name].total.flatten().double() for name in VAL_LOSS_WEIGHTS]).cpu().numpy()
    counts = torch.stack([parts[name].count.flatten().double() for name in VAL_LOSS_WEIGHTS]).cpu().numpy()
    by_name = (dict(zip(VAL_LOSS_WEIGHTS, values, strict=True)) for values in (totals, counts))
    return records_of(games, before, after, predicted, error, *by_name)


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
