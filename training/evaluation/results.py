"""EvaluationResult and EvaluationManifest: the two files that the cloud service wrote after training."""

from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image

from linewatch.anomaly_model.detection import draw_mask
from linewatch.anomaly_model.files import replace_file
from linewatch.anomaly_model.manifest import Json, Manifest
from linewatch.anomaly_model.progress import ProgressCallback, no_progress
from linewatch.training.evaluation.evaluate import Evaluation
from linewatch.training.evaluation.prediction import Prediction

JOB_NAME = "training-job/anomaly-detection"


def evaluation_result(manifest: Manifest, evaluation: Evaluation, training_pictures: int, when: datetime) -> Json:
    """The EvaluationResult document. Pixel metrics are left out for classification models: clients make a table of it.

    Args:
        manifest: of the model.
        evaluation: what to tell.
        training_pictures: number of pictures that the model was trained on.
        when: time of the evaluation.
    """
    m = evaluation.metrics
    metrics: Json = {
        "ROCAUC": m.roc_auc, "AveragePrecision": m.average_precision, "Precision": m.precision, "Recall": m.recall,
        "F1Score": m.f1,
    }  # fmt: skip
    if manifest.is_segmentation:
        metrics["PixelAnomalyClassMetrics"] = [
            {"Precision": lb.pixels.precision, "Recall": lb.pixels.recall, "F1Score": lb.pixels.f1,
             "AIOU": lb.pixels.average_iou, "ClassName": lb.name}
            for lb in evaluation.labels
        ]  # fmt: skip
    return {
        "Version": 1,
        "EvaluationDetails": {
            "ModelArn": manifest.model.arn,
            "EvaluationEndTimestamp": _timestamp(when),
            "NumberOfTrainingImages": training_pictures,
            "NumberOfTestingImages": m.pictures,
        },
        "AggregatedEvaluationResults": {"Metrics": metrics},
    }


def _timestamp(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")


def evaluation_line(manifest: Manifest, prediction: Prediction, when: datetime, mask: str | None) -> Json:
    """One line of the EvaluationManifest.

    Args:
        manifest: of the model.
        prediction: of the picture.
        when: time of the evaluation.
        mask: where the predicted mask lies; None without segmentation.
    """
    now = _timestamp(when)

    def class_name(anomaly: bool) -> str:
        return "anomaly" if anomaly else "normal"

    line: dict[str, Any] = {
        "source-ref": prediction.sample.name,
        "source-ref-metadata": {"creation-date": now},
        **({} if prediction.sample.line is None else prediction.sample.line),
    }
    if prediction.sample.line is None:
        line["anomaly-label"] = int(prediction.is_anomaly)
        line["anomaly-label-metadata"] = {
            "class-name": class_name(prediction.is_anomaly), "type": "groundtruth/image-classification", "human-annotated": "yes",
            "creation-date": now, "job-name": "labeling-job/anomaly-label",
        }  # fmt: skip
    model = {"model-arn": manifest.model.arn, "project-name": manifest.model.name, "model-version": manifest.model.version}
    line["anomaly-label-detected"] = int(prediction.is_anomalous)
    line["anomaly-label-detected-metadata"] = {
        "class-name": class_name(prediction.is_anomalous), "confidence": round(prediction.confidence, 6),
        "type": "groundtruth/image-classification", "human-annotated": "no", "creation-date": now, "job-name": JOB_NAME, **model,
    }  # fmt: skip
    if mask is not None:
        colors = {"0": {"class-name": "BACKGROUND", "hex-color": "#ffffff", "confidence": 0.0}}
        for i, label in enumerate(manifest.labels):
            colors[str(i + 1)] = {"class-name": label.name, "hex-color": label.hex_color, "confidence": 0.0}
        line["anomaly-mask-ref-detected"] = mask
        line["anomaly-mask-ref-detected-metadata"] = {
            "internal-color-map": colors, "type": "groundtruth/semantic-segmentation", "human-annotated": "no",
            "creation-date": now, "job-name": JOB_NAME, **model,
        }  # fmt: skip
    return line


def write_results(
    folder: Path, manifest: Manifest, evaluation: Evaluation, training_pictures: int,
    progress: ProgressCallback = no_progress, masks_at: str = "masks/",
) -> tuple[Path, Path]:  # fmt: skip
    """Write both files, and for segmentation the predicted masks below `masks/`; returns the two paths.

    Args:
        folder: where to write.
        manifest: of the model.
        evaluation: what to tell.
        training_pictures: number of pictures that the model was trained on.
        progress: told of each picture.
        masks_at: how the lines call the folder of the masks: where the files will lie in the end.
    """
    when = datetime.now(UTC)
    stem = f"{manifest.model.name}-{manifest.model.version}"
    lines = []
    for i, prediction in enumerate(evaluation.predictions):
        progress("writing results", i, len(evaluation.predictions))
        mask = None
        if manifest.is_segmentation:
            name = f"{i:05d}-{Path(prediction.sample.name).stem}.png"
            mask = f"{masks_at}{name}"
            assert prediction.label_map is not None
            drawn = draw_mask(prediction.label_map.unpack(), manifest.labels, prediction.size.height, prediction.size.width)
            buffer = BytesIO()
            Image.fromarray(drawn).save(buffer, "PNG")
            (folder / "masks").mkdir(parents=True, exist_ok=True)
            replace_file(folder / "masks" / name, buffer.getvalue())
        lines.append(msgspec.json.encode(evaluation_line(manifest, prediction, when, mask)))
    progress("writing results", len(evaluation.predictions), len(evaluation.predictions))
    result, listing = folder / f"EvaluationResult-{stem}.json", folder / f"EvaluationManifest-{stem}.json"
    folder.mkdir(parents=True, exist_ok=True)
    document = msgspec.json.encode(evaluation_result(manifest, evaluation, training_pictures, when))
    replace_file(result, msgspec.json.format(document) + b"\n")
    replace_file(listing, b"\n".join(lines) + b"\n")
    return result, listing
