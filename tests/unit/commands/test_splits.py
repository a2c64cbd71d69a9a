from pathlib import Path

import pytest

from linewatch.anomaly_model.errors import DatasetError
from linewatch.commands.splits import find_splits
from tests.unit.training.data.test_dataset import line, save, write_manifest


def test_train_and_test_folders(tmp_path: Path) -> None:
    for split in ("train", "test"):
        save(tmp_path / split / "normal" / "n.png")
    train, test = find_splits(tmp_path)
    assert (train.normals, test.normals) == (1, 1)


def test_one_folder_is_split_in_each_class_without_overlap(tmp_path: Path) -> None:
    for kind, count in (("normal", 20), ("anomaly", 10)):
        for i in range(count):
            save(tmp_path / kind / f"{i:02d}.png")
    train, test = find_splits(tmp_path)
    assert (train.normals, train.anomalies, test.normals, test.anomalies) == (14, 7, 6, 3)
    assert not {s.path for s in train.samples} & {s.path for s in test.samples}


def test_getting_started_layout(tmp_path: Path) -> None:
    save(tmp_path / "set" / "images" / "a.png")
    (tmp_path / "set" / "manifests").mkdir()
    write_manifest(tmp_path / "set" / "manifests" / "m.manifest", [line("images/a.png")])
    for name in ("test-normal-1.png", "test-anomaly-1.png", "readme.png"):
        save(tmp_path / "test-images" / name)
    train, test = find_splits(tmp_path)
    assert train.normals == 1
    assert (test.normals, test.anomalies, test.unlabelled) == (1, 1, 1)


def test_anything_else_is_explained(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="Expected train/ and test/"):
        find_splits(tmp_path)
