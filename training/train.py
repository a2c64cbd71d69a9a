"""The trainer: from a dataset to a bundle and its evaluation.

    read -> part held out, near-duplicates kept together -> fit (linewatch.training.fitting) -> one graph -> bundle, evaluation -> reports

Every score comes from running an ONNX graph, the same kind that is shipped.
"""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np

from linewatch.anomaly_model.bundle import Bundle, check_replaceable, write_bundle
from linewatch.anomaly_model.errors import DatasetError, LinewatchError, Remedy
from linewatch.anomaly_model.manifest import MODEL_NAME, Json, Manifest, ModelIdentity, ScoreRange
from linewatch.anomaly_model.picture import to_model_input
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.training.arrays import Ints
from linewatch.training.data.dataset import Dataset, read_sample
from linewatch.training.data.groups import Groups, classes_in_one_group, keep_classes
from linewatch.training.data.holdout import hold_out
from linewatch.training.data.input_size import DEFAULT_SIDE, choose_side
from linewatch.training.data.near_duplicates import leaks, near_duplicates, thumbnail
from linewatch.training.data.pictures import PictureStore, load_pictures
from linewatch.training.data.survey import MOST_SKIPPED, count_sizes, name_size, survey
from linewatch.training.evaluation.evaluate import Evaluation, evaluate
from linewatch.training.graph.cost import cost_model
from linewatch.training.graph.export import golden_files, write_model
from linewatch.training.graph.outputs import FittedFamily
from linewatch.training.metrics import image_metrics
from linewatch.training.options import TrainingOptions
from linewatch.training.selection.choice import Choice
from linewatch.training.selection.decision import normal_deciles
from linewatch.training.selection.fitting import Result, Task, fit
from linewatch.training.selection.graph_cost import affordable_side
from linewatch.training.workspace import Progress, Workspace, fingerprint, no_progress

MINIMUM_PER_CLASS = 5
"""Fewer cannot be split in folds. Sensible results need more; the evaluation says how good they are."""
SUSPICIOUS = 0.9
"""Out-of-fold confidence in the other class from which a label is suspected to be wrong."""
MOST_LISTED = 20
"""Near-duplicates and suspected labels that are named."""
CLASS_NAMES = {False: "normal", True: "anomalous"}
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
    progress: Progress = no_progress,
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
    """
    started = time.monotonic()
    check_replaceable(output)  # else a night's work is found to have no place
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
    workspace = Workspace.open(
        output.with_name(f"{output.name}.unfinished"),
        fingerprint(version("linewatch"), _facts(dataset), _choices(options), test is None),
    )
    try:
        task, dataset, test, notes = _prepare(dataset, test, options, workspace, progress)
        result = fit(task)
    except LinewatchError:  # said before anything slow is done
        workspace.remove()
        raise
    weak = WEAK.format(result.weak) if result.weak else ""
    warnings = tuple(filter(None, [weak, *result.warnings, *notes]))
    model = write_model(result.recipe, task.store)
    runtime = OnnxRuntime(model)
    manifest = _manifest(dataset, test, task, result, model, warnings)
    evaluation = evaluate(runtime, manifest, test, progress) if test is not None else None
    manifest = msgspec.structs.replace(
        manifest,
        training={**manifest.training, "seconds": round(time.monotonic() - started, 2)},
        evaluation=evaluation.as_json() if evaluation else {},
    )
    bundle = write_bundle(output, manifest, {MODEL_NAME: model, **golden_files(runtime, task.store)})
    trained = Trained(bundle, evaluation, result.choice, result.fitted, len(task.store), weak, warnings)
    deliver(trained)
    workspace.remove()
    return trained


def _check_counts(dataset: Dataset) -> None:
    normals, anomalies = dataset.normals, dataset.anomalies
    if normals < MINIMUM_PER_CLASS or 0 < anomalies < MINIMUM_PER_CLASS:
        raise DatasetError(
            f"{dataset.source} has {normals} normal and {anomalies} anomalous pictures; training needs at least "
            f"{MINIMUM_PER_CLASS} of each class, or normal pictures only (20 normal and 10 anomalous are a sensible start)"
        )


def _check_test(dataset: Dataset, test: Dataset) -> None:
    """What would otherwise come to light when training is done."""
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


def _prepare(
    dataset: Dataset, test: Dataset | None, options: TrainingOptions, workspace: Workspace, progress: Progress
) -> tuple[Task, Dataset, Dataset | None, list[str]]:
    """Read the pictures and set a part aside; returns what is to be fitted, its dataset, the test set, and warnings."""
    wanted, width = choose_side(dataset)
    side = options.side or wanted
    if options.side is None and wanted > DEFAULT_SIDE:
        side = affordable_side(count_sizes(dataset).most_common(1)[0][0], wanted, len(dataset.labels), options)
    store = load_pictures(dataset, side, workspace, progress)
    groups = Groups(_named_groups(dataset), near_duplicates(store.thumbnails, store.is_anomaly))
    notes: list[str] = []
    if test is None and options.test_share > 0:
        split = hold_out(store.strata(), groups, options.test_share, options.seed)
        if split is None:
            raise DatasetError(_too_few(dataset, store, groups), Remedy.HOLD_OUT_NONE)
        notes += _given_up(store, split.groups)
        store, groups = store.subset(split.kept), split.groups.subset(split.kept)
        test = dataclasses.replace(dataset, samples=tuple(dataset.samples[i] for i in split.out))
        dataset = dataclasses.replace(dataset, samples=tuple(dataset.samples[i] for i in split.kept))
    groups = keep_classes(groups, store.is_anomaly)
    notes += _given_up(store, groups)
    for value in classes_in_one_group(groups.merged(), store.is_anomaly):
        raise DatasetError(
            f"all {int((store.is_anomaly == value).sum())} {CLASS_NAMES[value]} training pictures of {dataset.source} are of one "
            f"group, which is never divided: nothing would be left to learn from when they are judged. Add {CLASS_NAMES[value]} "
            "pictures of another group"
        )
    at_input = None if width is None else width * store.spec.height / store.picture.height
    why = _side_reason(options, side, wanted, at_input)
    return Task(store, groups.merged(), at_input, why, options, workspace, progress), dataset, test, notes


def _named_groups(dataset: Dataset) -> Ints:
    """The groups that the user named; every other picture is one of its own."""
    names = {name: i for i, name in enumerate(sorted({s.group for s in dataset.samples if s.group is not None}))}
    given = [len(names) + i if s.group is None else names[s.group] for i, s in enumerate(dataset.samples)]
    return np.unique(given, return_inverse=True)[1].astype(np.int64)


def _too_few(dataset: Dataset, store: PictureStore, groups: Groups) -> str:
    counts = []
    for value in (False, True) if dataset.anomalies else (False,):
        mine = store.is_anomaly == value
        several = len(np.unique(groups.named[mine]))
        of = f" (of {several} group{'s' if several > 1 else ''})" if several < mine.sum() else ""
        counts.append(f"{int(mine.sum())} {CLASS_NAMES[value]}{of}")
    return (
        f"{dataset.source} has {' and '.join(counts)} pictures: too few to hold some out for a test and train on the others, which "
        f"takes {MINIMUM_PER_CLASS} of each class from two groups or more"
    )


def _given_up(store: PictureStore, groups: Groups) -> list[str]:
    """What near-duplicates gave way for."""
    return [
        f"{len(members)} {CLASS_NAMES[bool(store.is_anomaly[members[0]])]} pictures look alike "
        f"({', '.join(store.names[i] for i in members[:3])}{', ...' if len(members) > 3 else ''}) and were divided all the same, since "
        "too few of their class would be left without them; if they show one part, the figures flatter"
        for members in groups.given_up
    ]


def _manifest(
    dataset: Dataset, test: Dataset | None, task: Task, result: Result, model: bytes, warnings: tuple[str, ...]
) -> Manifest:
    store, options, scores = task.store, task.options, result.out_of_fold
    training: Json = {
        "pictures": len(store),
        "normal": dataset.normals,
        "anomaly": dataset.anomalies,
        "unlabelled": dataset.unlabelled,
        "skipped": list(dataset.skipped[:MOST_SKIPPED]),
        "sizes": {name_size(size): number for size, number in count_sizes(dataset).most_common()},
        "other_sizes": "resize" if options.resize else "refuse",
        "with_mask": int(store.has_mask.sum()),
        "seed": options.seed,
        "side": min(store.spec.height, store.spec.width),
        "side_why": task.side_why,
        **result.findings,
        "backbone": options.backbone.record() if options.backbone else None,
        "cost": {"milliseconds": round(cost_model().milliseconds(model), 2), **cost_model().record()},
        "weak": bool(result.weak),
        "warnings": list(warnings),
        "out_of_fold": image_metrics(scores, store.is_anomaly, result.decision.threshold).as_json(),
        "near_duplicates": _duplicates(task),
        "test_duplicates": _leaks(task, test) if test is not None and test.source != dataset.source else [],
        "suspected_labels": _suspects(store, result),
    }
    return Manifest(
        format=1,
        model=ModelIdentity(
            # The form that the cloud service gave its models, with a region and account that say "none".
            arn=options.arn or f"arn:aws:lookoutvision:local:000000000000:model/{options.name}/{options.model_version}",
            name=options.name,
            version=options.model_version,
        ),
        input=store.spec,
        picture=store.picture,
        labels=result.labels,
        decision=result.decision,
        score_range=ScoreRange(
            low=float(scores.min()), high=float(scores.max()), normal_deciles=normal_deciles(scores, store.is_anomaly)
        ),
        training=training,
        evaluation={},
        tools={p: version(p) for p in ("linewatch", "numpy", "onnx", "onnxruntime", "scikit-learn", "torch")},
        files={},
    )


def _side_reason(options: TrainingOptions, side: int, wanted: int, defect_width: float | None) -> str:
    if options.side:
        return "as asked for"
    if defect_width is None:
        return f"{DEFAULT_SIDE}, as there are no masks to measure"
    lowered = f"; {wanted} would show more, but a U-Net costs more than {options.budget.ms:g} ms there" if side < wanted else ""
    return f"thin defects are {defect_width:.1f} pixels wide there{lowered}"


def _duplicates(task: Task) -> list[list[str]]:
    groups = np.flatnonzero(np.bincount(task.groups) > 1)[:MOST_LISTED]
    return [[task.store.names[i] for i in np.flatnonzero(task.groups == g)][:MOST_LISTED] for g in groups]


def _leaks(task: Task, test: Dataset) -> list[list[str]]:
    """Test pictures that are nearly the same as training pictures."""
    store = task.store
    seen = np.stack([thumbnail(to_model_input(read_sample(s), store.spec)[0]) for s in test.samples])
    truth = np.array([bool(s.is_anomaly) for s in test.samples])
    pairs = leaks(store.thumbnails, store.is_anomaly, seen, truth)
    return [[test.samples[i].name, store.names[j]] for i, j in pairs[:MOST_LISTED]]


def _suspects(store: PictureStore, result: Result) -> list[Json]:
    """Pictures that the others contradict with confidence: look at these labels first."""
    truth = store.is_anomaly
    if not truth.any():  # with normal pictures only the scale of p is a convention, not evidence
        return []
    z = result.decision.slope * (result.out_of_fold - result.decision.threshold)
    p = 1 / (1 + np.exp(-np.clip(z, -500, 500)))
    against = np.where(truth, 1 - p, p)
    return [
        {"picture": store.names[i], "label": "anomaly" if truth[i] else "normal", "against": round(float(against[i]), 4)}
        for i in np.argsort(-against)[:MOST_LISTED]
        if against[i] > SUSPICIOUS
    ]
