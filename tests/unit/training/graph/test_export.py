"""What the shipped graph gives, and what is not written into a bundle."""

from types import SimpleNamespace

import numpy as np
import pytest

from linewatch.anomaly_model.errors import NotFiniteError
from linewatch.anomaly_model.manifest import InputSpec
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.training.families.backbone import Backbone
from linewatch.training.families.extractor import BANK, Extractor
from linewatch.training.families.features import FittedFeatures
from linewatch.training.families.one_class import NearestNeighbours, PositionGaussian
from linewatch.training.families.supervised import CellClassifier
from linewatch.training.families.unet import placeholder
from linewatch.training.graph.export import golden_files, write_model
from linewatch.training.graph.outputs import FittedFamily
from linewatch.training.graph.spec import GraphSpec, Stack
from tests.unit.training.families.test_backbone import SmallNet


@pytest.mark.parametrize(("score", "heat"), [(np.nan, 0.5), (np.inf, 0.5), (0.0, np.nan)])
def test_a_model_without_finite_golden_outputs_is_not_written(score: float, heat: float) -> None:
    picture = np.zeros((1, 64, 64, 3), np.uint8)
    store = SimpleNamespace(is_anomaly=np.array([False, True]), input=lambda _: picture)
    outputs = [np.array([score], np.float32), np.full((1, 1, 8, 8), heat, np.float32)]
    with pytest.raises(NotFiniteError, match="expected"):
        golden_files(SimpleNamespace(run_arrays=lambda _: outputs), store)  # type: ignore[arg-type]


def pretrained() -> Extractor:
    return Backbone("timm:small", "", "", {k: v.numpy() for k, v in SmallNet(bottleneck=False).state_dict().items()}).extractor()


@pytest.mark.parametrize("fine", [True, False])
@pytest.mark.parametrize("family", ["bank", "pretrained", "U-Net"])
def test_labels_have_the_inputs_resolution_or_half_of_it_whichever_family_draws_them(family: str, *, fine: bool) -> None:
    spec = InputSpec(height=64, width=96)
    fitted: FittedFamily
    if family == "U-Net":
        fitted, score = placeholder(3), "U-Net peak"
    else:
        extractor = BANK if family == "bank" else pretrained()
        width, cells = extractor.channels, (64 // extractor.coarse_stride, 96 // extractor.coarse_stride)
        fitted = FittedFeatures(
            extractor,
            NearestNeighbours(np.ones((2, width), np.float32), np.zeros(2, np.float32), np.ones((3, 2), np.float32)),
            PositionGaussian(np.ones((2, width), np.float32), np.zeros(2, np.float32), *2 * [np.ones((2, *cells), np.float32)]),
            None, None, CellClassifier((np.ones((2, 2 * width), np.float32),), (np.zeros(2, np.float32),)),
        )  # fmt: skip
        score = f"{extractor.score_prefix}cell peak"
    graph_spec = GraphSpec({family: fitted}, (score,), Stack(np.ones(1), 0.0), family, fine)
    model = write_model(graph_spec, SimpleNamespace(spec=spec))  # type: ignore[arg-type]
    *_, labels = OnnxRuntime(model).run_arrays(np.zeros((1, 64, 96, 3), np.uint8))
    assert labels.shape == ((1, 3, 64, 96) if fine else (1, 3, 32, 48))
