"""The trainer: fits the branches, weighs them by out-of-fold scores, and writes the bundle.

    read -> cells of every picture -> 5 folds: fit, run the fold's graph on what was held out
         -> stack, threshold, slope from the out-of-fold scores -> fit on everything -> graph -> bundle

Every score comes from running an ONNX graph, the same kind that is shipped.
"""

import time
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from anomaly_model.bundle import Bundle, write_bundle
from anomaly_model.detection import detect
from anomaly_model.errors import DatasetError
from anomaly_model.manifest import (
    GOLDEN_NAME,
    MODEL_NAME,
    Decision,
    Json,
    Manifest,
    ModelIdentity,
    ScoreRange,
)
from anomaly_model.picture import read_picture
from anomaly_model.runtime_onnx import OnnxRuntime
from training.branches import NearestNeighbours, PooledStatistics, Segmentation
from training.cells import Cells, collect_cells, hard_negatives
from training.dataset import Dataset, read_mask
from training.graph import F32, GraphWriter, write_bank
from training.metrics import average_iou, image_metrics
from training.pictures import LoadedSet, Progress, load_set
from training.stack import Stack, choose_threshold, fit_slope, fit_stack, stacked_out_of_fold

FOLDS = 5
MINIMUM_PER_CLASS = 5
"""Fewer cannot be split in folds. Sensible results need more; the evaluation says how good they are."""
GOLDEN_PER_CLASS = 3


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """What a user may choose.

    Attributes:
        name: the model's name.
        model_version: its version, a number as text.
        side: shorter side of the model's input in pixels; larger sees finer defects and is slower.
        seed: same seed, same data, same machine: same model.
    """

    name: str = "model"
    model_version: str = "1"
    side: int = 256
    seed: int = 0


@dataclass(frozen=True, slots=True)
class _Branches:
    neighbours: NearestNeighbours
    pooled: PooledStatistics
    segmentation: Segmentation | None


def _no_progress(_what: str, _done: int, _total: int) -> None:
    pass


def train(
    dataset: Dataset,
    output: Path,
    options: TrainingOptions,
    test: Dataset | None = None,
    progress: Progress = _no_progress,
) -> Bundle:
    """Train on a dataset and write the bundle to the folder `output`.

    Raises:
        DatasetError: the data cannot be used; nothing is written.
    """
    started = time.monotonic()
    if min(dataset.normals, dataset.anomalies) < MINIMUM_PER_CLASS:
        raise DatasetError(
            f"{dataset.source} has {dataset.normals} normal and {dataset.anomalies} anomalous pictures; training needs at "
            f"least {MINIMUM_PER_CLASS} of each class (20 normal and 10 anomalous are a sensible start)"
        )
    data = load_set(dataset, options.side, progress)
    rng = np.random.default_rng(options.seed)
    cells = collect_cells(data, rng, progress)
    folds = _stratified_folds(data.is_anomaly, rng)
    scores, names = _out_of_fold_scores(data, cells, folds, options.seed, progress)
    stack = fit_stack(scores, data.is_anomaly)
    honest = stacked_out_of_fold(scores, data.is_anomaly, folds)
    threshold = choose_threshold(honest, data.is_anomaly)
    decision = Decision(threshold=threshold, slope=fit_slope(honest, data.is_anomaly, threshold))
    progress("fitting the final model", 0, 1)
    branches = _fit(data, cells, np.ones(len(data.names), bool), options.seed)
    model = _final_graph(branches, stack, names, data)
    progress("fitting the final model", 1, 1)
    training: Json = {
        "pictures": len(data.names),
        "normal": dataset.normals,
        "anomaly": dataset.anomalies,
        "unlabelled": dataset.unlabelled,
        "with_mask": int(data.has_mask.sum()),
        "seed": options.seed,
        "folds": FOLDS,
        "branch_weights": {n: round(float(w), 6) for n, w in zip(names, stack.weights, strict=True)},
        "branch_roc_auc": {
            n: round(image_metrics(scores[:, i], data.is_anomaly, 0).roc_auc, 4) for i, n in enumerate(names)
        },
        "out_of_fold": image_metrics(honest, data.is_anomaly, threshold).as_json(),
    }
    runtime = OnnxRuntime(model)
    golden_index = _golden(data.is_anomaly)
    manifest = Manifest(
        format=1,
        model=ModelIdentity(
            # The form that the cloud service gave its models, with a region and account that say "none".
            arn=f"arn:aws:lookoutvision:local:000000000000:model/{options.name}/{options.model_version}",
            name=options.name,
            version=options.model_version,
        ),
        input=data.spec,
        picture=data.picture,
        labels=list(dataset.labels),
        decision=decision,
        score_range=ScoreRange(low=float(honest.min()), high=float(honest.max())),
        training={**training, "seconds": round(time.monotonic() - started, 2)},
        evaluation={},
        tools={p: version(p) for p in ("linewatch", "numpy", "onnx", "onnxruntime", "scikit-learn")},
        files={},
    )
    if test is not None:
        manifest = msgspec.structs.replace(manifest, evaluation=evaluate(runtime, manifest, test, progress))
    files = {MODEL_NAME: model, **_golden_files(runtime, data, golden_index)}
    return write_bundle(output, manifest, files)


def _stratified_folds(truth: npt.NDArray[np.bool_], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    folds = np.zeros(len(truth), np.int64)
    for value in (False, True):
        members = rng.permutation(np.flatnonzero(truth == value))
        folds[members] = np.arange(len(members)) % FOLDS
    return folds


def _fit(data: LoadedSet, cells: Cells, chosen: npt.NDArray[np.bool_], seed: int) -> _Branches:
    """Fit all branches on the chosen pictures."""
    rng = np.random.default_rng([seed, 1])
    neighbours = NearestNeighbours.fit(cells.coarse[chosen[cells.coarse_owner]], rng)
    pooled = PooledStatistics.fit(cells.pooled[chosen], data.is_anomaly[chosen])
    fine = chosen[cells.fine_owner]
    labels = data.coverage.shape[1]
    # A label that no chosen picture shows cannot be learnt, and scikit-learn would drop its class silently.
    if not labels or len(np.unique(cells.fine_class[fine])) != labels + 1:
        return _Branches(neighbours, pooled, None)
    features, classes = cells.fine[fine], cells.fine_class[fine]
    first = Segmentation.fit(features, classes, labels, seed, epochs=8)
    negatives = hard_negatives(data, first, chosen)
    features = np.concatenate([features, negatives])
    classes = np.concatenate([classes, np.zeros(len(negatives), np.int64)])
    return _Branches(neighbours, pooled, Segmentation.fit(features, classes, labels, seed, epochs=24))


def _write_branches(g: GraphWriter, branches: _Branches) -> tuple[dict[str, str], str, str | None, str | None]:
    """Write bank and branches; returns scores, distance map, labels' logits and the strongest logit."""
    features = write_bank(g)
    distance, scores = branches.neighbours.write(g, features)
    scores |= branches.pooled.write(g, features)
    if branches.segmentation is None:
        return scores, distance, None, None
    labels, strongest, extra = branches.segmentation.write(g, features)
    return scores | extra, distance, labels, strongest


def _out_of_fold_scores(
    data: LoadedSet, cells: Cells, folds: npt.NDArray[np.int64], seed: int, progress: Progress
) -> tuple[npt.NDArray[np.float64], list[str]]:
    """N x branch scores, each from a graph that never saw the picture."""
    rows: list[dict[str, float]] = [{} for _ in data.names]
    for fold in range(FOLDS):
        progress("cross-validating", fold, FOLDS)
        g = GraphWriter(data.spec.height, data.spec.width)
        scores, *_ = _write_branches(g, _fit(data, cells, folds != fold, seed))
        runtime = OnnxRuntime(g.build(list(scores.values())), threads=2)
        for i in np.flatnonzero(folds == fold):
            values = runtime.run_arrays(data.inputs[i : i + 1])
            rows[i] = dict(zip(scores, (float(v.reshape(-1)[0]) for v in values), strict=True))
    progress("cross-validating", FOLDS, FOLDS)
    names = [name for name in rows[0] if all(name in row for row in rows)]
    return np.array([[row[name] for name in names] for row in rows]), names


def _final_graph(branches: _Branches, stack: Stack, names: list[str], data: LoadedSet) -> bytes:
    """The graph that is shipped: score, map, and for segmentation labels."""
    g = GraphWriter(data.spec.height, data.spec.width)
    scores, distance, labels, strongest = _write_branches(g, branches)
    # A branch that does not help is not written, and costs nothing on the line.
    used = [(scores[name], weight) for name, weight in zip(names, stack.weights, strict=True) if weight > 0]
    weights = np.array([weight for _, weight in used], np.float32).reshape(1, -1, 1, 1)
    combined = g.conv(g.concat(*(score for score, _ in used)), weights, np.array([stack.bias], np.float32))
    score = g.node("Flatten", combined, axis=0, name="score")
    if labels is None or strongest is None:
        low, high = _normal_distances(branches.neighbours, data)
        # 0.5 at the largest distance that training normals show, so that normal parts stay dark.
        steepness = 6 / max(high - low, 1e-6)
        heat = g.upsample(g.scale(distance, steepness, -steepness * high), 2)
        return g.build([score, g.node("Sigmoid", heat, name="map")])
    heat = g.node("Sigmoid", strongest, name="map")
    fine = g.node(
        "Resize", labels, "", g.constant(np.array([1, 1, 2, 2], np.float32)), name="labels", mode="linear",
        coordinate_transformation_mode="half_pixel",
    )  # fmt: skip
    return g.build([score, heat, fine])


def _normal_distances(neighbours: NearestNeighbours, data: LoadedSet) -> tuple[float, float]:
    """Median and 99.9th percentile of the distance over cells of normal training pictures."""
    g = GraphWriter(data.spec.height, data.spec.width)
    distance, _ = neighbours.write(g, write_bank(g))
    runtime = OnnxRuntime(g.build([distance]), threads=2)
    normals = np.flatnonzero(~data.is_anomaly)[:60]
    values: F32 = np.concatenate([runtime.run_arrays(data.inputs[i : i + 1])[0].ravel() for i in normals])
    return float(np.median(values)), float(np.quantile(values, 0.999))


def _golden(truth: npt.NDArray[np.bool_]) -> list[int]:
    return [int(i) for value in (False, True) for i in np.flatnonzero(truth == value)[:GOLDEN_PER_CLASS]]


def _golden_files(runtime: OnnxRuntime, data: LoadedSet, index: list[int]) -> dict[str, bytes]:
    """Golden pictures at the model's input size, and the raw outputs that every runtime must repeat."""
    files: dict[str, bytes] = {}
    expected: dict[str, F32] = {}
    for n, i in enumerate(index):
        buffer = BytesIO()
        Image.fromarray(data.inputs[i]).save(buffer, "PNG")
        files[f"golden/{n}.png"] = buffer.getvalue()
        for output, value in zip(("score", "map", "labels"), runtime.run_arrays(data.inputs[i : i + 1]), strict=False):
            expected[f"{n}.{output}"] = value
    archive = BytesIO()
    np.savez_compressed(archive, **expected)  # type: ignore[arg-type]
    return {**files, GOLDEN_NAME: archive.getvalue()}


def evaluate(runtime: OnnxRuntime, manifest: Manifest, test: Dataset, progress: Progress = _no_progress) -> Json:
    """Metrics over a labelled dataset, from the exported graph, at the bundle's threshold."""
    scores, truth = [], []
    pairs: dict[str, list[tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]]] = {lb.name: [] for lb in manifest.labels}
    for i, sample in enumerate(test.samples):
        progress("evaluating", i, len(test.samples))
        picture = read_picture(sample.path)
        detection = detect(picture, runtime, manifest)
        scores.append(detection.score)
        truth.append(bool(sample.is_anomaly))
        if test.labels and detection.label_map is not None and (sample.mask is not None or not sample.is_anomaly):
            mask = read_mask(sample, manifest.labels, *picture.shape[:2])
            found = _enlarge(detection.label_map, *picture.shape[:2])
            for k, label in enumerate(manifest.labels):
                pairs[label.name].append((mask == k + 1, found == k + 1))
    progress("evaluating", len(test.samples), len(test.samples))
    metrics = image_metrics(np.array(scores), np.array(truth), manifest.decision.threshold).as_json()
    return {**metrics, "average_iou": {name: round(average_iou(p), 4) for name, p in pairs.items() if p}}


def _enlarge(label_map: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    h, w = label_map.shape
    return np.asarray(label_map[(np.arange(height) * h // height)[:, None], np.arange(width) * w // width])
