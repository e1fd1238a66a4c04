"""Descents for the law L = E + A N^-a + B D^-b: robust least squares of log L.

Shape legend: M = fits at once, n = points, 5 = parameters theta: log E, log A, a, log B, b.
"""

from __future__ import annotations

import numpy as np
from scipy import optimize, stats

MIN_HUBER_DELTA = 1e-3
"""Residuals of log L beyond delta count linearly. Hoffmann et al. 2022 take 1e-3; where runs scatter more, it is 1.345
times their scatter (Huber 1964: 95 % as efficient as least squares for normal errors). With 1e-3 a dozen runs that
scatter by 1 % would be fitted by least absolute deviations, which pass through five of them exactly."""
MAX_EXPONENT = 3.0
_GRID = np.geomspace(0.05, 2.5, 10)
"""Exponents that the starts are chosen from."""
_NUM_STARTS = 8
_ITERATIONS = 200


def log_loss(theta_M5: np.ndarray, log_sizes: np.ndarray, log_durations: np.ndarray) -> np.ndarray:
    """Log of the law's loss: theta (..., 5) and points (n,) -> (..., n)."""
    return np.logaddexp.reduce(_terms(theta_M5, log_sizes, log_durations))


def fit_law(log_sizes: np.ndarray, log_durations: np.ndarray, log_losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The best of many starts, by Levenberg-Marquardt and then L-BFGS-B to a tight tolerance.

    Returns:
        theta (5,) and the other descents (M, 5), as further starts for `fit_replicates`.
    """
    x, y, centre = _centred(log_sizes, log_durations)
    starts = _starts(x, y, log_losses)
    targets = np.broadcast_to(log_losses, (len(starts), len(x)))
    rough = _descend(starts, x, y, targets, MIN_HUBER_DELTA * 10)
    delta = _delta(rough[0], x, y, log_losses)
    found = _descend(np.concatenate([starts, rough]), x, y, np.concatenate([targets, targets]), delta)
    best = found[np.argmin(_objective(found, x, y, log_losses, delta))]
    polished = optimize.minimize(
        lambda theta: _objective(theta, x, y, log_losses, delta) / delta**2,
        best,
        jac=lambda theta: _gradient(theta, x, y, log_losses, delta) / delta**2,
        method="L-BFGS-B",
        bounds=[(None, None), (None, None), (0, MAX_EXPONENT), (None, None), (0, MAX_EXPONENT)],
        options={"ftol": 1e-14, "gtol": 1e-10},
    ).x
    return _uncentred(polished, centre), _uncentred(found, centre)


def fit_replicates(
    log_sizes: np.ndarray, log_durations: np.ndarray, log_losses_Mn: np.ndarray, starts: np.ndarray
) -> np.ndarray:
    """Fit each of M sets of losses at the same sizes and durations, from each start (k, 5): (M, 5)."""
    x, y, centre = _centred(log_sizes, log_durations)
    starts = _centred_theta(starts, centre)
    M, k = len(log_losses_Mn), len(starts)
    targets = np.repeat(log_losses_Mn, k, axis=0)
    delta = _delta(starts[0], x, y, log_losses_Mn[0])
    found = _descend(np.tile(starts, (M, 1)), x, y, targets, delta)
    objective = _objective(found, x, y, targets, delta).reshape(M, k)
    return _uncentred(found.reshape(M, k, 5)[np.arange(M), objective.argmin(1)], centre)


def _terms(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Logs of the three terms: (3, ..., n)."""
    e, log_a, a, log_b, b = (theta[..., column, None] for column in range(5))
    return np.stack(np.broadcast_arrays(e + 0 * x, log_a - a * x, log_b - b * y))


def _jacobian(theta: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log loss (..., n) and its derivatives (..., n, 5)."""
    terms = _terms(theta, x, y)
    predicted = np.logaddexp.reduce(terms)
    constant, by_size, by_duration = np.exp(terms - predicted)
    return predicted, np.stack([constant, by_size, -by_size * x, by_duration, -by_duration * y], -1)


def _objective(theta: np.ndarray, x: np.ndarray, y: np.ndarray, targets: np.ndarray, delta: float) -> np.ndarray:
    """Sum of the Huber losses: (...,)."""
    size = np.abs(np.logaddexp.reduce(_terms(theta, x, y)) - targets)
    return np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta)).sum(-1)


def _gradient(theta: np.ndarray, x: np.ndarray, y: np.ndarray, targets: np.ndarray, delta: float) -> np.ndarray:
    predicted, jacobian = _jacobian(theta, x, y)
    return np.einsum("...n,...nk->...k", np.clip(predicted - targets, -delta, delta), jacobian)


def _descend(theta: np.ndarray, x: np.ndarray, y: np.ndarray, targets: np.ndarray, delta: float) -> np.ndarray:
    """Levenberg-Marquardt with the weights of the Huber loss, for M fits at once: theta (M, 5), targets (M, n)."""
    damping = np.full(len(theta), 1e-2)
    lowest = np.array([np.log(1e-3) + targets.min(), -np.inf, 0.0, -np.inf, 0.0])
    highest = np.array([np.inf, np.inf, MAX_EXPONENT, np.inf, MAX_EXPONENT])
    value = _objective(theta, x, y, targets, delta)
    for _ in range(_ITERATIONS):
        predicted, jacobian = _jacobian(theta, x, y)
        residuals = predicted - targets
        weights = np.minimum(1.0, delta / np.maximum(np.abs(residuals), 1e-300))
        weighted = jacobian * weights[..., None]
        hessian = np.einsum("mnk,mnl->mkl", weighted, jacobian)
        gradient = np.einsum("mnk,mn->mk", weighted, residuals)
        diagonal = np.einsum("mkk->mk", hessian) + 1e-12
        hessian += (damping[:, None] * diagonal)[:, :, None] * np.eye(5) + 1e-14 * np.eye(5)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        proposed = np.clip(theta - step, lowest, highest)
        new_value = _objective(proposed, x, y, targets, delta)
        better = new_value < value
        done = np.abs(value - new_value) <= 1e-10 * value
        theta, value = np.where(better[:, None], proposed, theta), np.where(better, new_value, value)
        damping = np.clip(np.where(better, damping / 3, damping * 4), 1e-9, 1e9)
        if (done | (damping >= 1e9)).all():
            break
    return theta


def _starts(x: np.ndarray, y: np.ndarray, log_losses: np.ndarray) -> np.ndarray:
    """The best of a grid of exponents: given these, the law is linear in E, A and B."""
    losses = np.exp(log_losses)
    starts = []
    for a in _GRID:
        for b in _GRID:
            columns = np.stack([np.ones_like(x), np.exp(-a * x), np.exp(-b * y)], 1) / losses[:, None]
            coefficients, residual = optimize.nnls(columns, np.ones_like(x))
            e, log_a, log_b = np.log(np.maximum(coefficients, 1e-3 * losses.min()))
            starts.append((residual, [e, log_a, a, log_b, b]))
    starts.sort(key=lambda start: start[0])
    return np.array([theta for _, theta in starts[:_NUM_STARTS]])


def _delta(theta: np.ndarray, x: np.ndarray, y: np.ndarray, log_losses: np.ndarray) -> float:
    residuals = log_losses - np.logaddexp.reduce(_terms(theta, x, y))
    scatter = stats.median_abs_deviation(residuals, scale="normal") * np.sqrt(len(x) / max(1, len(x) - 5))
    return max(MIN_HUBER_DELTA, 1.345 * float(scatter))


def _centred(log_sizes: np.ndarray, log_durations: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """Around their means, so that coefficients and exponents are nearly uncorrelated."""
    centre = float(log_sizes.mean()), float(log_durations.mean())
    return log_sizes - centre[0], log_durations - centre[1], centre


def _centred_theta(theta: np.ndarray, centre: tuple[float, float]) -> np.ndarray:
    return _uncentred(theta, (-centre[0], -centre[1]))


def _uncentred(theta: np.ndarray, centre: tuple[float, float]) -> np.ndarray:
    moved = theta.copy()
    moved[..., 1] += theta[..., 2] * centre[0]
    moved[..., 3] += theta[..., 4] * centre[1]
    return moved
