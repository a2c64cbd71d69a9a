"""What a model says of one labelled picture."""

import dataclasses
from dataclasses import dataclass

from linewatch.anomaly_model.detection import Detection, probability
from linewatch.anomaly_model.manifest import Decision, PictureSize
from linewatch.anomaly_model.picture import Rgb
from linewatch.training.data.dataset import Sample
from linewatch.training.data.masks import PackedLabelMap


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of one labelled picture.

    Attributes:
        sample: the picture.
        size: of the picture.
        is_anomaly: the truth.
        score: log-odds; larger is more anomalous.
        probability: that the picture is anomalous, 0 to 1.
        is_anomalous: the answer.
        confidence: probability that the answer is right, 0.5 to 1.
        label_names: labels that were found on it.
        label_map: where, at the graph's own resolution; None for classification models.
    """

    sample: Sample
    size: PictureSize
    is_anomaly: bool
    score: float
    probability: float
    is_anomalous: bool
    confidence: float
    label_names: tuple[str, ...]
    label_map: PackedLabelMap | None

    @classmethod
    def of(cls, sample: Sample, picture: Rgb, detection: Detection, decision: Decision) -> "Prediction":
        """From what was detected on a sample's picture.

        Args:
            sample: the picture.
            picture: as it was read, H x W x 3 uint8.
            detection: on it.
            decision: under which it was detected.
        """
        height, width = picture.shape[:2]
        return cls(
            sample, PictureSize(height=height, width=width), bool(sample.is_anomaly), detection.score,
            probability(detection.score, decision), detection.is_anomalous, detection.confidence,
            tuple(area.name for area in detection.areas[1:]),
            None if detection.label_map is None else PackedLabelMap.pack(detection.label_map),
        )  # fmt: skip

    @property
    def is_right(self) -> bool:
        """Whether the answer is the truth."""
        return self.is_anomalous == self.is_anomaly

    def under(self, decision: Decision) -> "Prediction":
        """The same score under another decision."""
        p = probability(self.score, decision)
        anomalous = self.score > decision.threshold
        return dataclasses.replace(self, probability=p, is_anomalous=anomalous, confidence=p if anomalous else 1 - p)
