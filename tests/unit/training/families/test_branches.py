import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier

from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.training.families.one_class import NearestNeighbours, PositionGaussian
from linewatch.training.families.supervised import NEVER, CellClassifier
from linewatch.training.graph.bank import FEATURES, write_bank
from linewatch.training.graph.color import write_color
from linewatch.training.graph.writer import GraphWriter

H, W = 64, 96


def run(data: bytes, picture: np.ndarray) -> list[np.ndarray]:
    return OnnxRuntime(data).run_arrays(picture)


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, H, W, 3), np.uint8)


def test_nearest_neighbour_branch_equals_the_plain_formula(noise: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    branch = NearestNeighbours.fit(rng.normal(size=(300, FEATURES)).astype(np.float32), rng, dimensions=8, size=40)
    g = GraphWriter(H, W)
    coarse = g.pool("AveragePool", write_bank(g, write_color(g)), 2, 2)
    distance, _ = branch.write(g, coarse)
    found, cells = run(g.build([distance, coarse]), noise)
    points = np.einsum("df,fhw->dhw", branch.projection, cells[0]) + branch.offset[:, None, None]
    exact = np.sqrt(((points[None] - branch.bank[:, :, None, None]) ** 2).sum(axis=1)).min(axis=0)
    assert np.abs(found[0, 0] - exact).max() < 1e-2 * exact.max()


def test_position_branch_knows_what_is_normal_where(noise: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    g = GraphWriter(H, W)
    coarse = g.pool("AveragePool", write_bank(g, write_color(g)), 2, 2)
    [usual] = run(g.build([coarse]), noise)
    maps = (usual + rng.normal(0, 0.01, (12, *usual.shape[1:]))).astype(np.float32)
    branch = PositionGaussian.fit(maps, rng, dimensions=12)
    g = GraphWriter(H, W)
    coarse = g.pool("AveragePool", write_bank(g, write_color(g)), 2, 2)
    distance, scores = branch.write(g, coarse)
    runtime = OnnxRuntime(g.build([distance, scores["position peak"].value]))
    same, _ = runtime.run_arrays(noise)
    moved, peak = runtime.run_arrays(noise[:, :, ::-1].copy())
    exact = (
        np.einsum("df,fhw->dhw", branch.projection, usual[0]) + branch.offset[:, None, None] - branch.mean
    ) * branch.precision
    assert same[0, 0] == pytest.approx(np.sqrt((exact**2).mean(axis=0)), rel=1e-2, abs=1e-2)
    # The same content elsewhere is not normal.
    assert moved.mean() > 3 * same.mean()
    assert peak.item() > same.max()


@pytest.mark.parametrize("labels", [1, 3])
def test_segmentation_branch_learns_and_writes_what_it_learnt(noise: np.ndarray, labels: int) -> None:
    rng = np.random.default_rng(2)
    classes = rng.integers(0, labels + 1, 1500)
    cells = rng.normal(0, 0.3, (1500, 2 * FEATURES)).astype(np.float32)
    cells[np.arange(1500), classes] += 2
    branch = CellClassifier.fit(cells, classes, labels, 0, epochs=12)

    def forward(x: np.ndarray) -> np.ndarray:
        for i, (weight, bias) in enumerate(zip(branch.weights, branch.biases, strict=True)):
            x = x @ weight.T + bias
            x = np.maximum(x, 0) if i < 2 else x
        return x

    logits = np.concatenate([np.zeros((1500, 1)), forward(cells)], axis=1)
    assert (logits.argmax(axis=1) == classes).mean() > 0.97
    g = GraphWriter(H, W)
    features = write_bank(g, write_color(g))
    written, cell, context = run(
        g.build([branch.write_logits(g, features), features, g.pool("AveragePool", features, 5, 1)]), noise
    )
    expected = forward(np.concatenate([cell[0], context[0]]).reshape(2 * FEATURES, -1).T)
    assert np.abs(written[0].reshape(labels, -1).T - expected).max() < 1e-3 * max(1, np.abs(expected).max())


def test_an_interrupt_ends_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MLPClassifier, "_backprop", interrupted)
    with pytest.raises(KeyboardInterrupt):
        CellClassifier.fit(np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32), np.arange(40) % 2, 1, 0, epochs=1)


def test_a_label_without_cells_is_never_found() -> None:
    rng = np.random.default_rng(0)
    classes = rng.choice([0, 2], 400)
    cells = rng.normal(0, 0.3, (400, 2 * FEATURES)).astype(np.float32)
    cells[np.arange(400), classes] += 2
    branch = CellClassifier.fit(cells, classes, 3, 0, epochs=6)
    assert branch.biases[-1][[0, 2]] == pytest.approx(NEVER)
    assert not branch.weights[-1][[0, 2]].any()
    assert branch.weights[-1][1].any()
