"""Pooling over windows, and reductions over the picture or over channels."""

from functools import partial

import onnx

from linewatch.packager.plan.convolutions import padding
from linewatch.packager.plan.planner import Handler, Planner
from linewatch.packager.plan.reading import pair
from linewatch.packager.plan.values import Step, Unary, View


def pool(p: Planner, node: onnx.NodeProto) -> None:
    """MaxPool and AveragePool; windows that ceil_mode lets stand out are clipped."""
    attributes, source = p.attributes(node), p.picture(node)
    p.require(pair(attributes.get("dilations"), 1) == (1, 1), node, "dilated")
    p.require(len(node.output) == 1, node, "with indices")
    ceil, count_pad = bool(attributes.get("ceil_mode")), bool(attributes.get("count_include_pad"))
    p.require(not (ceil and count_pad), node, "ceil_mode with count_include_pad")
    (ky, kx), (sy, sx) = pair(attributes["kernel_shape"], 1), pair(attributes.get("strides"), 1)
    top, left = padding(p, node)
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


HANDLERS: dict[str, Handler] = {
    "AveragePool": pool, "MaxPool": pool, "GlobalAveragePool": global_pool, "GlobalMaxPool": global_pool,
    "ReduceMax": partial(reduce, "max"), "ReduceMin": partial(reduce, "min"), "ReduceMean": partial(reduce, "mean"),
    "ReduceSum": partial(reduce, "sum"), "ReduceL2": partial(reduce, "norm"), "Softmax": softmax,
}  # fmt: skip
