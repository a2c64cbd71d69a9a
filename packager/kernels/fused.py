"""A convolution, a depthwise one and one of 1 x 1 by strips of rows: what is between them never leaves the core's cache.

Inverted bottlenecks (Sandler and others, MobileNetV2, 2018) widen a map sixfold, filter it and narrow it again. Kept whole,
the wide map is written to memory and read back, which takes longer than its arithmetic. Here a thread keeps the last
rows of the wide map only, as many as a window reads, in a ring; a row is computed once, except that a thread computes the
rows above its first strip that another one has too.
"""

from tvm import tirx

from linewatch.packager.kernels import conv, depthwise
from linewatch.packager.kernels.writer import (
    Expr,
    Kernel,
    Stmt,
    counter,
    in_order,
    integer,
    load,
    loop,
    scratch,
    sequence,
    store,
)
from linewatch.packager.plan import Step
from linewatch.packager.plan.values import F32
from linewatch.packager.schedule import Fused, rows_between
from linewatch.packager.targets import Isa


def pack_fused(isa: Isa, step: Step, choice: Fused) -> list[F32]:
    """Weights of the three convolutions, as their kernels read them."""
    first, middle, last = step.parts
    assert first.weight is not None
    assert last.weight is not None
    return [
        conv.pack_weights(first.weight, first.output.stored, choice.first.blocks, isa.lanes),
        depthwise.pack_depthwise(middle),
        conv.pack_weights(last.weight, last.output.stored, choice.last.blocks, isa.lanes),
    ]


def fused(isa: Isa, step: Step, choice: Fused) -> object:
    """Parameters: input, packed weights and bias of each convolution, [residual,] output."""
    first, middle, last = step.parts
    source, wide, narrow, target = first.inputs[0], first.output, middle.output, step.output
    g, filtered = conv.geometry_of(first), conv.geometry_of(middle)
    kernel = Kernel()
    x = kernel.array(source.size)
    w1, b1 = kernel.array(g.ky * g.kx * source.channels * wide.stored), kernel.array(wide.stored)
    w2, b2 = kernel.array(filtered.ky * filtered.kx * wide.stored), kernel.array(wide.stored)
    w3, b3 = kernel.array(narrow.channels * target.stored), kernel.array(target.stored)
    residual = kernel.array(target.size) if step.residual else None
    y = kernel.array(target.size)

    kept, rows = rows_between(middle, choice.rows), choice.rows
    ring, allocate_ring = scratch(kept * wide.width * wide.stored)
    strip, allocate_strip = scratch(rows * narrow.width * narrow.stored)
    ready, allocate_ready = counter()

    def held(row: Expr) -> Expr:
        return tirx.truncmod(row, integer(kept))

    size = conv.Rows(source.height, source.width, wide.height)
    widen = conv.tile_writer(isa, first, g, choice.first, conv.Arrays(x, w1, b1, None, ring), size,
                             lambda row, column: held(row) * wide.width + column)  # fmt: skip
    segments = conv.row_segments(g, wide.width, source.width, choice.first.pixels)
    groups = wide.stored // (choice.first.blocks * isa.lanes)
    filter_row = depthwise.row_writer(isa, middle, conv.Arrays(ring, w2, b2, None, strip), held, lambda row: tirx.truncmod(row, integer(rows)))
    pixels = rows * target.width
    plain = conv.Geometry(1, 1, rows=1, columns=pixels)
    narrowed = conv.row_segments(plain, pixels, pixels, choice.last.pixels)

    def widened_row(row: Expr) -> Stmt:
        # A loop over the missing rows alone, whose start and extent are computed, gave wrong results at the lower border.
        missing = tirx.all(row >= load(ready, 0), row < wide.height)
        return tirx.IfThenElse(missing, loop(groups, lambda group: conv.whole_row(widen, segments, group, row)), None)

    def some_rows(n: Expr) -> Stmt:
        top = n * rows
        lowest = top * filtered.sy - filtered.top
        narrow_tile = conv.tile_writer(isa, last, plain, choice.last, conv.Arrays(strip, w3, b3, residual, y),
                                       conv.Rows(1, pixels, 1), lambda _, column: top * target.width + column)  # fmt: skip
        return sequence([
            loop(kept, lambda k: widened_row(lowest + k)),
            store(ready, lowest + kept, 0),
            loop(rows, lambda row: filter_row(top + row)),
            loop(target.stored // (choice.last.blocks * isa.lanes),
                 lambda group: conv.whole_row(narrow_tile, narrowed, group, integer(0))),
        ])  # fmt: skip

    work = (
        wide.size * g.ky * g.kx * source.channels / isa.lanes
        + depthwise.depthwise_work(isa, middle)
        + target.size * narrow.channels / isa.lanes
    )
    before = [allocate_ring, allocate_strip, allocate_ready, store(ready, integer(0), 0)]
    return kernel.finish(in_order(target.height // rows, before, some_rows, work=work))
