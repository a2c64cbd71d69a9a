"""Image and pixel metrics; anomaly is the positive class. Pure functions; a zero denominator gives 0."""

import warnings
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from linewatch.training.arrays import F64, Bools

BOOTSTRAPS = 1000
BINS = 10
CALIBRATED_DRAWS = 200


@dataclass(frozen=True, slots=True)
class ImageMetrics:
    """Counts and rates over pictures, 0 to 1."""

    pictures: int
    true_positives: int
    false_positives: int
    false_negatives: int
    precision: float
    recall: float
    f1: float
    roc_auc: float
    average_precision: float
    f1_all_anomalous: float
    """F1 of calling every picture anomalous: what the F1 must be read beside."""

    def as_json(self) -> dict[str, float]:
        """For summaries."""
        return asdict(self)


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b else 0.0


def roc_auc(scores: npt.NDArray[np.floating], truth: Bools) -> float:
    """Area under the ROC curve of N scores, 0 to 1; 0 where a class is empty."""
    return float(roc_auc_score(truth, scores)) if truth.any() and not truth.all() else 0.0


@dataclass(frozen=True, slots=True)
class Curves:
    """Points at every threshold from the strictest on: false alarm rate, recall, precision; each n values, 0 to 1."""

    false_alarm_rate: F64
    recall: F64
    precision: F64


def curves(scores: npt.NDArray[np.floating], truth: Bools) -> Curves:
    """ROC and precision-recall curves of N scores; the rate of an empty class is 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an empty class: its rate is NaN
        false_alarm_rate, recall, _ = roc_curve(truth, scores, drop_intermediate=False)
        precision, _, _ = precision_recall_curve(truth, scores)
    return Curves(np.nan_to_num(false_alarm_rate), np.nan_to_num(recall), precision[::-1])


def average_precision(scores: npt.NDArray[np.floating], truth: Bools) -> float:
    """Sum over thresholds of precision times the gain in recall; 0 without anomalies.

    What average_precision_score sums from the other end, where a perfect ranking may come out as 0.9999999999999999.
    """
    found = curves(scores, truth)
    return float((np.diff(found.recall) * found.precision[1:]).sum()) if truth.any() else 0.0


def image_metrics(scores: npt.NDArray[np.floating], truth: Bools, threshold: float) -> ImageMetrics:
    """Metrics of `score > threshold`."""
    flagged = scores > threshold
    tp, fp = int((flagged & truth).sum()), int((flagged & ~truth).sum())
    fn, count = int((~flagged & truth).sum()), len(truth)
    return ImageMetrics(
        count, tp, fp, fn, _ratio(tp, tp + fp), _ratio(tp, tp + fn), _ratio(2 * tp, 2 * tp + fp + fn),
        roc_auc(scores, truth), average_precision(scores, truth), _ratio(2 * truth.sum(), count + truth.sum()),
    )  # fmt: skip


def f1_score(found: Bools, truth: Bools) -> float:
    """F1 of yes or no answers; 0 where nothing is there or found.

    Not scikit-learn's: fitting asks for it some thousand times, and the checks of one call there take a hundred times as long.
    """
    tp = int((found & truth).sum())
    return _ratio(2 * tp, int(found.sum() + truth.sum()))


def bootstrap(scores: npt.NDArray[np.floating], truth: Bools, threshold: float, seed: int = 0) -> dict[str, list[float]]:
    """95 % confidence intervals of F1 and ROC AUC: percentiles over pictures drawn again, each class by itself (Efron 1979).

    ROC AUC comes from rank sums here (Mann and Whitney 1947), which take a fiftieth of `roc_auc`'s time.

    Args:
        scores: N scores.
        truth: N, whether anomalous.
        threshold: a picture is called anomalous above it.
        seed: of the draws.

    Returns:
        "f1" and "roc_auc", each low and high, rounded to 4 digits.
    """
    rng = np.random.default_rng(seed)
    positive, negative = np.flatnonzero(truth), np.flatnonzero(~truth)
    f1, area = [], []
    for _ in range(BOOTSTRAPS):
        drawn = np.concatenate([rng.choice(p, len(p)) for p in (positive, negative) if len(p)])
        f1.append(f1_score(scores[drawn] > threshold, truth[drawn]))
        above = rankdata(scores[drawn])[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2
        area.append(_ratio(float(above), len(positive) * len(negative)))
    return {
        name: [round(float(np.quantile(v, q)), 4) for q in (0.025, 0.975)] for name, v in (("f1", f1), ("roc_auc", area))
    }


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far stated confidence can be believed.

    Attributes:
        ece: expected calibration error (Naeini et al. 2015): mean over answers of |confidence - share that is right|, in
            ten bins of equal width over 0.5 to 1. scikit-learn has no such error.
        ece_if_calibrated: what that would come to on so many pictures, on average, if each answer were right exactly as often as its
            confidence says: the error of a share among few is not nothing.
        brier: mean squared error of the probability of an anomaly (Brier 1950).
        bins: for each bin that has answers: mean confidence, share that is right, number.
    """

    ece: float
    ece_if_calibrated: float
    brier: float
    bins: list[tuple[float, float, int]] = field(default_factory=list)


def calibration(probability: F64, answers: Bools, truth: Bools) -> Calibration:
    """Of N probabilities that a picture is anomalous.

    Args:
        probability: N, 0 to 1; 0.5 or more where the answer is "anomalous", 0.5 or less where it is "normal".
        answers: N, what was said.
        truth: N, whether anomalous.
    """
    confidence = np.where(answers, probability, 1 - probability)
    right = answers == truth
    place = np.minimum(((confidence - 0.5) * 2 * BINS).astype(int), BINS - 1)
    bins = [
        (float(confidence[place == b].mean()), float(right[place == b].mean()), int((place == b).sum()))
        for b in range(BINS)
        if (place == b).any()
    ]
    member = place == np.arange(BINS)[:, None]
    drawn = np.random.default_rng(0).random((CALIBRATED_DRAWS, len(truth))) < confidence
    shown = np.abs((drawn - confidence) @ member.T).sum(axis=1) / max(1, len(truth))
    ece = sum(abs(c - r) * n for c, r, n in bins) / max(1, len(truth))
    return Calibration(float(ece), float(shown.mean()), float(((probability - truth) ** 2).mean()), bins)


@dataclass(slots=True)
class PixelCounts:
    """Pixels of one label, added up picture by picture."""

    both: int = 0
    found: int = 0
    truth: int = 0
    overlaps: list[float] = field(default_factory=list)

    def add(self, truth: Bools, found: Bools) -> None:
        """Count one picture."""
        both, t, f = int((truth & found).sum()), int(truth.sum()), int(found.sum())
        self.both, self.truth, self.found = self.both + both, self.truth + t, self.found + f
        if t or f:
            self.overlaps.append(both / (t + f - both))

    @property
    def precision(self) -> float:
        """Share of found pixels that are right."""
        return _ratio(self.both, self.found)

    @property
    def recall(self) -> float:
        """Share of true pixels that were found."""
        return _ratio(self.both, self.truth)

    @property
    def f1(self) -> float:
        """Of pixels."""
        return _ratio(2 * self.both, self.found + self.truth)

    @property
    def average_iou(self) -> float:
        """Mean over the pictures that show the label or are said to, of intersection / union."""
        return float(np.mean(self.overlaps)) if self.overlaps else 0.0
