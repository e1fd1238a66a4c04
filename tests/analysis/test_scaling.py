"""The scaling law: a known truth is recovered, intervals cover it, and designs that cannot tell say nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from datasets.runtime.errors import UserError
from tune.analysis.allocation import allocate
from tune.analysis.scaling import ScalingFit, ScalingPoint, fit_scaling

TRUTH = {"E": 1.5, "A": 20.0, "a": 0.35, "B": 30.0, "b": 0.30}
SIZES = np.geomspace(1e5, 1e7, 4)
DURATIONS = np.geomspace(1e6, 1.6e7, 3)


def law(size: float, duration: float) -> float:
    return TRUTH["E"] + TRUTH["A"] * size ** -TRUTH["a"] + TRUTH["B"] * duration ** -TRUTH["b"]


def points(
    noise: float,
    seed: int = 0,
    sizes: Sequence[float] | np.ndarray = SIZES,
    durations: Sequence[float] | np.ndarray = DURATIONS,
    num_seeds: int = 2,
) -> list[ScalingPoint]:
    rng = np.random.default_rng(seed)
    return [
        ScalingPoint(num_parameters=size, num_targets=duration, loss=law(size, duration) * np.exp(noise * rng.normal()))
        for size in sizes
        for duration in durations
        for _ in range(num_seeds)
    ]


def covered(fit: ScalingFit) -> list[bool]:
    """Whether E, a, b and a prediction for a run of 30 times the FLOPs of the largest lie in their intervals."""
    pairs = [
        (fit.irreducible_loss, TRUTH["E"]),
        (fit.parameter_exponent, TRUTH["a"]),
        (fit.target_exponent, TRUTH["b"]),
        (fit.loss_at(5e7, 1e8), law(5e7, 1e8)),
    ]
    return [interval.low <= truth <= interval.high for interval, truth in pairs]


def test_the_law_is_recovered_from_runs_without_scatter():
    fit = fit_scaling(points(1e-6), num_replicates=20)
    assert fit.no_statement is None
    assert fit.irreducible_loss.value == pytest.approx(TRUTH["E"], rel=1e-3)
    assert fit.parameter_exponent.value == pytest.approx(TRUTH["a"], rel=1e-2)
    assert fit.target_exponent.value == pytest.approx(TRUTH["b"], rel=1e-2)
    assert fit.loss_at(1e9, 1e10).value == pytest.approx(law(1e9, 1e10), rel=1e-3)
    assert (fit.num_sizes, fit.num_durations, fit.num_points) == (4, 3, 24)


def test_one_broken_run_does_not_bend_the_law():
    good = points(0.001)
    broken = [ScalingPoint(num_parameters=1e7, num_targets=1.6e7, loss=1.5 * law(1e7, 1.6e7)), *good]
    ends = [fit_scaling(runs, num_replicates=10).loss_at(1e7, 1.6e7).value for runs in (good, broken)]
    assert ends[1] == pytest.approx(ends[0], rel=0.01)


def test_intervals_cover_the_truth():
    _check_coverage(num_sets=12, num_replicates=100)


@pytest.mark.slow
def test_intervals_cover_the_truth_at_their_rate():
    _check_coverage(num_sets=400, num_replicates=200)


def _check_coverage(num_sets: int, num_replicates: int) -> None:
    """Intervals of 95 % from percentiles: no fewer than 90 % may cover, by an exact binomial test at 1 in 1,000."""
    hits = np.array(
        [covered(fit_scaling(points(0.004, seed), num_replicates=num_replicates)) for seed in range(num_sets)]
    )
    print("coverage of E, a, b, prediction:", hits.mean(0))
    least = stats.binom.ppf(0.001, num_sets, 0.90)
    assert (hits.sum(0) >= least).all()


@pytest.mark.parametrize(
    ("sizes", "durations", "reason"),
    [
        (SIZES[:2], DURATIONS, "the number of different model sizes is 2"),
        (SIZES, DURATIONS[:1], "numbers of training targets is 1"),
        (SIZES, np.array([1e6, 1.001e6, 8e6, 8.001e6]), "numbers of training targets is 2"),
        (np.array([1e6, 1.5e6, 2e6]), DURATIONS, "model sizes span only a factor of 2.0"),
    ],
)
def test_a_design_that_cannot_identify_the_law_gives_no_statement(sizes, durations, reason):
    fit = fit_scaling(points(0.001, sizes=sizes, durations=durations))
    assert reason in (fit.no_statement or "")
    assert allocate(fit, 1e18, [(1e6, 6e6)]) is None


def test_a_range_of_four_holds_although_last_batches_go_beyond_the_ends_of_runs():
    durations = np.array([250_368, 500_224, 1_000_448])  # of 250,000, 500,000 and 1,000,000 targets in batches of 512
    assert fit_scaling(points(1e-6, durations=durations), num_replicates=20).no_statement is None


def test_too_much_scatter_gives_no_statement():
    reasons = [fit_scaling(points(0.03, seed), num_replicates=40).no_statement for seed in range(2)]
    assert all(reasons)


def test_runs_that_follow_no_law_give_no_statement():
    """The largest model diverged a little more with each target."""
    runs = [
        ScalingPoint(num_parameters=n, num_targets=d, loss=law(n, d) * (1 + 0.3 * (n == SIZES[-1]) * (d / 1.6e7)))
        for n in SIZES
        for d in DURATIONS
    ]
    assert fit_scaling(runs, num_replicates=50).no_statement is not None


def test_the_largest_runs_are_predicted_from_the_others():
    fit = fit_scaling(points(0.003), num_replicates=100)
    assert fit.hold_out is not None
    assert fit.hold_out.num_points == 4
    assert abs(fit.hold_out.mean_error) < 0.02


def test_the_allocation_for_a_budget_is_the_optimum_of_the_law():
    """At 6 FLOPs per parameter and target: N = G (F/6)^(b/(a+b)), G = (aA/(bB))^(1/(a+b)) (Hoffmann et al. 2022, 4)."""
    fit = fit_scaling(points(1e-5), num_replicates=20)
    budget = 6 * 1e7 * 1.6e7 * 3
    result = allocate(fit, budget, [(1e5, 6e5), (1e7, 6e7)])
    assert result is not None
    assert result.no_statement is None
    a, b = TRUTH["a"], TRUTH["b"]
    expected = (a * TRUTH["A"] / (b * TRUTH["B"])) ** (1 / (a + b)) * (budget / 6) ** (b / (a + b))
    assert result.num_parameters.value == pytest.approx(expected, rel=0.05)
    assert result.num_parameters.value * result.num_targets.value * 6 == pytest.approx(budget, rel=1e-6)
    assert result.extrapolation == pytest.approx(3)


def test_no_allocation_is_stated_far_beyond_the_runs_or_with_a_wide_interval():
    fit = fit_scaling(points(1e-5), num_replicates=20)
    far = allocate(fit, 6 * 1e7 * 1.6e7 * 1e4, [(1e5, 6e5), (1e7, 6e7)])
    assert far is not None
    assert "10000 times that of the largest run" in (far.no_statement or "")
    with pytest.raises(UserError, match="must be positive"):
        allocate(fit, 0.0, [(1e5, 6e5)])
