"""Finds training and held-out pictures in the layouts that people have."""

import dataclasses
from pathlib import Path

from linewatch.anomaly_model.errors import DatasetError
from linewatch.training.data.dataset import Dataset, Sample
from linewatch.training.data.reading import list_pictures, read_dataset

HELD_OUT = 0.3


def find_splits(path: Path) -> tuple[Dataset, Dataset]:
    """Training and test data below `path`.

    Layouts: `train/` and `test/`, each a dataset; `normal/` and `anomaly/` (every third picture or so of each class is
    held out); or a getting-started set: one `*.manifest` for training and `test-images/` whose file names tell the class.

    Raises:
        DatasetError: none of these.
    """
    if (path / "train").is_dir() and (path / "test").is_dir():
        return read_dataset(path / "train"), read_dataset(path / "test")
    if (path / "normal").is_dir() or (path / "anomaly").is_dir():
        return _hold_out(read_dataset(path))
    manifests = sorted(path.glob("*.manifest")) + sorted(path.glob("*/*.manifest")) + sorted(path.glob("*/*/*.manifest"))
    if len(manifests) == 1 and (path / "test-images").is_dir():
        return read_dataset(manifests[0]), _labelled_by_name(path / "test-images")
    raise DatasetError(
        f"{path} has no layout that is known here. Expected train/ and test/ (each with normal/ and anomaly/), or normal/ "
        f"and anomaly/, or one *.manifest file and test-images/; found {len(manifests)} manifests"
    )


def _hold_out(dataset: Dataset) -> tuple[Dataset, Dataset]:
    train: list[Sample] = []
    test: list[Sample] = []
    for kind in (False, True):
        members = [s for s in dataset.samples if s.is_anomaly is kind]
        for i, sample in enumerate(members):
            # Spread over the folder: pictures taken one after the other are alike.
            held_out = int((i + 1) * HELD_OUT) > int(i * HELD_OUT)
            (test if held_out else train).append(sample)
    return dataclasses.replace(dataset, samples=tuple(train)), dataclasses.replace(dataset, samples=tuple(test))


def _labelled_by_name(folder: Path) -> Dataset:
    samples = []
    unlabelled = 0
    for path in list_pictures(folder):
        kinds = [kind for kind in ("normal", "anomaly") if kind in path.stem.lower()]
        if len(kinds) == 1:
            samples.append(Sample(path.name, path, kinds[0] == "anomaly"))
        else:
            unlabelled += 1
    if not samples:
        raise DatasetError(f"no picture in {folder} has 'normal' or 'anomaly' in its name")
    return Dataset(tuple(samples), (), unlabelled, str(folder))
