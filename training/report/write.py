"""Gathers what the report shows and fills the template."""

from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from linewatch.anomaly_model.detection import draw_mask
from linewatch.anomaly_model.errors import PictureError
from linewatch.anomaly_model.files import replace_file
from linewatch.anomaly_model.manifest import Manifest
from linewatch.anomaly_model.progress import ProgressCallback, no_progress
from linewatch.training.data.dataset import read_sample
from linewatch.training.data.masks import read_mask
from linewatch.training.evaluation.evaluate import Evaluation, worst_first
from linewatch.training.evaluation.prediction import Prediction
from linewatch.training.metrics import curves
from linewatch.training.report import plots
from linewatch.training.report.overlay import data_url, heatmap
from linewatch.training.selection.choice import Choice
from linewatch.training.suggestion.suggest import FILE_NAME, Suggestion, Suggestions

MOST_SUGGESTED = 12
"""Pictures to label next that are shown."""


@dataclass(frozen=True, slots=True)
class Card:
    """One picture of the gallery; pictures as data URLs."""

    prediction: Prediction
    verdict: str
    picture: str
    overlay: str
    mask: str | None
    truth: str | None


def write_report(
    path: Path, manifest: Manifest, evaluation: Evaluation | None, choice: Choice | None, source: str,
    progress: ProgressCallback = no_progress, suggestions: Suggestions | None = None,
) -> None:  # fmt: skip
    """Write the report of a training run to one HTML file; without an evaluation it has no curves and no gallery.

    Args:
        path: of the file; missing folders are made.
        manifest: of the model.
        evaluation: on test pictures; None when there were none.
        choice: of the scores; None with normal pictures only.
        source: what the report calls the training data.
        progress: told of each picture.
        suggestions: which pictures to label next; None when nobody asked.
    """
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
            "cards": _cards(manifest, evaluation, progress),
        }  # fmt: skip
    html = environment.get_template("report.html").render(
        manifest=manifest,
        training=manifest.training,
        evaluation=evaluation,
        choice=choice,
        source=source,
        suggestions=suggestions,
        suggested=_suggested(suggestions) if suggestions else [],
        suggestions_file=FILE_NAME,
        **shown,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, html.encode())


def _suggested(suggestions: Suggestions) -> list[tuple[Suggestion, str | None]]:
    """The first few, each with its thumbnail; None where the picture has gone since it was looked at."""
    found: list[tuple[Suggestion, str | None]] = []
    for suggestion in suggestions.pictures[:MOST_SUGGESTED]:
        try:
            found.append((suggestion, data_url(read_sample(suggestion.sample), "JPEG")))
        except PictureError:
            found.append((suggestion, None))
    return found


def _cards(manifest: Manifest, evaluation: Evaluation, progress: ProgressCallback) -> list[Card]:
    shown = [i for i in worst_first(evaluation.predictions) if i in evaluation.anomaly_maps]
    cards = []
    for n, i in enumerate(shown):
        progress("writing the report", n, len(shown))
        prediction = evaluation.predictions[i]
        picture = read_sample(prediction.sample)
        mask = truth = None
        if prediction.label_map is not None:
            mask = data_url(draw_mask(prediction.label_map.unpack(), manifest.labels, *picture.shape[:2]), "PNG")
            if prediction.sample.mask is not None:
                known = read_mask(prediction.sample, manifest.labels, *picture.shape[:2])
                truth = data_url(draw_mask(known, manifest.labels, *picture.shape[:2]), "PNG")
        overlay = data_url(heatmap(picture, evaluation.anomaly_maps[i]), "JPEG")
        cards.append(Card(prediction, _verdict(prediction), data_url(picture, "JPEG"), overlay, mask, truth))
    progress("writing the report", len(shown), len(shown))
    return cards


def _verdict(prediction: Prediction) -> str:
    if prediction.is_right:
        return "right"
    return "false alarm" if prediction.is_anomalous else "missed"
