import numpy as np
import pytest

from linewatch.training.graph.cost import WORK, CostModel, cost_model, count_work
from linewatch.training.graph.writer import GraphWriter


def small(side: int = 16, channels: int = 20) -> bytes:
    g = GraphWriter(side, side)
    planes = g.node("Transpose", g.node("Cast", "picture", to=1), perm=[0, 3, 1, 2])
    x = g.node("Relu", g.conv(planes, np.zeros((channels, 3, 3, 3), np.float32)))
    y = g.node("Relu", g.upsample(g.pool("AveragePool", x, 2, 2), 2))
    weight = g.constant(np.zeros((channels, 1, 3, 3), np.float32))
    z = g.node("Conv", g.node("Add", x, y), weight, kernel_shape=[3, 3], pads=[1] * 4, group=channels)
    return g.build([g.node("Sigmoid", g.node("GlobalMaxPool", g.conv(z, np.zeros((1, channels, 1, 1), np.float32))))])


def test_work_is_counted_by_hand() -> None:
    work = count_work(small())
    assert set(work) == set(WORK)
    assert work["nodes"] == 11, "a Relu costs nothing after a convolution, and something after anything else"
    assert work["dense multiplications"] == 16 * 16 * 32 * 27, "20 channels are computed as 32"
    assert work["pointwise multiplications"] == 16 * 16 * 16 * 20
    assert work["depthwise multiplications"] == 16 * 16 * 20 * 9
    assert work["pooled values"] == 8 * 8 * 20 * 4
    assert work["resized values"] == 16 * 16 * 20
    assert work["reduced values"] == 16 * 16
    assert work["exponentials"] == 1
    assert work["elementwise bytes"] == 4 * 16 * 16 * 20 * (3 + 2)
    assert work["moved bytes"] == 4 * 16 * 16 * 3 * 4


def test_cost_is_the_sum_of_prices() -> None:
    model = CostModel("t", "p", "r", dict.fromkeys(WORK, 0.0) | {"nodes": 1e6, "exponentials": 2e6}, 1, 1, 0, 0)
    assert model.milliseconds(small()) == pytest.approx(13)
    assert model.record()["nanoseconds"]["nodes"] == 1e6


def test_the_prices_in_use_are_those_of_a_processor_and_fit_it() -> None:
    model = cost_model()
    assert set(model.nanoseconds) == set(WORK)
    assert all(price >= 0 for price in model.nanoseconds.values())
    assert model.processor
    assert model.r_squared > 0.98
    assert model.typical_error < 0.1
    costs = [model.milliseconds(small(side, channels)) for side in (16, 64, 256) for channels in (20, 40, 80)]
    assert costs == sorted(costs)
