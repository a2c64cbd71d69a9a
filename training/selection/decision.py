"""From scores to answers: the threshold and the confidence. Pure functions.

Two regimes. With anomalies in the training data the threshold is the one of the best F1 on out-of-fold scores. With
normal pictures only it is the score that a stated share of normal parts (1 % by default) is expected to exceed.
"""

import numpy as np
import numpy.typing as npt
from scipy import stats
from scipy.optimize import minimize
from scipy.special import expit

from linewatch.anomaly_model.manifest import Decision
from linewatch.training.arrays import F64, Bools
from linewatch.training.metrics import f1_score, roc_auc
from linewatch.training.selection.stack import floored_scale

_USUAL_END, _END_SPREAD = -4.0, 2.0
"""Log-odds of twice the floor, and of twice what the ceiling lacks to 1: mean and deviation of their normal prior."""


def decide(scores: F64, truth: Bools) -> Decision:
    """Threshold and probability from N scores in which no picture's own label took part; both classes are there.

    The probability is that of pictures with these pictures' share of anomalies.
    """
    return fit_probability(scores, truth, choose_threshold(scores, truth))


def fit_probability(scores: F64, truth: Bools, threshold: float) -> Decision:
    """A logistic curve between a floor and a ceiling, by maximum likelihood.

    A logistic curve alone (Platt 1999) promises too much where some anomalies show nothing at all, or a label is wrong: there the
    share of anomalies does not go to 0 or 1, whatever the score. Isotonic regression (Zadrozny and Elkan 2002) promises too much
    with few pictures. On drawn scores of seven kinds (clear, faint, of unequal spread, skewed, with hidden anomalies, with wrong
    labels) the expected calibration error was on average .039 with 100 pictures and .020 with 600; Platt's .045 and .036, isotonic
    regression's .055 and .034, the better of the two by cross-validation .046 and .028.

    Floor and ceiling are drawn towards 0.01 and 0.99; a pseudo-observation of each class (Platt) keeps the slope finite where
    the classes are perfectly separated.

    Args:
        scores: N scores.
        truth: N, whether anomalous.
        threshold: of the verdict.
    """
    middle = float(scores.mean())
    scale = float(floored_scale(scores.std(), np.array(middle)))
    z = (scores - middle) / scale
    positive, negative = int(truth.sum()), int((~truth).sum())
    target = np.where(truth, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def objective(parameters: F64) -> tuple[float, F64]:
        steepness = np.exp(parameters[0])
        low, high = expit(parameters[2:])
        floor, ceiling = low / 2, 1 - high / 2
        share = expit(steepness * z + parameters[1])
        p = floor + (ceiling - floor) * share
        by_p = (1 - target) / (1 - p) - target / p
        by_logit = by_p * (ceiling - floor) * share * (1 - share)
        gradient = np.array([
            (by_logit * z).sum() * steepness, by_logit.sum(),
            (by_p * (1 - share)).sum() * low * (1 - low) / 2, -(by_p * share).sum() * high * (1 - high) / 2,
        ])  # fmt: skip
        away = parameters[2:] - _USUAL_END
        gradient[2:] += away / _END_SPREAD**2
        loss = -(target * np.log(p) + (1 - target) * np.log(1 - p)).sum() + (away**2).sum() / (2 * _END_SPREAD**2)
        return float(loss), gradient

    bounds = [(-4, 5), (-20, 20), (-9, 4), (-9, 4)]
    start = np.array([0.0, 0.0, _USUAL_END, _USUAL_END])
    a, b, low, high = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds).x.tolist()
    return Decision(
        threshold=threshold, slope=float(np.exp(a)) / scale, midpoint=middle - b * scale / float(np.exp(a)),
        floor=float(expit(low)) / 2, ceiling=1 - float(expit(high)) / 2,
    )  # fmt: skip


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
