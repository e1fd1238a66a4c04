"""Evaluations of sweeps drawn from a stated model, whose true differences are known.

An event (an action change) of game g is predicted right by the network of setting s and seed r at context K with the
probability

    truth[s, K] + game[g] + game_by_context[g, K] + seed[s, r] + seed_by_context[s, r, K]

with normal effects of the given standard deviations. Games hold 100 to 1,000 events, log-uniform: 8.7 % of the (frame,
player) pairs are action changes in real games. Shape legend: S = settings, K = contexts, R = seeds, G = games.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tune.analysis.evidence import TrialEvidence
from tune.analysis.scores import Scores
from wm.evaluation.game_sums import GameSums
from wm.evaluation.metrics import Context
from wm.objective.weights import VAL_LOSS_WEIGHTS


@dataclass(frozen=True, kw_only=True)
class SimulatedSweep:
    """The model."""

    truth: np.ndarray
    """(S, K), probability of a right prediction."""
    contexts: Sequence[Context]
    num_seeds: int = 5
    num_games: int = 100
    game: float = 0.06
    game_by_context: float = 0.03
    seed: float = 0.01
    seed_by_context: float = 0.005
    min_events: int = 100
    max_events: int = 1_000

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Events by game, int64 (G,), and right ones, int64 (S, K, R, G)."""
        S, K = self.truth.shape
        R, G = self.num_seeds, self.num_games
        events = np.exp(rng.uniform(np.log(self.min_events), np.log(self.max_events), G)).astype(np.int64)
        probability = (
            self.truth[:, :, None, None]
            + self.game * rng.standard_normal(G)
            + self.game_by_context * rng.standard_normal((K, 1, G))
            + self.seed * rng.standard_normal((S, 1, R, 1))
            + self.seed_by_context * rng.standard_normal((S, K, R, 1))
        )
        return events, rng.binomial(events, np.clip(probability, 0, 1))

    def scores(self, rng: np.random.Generator) -> Scores:
        """`change_acc` of a drawn sweep, cells in the order of `Scores`: by K, then by setting."""
        events, right = self.draw(rng)
        S, K = self.truth.shape
        right = right.transpose(1, 0, 2, 3).reshape(K * S, self.num_seeds, self.num_games)
        values = right.sum(-1) / events.sum()
        return Scores(
            cells=tuple((f"setting {s}", k) for k in self.contexts for s in range(S)),
            values=values,
            influence=(right - values[..., None] * events) / events.sum(),
        )

    def evidence(self, rng: np.random.Generator) -> list[TrialEvidence]:
        """A drawn sweep as the evaluations of trials that each have all contexts."""
        events, right = self.draw(rng)
        S, _ = self.truth.shape
        return [
            TrialEvidence(
                trial=f"trial-{s}-{r}",
                setting=f"setting {s}",
                seed=r,
                trained_context=60,
                sums={k: sums_of_events(events, right[s, column, r]) for column, k in enumerate(self.contexts)},
            )
            for s in range(S)
            for r in range(self.num_seeds)
        ]


def sums_of_events(events: np.ndarray, right: np.ndarray) -> GameSums:
    """Sums by game of an evaluation in which 8.7 % of the pairs are action changes; both arrays (G,)."""
    frames = np.round(events / 0.087 / 2).astype(np.int64)
    pairs = 2 * frames
    return GameSums(
        game_ids=np.array([f"game-{game:05d}" for game in range(len(events))]),
        num_frames=frames,
        num_pairs=pairs,
        num_right=pairs - events + right,
        num_changes=events,
        num_changes_right=right,
        position_error=0.2 * pairs + 0.1 * (events - right),
        loss_totals={name: 1.0 * pairs + (events - right) * (name == "action") for name in VAL_LOSS_WEIGHTS},
        loss_counts=dict.fromkeys(VAL_LOSS_WEIGHTS, 1.0 * pairs),
    )
