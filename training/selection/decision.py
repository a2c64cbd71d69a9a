"""From scores to answers: the threshold and the confidence. Pure functions.

Two regimes. With anomalies in the training data the threshold is the one of the best F1 on out-of-fold scores. With
normal pictures only it is the score that a stated share of normal parts (1 % by default) is expected to exceed.
"""

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.optimize import minimize_scalar

from linewatch.anomaly_model.manifest import Decision
from linewatch.training.arrays import F64, Bools
from linewatch.training.metrics import f1_score, roc_auc
from linewatch.training.selection.stack import balance, floored_scale


def decide(scores: F64, truth: Bools) -> Decision:
    """Threshold and slope from scores in which no picture's own label took part."""
    threshold = choose_threshold(scores, truth)
    return Decision(threshold=threshold, slope=fit_slope(scores, truth, threshold))


def decide_from_normals(scores: F64, false_alarms: float) -> Decision:
    """Threshold and slope from out-of-fold scores of normal pictures.

    The threshold is the upper bound of a prediction interval: the score that the next normal part exceeds with
    probability `false_alarms`, if scores are normally distributed with unknown mean and deviation (Hahn 1969),
    t(n - 1) * s * sqrt(1 + 1/n) above the mean. Scores of parts have a longer tail to the right than that, so it is at least
    the empirical quantile, when there are enough pictures to have one.

    At the threshold p = 0.5; at the median of normal parts p = false_alarms.
    """
    n = len(scores)
    mean, deviation = float(scores.mean()), float(scores.std(ddof=1)) if n > 1 else 1.0
    deviation = float(floored_scale(np.array(deviation), np.array(mean)))
    bound = mean + float(stats.t.isf(false_alarms, max(1, n - 1))) * deviation * float(np.sqrt(1 + 1 / n))
    if n * false_alarms >= 1:
        bound = max(bound, float(np.quantile(scores, 1 - false_alarms, method="higher")))
    distance = max(bound - float(np.median(scores)), 1e-9)
    return Decision(threshold=bound, slope=float(np.log((1 - false_alarms) / false_alarms)) / distance)


def choose_threshold(scores: F64, truth: Bools) -> float:
    """The threshold of the highest F1; among equals, the middle of the widest gap between scores."""
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(truth[order])
    ends = np.flatnonzero(np.diff(ranked) < 0)  # after these many + 1 pictures the score falls
    if not len(ends):
        return float(scores[0])
    f1 = 2 * hits[ends] / (ends + 1 + truth.sum())
    gaps = ranked[ends] - ranked[ends + 1]
    best = ends[f1 >= f1.max() - 1e-12]
    place = best[gaps[f1 >= f1.max() - 1e-12].argmax()]
    return float((ranked[place] + ranked[place + 1]) / 2)


def weakness(scores: F64, truth: Bools, folds: npt.NDArray[np.int64]) -> str:
    """Why scores are not better than calling everything anomalous; empty when they are.

    They are when they rank anomalies above normal pictures more often than chance would in 97.5 % of all cases (the rank
    sum's normal approximation, Mann and Whitney 1947), and when F1 is higher than that of calling everything anomalous, with
    each picture decided by a threshold that was chosen on other folds.

    Args:
        scores: N scores in which no picture's own label took part.
        truth: N, whether anomalous.
        folds: N.
    """
    positive, negative = int(truth.sum()), int((~truth).sum())
    area = roc_auc(scores, truth)
    chance = 0.5 + float(stats.norm.isf(0.025)) * float(np.sqrt((positive + negative + 1) / (12 * positive * negative)))
    if area <= chance:
        return f"ROC AUC out of fold is {area:.3f}, and chance alone reaches {chance:.3f} on {positive + negative} pictures"
    flagged = np.zeros(len(truth), bool)
    for fold in np.unique(folds):
        held_out = folds == fold
        flagged[held_out] = scores[held_out] > choose_threshold(scores[~held_out], truth[~held_out])
    found, everything = f1_score(flagged, truth), f1_score(np.ones(len(truth), bool), truth)
    return f"F1 out of fold is {found:.3f}, and calling everything anomalous gives {everything:.3f}" if found <= everything else ""


def fit_slope(scores: F64, truth: Bools, threshold: float) -> float:
    """A of p = sigmoid(a (score - threshold)), by maximum likelihood, classes balanced.

    Two soft pseudo-observations a class (after Platt 1999) keep a finite when the classes are perfectly separated.
    """
    z = scores - threshold
    positive, negative = max(1, truth.sum()), max(1, (~truth).sum())
    target = np.where(truth, (positive + 1) / (positive + 2), 1 / (negative + 2))
    even = balance(truth)

    def objective(log_slope: float) -> float:
        s = np.exp(log_slope) * z
        return float((even * (target * np.logaddexp(0, -s) + (1 - target) * np.logaddexp(0, s))).sum())

    return float(np.exp(minimize_scalar(objective, bounds=(-6, 4), method="bounded").x))


def minimum_areas(found: F64, shown: F64) -> list[float]:
    """For each label the smallest area that counts, by the best F1 of "the picture shows it".

    Specks of a label on pictures that do not show it would otherwise be reported. Never more than half the smallest area
    that a mask shows: a defect that is merely small must still be found.

    Args:
        found: N x labels, the share of the picture on which the label was found out of fold.
        shown: N x labels, the share that the mask shows.
    """
    result = []
    for k in range(found.shape[1]):
        areas, present = found[:, k], shown[:, k] > 0
        if not present.any():
            result.append(0.0)
            continue
        limit = float(shown[present, k].min()) / 2
        edges = np.unique(np.concatenate([[0.0, limit], areas[areas <= limit]]))
        candidates = (edges[1:] + edges[:-1]) / 2 if len(edges) > 1 else edges
        f1 = np.array([f1_score(areas > c, present) for c in candidates])
        best = candidates[f1 >= f1.max() - 1e-12]
        result.append(float((best.min() + best.max()) / 2))
    return result


def normal_deciles(scores: F64, truth: Bools) -> list[float]:
    """The nine bounds between tenths of the normal pictures' scores; an agent compares its own scores with them."""
    normal = scores[~truth]
    return [round(float(v), 6) for v in np.quantile(normal, np.arange(1, 10) / 10)] if len(normal) else []
