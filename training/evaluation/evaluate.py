"""What a bundle's graph says of labelled pictures, and how good that is. All numbers come from the exported graph."""

from dataclasses import dataclass, field

import numpy as np

from linewatch.anomaly_model.detection import detect
from linewatch.anomaly_model.errors import DatasetError
from linewatch.anomaly_model.manifest import Decision, Json, Manifest
from linewatch.anomaly_model.progress import ProgressCallback, no_progress
from linewatch.anomaly_model.runtime import Runtime
from linewatch.training.arrays import F32, F64, Bools
from linewatch.training.data.dataset import Dataset, read_sample
from linewatch.training.data.masks import read_mask, resize_nearest
from linewatch.training.evaluation.prediction import Prediction
from linewatch.training.metrics import (
    Calibration,
    ImageMetrics,
    PixelCounts,
    bootstrap,
    calibration,
    f1_score,
    image_metrics,
)

MOST_SHOWN = 200
"""Pictures of which anomaly maps are kept for reports. All errors come first; beyond this the clearest right answers are left out."""
TELLING_PICTURES = 10
"""Fewer test pictures of a class than this cannot tell a good model from a lucky one."""


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
    """A bundle on a test set.

    Attributes:
        predictions: of every picture.
        metrics, calibration: over pictures.
        intervals: 95 % confidence intervals by metric.
        labels: how well each label is found; empty for classification.
        warnings: for people.
        anomaly_maps: by the prediction's place in `predictions`, of the first `MOST_SHOWN` by `worst_first`: what reports show.
    """

    predictions: list[Prediction]
    metrics: ImageMetrics
    calibration: Calibration
    intervals: dict[str, list[float]]
    labels: list[LabelMetrics] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    anomaly_maps: dict[int, F32] = field(default_factory=dict)

    @property
    def scores(self) -> F64:
        """N scores."""
        return np.array([p.score for p in self.predictions])

    @property
    def truth(self) -> Bools:
        """N, whether anomalous."""
        return np.array([p.is_anomaly for p in self.predictions], bool)

    def under(self, decision: Decision) -> "Evaluation":
        """The same predictions under another decision. Nothing is run again; anomaly maps are not kept."""
        predictions = [p.under(decision) for p in self.predictions]
        return _assess(predictions, self.labels, decision.threshold, {})

    def as_json(self) -> Json:
        """For bundle.json."""
        return {
            **{k: round(v, 6) for k, v in self.metrics.as_json().items()},
            "intervals_95": self.intervals,
            "ece": round(self.calibration.ece, 4),
            "ece_if_calibrated": round(self.calibration.ece_if_calibrated, 4),
            "brier": round(self.calibration.brier, 4),
            "average_iou": {lb.name: round(lb.pixels.average_iou, 4) for lb in self.labels},
            "label_f1": {lb.name: round(lb.picture_f1, 4) for lb in self.labels},
            "warnings": self.warnings,
        }


def evaluate(runtime: Runtime, manifest: Manifest, test: Dataset, progress: ProgressCallback = no_progress) -> Evaluation:
    """Predict every picture of a labelled dataset, each once, and measure how good that is.

    Args:
        runtime: of the model.
        manifest: of the model.
        test: the pictures.
        progress: told of each picture.

    Raises:
        DatasetError: there are no labelled pictures, or one cannot be read.
    """
    if not test.samples:
        raise DatasetError(f"{test.source} has no labelled pictures to evaluate on")
    predictions: list[Prediction] = []
    maps: dict[int, F32] = {}
    counts = {label.name: PixelCounts() for label in manifest.labels}
    shown: dict[str, list[tuple[bool, bool]]] = {label.name: [] for label in manifest.labels}
    names = {label.name for label in test.labels}
    for i, sample in enumerate(test.samples):
        progress("evaluating", i, len(test.samples))
        picture = read_sample(sample)
        detection = detect(picture, runtime, manifest)
        predictions.append(Prediction.of(sample, picture, detection, manifest.decision))
        maps[i] = detection.anomaly_map.copy()
        if len(maps) > 2 * MOST_SHOWN:
            maps = _worst_maps(predictions, maps)
        if names and detection.label_map is not None and (sample.mask is not None or not sample.is_anomaly):
            mask = read_mask(sample, manifest.labels, *picture.shape[:2])
            found = resize_nearest(detection.label_map, *picture.shape[:2])
            for k, label in enumerate(manifest.labels):
                truth, answer = mask == k + 1, found == k + 1
                counts[label.name].add(truth, answer)
                shown[label.name].append((bool(truth.any()), bool(answer.any())))
    progress("evaluating", len(test.samples), len(test.samples))
    labels = []
    for name, pairs in shown.items():
        if pairs:
            is_there, said = (np.array(v, bool) for v in zip(*pairs, strict=True))
            labels.append(LabelMetrics(name, counts[name], f1_score(said, is_there), int(is_there.sum())))
    return _assess(predictions, labels, manifest.decision.threshold, _worst_maps(predictions, maps))


def worst_first(predictions: list[Prediction]) -> list[int]:
    """Places of predictions: errors first, the most confident ones on top; then by score."""

    def key(i: int) -> tuple[bool, float]:
        p = predictions[i]
        return p.is_right, -p.score if p.is_right else -p.confidence

    return sorted(range(len(predictions)), key=key)


def _worst_maps(predictions: list[Prediction], maps: dict[int, F32]) -> dict[int, F32]:
    """Of the first `MOST_SHOWN`: what would not be among them now will not be later."""
    return {i: maps[i] for i in worst_first(predictions)[:MOST_SHOWN]}


def _assess(
    predictions: list[Prediction], labels: list[LabelMetrics], threshold: float, anomaly_maps: dict[int, F32]
) -> Evaluation:
    scores, truth = np.array([p.score for p in predictions]), np.array([p.is_anomaly for p in predictions], bool)
    return Evaluation(
        predictions,
        image_metrics(scores, truth, threshold),
        calibration(np.array([p.probability for p in predictions]), np.array([p.is_anomalous for p in predictions], bool), truth),
        bootstrap(scores, truth, threshold),
        labels,
        _warnings(truth, labels),
        anomaly_maps,
    )


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
