"""Every operator family against ONNX Runtime, for both instruction sets, with sizes that do not divide evenly."""

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from benchmarks.nets import Net as PublishedNet
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.packager.compile import lower
from linewatch.packager.plan import UnsupportedGraphError, make_plan
from linewatch.packager.schedule import choose, tiles, winograds
from linewatch.packager.targets import AVX2, AVX512, Isa

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

    def convolve(self, x: str, weight: tuple[int, ...], kind: str = "Conv", **attributes: object) -> str:
        return self.op(kind, x, self.const(RNG.normal(size=weight).astype(np.float32)), **attributes)

    def split(self, x: str, sizes: list[int]) -> list[str]:
        names = [f"v{len(self.nodes)}.{i}" for i in range(len(sizes))]
        self.nodes.append(helper.make_node("Split", [x, self.const(np.array(sizes))], names, axis=1))
        return names

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


def excite(n: Net) -> str:
    x = n.conv(n.x, 3, 20, 1)
    gate = n.conv(n.op("Relu", n.conv(n.op("GlobalAveragePool", x), 20, 5, 1)), 5, 20, 1)
    return n.op("Mul", x, n.op("HardSigmoid", gate))


def silu(n: Net) -> str:
    x = n.conv(n.x, 3, 20, 1)
    return n.op("Mul", x, n.op("Sigmoid", x))


def gelu(n: Net) -> str:
    x = n.conv(n.x, 3, 20, 1)
    half = n.op("Mul", x, n.const(np.float32(0.5)))
    return n.op("Mul", half, n.op("Add", n.op("Erf", n.op("Div", x, n.const(np.float32(2**0.5)))), n.const(np.float32(1))))


def divided(n: Net) -> str:
    x = n.conv(n.x, 3, 20, 1)
    length = n.op("Clip", n.op("ReduceL2", x, axes=[1], keepdims=1), n.const(np.float32(1e-6)))
    return n.op("Div", x, n.op("Expand", length, n.const(np.array([1, 20, n.height, n.width]))))


def swapped(n: Net) -> str:
    first, second = n.split(n.conv(n.x, 3, 30, 1), [17, 13])
    return n.op("Concat", second, first, axis=1)


def dense(n: Net) -> str:
    x = n.op("MaxPool", n.conv(n.x, 3, 20, 1), kernel_shape=[5, 5], strides=[5, 5])
    weight = n.const(RNG.normal(size=(9, 20 * 4 * 7)).astype(np.float32))
    return n.op("Gemm", n.op("Flatten", x), weight, n.const(RNG.normal(size=9).astype(np.float32)), transB=1)


def patches(n: Net) -> str:
    """Rows of a matrix are places: to (1, P, C), a product, the smallest, and back to a map."""
    flat = n.op("Reshape", n.conv(n.x, 3, 20, 1), n.const(np.array([1, 20, n.height * n.width])))
    products = n.op("MatMul", n.op("Transpose", flat, perm=[0, 2, 1]), n.const(RNG.normal(size=(20, 50)).astype(np.float32)))
    nearest = n.op("ReduceMin", products, axes=[2], keepdims=0)
    return n.op("Resize", n.op("Reshape", nearest, n.const(np.array([1, 1, n.height, n.width]))), "",
                n.const(np.float32([1, 1, 2, 2])), mode="linear")  # fmt: skip


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
    "conv 3x5 strides 2, 1": lambda n: n.convolve(n.x, (16, 3, 3, 5), strides=[2, 1], pads=[1, 0, 0, 2]),
    "conv dilated": lambda n: n.convolve(n.conv(n.x, 3, 16, 1), (16, 16, 3, 3), dilations=[2, 3], pads=[2, 3, 2, 3]),
    "conv grouped": lambda n: n.convolve(n.conv(n.x, 3, 24, 1), (32, 6, 3, 3), group=4, pads=[1] * 4),
    "depthwise": lambda n: n.convolve(n.conv(n.x, 3, 37, 1), (37, 1, 3, 3), group=37, pads=[1] * 4),
    "depthwise stride 2": lambda n: n.op("Clip", n.convolve(n.conv(n.x, 3, 16, 1), (16, 1, 5, 5), group=16, pads=[2] * 4,
                                         strides=[2, 2]), n.const(np.float32(0)), n.const(np.float32(6))),
    "depthwise dilated": lambda n: n.convolve(n.conv(n.x, 3, 16, 1), (16, 1, 3, 3), group=16, pads=[2] * 4, dilations=[2, 2]),
    "transposed 2x2": lambda n: n.convolve(n.conv(n.x, 3, 16, 1), (16, 20, 2, 2), "ConvTranspose", strides=[2, 2]),
    "transposed 4x4": lambda n: n.op("Relu", n.convolve(n.conv(n.x, 3, 16, 1), (16, 20, 4, 4), "ConvTranspose", strides=[2, 2],
                                     pads=[1] * 4)),
    "transposed 3x3 uneven": lambda n: n.convolve(n.conv(n.x, 3, 16, 1), (16, 5, 3, 3), "ConvTranspose", strides=[2, 3],
                                                  pads=[1, 0, 0, 1], output_padding=[1, 1]),
    "transposed 1x1 stride 2": lambda n: n.convolve(n.x, (3, 5, 1, 1), "ConvTranspose", strides=[2, 2]),
    "normalised": lambda n: n.op("BatchNormalization", n.conv(n.x, 3, 16, 3), *(
        n.const(RNG.uniform(0.5, 2, 16).astype(np.float32)) for _ in range(4))),
    "normalised after a sum": lambda n: n.op("Relu", n.op("BatchNormalization", n.op("Add", n.conv(n.x, 3, 20, 1), n.conv(n.x, 3, 20, 1)), *(
        n.const(RNG.uniform(0.5, 2, 20).astype(np.float32)) for _ in range(4)))),
    "padded": lambda n: n.op("Abs", n.op("Pad", n.conv(n.x, 3, 20, 1), n.const(np.array([0, 0, 1, 2, 0, 0, 3, 0])), n.const(np.float32(-2)))),
    "padded before pooling": lambda n: n.op("MaxPool", n.op("Pad", n.conv(n.x, 3, 20, 1), n.const(np.array([0, 0, 0, 0, 0, 0, 1, 1]))),
                                            kernel_shape=[3, 3], strides=[2, 2]),
    "largest of all": lambda n: n.op("ReduceMax", n.conv(n.x, 3, 20, 1), keepdims=0),
    "mean of all": lambda n: n.op("ReduceMean", n.conv(n.x, 3, 20, 1), axes=[1, 2, 3]),
    "length of all": lambda n: n.op("ReduceL2", n.conv(n.x, 3, 20, 1), axes=[1, 2, 3], keepdims=0),
    "divided by an expanded length": divided,
    "gelu": gelu,
    "depth to space": lambda n: n.op("DepthToSpace", n.conv(n.x, 3, 28, 1), blocksize=2),
    "depth to space by columns": lambda n: n.op("DepthToSpace", n.conv(n.x, 3, 36, 1), blocksize=2, mode="CRD"),
    "max 3x3 ceil": pooled("MaxPool", 3, 2, 0, 20, ceil_mode=1),
    "mean 2x3": lambda n: n.op("AveragePool", n.conv(n.x, 3, 16, 1), kernel_shape=[2, 3], strides=[1, 2]),
    "channel min, square root": lambda n: n.op("Sqrt", n.op("ReduceMin", n.op("Mul", n.x, n.x), axes=[1], keepdims=1)),
    "channel mean": lambda n: n.op("ReduceMean", n.conv(n.x, 3, 37, 1), axes=[1], keepdims=1),
    "channel length": lambda n: n.op("ReduceL2", n.conv(n.x, 3, 37, 1), axes=[1], keepdims=0),
    "picture mean": lambda n: n.op("ReduceMean", n.conv(n.x, 3, 37, 1), axes=[2, 3], keepdims=0),
    "picture sum": lambda n: n.op("ReduceSum", n.conv(n.x, 3, 16, 1), n.const(np.array([-1, -2]))),
    "softmax": lambda n: n.op("Softmax", n.conv(n.x, 3, 37, 1), axis=1),
    "softmax of few": lambda n: n.op("Softmax", n.x, axis=1),
    "nearest 2": lambda n: n.op("Resize", n.conv(n.x, 3, 20, 1), "", n.const(np.float32([1, 1, 2, 2])), mode="nearest",
                                coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    "nearest 1.5, half pixel": lambda n: n.op("Resize", n.conv(n.x, 3, 20, 1), "", n.const(np.float32([1, 1, 1.5, 1.5])),
                                              mode="nearest"),
    "resize to sizes": lambda n: n.op("Resize", n.conv(n.x, 3, 20, 1), "", "", n.const(np.array([1, 20, 50, 31])), mode="linear",
                                      coordinate_transformation_mode="align_corners"),
    "squeeze and excite": excite,
    "by places": lambda n: n.op("Mul", n.conv(n.x, 3, 20, 1), n.op("ReduceMax", n.x, axes=[1], keepdims=1)),
    "per channel": lambda n: n.op("Div", n.op("Sub", n.const(np.float32([[[1.0]], [[2.0]], [[3.0]]])), n.x),
                                  n.const(np.float32([[[[3.0]], [[2.0]], [[1.0]]]]))),
    "flatten, dense": dense,
    "dense after pooling": lambda n: n.op("Softmax", n.op("Gemm", n.op("Flatten", n.op("GlobalAveragePool", n.conv(n.x, 3, 20, 1))),
                                          n.const(RNG.normal(size=(20, 7)).astype(np.float32))), axis=1),
    "nearest neighbours by patches": patches,
    "hard swish": lambda n: n.op("HardSwish", n.conv(n.x, 3, 20, 1)),
    "silu": silu,
    "tanh of leaky": lambda n: n.op("Tanh", n.op("LeakyRelu", n.conv(n.x, 3, 20, 1), alpha=0.1)),
    "exp": lambda n: n.op("Exp", n.op("Neg", n.op("Abs", n.conv(n.x, 3, 20, 1)))),
    "split": swapped,
    "slice": lambda n: n.op("Slice", n.conv(n.x, 3, 30, 1), n.const(np.array([5])), n.const(np.array([25])), n.const(np.array([1]))),
    "concat": lambda n: n.op("Concat", n.conv(n.x, 3, 16, 1), n.conv(n.x, 3, 5, 1), n.conv(n.x, 3, 19, 1), axis=1),
}  # fmt: skip


def machine(models: Mapping[str, bytes], isa: Isa) -> relax.VirtualMachine:
    """Compiled graphs, a function each, in one library: most of the time goes into making one."""
    target = tvm.target.Target({"kind": "llvm", "mcpu": isa.mcpu})
    plans = {name: make_plan(model, isa.lanes) for name, model in models.items()}
    return relax.VirtualMachine(tvm.compile(lower(plans, isa, choose), target=target), tvm.cpu())


@pytest.fixture(scope="module")
def models() -> dict[str, bytes]:
    """The graph of each case."""
    nets = {case: Net(23, 37) for case in CASES}
    return {case: net.build(CASES[case](net)) for case, net in nets.items()}


@pytest.fixture(scope="module")
def library(models: dict[str, bytes], isa: Isa) -> relax.VirtualMachine | None:
    """All cases; None when one of them cannot be compiled: then each test compiles its own and that one fails."""
    try:
        return machine({function(case): model for case, model in models.items()}, isa)
    except Exception:
        return None


def function(case: str) -> str:
    return f"case_{list(CASES).index(case)}"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_equals_onnxruntime(case: str, isa: Isa, models: dict[str, bytes], library: relax.VirtualMachine | None) -> None:
    picture = RNG.integers(0, 256, (1, 23, 37, 3), np.uint8)
    expected = OnnxRuntime(models[case]).run_arrays(picture)
    compiled = library or machine({function(case): models[case]}, isa)
    for found, right in zip(compiled[function(case)](tvm.runtime.tensor(picture)), expected, strict=True):
        np.testing.assert_allclose(found.numpy(), right, rtol=2e-4, atol=2e-5 * max(1.0, float(np.abs(right).max())))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda n: n.op("Hardmax", n.x), "operator Hardmax .* has no schedule; covered are Abs, Add"),
        (lambda n: n.op("Softmax", n.x, axis=3), "over axis 3"),
        (lambda n: n.op("Expand", n.conv(n.x, 3, 1, 1), n.const(np.array([1, 7, 16, 16]))), "result of an Expand|is an output of the graph"),
        (lambda n: n.op("AveragePool", n.x, kernel_shape=[2, 3], ceil_mode=1, count_include_pad=1), "ceil_mode"),
        (lambda n: n.op("Add", n.x, n.const(RNG.normal(size=(2, 3, 16, 16)).astype(np.float32))), "constant of shape"),
        (lambda n: n.op("Div", n.const(RNG.normal(size=(1, 3, 16, 16)).astype(np.float32)), n.x), "constant divided"),
        (lambda n: n.op("Resize", n.x, "", n.const(np.float32([1, 1, 2, 2])), mode="cubic"), "mode cubic"),
        (lambda n: n.op("Reshape", n.conv(n.x, 3, 8, 1), n.const(np.array([1, 2, 4, 16, 16]))), "from a value"),
    ],
)
def test_what_is_not_covered_is_named(build: Build, message: str) -> None:
    net = Net(16, 16)
    with pytest.raises(UnsupportedGraphError, match=message):
        make_plan(net.build(build(net)), 16)


def test_fusion_leaves_one_step_a_convolution() -> None:
    net = Net(16, 16)
    plan = make_plan(net.build(residual(net)), 16)
    assert [s.kind for s in plan.steps] == ["input", "elementwise", "conv", "conv"]
    assert plan.steps[-1].residual
    assert [u.kind for u in plan.steps[-1].epilogue] == ["relu"]


def test_tiles_fit_the_registers() -> None:
    for isa in (AVX512, AVX2):
        for vectors in range(1, 20):
            for width in (1, 5, 14, 56, 320):
                for tile in tiles(isa, vectors, width):
                    assert vectors % tile.blocks == 0
                    assert tile.pixels * tile.blocks + tile.blocks + 1 <= isa.registers
                    assert tile.pixels <= width


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [3, 4, 5])
def test_transformed_convolutions_equal_onnxruntime(kernel: int, isa: Isa) -> None:
    models, plans, chosen = {}, {}, {}
    for pad in (0, 1, 2):
        net = Net(19, 30)
        model = net.build(net.op("Relu", net.conv(net.op("Relu", net.conv(net.x, 3, 32, 1)), 32, 33, kernel, 1, pad)))
        choices = winograds(isa, make_plan(model, isa.lanes).steps[-1])
        assert len(choices) == {3: 3, 4: 2, 5: 1}[kernel]
        for i, choice in enumerate(choices):
            name = f"pad_{pad}_choice_{i}"
            models[name], plans[name] = model, make_plan(model, isa.lanes)
            chosen[id(plans[name].steps[-1])] = choice
    module = lower(plans, isa, lambda isa, step: chosen.get(id(step)) or choose(isa, step))
    compiled = relax.VirtualMachine(tvm.compile(module, target=tvm.target.Target({"kind": "llvm", "mcpu": isa.mcpu})), tvm.cpu())
    picture = RNG.integers(0, 256, (1, 19, 30, 3), np.uint8)
    for name, model in models.items():
        [expected] = OnnxRuntime(model).run_arrays(picture)
        [found] = compiled[name](tvm.runtime.tensor(picture))
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=2e-5 * float(np.abs(expected).max()), err_msg=name)


@pytest.mark.slow
def test_a_u_net_equals_onnxruntime(isa: Isa) -> None:
    from linewatch.training.families.unet import UNet, export
    from linewatch.training.graph.color import write_color
    from linewatch.training.graph.writer import GraphWriter

    g = GraphWriter(64, 80)
    written = export(UNet(4)).write(g, write_color(g))
    assert written.segmentation
    model = g.build([*written.score_values, g.upsample(written.segmentation.logits, 2)])
    picture = RNG.integers(0, 256, (1, 64, 80, 3), np.uint8)
    found = machine({"main": model}, isa)["main"](tvm.runtime.tensor(picture))
    for value, right in zip(found, OnnxRuntime(model).run_arrays(picture), strict=True):
        np.testing.assert_allclose(value.numpy(), right, rtol=2e-4, atol=2e-5 * max(1.0, float(np.abs(right).max())))


def test_a_graph_of_any_number_of_pictures_takes_one() -> None:
    net = PublishedNet(16)
    model = onnx.load_from_string(net.build(net.op("GlobalAveragePool", net.conv("x", 3, 20, 3))))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    plan = make_plan(model.SerializeToString(), 16)
    assert plan.source.shape == (1, 3, 16, 16)
    assert plan.outputs[0].view.shape == (1, 20, 1, 1)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(UnsupportedGraphError):
        make_plan(model.SerializeToString(), 16)


@pytest.mark.parametrize("data", [b"", b"no graph", b"\x08" * 100])
def test_other_files_are_no_graphs(data: bytes) -> None:
    with pytest.raises(UnsupportedGraphError):
        make_plan(data, 16)
