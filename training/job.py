"""Training as a job: `python -P -m linewatch.training.job FOLDER`; see `linewatch.anomaly_model.child_job`."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from linewatch.anomaly_model.child_job import ProgressFile, main
from linewatch.anomaly_model.errors import DatasetError, PictureError
from linewatch.training.data.dataset import Dataset, Sample
from linewatch.training.data.masks import read_mask
from linewatch.training.data.reading import read_dataset
from linewatch.training.data.survey import size_of
from linewatch.training.delivery import write_deliverables
from linewatch.training.families.encoder import AUTO
from linewatch.training.options import EFFORTS, TrainingOptions
from linewatch.training.train import Trained, train


class Rules(msgspec.Struct, frozen=True):
    """How many pictures there must be; see the server's settings of the same names."""

    least_normal: int
    least_anomaly: int
    least_normal_each: int
    least_test_anomaly: int
    least_label: int
    least_label_each: int
    most_train: int
    most_test: int
    most_train_masked: int
    most_test_masked: int
    most_labels: int
    most_labels_in_mask: int


class Spec(msgspec.Struct, frozen=True):
    """What to train.

    Attributes:
        manifest: of the training pictures.
        test_manifest: of the test pictures; None holds a part out.
        root: folder in which s3://BUCKET/KEY is BUCKET/KEY.
        output: folder of the bundle.
        results: folder of the evaluation files.
        masks_at: address below which the predicted masks will lie.
        name: of the project.
        version: of the model.
        arn: of the model.
        effort: see `linewatch.training.options.EFFORTS`.
        rules: for the datasets.
        encoder: see `linewatch.training.options.TrainingOptions`; jobs of earlier versions do not name it.
    """

    manifest: str
    test_manifest: str | None
    root: str
    output: str
    results: str
    masks_at: str
    name: str
    version: str
    arn: str
    effort: str
    rules: Rules
    encoder: str = AUTO


def run(spec: Spec, progress: ProgressFile) -> dict[str, Any]:
    """Train, evaluate, write the files; returns what the API tells of the model.

    Raises:
        DatasetError: the data cannot be used.
    """
    root, results = Path(spec.root), Path(spec.results)
    progress("reading datasets", 0, 1)
    learn = read_dataset(Path(spec.manifest), root, display_name=f"the training dataset of {spec.name}")
    test = read_dataset(Path(spec.test_manifest), root, display_name=f"the test dataset of {spec.name}") if spec.test_manifest else None
    check_rules(learn, test, spec.rules)
    options = TrainingOptions(
        name=spec.name, model_version=spec.version, arn=spec.arn, net_steps=EFFORTS[spec.effort], encoder=spec.encoder
    )  # fmt: skip
    written: list[Path] = []

    def deliver(trained: Trained) -> None:
        written.extend(write_deliverables(results, trained, learn.source, progress, spec.masks_at) or ())

    trained = train(learn, Path(spec.output), options, test, progress, deliver)
    assert trained.evaluation is not None
    result, listing = written
    m = trained.evaluation.metrics
    return {
        "performance": {"F1Score": m.f1, "Recall": m.recall, "Precision": m.precision},
        "evaluation_result": result.name,
        "evaluation_manifest": listing.name,
        "warning": trained.weak,
    }


def check_rules(learn: Dataset, test: Dataset | None, rules: Rules) -> None:
    """Check the numbers of pictures, as the service asked for them.

    Raises:
        DatasetError: names every number that is too small or too large.
    """
    problems = []

    def least(what: str, found: int, wanted: int) -> None:
        if found < wanted:
            problems.append(f"{what}: {found}, at least {wanted} are needed")

    def most(what: str, found: int, limit: int) -> None:
        if found > limit:
            problems.append(f"{what}: {found}, at most {limit} are allowed")

    masked = bool(learn.labels)
    most("anomaly labels", len(learn.labels), rules.most_labels)
    most("training pictures", len(learn.samples), rules.most_train_masked if masked else rules.most_train)
    if test is None:
        least("normal pictures", learn.normals, rules.least_normal)
        least("anomalous pictures", learn.anomalies, rules.least_anomaly)
    else:
        most("test pictures", len(test.samples), rules.most_test_masked if masked else rules.most_test)
        least("normal training pictures", learn.normals, rules.least_normal_each)
        least("normal test pictures", test.normals, rules.least_normal_each)
        least("anomalous test pictures", test.anomalies, rules.least_test_anomaly)
    if masked and not problems:
        sets = [("", learn, rules.least_label)]
        if test is not None:
            sets = [("training ", learn, rules.least_label_each), ("test ", test, rules.least_label_each)]
        for which, dataset, wanted in sets:
            alone, together = _labels_of_pictures(dataset, learn)
            most(f"labels in one {which}mask", together, rules.most_labels_in_mask)
            for label in learn.labels:
                least(f"{which}pictures that show only {label.name!r}", alone[label.name], wanted)
    if problems:
        raise DatasetError("the datasets cannot be trained on: " + "; ".join(problems))


def _labels_of_pictures(dataset: Dataset, learn: Dataset) -> tuple[Counter[str], int]:
    """How many pictures show one label only, by label, and the most labels of a picture.

    A colour map with one label says so; else the mask is looked at.
    """
    alone: Counter[str] = Counter()
    together = 0
    for sample in dataset.samples:
        names = set(sample.colors.values())
        if len(names) > 1:
            names = _labels_in_mask(sample, learn)
        together = max(together, len(names))
        if len(names) == 1:
            alone[names.pop()] += 1
    return alone, together


def _labels_in_mask(sample: Sample, learn: Dataset) -> set[str]:
    try:
        size = size_of(sample)
        mask = read_mask(sample, learn.labels, size.height, size.width)
    except (DatasetError, PictureError):
        return set()  # reported with all other problems by the survey
    return {learn.labels[i - 1].name for i in np.unique(mask) if i}


if __name__ == "__main__":
    sys.exit(main(run, Spec, sys.argv[1:], user_errors=(DatasetError, PictureError)))
