"""Every operator family against ONNX Runtime, for both instruction sets, with sizes that do not divide evenly."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from anomaly_model.runtime_onnx import OnnxRuntime
from anomaly_model.runtime_tvm import cpu_flags
from packager.compile import _lower
from packager.isa import AVX2, AVX512, Isa
from packager.kernels.conv import choose_tile
from packager.plan import UnsupportedGraphError, make_plan

RNG = np.random.default_rng(0)
Build = Callable[["Net"], str]


class Net:
    """An ONNX graph under construction: the picture as 1 x 3 x H x W floats is called `x`."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width, self.nodes, self.constants = height, width, [], []
        self.nodes.append(helper.make_node("Cast", ["picture"], ["f"], to=TensorProto.FLOAT))
        self.nodes.append(helper.make_node("Transpose", ["f"], ["x0"], perm=[0, 3, 1, 2]))
        self.x = self.op("Mul", "x0", self.const(np.full((1, 1, 1, 1), 1 / 255, np.float32)))

    def const(self, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(value, f"c{len(self.constants)}"))
        return str(self.constants[-1].name)

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [f"v{len(self.nodes)}"], **attributes))
        return str(self.nodes[-1].output[0])

    def conv(self, x: str, inner: int, out: int, k: int, stride: int = 1, pad: int = 0) -> str:
        weight, bias = RNG.normal(size=(out, inner, k, k)).astype(np.float32), RNG.normal(size=out).astype(np.float32)
        return self.op(
            "Conv", x, self.const(weight), self.const(bias), kernel_shape=[k, k], strides=[stride] * 2, pads=[pad] * 4
        )

    def build(self, *outputs: str) -> bytes:
        graph = helper.make_graph(
            self.nodes, "net", [helper.make_tensor_value_info("picture", TensorProto.UINT8, [1, self.height, self.width, 3])],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs], self.constants,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 9
        data: bytes = onnx.shape_inference.infer_shapes(model, strict_mode=True).SerializeToString()
        return data


def pooled(kind: str, kernel: int, stride: int, pad: int, channels: int, **extra: object) -> Build:
    def build(n: Net) -> str:
        x = n.conv(n.x, 3, channels, 1) if channels > 1 else n.op("ReduceMax", n.conv(n.x, 3, 5, 1), axes=[1], keepdims=1)
        return n.op(kind, x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4, **extra)

    return build


def resized(channels: int, factor: int) -> Build:
    def build(n: Net) -> str:
        x = n.conv(n.x, 3, channels, 1) if channels > 1 else n.op("ReduceMax", n.conv(n.x, 3, 5, 1), axes=[1], keepdims=1)
        scales = n.const(np.array([1, 1, factor, factor], np.float32))
        return n.op("Resize", x, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")

    return build


def residual(n: Net) -> str:
    first = n.op("Relu", n.conv(n.x, 3, 20, 3, 1, 1))
    return n.op("Relu", n.op("Add", n.conv(first, 20, 20, 3, 1, 1), first))


def chain(n: Net) -> str:
    x = n.op("Abs", n.conv(n.x, 3, 16, 3, 1, 1))
    return n.op(
        "Sigmoid",
        n.op("Sqrt", n.op("Add", n.op("Mul", x, n.const(np.float32([[[[0.3]]]]))), n.const(np.float32([[[[0.1]]]])))),
    )


def twice_used(n: Net) -> str:
    x = n.conv(n.x, 3, 16, 1)
    return n.op("Mul", n.op("Relu", x), n.op("Sub", x, n.op("Abs", x)))


def beside_constant_map(op: str, channels: int) -> Build:
    def build(n: Net) -> str:
        x = n.conv(n.x, 3, channels, 1)
        return n.op("Sigmoid", n.op(op, x, n.const(RNG.normal(size=(1, channels, n.height, n.width)).astype(np.float32))))

    return build


CASES: dict[str, Build] = {
    "subtract a constant map": beside_constant_map("Sub", 20),
    "multiply by a constant map": beside_constant_map("Mul", 37),
    "conv 1x1": lambda n: n.conv(n.conv(n.x, 3, 40, 1), 40, 24, 1),
    "conv 1x1 wide": lambda n: n.conv(n.conv(n.x, 3, 7, 1), 7, 130, 1),
    "conv 3x3": lambda n: n.conv(n.conv(n.x, 3, 17, 1), 17, 33, 3, 1, 1),
    "conv 3x3 unpadded": lambda n: n.conv(n.x, 3, 16, 3),
    "conv 5x5 stride 2": lambda n: n.conv(n.x, 3, 16, 5, 2, 2),
    "conv 7x7": lambda n: n.conv(n.x, 3, 16, 7, 1, 3),
    "conv 4x4 stride 3": lambda n: n.conv(n.x, 3, 64, 4, 3, 1),
    "conv to one": lambda n: n.conv(n.conv(n.x, 3, 37, 1), 37, 1, 1),
    "residual": residual,
    "chain": chain,
    "twice used": twice_used,
    "mean 2x2": pooled("AveragePool", 2, 2, 0, 16),
    "mean 5x5 padded": pooled("AveragePool", 5, 1, 2, 20),
    "mean 3x3 counting padding": pooled("AveragePool", 3, 2, 1, 20, count_include_pad=1),
    "mean 3x3 one channel": pooled("AveragePool", 3, 1, 1, 1),
    "max 3x3 stride 2": pooled("MaxPool", 3, 2, 1, 20),
    "max 4x4": pooled("MaxPool", 4, 4, 0, 3),
    "global mean": lambda n: n.op("GlobalAveragePool", n.conv(n.x, 3, 20, 1)),
    "global max": lambda n: n.op("GlobalMaxPool", n.conv(n.x, 3, 20, 1)),
    "global max one channel": lambda n: n.op("GlobalMaxPool", n.op("ReduceMax", n.conv(n.x, 3, 3, 1), axes=[1], keepdims=1)),
    "channel max": lambda n: n.op("ReduceMax", n.conv(n.x, 3, 37, 1), axes=[1], keepdims=1),
    "channel max of negatives": lambda n: n.op(
        "ReduceMax", n.op("Sub", n.conv(n.x, 3, 3, 1), n.const(np.float32([[[[99.0]]]]))), axes=[1], keepdims=1),
    "resize 2": resized(20, 2),
    "resize 3 one channel": resized(1, 3),
    "concat": lambda n: n.op("Concat", n.conv(n.x, 3, 16, 1), n.conv(n.x, 3, 5, 1), n.conv(n.x, 3, 19, 1), axis=1),
}  # fmt: skip


@pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda isa: isa.name)
@pytest.mark.parametrize("case", CASES)
def test_equals_onnxruntime(case: str, isa: Isa) -> None:
    if not cpu_flags().issuperset(isa.flags):
        pytest.skip(f"this CPU has no {isa.name}; its code is compiled in other tests")
    net = Net(23, 37)
    model = net.build(CASES[case](net))
    picture = RNG.integers(0, 256, (1, 23, 37, 3), np.uint8)
    expected = OnnxRuntime(model).run_arrays(picture)
    target = tvm.target.Target({"kind": "llvm", "mcpu": isa.mcpu})
    machine = relax.VirtualMachine(tvm.compile(_lower(make_plan(model, isa.lanes), isa), target=target), tvm.cpu())
    for found, right in zip(machine["main"](tvm.runtime.tensor(picture)), expected, strict=True):
        np.testing.assert_allclose(found.numpy(), right, rtol=2e-4, atol=2e-5 * max(1.0, float(np.abs(right).max())))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda n: n.op("Softmax", n.x), "operator Softmax .* has no schedule"),
        (lambda n: n.op("AveragePool", n.x, kernel_shape=[2, 3]), "not all equal"),
        (lambda n: n.op("Add", n.x, n.const(np.zeros((1, 3, 1, 1), np.float32))), "constant of shape"),
        (lambda n: n.op("Sub", n.const(np.zeros((1, 3, 16, 16), np.float32)), n.x), "constant - x"),
        (lambda n: n.op("Resize", n.x, "", n.const(np.float32([1, 1, 2, 2])), mode="nearest"), "nearest"),
    ],
)
def test_what_is_not_covered_is_named(build: Build, message: str) -> None:
    net = Net(16, 16)
    with pytest.raises(UnsupportedGraphError, match=message):
        make_plan(net.build(build(net)), 16)


def test_fusion_leaves_one_step_a_convolution() -> None:
    net = Net(16, 16)
    plan = make_plan(net.build(residual(net)), 16)
    assert [s.kind for s in plan.steps] == ["picture", "elementwise", "conv", "conv"]
    assert plan.steps[-1].residual
    assert [u.kind for u in plan.steps[-1].epilogue] == ["relu"]


def test_tiles_fit_the_registers() -> None:
    for isa in (AVX512, AVX2):
        for vectors in range(1, 20):
            for width in (1, 5, 14, 56, 320):
                tile = choose_tile(isa, vectors, width)
                assert vectors % tile.blocks == 0
                assert tile.pixels * tile.blocks + tile.blocks + 1 <= isa.registers
                assert tile.pixels <= width


@pytest.mark.parametrize("isa", [AVX512, AVX2], ids=lambda isa: isa.name)
def test_a_u_net_equals_onnxruntime(isa: Isa) -> None:
    from training.bank import write_color
    from training.graph import GraphWriter
    from training.unet import UNet, export

    if not cpu_flags().issuperset(isa.flags):
        pytest.skip(f"this CPU has no {isa.name}; its code is compiled in other tests")
    g = GraphWriter(64, 80)
    written = export(UNet(4)).write(g, write_color(g))
    assert written.labels
    model = g.build([*written.scores.values(), g.upsample(written.labels, 2)])
    picture = RNG.integers(0, 256, (1, 64, 80, 3), np.uint8)
    target = tvm.target.Target({"kind": "llvm", "mcpu": isa.mcpu})
    machine = relax.VirtualMachine(tvm.compile(_lower(make_plan(model, isa.lanes), isa), target=target), tvm.cpu())
    for found, right in zip(
        machine["main"](tvm.runtime.tensor(picture)), OnnxRuntime(model).run_arrays(picture), strict=True
    ):
        np.testing.assert_allclose(found.numpy(), right, rtol=2e-4, atol=2e-5 * max(1.0, float(np.abs(right).max())))
