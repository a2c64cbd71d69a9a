"""Convolutions of all kinds, and matrix products with constants, which are convolutions of 1 x 1."""

import numpy as np
import onnx

from linewatch.packager.plan.planner import Handler, Planner
from linewatch.packager.plan.reading import pair
from linewatch.packager.plan.values import F32, Step, View


def padding(p: Planner, node: onnx.NodeProto) -> tuple[int, int]:
    """Rows above and columns to the left; what is below and to the right follows from the output's size."""
    attributes = p.attributes(node)
    auto = attributes.get("auto_pad", b"NOTSET")
    p.require(auto in (b"NOTSET", b"VALID"), node, f"auto_pad {auto!r}; write the pads out")
    pads = attributes.get("pads", [0, 0, 0, 0])
    p.require(min(pads) >= 0, node, f"pads {pads} are negative")
    return int(pads[0]), int(pads[1])


def _weights(p: Planner, node: onnx.NodeProto) -> tuple[F32, F32, int]:
    weight, bias = p.optional(node, 1), p.optional(node, 2)
    p.require(weight is not None and weight.ndim == 4, node, "weights are not constant, or not two-dimensional")
    assert weight is not None
    group = int(p.attributes(node).get("group", 1))
    out = weight.shape[1] * group if node.op_type == "ConvTranspose" else weight.shape[0]
    return weight.astype(np.float32), np.zeros(out, np.float32) if bias is None else bias.astype(np.float32), group


def convolution(p: Planner, node: onnx.NodeProto) -> None:
    """Conv: dense, depthwise, or grouped, which is computed as a dense one with zeros between the groups."""
    weight, bias, group = _weights(p, node)
    attributes, source = p.attributes(node), p.picture(node)
    (sy, sx), (dy, dx) = pair(attributes.get("strides"), 1), pair(attributes.get("dilations"), 1)
    top, left = padding(p, node)
    out, inner, ky, kx = weight.shape
    geometry: dict[str, int | str] = {"ky": ky, "kx": kx, "sy": sy, "sx": sx, "dy": dy, "dx": dx, "top": top, "left": left}
    if group == out == source.channels and inner == 1 and group > 1:
        p.add(Step("depthwise", [source], p.output(node, stored=source.stored), geometry, weight, bias))
        return
    if group > 1:
        weight = _ungrouped(weight, group)
    if (out, ky, kx, sy, sx, top, left) == (1, 1, 1, 1, 1, 0, 0):
        # One output channel would waste all lanes but one: a dot product over channels instead.
        p.add(Step("channel_reduce", [source], p.output(node, stored=1), {"op": "dot"}, weight, bias))
        return
    p.add(Step("conv", [source], p.output(node), geometry, weight, bias))


def _ungrouped(weight: F32, group: int) -> F32:
    out, inner, ky, kx = weight.shape
    dense = np.zeros((out, inner * group, ky, kx), np.float32)
    for g in range(group):
        rows = slice(g * out // group, (g + 1) * out // group)
        dense[rows, g * inner : (g + 1) * inner] = weight[rows]
    return dense


def transposed(p: Planner, node: onnx.NodeProto) -> None:
    """ConvTranspose: each residue of (row, column) by the stride is a convolution of its own."""
    weight, bias, group = _weights(p, node)
    attributes, source = p.attributes(node), p.picture(node)
    p.require(group == 1, node, "grouped")
    p.require(pair(attributes.get("dilations"), 1) == (1, 1), node, "dilated")
    p.require("output_shape" not in attributes, node, "output_shape; give pads and output_padding")
    sy, sx = pair(attributes.get("strides"), 1)
    top, left = padding(p, node)
    weight = np.ascontiguousarray(weight.transpose(1, 0, 2, 3))
    geometry: dict[str, int | str] = {"ky": weight.shape[2], "kx": weight.shape[3], "sy": sy, "sx": sx, "top": top, "left": left}
    p.add(Step("transposed", [source], p.output(node), geometry, weight, bias))


def _product(p: Planner, node: onnx.NodeProto, view: View, weight: F32, bias: F32) -> None:
    """Values x K by K x M, where K are channels, or all that one picture has."""
    m = weight.shape[1]
    source = view.tensor
    letters = view.axes[-1].replace("-", "")
    height, width = (source.height, source.width) if letters == "C" else (1, 1)
    # What is not flattened must be of length 1: one picture has one vector.
    missing = [a for a in "CHW" if a not in letters]
    p.require(letters == "C" or all(view.length(a) == 1 for a in missing), node, f"its input is laid out as {view.axes}")
    lengths = [view.length(a) for a in letters]
    order = letters + "".join(missing)
    kernel = weight.T.reshape(m, *lengths, *([1] * len(missing))).transpose(0, *(1 + order.index(a) for a in "CHW"))
    output = p.tensor(node.output[0], m, height, width)
    axes = (*view.axes[:-1], "C")
    p.views[node.output[0]] = View(output, axes)
    geometry: dict[str, int | str] = {
        "ky": kernel.shape[2], "kx": kernel.shape[3], "sy": 1, "sx": 1, "dy": 1, "dx": 1, "top": 0, "left": 0,
    }  # fmt: skip
    p.add(Step("conv", [source], output, geometry, np.ascontiguousarray(kernel, np.float32), bias))


def matmul(p: Planner, node: onnx.NodeProto) -> None:
    """MatMul with a constant matrix on the right."""
    weight = p.optional(node, 1)
    p.require(weight is not None and weight.ndim == 2, node, "the right operand is no constant matrix")
    assert weight is not None
    _product(p, node, p.view(node), weight.astype(np.float32), np.zeros(weight.shape[1], np.float32))


def gemm(p: Planner, node: onnx.NodeProto) -> None:
    """Gemm with constant weights."""
    attributes, weight, bias = p.attributes(node), p.optional(node, 1), p.optional(node, 2)
    p.require(weight is not None and not attributes.get("transA"), node, "weights are not constant, or A is transposed")
    assert weight is not None
    matrix = weight.T if attributes.get("transB") else weight
    matrix = matrix.astype(np.float32) * attributes.get("alpha", 1.0)
    offset = np.zeros(matrix.shape[1]) if bias is None else np.broadcast_to(bias, (1, matrix.shape[1]))[0]
    _product(p, node, p.view(node), matrix, (offset * attributes.get("beta", 1.0)).astype(np.float32))


def normalisation(p: Planner, node: onnx.NodeProto) -> None:
    """BatchNormalization that no convolution before it could take over: a depthwise convolution of 1 x 1."""
    scale, offset, mean, variance = (p.optional(node, i) for i in (1, 2, 3, 4))
    p.require(scale is not None and offset is not None and mean is not None and variance is not None, node, "not constant")
    assert scale is not None
    assert offset is not None
    assert mean is not None
    assert variance is not None
    source = p.picture(node)
    factor = scale / np.sqrt(variance + float(p.attributes(node).get("epsilon", 1e-5)))
    weight, bias = factor.astype(np.float32).reshape(-1, 1, 1, 1), (offset - mean * factor).astype(np.float32)
    geometry: dict[str, int | str] = {"ky": 1, "kx": 1, "sy": 1, "sx": 1, "dy": 1, "dx": 1, "top": 0, "left": 0}
    p.add(Step("depthwise", [source], p.output(node, stored=source.stored), geometry, weight, bias))


HANDLERS: dict[str, Handler] = {
    "Conv": convolution, "ConvTranspose": transposed, "MatMul": matmul, "Gemm": gemm, "BatchNormalization": normalisation,
}  # fmt: skip
