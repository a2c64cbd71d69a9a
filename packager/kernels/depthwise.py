"""Depthwise convolution: each channel by itself, a vector of channels at a time."""

from collections.abc import Callable

import numpy as np
from tvm import tirx

from linewatch.packager.kernels.conv import Arrays, geometry_of, over_window_rows, row_segments
from linewatch.packager.kernels.writer import Expr, Kernel, Stmt, accumulators, apply, lanes_of, load, loop, sequence, store
from linewatch.packager.plan import Step
from linewatch.packager.plan.values import F32
from linewatch.packager.targets import Isa


def pack_depthwise(step: Step) -> F32:
    """C x 1 x KH x KW to [KH][KW][C], channels padded with zeros; flat."""
    assert step.weight is not None
    out, _, ky, kx = step.weight.shape
    packed = np.zeros((ky, kx, step.output.stored), np.float32)
    packed[..., :out] = step.weight[:, 0].transpose(1, 2, 0)
    return packed.reshape(-1)


def depthwise(isa: Isa, step: Step) -> object:
    """Parameters: input, packed weights, bias, output."""
    source, target, g = step.inputs[0], step.output, geometry_of(step)
    kernel = Kernel()
    x, w, b = kernel.array(source.size), kernel.array(g.ky * g.kx * target.stored), kernel.array(target.stored)
    y = kernel.array(target.size)
    row = row_writer(isa, step, Arrays(x, w, b, None, y), lambda r: r, lambda r: r)
    return kernel.finish(loop(target.height, row, work=depthwise_work(isa, step)))


def depthwise_work(isa: Isa, step: Step) -> float:
    """Of all outputs, in vector multiply-adds in registers."""
    return 4 * step.output.size * step.number("ky") * step.number("kx") / lanes_of(isa, step.output.stored)


def row_writer(
    isa: Isa, step: Step, arrays: Arrays, held: Callable[[Expr], Expr], written: Callable[[Expr], Expr]
) -> Callable[[Expr], Stmt]:
    """What writes the code of a row of outputs.

    Args:
        isa: of the target.
        step: the convolution.
        arrays: read and written.
        held: which row of the array that is read holds a row of the input.
        written: which row of the array that is written takes a row of the output.
    """
    source, target, g = step.inputs[0], step.output, geometry_of(step)
    ih, iw, oh, ow, stored = source.height, source.width, target.height, target.width, target.stored
    lanes = lanes_of(isa, stored)
    x, w, b, y = arrays.x, arrays.w, arrays.b, arrays.y
    # Weights of one vector of channels and the pixels of a tile are all in registers.
    pixels = max(1, min(8, ow, (isa.registers - 4) // 2))

    def row_tile(row: Expr, column: int | Expr, count: int, inside: bool, block: Expr) -> Stmt:
        acc, allocation = accumulators(count * lanes)
        statements = [allocation, *(store(acc, load(b, block * lanes, lanes), m * lanes, lanes) for m in range(count))]

        def window_row(ky: Expr) -> Stmt:
            updates = []
            for kx in range(g.kx):
                weight = load(w, (ky * g.kx + kx) * stored + block * lanes, lanes)
                for m in range(count):
                    position = (column + m) * g.sx - g.left + kx * g.dx
                    if not inside and not 0 <= position < iw:
                        continue
                    value = load(x, (held(row * g.sy + ky * g.dy - g.top) * iw + position) * stored + block * lanes, lanes)
                    updates.append(store(acc, load(acc, m * lanes, lanes) + value * weight, m * lanes, lanes))
            return sequence(updates) if updates else tirx.Evaluate(0)

        statements.append(over_window_rows(g, row, ih, oh, window_row))
        for m in range(count):
            index = (written(row) * ow + column + m) * stored + block * lanes
            statements.append(store(y, apply(load(acc, m * lanes, lanes), step.epilogue, lanes), index, lanes))
        return sequence(statements)

    segments = row_segments(g, ow, iw, pixels)

    def row(r: Expr) -> Stmt:
        def tile(column: int | Expr, n: int, inside: bool) -> Stmt:
            return loop(stored // lanes, lambda block: row_tile(r, column, n, inside, block))

        return sequence(
            tile(start, n, inside) if count == 1 else loop(count, lambda t, s=start, n=n: tile(s + t * n, n, True))  # type: ignore[misc]
            for start, n, count, inside in segments
        )

    return row
