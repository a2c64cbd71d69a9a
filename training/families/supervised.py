"""Branches that learn from labels: of pictures, and of the cells of masks."""

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from linewatch.training.arrays import F32, F64, Bools, Ints
from linewatch.training.data.folds import assign_folds
from linewatch.training.data.groups import renumber
from linewatch.training.families.one_class import peak
from linewatch.training.graph.outputs import Score, Segmentation, Supervision
from linewatch.training.graph.writer import GraphWriter

CONTEXT = 5
"""Cells on a side of the window whose mean is the context of a cell."""
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse penalties that the pooled statistics choose among, by `STRENGTH_FOLDS` folds."""
STRENGTH_FOLDS = 5
_INTERRUPTED = "Training interrupted by user"
"""What scikit-learn warns of where it was interrupted."""
NEVER = -15.0
"""The logit of a label of which there was nothing to learn from."""


@dataclass(frozen=True, slots=True)
class CellClassifier:
    """A perceptron over each cell and its context, telling the labels from the background.

    Attributes:
        weights, biases: of its layers; the first takes 2 * F values (cell, context), the last gives one logit a
            label, relative to the background.
    """

    weights: tuple[F32, ...]
    biases: tuple[F32, ...]

    @classmethod
    def fit(cls, cells: F32, classes: npt.NDArray[np.int64], labels: int, seed: int, *, epochs: int) -> "CellClassifier":
        """Fit on cells and their context; labels without cells are never found.

        Args:
            cells: n x 2 F.
            classes: n, 0 background (some must be there), i + 1 label i.
            labels: how many there are.
            seed: of the weights and the batches.
            epochs: passes over the cells.

        Raises:
            KeyboardInterrupt: it was stopped.
        """
        mean, scale = cells.mean(axis=0), cells.std(axis=0) + 1e-3
        net = MLPClassifier(
            (64, 32), alpha=1e-3, batch_size=256, learning_rate_init=2e-3, max_iter=epochs, tol=0, n_iter_no_change=epochs + 1,
            random_state=seed,
        )  # fmt: skip
        # The steps are small: more BLAS threads gain 5 % alone, and cost a factor when another job has the other core.
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is ours to choose
            # Else scikit-learn keeps what is half fitted, and the run that was stopped goes on with it.
            warnings.filterwarnings("error", message=_INTERRUPTED)
            try:
                net.fit(((cells - mean) / scale).astype(np.float32), classes)
            except UserWarning as stopped:
                raise KeyboardInterrupt from stopped
        weights = [np.asarray(w, np.float64).T for w in net.coefs_]
        biases = [np.asarray(b, np.float64) for b in net.intercepts_]
        biases[0] -= weights[0] @ (mean / scale)
        weights[0] = weights[0] / scale
        if len(weights[-1]) > 1:  # with one label scikit-learn gives a single logit, relative to the background already
            weights[-1] = weights[-1][1:] - weights[-1][:1]
            biases[-1] = biases[-1][1:] - biases[-1][:1]
        last, bias = np.zeros((labels, weights[-1].shape[1])), np.full(labels, NEVER)
        known = np.asarray(net.classes_[1:], np.int64) - 1
        last[known], bias[known] = weights[-1], biases[-1]
        return cls(
            tuple(w.astype(np.float32) for w in [*weights[:-1], last]),
            tuple(b.astype(np.float32) for b in [*biases[:-1], bias]),
        )

    def write_logits(self, g: GraphWriter, features: str) -> str:
        """1 x labels x h x w, relative to the background."""
        x = g.concat(features, g.pool("AveragePool", features, CONTEXT, 1))
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = g.conv(x, weight[:, :, None, None], bias)
            if i < len(self.weights) - 1:
                x = g.node("Relu", x)
        return x

    def write(self, g: GraphWriter, features: str, stride: int) -> tuple[Segmentation, dict[str, Score]]:
        """Write over features (1 x F x h x w) of that stride; returns the labels' logits, and the scores."""
        logits = self.write_logits(g, features)
        max_logit = g.node("ReduceMax", logits, axes=[1], keepdims=1)
        area = g.node("GlobalAveragePool", g.node("Sigmoid", max_logit))
        count = self.weights[-1].shape[0]
        background = np.concatenate([np.zeros((1, count)), np.eye(count)]).astype(np.float32)
        # The background's logit is 0: the others are relative to it.
        segmentation = Segmentation(g.conv(logits, background[:, :, None, None]), max_logit, stride)
        return segmentation, {
            "cell peak": peak(g, max_logit, Supervision.SUPERVISED),
            "cell area": Score(g.node("Sqrt", area), Supervision.SUPERVISED),
        }


@dataclass(frozen=True, slots=True)
class PooledStatistics:
    """A logistic regression over numbers that describe the picture as a whole.

    Attributes:
        weight: one a number.
        bias: log-odds offset.
    """

    weight: F32
    bias: float

    @classmethod
    def fit(cls, pooled: F32, is_anomaly: Bools, groups: Ints, seed: int) -> "PooledStatistics":
        """Fit, with the penalty that says most of pictures of other groups.

        Args:
            pooled: n x numbers.
            is_anomaly: n, both classes.
            groups: n; pictures that must stay together share one.
            seed: of the folds that the penalty is chosen by.
        """
        mean, scale = pooled.mean(axis=0), pooled.std(axis=0) + 1e-4
        standard = ((pooled - mean) / scale).astype(np.float64)
        with threadpool_limits(1):
            model = _logistic(_strength(standard, is_anomaly, groups, seed)).fit(standard, is_anomaly)
        weight = model.coef_[0] / scale
        return cls(weight.astype(np.float32), float(model.intercept_[0] - weight @ mean))

    def write(self, g: GraphWriter, statistics: str) -> dict[str, Score]:
        """Write over those numbers (1 x numbers x 1 x 1); returns the score."""
        score = g.conv(statistics, self.weight.reshape(1, -1, 1, 1), np.array([self.bias], np.float32))
        return {"pooled statistics": Score(score, Supervision.SUPERVISED)}


def _logistic(strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, class_weight="balanced", max_iter=500)


def _strength(standard: F64, is_anomaly: Bools, groups: Ints, seed: int) -> float:
    """The inverse penalty with the least log loss on held-out groups; the smallest where folds cannot be made."""
    folds = assign_folds(is_anomaly.astype(np.int64), renumber(groups), STRENGTH_FOLDS, seed)
    losses = np.zeros(len(STRENGTHS))
    for fold in np.unique(folds):
        held_out = folds == fold
        if len(np.unique(is_anomaly[~held_out])) < 2:
            continue
        for i, strength in enumerate(STRENGTHS):
            z = _logistic(strength).fit(standard[~held_out], is_anomaly[~held_out]).decision_function(standard[held_out])
            losses[i] += np.logaddexp(0, np.where(is_anomaly[held_out], -z, z)).sum()
    return STRENGTHS[int(losses.argmin())]
