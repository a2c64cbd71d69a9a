"""From a graph to scheduled CUDA kernels: TVM's operators, fused, with dlight's schedules."""

from typing import Any

import onnx
import tvm
import tvm_ffi
from tvm import relax, s_tir, tirx
from tvm.relax.frontend.onnx import from_onnx
from tvm.s_tir import dlight


def compile_kernels(model: bytes, machine: str, arch: str) -> Any:
    """Compile a graph; returns TVM's executable, whose kernels the callback for CUDA source has compiled.

    Args:
        model: the serialised graph.
        machine: architecture of the processor, such as x86_64.
        arch: of the GPU, such as sm_90.
    """
    host = tvm.target.Target({"kind": "llvm", "mtriple": f"{machine}-linux-gnu"})
    target = tvm.target.Target({"kind": "cuda", "arch": arch, "max_shared_memory_per_block": 49152, "thread_warp_size": 32,
                                "max_threads_per_block": 1024}, host)  # fmt: skip
    graph = from_onnx(onnx.load_from_string(model), keep_params_in_input=False)
    rules = dlight.gpu
    with target:
        passes = [
            relax.transform.DecomposeOpsForInference(), relax.transform.CanonicalizeBindings(), relax.transform.LegalizeOps(),
            drop_reductions_of_one, relax.transform.AnnotateTIROpPattern(), relax.transform.FoldConstant(), relax.transform.FuseOps(),
            relax.transform.FuseTIR(), relax.transform.DeadCodeElimination(),
            dlight.ApplyDefaultSchedule(rules.Matmul(), rules.GEMV(), rules.Reduction(), rules.GeneralReduction(),
                                        rules.Transpose(), rules.Fallback()),
        ]  # fmt: skip
        module = tvm.ir.transform.Sequential(passes)(graph)
    # Not the pipeline for CUDA, which is the default: it would fuse anew what is scheduled.
    return tvm.compile(module, target=target, relax_pipeline=relax.get_pipeline("default_build"))


@tvm.ir.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]  # TVM has no types
def drop_reductions_of_one(module: Any, _context: Any) -> Any:
    """Makes reductions over a single element plain computations: a convolution of one channel, the largest of one cell.

    dlight counts such a block as one that reduces nothing and lets TVM inline what follows into it. That rewrites both of its stores: a bias
    would be in the value that the sum starts with, and then be added to the sum.
    """
    for name, function in module.functions.items():
        if isinstance(function, tirx.PrimFunc):
            module[name] = function.with_body(tvm_ffi.structural_map(function.body, (s_tir.SBlock, _without_reduction)))
    return module


def _without_reduction(block: Any) -> Any:
    """A block that reduces single elements, with its first value put into the step; any other block as it is."""
    reduced = {v.var: v.dom.min for v in block.iter_vars if v.iter_type == tirx.IterVar.CommReduce}
    extents = [v.dom.extent for v in block.iter_vars if v.var in reduced]
    stores = isinstance(block.init, tirx.BufferStore) and isinstance(block.body, tirx.BufferStore)
    if not stores or any(not isinstance(e, tirx.IntImm) or e.value != 1 for e in extents):
        return block
    target = block.body.buffer

    def at_first(value: Any) -> Any:
        return tvm_ffi.structural_map(value, (tirx.Var, lambda var: reduced.get(var, var)))

    def begun(load: Any) -> Any:
        return block.init.value if load.source.same_as(target) else load

    body = tirx.BufferStore(target, at_first(tvm_ffi.structural_map(block.body.value, (tvm.ir.TensorLoad, begun))), block.body.indices)
    variables = [tirx.IterVar(v.dom, v.var, tirx.IterVar.DataPar) if v.var in reduced else v for v in block.iter_vars]
    return s_tir.SBlock(variables, [at_first(r) for r in block.reads], block.writes, block.name_hint, body, None, block.alloc_buffers,
                        block.match_buffers, block.annotations)  # fmt: skip
