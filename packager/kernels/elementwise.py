"""Elementwise operators, concatenation and selection of channels, and the two conversions at the graph's ends."""

from collections.abc import Callable

import numpy as np
from tvm import tirx

from linewatch.packager.kernels.writer import (
    Expr,
    Kernel,
    Stmt,
    apply,
    broadcast,
    each_place,
    floats,
    integer,
    lanes_of,
    load,
    loop,
    real,
    sequence,
    store,
)
from linewatch.packager.plan import Output, Source, Step, Tensor
from linewatch.packager.targets import Isa


def _every_value(isa: Isa, target: Tensor, compute: Callable[[Expr, int], Stmt]) -> Stmt:
    """`compute(index, lanes)` over a tensor's memory, in whole vectors, then what is left."""
    rows = target.height
    length = target.size // rows
    whole = length // isa.lanes

    def row(r: Expr) -> Stmt:
        parts = [loop(whole, lambda i: compute(r * length + i * isa.lanes, isa.lanes))] if whole else []
        if length % isa.lanes:
            parts.append(loop(length % isa.lanes, lambda i: compute(r * length + i, 1), start=whole * isa.lanes))
        return sequence(parts)

    return loop(rows, row, work=target.size)


def _zeros_behind(y: Expr, place: Expr, target: Tensor) -> list[Stmt]:
    """Set what pads the last vector of channels to zero."""
    padding = target.stored - target.channels
    return [loop(padding, lambda k: store(y, real(0), place * target.stored + k), start=target.channels)] if padding else []


def read_input(isa: Isa, source: Source, step: Step) -> object:
    """The graph's input to float32, channels last. Parameters: input, output."""
    target = step.output
    kernel = Kernel()
    x, y = kernel.shaped(source.shape, source.dtype), kernel.array(target.size)
    if step.attributes["order"] == "HWC":

        def convert(index: Expr, lanes: int) -> Stmt:
            value = load(x, index, lanes)
            return store(y, value if source.dtype == "float32" else tirx.Cast(floats(lanes), value), index, lanes)

        return kernel.finish(_every_value(isa, target, convert))

    def row(r: Expr) -> Stmt:
        def pixel(c: Expr) -> Stmt:
            place = r * target.width + c
            copies = loop(target.channels, lambda k: store(
                y, load(x, (k * target.height + r) * target.width + c), place * target.stored + k))  # fmt: skip
            return sequence([copies, *_zeros_behind(y, place, target)])

        return loop(target.width, pixel)

    return kernel.finish(loop(target.height, row, work=target.size))


_OPERATORS: dict[str, Callable[[Expr, Expr], Expr]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "rsub": lambda a, b: b - a, "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b, "max": tirx.max, "min": tirx.min,
}  # fmt: skip


def elementwise(isa: Isa, step: Step) -> object:
    """One or two operands. Parameters: inputs, constant, output.

    The second one has the first one's shape, or one value a channel or a place; it may be constant.
    """
    target, op = step.output, str(step.attributes["op"])
    kernel = Kernel()
    inputs = [kernel.array(t.size) for t in step.inputs]
    second = str(step.attributes.get("second", "all"))
    if step.weight is not None:
        inputs.append(kernel.array(step.weight.size))
        second = "all" if step.weight.size == target.size else "channels"
    y = kernel.array(target.size)
    if len(inputs) == 1 or second == "all":

        def compute(index: Expr, lanes: int) -> Stmt:
            values = [load(x, index, lanes) for x in inputs]
            value = _OPERATORS[op](*values) if len(values) == 2 else values[0]
            return store(y, apply(value, step.epilogue, lanes), index, lanes)

        return kernel.finish(_every_value(isa, target, compute))
    lanes = lanes_of(isa, target.stored)

    def pixel(place: Expr) -> Stmt:
        def vector(v: Expr) -> Stmt:
            index = place * target.stored + v * lanes
            other = load(inputs[1], v * lanes, lanes) if second == "channels" else broadcast(load(inputs[1], place), lanes)
            value = _OPERATORS[op](load(inputs[0], index, lanes), other)
            return store(y, apply(value, step.epilogue, lanes), index, lanes)

        return loop(target.stored // lanes, vector)

    return kernel.finish(each_place(target.height, target.width, pixel, work=target.size))


def _copy_channels(isa: Isa, channels: int, read: Callable[[Expr, int], Expr], write: Callable[[Expr, Expr, int], Stmt]) -> list[Stmt]:
    """In vectors as far as they go."""
    lanes, parts = isa.lanes, []
    whole = channels // lanes
    if whole:
        parts.append(loop(whole, lambda v: write(read(v * lanes, lanes), v * lanes, lanes)))
    if channels % lanes:
        parts.append(loop(channels % lanes, lambda c: write(read(c, 1), c, 1), start=whole * lanes))
    return parts


def concat(isa: Isa, step: Step) -> object:
    """Along channels; what pads the last vector is set to zero. Parameters: inputs, output."""
    target = step.output
    kernel = Kernel()
    inputs = [kernel.array(t.size) for t in step.inputs]
    y = kernel.array(target.size)

    def pixel(i: Expr) -> Stmt:
        parts, offset = [], 0
        for x, tensor in zip(inputs, step.inputs, strict=True):
            base, start = i * tensor.stored, i * target.stored + offset
            parts += _copy_channels(
                isa, tensor.channels, lambda c, n, x=x, base=base: load(x, base + c, n),  # type: ignore[misc]
                lambda value, c, n, start=start: store(y, value, start + c, n),  # type: ignore[misc]
            )  # fmt: skip
            offset += tensor.channels
        return sequence([*parts, *_zeros_behind(y, i, target)])

    return kernel.finish(each_place(target.height, target.width, pixel, work=target.size))


def take_channels(isa: Isa, step: Step) -> object:
    """Some channels that follow each other. Parameters: input, output."""
    source, target, first = step.inputs[0], step.output, step.number("start")
    kernel = Kernel()
    x, y = kernel.array(source.size), kernel.array(target.size)

    def pixel(i: Expr) -> Stmt:
        parts = _copy_channels(isa, target.channels, lambda c, n: load(x, i * source.stored + first + c, n),
                               lambda value, c, n: store(y, value, i * target.stored + c, n))  # fmt: skip
        return sequence([*parts, *_zeros_behind(y, i, target)])

    return kernel.finish(each_place(target.height, target.width, pixel, work=target.size))


def pad(isa: Isa, step: Step) -> object:
    """A frame of one value. Parameters: input, output."""
    source, target = step.inputs[0], step.output
    top, left, value = step.number("top"), step.number("left"), float(step.attributes["value"])
    lanes = lanes_of(isa, target.stored)
    kernel = Kernel()
    x, y = kernel.array(source.size), kernel.array(target.size)

    def row(r: Expr) -> Stmt:
        def pixel(c: Expr) -> Stmt:
            i, j = r - top, c - left
            inside = tirx.all(i >= 0, i < source.height, j >= 0, j < source.width)

            def vector(v: Expr, *, copied: bool) -> Stmt:
                filling = broadcast(real(value), lanes)
                read = load(x, (i * source.width + j) * source.stored + v * lanes, lanes) if copied else filling
                return store(y, read, (r * target.width + c) * target.stored + v * lanes, lanes)

            vectors = target.stored // lanes
            return tirx.IfThenElse(inside, loop(vectors, lambda v: vector(v, copied=True)), loop(vectors, lambda v: vector(v, copied=False)))

        return loop(target.width, pixel)

    return kernel.finish(loop(target.height, row, work=target.size))


def depth_to_space(step: Step) -> object:
    """Channels to blocks of places. Parameters: input, output."""
    source, target, block = step.inputs[0], step.output, step.number("block")
    kernel = Kernel()
    x, y = kernel.array(source.size), kernel.array(target.size)

    def row(r: Expr) -> Stmt:
        def value(c: Expr, k: Expr) -> Stmt:
            i, j = tirx.floormod(r, integer(block)), tirx.floormod(c, integer(block))
            place = tirx.floordiv(r, integer(block)) * source.width + tirx.floordiv(c, integer(block))
            channel = (i * block + j) * target.channels + k if step.attributes["order"] == "DCR" else (k * block + i) * block + j
            return store(y, load(x, place * source.stored + channel), (r * target.width + c) * target.stored + k)

        def pixel(c: Expr) -> Stmt:
            return sequence([loop(target.channels, lambda k: value(c, k)), *_zeros_behind(y, r * target.width + c, target)])

        return loop(target.width, pixel)

    return kernel.finish(loop(target.height, row, work=4 * target.size))


def write_output(output: Output) -> object:
    """Channels-last to the graph's own order. Parameters: tensor, output."""
    tensor, view = output.view.tensor, output.view
    kernel = Kernel()
    x, y = kernel.array(tensor.size), kernel.shaped(view.shape)
    letters = "".join(a for axis in view.axes for a in axis if a != "-")
    steps = {}
    for i, letter in enumerate(letters):
        steps[letter] = int(np.prod([view.length(a) for a in letters[i + 1 :]], dtype=int))

    def index(r: Expr, c: Expr, k: Expr) -> Expr:
        parts = [position * steps[letter] for letter, position in (("H", r), ("W", c), ("C", k)) if letter in steps]
        return sum(parts[1:], parts[0]) if parts else integer(0)

    def row(r: Expr) -> Stmt:
        return loop(tensor.channels, lambda k: loop(tensor.width, lambda c: store(
            y, load(x, (r * tensor.width + c) * tensor.stored + k), index(r, c, k))))  # fmt: skip

    return kernel.finish(loop(tensor.height, row, work=tensor.size))
