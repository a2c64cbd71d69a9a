"""Pooling over windows, over the whole picture, and over channels."""

import numpy as np
import numpy.typing as npt
from tvm import tirx

from packager.isa import Isa
from packager.kernels.writer import (
    LARGEST,
    Expr,
    Kernel,
    Stmt,
    accumulators,
    apply,
    integer,
    load,
    loop,
    real,
    sequence,
    spread,
    store,
)  # fmt: skip
from packager.plan import Step


def _lanes(isa: Isa, stored: int) -> int:
    return isa.lanes if stored % isa.lanes == 0 else 1


def window_pool(isa: Isa, step: Step) -> object:
    """Maximum or mean over k x k windows. Parameters: input, output."""
    source, target = step.inputs[0], step.output
    k, stride, pad = (int(step.attributes[n]) for n in ("kernel", "stride", "pad"))
    maximum, count_pad = step.attributes["op"] == "max", bool(step.attributes["count_pad"])
    lanes, channels = _lanes(isa, source.stored), source.stored
    ih, iw, ow = source.height, source.width, target.width
    kernel = Kernel(isa)
    x, y = kernel.array(source.shape), kernel.array(target.shape)

    def pixel(row: Expr, column: int | Expr, block: Expr) -> Stmt:
        """One output vector. A border column is given as a number, so that its window is clipped when this is written."""
        acc, allocation = accumulators(lanes)
        top, left = row * stride - pad, column * stride - pad
        x0, x1 = (max(0, -left), min(k, iw - left)) if isinstance(left, int) else (0, k)
        y0, y1 = (integer(0), integer(k)) if pad == 0 else (
            tirx.max(integer(0), pad - row * stride), tirx.min(integer(k), ih + pad - row * stride))  # fmt: skip

        def tap(ky: Expr, kx: Expr) -> Stmt:
            value = load(x, ((top + ky) * iw + left + kx) * channels + block * lanes, lanes)
            held = load(acc, 0, lanes)
            return store(acc, tirx.max(held, value) if maximum else held + value, 0, lanes)

        result = load(acc, 0, lanes)
        if not maximum:
            if count_pad or pad == 0:
                result = result * spread(real(1 / (k * k)), lanes)
            else:
                result = result / spread((y1 - y0).astype("float32") * real(x1 - x0), lanes)
        return sequence([
            allocation,
            store(acc, spread(real(-LARGEST if maximum else 0), lanes), 0, lanes),
            loop(y1 - y0, lambda ky: loop(x1 - x0, lambda kx: tap(ky, kx), start=x0), start=y0),
            store(y, apply(result, step.epilogue, lanes), (row * ow + column) * channels + block * lanes, lanes),
        ])  # fmt: skip

    # Columns whose window cannot leave the input: most of them, and their loops have constant bounds.
    first = min(ow, -(-pad // stride))
    last = max(first, min(ow, (iw + pad - k) // stride + 1))

    def row(r: Expr) -> Stmt:
        def across(column: int | Expr) -> Stmt:
            return loop(channels // lanes, lambda block: pixel(r, column, block))

        parts = [across(c) for c in [*range(first), *range(last, ow)]]
        return sequence([*parts, *([loop(last - first, across, start=first)] if last > first else [])])

    return kernel.finish(loop(target.height, row, parallel=True))


def global_pool(isa: Isa, step: Step) -> object:
    """Maximum or mean over the picture, for each channel. Parameters: input, output."""
    source = step.inputs[0]
    maximum, channels, count = step.attributes["op"] == "max", source.stored, source.height * source.width
    kernel = Kernel(isa)
    x, y = kernel.array(source.shape), kernel.array(step.output.shape)
    lanes = _lanes(isa, channels)

    def combine(a: Expr, b: Expr) -> Expr:
        return tirx.max(a, b) if maximum else a + b

    def block(p: Expr) -> Stmt:
        acc, allocation = accumulators(lanes)
        total = load(acc, 0, lanes)
        result = total if maximum else total * spread(real(1 / count), lanes)
        return sequence([
            allocation,
            store(acc, spread(real(-LARGEST if maximum else 0), lanes), 0, lanes),
            loop(count, lambda i: store(
                acc, combine(load(acc, 0, lanes), load(x, i * channels + p * lanes, lanes)), 0, lanes)),
            store(y, apply(result, step.epilogue, lanes), p * lanes, lanes),
        ])  # fmt: skip

    return kernel.finish(loop(channels // lanes, block, parallel=True))


def channel_reduce(isa: Isa, step: Step) -> object:
    """Maximum over channels, or their dot product with weights. Parameters: input, [weights, bias,] output.

    Padded channels take no part in a maximum; in a dot product their weights are zero.
    """
    source, target = step.inputs[0], step.output
    maximum, stored = step.attributes["op"] == "max", source.stored
    lanes = _lanes(isa, stored)
    whole = (source.channels if maximum else stored) // lanes
    kernel = Kernel(isa)
    x = kernel.array(source.shape)
    w = b = None
    if not maximum:
        w, b = kernel.array((stored,)), kernel.array((1,))
    y = kernel.array(target.shape)

    def pixel(i: Expr) -> Stmt:
        acc, allocation = accumulators(lanes)

        def vector(v: Expr) -> Stmt:
            value = load(x, i * stored + v * lanes, lanes)
            held = load(acc, 0, lanes)
            if w is None:
                return store(acc, tirx.max(held, value), 0, lanes)
            return store(acc, held + value * load(w, v * lanes, lanes), 0, lanes)

        def fold(value: Expr) -> Stmt:
            held = load(y, i)
            return store(y, tirx.max(held, value) if maximum else held + value, i)

        statements = [allocation, store(acc, spread(real(-LARGEST if maximum else 0), lanes), 0, lanes)]
        if whole:
            statements.append(loop(whole, vector))
        statements.append(store(y, load(acc, 0), i))
        if lanes > 1:
            statements.append(loop(lanes - 1, lambda j: fold(load(acc, j)), start=1))
        if maximum and source.channels % lanes:
            statements.append(loop(source.channels % lanes, lambda j: fold(load(x, i * stored + j)), start=whole * lanes))
        value = load(y, i)
        if b is not None:
            value = value + load(b, 0)
        if b is not None or step.epilogue:
            statements.append(store(y, apply(value, step.epilogue, 1), i))
        return sequence(statements)

    rows = target.height
    return kernel.finish(loop(rows, lambda r: loop(target.width, lambda c: pixel(r * target.width + c)), parallel=True))


def dot_weights(step: Step) -> npt.NDArray[np.float32]:
    """A one-output convolution's weights, padded like its input."""
    assert step.weight is not None
    padded = np.zeros(step.inputs[0].stored, np.float32)
    padded[: step.weight.shape[1]] = step.weight[0, :, 0, 0]
    return padded
