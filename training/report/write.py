"""Gathers what the report shows and fills the template."""

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from linewatch.anomaly_model.detection import detect, draw_mask
from linewatch.anomaly_model.files import replace_file
from linewatch.anomaly_model.runtime import Runtime
from linewatch.training.data.dataset import read_sample
from linewatch.training.data.masks import read_mask
from linewatch.training.evaluation.evaluate import Evaluation, Judged
from linewatch.training.metrics import curves
from linewatch.training.report import plots
from linewatch.training.report.overlay import data_url, heat
from linewatch.training.train import Trained
from linewatch.training.workspace import Progress, no_progress

MOST_CARDS = 200
"""Pictures in the gallery. All errors come first; with more pictures than this the clearest right answers are left out."""


@dataclass(frozen=True, slots=True)
class Card:
    """One picture of the gallery; pictures as data URLs."""

    judged: Judged
    verdict: str
    picture: str
    overlay: str
    mask: str | None
    truth: str | None


def write_report(path: Path, runtime: Runtime, trained: Trained, source: str, progress: Progress = no_progress) -> None:
    """Write the report of a training run to one HTML file; without a test set it has no curves and no gallery."""
    evaluation, manifest = trained.evaluation, trained.bundle.manifest
    environment = Environment(
        loader=PackageLoader("linewatch.training.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    shown: dict[str, object] = {}
    if evaluation is not None:
        lines = curves(evaluation.scores, evaluation.truth)
        bars, threshold = plots.histogram(evaluation.scores, evaluation.truth, manifest.decision.threshold)
        flagged = evaluation.metrics.false_positives
        normals = int((~evaluation.truth).sum())
        shown = {
            "roc": plots.roc(lines), "precision_recall": plots.precision_recall(lines), "bars": bars, "threshold": threshold,
            "reliability": plots.reliability(evaluation.calibration), "false_alarm_rate": flagged / max(1, normals),
            "cards": _cards(runtime, trained, evaluation, progress),
        }  # fmt: skip
    html = environment.get_template("report.html").render(
        manifest=manifest, training=manifest.training, evaluation=evaluation, choice=trained.choice, source=source, **shown
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, html.encode())


def _cards(runtime: Runtime, trained: Trained, evaluation: Evaluation, progress: Progress) -> list[Card]:
    manifest = trained.bundle.manifest
    ordered = sorted(evaluation.judged, key=_worst_first)[:MOST_CARDS]
    cards = []
    for i, judged in enumerate(ordered):
        progress("writing the report", i, len(ordered))
        picture = read_sample(judged.sample)
        detection = detect(picture, runtime, manifest)
        mask = truth = None
        if detection.label_map is not None:
            mask = data_url(draw_mask(detection.label_map, manifest.labels, *picture.shape[:2]), "PNG")
            if judged.sample.mask is not None:
                known = read_mask(judged.sample, manifest.labels, *picture.shape[:2])
                truth = data_url(draw_mask(known, manifest.labels, *picture.shape[:2]), "PNG")
        cards.append(
            Card(
                judged, _verdict(judged), data_url(picture, "JPEG"), data_url(heat(picture, detection), "JPEG"), mask, truth
            )
        )
    progress("writing the report", len(ordered), len(ordered))
    return cards


def _worst_first(judged: Judged) -> tuple[bool, float]:
    """Errors first, the most confident ones on top; then by score."""
    right = judged.is_anomalous == judged.is_anomaly
    return right, -judged.score if right else -judged.confidence


def _verdict(judged: Judged) -> str:
    if judged.is_anomalous == judged.is_anomaly:
        return "right"
    return "false alarm" if judged.is_anomalous else "missed"
