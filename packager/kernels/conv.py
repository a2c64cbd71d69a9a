"""Direct convolution: a tile of pixels x output vectors stays in registers; weights are packed to be read in order.

Packed weights: [O / (blocks * lanes)][KH][KW][I][blocks * lanes]. For each input value one broadcast feeds `blocks`
multiply-adds, for each weight vector `pixels` of them. Padding costs no copy: rows outside are not looped over, columns
outside are left out of the border tiles when the code is written.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from linewatch.packager.kernels.writer import (
    Buffer,
    Expr,
    Kernel,
    Stmt,
    accumulators,
    apply,
    broadcast,
    integer,
    load,
    loop,
    real,
    sequence,
    store,
)  # fmt: skip
from linewatch.packager.plan import Step
from linewatch.packager.plan.values import F32
from linewatch.packager.schedule import Tile
from linewatch.packager.targets import Isa

_HALVED = 16
"""Lanes of vectors that some processors compute in two halves."""
_TASKS = 8
"""Shares that a 1 x 1 convolution is divided into, for the cores of usual devices; more cost more than they balance."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """Which input each output reads: row `y * sy - top + ky * dy`; and where it is written: row `y * every_y + at_y`."""

    ky: int
    kx: int
    sy: int = 1
    sx: int = 1
    dy: int = 1
    dx: int = 1
    top: int = 0
    left: int = 0
    rows: int = 0
    columns: int = 0
    every_y: int = 1
    every_x: int = 1
    at_y: int = 0
    at_x: int = 0


@dataclass(frozen=True, slots=True)
class Arrays:
    """What a convolution reads, its residual if it has one, and what it writes."""

    x: Buffer
    w: Buffer
    b: Buffer
    r: Buffer | None
    y: Buffer


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows and columns of the input, and rows of the output."""

    ih: int
    iw: int
    oh: int


TileWriter = Callable[[Expr, Expr, int | Expr, int, bool], Stmt]
"""(group of output channels, row, first column, pixels, inside) to the code of a register tile; `inside`: no column of the
window is outside the input. Otherwise the first column is a number."""


def pack_weights(weight: F32, stored_out: int, blocks: int, lanes: int) -> F32:
    """O x I x KH x KW to the packed order, channels padded with zeros; flat.

    Args:
        weight: O x I x KH x KW float32.
        stored_out: output channels in whole vectors.
        blocks: vectors of output channels that a tile computes.
        lanes: float32 values of a vector.
    """
    out, inner, ky, kx = weight.shape
    padded = np.zeros((stored_out, inner, ky, kx), np.float32)
    padded[:out] = weight
    group = blocks * lanes
    return np.ascontiguousarray(padded.reshape(stored_out // group, group, inner, ky, kx).transpose(0, 3, 4, 2, 1)).reshape(-1)


def geometry_of(step: Step) -> Geometry:
    """Of a convolution step."""
    numbers = {name: step.number(name) for name in ("ky", "kx", "sy", "sx", "dy", "dx", "top", "left")}
    return Geometry(**numbers, rows=step.output.height, columns=step.output.width)


def convolution(isa: Isa, step: Step, tile: Tile) -> object:
    """Parameters: input, packed weights, bias, [residual,] output."""
    source, target, geometry = step.inputs[0], step.output, geometry_of(step)
    kernel = Kernel()
    x = kernel.array(source.size)
    w = kernel.array(geometry.ky * geometry.kx * source.channels * target.stored)
    b = kernel.array(target.stored)
    r = kernel.array(target.size) if step.residual else None
    y = kernel.array(target.size)
    return kernel.finish(loops(isa, step, geometry, tile, Arrays(x, w, b, r, y)))


def loops(isa: Isa, step: Step, g: Geometry, tile: Tile, arrays: Arrays) -> Stmt:
    """The code of a whole convolution.

    Args:
        isa: of the target.
        step: whose input and output are read and written.
        g: which input each output reads, and where it is written.
        tile: pixels and vectors of output channels.
        arrays: read and written.
    """
    source, target = step.inputs[0], step.output
    ih, iw, oh, ow, wide = source.height, source.width, g.rows, g.columns, target.width
    pointwise = (g.ky, g.kx, g.sy, g.sx, g.top, g.left, g.every_y, g.every_x) == (1, 1, 1, 1, 0, 0, 1, 1) and (oh, ow) == (ih, iw)
    if pointwise:  # rows do not matter: one long row
        ih, iw, oh, ow, wide = 1, ih * iw, 1, oh * ow, oh * ow
    groups = target.stored // (tile.blocks * isa.lanes)
    work = oh * ow * target.stored * g.ky * g.kx * source.channels / isa.lanes

    def written(row: Expr, column: int | Expr) -> Expr:
        return (row * g.every_y + g.at_y) * wide + column * g.every_x + g.at_x

    row_tile = tile_writer(isa, step, g, tile, arrays, Rows(ih, iw, oh), written)
    segments = row_segments(g, ow, iw, tile.pixels)
    if pointwise:
        return _pointwise(row_tile, segments, groups, tile.pixels, work)

    def row(p: Expr) -> Stmt:
        group, out_row = tirx.floordiv(p, integer(oh)), tirx.floormod(p, integer(oh))
        return whole_row(row_tile, segments, group, out_row)

    return loop(groups * oh, row, work=work)


def tile_writer(
    isa: Isa, step: Step, g: Geometry, tile: Tile, arrays: Arrays, rows: Rows, written: Callable[[Expr, int | Expr], Expr]
) -> TileWriter:
    """What writes the code of a register tile.

    Args:
        isa: of the target.
        step: the convolution; of its input and output only channels matter here.
        g: which input each output reads.
        tile: pixels and vectors of output channels.
        arrays: read and written.
        rows: of the input and output.
        written: (row, column) of an output to the place that it is written to, and that the residual is read from.
    """
    ic, pitch, oc = step.inputs[0].channels, step.inputs[0].stored, step.output.stored  # padding is stored but not multiplied
    x, w, b, r, y = arrays.x, arrays.w, arrays.b, arrays.r, arrays.y
    lanes, blocks = isa.lanes, tile.blocks
    # Half a vector takes half the time where 512 bits are computed in two halves, and no more elsewhere.
    filled = step.output.channels - (oc - lanes)
    halved = lanes == _HALVED and oc == blocks * lanes and filled <= lanes // 2
    widths = [*[lanes] * (blocks - 1), lanes // 2 if halved else lanes]

    def row_tile(group: Expr, row: Expr, column: int | Expr, pixels: int, inside: bool) -> Stmt:
        acc, allocation = accumulators(pixels * blocks * lanes)

        def slot(m: int, j: int) -> int:
            return (m * blocks + j) * lanes

        statements = [allocation]
        statements += [
            store(acc, load(b, (group * blocks + j) * lanes, n), slot(m, j), n)
            for m in range(pixels) for j, n in enumerate(widths)
        ]  # fmt: skip

        def taps(ky: Expr, kx: int | Expr, members: list[int]) -> Stmt:
            def body(c: Expr) -> Stmt:
                updates = []
                for m in members:
                    position = (column + m) * g.sx - g.left + kx * g.dx
                    value = load(x, ((row * g.sy + ky * g.dy - g.top) * rows.iw + position) * pitch + c)
                    for j, n in enumerate(widths):
                        weight = load(w, (((group * g.ky + ky) * g.kx + kx) * ic + c) * (blocks * lanes) + j * lanes, n)
                        updates.append(store(acc, load(acc, slot(m, j), n) + broadcast(value, n) * weight, slot(m, j), n))
                return sequence(updates)

            return loop(ic, body)

        def window_row(ky: Expr) -> Stmt:
            if inside:
                return loop(g.kx, lambda kx: taps(ky, kx, list(range(pixels)))) if g.kx > 1 else taps(ky, 0, list(range(pixels)))
            assert isinstance(column, int)
            columns = [(kx, [m for m in range(pixels) if 0 <= (column + m) * g.sx - g.left + kx * g.dx < rows.iw]) for kx in range(g.kx)]
            parts = [taps(ky, kx, members) for kx, members in columns if members]
            return sequence(parts) if parts else tirx.Evaluate(0)

        statements.append(over_window_rows(g, row, rows.ih, rows.oh, window_row))
        for m in range(pixels):
            place = written(row, column + m)
            for j, n in enumerate(widths):
                index = place * oc + (group * blocks + j) * lanes
                value = load(acc, slot(m, j), n)
                if r is not None:
                    value = value + load(r, index, n)
                statements.append(store(y, apply(value, step.epilogue, n), index, n))
                if n < lanes:  # layers that take whole vectors compute with it
                    statements.append(store(y, broadcast(real(0), lanes - n), index + n, lanes - n))
        return sequence(statements)

    return row_tile


def whole_row(row_tile: TileWriter, segments: list[tuple[int, int, int, bool]], group: Expr, row: Expr) -> Stmt:
    """The code of a row of outputs, for a group of output channels.

    Args:
        row_tile: writes a tile.
        segments: of a row, from `row_segments`.
        group: of `Tile.blocks` vectors of output channels.
        row: of the output.
    """
    return sequence(
        row_tile(group, row, start, pixels, inside) if count == 1 else
        loop(count, lambda t, s=start, n=pixels: row_tile(group, row, s + t * n, n, True))  # type: ignore[misc]
        for start, pixels, count, inside in segments
    )  # fmt: skip


def over_window_rows(g: Geometry, row: Expr, ih: int, oh: int, window_row: Callable[[Expr], Stmt]) -> Stmt:
    """`window_row(ky)` for each row of the window at output row `row` that lies inside the input's `ih` rows.

    Args:
        g: of the convolution.
        row: of the output.
        ih: rows of the input.
        oh: rows of the output.
        window_row: writes the code of a row of the window, ky.
    """
    if g.top <= 0 and (oh - 1) * g.sy - g.top + (g.ky - 1) * g.dy < ih:  # all of them, always
        return loop(g.ky, window_row) if g.ky > 1 else window_row(integer(0))
    if g.dy == 1:
        first = tirx.max(integer(0), g.top - row * g.sy)
        last = tirx.max(first, tirx.min(integer(g.ky), ih + g.top - row * g.sy))
        return loop(last - first, window_row, start=first)

    def checked(ky: Expr) -> Stmt:
        position = row * g.sy + ky * g.dy - g.top
        return tirx.IfThenElse(tirx.all(position >= 0, position < ih), window_row(ky), None)

    return loop(g.ky, checked)


def row_segments(g: Geometry, ow: int, iw: int, pixels: int) -> list[tuple[int, int, int, bool]]:
    """Split an output row in runs of tiles: (first column, pixels a tile, tiles, whether the window stays inside).

    Args:
        g: of the convolution.
        ow: columns of the output.
        iw: columns of the input.
        pixels: most that a tile computes.
    """
    runs: list[tuple[int, int, int, bool]] = []
    column = 0
    while column < ow:
        n = min(pixels, ow - column)
        inside = column * g.sx - g.left >= 0 and (column + n - 1) * g.sx - g.left + (g.kx - 1) * g.dx < iw
        if runs and inside and runs[-1][3] and runs[-1][1] == n:
            first, _, count, _ = runs[-1]
            runs[-1] = (first, n, count + 1, True)
        else:
            runs.append((column, n, 1, inside))
        column += n
    return runs


def _pointwise(
    row_tile: TileWriter, segments: list[tuple[int, int, int, bool]], groups: int,
    pixels: int, work: float,
) -> Stmt:  # fmt: skip
    """A 1x1 convolution: parallel over (group, chunk of tiles); the last chunk takes what is left over too."""
    tiles = segments[0][2] if segments[0][1] == pixels else 0
    chunk = max(1, -(-tiles // -(-_TASKS // groups)))
    chunks = max(1, tiles // chunk)
    rest = [(chunks * chunk * pixels, pixels, tiles - chunks * chunk), *(s[:3] for s in segments[1 if tiles else 0 :])]

    def some(p: Expr) -> Stmt:
        group, part = tirx.floordiv(p, integer(chunks)), tirx.floormod(p, integer(chunks))
        body = []
        if tiles:
            body.append(loop(chunk, lambda t: row_tile(group, integer(0), (part * chunk + t) * pixels, pixels, True)))
        left = [
            loop(count, lambda t, first=first, n=n: row_tile(group, integer(0), first + t * n, n, True))  # type: ignore[misc]
            for first, n, count in rest if count > 0
        ]  # fmt: skip
        if left:
            body.append(tirx.IfThenElse(part == chunks - 1, sequence(left), None) if chunks > 1 else sequence(left))
        return sequence(body)

    return loop(groups * chunks, some, work=work)
