import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest

from anomaly_model.bundle import Bundle, open_bundle
from anomaly_model.detection import detect
from anomaly_model.errors import DatasetError
from anomaly_model.picture import read_picture
from anomaly_model.runtime_onnx import OnnxRuntime
from packager.measure import golden_inputs
from tests.unit.training.test_dataset import save
from training.dataset import Dataset, read_dataset
from training.train import TrainingOptions, train


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / "data" / "normal" / f"{i}.png")
    with pytest.raises(DatasetError, match="12 normal and 0 anomalous"):
        train(read_dataset(tmp_path / "data"), tmp_path / "bundle", TrainingOptions())
    assert not (tmp_path / "bundle").exists()


def test_bundle_is_verified_segmentation_with_static_shapes(bundle: Bundle) -> None:
    opened = open_bundle(bundle.folder)
    assert opened.manifest.is_segmentation
    assert {label.name for label in opened.manifest.labels} == {"scratch", "dent", "missing hole"}
    assert (opened.manifest.input.height, opened.manifest.input.width) == (128, 176)
    graph = onnx.load_from_string(opened.read("model.onnx")).graph
    assert [o.name for o in graph.output] == ["score", "map", "labels"]
    for value in [*graph.input, *graph.output]:
        assert all(d.dim_value > 0 for d in value.type.tensor_type.shape.dim)


def test_it_finds_defects_it_has_not_seen(bundle: Bundle) -> None:
    evaluation = bundle.manifest.evaluation
    assert evaluation["pictures"] == 16
    assert evaluation["roc_auc"] >= 0.9
    assert set(evaluation["average_iou"]) == {"scratch", "dent", "missing hole"}


def test_golden_outputs_repeat(bundle: Bundle) -> None:
    runtime = OnnxRuntime(bundle.read("model.onnx"))
    inputs, expected = golden_inputs(bundle)
    assert len(inputs) == 6
    for picture, outputs in zip(inputs, expected, strict=True):
        for found, stored in zip(runtime.run_arrays(picture), outputs, strict=True):
            np.testing.assert_allclose(found, stored, rtol=1e-4, atol=1e-4)


@pytest.mark.e2e
def test_same_seed_same_model(parts: Path, bundle: Bundle, tmp_path: Path) -> None:
    again = train(read_dataset(parts / "train"), tmp_path / "b", TrainingOptions(name="parts", model_version="3", side=128))
    assert again.manifest.files["model.onnx"] == bundle.manifest.files["model.onnx"]
    assert again.manifest.decision == bundle.manifest.decision


@pytest.mark.e2e
def test_without_masks_it_is_a_classification_model(parts: Path, tmp_path: Path) -> None:
    full = read_dataset(parts / "train")
    plain = Dataset(tuple(dataclasses.replace(s, mask=None) for s in full.samples), (), 0, "plain")
    made = train(plain, tmp_path / "b", TrainingOptions(side=64))
    detection = detect(read_picture(full.samples[0].path), OnnxRuntime(made.read("model.onnx")), made.manifest)
    assert detection.label_map is None
    assert not made.manifest.is_segmentation
    assert 0 <= detection.anomaly_map.min() <= detection.anomaly_map.max() <= 1
