"""Convolution of stride 1 by Cook and Toom's algorithm in two dimensions (Winograd's F(m x m, r x r)).

An output tile of m x m is made of an input tile of a x a, a = m + r - 1, by Y = A' [(G g G') * (B' d B)] A, where * is
element by element: a^2 multiplications instead of m^2 r^2. Over many tiles and channels the products become a^2
matrix products, which run in the same register tiles as a 1 x 1 convolution. G g G' is computed when packing.

The matrices come from the points at which two polynomials are multiplied; see S. Winograd, Arithmetic Complexity of
Computations (1980), and A. Lavin and S. Gray, Fast Algorithms for Convolutional Neural Networks (2016).
"""

from collections.abc import Callable
from fractions import Fraction
from functools import cache

import numpy as np
from tvm import tirx

from linewatch.packager.kernels.writer import (
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
    scratch,
    sequence,
    store,
)  # fmt: skip
from linewatch.packager.plan import Step
from linewatch.packager.plan.values import F32
from linewatch.packager.schedule import Winograd
from linewatch.packager.targets import Isa

_POINTS = (0, 1, -1, 2, -2, Fraction(1, 2), Fraction(-1, 2))
Matrix = tuple[tuple[Fraction, ...], ...]


@cache
def matrices(m: int, r: int) -> tuple[Matrix, Matrix, Matrix]:
    """A' (m x a), G (a x r) and B' (a x a), exactly."""
    a = m + r - 1
    points = [Fraction(p) for p in _POINTS[: a - 1]]

    def polynomial(roots: list[Fraction]) -> list[Fraction]:
        coefficients = [Fraction(1)]
        for root in roots:
            shifted, scaled = [Fraction(0), *coefficients], [*(root * c for c in coefficients), Fraction(0)]
            coefficients = [s - t for s, t in zip(shifted, scaled, strict=True)]
        return coefficients

    at = [[p**i for p in points] + [Fraction(int(i == m - 1))] for i in range(m)]
    g, bt = [], []
    for j, p in enumerate(points):
        others = points[:j] + points[j + 1 :]
        scale = Fraction(1)
        for q in others:
            scale *= p - q
        g.append([p**k / scale for k in range(r)])
        bt.append([*polynomial(others), Fraction(0)])
    g.append([Fraction(int(k == r - 1)) for k in range(r)])
    bt.append(polynomial(points))
    frozen = [tuple(tuple(row) for row in matrix) for matrix in (at, g, bt)]
    return frozen[0], frozen[1], frozen[2]


def pack_winograd(weight: F32, stored_out: int, choice: Winograd, lanes: int) -> F32:
    """O x I x R x R to [a * a][O / (blocks * lanes)][I][blocks * lanes], transformed in double precision; flat.

    Args:
        weight: O x I x R x R float32.
        stored_out: output channels in whole vectors.
        choice: of the transform's size and blocks.
        lanes: float32 values of a vector.
    """
    out, inner, r, _ = weight.shape
    transform = np.array([[float(v) for v in row] for row in matrices(choice.m, r)[1]])
    a, group = len(transform), choice.blocks * lanes
    moved = np.zeros((a * a, inner, stored_out), np.float32)
    moved[..., :out] = np.einsum("ak,oikl,bl->abio", transform, weight.astype(np.float64), transform).reshape(a * a, inner, out)
    packed = moved.reshape(a * a, inner, stored_out // group, group).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(packed).reshape(-1)


def winograd(isa: Isa, step: Step, choice: Winograd) -> object:
    """Parameters: input, packed weights, bias, [residual,] output."""
    source, target, lanes, m = step.inputs[0], step.output, isa.lanes, choice.m
    at, _, bt = matrices(m, step.number("ky"))
    a, top, left = len(bt), step.number("top"), step.number("left")
    ih, iw, pitch = source.height, source.width, source.stored
    oh, ow, oc = target.height, target.width, target.stored
    across, down = -(-ow // m), -(-oh // m)
    tiles, block = across * down, choice.tiles
    groups, blocks, pixels = oc // (choice.blocks * lanes), choice.blocks, choice.pixels
    kernel = Kernel()
    x, w, b = kernel.array(source.size), kernel.array(a * a * source.channels * oc), kernel.array(oc)
    residual = kernel.array(target.size) if step.residual else None
    y = kernel.array(target.size)

    def corner(t: Expr) -> tuple[Expr, Expr]:
        return tirx.floordiv(t, integer(across)) * m, tirx.floormod(t, integer(across)) * m

    def transform_input(spectrum: Expr, t: Expr, slot: Expr) -> Stmt:
        row, column = corner(t)
        row, column = row - top, column - left
        inside = tirx.all(row >= 0, row + a <= ih, column >= 0, column + a <= iw)

        def vector(v: Expr, whole: bool) -> Stmt:
            def value(i: int, j: int) -> Expr:
                read = load(x, ((row + i) * iw + column + j) * pitch + v * lanes, lanes)
                if whole:
                    return read
                there = tirx.all(row + i >= 0, row + i < ih, column + j >= 0, column + j < iw)
                return tirx.if_then_else(there, read, broadcast(real(0), lanes))

            first, allocation = accumulators(a * a * lanes)
            columns = [
                store(first, _combine(bt[i], lambda k, j=j: value(k, j), lanes), (i * a + j) * lanes, lanes)  # type: ignore[misc]
                for j in range(a) for i in range(a)
            ]  # fmt: skip
            if not whole:  # each value would be tested once for every row of the matrix
                held, allocate_held = accumulators(a * a * lanes)
                reads = [store(held, value(i, j), (i * a + j) * lanes, lanes) for i in range(a) for j in range(a)]
                columns = [
                    store(first, _combine(bt[i], lambda k, j=j: load(held, (k * a + j) * lanes, lanes), lanes),  # type: ignore[misc]
                          (i * a + j) * lanes, lanes)
                    for j in range(a) for i in range(a)
                ]  # fmt: skip
                columns = [allocate_held, *reads, *columns]
            rows = [
                store(spectrum, _combine(bt[j], lambda k, i=i: load(first, (i * a + k) * lanes, lanes), lanes),  # type: ignore[misc]
                      ((i * a + j) * block + slot) * pitch + v * lanes, lanes)
                for i in range(a) for j in range(a)
            ]  # fmt: skip
            return sequence([allocation, *columns, *rows])

        vectors = pitch // lanes
        return tirx.IfThenElse(inside, loop(vectors, lambda v: vector(v, True)), loop(vectors, lambda v: vector(v, False)))

    def multiply(spectrum: Expr, products: Expr, point: Expr, group: Expr, first: Expr) -> Stmt:
        acc, allocation = accumulators(pixels * blocks * lanes)

        def slot(p: int, j: int) -> int:
            return (p * blocks + j) * lanes

        def body(c: Expr) -> Stmt:
            updates = []
            for p in range(pixels):
                value = broadcast(load(spectrum, (point * block + first + p) * pitch + c), lanes)
                for j in range(blocks):
                    weight = load(w, ((point * groups + group) * source.channels + c) * (blocks * lanes) + j * lanes, lanes)
                    updates.append(store(acc, load(acc, slot(p, j), lanes) + value * weight, slot(p, j), lanes))
            return sequence(updates)

        places = [(p, j) for p in range(pixels) for j in range(blocks)]
        return sequence([
            allocation,
            *(store(acc, broadcast(real(0), lanes), slot(p, j), lanes) for p, j in places),
            loop(source.channels, body),
            *(store(products, load(acc, slot(p, j), lanes),
                    (point * block + first + p) * oc + (group * blocks + j) * lanes, lanes) for p, j in places),
        ])  # fmt: skip

    def transform_output(products: Expr, t: Expr, slot: Expr) -> Stmt:
        row, column = corner(t)

        def vector(v: Expr) -> Stmt:
            first, allocation = accumulators(m * a * lanes)
            columns = [
                store(first, _combine(at[i], lambda k, j=j: load(  # type: ignore[misc]
                    products, ((k * a + j) * block + slot) * oc + v * lanes, lanes), lanes), (i * a + j) * lanes, lanes)
                for j in range(a) for i in range(m)
            ]  # fmt: skip
            statements = [allocation, *columns]
            for i in range(m):
                for j in range(m):
                    index = ((row + i) * ow + column + j) * oc + v * lanes
                    value = _combine(at[j], lambda k, i=i: load(first, (i * a + k) * lanes, lanes), lanes)  # type: ignore[misc]
                    value = value + load(b, v * lanes, lanes)
                    if residual is not None:
                        value = value + load(residual, index, lanes)
                    written = store(y, apply(value, step.epilogue, lanes), index, lanes)
                    limits = [*([row + i < oh] if oh % m and i else []), *([column + j < ow] if ow % m and j else [])]
                    if limits:
                        written = tirx.IfThenElse(tirx.all(*limits) if len(limits) > 1 else limits[0], written, None)
                    statements.append(written)
            return sequence(statements)

        return loop(oc // lanes, vector)

    count = -(-tiles // block)
    work = 1.5 * tiles * a * a * source.channels * oc / lanes

    def products_of(spectrum: Expr, products: Expr, shared: float) -> Stmt:
        # A last block that is not full multiplies what an earlier one left there; nobody reads that.
        return loop(a * a * groups, lambda n: loop(block // pixels, lambda p: multiply(
            spectrum, products, tirx.floordiv(n, integer(groups)), tirx.floormod(n, integer(groups)), p * pixels)), work=shared)  # fmt: skip

    def some_tiles(n: Expr, shared: float = 0) -> Stmt:
        """One block; `shared`: the work in it that is worth sharing among threads."""
        spectrum, allocate_spectrum = scratch(a * a * block * pitch)
        products, allocate_products = scratch(a * a * block * oc)
        filled = tirx.min(integer(block), tiles - n * block) if tiles % block else integer(block)
        return sequence([
            allocate_spectrum,
            allocate_products,
            loop(filled, lambda t: transform_input(spectrum, n * block + t, t), work=shared),
            products_of(spectrum, products, shared),
            loop(filled, lambda t: transform_output(products, n * block + t, t), work=shared),
        ])  # fmt: skip

    if count == 1:
        return kernel.finish(some_tiles(integer(0), work))
    return kernel.finish(loop(count, some_tiles, work=work))


def _combine(row: tuple[Fraction, ...], value: Callable[[int], Expr], lanes: int) -> Expr:
    """The sum of row[k] * value(k), without multiplications by 0, 1 and -1."""
    total = None
    for k, factor in enumerate(row):
        if factor == 0:
            continue
        term = value(k) if abs(factor) == 1 else value(k) * broadcast(real(float(abs(factor))), lanes)
        before = broadcast(real(0), lanes) if total is None else total
        total = term if total is None and factor > 0 else before + term if factor > 0 else before - term
    return total
