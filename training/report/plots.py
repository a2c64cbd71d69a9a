"""Curves of the report as values for SVG: points in a box 100 wide and high, y down. Pure."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linewatch.training.arrays import F64
from linewatch.training.metrics import Calibration, Curves

MOST_POINTS = 300
BARS = 30


@dataclass(frozen=True, slots=True)
class Bar:
    """One bin of the histogram: place, width, and heights of normals and anomalies, 0 to 100."""

    x: float
    width: float
    normal: float
    anomaly: float
    low: float
    high: float
    normals: int
    anomalies: int


def path(x: F64, y: F64) -> str:
    """An SVG path through points 0 to 1, thinned where there are more than eyes can tell."""
    index = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).astype(int))
    return "M" + " L".join(f"{100 * x[i]:.2f},{100 - 100 * y[i]:.2f}" for i in index)


def step_path(x: F64, y: F64) -> str:
    """Like `path`, but level from point to point: what curves of thresholds are."""
    index = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).astype(int))
    x, y = x[index], y[index]
    return path(np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1])


def roc(curves: Curves) -> str:
    """Recall over false alarm rate."""
    return path(curves.false_alarm_rate, curves.recall)


def precision_recall(curves: Curves) -> str:
    """Precision over recall."""
    return step_path(curves.recall, curves.precision)


def reliability(found: Calibration) -> list[tuple[float, float, float, str]]:
    """Dots of the calibration curve: x, y, radius, and what to say; confidence 0.5 to 1 over the width."""
    total = sum(n for _, _, n in found.bins)
    return [
        (round(200 * (c - 0.5), 2), round(100 - 100 * r, 2), round(1.2 + 4 * (n / max(1, total)) ** 0.5, 2),
         f"{n} answers with confidence {c:.3f}: {r:.1%} right")
        for c, r, n in found.bins
    ]  # fmt: skip


def histogram(scores: F64, truth: npt.NDArray[np.bool_], threshold: float) -> tuple[list[Bar], float]:
    """Bars over the range of scores, and the threshold's place."""
    low, high = min(float(scores.min()), threshold), max(float(scores.max()), threshold)
    span = max(high - low, 1e-9)
    low, high = low - 0.02 * span, high + 0.02 * span
    edges = np.linspace(low, high, BARS + 1)
    normals, _ = np.histogram(scores[~truth], edges)
    anomalies, _ = np.histogram(scores[truth], edges)
    top = max(1, int((normals + anomalies).max()))
    bars = [
        Bar(100 * i / BARS, 100 / BARS, 100 * n / top, 100 * a / top, float(edges[i]), float(edges[i + 1]), int(n), int(a))
        for i, (n, a) in enumerate(zip(normals, anomalies, strict=True))
    ]
    return bars, 100 * (threshold - low) / (high - low)
