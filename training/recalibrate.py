"""A new threshold and confidence for a trained bundle, from pictures of the line where it runs. Nothing is trained."""

from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from linewatch.anomaly_model.bundle import Bundle, check_replaceable, open_bundle, write_bundle
from linewatch.anomaly_model.errors import DatasetError
from linewatch.anomaly_model.manifest import Decision, Json
from linewatch.anomaly_model.progress import ProgressCallback, no_progress
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.training.data.dataset import Dataset
from linewatch.training.evaluation.evaluate import Evaluation, evaluate
from linewatch.training.selection.decision import decide, decide_from_normals, normal_deciles

MINIMUM_NORMAL = 5


@dataclass(frozen=True, slots=True)
class Recalibrated:
    """What recalibration gave.

    Attributes:
        bundle: the new bundle.
        before: the decision that the old bundle made.
        evaluation: the data under the new decision. It was chosen on the same pictures, so it flatters.
    """

    bundle: Bundle
    before: Decision
    evaluation: Evaluation


def recalibrate(
    source: Path, data: Dataset, output: Path, false_alarms: float = 0.01, progress: ProgressCallback = no_progress
) -> Recalibrated:
    """Choose threshold and slope anew on labelled pictures that the model was not trained on.

    With both classes by the best F1, with normal pictures only by the false-alarm rate. The graph stays as it is; compiled
    code is not copied, since a package is made for one bundle.

    Args:
        source: folder of the bundle.
        data: the pictures.
        output: folder of the new bundle.
        false_alarms: with normal pictures only, the share of normal parts that may be called anomalous, 0 to 1.
        progress: told of each picture.

    Raises:
        DatasetError: too few pictures.
    """
    check_replaceable(output)
    bundle = open_bundle(source)
    manifest = bundle.manifest
    if data.normals < MINIMUM_NORMAL:
        raise DatasetError(
            f"{data.source} has {data.normals} normal pictures; recalibration needs at least {MINIMUM_NORMAL}, and anomalous ones "
            "as well if the threshold is to be chosen between both"
        )
    runtime = OnnxRuntime(bundle.read("model.onnx"))
    found = evaluate(runtime, manifest, data, progress)
    scores, truth = found.scores, found.truth
    decision = decide(scores, truth) if truth.any() else decide_from_normals(scores, false_alarms)
    note: Json = {
        "pictures": len(truth), "normal": int((~truth).sum()), "anomaly": int(truth.sum()),
        "threshold_before": manifest.decision.threshold, "rule": "best F1" if truth.any() else f"false alarms {false_alarms:.1%}",
    }  # fmt: skip
    changed = msgspec.structs.replace(
        manifest,
        decision=decision,
        score_range=msgspec.structs.replace(
            manifest.score_range, low=min(manifest.score_range.low, float(scores.min())),
            high=max(manifest.score_range.high, float(np.max(scores))), normal_deciles=normal_deciles(scores, truth),
        ),
        training={**manifest.training, "recalibrated": note},
        files={},
    )  # fmt: skip
    evaluation = found.under(decision)
    changed = msgspec.structs.replace(changed, evaluation={**evaluation.as_json(), "chosen_on_these_pictures": True})
    files = {name: bundle.read(name) for name in manifest.files if not name.startswith("compiled/")}
    return Recalibrated(write_bundle(output, changed, files), manifest.decision, evaluation)
