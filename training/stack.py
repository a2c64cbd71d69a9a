"""Weighing the branches by their out-of-fold scores, and choosing the threshold. Pure functions."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize, minimize_scalar

F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Stack:
    """score = scores @ weights + bias, a log-odds. A weight of 0 means that the branch does not help."""

    weights: F64
    bias: float

    def __call__(self, scores: F64) -> F64:
        """Combine n x branches scores to n log-odds."""
        return np.asarray(scores @ self.weights + self.bias)


def _log_loss(z: F64, truth: Bools, sample_weight: F64) -> tuple[float, F64]:
    """Weighted logistic loss and its derivative by z."""
    signed = np.where(truth, z, -z)
    loss = float((sample_weight * np.logaddexp(0, -signed)).sum())
    derivative: F64 = sample_weight * np.where(truth, -1.0, 1.0) / (1 + np.exp(np.clip(signed, -500, 500)))
    return loss, derivative


def _balance(truth: Bools) -> F64:
    """Weights that make both classes count the same and sum to 1."""
    return np.asarray(np.where(truth, 0.5 / max(1, truth.sum()), 0.5 / max(1, (~truth).sum())))


def fit_stack(scores: F64, truth: Bools, *, ridge: float = 0.01, lasso: float = 0.01) -> Stack:
    """Logistic regression with weights >= 0 on standardised scores, classes balanced.

    Non-negative, since every branch is built so that larger means more anomalous: a negative weight could only fit noise.
    """
    mean, scale = scores.mean(axis=0), scores.std(axis=0) + 1e-9
    standard = (scores - mean) / scale
    balance = _balance(truth)

    def objective(parameters: F64) -> tuple[float, F64]:
        weights, bias = parameters[:-1], parameters[-1]
        loss, derivative = _log_loss(standard @ weights + bias, truth, balance)
        gradient = np.append(standard.T @ derivative + ridge * weights + lasso, derivative.sum())
        return loss + ridge / 2 * float(weights @ weights) + lasso * float(weights.sum()), gradient

    count = scores.shape[1]
    start = np.append(np.full(count, 0.5), 0.0)
    bounds = [(0.0, None)] * count + [(None, None)]
    solution = minimize(objective, start, jac=True, bounds=bounds, method="L-BFGS-B")
    weights = np.where(solution.x[:-1] > 1e-3, solution.x[:-1], 0.0)
    if not weights.any():  # nothing helps: fall back on the plain mean, and let the metrics say how bad it is
        weights = np.full(count, 1.0 / count)
    return Stack(weights / scale, float(solution.x[-1] - (weights / scale) @ mean))


def stacked_out_of_fold(scores: F64, truth: Bools, folds: npt.NDArray[np.int64]) -> F64:
    """Stack scores in which no picture's own label took part: the stack is fitted on the other folds."""
    result = np.zeros(len(truth))
    for fold in np.unique(folds):
        held_out = folds == fold
        result[held_out] = fit_stack(scores[~held_out], truth[~held_out])(scores[held_out])
    return result


def choose_threshold(scores: F64, truth: Bools) -> float:
    """The threshold of the highest F1; among equals, the middle of the widest gap between scores."""
    order = np.sort(np.unique(scores))
    if len(order) < 2:
        return float(order[0])
    middles, gaps = (order[1:] + order[:-1]) / 2, order[1:] - order[:-1]
    flagged = scores[None, :] > middles[:, None]
    hits = (flagged & truth).sum(axis=1)
    f1 = 2 * hits / (flagged.sum(axis=1) + truth.sum())
    best = f1 >= f1.max() - 1e-12
    return float(middles[best][gaps[best].argmax()])


def fit_slope(scores: F64, truth: Bools, threshold: float) -> float:
    """A of p = sigmoid(a (score - threshold)), by maximum likelihood, classes balanced.

    Two soft pseudo-observations a class (after Platt 1999) keep a finite when the classes are perfectly separated.
    """
    z = scores - threshold
    positive, negative = max(1, truth.sum()), max(1, (~truth).sum())
    target = np.where(truth, (positive + 1) / (positive + 2), 1 / (negative + 2))
    balance = _balance(truth)

    def objective(log_slope: float) -> float:
        s = np.exp(log_slope) * z
        return float((balance * (target * np.logaddexp(0, -s) + (1 - target) * np.logaddexp(0, s))).sum())

    return float(np.exp(minimize_scalar(objective, bounds=(-6, 4), method="bounded").x))
