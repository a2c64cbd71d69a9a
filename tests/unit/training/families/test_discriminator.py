import numpy as np
import pytest

from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.training.families.discriminator import Discriminator
from linewatch.training.graph.bank import FEATURES, write_bank
from linewatch.training.graph.color import write_color
from linewatch.training.graph.writer import GraphWriter


def forward(net: Discriminator, cells: np.ndarray) -> np.ndarray:
    hidden = np.maximum(cells @ net.weights[0].T + net.biases[0], 0)
    return (hidden @ net.weights[1].T + net.biases[1])[:, 0]


@pytest.mark.slow
def test_unusual_cells_score_higher() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(4, 12))
    normal = (rng.normal(size=(3000, 4)) @ mixing).astype(np.float32)
    net = Discriminator.fit(normal, np.zeros((0, 12), np.float32), 0)
    fresh = (rng.normal(size=(500, 4)) @ mixing).astype(np.float32)
    odd = fresh + rng.normal(0, 1.5, fresh.shape).astype(np.float32)
    assert (forward(net, odd)[:, None] > forward(net, fresh)[None]).mean() > 0.9


@pytest.mark.slow
def test_marked_defects_are_learnt_and_the_seed_decides() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(2000, 6)).astype(np.float32)
    defects = rng.normal(size=(50, 6)).astype(np.float32) * 0.3 + np.array([2, 2, 0, 0, 0, 0], np.float32)
    net = Discriminator.fit(normal, defects, 0)
    assert (forward(net, defects)[:, None] > forward(net, normal)[None]).mean() > 0.9
    again = Discriminator.fit(normal, defects, 0)
    np.testing.assert_array_equal(net.weights[0], again.weights[0])
    assert not np.array_equal(net.weights[0], Discriminator.fit(normal, defects, 1).weights[0])


@pytest.mark.slow
def test_the_graph_gives_the_largest_local_mean() -> None:
    rng = np.random.default_rng(0)
    net = Discriminator.fit(rng.normal(size=(500, FEATURES)).astype(np.float32), np.zeros((0, FEATURES), np.float32), 0)
    picture = rng.integers(0, 256, (1, 64, 64, 3), np.uint8)
    g = GraphWriter(64, 64)
    features = write_bank(g, write_color(g))
    score, cells = OnnxRuntime(g.build([net.write(g, features)["discriminator peak"].value, features])).run_arrays(picture)
    values = forward(net, cells[0].reshape(FEATURES, -1).T).reshape(16, 16)
    means = [values[r : r + 3, c : c + 3].mean() for r in range(14) for c in range(14)]
    assert score.item() >= max(means) - 1e-3
