import numpy as np
import onnx
import pytest

from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.training.graph.bank import FEATURES, STRIDE, filters, write_bank
from linewatch.training.graph.color import write_color
from linewatch.training.graph.writer import GraphWriter

H, W = 64, 96


def run(data: bytes, picture: np.ndarray) -> list[np.ndarray]:
    return OnnxRuntime(data).run_arrays(picture)


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, H, W, 3), np.uint8)


def test_filters_ignore_flat_areas_and_share_a_scale() -> None:
    bank = filters()
    assert bank.shape == (16, 3, 7, 7)
    assert np.abs(bank.sum(axis=(2, 3))).max() < 1e-6
    assert np.abs(bank).sum(axis=(1, 2, 3)) == pytest.approx(2.0)


def test_features_have_the_announced_shape_and_see_edges() -> None:
    flat = np.full((1, H, W, 3), 127, np.uint8)
    edge = flat.copy()
    edge[:, :, W // 2 :] = 255
    g = GraphWriter(H, W)
    bank = g.build([write_bank(g, write_color(g))])
    [still], [lively] = run(bank, flat), run(bank, edge)
    assert still.shape == (1, FEATURES, H // STRIDE, W // STRIDE)
    middle = np.s_[0, :16, 6:10, W // STRIDE // 2]
    assert lively[middle].max() > 0.2
    # Away from the border, where padding makes an edge of its own, flat stays silent.
    assert still[0, :64, 6:10, 10:14].max() < 0.01


def test_unneeded_nodes_are_left_out() -> None:
    g = GraphWriter(H, W)
    features = write_bank(g, write_color(g))
    g.node("Sigmoid", features)
    model = onnx.load_from_string(g.build([features]))
    assert "Sigmoid" not in {n.op_type for n in model.graph.node}
    assert [tuple(d.dim_value for d in o.type.tensor_type.shape.dim) for o in model.graph.output] == [(1, FEATURES, 16, 24)]


