"""Weighing scores by what they said of pictures out of fold. Pure functions."""

import numpy as np
from scipy.optimize import minimize, minimize_scalar

from linewatch.training.arrays import F64, Bools, Ints
from linewatch.training.graph.spec import Stack


def _log_loss(z: F64, truth: Bools, sample_weight: F64) -> tuple[float, F64]:
    """Weighted logistic loss and its derivative by z."""
    signed = np.where(truth, z, -z)
    loss = float((sample_weight * np.logaddexp(0, -signed)).sum())
    derivative: F64 = sample_weight * np.where(truth, -1.0, 1.0) / (1 + np.exp(np.clip(signed, -500, 500)))
    return loss, derivative


def balance(truth: Bools) -> F64:
    """Weights that make both classes count the same and sum to 1."""
    return np.asarray(np.where(truth, 0.5 / max(1, truth.sum()), 0.5 / max(1, (~truth).sum())))


def floored_scale(scale: F64, location: F64) -> F64:
    """A scale to divide by, for scores that may all be equal: more than what single precision makes of equal scores."""
    return np.maximum(scale, 1e-4 * np.abs(location) + 1e-6)


def fit_stack(scores: F64, truth: Bools, *, ridge: float = 0.01, lasso: float = 0.01) -> Stack:
    """Logistic regression with weights >= 0 on standardised scores, classes balanced.

    Non-negative, since every branch is built so that larger means more anomalous: a negative weight could only fit noise.
    scikit-learn's LogisticRegression cannot bound its weights.

    Args:
        scores: n x columns.
        truth: n, whether anomalous.
        ridge: twice the penalty on squared weights.
        lasso: the penalty on weights.
    """
    mean = scores.mean(axis=0)
    scale = floored_scale(scores.std(axis=0), mean)
    standard = (scores - mean) / scale
    even = balance(truth)

    def objective(parameters: F64) -> tuple[float, F64]:
        weights, bias = parameters[:-1], parameters[-1]
        loss, derivative = _log_loss(standard @ weights + bias, truth, even)
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


def stacked_out_of_fold(scores: F64, truth: Bools, folds: Ints) -> F64:
    """Stack scores in which no picture's own label took part, on the scale of the stack that is fitted on all pictures.

    The stack is fitted on the other folds. Stacks of different folds have different scales: each is brought to the common one by
    its location and spread, and the final stack's, over the pictures that it was fitted on, both classes counting the same. A single
    score needs no fold: its stack is a monotone scaling, and ranks stay as they are.

    Args:
        scores: n x columns, out of fold.
        truth: n, whether anomalous.
        folds: n fold numbers.
    """
    whole = fit_stack(scores, truth)
    result = whole(scores)
    if scores.shape[1] == 1:
        return result
    for fold in np.unique(folds):
        held_out = folds == fold
        location, spread = _location_and_spread(whole(scores[~held_out]), truth[~held_out])
        stack = fit_stack(scores[~held_out], truth[~held_out])
        its_location, its_spread = _location_and_spread(stack(scores[~held_out]), truth[~held_out])
        result[held_out] = location + (stack(scores[held_out]) - its_location) * (spread / its_spread)
    return result


def _location_and_spread(z: F64, truth: Bools) -> tuple[float, float]:
    """Mean and standard deviation of n values, both classes counting the same."""
    even = balance(truth)
    location = float(even @ z)
    return location, float(floored_scale(np.sqrt(even @ (z - location) ** 2), np.array(location)))


def fit_slope(z: F64, truth: Bools) -> float:
    """A of p = sigmoid(a z), by maximum likelihood, classes balanced.

    Two soft pseudo-observations a class (after Platt 1999) keep a finite when the classes are perfectly separated.
    """
    positive, negative = max(1, truth.sum()), max(1, (~truth).sum())
    target = np.where(truth, (positive + 1) / (positive + 2), 1 / (negative + 2))
    even = balance(truth)

    def objective(log_slope: float) -> float:
        s = np.exp(log_slope) * z
        return float((even * (target * np.logaddexp(0, -s) + (1 - target) * np.logaddexp(0, s))).sum())

    return float(np.exp(minimize_scalar(objective, bounds=(-6, 4), method="bounded").x))


def balanced_log_loss(z: F64, truth: Bools) -> float:
    """Mean logistic loss of log-odds z, both classes counting the same."""
    return _log_loss(z, truth, balance(truth))[0]


def fit_normals_stack(scores: F64) -> Stack:
    """For n x columns scores of normal pictures only: the mean of the columns' standardised values.

    Without anomalies there is no evidence for weights, so every score counts alike. Their scale is half the range that the
    middle 68 % take, which a few odd pictures do not move.
    """
    middle = np.median(scores, axis=0)
    scale = floored_scale((np.quantile(scores, 0.84, axis=0) - np.quantile(scores, 0.16, axis=0)) / 2, middle)
    weights = 1 / scale / scores.shape[1]
    return Stack(weights, float(-weights @ middle))
