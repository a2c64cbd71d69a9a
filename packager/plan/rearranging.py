"""Operators that bring values to other places: resize, pad, concatenate, split."""

import numpy as np
import onnx

from linewatch.packager.plan.planner import Handler, Planner
from linewatch.packager.plan.values import Step, View


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
    "Resize": resize, "Pad": pad, "DepthToSpace": depth_to_space, "Concat": concat, "Split": take_channels, "Slice": take_channels,
}  # fmt: skip
