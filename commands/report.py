"""The demo's report: one HTML file that needs nothing else. Errors first, then by score."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from linewatch.anomaly_model.detection import detect, draw_mask
from linewatch.anomaly_model.files import replace_file
from linewatch.anomaly_model.picture import read_picture
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.training.report.overlay import data_url, heatmap

if TYPE_CHECKING:
    from linewatch.anomaly_model.progress import ProgressCallback
    from linewatch.commands.demo_result import DemoResult, PictureResult


@dataclass(frozen=True, slots=True)
class _Card:
    result: "PictureResult"
    verdict: str
    picture: str
    overlay: str
    mask: str | None


@dataclass(frozen=True, slots=True)
class _Dot:
    x: float
    y: float
    is_anomaly: bool
    title: str


def write_report(path: Path, result: "DemoResult", progress: "ProgressCallback") -> None:
    """Write the report. Maps come from ONNX Runtime, which packaging verified to be equal to what the agent ran."""
    bundle = result.package.bundle
    runtime = OnnxRuntime(bundle.read("model.onnx"))
    rows = sorted(result.pictures, key=lambda r: (r.answer == r.is_anomaly, -r.score))
    cards = []
    for i, row in enumerate(rows):
        progress("writing the report", i, len(rows))
        picture = read_picture(row.path)
        detection = detect(picture, runtime, bundle.manifest)
        mask = None
        if detection.label_map is not None:
            mask = data_url(draw_mask(detection.label_map, bundle.manifest.labels, *picture.shape[:2]), "PNG")
        cards.append(_Card(row, _verdict(row), data_url(picture, "JPEG"), data_url(heatmap(picture, detection.anomaly_map), "JPEG"), mask))
    progress("writing the report", len(rows), len(rows))
    environment = Environment(
        loader=PackageLoader("linewatch.commands", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    threshold = bundle.manifest.decision.threshold
    dots, line = _strip(result.pictures, threshold)
    html = environment.get_template("report.html").render(
        name=bundle.manifest.model.name, metrics=result.metrics, summary=result.summary, cards=cards, dots=dots, line=line,
        threshold=threshold, variants=result.package.variants, training=bundle.manifest.training,
        labels=bundle.manifest.labels, source=result.test.source,
    )  # fmt: skip
    replace_file(path, html.encode())


def _verdict(result: "PictureResult") -> str:
    if result.answer == result.is_anomaly:
        return "right"
    return "false alarm" if result.answer else "missed"


def _strip(rows: list["PictureResult"], threshold: float) -> tuple[list[_Dot], float]:
    """Scores as dots on a strip 0 to 100 wide, normals above anomalies, and where the threshold lies."""
    values = [*(r.score for r in rows), threshold]
    low, span = min(values), max(max(values) - min(values), 1e-6)

    def place(value: float) -> float:
        return round(9 + 88 * (value - low) / span, 2)

    dots = [
        _Dot(place(r.score), (14 if r.is_anomaly else 5) + 1.6 * (i % 4 - 1.5), r.is_anomaly, f"{r.file}: {r.score:.2f}")
        for i, r in enumerate(rows)
    ]
    return dots, place(threshold)
