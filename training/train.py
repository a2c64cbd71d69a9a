"""The trainer: from a dataset to a bundle and its evaluation.

    read -> split -> features, fit, choose (linewatch.training.selection.fitting) -> one graph -> predict the test pictures, once -> write

Every score comes from running an ONNX graph, the same kind that is shipped.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec

from linewatch.anomaly_model.bundle import Bundle, check_replaceable, write_bundle
from linewatch.anomaly_model.errors import DatasetError, LinewatchError
from linewatch.anomaly_model.manifest import MODEL_NAME, Json
from linewatch.anomaly_model.progress import ProgressCallback, no_progress
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.training.data.dataset import Dataset
from linewatch.training.data.leaks import find_leaks
from linewatch.training.data.pictures import load_pictures
from linewatch.training.data.split import split
from linewatch.training.data.survey import count_sizes, survey
from linewatch.training.description import describe
from linewatch.training.evaluation.evaluate import Evaluation, evaluate
from linewatch.training.families.encoder import load_encoder
from linewatch.training.graph.export import golden_files, write_model
from linewatch.training.graph.outputs import FittedFamily
from linewatch.training.options import TrainingOptions
from linewatch.training.selection.choice import Choice
from linewatch.training.selection.fitting import Task, fit
from linewatch.training.selection.input_side import choose_input_side
from linewatch.training.workspace import Workspace, fingerprint

MINIMUM_PER_CLASS = 5
"""Fewer cannot be split in folds. Sensible results need more; the evaluation says how good they are."""
WEAK = "The model is not better than calling everything anomalous: {}. Do not rely on it; train on more and clearer pictures"


@dataclass(frozen=True, slots=True)
class Trained:
    """What training made.

    Attributes:
        bundle: the model.
        evaluation: on the test set or the held-out part; None when there was neither.
        choice: None with normal pictures only.
        fitted: every family that was fitted on all training pictures, chosen or not.
        pictures: number of pictures that it was trained on.
        weak: a warning that it is not better than calling everything anomalous; empty when it is, or when there is no telling.
        warnings: everything that people must know of it, that warning first.
    """

    bundle: Bundle
    evaluation: Evaluation | None
    choice: Choice | None
    fitted: dict[str, FittedFamily]
    pictures: int
    weak: str
    warnings: tuple[str, ...]


def no_delivery(_trained: Trained) -> None:
    """For callers that want the bundle only."""


def train(
    dataset: Dataset,
    output: Path,
    options: TrainingOptions,
    test: Dataset | None = None,
    progress: ProgressCallback = no_progress,
    deliver: Callable[[Trained], object] = no_delivery,
) -> Trained:
    """Train on a dataset and write the bundle to the folder `output`.

    Finished steps are kept in `output` + `.unfinished` until everything is written: the same call goes on from there.

    Args:
        dataset: the pictures.
        output: folder of the bundle.
        options: what the user chose.
        test: pictures to evaluate on; None holds a part of the dataset out.
        progress: told of what is done.
        deliver: writes what else is made of the model (results, report), while the finished steps are still there.

    Raises:
        DatasetError: the data cannot be used; nothing is written.
        LinewatchError: the place of the bundle or of the finished steps is taken.
    """
    started = time.monotonic()
    check_replaceable(output)  # else a night's work is found to have no place
    encoder, without_encoder = load_encoder(options.encoder)
    dataset, test = _read(dataset, test, options, progress)
    workspace = Workspace.open(
        output.with_name(f"{output.name}.unfinished"),
        fingerprint(version("linewatch"), _facts(dataset), _choices(options), test is None, encoder is None),
    )
    try:
        side = choose_input_side(dataset, options, encoder)
        store = load_pictures(dataset, side.pixels, workspace, progress)
        parts = split(dataset, store, test, options.test_share, options.seed)
        leaked = find_leaks(parts.store, test) if test is not None and test.source != dataset.source else []
        result = fit(Task(parts.store, parts.groups, side.defect_width, options, workspace, progress, encoder))
    except LinewatchError:  # said before anything slow is done
        workspace.remove()
        raise
    weak = WEAK.format(result.weak) if result.weak else ""
    warnings = tuple(filter(None, [weak, *result.warnings, *parts.warnings]))
    model = write_model(result.graph_spec, parts.store)
    runtime = OnnxRuntime(model)
    manifest = describe(parts, result, options, model, encoder or without_encoder, side=side.reason, leaked=leaked, warnings=warnings)
    evaluation = evaluate(runtime, manifest, parts.test, progress) if parts.test is not None else None
    manifest = msgspec.structs.replace(
        manifest,
        training={**manifest.training, "seconds": round(time.monotonic() - started, 2)},
        evaluation=evaluation.as_json() if evaluation else {},
    )
    bundle = write_bundle(output, manifest, {MODEL_NAME: model, **golden_files(runtime, parts.store)})
    trained = Trained(bundle, evaluation, result.choice, result.fitted, len(parts.store), weak, warnings)
    deliver(trained)
    workspace.remove()
    return trained


def _read(
    dataset: Dataset, test: Dataset | None, options: TrainingOptions, progress: ProgressCallback
) -> tuple[Dataset, Dataset | None]:
    """Survey the pictures, and refuse what cannot be trained or evaluated on."""
    _check_counts(dataset)
    if test is not None:
        _check_test(dataset, test)
    dataset = survey(dataset, leave_out=options.leave_out, resize=options.resize, progress=progress)
    if test is not None and dataset.samples:
        [(common, _)] = count_sizes(dataset).most_common(1)
        test = survey(test, leave_out=options.leave_out, resize=options.resize, expected=common, progress=progress)
    _check_counts(dataset)
    if test is not None:
        _check_test(dataset, test)
    return dataset, test


def _check_counts(dataset: Dataset) -> None:
    normals, anomalies = dataset.normals, dataset.anomalies
    if normals < MINIMUM_PER_CLASS or 0 < anomalies < MINIMUM_PER_CLASS:
        raise DatasetError(
            f"{dataset.source} has {normals} normal and {anomalies} anomalous pictures; training needs at least "
            f"{MINIMUM_PER_CLASS} of each class, or normal pictures only (20 normal and 10 anomalous are a sensible start)"
        )


def _check_test(dataset: Dataset, test: Dataset) -> None:
    """What would otherwise come to light when training is done.

    Raises:
        DatasetError: the test set has no labelled pictures, or masks of labels that the dataset does not know.
    """
    if not test.samples:
        raise DatasetError(f"{test.source} has no labelled pictures to evaluate on")
    unknown = {label.name for label in test.labels} - {label.name for label in dataset.labels}
    if dataset.labels and unknown:
        raise DatasetError(
            f"the test set {test.source} has masks of {sorted(unknown)}, which {dataset.source} does not know; its labels are "
            f"{sorted(label.name for label in dataset.labels)}"
        )


def _facts(dataset: Dataset) -> list[object]:
    """What a run depends on: names, classes, and the files as they are now."""

    def file(path: Path | None) -> object:
        if path is None or not path.is_file():
            return str(path)
        status = path.stat()
        return [str(path), status.st_size, status.st_mtime_ns]

    return [[s.name, s.is_anomaly, s.group, s.colors, file(s.path), file(s.mask)] for s in dataset.samples]


def _choices(options: TrainingOptions) -> Json:
    backbone = options.backbone
    plain = dataclasses.replace(options, backbone=None)
    return {**dataclasses.asdict(plain), "backbone": backbone and [backbone.name, backbone.sha256]}
