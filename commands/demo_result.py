"""What the demo gave: an answer for each held-out picture, and a summary for people and for summary.json."""

from dataclasses import dataclass
from pathlib import Path

import msgspec

from linewatch.packager.package import Package
from linewatch.training.data.dataset import Dataset
from linewatch.training.metrics import ImageMetrics


@dataclass(frozen=True, slots=True)
class PictureResult:
    """One held-out picture and the agent's answer."""

    file: str
    path: Path
    is_anomaly: bool
    answer: bool
    confidence: float
    score: float
    labels: str
    milliseconds: float


class Summary(msgspec.Struct, frozen=True):
    """summary.json."""

    f1: float
    precision: float
    recall: float
    p50_ms: float
    p99_ms: float
    tvm_over_onnxruntime: float
    train_seconds: float
    package_seconds: float
    pictures: int


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo gave."""

    pictures: list[PictureResult]
    metrics: ImageMetrics
    summary: Summary
    package: Package
    test: Dataset
    weak: str
    warnings: tuple[str, ...]
