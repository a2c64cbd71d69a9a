"""Pooling over windows, over the whole picture, and over channels."""

from collections.abc import Callable

from tvm import tirx

from linewatch.packager.kernels.writer import (
    LARGEST,
    Expr,
    Kernel,
    Stmt,
    accumulators,
    apply,
    broadcast,
    each_place,
    exp,
    integer,
    lanes_of,
    load,
    loop,
    real,
    sequence,
    store,
)  # fmt: skip
from linewatch.packager.plan import Step
from linewatch.packager.plan.values import F32
from linewatch.packager.targets import Isa

_Combine = Callable[[Expr, Expr], Expr]
_OPERATORS: dict[str, tuple[float, _Combine]] = {
    "max": (-LARGEST, tirx.max),
    "min": (LARGEST, tirx.min),
    "sum": (0.0, lambda a, b: a + b),
    "mean": (0.0, lambda a, b: a + b),
    "dot": (0.0, lambda a, b: a + b),
}
"""What each reduction begins with, and how it goes on."""


def window_pool(isa: Isa, step: Step) -> object:
    """Maximum or mean over windows. Parameters: input, output."""
    source, target = step.inputs[0], step.output
    ky, kx, sy, sx, pad_y, pad_x = (step.number(n) for n in ("ky", "kx", "sy", "sx", "top", "left"))
    mean, count_pad = step.attributes["op"] == "mean", bool(step.attributes["count_pad"])
    initial, combine = _OPERATORS[str(step.attributes["op"])]
    lanes, channels = lanes_of(isa, source.stored), source.stored
    ih, iw, oh, ow = source.height, source.width, target.height, target.width
    kernel = Kernel()
    x, y = kernel.array(source.size), kernel.array(target.size)
    rows_inside = pad_y == 0 and (oh - 1) * sy + ky <= ih

    def pixel(row: Expr, column: int | Expr, block: Expr) -> Stmt:
        """One output vector. A border column is given as a number, so that its window is clipped when this is written."""
        acc, allocation = accumulators(lanes)
        top, left = row * sy - pad_y, column * sx - pad_x
        x0, x1 = (max(0, -left), min(kx, iw - left)) if isinstance(left, int) else (0, kx)
        y0, y1 = (integer(0), integer(ky)) if rows_inside else (
            tirx.max(integer(0), pad_y - row * sy), tirx.min(integer(ky), ih + pad_y - row * sy))  # fmt: skip

        def tap(i: Expr, j: Expr) -> Stmt:
            value = load(x, ((top + i) * iw + left + j) * channels + block * lanes, lanes)
            return store(acc, combine(load(acc, 0, lanes), value), 0, lanes)

        result = load(acc, 0, lanes)
        if mean and (count_pad or (rows_inside and x1 - x0 == kx)):
            result = result * broadcast(real(1 / (ky * kx)), lanes)
        elif mean:
            result = result / broadcast((y1 - y0).astype("float32") * real(x1 - x0), lanes)
        return sequence([
            allocation,
            store(acc, broadcast(real(initial), lanes), 0, lanes),
            loop(y1 - y0, lambda i: loop(x1 - x0, lambda j: tap(i, j), start=x0), start=y0),
            store(y, apply(result, step.epilogue, lanes), (row * ow + column) * channels + block * lanes, lanes),
        ])  # fmt: skip

    # Columns whose window cannot leave the input: most of them, and their loops have constant bounds.
    first = min(ow, -(-pad_x // sx))
    last = max(first, min(ow, (iw + pad_x - kx) // sx + 1))

    def row(r: Expr) -> Stmt:
        def across(column: int | Expr) -> Stmt:
            return loop(channels // lanes, lambda block: pixel(r, column, block))

        parts = [across(c) for c in [*range(first), *range(last, ow)]]
        return sequence([*parts, *([loop(last - first, across, start=first)] if last > first else [])])

    return kernel.finish(loop(oh, row, work=4 * target.size * ky * kx / lanes))


def global_pool(isa: Isa, step: Step) -> object:
    """Over the picture, for each channel. Parameters: input, output."""
    source, op = step.inputs[0], str(step.attributes["op"])
    initial, combine = _OPERATORS[op]
    channels, count = source.stored, source.height * source.width
    kernel = Kernel()
    x, y = kernel.array(source.size), kernel.array(step.output.size)
    lanes = lanes_of(isa, channels)

    def block(p: Expr) -> Stmt:
        acc, allocation = accumulators(lanes)
        total = load(acc, 0, lanes)
        result = total * broadcast(real(1 / count), lanes) if op == "mean" else total
        return sequence([
            allocation,
            store(acc, broadcast(real(initial), lanes), 0, lanes),
            loop(count, lambda i: store(
                acc, combine(load(acc, 0, lanes), load(x, i * channels + p * lanes, lanes)), 0, lanes)),
            store(y, apply(result, step.epilogue, lanes), p * lanes, lanes),
        ])  # fmt: skip

    return kernel.finish(loop(channels // lanes, block, work=source.size))


def channel_reduce(isa: Isa, step: Step) -> object:
    """Over channels, or their dot product with weights. Parameters: input, [weights, bias,] output."""
    source, target, op = step.inputs[0], step.output, str(step.attributes["op"])
    initial, combine = _OPERATORS[op]
    stored, channels = source.stored, source.channels
    lanes = lanes_of(isa, stored)
    whole = channels // lanes
    kernel = Kernel()
    x = kernel.array(source.size)
    w = b = None
    if op == "dot":
        w, b = kernel.array(channels), kernel.array(1)
    y = kernel.array(target.size)

    def pixel(i: Expr) -> Stmt:
        acc, allocation = accumulators(lanes)
        total, allocate_total = accumulators(1)

        def term(c: Expr, n: int) -> Expr:
            value = load(x, i * stored + c, n)
            return value if w is None else value * load(w, c, n)

        def fold(value: Expr) -> Stmt:
            return store(total, combine(load(total, 0), value), 0)

        statements = [allocation, allocate_total, store(total, real(initial), 0)]
        if whole:
            statements.append(store(acc, broadcast(real(initial), lanes), 0, lanes))
            statements.append(loop(whole, lambda v: store(
                acc, combine(load(acc, 0, lanes), term(v * lanes, lanes)), 0, lanes)))  # fmt: skip
            statements += [fold(load(acc, j)) for j in range(lanes)]
        if channels % lanes:  # padding takes no part
            statements.append(loop(channels % lanes, lambda c: fold(term(c, 1)), start=whole * lanes))
        value = load(total, 0)
        value = value if b is None else value + load(b, 0)
        statements.append(store(y, apply(value, step.epilogue, 1), i))
        return sequence(statements)

    return kernel.finish(each_place(target.height, target.width, pixel, work=source.size))


def dot_weights(step: Step) -> F32:
    """A one-output convolution's weights."""
    assert step.weight is not None
    return step.weight[0, :, 0, 0]


def softmax(isa: Isa, step: Step) -> object:
    """Over channels: exp(x - max) / sum. Parameters: input, output."""
    source = step.inputs[0]
    stored, channels = source.stored, source.channels
    lanes = lanes_of(isa, stored)
    whole, rest = channels // lanes, channels % lanes
    kernel = Kernel()
    x, y = kernel.array(source.size), kernel.array(step.output.size)

    def pixel(i: Expr) -> Stmt:
        acc, allocation = accumulators(lanes)
        best, allocate_best = accumulators(1)
        total, allocate_total = accumulators(1)

        def each(body: Callable[[Expr, int], Stmt]) -> list[Stmt]:
            parts = [loop(whole, lambda v: body(i * stored + v * lanes, lanes))] if whole else []
            return [*parts, *([loop(rest, lambda c: body(i * stored + c, 1), start=whole * lanes)] if rest else [])]

        def reduced(into: Expr, combine: _Combine, initial: float, buffer: Expr) -> list[Stmt]:
            def body(index: Expr, n: int) -> Stmt:
                if n == 1 and lanes > 1:
                    return store(into, combine(load(into, 0), load(buffer, index)), 0)
                return store(acc, combine(load(acc, 0, n), load(buffer, index, n)), 0, n)

            folds = [store(into, combine(load(into, 0), load(acc, j)), 0) for j in range(lanes)]
            return [store(into, real(initial), 0), store(acc, broadcast(real(initial), lanes), 0, lanes), *each(body), *folds]

        return sequence([
            allocation, allocate_best, allocate_total,
            *reduced(best, tirx.max, -LARGEST, x),
            *each(lambda index, n: store(y, exp(load(x, index, n) - broadcast(load(best, 0), n), n), index, n)),
            *reduced(total, lambda a, b: a + b, 0.0, y),
            *each(lambda index, n: store(y, apply(load(y, index, n) / broadcast(load(total, 0), n), step.epilogue, n), index, n)),
        ])  # fmt: skip

    return kernel.finish(each_place(source.height, source.width, pixel, work=20 * source.size))
