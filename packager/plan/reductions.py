"""Pooling over windows, and reductions over the picture or over channels."""

from functools import partial

import numpy as np
import onnx

from packager.plan.convolutions import _pads
from packager.plan.planner import Handler, Planner
from packager.plan.reading import pair
from packager.plan.values import Step, Unary, View


def pool(p: Planner, node: onnx.NodeProto) -> None:
    """MaxPool and AveragePool; windows that ceil_mode lets stand out are clipped."""
    attributes, source = p.attributes(node), p.picture(node)
    p.require(pair(attributes.get("dilations"), 1) == (1, 1), node, "dilated")
    p.require(len(node.output) == 1, node, "with indices")
    ceil, count_pad = bool(attributes.get("ceil_mode")), bool(attributes.get("count_include_pad"))
    p.require(not (ceil and count_pad), node, "ceil_mode with count_include_pad")
    (ky, kx), (sy, sx) = pair(attributes["kernel_shape"], 1), pair(attributes.get("strides"), 1)
    top, left = _pads(p, node)
    p.add(Step("pool", [source], p.output(node, stored=source.stored), {
        "op": "max" if node.op_type == "MaxPool" else "mean", "ky": ky, "kx": kx, "sy": sy, "sx": sx, "top": top,
        "left": left, "count_pad": int(count_pad),
    }))  # fmt: skip


def global_pool(p: Planner, node: onnx.NodeProto) -> None:
    """GlobalMaxPool and GlobalAveragePool."""
    source = p.picture(node)
    op = "max" if node.op_type == "GlobalMaxPool" else "mean"
    p.add(Step("global_pool", [source], p.output(node, stored=source.stored), {"op": op}))


def reduce(op: str, p: Planner, node: onnx.NodeProto) -> None:
    """Over channels, or over the whole picture."""
    attributes, view = p.attributes(node), p.view(node)
    given = p.optional(node, 1)
    axes = (attributes.get("axes") if given is None else given.tolist()) or list(range(len(view.axes)))
    keep = bool(attributes.get("keepdims", 1))
    chosen = {int(a) % len(view.axes) for a in axes}
    letters = sorted(a for i in chosen for a in view.axes[i] if a != "-" and view.length(a) > 1)
    source = view.tensor
    new_axes = view.axes if keep else tuple(a for i, a in enumerate(view.axes) if i not in chosen)
    square = op == "norm"
    if square:
        squares = p.tensor(node.output[0] + ".squares", source.channels, source.height, source.width, source.stored)
        p.add(Step("elementwise", [source], squares, {"op": "none"}, epilogue=(Unary("square"),)))
        source = squares
    total = {"sum": "mean", "norm": "mean"}.get(op, op)
    spatial = [a for a in "HW" if source.height * source.width > 1 and view.length(a) > 1]
    if letters == ["C", *spatial] and spatial:  # over everything: over channels first
        partial_sum = p.tensor(node.output[0] + ".places", 1, source.height, source.width, 1)
        p.add(Step("channel_reduce", [source], partial_sum, {"op": "sum" if total == "mean" else total}))
        output = p.tensor(node.output[0], 1, 1, 1, 1)
        step = Step("global_pool", [partial_sum], output, {"op": total})
        factor = {"mean": 1 / source.channels, "max": 1.0, "min": 1.0}.get(op, float(source.height * source.width))
    elif letters == ["C"] or (not letters and source.channels == 1):
        output = p.tensor(node.output[0], 1, source.height, source.width, 1)
        count = source.channels
        step = Step("channel_reduce", [source], output, {"op": "sum" if total == "mean" else total})
        factor = 1 / count if op == "mean" else 1.0
    elif letters == spatial:
        output = p.tensor(node.output[0], source.channels, 1, 1, source.stored)
        step = Step("global_pool", [source], output, {"op": total})
        factor = 1.0 if op in ("mean", "max", "min") else float(source.height * source.width)
    else:
        p.require(False, node, f"over axes {axes} of a value laid out as {view.axes}; covered are channels, or all places")
        return
    if factor != 1:
        step.epilogue += (Unary("affine", factor, 0.0),)
    if square:
        step.epilogue += (Unary("sqrt"),)
    p.views[node.output[0]] = View(output, new_axes)
    p.add(step)


def softmax(p: Planner, node: onnx.NodeProto) -> None:
    """Over channels."""
    view = p.view(node)
    axis = int(p.attributes(node).get("axis", -1)) % len(view.axes)
    p.require(view.axes[axis] == "C", node, f"over axis {axis} of a value laid out as {view.axes}; covered are channels")
    p.add(Step("softmax", [view.tensor], p.same(node, view)))


def resize(p: Planner, node: onnx.NodeProto) -> None:
    """Resize: bilinear or nearest, by tables."""
    attributes, source = p.attributes(node), p.picture(node)
    mode, centres = attributes.get("mode", b"nearest").decode(), attributes.get("coordinate_transformation_mode", b"half_pixel")
    nearest = attributes.get("nearest_mode", b"round_prefer_floor").decode()
    known = ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
    p.require(mode in ("linear", "nearest") and centres.decode() in known, node, f"mode {mode} with {centres.decode()}")
    p.require(not attributes.get("antialias"), node, "antialias")
    output = p.output(node, stored=source.stored)
    p.require(output.channels == source.channels, node, "channels are resized")
    # A scale that does not divide evenly is used as it is given, not recomputed from the sizes.
    scales = p.optional(node, 2)
    given = [float(s) for s in scales[2:]] if scales is not None and scales.size == 4 else [
        output.height / source.height, output.width / source.width]  # fmt: skip
    p.add(Step("resize", [source], output, {
        "mode": mode, "centres": centres.decode(), "nearest": nearest, "scale_y": repr(given[0]), "scale_x": repr(given[1]),
    }))  # fmt: skip


def pad(p: Planner, node: onnx.NodeProto) -> None:
    """Pad with a constant, around rows and columns."""
    attributes, source = p.attributes(node), p.picture(node)
    mode = attributes.get("mode", b"constant").decode()
    p.require(mode == "constant", node, f"mode {mode}")
    pads, value, axes = p.optional(node, 1), p.optional(node, 2), p.optional(node, 3)
    p.require(pads is not None and axes is None and min(pads[2:4].min(), pads[6:8].min()) >= 0 and not pads[[0, 1, 4, 5]].any(), node,
              "of other dimensions than rows and columns, or negative")  # fmt: skip
    assert pads is not None
    amount = 0.0 if value is None else float(value.reshape(-1)[0])
    attributes = {"top": int(pads[2]), "left": int(pads[3]), "value": repr(amount)}
    p.add(Step("pad", [source], p.output(node, stored=source.stored), attributes))


def depth_to_space(p: Planner, node: onnx.NodeProto) -> None:
    """DepthToSpace: channels become blocks of places."""
    attributes, source = p.attributes(node), p.picture(node)
    order = attributes.get("mode", b"DCR").decode()
    p.add(Step("depth_to_space", [source], p.output(node), {"block": int(attributes["blocksize"]), "order": order}))


def concat(p: Planner, node: onnx.NodeProto) -> None:
    """Concat along channels."""
    views = [p.view(node, i) for i in range(len(node.input))]
    axis = int(p.attributes(node)["axis"]) % len(views[0].axes)
    p.require(all(v.axes[axis] == "C" or (v.tensor.channels == 1 and v.axes[axis] == "-") for v in views), node,
              f"along axis {axis}; covered are channels")  # fmt: skip
    first = views[0].tensor
    output = p.tensor(node.output[0], sum(v.tensor.channels for v in views), first.height, first.width)
    axes = tuple("C" if i == axis else a for i, a in enumerate(views[0].axes))
    p.views[node.output[0]] = View(output, axes)
    p.add(Step("concat", [v.tensor for v in views], output))


def take_channels(p: Planner, node: onnx.NodeProto) -> None:
    """Split and Slice along channels."""
    view = p.view(node)
    attributes = p.attributes(node)
    if node.op_type == "Split":
        axis = int(attributes.get("axis", 0)) % len(view.axes)
        sizes = [p.shapes[name][axis] for name in node.output]
        starts = np.cumsum([0, *sizes[:-1]]).tolist()
    else:
        constants = [p.optional(node, i) for i in (1, 2, 3, 4)]
        first, axes, steps = constants[0], constants[2], constants[3]
        p.require(first is not None and first.size == 1 and (axes is None or axes.size == 1), node, "of several axes")
        assert first is not None
        p.require(steps is None or int(steps[0]) == 1, node, "with steps")
        axis = int(axes[0]) % len(view.axes) if axes is not None else 0
        start = int(first[0])
        starts = [start + view.shape[axis] if start < 0 else start]
        sizes = [p.shapes[node.output[0]][axis]]
    p.require(view.axes[axis] == "C", node, f"along axis {axis} of a value laid out as {view.axes}; covered are channels")
    for name, start, size in zip(node.output, starts, sizes, strict=True):
        output = p.tensor(name, size, view.tensor.height, view.tensor.width)
        p.views[name] = View(output, view.axes)
        p.add(Step("take", [view.tensor], output, {"start": start}))


HANDLERS: dict[str, Handler] = {
    "AveragePool": pool, "MaxPool": pool, "GlobalAveragePool": global_pool, "GlobalMaxPool": global_pool,
    "ReduceMax": partial(reduce, "max"), "ReduceMin": partial(reduce, "min"), "ReduceMean": partial(reduce, "mean"),
    "ReduceSum": partial(reduce, "sum"), "ReduceL2": partial(reduce, "norm"), "Softmax": softmax, "Resize": resize, "Pad": pad,
    "DepthToSpace": depth_to_space,
    "Concat": concat, "Split": take_channels, "Slice": take_channels,
}  # fmt: skip
