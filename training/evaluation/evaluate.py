"""What a bundle's graph says of labelled pictures, and how good that is. All numbers come from the exported graph."""

from dataclasses import dataclass, field

import numpy as np

from linewatch.anomaly_model.detection import Detection, detect, probability
from linewatch.anomaly_model.errors import DatasetError
from linewatch.anomaly_model.manifest import Json, Manifest
from linewatch.anomaly_model.runtime import Runtime
from linewatch.training.arrays import F64, Bools
from linewatch.training.data.dataset import Dataset, Sample, read_sample
from linewatch.training.data.masks import read_mask, resize_nearest
from linewatch.training.metrics import (
    Calibration,
    ImageMetrics,
    PixelCounts,
    bootstrap,
    calibration,
    f1_score,
    image_metrics,
)
from linewatch.training.workspace import Progress, no_progress

TELLING_PICTURES = 10
"""Fewer test pictures of a class than this cannot tell a good model from a lucky one."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One picture and what the graph said of it."""

    sample: Sample
    is_anomaly: bool
    score: float
    probability: float
    is_anomalous: bool
    confidence: float
    found: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LabelMetrics:
    """How well one label is found.

    Attributes:
        pixels: counts over pictures whose mask is known.
        picture_f1: F1 of "the picture shows this label".
        pictures: pictures that show it.
    """

    name: str
    pixels: PixelCounts
    picture_f1: float
    pictures: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A bundle on a test set."""

    judged: list[Judged]
    metrics: ImageMetrics
    calibration: Calibration
    intervals: dict[str, list[float]]
    labels: list[LabelMetrics] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def scores(self) -> F64:
        """N scores."""
        return np.array([j.score for j in self.judged])

    @property
    def truth(self) -> Bools:
        """N, whether anomalous."""
        return np.array([j.is_anomaly for j in self.judged], bool)

    def as_json(self) -> Json:
        """For bundle.json."""
        return {
            **{k: round(v, 6) for k, v in self.metrics.as_json().items()},
            "intervals_95": self.intervals,
            "ece": round(self.calibration.ece, 4),
            "brier": round(self.calibration.brier, 4),
            "average_iou": {lb.name: round(lb.pixels.average_iou, 4) for lb in self.labels},
            "label_f1": {lb.name: round(lb.picture_f1, 4) for lb in self.labels},
            "warnings": self.warnings,
        }


def evaluate(runtime: Runtime, manifest: Manifest, test: Dataset, progress: Progress = no_progress) -> Evaluation:
    """Judge every picture of a labelled dataset.

    Raises:
        DatasetError: there are no labelled pictures, or one cannot be read.
    """
    if not test.samples:
        raise DatasetError(f"{test.source} has no labelled pictures to evaluate on")
    judged: list[Judged] = []
    counts = {label.name: PixelCounts() for label in manifest.labels}
    shown: dict[str, list[tuple[bool, bool]]] = {label.name: [] for label in manifest.labels}
    names = {label.name for label in test.labels}
    for i, sample in enumerate(test.samples):
        progress("evaluating", i, len(test.samples))
        picture = read_sample(sample)
        detection = detect(picture, runtime, manifest)
        judged.append(_judge(sample, detection, manifest))
        if names and detection.label_map is not None and (sample.mask is not None or not sample.is_anomaly):
            mask = read_mask(sample, manifest.labels, *picture.shape[:2])
            found = resize_nearest(detection.label_map, *picture.shape[:2])
            for k, label in enumerate(manifest.labels):
                truth, answer = mask == k + 1, found == k + 1
                counts[label.name].add(truth, answer)
                shown[label.name].append((bool(truth.any()), bool(answer.any())))
    progress("evaluating", len(test.samples), len(test.samples))
    scores, truth = np.array([j.score for j in judged]), np.array([j.is_anomaly for j in judged], bool)
    labels = []
    for name, pairs in shown.items():
        if pairs:
            is_there, said = (np.array(v, bool) for v in zip(*pairs, strict=True))
            labels.append(LabelMetrics(name, counts[name], f1_score(said, is_there), int(is_there.sum())))
    return Evaluation(
        judged,
        image_metrics(scores, truth, manifest.decision.threshold),
        calibration(np.array([j.probability for j in judged]), truth),
        bootstrap(scores, truth, manifest.decision.threshold),
        labels,
        _warnings(truth, labels),
    )


def _judge(sample: Sample, detection: Detection, manifest: Manifest) -> Judged:
    return Judged(
        sample, bool(sample.is_anomaly), detection.score, probability(detection.score, manifest.decision),
        detection.is_anomalous, detection.confidence, tuple(a.name for a in detection.areas[1:]),
    )  # fmt: skip


def _warnings(truth: Bools, labels: list[LabelMetrics]) -> list[str]:
    found = []
    for kind, count in (("normal", int((~truth).sum())), ("anomalous", int(truth.sum()))):
        if count < TELLING_PICTURES:
            found.append(
                f"only {count} {kind} test pictures: too few to tell; the figures may be far off. Test with {TELLING_PICTURES} or more"
            )
    found += [
        f"only {lb.pictures} test pictures show {lb.name!r}; its figures may be far off"
        for lb in labels
        if lb.pictures < TELLING_PICTURES // 2
    ]
    return found
