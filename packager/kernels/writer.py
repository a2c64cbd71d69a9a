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

from packager.isa import Isa
from packager.plan import Unary

Expr = Any
Stmt = Any
Buffer = Any

LARGEST = 3.4e38


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


def loop(extent: int | Expr, body: Callable[[Expr], Stmt], *, start: int | Expr = 0, parallel: bool = False) -> Stmt:
    """`for i in start .. start + extent: body(i)`."""
    variable = Var("i", "int32")
    kind = ForKind.PARALLEL if parallel else ForKind.SERIAL
    return For(variable, integer(start), integer(extent), kind, body(variable))


def load(buffer: Buffer, index: Expr, lanes: int = 1) -> Expr:
    """Read `lanes` values from `index` on."""
    return BufferLoad(buffer, [Ramp(integer(index), integer(1), lanes) if lanes > 1 else integer(index)])


def store(buffer: Buffer, value: Expr, index: Expr, lanes: int = 1) -> Stmt:
    """Write `lanes` values from `index` on."""
    return BufferStore(buffer, value, [Ramp(integer(index), integer(1), lanes) if lanes > 1 else integer(index)])


def spread(value: Expr, lanes: int) -> Expr:
    """The same value in every lane."""
    return Broadcast(value, lanes) if lanes > 1 else value


def accumulators(count: int) -> tuple[Buffer, Stmt]:
    """An array that LLVM keeps in registers.

    Scope `local`: TVM puts `global` arrays over 1 KiB on the heap, where they cannot be promoted to registers.
    """
    buffer = decl_buffer((count,), "float32", name="acc", scope="local", layout=None)
    return buffer, AllocBuffer(buffer)


def apply(value: Expr, chain: tuple[Unary, ...], lanes: int) -> Expr:
    """Apply a chain of unary operators to a vector."""
    for unary in chain:
        match unary.kind:
            case "relu":
                value = tirx.max(value, spread(real(0), lanes))
            case "abs":
                value = tirx.max(value, spread(real(0), lanes) - value)
            case "sqrt":
                value = tirx.sqrt(value)
            case "sigmoid":
                one = spread(real(1), lanes)
                value = one / (one + tirx.exp(spread(real(0), lanes) - value))
            case "affine":
                if unary.a != 1:
                    value = value * spread(real(unary.a), lanes)
                if unary.b != 0:
                    value = value + spread(real(unary.b), lanes)
            case _:
                raise ValueError(unary.kind)
    return value


class Kernel:
    """Collects a function's parameters, in call order; the output comes last."""

    def __init__(self, isa: Isa) -> None:
        self.isa = isa
        self._parameters: list[Buffer] = []
        self._flat: list[tuple[Buffer, Buffer]] = []

    def array(self, shape: tuple[int, ...], dtype: str = "float32") -> Buffer:
        """Add a parameter; returned is a flat view of it."""
        name = f"p{len(self._parameters)}"
        parameter = decl_buffer(shape, dtype, name=name, layout=None)
        flat = decl_buffer((int(np.prod(shape)),), dtype, name=f"{name}_flat", layout=None)
        self._parameters.append(parameter)
        self._flat.append((flat, parameter))
        return flat

    def finish(self, body: Stmt) -> Any:
        """The finished function."""
        views = [DeclBuffer(flat, data=parameter.data) for flat, parameter in self._flat]
        # The outermost block is what TVM's Relax passes expect of every scheduled function.
        block = SBlockRealize([], True, SBlock([], [], [], "root", sequence([*views, body])))
        function = PrimFunc(self._parameters, block)
        return function.with_attr("tirx.noalias", True).with_attr("s_tir", True).with_attr("op_pattern", 8)
