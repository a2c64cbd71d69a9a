"""The strongest label of each place, from a model's logits: what `linewatch.anomaly_model.detection.strongest_label` computes, in one pass."""

from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize
from tvm.tirx import BufferLoad, BufferStore, PrimFunc, Ramp, decl_buffer

from linewatch.packager.kernels.writer import Expr, Stmt, broadcast, integer, load, loop, sequence, store
from linewatch.packager.targets import Isa


def label_map(isa: Isa, labels: int, height: int, width: int) -> PrimFunc:
    """Parameters: logits (1 x labels x height x width float32), output (height x width uint8).

    Args:
        isa: what the code may use.
        labels: with the background.
        height: of the map.
        width: of the map.
    """
    logits = decl_buffer((1, labels, height, width), "float32", name="logits", layout=None)
    target = decl_buffer((height, width), "uint8", name="label_map", layout=None)
    zero = integer(0)

    def places(y: Expr, x: Expr, lanes: int) -> Stmt:
        best = decl_buffer((lanes,), "float32", name="best", scope="local", layout=None)
        label = decl_buffer((lanes,), "int32", name="label", scope="local", layout=None)
        at = Ramp(x, integer(1), lanes) if lanes > 1 else x

        def compare(k: int) -> list[Stmt]:
            value = BufferLoad(logits, [zero, integer(k), y, at])
            stronger = tirx.Select(value > load(best, 0, lanes), broadcast(integer(k), lanes), load(label, 0, lanes))
            return [store(label, stronger, 0, lanes), store(best, tirx.max(load(best, 0, lanes), value), 0, lanes)]

        narrow = f"uint8x{lanes}" if lanes > 1 else "uint8"
        return sequence([
            tirx.AllocBuffer(best), tirx.AllocBuffer(label),
            store(best, BufferLoad(logits, [zero, zero, y, at]), 0, lanes), store(label, broadcast(zero, lanes), 0, lanes),
            *(part for k in range(1, labels) for part in compare(k)),
            BufferStore(target, tirx.Cast(narrow, load(label, 0, lanes)), [y, at]),
        ])  # fmt: skip

    def row(y: Expr) -> Stmt:
        whole, rest = divmod(width, isa.lanes)
        parts = [loop(whole, lambda i: places(y, i * isa.lanes, isa.lanes))] if whole else []
        if rest:
            parts.append(loop(rest, lambda x: places(y, x, 1), start=whole * isa.lanes))
        return sequence(parts)

    body = SBlockRealize([], True, SBlock([], [], [], "root", loop(height, row, work=labels * height * width / isa.lanes)))
    function = PrimFunc([logits, target], body)
    return function.with_attr("tirx.noalias", True).with_attr("s_tir", True).with_attr("global_symbol", "label_map")
