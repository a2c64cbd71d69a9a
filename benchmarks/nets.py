"""Networks that are timed: shapes as published, weights drawn at random, one picture, float32."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 9


class Net:
    """An ONNX graph under construction; values are referred to by name."""

    def __init__(self, side: int) -> None:
        self.side = side
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, value: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        output = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def conv(self, x: str, inner: int, out: int, k: int, stride: int = 1, pad: int | list[int] | None = None, group: int = 1) -> str:
        fan_in = inner // group * k * k
        weight = self.rng.normal(0, (2 / fan_in) ** 0.5, (out, inner // group, k, k)).astype(np.float32)
        bias = self.constant(self.rng.normal(0, 0.1, out).astype(np.float32))
        pads = pad if isinstance(pad, list) else [k // 2 if pad is None else pad] * 4
        return self.op("Conv", x, self.constant(weight), bias, kernel_shape=[k, k], strides=[stride] * 2, pads=pads, group=group)

    def build(self, *outputs: str) -> bytes:
        graph = helper.make_graph(
            self.nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, self.side, self.side])],
            [helper.make_tensor_value_info(o, TensorProto.FLOAT, None) for o in outputs], self.constants,
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = IR_VERSION
        data: bytes = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).SerializeToString()
        return data


def resnet18_trunk(side: int = 224) -> bytes:
    """The first three stages, brought to one size, and the distance of each place to the nearest of 512 vectors."""
    net = Net(side)
    x = net.op("Relu", net.conv("x", 3, 64, 7, 2))
    x = net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    inner, seen = 64, []
    for width, stride in ((64, 1), (128, 2), (256, 2)):
        for block in range(2):
            step = stride if block == 0 else 1
            y = net.op("Relu", net.conv(x, inner, width, 3, step))
            y = net.conv(y, width, width, 3)
            shortcut = x if inner == width and step == 1 else net.conv(x, inner, width, 1, step, 0)
            x, inner = net.op("Relu", net.op("Add", y, shortcut)), width
        seen.append(x)
    joined = [seen[0]]
    for value, factor in ((seen[1], 2), (seen[2], 4)):
        scales = net.constant(np.float32([1, 1, factor, factor]))
        joined.append(net.op("Resize", value, "", scales, mode="linear", coordinate_transformation_mode="half_pixel"))
    point = net.conv(net.op("Concat", *joined, axis=1), 448, 100, 1)
    length = net.op("ReduceSum", net.op("Mul", point, point), net.constant(np.array([1])), keepdims=1)
    distances = net.op("Add", net.conv(point, 100, 512, 1), length)
    nearest = net.op("Sqrt", net.op("Relu", net.op("ReduceMin", distances, axes=[1], keepdims=1)))
    scales = net.constant(np.float32([1, 1, 4, 4]))
    return net.build(net.op("Resize", nearest, "", scales, mode="linear"), net.op("GlobalMaxPool", nearest))


def mobilenet_v2(side: int = 224) -> bytes:
    """MobileNetV2 of width 1 with its classifier (Sandler and others, 2018, table 2)."""
    net = Net(side)
    low, high = net.constant(np.float32(0)), net.constant(np.float32(6))

    def relu6(x: str) -> str:
        return net.op("Clip", x, low, high)

    x, inner = relu6(net.conv("x", 3, 32, 3, 2)), 32
    for expand, out, count, stride in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)):
        for i in range(count):
            step, wide = (stride if i == 0 else 1), inner * expand
            y = relu6(net.conv(x, inner, wide, 1)) if expand > 1 else x
            y = net.conv(relu6(net.conv(y, wide, wide, 3, step, group=wide)), wide, out, 1)
            x, inner = (net.op("Add", x, y) if step == 1 and inner == out else y), out
    x = net.op("Flatten", net.op("GlobalAveragePool", relu6(net.conv(x, 320, 1280, 1))))
    weight = net.constant(net.rng.normal(0, 0.03, (1000, 1280)).astype(np.float32))
    return net.build(net.op("Gemm", x, weight, net.constant(np.zeros(1000, np.float32)), transB=1))


def efficientnet_lite0_encoder(side: int = 256) -> bytes:
    """EfficientNet-Lite0 (Google, 2020; settings of EfficientNet-B0 by Tan and Le, 2019, table 1) up to its block 10, at stride 16.

    No squeeze and excitation, ReLU6 for swish, a stem of 32 channels, and TensorFlow's "same" padding: at stride 2 of an
    even side one row and column less above and to the left than below and to the right.
    """
    net = Net(side)
    low, high = net.constant(np.float32(0)), net.constant(np.float32(6))

    def relu6(x: str) -> str:
        return net.op("Clip", x, low, high)

    def same(k: int, stride: int) -> list[int]:
        total = k - stride  # of an even side
        return [total // 2] * 2 + [total - total // 2] * 2

    x, inner = relu6(net.conv("x", 3, 32, 3, 2, same(3, 2))), 32
    for expand, k, stride, out, count in ((1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3)):
        for i in range(count):
            step, wide = (stride if i == 0 else 1), inner * expand
            y = relu6(net.conv(x, inner, wide, 1)) if expand > 1 else x
            y = net.conv(relu6(net.conv(y, wide, wide, k, step, same(k, step), wide)), wide, out, 1)
            x, inner = (net.op("Add", x, y) if step == 1 and inner == out else y), out
    return net.build(x)


def patch_description_network(side: int = 256) -> bytes:
    """EfficientAD's small teacher (Batzner and others, 2023, table 6), with padding."""
    net = Net(side)
    x = net.op("Relu", net.conv("x", 3, 128, 4, 1, 2))
    x = net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Relu", net.conv(x, 128, 256, 4, 1, 2))
    x = net.op("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("Relu", net.conv(x, 256, 256, 3))
    return net.build(net.conv(x, 256, 384, 4, 1, 0))


PUBLISHED: dict[str, Callable[[], bytes]] = {
    "resnet18-trunk-224": resnet18_trunk,
    "mobilenet-v2-224": mobilenet_v2,
    "efficientnet-lite0-256": efficientnet_lite0_encoder,
    "efficientnet-lite0-512": lambda: efficientnet_lite0_encoder(512),
    "patch-description-256": patch_description_network,
}
