"""Resize by tables: which two rows and columns each output lies between, and how near to which."""

import numpy as np
import numpy.typing as npt

from linewatch.packager.kernels.writer import Expr, Kernel, Stmt, apply, broadcast, lanes_of, load, loop, store
from linewatch.packager.plan import Step
from linewatch.packager.targets import Isa

Table = tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]


def resize_table(size_in: int, size_out: int, scale: float, step: Step) -> Table:
    """For each output position: lower and upper input index (2 x n, flat), and the upper one's share.

    The formulas are those of the ONNX operator Resize.

    Args:
        size_in: positions of the input.
        size_out: positions of the output.
        scale: output over input, as the operator states it.
        step: whose attribute `centres` says where pixels lie.
    """
    at, centres = np.arange(size_out, dtype=np.float64), step.attributes["centres"]
    match centres:
        case "align_corners":
            position = at * (size_in - 1) / max(size_out - 1, 1)
        case "asymmetric":
            position = at / scale
        case "pytorch_half_pixel" if size_out == 1:
            position = at * 0
        case _:
            position = (at + 0.5) / scale - 0.5
    if step.attributes["mode"] == "nearest":
        low = np.clip(_rounded(position, str(step.attributes["nearest"])), 0, size_in - 1).astype(np.int32)
        return np.concatenate([low, low]), np.zeros(size_out, np.float32)
    position = np.clip(position, 0, size_in - 1)
    low = np.floor(position).astype(np.int32)
    return np.concatenate([low, np.minimum(low + 1, size_in - 1)]), (position - low).astype(np.float32)


def _rounded(position: npt.NDArray[np.float64], mode: str) -> npt.NDArray[np.float64]:
    match mode:
        case "floor":
            return np.floor(position)
        case "ceil":
            return np.ceil(position)
        case "round_prefer_ceil":
            return np.floor(position + 0.5)
    return np.ceil(position - 0.5)


def tables(step: Step) -> list[npt.NDArray[np.generic]]:
    """The constants of a resize step."""
    source, target = step.inputs[0], step.output
    rows = resize_table(source.height, target.height, float(step.attributes["scale_y"]), step)
    columns = resize_table(source.width, target.width, float(step.attributes["scale_x"]), step)
    return [*rows, *columns]


def resize(isa: Isa, step: Step) -> object:
    """Parameters: input, row indices, row shares, column indices, column shares, output."""
    source, target, nearest = step.inputs[0], step.output, step.attributes["mode"] == "nearest"
    lanes = lanes_of(isa, source.stored)
    kernel = Kernel()
    x = kernel.array(source.size)
    rows, row_share = kernel.array(2 * target.height, "int32"), kernel.array(target.height)
    columns, column_share = kernel.array(2 * target.width, "int32"), kernel.array(target.width)
    y = kernel.array(target.size)

    def value(r: Expr, c: Expr, block: Expr) -> Stmt:
        def corner(i: int, j: int) -> Expr:
            index = load(rows, i * target.height + r) * source.width + load(columns, j * target.width + c)
            return load(x, index * source.stored + block * lanes, lanes)

        def between() -> Expr:
            across, down = broadcast(load(column_share, c), lanes), broadcast(load(row_share, r), lanes)
            top = corner(0, 0) + (corner(0, 1) - corner(0, 0)) * across
            bottom = corner(1, 0) + (corner(1, 1) - corner(1, 0)) * across
            return top + (bottom - top) * down

        index = (r * target.width + c) * target.stored + block * lanes
        return store(y, apply(corner(0, 0) if nearest else between(), step.epilogue, lanes), index, lanes)

    blocks = source.stored // lanes
    return kernel.finish(loop(
        target.height, lambda r: loop(target.width, lambda c: loop(blocks, lambda k: value(r, c, k))), work=4 * target.size,
    ))  # fmt: skip
