"""How wrong the model's own predictions of one frame are, as running estimates: the size and kind of the input noise.

Shape legend: B = batch, T = frames, P = players (2), C = columns, V = values of a category.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from datasets.loading.frames import FLOAT_COLUMNS
from datasets.schema.columns import VELOCITY_COLUMNS
from wm.model.encoding import EMBEDDINGS, Frames, category
from wm.model.heads import CATEGORIES, DELTAS, VELOCITIES, Prediction, raw_values

NOISY_FIELDS = ("x", "y", *VELOCITY_COLUMNS)
NOISY_COLUMNS = tuple(FLOAT_COLUMNS.index(name) for name in NOISY_FIELDS)
ERROR_DECAY, COUNT_DECAY = 0.99, 0.999
"""Of the mean errors and of the counts of confusions, per update. Both begin at 0: without noise."""
NUM_ERRORS = len(NOISY_FIELDS)


class OwnErrors:
    """Running estimates over updates, the same on every rank once the sums of an update were added over the ranks."""

    def __init__(self, device: torch.device) -> None:
        sizes = [EMBEDDINGS[name][0] for name in CATEGORIES]
        self.mean_errors = torch.zeros(NUM_ERRORS, device=device)
        """float32 (fields,): mean absolute error of each of NOISY_FIELDS, raw units."""
        self.confusions = {name: torch.zeros(n, n, device=device) for name, n in zip(CATEGORIES, sizes, strict=True)}
        """Category -> float32 (V, V): how often a true value (row) was predicted as another one (column)."""
        self.sums = torch.zeros(2 * NUM_ERRORS + sum(n * n for n in sizes), device=device)
        """Of the current update: sums of errors, numbers of errors, confusions; to be added over the ranks."""

    def observe(self, prediction: Prediction, before: Frames, after: Frames, is_clean_BT: Tensor) -> None:
        """Add predictions of the current update.

        Args:
            before, after: true input frames and their targets.
            is_clean_BT: bool, whether the input frame and all before it are true.
        """
        weights = is_clean_BT[..., None].expand(-1, -1, prediction.deltas.shape[2]).float()
        has_velocity = before.present("velocity")[:, None, None]
        errors, counts = [], []
        for name in NOISY_FIELDS:
            is_delta = name in DELTAS
            predicted = prediction.deltas if is_delta else prediction.velocities
            predicted = predicted.detach()[..., (DELTAS if is_delta else VELOCITIES).index(name)]
            valid = weights if is_delta else weights * has_velocity
            error = (raw_values(after, name) - raw_values(before, name) - predicted).abs()
            errors.append((error * valid).sum())
            counts.append(valid.sum())
        self.sums[: 2 * NUM_ERRORS] += torch.stack([*errors, *counts])
        first = 2 * NUM_ERRORS
        for name, table in self.confusions.items():
            truth, chosen = category(after, name), prediction.categories[name].detach().argmax(-1)
            wrong = weights * (truth != chosen)
            # The counts are whole numbers, so their order changes no bit of a sum.
            flat = truth.flatten() * len(table) + chosen.flatten()
            self.sums[first : first + table.numel()].scatter_add_(0, flat, wrong.flatten())
            first += table.numel()

    def update(self) -> None:
        """Take the sums of an update into the estimates."""
        totals, counts = self.sums[:NUM_ERRORS], self.sums[NUM_ERRORS : 2 * NUM_ERRORS]
        known = ERROR_DECAY * self.mean_errors + (1 - ERROR_DECAY) * totals / counts.clamp(min=1)
        self.mean_errors = torch.where(counts > 0, known, self.mean_errors)
        first = 2 * NUM_ERRORS
        for table in self.confusions.values():
            table.mul_(COUNT_DECAY).add_(self.sums[first : first + table.numel()].view_as(table))
            first += table.numel()
        self.sums.zero_()

    def state_dict(self) -> dict[str, Any]:
        """The estimates, for a checkpoint."""
        return {"mean_errors": self.mean_errors, "confusions": dict(self.confusions)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the estimates."""
        self.mean_errors = state["mean_errors"].to(self.mean_errors.device)
        for name, table in self.confusions.items():
            table.copy_(state["confusions"][name])
