"""The older system's training recipe as a reference: fp32 windows from a per-sample `Dataset` and a `DataLoader`.

`older_speed.py` compares its speed with ours, `time_to_quality.py` what it learns.

It reproduces the older system (`docs/architecture.md` names its results): all frames in memory as
normalised float32 and int64 tensors; one window of K = 10 a sample, made in `__getitem__`; batches of 256, shuffled,
by torch's DataLoader; fp32; AdamW at a constant 3e-4; squared errors, binary and categorical cross-entropies in
scaled units with the weights of `VAL_LOSS_WEIGHTS`; deltas straight from the head, without a prior; fifteen
`.item()` a step for its metrics. Mamba-2 with `nn.Conv1d` and the quadratic form of the scan (one chunk), or the MLP.
Improvements, for a fair comparison: the frames are normalised before the clock starts, the optimizer is
PyTorch's fast path for its device, and the scan is the fastest form that plain torch has for ten frames. From `wm`
it takes the feature definitions and the evaluator, no training code: so our optimizations do not speed it up.

Shape legend: B = batch, T = frames, P = players (2), C = channels, H = heads, D = head width, N = state size.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from older_system.networks import NUMBERS, OlderMamba2, OlderMLP, Window
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from datasets.loading.frames import GameIndex, read_games
from datasets.loading.targets import evaluation_targets
from wm.evaluation.evaluator import evaluate_windows
from wm.evaluation.metrics import compute_metrics
from wm.evaluation.target_frames import read_targets
from wm.model.encoding import (
    BINARY,
    CONTINUOUS_SCALES,
    EMBEDDINGS,
    STAGE_EMBEDDING,
    Frames,
    binary,
    category,
    continuous,
    controllers,
)
from wm.model.heads import BINARIES, CATEGORIES, DELTAS, DYNAMICS, VELOCITIES, Prediction, feature_scales
from wm.objective.weights import VAL_LOSS_WEIGHTS

BATCH_SIZE = 256
LEARNING_RATE = 3e-4
CONTEXT_FRAMES = 10


def normalised(frames: Frames) -> Window:
    """What the older system keeps of some frames: features in scaled units, indices, controllers in [0, 1]."""
    return {
        "numbers": torch.stack(
            [continuous(frames, name) for name in CONTINUOUS_SCALES] + [binary(frames, name) for name in BINARY], -1
        ),
        "indices": torch.stack([category(frames, name) for name in EMBEDDINGS], dim=-1),
        "controllers": controllers(frames),
        "stage": frames.game[:, 0].long().clamp(0, STAGE_EMBEDDING[0] - 1),
    }


class WindowDataset(Dataset):
    """Every window of every game, one a sample, from tensors in memory."""

    def __init__(self, index: GameIndex, context_frames: int) -> None:
        self._context_frames = context_frames
        self._games: list[Window] = []
        places = []
        for game in range(len(index)):
            frames = read_games(index, [game])
            facts = torch.from_numpy(index.facts[game : game + 1])
            raw = Frames(
                floats=torch.from_numpy(frames.floats)[None], codes=torch.from_numpy(frames.codes)[None], game=facts
            )
            self._games.append({name: tensor[0] for name, tensor in normalised(raw).items()})
            starts = np.arange(max(0, len(frames) - context_frames))
            places.append(np.stack([np.full(len(starts), game), starts], axis=1).astype(np.int32))
        self._places = np.concatenate(places)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Window:
        game, start = self._places[index]
        whole, end = self._games[game], start + self._context_frames
        before, after = whole["numbers"][end - 1], whole["numbers"][end]
        moved = after - before
        return {
            "numbers": whole["numbers"][start:end],
            "indices": whole["indices"][start:end],
            "controllers": whole["controllers"][start : end + 1],
            "stage": whole["stage"],
            "true_numbers": torch.cat([moved[:, _MOVED], after[:, _STAY]], dim=-1),
            "true_binaries": after[:, len(CONTINUOUS_SCALES) :],
            "true_indices": whole["indices"][end],
        }


_MOVED = [NUMBERS.index(name) for name in (*DELTAS, *VELOCITIES)]
_STAY = [NUMBERS.index(name) for name in DYNAMICS]
_CATEGORY = {name: place for place, name in enumerate(EMBEDDINGS)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Outputs:
    """A network's outputs by what they are of, scaled units and logits: (B, P, ...)."""

    deltas: Tensor
    velocities: Tensor
    dynamics: Tensor
    binaries: Tensor
    categories: dict[str, Tensor]


def split_outputs(outputs_BPC: Tensor) -> Outputs:
    """Split a network's outputs."""
    sizes = [len(DELTAS), len(VELOCITIES), len(DYNAMICS), len(BINARIES)]
    deltas, velocities, dynamics, binaries, *logits = outputs_BPC.split(
        [*sizes, *(EMBEDDINGS[name][0] for name in CATEGORIES)], dim=-1
    )
    return Outputs(
        deltas=deltas,
        velocities=velocities,
        dynamics=dynamics,
        binaries=binaries,
        categories=dict(zip(CATEGORIES, logits, strict=True)),
    )


class EvaluationAdapter(nn.Module):
    """The reference behind the interface of our models, for our evaluator: raw frames in, raw units out."""

    def __init__(self, reference: nn.Module, context_frames: int) -> None:
        super().__init__()
        self.reference, self.context_frames = reference, context_frames

    def forward(self, frames: Frames, last_only: bool = True) -> Prediction:
        """Predict the last of context_frames + 1 frames."""
        assert last_only and frames.num_frames == self.context_frames + 1
        window = normalised(frames)
        for name in ("numbers", "indices"):
            window[name] = window[name][:, :-1]
        out = split_outputs(self.reference(window))
        device = frames.floats.device
        return Prediction(
            deltas=(out.deltas / feature_scales(DELTAS, device))[:, None],
            velocities=(out.velocities / feature_scales(VELOCITIES, device))[:, None],
            dynamics=(out.dynamics / feature_scales(DYNAMICS, device))[:, None],
            binaries=out.binaries[:, None],
            categories={name: logits[:, None] for name, logits in out.categories.items()},
        )


def losses(out: Outputs, batch: Window) -> dict[str, Tensor]:
    """The parts that VAL_LOSS_WEIGHTS names, each a mean over batch and players."""
    numbers = torch.cat([out.deltas, out.velocities, out.dynamics], dim=-1)
    squared = (numbers - batch["true_numbers"]).square().split([len(DELTAS), len(VELOCITIES), len(DYNAMICS)], dim=-1)
    parts = {n: part.mean() for n, part in zip(("continuous", "velocity", "dynamics"), squared, strict=True)}
    parts["binary"] = F.binary_cross_entropy_with_logits(out.binaries, batch["true_binaries"])
    for name, logits in out.categories.items():
        truth = batch["true_indices"][..., _CATEGORY[name]]
        parts[name] = F.cross_entropy(logits.flatten(0, 1), truth.flatten())
    return parts


class OlderRecipe:
    """One training run of the reference; `train_until` continues where it stopped."""

    def __init__(
        self,
        index: GameIndex,
        kind: Literal["mamba2", "mlp"],
        *,
        seed: int = 0,
        num_workers: int = 0,
        batch_size: int = BATCH_SIZE,
        d_model: int = 384,
        num_layers: int = 4,
    ) -> None:
        torch.manual_seed(seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        reference = OlderMLP(CONTEXT_FRAMES) if kind == "mlp" else OlderMamba2(d_model, num_layers)
        self.model = EvaluationAdapter(reference, CONTEXT_FRAMES).to(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LEARNING_RATE)
        dataset = WindowDataset(index, CONTEXT_FRAMES)
        self._loader = DataLoader(
            dataset, batch_size, shuffle=True, num_workers=num_workers, pin_memory=self.device.type == "cuda"
        )
        self._batches = self._endless()
        self.seconds, self.targets_seen = 0.0, 0
        self.metrics: dict[str, float] = {}
        """Of the last batch, as the older trainer shows them."""

    def _endless(self) -> Iterator[Window]:
        while True:
            yield from self._loader

    def train_until(self, seconds: float) -> None:
        """Train until that many seconds of training are used; they count from the first batch asked for."""
        while self.seconds < seconds:
            started = time.perf_counter()
            self.step(next(self._batches))
            self.seconds += time.perf_counter() - started

    def step(self, batch: Window) -> None:
        """One update, and fifteen numbers read back."""
        batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        out = split_outputs(self.model.reference(batch))
        parts = losses(out, batch)
        loss = torch.stack([VAL_LOSS_WEIGHTS[name] * part for name, part in parts.items()]).sum()
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.targets_seen += len(batch["stage"])
        with torch.no_grad():
            self.metrics = {name: part.item() for name, part in parts.items()}
            self.metrics |= self._accuracies(out, batch) | {"loss": loss.item(), "norm": norm.item()}

    def _accuracies(self, out: Outputs, batch: Window) -> dict[str, float]:
        truth = batch["true_indices"][..., _CATEGORY["action"]]
        right = out.categories["action"].argmax(-1) == truth
        changed = truth != batch["indices"][:, -1, :, _CATEGORY["action"]]
        errors = (out.deltas[..., 1:3] - batch["true_numbers"][..., 1:3]).abs() / CONTINUOUS_SCALES["x"]
        return {
            "action_acc": right.float().mean().item(),
            "change_acc": ((right & changed).sum() / changed.sum().clamp(min=1)).item(),
            "pos_mae": errors.mean().item(),
        }

    def evaluate(self, index: GameIndex, num_targets: int) -> dict[str, float | None]:
        """`change_acc`, `pos_mae`, `val_loss` and `action_acc` by our evaluator, at K = 10."""
        targets = evaluation_targets(index, num_targets)
        records = evaluate_windows(
            self.model,  # pyrefly: ignore[bad-argument-type]
            read_targets(index, targets, CONTEXT_FRAMES),
            CONTEXT_FRAMES,
            self.device,
            "fp32",
        )
        found = compute_metrics(records)
        return {name: found[name].value for name in ("action_acc", "change_acc", "pos_mae", "val_loss")}
