"""Convolution: a tile of pixels x output vectors stays in registers; weights are packed to be read in order.

Packed weights: [O / (blocks * lanes)][K][K][I][blocks * lanes]. For each input value one broadcast feeds `blocks`
multiply-adds, for each weight vector `pixels` of them. Padding costs no copy: rows outside are not looped over, columns
outside are left out of the two border tiles when the code is written.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tvm import tirx

from packager.isa import Isa
from packager.kernels.writer import (
    Expr,
    Kernel,
    Stmt,
    accumulators,
    apply,
    integer,
    load,
    loop,
    sequence,
    spread,
    store,
)  # fmt: skip
from packager.plan import Step


@dataclass(frozen=True, slots=True)
class Tile:
    """Register tile: `pixels` of a row x `blocks` vectors of output channels."""

    pixels: int
    blocks: int


def choose_tile(isa: Isa, vectors: int, width: int) -> Tile:
    """The tile of the best modelled throughput.

    The model: loads per multiply-add are (pixels + blocks) / (pixels * blocks); below ten accumulators the units wait
    for each other; a row's last, narrower tile wastes what it does not fill; accumulators, weights and one broadcast
    must fit the registers.
    """
    best, best_score = Tile(1, 1), 0.0
    for blocks in (4, 3, 2, 1):
        if vectors % blocks:
            continue
        for pixels in range(1, 29):
            tile = pixels * blocks
            if tile + blocks + 1 > isa.registers or pixels > width:
                continue
            filled = width / (-(-width // pixels) * pixels)
            pipelined = min(1.0, tile / 10)
            score = filled * pipelined / (1 + 0.6 * (pixels + blocks) / tile)
            if score > best_score:
                best, best_score = Tile(pixels, blocks), score
    return best


def pack_weights(weight: npt.NDArray[np.float32], stored_out: int, tile: Tile, lanes: int) -> npt.NDArray[np.float32]:
    """O x I x K x K to the packed order, channels padded with zeros."""
    out, inner, k, _ = weight.shape
    padded = np.zeros((stored_out, inner, k, k), np.float32)
    padded[:out] = weight
    group = tile.blocks * lanes
    return np.ascontiguousarray(padded.reshape(stored_out // group, group, inner, k, k).transpose(0, 3, 4, 2, 1))


def convolution(isa: Isa, step: Step, tile: Tile) -> object:
    """Parameters: input, packed weights, bias, [residual,] output."""
    source, target = step.inputs[0], step.output
    k, stride, pad = (int(step.attributes[n]) for n in ("kernel", "stride", "pad"))
    ih, iw, ic = source.height, source.width, source.channels
    pitch = source.stored  # padding channels are stored but not multiplied
    oh, ow, oc = target.height, target.width, target.stored
    pointwise = k == 1 and stride == 1 and pad == 0
    if pointwise:  # rows do not matter: one long row
        ih, iw, oh, ow = 1, ih * iw, 1, oh * ow
    lanes, blocks = isa.lanes, tile.blocks
    groups = oc // (blocks * lanes)
    kernel = Kernel(isa)
    x = kernel.array(source.shape)
    w = kernel.array((groups, k, k, ic, blocks * lanes))
    b = kernel.array((oc,))
    r = kernel.array(target.shape) if step.residual else None
    y = kernel.array(target.shape)

    def row_tile(group: Expr, row: Expr, column: int | Expr, pixels: int, inside: bool) -> Stmt:
        """Compute `pixels` outputs from `column` on; `inside`: no column of the window is outside the input."""
        acc, allocation = accumulators(pixels * blocks * lanes)

        def slot(m: int, j: int) -> int:
            return (m * blocks + j) * lanes

        statements = [allocation]
        statements += [
            store(acc, load(b, (group * blocks + j) * lanes, lanes), slot(m, j), lanes)
            for m in range(pixels) for j in range(blocks)
        ]  # fmt: skip

        def taps(ky: Expr, kx: int | Expr, members: list[int]) -> Stmt:
            def body(c: Expr) -> Stmt:
                updates = []
                for m in members:
                    position = (column + m) * stride - pad + kx
                    value = spread(load(x, ((row * stride + ky - pad) * iw + position) * pitch + c), lanes)
                    for j in range(blocks):
                        weight = load(w, (((group * k + ky) * k + kx) * ic + c) * (blocks * lanes) + j * lanes, lanes)
                        updates.append(store(acc, load(acc, slot(m, j), lanes) + value * weight, slot(m, j), lanes))
                return sequence(updates)

            return loop(ic, body)

        def window_row(ky: Expr) -> Stmt:
            if inside:
                return loop(k, lambda kx: taps(ky, kx, list(range(pixels)))) if k > 1 else taps(ky, 0, list(range(pixels)))
            assert isinstance(column, int)
            columns = [(kx, [m for m in range(pixels) if 0 <= (column + m) * stride - pad + kx < iw]) for kx in range(k)]
            return sequence(taps(ky, kx, members) for kx, members in columns if members)

        if pad == 0:
            statements.append(loop(k, window_row) if k > 1 else window_row(integer(0)))
        else:
            first = tirx.max(integer(0), pad - row * stride)
            last = tirx.min(integer(k), ih + pad - row * stride)
            statements.append(loop(last - first, window_row, start=first))
        for m in range(pixels):
            for j in range(blocks):
                index = (row * ow + column + m) * oc + (group * blocks + j) * lanes
                value = load(acc, slot(m, j), lanes)
                if r is not None:
                    value = value + load(r, index, lanes)
                statements.append(store(y, apply(value, step.epilogue, lanes), index, lanes))
        return sequence(statements)

    segments = _segments(ow, iw, k, stride, pad, tile.pixels)
    if pointwise:
        return kernel.finish(_pointwise(row_tile, segments, groups, tile.pixels))

    def row(p: Expr) -> Stmt:
        group, out_row = tirx.floordiv(p, integer(oh)), tirx.floormod(p, integer(oh))
        body = []
        for start, pixels, count, inside in segments:
            if count == 1:
                body.append(row_tile(group, out_row, start, pixels, inside))
            else:
                body.append(loop(count, lambda t, s=start, n=pixels: row_tile(group, out_row, s + t * n, n, True)))  # type: ignore[misc]
        return sequence(body)

    return kernel.finish(loop(groups * oh, row, parallel=True))


def _segments(ow: int, iw: int, k: int, stride: int, pad: int, pixels: int) -> list[tuple[int, int, int, bool]]:
    """Split an output row in runs of tiles: (first column, pixels a tile, tiles, whether the window stays inside)."""
    runs: list[tuple[int, int, int, bool]] = []
    column = 0
    while column < ow:
        n = min(pixels, ow - column)
        inside = column * stride - pad >= 0 and (column + n - 1) * stride - pad + k - 1 < iw
        if runs and inside and runs[-1][3] and runs[-1][1] == n:
            first, _, count, _ = runs[-1]
            runs[-1] = (first, n, count + 1, True)
        else:
            runs.append((column, n, 1, inside))
        column += n
    return runs


def _pointwise(row_tile: object, segments: list[tuple[int, int, int, bool]], groups: int, pixels: int) -> Stmt:
    """A 1x1 convolution: parallel over (group, chunk of tiles), the remaining tiles after it."""
    assert callable(row_tile)
    tiles = segments[0][2] if segments[0][1] == pixels else 0
    chunk = max(1, tiles // 8)
    chunks = tiles // chunk
    body = []
    if chunks:

        def some(p: Expr) -> Stmt:
            group, part = tirx.floordiv(p, integer(chunks)), tirx.floormod(p, integer(chunks))
            return loop(chunk, lambda t: row_tile(group, integer(0), (part * chunk + t) * pixels, pixels, True))

        body.append(loop(groups * chunks, some, parallel=True))
    rest = [(chunks * chunk * pixels, pixels, tiles - chunks * chunk), *(s[:3] for s in segments[1 if tiles else 0 :])]
    for first, n, count in rest:
        if count:
            body.append(loop(groups, lambda g, first=first, n=n, count=count: loop(  # type: ignore[misc]
                count, lambda t: row_tile(g, integer(0), first + t * n, n, True))))  # fmt: skip
    return sequence(body)
