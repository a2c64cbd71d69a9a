"""From a plan to a shared library that TVM's runtime loads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from packager.isa import Isa, Target
from packager.kernels import elementwise, pool
from packager.kernels.box_resize import box_resize
from packager.kernels.conv import choose_tile, convolution, pack_weights
from packager.plan import Plan, Step, make_plan


def compile_model(model: bytes, target: Target, isa: Isa, library: Path) -> None:
    """Compile an ONNX graph for one variant of a target and write the library.

    Raises:
        UnsupportedGraphError: the graph has something that no schedule covers.
    """
    plan = make_plan(model, isa.lanes)
    module = _lower(plan, isa)
    _, height, width, _ = plan.picture
    module["box_resize"] = box_resize(height, width)
    options = {"kind": "llvm", "mtriple": target.triple, "mcpu": isa.mcpu}
    executable = tvm.compile(module, target=tvm.target.Target(options))
    executable.export_library(str(library))


def _lower(plan: Plan, isa: Isa) -> Any:
    builder = relax.BlockBuilder()
    functions: dict[str, Any] = {}

    def call(step_name: str, key: object, make: Callable[[], object], arguments: list[Any], shape: tuple[int, ...]) -> Any:
        """Emit a kernel call; steps that are alike share one kernel."""
        name = f"{step_name}|{key}"
        if name not in functions:
            functions[name] = builder.add_func(make(), step_name)
        return builder.emit(relax.call_tir(functions[name], arguments, relax.TensorType(shape, "float32")))

    picture = relax.Var("picture", relax.TensorType(plan.picture, "uint8"))
    values: dict[str, Any] = {}
    with builder.function("main", [picture]):
        with builder.dataflow():
            for step in plan.steps:
                kernel, constants = _kernel(isa, step)
                inputs = [picture] if step.kind == "picture" else [values[t.name] for t in step.inputs]
                first, residual = inputs, []
                if step.residual:
                    first, residual = inputs[:-1], inputs[-1:]
                arguments = [*first, *(relax.const(c) for c in constants), *residual]
                values[step.output.name] = call(step.kind, _key(step), kernel, arguments, step.output.shape)
            results = [
                call("output", (o.shape, o.tensor.shape), lambda o=o: elementwise.to_output(isa, o),  # type: ignore[misc]
                     [values[o.tensor.name]], o.shape)
                for o in plan.outputs
            ]  # fmt: skip
            result = builder.emit_output(relax.Tuple(results))
        builder.emit_func_output(result)
    return builder.finalize()


def _key(step: Step) -> tuple[object, ...]:
    """What two steps must share to use the same kernel: shapes and static parameters, not weights."""
    shapes = [(t.channels, t.shape) for t in [*step.inputs, step.output]]
    return (*shapes, tuple(sorted(step.attributes.items())), step.residual, step.epilogue, step.weight is None)


def _kernel(isa: Isa, step: Step) -> tuple[Callable[[], object], list[Any]]:
    """The function that writes a step's kernel, and the constants that it is called with."""
    match step.kind:
        case "picture":
            return lambda: elementwise.picture(isa, step), []
        case "conv":
            assert step.weight is not None
            assert step.bias is not None
            source, target = step.inputs[0], step.output
            one_row = step.attributes["kernel"] == 1 and step.attributes["stride"] == 1
            width = target.width * target.height if one_row else target.width
            tile = choose_tile(isa, target.stored // isa.lanes, width)
            bias = np.zeros(target.stored, np.float32)
            bias[: len(step.bias)] = step.bias
            packed = pack_weights(step.weight, target.stored, tile, isa.lanes)
            return lambda: convolution(isa, step, tile), [packed, bias]
        case "pool":
            return lambda: pool.window_pool(isa, step), []
        case "global_pool":
            return lambda: pool.global_pool(isa, step), []
        case "channel_reduce":
            if step.attributes["op"] == "max":
                return lambda: pool.channel_reduce(isa, step), []
            assert step.bias is not None
            return lambda: pool.channel_reduce(isa, step), [pool.dot_weights(step), step.bias.astype(np.float32)]
        case "concat":
            return lambda: elementwise.concat(isa, step), []
        case "elementwise":
            return lambda: elementwise.elementwise(isa, step), [] if step.weight is None else [step.weight]
        case "resize":
            source, target = step.inputs[0], step.output
            tables = [*elementwise.resize_table(source.height, target.height),
                      *elementwise.resize_table(source.width, target.width)]  # fmt: skip
            return lambda: elementwise.resize(isa, step), tables
        case _:
            raise AssertionError(step.kind)
