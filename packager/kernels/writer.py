"""Small vocabulary for writing TIR by hand: flat arrays, loops, vectors."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize
from tvm.tirx import (
    AllocBuffer,
    Broadcast,
    BufferLoad,
    BufferStore,
    DeclBuffer,
    For,
    ForKind,
    PrimFunc,
    Ramp,
    SeqStmt,
    Var,
    decl_buffer,
)  # fmt: skip

from linewatch.packager.plan import Unary
from linewatch.packager.targets import Isa

Expr = Any
Stmt = Any
Buffer = Any

LARGEST = 3.4e38
PARALLEL_WORK = 60_000
"""Vector multiply-adds in registers, or values moved, from which a loop is worth waking other threads for: 10 microseconds."""


def integer(value: int | Expr) -> Expr:
    """An int32 constant."""
    return tirx.const(value, "int32") if isinstance(value, int) else value


def real(value: float) -> Expr:
    """A float32 constant."""
    return tirx.const(float(value), "float32")


def sequence(statements: Iterable[Stmt]) -> Stmt:
    """Statements one after another."""
    items = list(statements)
    return items[0] if len(items) == 1 else SeqStmt(items)


def loop(extent: int | Expr, body: Callable[[Expr], Stmt], *, start: int | Expr = 0, work: float = 0) -> Stmt:
    """`for i in start .. start + extent: body(i)`.

    Args:
        extent: how often.
        body: of the loop.
        start: first value of i.
        work: of the whole loop, see PARALLEL_WORK; loops with more are shared among threads.
    """
    variable = Var("i", "int32")
    kind = ForKind.PARALLEL if _shared(extent, work) else ForKind.SERIAL
    return For(variable, integer(start), integer(extent), kind, body(variable))


def in_order(extent: int, before: list[Stmt], body: Callable[[Expr], Stmt], *, work: float) -> Stmt:
    """`for i in range(extent): body(i)`, where each thread has memory of its own that outlives an iteration.

    Each of the threads that there are takes neighbouring iterations, in order.

    Args:
        extent: how often.
        before: what each thread does first: allocations, and what sets them.
        body: of the loop.
        work: of the whole loop, see PARALLEL_WORK.
    """
    if not _shared(extent, work):
        return sequence([*before, loop(extent, body)])
    threads, allocation = counter()
    count, share = load(threads, 0), Var("share", "int32")

    def mine(i: Expr) -> Stmt:
        # The whole loop with a test: see ADR 2 on loops whose start and extent depend on an outer one.
        inside = tirx.all(i >= extent * share // count, i < extent * (share + 1) // count)
        return tirx.IfThenElse(inside, body(i), None)

    started = tirx.Cast("int32", tirx.call_packed("runtime.NumThreads"))
    shares = For(share, integer(0), count, ForKind.PARALLEL, sequence([*before, loop(extent, mine)]))
    return sequence([allocation, store(threads, tirx.max(integer(1), started), 0), shares])


def _shared(extent: int | Expr, work: float) -> bool:
    return work >= PARALLEL_WORK and not (isinstance(extent, int) and extent == 1)


def each_place(height: int, width: int, body: Callable[[Expr], Stmt], *, work: float) -> Stmt:
    """`body(place)` for every place of a picture; rows are shared among threads.

    Args:
        height: rows.
        width: columns.
        body: writes the code of a place.
        work: operations of all places, by which threads are used or not.
    """
    return loop(height, lambda r: loop(width, lambda c: body(r * width + c)), work=work)


def load(buffer: Buffer, index: Expr, lanes: int = 1) -> Expr:
    """Read `lanes` values from `index` on."""
    return BufferLoad(buffer, [Ramp(integer(index), integer(1), lanes) if lanes > 1 else integer(index)])


def store(buffer: Buffer, value: Expr, index: Expr, lanes: int = 1) -> Stmt:
    """Write `lanes` values from `index` on.

    Args:
        buffer: to write to.
        value: of `lanes` lanes.
        index: of the first value.
        lanes: how many.
    """
    return BufferStore(buffer, value, [Ramp(integer(index), integer(1), lanes) if lanes > 1 else integer(index)])


def broadcast(value: Expr, lanes: int) -> Expr:
    """The same value in every lane."""
    return Broadcast(value, lanes) if lanes > 1 else value


def scratch(size: int) -> tuple[Buffer, Stmt]:
    """Working memory of one thread, from the runtime's pool."""
    buffer = decl_buffer((size,), "float32", name="work", layout=None)
    return buffer, AllocBuffer(buffer)


def counter() -> tuple[Buffer, Stmt]:
    """A number of one thread's that changes; an array of one int32."""
    buffer = decl_buffer((1,), "int32", name="counter", scope="local", layout=None)
    return buffer, AllocBuffer(buffer)


def accumulators(count: int) -> tuple[Buffer, Stmt]:
    """An array that LLVM keeps in registers.

    Scope `local`: TVM puts `global` arrays over 1 KiB on the heap, where they cannot be promoted to registers.
    """
    buffer = decl_buffer((count,), "float32", name="acc", scope="local", layout=None)
    return buffer, AllocBuffer(buffer)


def floats(lanes: int) -> str:
    """The dtype of a vector of floats."""
    return f"float32x{lanes}" if lanes > 1 else "float32"


def let(value: Expr, body: Callable[[Expr], Expr], lanes: int) -> Expr:
    """Compute a value once and use it several times."""
    variable = Var("v", floats(lanes))
    return tirx.Let(variable, value, body(variable))


def exp(value: Expr, lanes: int) -> Expr:
    """e^x to about 2 units in the last place, in vector instructions: LLVM would call the C library for each lane.

    x = n ln 2 + r with |r| <= ln 2 / 2; e^r by the polynomial of Cephes' expf; 2^n by writing n into the exponent.
    """

    def constant(x: float) -> Expr:
        return broadcast(real(x), lanes)

    def reduced(x: Expr) -> Expr:
        return let(tirx.floor(x * constant(1.4426950408889634) + constant(0.5)), lambda n: scaled(x, n), lanes)

    def scaled(x: Expr, n: Expr) -> Expr:
        remainder = x - n * constant(0.693359375) + n * constant(2.12194440e-4)
        integers = f"int32x{lanes}" if lanes > 1 else "int32"
        bits = tirx.Cast(integers, n) + broadcast(integer(127), lanes)
        power = tirx.reinterpret(floats(lanes), tirx.shift_left(bits, broadcast(integer(23), lanes)))
        return let(remainder, lambda r: polynomial(r) * power, lanes)

    def polynomial(r: Expr) -> Expr:
        result = constant(1.9875691500e-4)
        for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
            result = result * r + constant(coefficient)
        return result * r * r + r + constant(1)

    return let(tirx.max(tirx.min(value, constant(88.0)), constant(-87.0)), reduced, lanes)


def _erf(x: Expr, lanes: int) -> Expr:
    """The error function to 1.5e-7: Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26."""

    def constant(c: float) -> Expr:
        return broadcast(real(c), lanes)

    def of_size(size: Expr) -> Expr:
        t = constant(1) / (constant(1) + constant(0.3275911) * size)
        return let(t, lambda u: constant(1) - tail(u) * exp(constant(0) - size * size, lanes), lanes)

    def tail(t: Expr) -> Expr:
        total = constant(1.061405429)
        for c in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
            total = total * t + constant(c)
        return total * t

    sign = tirx.max(tirx.min(x * constant(1e30), constant(1)), constant(-1))
    return sign * let(tirx.max(x, constant(0) - x), of_size, lanes)


def apply(value: Expr, chain: tuple[Unary, ...], lanes: int) -> Expr:
    """Apply a chain of unary operators to a vector."""
    for unary in chain:
        value = _apply(value, unary, lanes)
    return value


def _apply(value: Expr, unary: Unary, lanes: int) -> Expr:
    def constant(x: float) -> Expr:
        return broadcast(real(x), lanes)

    def sigmoid(x: Expr) -> Expr:
        return constant(1) / (constant(1) + exp(constant(0) - x, lanes))

    def gate(x: Expr) -> Expr:
        return tirx.max(tirx.min(x * constant(unary.a) + constant(unary.b), constant(1)), constant(0))

    match unary.kind:
        case "relu":
            return tirx.max(value, constant(0))
        case "leaky":
            return let(value, lambda x: tirx.max(x, constant(0)) + tirx.min(x, constant(0)) * constant(unary.a), lanes)
        case "clip":
            value = tirx.max(value, constant(unary.a)) if unary.a > -LARGEST else value
            return tirx.min(value, constant(unary.b)) if unary.b < LARGEST else value
        case "abs":
            return let(value, lambda x: tirx.max(x, constant(0) - x), lanes)
        case "square":
            return let(value, lambda x: x * x, lanes)
        case "sqrt":
            return tirx.sqrt(value)
        case "reciprocal":
            return constant(1) / value
        case "exp":
            return exp(value, lanes)
        case "sigmoid":
            return sigmoid(value)
        case "silu":
            return let(value, lambda x: x * sigmoid(x), lanes)
        case "tanh":
            return constant(1) - constant(2) / (constant(1) + exp(value * constant(2), lanes))
        case "erf":
            return let(value, lambda x: _erf(x, lanes), lanes)
        case "hard_sigmoid":
            return gate(value)
        case "hard_silu":
            return let(value, lambda x: x * gate(x), lanes)
        case "affine":
            value = value * constant(unary.a) if unary.a != 1 else value
            return value + constant(unary.b) if unary.b != 0 else value
    raise ValueError(unary.kind)


def lanes_of(isa: Isa, stored: int) -> int:
    """Whole vectors where the memory is laid out in them."""
    return isa.lanes if stored % isa.lanes == 0 else 1


class Kernel:
    """Collects a function's parameters, in call order; the output comes last. All are flat."""

    def __init__(self) -> None:
        self._parameters: list[Buffer] = []
        self._views: list[Stmt] = []

    def array(self, size: int, dtype: str = "float32") -> Buffer:
        """Add a parameter of so many values."""
        buffer = decl_buffer((size,), dtype, name=f"p{len(self._parameters)}", layout=None)
        self._parameters.append(buffer)
        return buffer

    def shaped(self, shape: tuple[int, ...], dtype: str = "float32") -> Buffer:
        """Add a parameter of the graph's own shape: an input or output. Returned is a flat view of it."""
        parameter = decl_buffer(shape, dtype, name=f"p{len(self._parameters)}", layout=None)
        self._parameters.append(parameter)
        flat = decl_buffer((int(np.prod(shape)),), dtype, name=f"{parameter.name}_flat", layout=None)
        self._views.append(DeclBuffer(flat, data=parameter.data))
        return flat

    def finish(self, body: Stmt) -> Any:
        """The finished function."""
        # The outermost block is what TVM's Relax passes expect of every scheduled function.
        block = SBlockRealize([], True, SBlock([], [], [], "root", sequence([*self._views, body])))
        function = PrimFunc(self._parameters, block)
        return function.with_attr("tirx.noalias", True).with_attr("s_tir", True).with_attr("op_pattern", 8)
