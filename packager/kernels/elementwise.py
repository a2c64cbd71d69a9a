"""Elementwise operators, concatenation, bilinear resize, and the two conversions at the graph's ends."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from tvm import tirx

from packager.isa import Isa
from packager.kernels.writer import (
    Expr,
    Kernel,
    Stmt,
    apply,
    load,
    loop,
    real,
    sequence,
    spread,
    store,
)
from packager.plan import Output, Step, Tensor


def _every_value(isa: Isa, target: Tensor, compute: Callable[[Expr, int], Stmt]) -> Stmt:
    """`compute(index, lanes)` over a tensor's memory, row by row: whole vectors, then what is left of the row."""
    length = target.width * target.stored
    whole = length // isa.lanes

    def row(r: Expr) -> Stmt:
        parts = [loop(whole, lambda i: compute(r * length + i * isa.lanes, isa.lanes))] if whole else []
        if length % isa.lanes:
            parts.append(loop(length % isa.lanes, lambda i: compute(r * length + i, 1), start=whole * isa.lanes))
        return sequence(parts)

    return loop(target.height, row, parallel=True)


def picture(isa: Isa, step: Step) -> object:
    """uint8 to float32, same order. Parameters: picture, output."""
    kernel = Kernel(isa)
    x, y = kernel.array(step.output.shape, "uint8"), kernel.array(step.output.shape)

    def convert(index: Expr, lanes: int) -> Stmt:
        dtype = f"float32x{lanes}" if lanes > 1 else "float32"
        return store(y, tirx.Cast(dtype, load(x, index, lanes)), index, lanes)

    return kernel.finish(_every_value(isa, step.output, convert))


def elementwise(isa: Isa, step: Step) -> object:
    """One or two operands of the same shape, the second one perhaps constant. Parameters: inputs, constant, output."""
    kernel = Kernel(isa)
    inputs = [kernel.array(t.shape) for t in step.inputs]
    if step.weight is not None:
        inputs.append(kernel.array(step.weight.shape))
    y = kernel.array(step.output.shape)

    def compute(index: Expr, lanes: int) -> Stmt:
        values = [load(x, index, lanes) for x in inputs]
        match step.attributes["op"]:
            case "add":
                value = values[0] + values[1]
            case "sub":
                value = values[0] - values[1]
            case "mul":
                value = values[0] * values[1]
            case _:
                value = values[0]
        return store(y, apply(value, step.epilogue, lanes), index, lanes)

    return kernel.finish(_every_value(isa, step.output, compute))


def concat(isa: Isa, step: Step) -> object:
    """Along channels; what pads the last vector is set to zero. Parameters: inputs, output."""
    target = step.output
    kernel = Kernel(isa)
    inputs = [kernel.array(t.shape) for t in step.inputs]
    y = kernel.array(target.shape)
    lanes = isa.lanes

    def pixel(i: Expr) -> Stmt:
        parts, offset = [], 0
        for x, tensor in zip(inputs, step.inputs, strict=True):
            whole = tensor.channels // lanes
            source, base = i * tensor.stored, i * target.stored + offset
            if whole:
                parts.append(loop(whole, lambda v, x=x, s=source, b=base: store(  # type: ignore[misc]
                    y, load(x, s + v * lanes, lanes), b + v * lanes, lanes)))  # fmt: skip
            if tensor.channels % lanes:
                parts.append(loop(tensor.channels % lanes, lambda c, x=x, s=source, b=base: store(  # type: ignore[misc]
                    y, load(x, s + c), b + c), start=whole * lanes))  # fmt: skip
            offset += tensor.channels
        if offset < target.stored:
            parts.append(loop(target.stored - offset, lambda c: store(y, real(0), i * target.stored + c), start=offset))
        return sequence(parts)

    width = target.width
    return kernel.finish(loop(target.height, lambda r: loop(width, lambda c: pixel(r * width + c)), parallel=True))


def resize_table(size_in: int, size_out: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """For each output position: lower and upper input index (2 x n), and the upper one's share. Half-pixel centres."""
    position = np.clip((np.arange(size_out) + 0.5) * size_in / size_out - 0.5, 0, size_in - 1)
    low = np.floor(position).astype(np.int32)
    return np.stack([low, np.minimum(low + 1, size_in - 1)]), (position - low).astype(np.float32)


def resize(isa: Isa, step: Step) -> object:
    """Bilinear. Parameters: input, row indices, row shares, column indices, column shares, output."""
    source, target = step.inputs[0], step.output
    lanes = isa.lanes if source.stored % isa.lanes == 0 else 1
    kernel = Kernel(isa)
    x = kernel.array(source.shape)
    rows, row_share = kernel.array((2, target.height), "int32"), kernel.array((target.height,))
    columns, column_share = kernel.array((2, target.width), "int32"), kernel.array((target.width,))
    y = kernel.array(target.shape)

    def value(r: Expr, c: Expr, block: Expr) -> Stmt:
        def corner(i: int, j: int) -> Expr:
            index = load(rows, i * target.height + r) * source.width + load(columns, j * target.width + c)
            return load(x, index * source.stored + block * lanes, lanes)

        across, down = spread(load(column_share, c), lanes), spread(load(row_share, r), lanes)
        top = corner(0, 0) + (corner(0, 1) - corner(0, 0)) * across
        bottom = corner(1, 0) + (corner(1, 1) - corner(1, 0)) * across
        index = (r * target.width + c) * target.stored + block * lanes
        return store(y, apply(top + (bottom - top) * down, step.epilogue, lanes), index, lanes)

    blocks = source.stored // lanes
    return kernel.finish(
        loop(target.height, lambda r: loop(target.width, lambda c: loop(blocks, lambda k: value(r, c, k))), parallel=True)
    )


def to_output(isa: Isa, output: Output) -> object:
    """Channels-last to the graph's own order. Parameters: tensor, output."""
    tensor = output.tensor
    kernel = Kernel(isa)
    x, y = kernel.array(tensor.shape), kernel.array(output.shape)

    def row(r: Expr) -> Stmt:
        return loop(tensor.channels, lambda c: loop(tensor.width, lambda k: store(
            y, load(x, (r * tensor.width + k) * tensor.stored + c), (c * tensor.height + r) * tensor.width + k)))  # fmt: skip

    return kernel.finish(loop(tensor.height, row, parallel=True))
