"""Image and pixel metrics; anomaly is the positive class. Pure functions; a zero denominator gives 0."""

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]


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
    f1_all_anomalous: float
    """F1 of calling every picture anomalous: what the F1 must be read beside."""

    def as_json(self) -> dict[str, float]:
        """For summaries."""
        return asdict(self)


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b else 0.0


def roc_auc(scores: npt.NDArray[np.floating], truth: Bools) -> float:
    """Area under the ROC curve: the share of (anomaly, normal) pairs in the right order, ties counted half."""
    positive, negative = scores[truth], scores[~truth]
    if not len(positive) or not len(negative):
        return 0.0
    wins = (positive[:, None] > negative).sum() + 0.5 * (positive[:, None] == negative).sum()
    return float(wins / (len(positive) * len(negative)))


def image_metrics(scores: npt.NDArray[np.floating], truth: Bools, threshold: float) -> ImageMetrics:
    """Metrics of `score > threshold`."""
    flagged = scores > threshold
    tp, fp = int((flagged & truth).sum()), int((flagged & ~truth).sum())
    fn, count = int((~flagged & truth).sum()), len(truth)
    return ImageMetrics(
        count, tp, fp, fn, _ratio(tp, tp + fp), _ratio(tp, tp + fn), _ratio(2 * tp, 2 * tp + fp + fn),
        roc_auc(scores, truth), _ratio(2 * truth.sum(), count + truth.sum()),
    )  # fmt: skip


def average_iou(pairs: list[tuple[Bools, Bools]]) -> float:
    """Mean over pictures of intersection / union of (truth, found), where either has any pixel; 0 when none has."""
    values = [_ratio((t & f).sum(), (t | f).sum()) for t, f in pairs if t.any() or f.any()]
    return float(np.mean(values)) if values else 0.0
