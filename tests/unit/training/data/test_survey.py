"""Training on pictures as a line gives them: of two sizes, some damaged. What was done is in the bundle."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

from linewatch.anomaly_model.errors import DatasetError, LinewatchError
from linewatch.anomaly_model.manifest import PictureSize
from linewatch.training.data.reading import read_dataset
from linewatch.training.options import TrainingOptions
from linewatch.training.train import train


@pytest.fixture
def folder(parts: Path, tmp_path: Path) -> Path:
    """18 + 18 training and 8 + 8 test pictures; one of each set is smaller, one of the training ones is damaged."""
    for split in ("train", "test"):
        for kind in ("normal", "anomaly"):
            shutil.copytree(parts / split / kind, tmp_path / split / kind)
        path = tmp_path / split / "normal" / "normal-000.png"
        with Image.open(path) as image:
            image.resize((160, 120)).save(path)
    (tmp_path / "train" / "anomaly" / "anomaly-003.png").write_bytes(b"damaged")
    return tmp_path


@pytest.mark.slow
def test_what_was_resized_and_left_out_is_in_the_bundle(folder: Path, tmp_path: Path) -> None:
    options = TrainingOptions(side=64, net_steps=0, encoder="none", leave_out=True, resize=True)
    manifest = train(read_dataset(folder / "train"), tmp_path / "b", options, read_dataset(folder / "test")).bundle.manifest
    assert manifest.picture == PictureSize(height=240, width=320)
    assert (manifest.training["sizes"], manifest.training["other_sizes"]) == ({"320x240": 34, "160x120": 1}, "resize")
    assert manifest.training["skipped"] == ["anomaly/anomaly-003.png"]
    assert manifest.evaluation["pictures"] == 16


def test_a_test_set_is_looked_at_before_training(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "anomaly" / "anomaly-003.png").unlink()
    (folder / "train" / "normal" / "normal-000.png").unlink()
    with pytest.raises(DatasetError, match=r"test cannot be used:\n  1 of 16 pictures are not of the size of the training pictures, 320x240"):
        train(read_dataset(folder / "train"), tmp_path / "b", TrainingOptions(side=64, net_steps=0, encoder="none"), read_dataset(folder / "test"))
    assert not list(tmp_path.glob("b*"))


def test_names_that_no_model_may_have_and_places_that_are_taken_are_refused_before_training(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LinewatchError, match="cannot be called 'a b'"):
        TrainingOptions(name="a b")
    (tmp_path / "file").touch()
    with pytest.raises(LinewatchError, match="file is a file; a bundle is a folder"):
        train(read_dataset(folder / "train"), tmp_path / "file", TrainingOptions())
