"""What GPU code computes: its CUDA source is run on the processor, and must give what ONNX Runtime gives."""

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch

from linewatch.anomaly_model.manifest import InputSpec
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.packager.gpu import GpuError, compile_gpu
from linewatch.packager.targets import Gpu
from linewatch.training.families.extractor import BANK, Extractor
from linewatch.training.families.features import FittedFeatures
from linewatch.training.families.one_class import NearestNeighbours, PositionGaussian
from linewatch.training.families.supervised import CellClassifier, PooledStatistics
from linewatch.training.families.unet import UNet, export
from linewatch.training.graph.color import to_planes
from linewatch.training.graph.export import write_model
from linewatch.training.graph.outputs import FittedFamily
from linewatch.training.graph.spec import GraphSpec, Stack
from tests.cuda import run_gpu_code
from tests.unit.packager.test_kernels import CASES, Net
from tests.unit.training.graph.test_export import pretrained

SIDE = 64
PICTURES = [np.random.default_rng(n).integers(0, 256, (1, SIDE, SIDE, 3), np.uint8) for n in range(2)]
Build = Callable[[Net], str]
Labels = Literal["none", "coarse", "fine"]


def differing(model: bytes, pictures: list[np.ndarray], names: list[str]) -> dict[str, float]:
    """Outputs that are not ONNX Runtime's, with the largest difference; one that is not finite differs by NaN or infinity."""
    runtime, worst = OnnxRuntime(model), dict[str, float]()
    for picture, outputs in zip(pictures, run_gpu_code(model, pictures), strict=True):
        for name, found, right in zip(names, outputs, runtime.run_arrays(picture), strict=True):
            assert found.shape == right.shape, name
            if not np.allclose(found, right, rtol=2e-4, atol=2e-5 * max(1.0, float(np.abs(right).max()))):
                worst[name] = float(np.maximum(worst.get(name, 0.0), np.abs(found - right).max()))
    return worst


def branches(extractor: Extractor) -> FittedFeatures:
    """All branches that need no training, with drawn weights."""
    rng, width = np.random.default_rng(3), extractor.channels
    cells = (SIDE // extractor.coarse_stride,) * 2

    def draw(*shape: int, scale: float = 1.0) -> np.ndarray:
        return rng.normal(0, scale, shape).astype(np.float32)

    return FittedFeatures(
        extractor, NearestNeighbours(draw(8, width, scale=0.2), draw(8), draw(40, 8)),
        PositionGaussian(draw(6, width, scale=0.2), draw(6), draw(6, *cells), np.abs(draw(6, *cells))), None,
        PooledStatistics(draw(2 * width, scale=0.1), 0.3),
        CellClassifier((draw(12, 2 * width, scale=0.1), draw(2, 12)), (draw(12), draw(2))),
    )  # fmt: skip


def one_class(extractor: Extractor) -> FittedFeatures:
    """Branches of a model without labels."""
    return dataclasses.replace(branches(extractor), pooled=None, classifier=None)


def unet() -> FittedFamily:
    torch.manual_seed(0)
    net = UNet(3)
    net.train()
    for picture in PICTURES:  # normalisation statistics that are not the initial ones
        net(torch.from_numpy(to_planes(picture)))
    return export(net)


def exported(fitted: FittedFamily, scores: tuple[str, ...], labels: Labels) -> bytes:
    """A graph as training ships it, from a fitted family and the scores that its stack has."""
    store = SimpleNamespace(spec=InputSpec(height=SIDE, width=SIDE), is_anomaly=np.zeros(2, bool), input=lambda i: PICTURES[i])
    stack = Stack(np.linspace(0.7, 1.3, len(scores)), -1.07)
    spec = GraphSpec({"family": fitted}, scores, stack, None if labels == "none" else "family", labels == "fine")
    return write_model(spec, store)  # type: ignore[arg-type]


BANK_SCORES = ("nearest-neighbour peak", "nearest-neighbour mean", "position peak", "pooled statistics", "cell peak", "cell area")
ARCHITECTURES: dict[str, tuple[Callable[[], FittedFamily], tuple[str, ...], Labels]] = {
    "bank, one score": (lambda: one_class(BANK), ("position peak",), "none"),
    "bank, all scores": (lambda: branches(BANK), BANK_SCORES, "coarse"),
    "pretrained": (lambda: branches(pretrained()), (f"{pretrained().score_prefix}nearest-neighbour peak",), "fine"),
    "U-Net": (unet, ("U-Net peak",), "fine"),
}


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_exported_graphs_compute_what_onnxruntime_computes(architecture: str) -> None:
    make, scores, labels = ARCHITECTURES[architecture]
    names = ["score", "map"] if labels == "none" else ["score", "map", "labels"]
    assert differing(exported(make(), scores, labels), PICTURES, names) == {}


def one(n: Net) -> str:
    """A map of one channel."""
    return n.op("ReduceMax", n.x, axes=[1], keepdims=1)


def cell(n: Net) -> str:
    """A map of one channel and one cell."""
    return n.op("GlobalMaxPool", one(n))


def bent(n: Net, x: str) -> str:
    """Changed so that doing it twice, or to what a reduction starts with, gives something else."""
    return n.op("Add", n.op("Mul", x, n.const(np.float32(-1.5))), n.const(np.float32(2)))


OF_ONE: dict[str, Build] = {
    "conv of a cell": lambda n: n.conv(cell(n), 1, 1, 1),
    "conv of a cell, to scores": lambda n: n.op("Flatten", n.conv(cell(n), 1, 1, 1), axis=0),
    "conv of a cell, sigmoid": lambda n: n.op("Sigmoid", n.conv(cell(n), 1, 1, 1)),
    "conv of a cell, to four": lambda n: n.conv(cell(n), 1, 4, 1),
    "conv of a cell, leaky": lambda n: n.op("LeakyRelu", n.conv(cell(n), 1, 4, 1), alpha=0.1),
    "conv of three, to a cell": lambda n: n.conv(n.op("GlobalMaxPool", n.x), 3, 1, 1),
    "conv of a channel": lambda n: n.conv(one(n), 1, 1, 1),
    "conv of a channel, sigmoid": lambda n: n.op("Sigmoid", n.conv(one(n), 1, 1, 1)),
    "conv of a channel, leaky": lambda n: n.op("LeakyRelu", n.conv(one(n), 1, 4, 1), alpha=0.1),
    "conv of each channel": lambda n: bent(n, n.convolve(n.x, (3, 1, 1, 1), group=3)),
    "conv 3x3 of a channel": lambda n: n.conv(one(n), 1, 1, 3, 1, 1),
    "transposed": lambda n: bent(n, n.convolve(one(n), (1, 2, 2, 2), "ConvTranspose", strides=[2, 2])),
    "dense of one": lambda n: n.op("Gemm", n.op("Flatten", cell(n)), n.const(np.float32([[0.3]])), n.const(np.float32([0.7]))),
    "product of one": lambda n: bent(n, n.op("MatMul", n.op("Flatten", cell(n)), n.const(np.float32([[0.3]])))),
    "largest of one": lambda n: bent(n, n.op("ReduceMax", one(n), axes=[1], keepdims=1)),
    "smallest of one": lambda n: bent(n, n.op("ReduceMin", one(n), axes=[1], keepdims=1)),
    "mean of one": lambda n: bent(n, n.op("ReduceMean", one(n), axes=[1], keepdims=1)),
    "length of one": lambda n: bent(n, n.op("ReduceL2", one(n), axes=[1], keepdims=1)),
    "sum of one": lambda n: bent(n, n.op("ReduceSum", one(n), n.const(np.array([1])))),
    "softmax of one": lambda n: bent(n, n.op("Softmax", one(n), axis=1)),
    "largest of a cell": lambda n: bent(n, n.op("GlobalMaxPool", cell(n))),
    "mean of a cell": lambda n: bent(n, n.op("GlobalAveragePool", cell(n))),
    "max 1x1": lambda n: bent(n, n.op("MaxPool", one(n), kernel_shape=[1, 1])),
    "mean 1x1": lambda n: bent(n, n.op("AveragePool", one(n), kernel_shape=[1, 1])),
    "index of the largest of one": lambda n: bent(n, n.op("Cast", n.op("ArgMax", one(n), axis=1, keepdims=1), to=1)),
}  # fmt: skip


@pytest.mark.slow
def test_reductions_of_one_element_compute_what_onnxruntime_computes() -> None:
    net = Net(12, 20)
    model = net.build(*(build(net) for build in OF_ONE.values()))
    assert differing(model, [np.random.default_rng(0).integers(0, 256, (1, 12, 20, 3), np.uint8)], list(OF_ONE)) == {}


REFUSED = {"padded before pooling": "not properly inlined", "nearest 1.5, half pixel": "which is no whole number"}
"""Cases without GPU code, and what is said: dlight has no schedule for a convolution whose result is padded, TVM's import takes other scales."""
OPERATORS = {case: build for case, build in CASES.items() if case not in REFUSED}


@pytest.mark.slow
def test_operators_compute_what_onnxruntime_computes() -> None:
    net = Net(23, 37)
    model = net.build(*(build(net) for build in OPERATORS.values()))
    assert differing(model, [np.random.default_rng(0).integers(0, 256, (1, 23, 37, 3), np.uint8)], list(OPERATORS)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSED)
def test_what_would_be_wrong_is_refused(case: str) -> None:
    net = Net(23, 37)
    with pytest.raises(GpuError, match=REFUSED[case]):
        compile_gpu(net.build(CASES[case](net)), "x86_64", Gpu("sm_90", (12, 4), ""))
