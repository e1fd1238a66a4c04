"""The statistics of the choice, tested as statistics: on sweeps that are drawn from a model whose truth is known.

Each rate is compared with what it should be by an exact binomial test that a correct method fails once in 10,000 times.
`pytest -m slow -s tests/analysis/test_statistics.py` draws 2,000 sweeps for each row and prints the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from scipy import stats
from simulated_sweeps import SimulatedSweep

from tune.analysis.choice import ContextChoice, Rule, choose_context
from tune.analysis.paired import paired_difference, paired_differences

FEW, MANY = 60, 2_000
NUM_REPLICATES = 300
DOUBT = 1e-4
"""Chance that a test of a correct method fails."""
THRESHOLD = 0.05
PLATEAU = (0.60, 0.66, 0.70, 0.70, 0.70)
ONE_SEED = {"num_seeds": 1, "seed": 0.0, "seed_by_context": 0.0}
number_of_sweeps = pytest.mark.parametrize("num_sweeps", [FEW, pytest.param(MANY, marks=pytest.mark.slow)])


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A model of sweeps, with a name for the table."""

    name: str
    truth: np.ndarray
    model: dict[str, float] = field(default_factory=dict)

    @property
    def losses(self) -> np.ndarray:
        """True loss of each K."""
        return self.truth.max() - self.truth.max(0)

    def choices(self, num_sweeps: int) -> list[ContextChoice]:
        """A choice from each of many sweeps."""
        contexts = tuple(range(1, self.truth.shape[1] + 1))
        sweep = SimulatedSweep(truth=self.truth, contexts=contexts, **self.model)
        return [
            choose_context(
                sweep.evidence(np.random.default_rng(number)),
                (Rule(threshold=THRESHOLD),),
                num_replicates=NUM_REPLICATES,
                random_seed=number,
            )
            for number in range(num_sweeps)
        ]


def scenario(name: str, truth: Sequence[float] | Sequence[Sequence[float]], **model: float) -> Scenario:
    return Scenario(name=name, truth=np.atleast_2d(np.array(truth)), model=model)


def equal_settings(truth: Sequence[float], number: int) -> list[Sequence[float]]:
    return [truth] * number


COVERAGE = [
    scenario("5 K, 1 seed, 40 games", PLATEAU, num_games=40, **ONE_SEED),
    scenario("5 K, 3 seeds, 40 games", PLATEAU, num_games=40, num_seeds=3),
    scenario("5 K, 3 seeds, 100 games", PLATEAU, num_seeds=3),
    scenario("5 K, 5 seeds, 100 games", PLATEAU, num_seeds=5),
    scenario("5 K, 3 seeds that differ much", PLATEAU, num_seeds=3, seed_by_context=0.02),
    scenario("5 equal K, 3 seeds", [0.7] * 5, num_seeds=3),
    scenario("3 K, 2 settings that cross, 3 seeds", [(0.65, 0.70, 0.68), (0.66, 0.69, 0.70)], num_seeds=3),
    scenario("3 K, 10 equal settings, 3 seeds", equal_settings((0.66, 0.70, 0.70), 10), num_seeds=3),
    scenario("3 K, 10 equal settings, 1 seed", equal_settings((0.66, 0.70, 0.70), 10), **ONE_SEED),
]


@number_of_sweeps
@pytest.mark.parametrize("sweeps", COVERAGE, ids=lambda sweeps: sweeps.name)
def test_the_intervals_of_all_losses_hold_at_once_in_95_of_100_sweeps(sweeps, num_sweeps):
    intervals = np.array(
        [[(row.loss_low, row.loss_high) for row in choice.results[0].rows] for choice in sweeps.choices(num_sweeps)]
    )
    low, high = intervals[..., 0], intervals[..., 1]
    holds = ((low <= sweeps.losses + 1e-9) & (sweeps.losses <= high + 1e-9)).all(1)
    print(f"\n| {sweeps.name} | {holds.mean():.3f} | {(high - low).mean(0)[0]:.3f} |")
    assert holds.sum() >= stats.binom.ppf(DOUBT, num_sweeps, 0.95)


BOUNDARY = [
    scenario("2 K, 1 seed, 40 games", (0.65, 0.70), num_games=40, **ONE_SEED),
    scenario("2 K, 3 seeds, 100 games", (0.65, 0.70), num_seeds=3),
    scenario("2 K, 5 seeds, 100 games", (0.65, 0.70), num_seeds=5),
    scenario("5 K at the threshold, 5 seeds", (0.65, 0.65, 0.65, 0.65, 0.70), num_seeds=5),
    scenario("2 K, 10 equal settings, 3 seeds", equal_settings((0.65, 0.70), 10), num_seeds=3),
]


@number_of_sweeps
@pytest.mark.parametrize("sweeps", BOUNDARY, ids=lambda sweeps: sweeps.name)
def test_a_context_that_loses_as_much_as_the_threshold_is_called_enough_in_at_most_1_of_40_sweeps(sweeps, num_sweeps):
    too_short = [k for k, loss in enumerate(sweeps.losses, 1) if loss >= THRESHOLD - 1e-9]
    wrong = np.array(
        [choice.verdict != "undecided" and choice.context in too_short for choice in sweeps.choices(num_sweeps)]
    )
    print(f"\n| {sweeps.name} | {wrong.mean():.4f} |")
    assert wrong.sum() <= stats.binom.isf(DOUBT, num_sweeps, 0.025)


POWER = [
    (scenario("loses 0.00, 5 seeds, 100 games", (0.70, 0.70), num_seeds=5), "enough", 1, 0.98),
    (scenario("loses 0.02, 5 seeds, 100 games", (0.68, 0.70), num_seeds=5), "enough", 1, 0.85),
    (scenario("loses 0.02, 1 seed, 40 games", (0.68, 0.70), num_games=40, **ONE_SEED), "enough", 1, 0.80),
    (scenario("loses 0.02, 3 seeds, 100 games", (0.68, 0.70), num_seeds=3), "enough", 1, 0.65),
    (scenario("loses 0.10, 5 seeds, 100 games", (0.60, 0.70), num_seeds=5), "needed", 2, 0.98),
    (scenario("loses 0.10, 3 seeds, 100 games", (0.60, 0.70), num_seeds=3), "needed", 2, 0.90),
    (scenario("5 K lose 0.15, 0.10, 0, 0, 0, 5 seeds", (0.55, 0.60, 0.70, 0.70, 0.70), num_seeds=5), "needed", 3, 0.95),
]


@number_of_sweeps
@pytest.mark.parametrize(("sweeps", "verdict", "context", "power"), POWER, ids=lambda value: getattr(value, "name", ""))
def test_a_planted_difference_leads_to_its_verdict_with_the_stated_power(sweeps, verdict, context, power, num_sweeps):
    choices = sweeps.choices(num_sweeps)
    found = np.array([(choice.verdict, choice.context) == (verdict, context) for choice in choices])
    undecided = np.mean([choice.verdict == "undecided" for choice in choices])
    print(f"\n| {sweeps.name} | K = {context} {verdict}: {found.mean():.3f} | undecided {undecided:.3f} |")
    assert found.sum() >= stats.binom.ppf(DOUBT, num_sweeps, power)


@number_of_sweeps
@pytest.mark.parametrize(
    "sweeps",
    [
        scenario("10 equal settings, 3 seeds", equal_settings((0.70, 0.70), 10), num_seeds=3),
        scenario("10 equal settings, 1 seed", equal_settings((0.70, 0.70), 10), **ONE_SEED),
    ],
    ids=lambda sweeps: sweeps.name,
)
def test_the_best_of_ten_equal_settings_is_not_reported_better_than_it_is(sweeps, num_sweeps):
    rows = [choice.results[0].rows[0] for choice in sweeps.choices(num_sweeps)]
    errors = np.array([row.value for row in rows]) - 0.70
    holds = np.array([row.low <= 0.70 <= row.high for row in rows])
    error_of_mean = errors.std() / np.sqrt(num_sweeps)
    print(f"\n| {sweeps.name} | bias {errors.mean():+.4f} +- {error_of_mean:.4f} | interval holds {holds.mean():.3f} |")
    assert abs(errors.mean()) < stats.norm.isf(DOUBT / 2) * error_of_mean
    assert holds.sum() >= stats.binom.ppf(DOUBT, num_sweeps, 0.93)


@number_of_sweeps
@pytest.mark.parametrize("num_seeds", [1, 3])
def test_the_differences_of_six_slices_hold_at_once_in_95_of_100_sweeps(num_seeds, num_sweeps):
    seed_by_context = 0.005 if num_seeds > 1 else 0.0
    sweep = SimulatedSweep(
        truth=np.array([[0.68, 0.70]]), contexts=(10, 60), num_seeds=num_seeds, seed_by_context=seed_by_context
    )
    holds = []
    for number in range(num_sweeps):
        rng = np.random.default_rng(number)
        slices = [sweep.evidence(rng) for _ in range(6)]
        pairs = {
            str(label): tuple({trial.seed: trial.sums[k] for trial in evidence} for k in (60, 10))
            for label, evidence in enumerate(slices)
        }
        found = paired_differences(pairs, num_replicates=NUM_REPLICATES, random_seed=number)
        holds.append(all(difference.low <= 0.02 <= difference.high for difference in found.values()))
    print(f"\n| 6 slices, {num_seeds} seeds | {np.mean(holds):.3f} |")
    assert np.sum(holds) >= stats.binom.ppf(DOUBT, num_sweeps, 0.94)


@number_of_sweeps
def test_the_difference_of_two_trials_holds_over_games_also_with_few_events(num_sweeps):
    """As at a rung: 40 games with 5 to 50 action changes each."""
    sweep = SimulatedSweep(
        truth=np.array([[0.5, 0.55]]), contexts=(1, 2), num_games=40, min_events=5, max_events=50, **ONE_SEED
    )
    holds = []
    for number in range(num_sweeps):
        (trial,) = sweep.evidence(np.random.default_rng(number))
        difference = paired_difference(trial.sums[2], trial.sums[1])
        assert difference is not None
        holds.append(difference.low <= 0.05 <= difference.high)
    print(f"\n| two trials, 40 games of 5 to 50 events | {np.mean(holds):.3f} |")
    assert stats.binom.ppf(DOUBT, num_sweeps, 0.94) <= np.sum(holds) <= stats.binom.isf(DOUBT, num_sweeps, 0.96)
