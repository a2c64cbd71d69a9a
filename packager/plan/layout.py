"""Operators that only say how values are looked at: nothing is moved."""

from itertools import combinations

import onnx

from linewatch.packager.plan.planner import Handler, Planner
from linewatch.packager.plan.values import Step, View


def cast(p: Planner, node: onnx.NodeProto) -> None:
    """Cast of the picture to float, which the input step does."""
    p.require(p.attributes(node)["to"] == onnx.TensorProto.FLOAT, node, "to another type than float")
    p.views[node.output[0]] = p.view(node)


def transpose(p: Planner, node: onnx.NodeProto) -> None:
    """Transpose: the same memory, seen in another order."""
    view = p.view(node)
    order = p.attributes(node).get("perm", list(range(len(view.axes)))[::-1])
    p.views[node.output[0]] = View(view.tensor, tuple(view.axes[i] for i in order))


def identity(p: Planner, node: onnx.NodeProto) -> None:
    """Identity, Dropout."""
    p.views[node.output[0]] = p.view(node)


def expand(p: Planner, node: onnx.NodeProto) -> None:
    """Expand: nothing is repeated in memory."""
    view, shape = p.view(node), p.shapes[node.output[0]]
    p.require(len(shape) == len(view.axes), node, f"from {view.shape} to {shape}")
    if view.shape == shape:
        p.views[node.output[0]] = view
    else:
        p.expand(node.output[0], view)


def reshape(p: Planner, node: onnx.NodeProto) -> None:
    """Reshape, Flatten, Squeeze, Unsqueeze: dimensions are split and joined in the same order.

    A new split of places into rows and columns is allowed: in memory places are one after another.
    """
    view, shape = p.view(node), p.shapes[node.output[0]]
    tensor, order = view.tensor, view.order
    places = tensor.height * tensor.width
    # Places that are together in the value's order may be divided into rows and columns anew.
    letters = order.replace("HW", "P") if "HW" in order else order.replace("H", "P").replace("W", "P")
    p.require(letters.count("P") <= 1, node, f"of a value laid out as {view.axes}, between rows and columns")
    sizes = {"C": tensor.channels, "P": places}
    axes = _assign(shape, letters, sizes)
    if axes is not None:
        p.views[node.output[0]] = View(tensor, tuple(a.replace("P", "HW") for a in axes))
        return
    # Rows and columns apart: P is two neighbouring dimensions.
    for rows, columns in combinations(range(len(shape)), 2):
        if columns == rows + 1 and shape[rows] * shape[columns] == places:
            joined = (*shape[:rows], places, *shape[columns + 1 :])
            axes = _assign(joined, letters, sizes)
            if axes is not None and axes[rows] == "P":
                height, width = shape[rows], shape[columns]
                refit = tensor
                if (height, width) != (tensor.height, tensor.width):
                    refit = p.tensor(node.output[0], tensor.channels, height, width, tensor.stored)
                    p.add(Step("alias", [tensor], refit))
                p.views[node.output[0]] = View(refit, (*axes[:rows], "H", "W", *axes[rows + 1 :]))
                return
    p.require(False, node, f"from a value laid out as {view.axes} ({view.shape}) to {shape}")


def _assign(shape: tuple[int, ...], letters: str, sizes: dict[str, int]) -> tuple[str, ...] | None:
    """Which letters each dimension holds, in order; None when they do not fit."""
    axes: list[str] = []
    rest = letters
    for length in shape:
        mine, product = "", 1
        while rest and product < length:
            mine, product, rest = mine + rest[0], product * sizes[rest[0]], rest[1:]
        if product != length:
            return None
        axes.append(mine or "-")
    if rest:
        return None
    return tuple(axes)


HANDLERS: dict[str, Handler] = {
    "Cast": cast, "Transpose": transpose, "Identity": identity, "Expand": expand, "Dropout": identity, "Reshape": reshape, "Flatten": reshape,
    "Squeeze": reshape, "Unsqueeze": reshape,
}  # fmt: skip
