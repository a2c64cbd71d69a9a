"""Area-averaging resize of RGB pictures of any size, with the same integers as Pillow's box filter.

Only the output's size is fixed when the code is made. The tables of `linewatch.anomaly_model.picture.box_tables` say which input
pixels each output pixel is the mean of, so one function serves every camera. It makes some rows of the output at a time: the
caller may read a large picture in pieces that stay in the processor's cache.
"""

from collections.abc import Callable

from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize
from tvm.tirx import PrimFunc, Var, decl_buffer

from linewatch.anomaly_model.picture import BOX_BITS
from linewatch.packager.kernels.writer import (
    PARALLEL_WORK,
    Buffer,
    Expr,
    Stmt,
    broadcast,
    integer,
    load,
    loop,
    sequence,
    store,
)

_PIXEL = 4
"""A pixel is a vector of four: R, G, B and the next pixel's R, which is ignored."""
_UNROLLED = 12
"""Up to so many input columns to each output column, their sum is written out, where all output columns have as many."""


def box_resize(height: int, width: int) -> PrimFunc:
    """Parameters: picture (n uint8), table (int32, see `box_tables`), output (height x width x 3 uint8), first, count, above (int32).

    Makes `count` rows of the output from row `first` on, of a picture of which the rows above row `above` were left out.
    """
    # Callers' memory comes with no alignment.
    source = decl_buffer((Var("n", "int64"),), "uint8", name="picture", data_alignment=1, offset_factor=1, layout=None)
    table = decl_buffer((1 + 3 * (height + width),), "int32", name="tables", layout=None)
    target = decl_buffer((height * width * 3,), "uint8", name="resized", layout=None)
    first, count, above = (Var(name, "int32") for name in ("first", "count", "above"))
    facts = decl_buffer((2,), "int32", name="facts", scope="local", layout=None)
    alike, vectors = load(facts, 0), load(facts, 1)  # input columns to each output column, 0 where they differ; see `columns`

    def column(kind: int, x: int | Expr) -> Expr:
        return load(table, 1 + kind * width + x)

    def row(kind: int, y: Expr) -> Expr:
        return load(table, 1 + 3 * width + kind * height + y)

    def mean(total: Expr, factor: Expr, lanes: int) -> Expr:
        """The total over count, rounded: factor is 2^BOX_BITS / count."""
        half, shift = (broadcast(tirx.const(v, "int32"), lanes) for v in (1 << (BOX_BITS - 1), BOX_BITS))
        return tirx.shift_right(total * broadcast(factor, lanes) + half, shift)

    def several(at: Expr, taps: int, lanes: int) -> Expr:
        """The sum of some pixels next to each other."""
        wide = f"int32x{lanes}" if lanes > 1 else "int32"
        pixels = [tirx.Cast(wide, load(source, at + t * 3, lanes)) for t in range(taps)]
        return sum(pixels[1:], pixels[0])

    def window(sums: Buffer, line: Expr, x: int | Expr, lanes: int, channel: int | Expr, taps: int | None) -> Stmt:
        """Average and round one window of one input row, and add it to its column's sum; `taps` pixels, or as the table says."""
        first_tap, at = line + column(0, x) * 3 + channel, x * _PIXEL + channel

        def add(total: Expr) -> Stmt:
            return store(sums, load(sums, at, lanes) + mean(total, column(2, x), lanes), at, lanes)

        if taps is not None:
            return add(several(first_tap, taps, lanes))
        part = decl_buffer((lanes,), "int32", name="part", scope="local", layout=None)
        return sequence([
            tirx.AllocBuffer(part),
            store(part, broadcast(integer(0), lanes), 0, lanes),
            loop(column(1, x), lambda t: store(part, load(part, 0, lanes) + several(first_tap + t * 3, 1, lanes), 0, lanes)),
            add(load(part, 0, lanes)),
        ])  # fmt: skip

    def finish(sums: Buffer, y: Expr, x: int | Expr, lanes: int, channel: int | Expr) -> Stmt:
        narrow = f"uint8x{lanes}" if lanes > 1 else "uint8"
        value = mean(load(sums, x * _PIXEL + channel, lanes), row(2, y), lanes)
        return store(target, tirx.Cast(narrow, value), (y * width + x) * 3 + channel, lanes)

    def output_row(y: Expr, taps: int | None) -> Stmt:
        sums = decl_buffer((width * _PIXEL,), "int32", name="sums", layout=None)

        def input_row(r: Expr) -> Stmt:
            line = (row(0, y) + r - above) * load(table, 0)
            return columns(lambda x, lanes, channel: window(sums, line, x, lanes, channel, taps))

        return sequence([
            tirx.AllocBuffer(sums),
            loop(width, lambda x: store(sums, broadcast(integer(0), _PIXEL), x * _PIXEL, _PIXEL)),
            loop(row(1, y), input_row),
            columns(lambda x, lanes, channel: finish(sums, y, x, lanes, channel)),
        ])  # fmt: skip

    def columns(body: Callable[[int | Expr, int, int | Expr], Stmt]) -> Stmt:
        """Body for each column, as a vector; its fourth value is written where the next column puts it right.

        Columns that the input's last one is part of, of which there are several when pictures are enlarged, go a channel at a time: a
        vector would read past the picture's end, or write into the next row.
        """
        return sequence([
            loop(vectors, lambda x: body(x, _PIXEL, 0)),
            loop(width - vectors, lambda x: loop(3, lambda c: body(vectors + x, 1, c))),
        ])  # fmt: skip

    def rows(taps: int | None) -> Stmt:
        return loop(count, lambda i: output_row(first + i, taps), work=PARALLEL_WORK)

    def look_at(x: Expr) -> Stmt:
        ends_before = (column(0, x) + column(1, x)) * 3 < load(table, 0)
        return sequence([
            store(facts, tirx.Select(column(1, x) == column(1, 0), alike, integer(0)), 0),
            store(facts, tirx.Select(ends_before, x + 1, vectors), 1),
        ])  # fmt: skip

    body = rows(None)
    for taps in range(_UNROLLED, 0, -1):
        body = tirx.IfThenElse(alike == taps, rows(taps), body)
    whole = sequence([
        tirx.AllocBuffer(facts), store(facts, column(1, 0), 0), store(facts, integer(0), 1), loop(width, look_at), body,
    ])  # fmt: skip
    function = PrimFunc([source, table, target, first, count, above], SBlockRealize([], True, SBlock([], [], [], "root", whole)))
    return function.with_attr("tirx.noalias", True).with_attr("s_tir", True).with_attr("global_symbol", "box_resize")
