"""The branches of the model: each is fitted on filter-bank features and writes itself into the graph.

A branch offers scalar scores (1 x 1 x 1 x 1 each, larger is more anomalous); `training.stack` weighs them.
"""

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from training.graph import COARSE, F32, FEATURES, GraphWriter

CONTEXT = 5
"""Cells on a side of the window whose mean is the context of a cell."""


def peak(g: GraphWriter, cells: str) -> str:
    """The largest 3 x 3 mean of a one-channel map: a lone noisy cell does not decide."""
    return g.node("GlobalMaxPool", g.pool("AveragePool", cells, 3, 1))


@dataclass(frozen=True, slots=True)
class NearestNeighbours:
    """Distance of each coarse cell to the nearest of a bank of normal cells, in whitened PCA space.

    After PatchCore (Roth et al. 2022): half the bank by greedy k-centre selection, half at random.

    Attributes:
        projection: D x FEATURES, whitening.
        offset: D.
        bank: M x D.
    """

    projection: F32
    offset: F32
    bank: F32

    @classmethod
    def fit(cls, cells: F32, rng: np.random.Generator, *, dimensions: int = 24, size: int = 512) -> "NearestNeighbours":
        """Fit on normal cells, n x FEATURES."""
        mean = cells.mean(axis=0)
        scale = cells.std(axis=0) + 1e-3
        standard = (cells - mean) / scale
        _, singular, rows = np.linalg.svd(standard[rng.permutation(len(standard))[:8000]], full_matrices=False)
        dimensions = min(dimensions, len(rows))
        spread = singular[:dimensions] / np.sqrt(min(len(standard), 8000))
        # Full whitening would blow up noise in the last dimensions; the square root is the usual middle way.
        projection = rows[:dimensions] / np.sqrt(spread)[:, None] / scale
        offset = -projection @ mean
        points = cells @ projection.T + offset
        return cls(
            projection.astype(np.float32), offset.astype(np.float32), _choose_bank(points, size, rng).astype(np.float32)
        )

    def write(self, g: GraphWriter, features: str) -> tuple[str, dict[str, str]]:
        """Returns the distance map (1 x 1 x H/8 x W/8) and the scores."""
        coarse = g.pool("AveragePool", features, COARSE, COARSE)
        point = g.conv(coarse, self.projection[:, :, None, None], self.offset)
        # min |x - c|^2 = |x|^2 - max(2 x.c - |c|^2): one convolution and one maximum over channels.
        nearness = g.conv(point, 2 * self.bank[:, :, None, None], -(self.bank**2).sum(axis=1))
        nearest = g.node("ReduceMax", nearness, axes=[1], keepdims=1)
        ones = np.ones((1, self.bank.shape[1], 1, 1), np.float32)
        length = g.conv(g.node("Mul", point, point), ones)
        distance = g.node("Sqrt", g.node("Relu", g.node("Sub", length, nearest)))
        return distance, {
            "nearest-neighbour peak": peak(g, distance),
            "nearest-neighbour mean": g.node("GlobalAveragePool", distance),
        }


def _choose_bank(points: npt.NDArray[np.floating], size: int, rng: np.random.Generator) -> npt.NDArray[np.floating]:
    if len(points) <= size:
        return points
    order = rng.permutation(len(points))
    random, pool = points[order[: size - size // 2]], points[order[size - size // 2 :][:12000]]
    nearest = np.full(len(pool), np.inf)
    latest, chosen = pool[0], [0]
    for _ in range(min(size // 2, len(pool)) - 1):
        nearest = np.minimum(nearest, ((pool - latest) ** 2).sum(axis=1))
        chosen.append(int(nearest.argmax()))
        latest = pool[chosen[-1]]
    return np.concatenate([random, pool[chosen]])


@dataclass(frozen=True, slots=True)
class Segmentation:
    """A perceptron over each cell and its context, telling the labels from the background.

    Attributes:
        weights, biases: of its layers; the first takes 2 * FEATURES values (cell, context), the last gives one logit a
            label, relative to the background.
    """

    weights: tuple[F32, ...]
    biases: tuple[F32, ...]

    @classmethod
    def fit(cls, cells: F32, classes: npt.NDArray[np.int64], labels: int, seed: int, *, epochs: int) -> "Segmentation":
        """Fit on n x 2 FEATURES cells with classes 0 (background) to `labels`."""
        mean, scale = cells.mean(axis=0), cells.std(axis=0) + 1e-3
        net = MLPClassifier(
            (64, 32), alpha=1e-3, batch_size=256, learning_rate_init=2e-3, max_iter=epochs, tol=0, n_iter_no_change=epochs + 1,
            random_state=seed,
        )  # fmt: skip
        # The steps are small: more BLAS threads gain 5 % alone, and cost a factor when another job has the other core.
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is ours to choose
            net.fit(((cells - mean) / scale).astype(np.float32), classes)
        weights = [np.asarray(w, np.float64).T for w in net.coefs_]
        biases = [np.asarray(b, np.float64) for b in net.intercepts_]
        biases[0] -= weights[0] @ (mean / scale)
        weights[0] = weights[0] / scale
        if labels > 1:  # with one label scikit-learn gives a single logit, relative to the background already
            weights[-1] = weights[-1][1:] - weights[-1][:1]
            biases[-1] = biases[-1][1:] - biases[-1][:1]
        return cls(tuple(w.astype(np.float32) for w in weights), tuple(b.astype(np.float32) for b in biases))

    def write_logits(self, g: GraphWriter, features: str) -> str:
        """1 x labels x H/4 x W/4, relative to the background."""
        x = g.concat(features, g.pool("AveragePool", features, CONTEXT, 1))
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = g.conv(x, weight[:, :, None, None], bias)
            if i < len(self.weights) - 1:
                x = g.node("Relu", x)
        return x

    def write(self, g: GraphWriter, features: str) -> tuple[str, str, dict[str, str]]:
        """Returns the labels' logits with the background (label map's resolution), the largest logit, the scores."""
        logits = self.write_logits(g, features)
        strongest = g.node("ReduceMax", logits, axes=[1], keepdims=1)
        area = g.node("GlobalAveragePool", g.node("Sigmoid", strongest))
        count = self.weights[-1].shape[0]
        background = np.concatenate([np.zeros((1, count)), np.eye(count)]).astype(np.float32)
        return (
            g.conv(logits, background[:, :, None, None]),
            strongest,
            {
                "segmentation peak": peak(g, strongest),
                "segmentation area": g.node("Sqrt", area),
            },
        )


@dataclass(frozen=True, slots=True)
class PooledStatistics:
    """A logistic regression over each feature's mean and maximum in the picture.

    Attributes:
        weight: 2 FEATURES; means first.
        bias: log-odds offset.
    """

    weight: F32
    bias: float

    @classmethod
    def fit(cls, pooled: F32, is_anomaly: npt.NDArray[np.bool_]) -> "PooledStatistics":
        """Fit on n x 2 FEATURES statistics."""
        mean, scale = pooled.mean(axis=0), pooled.std(axis=0) + 1e-4
        model = LogisticRegression(C=0.02, class_weight="balanced", max_iter=500)
        model.fit((pooled - mean) / scale, is_anomaly)
        weight = model.coef_[0] / scale
        return cls(weight.astype(np.float32), float(model.intercept_[0] - weight @ mean))

    def write(self, g: GraphWriter, features: str) -> dict[str, str]:
        """Returns the score."""
        pooled = g.concat(g.node("GlobalAveragePool", features), g.node("GlobalMaxPool", features))
        score = g.conv(pooled, self.weight.reshape(1, 2 * FEATURES, 1, 1), np.array([self.bias], np.float32))
        return {"pooled statistics": score}
