"""From a plan to a shared library that TVM's runtime loads."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.support import cc

from linewatch.packager.kernels import conv, elementwise, pool, resize
from linewatch.packager.kernels.box_resize import box_resize
from linewatch.packager.kernels.depthwise import depthwise, pack_depthwise
from linewatch.packager.kernels.fused import fused, pack_fused
from linewatch.packager.kernels.label_map import label_map
from linewatch.packager.kernels.transposed import phases, transposed_convolution
from linewatch.packager.kernels.winograd import pack_winograd, winograd
from linewatch.packager.plan import Plan, Step, make_plan
from linewatch.packager.schedule import Apart, Choice, Fused, Tile, Winograd, best_tile
from linewatch.packager.targets import Isa
from linewatch.packager.toolchain import compiler

Choose = Callable[[Isa, Step], Choice]


def compile_model(model: bytes, machine: str, isa: Isa, choose: Choose) -> bytes:
    """Compile an ONNX graph for one kind of CPU; returns the shared library. The same input gives the same bytes.

    Args:
        model: the serialised graph.
        machine: architecture, such as x86_64.
        isa: what the code may use.
        choose: gives the schedule of each convolution.

    Raises:
        UnsupportedGraphError: the graph has something that no schedule covers.
        ToolError: no linker for the architecture.
    """
    plan = make_plan(model, isa.lanes)
    module = lower({"main": plan}, isa, choose)
    if plan.source.dtype == "uint8":
        _, height, width, _ = plan.source.shape
        module["box_resize"] = box_resize(height, width)
    labels = next((output.view.shape for output in plan.outputs if output.name == "labels"), None)
    if labels is not None:
        module["label_map"] = label_map(isa, *labels[1:])
    return link(tvm.compile(module, target=cpu_target(machine, isa)), machine)


def cpu_target(machine: str, isa: Isa) -> Any:
    """What TVM generates code for."""
    options = {"kind": "llvm", "mtriple": f"{machine}-linux-gnu", "mcpu": isa.mcpu}
    return tvm.target.Target({**options, "mattr": list(isa.mattr)} if isa.mattr else options)


def link(executable: Any, machine: str) -> bytes:
    """Make a shared library of compiled code."""
    linker = cc.cross_compiler(compiler(machine), output_format="so")

    def linked(target: str, sources: list[str], **_: object) -> None:
        # Without the build id nothing in the library depends on where and when it was linked.
        linker(target, sources, options=["-shared", "-fPIC", "-Wl,--build-id=none", "-Wl,-s"])

    linked.output_format, linked.get_target_triple = "so", linker.get_target_triple  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory(prefix="linewatch-link-") as folder:
        path = Path(folder) / "model.so"
        executable.export_library(str(path), fcompile=linked, workspace_dir=folder)
        return path.read_bytes()


def lower(plans: Mapping[str, Plan], isa: Isa, choose: Choose) -> Any:
    """A module with a function for each plan, by its name, and one for each kernel; steps that are alike share one kernel."""
    builder, kernels = relax.BlockBuilder(), dict[object, Any]()
    for name, plan in plans.items():
        _lower_plan(builder, kernels, name, plan, isa, choose)
    return builder.finalize()


def _lower_plan(builder: relax.BlockBuilder, kernels: dict[object, Any], name: str, plan: Plan, isa: Isa, choose: Choose) -> None:
    def call(kind: str, key: object, make: Callable[[], object], arguments: list[Any], output: Any) -> Any:
        if (kind, key) not in kernels:
            kernels[kind, key] = builder.add_func(make(), kind)
        return builder.emit(relax.call_tir(kernels[kind, key], arguments, output))

    source = plan.source
    picture = relax.Var("picture", relax.TensorType(source.shape, source.dtype))
    values: dict[int, Any] = {}
    with builder.function(name, [picture]):
        with builder.dataflow():
            for step, choice in chosen(isa, plan.steps, choose):
                if step.kind == "alias":
                    values[id(step.output)] = values[id(step.inputs[0])]
                    continue
                flat = relax.TensorType((step.output.size,), "float32")
                if step.kind == "input":
                    key = (source, _key(step))
                    made = call("input", key, lambda s=step: elementwise.read_input(isa, source, s), [picture], flat)  # type: ignore[misc]
                    values[id(step.output)] = made
                    continue
                kernel, constants = kernel_of(isa, step, choice)
                inputs = [values[id(t)] for t in step.inputs]
                first, residual = (inputs[:-1], inputs[-1:]) if step.residual else (inputs, [])
                arguments = [*first, *(relax.const(c) for c in constants), *residual]
                values[id(step.output)] = call(step.kind, (_key(step), choice), kernel, arguments, flat)
            results = [
                call("output", (name, o.name), lambda o=o: elementwise.write_output(o),  # type: ignore[misc]
                     [values[id(o.view.tensor)]], relax.TensorType(o.view.shape, "float32"))
                for o in plan.outputs
            ]  # fmt: skip
            result = builder.emit_output(relax.Tuple(results))
        builder.emit_func_output(result)


def chosen(isa: Isa, steps: Iterable[Step], choose: Choose) -> Iterator[tuple[Step, Choice | None]]:
    """Steps with their schedules; layers that are not computed together one by one."""
    for step in steps:
        choice = choose(isa, step) if step.kind in ("conv", "fused") else None
        if isinstance(choice, Apart):
            yield from chosen(isa, step.parts, choose)
        else:
            yield step, choice


def _key(step: Step) -> tuple[object, ...]:
    """What two steps must share to use the same kernel: shapes and static parameters, not weights."""
    shapes = [(t.channels, t.height, t.width, t.stored) for t in [*step.inputs, step.output]]
    weight = None if step.weight is None else step.weight.shape
    return (*map(_key, step.parts), *shapes, tuple(sorted(step.attributes.items())), step.residual, step.epilogue, weight)


def kernel_of(isa: Isa, step: Step, choice: Choice | None) -> tuple[Callable[[], object], list[Any]]:
    """The function that writes a step's kernel, and the constants that it is called with.

    Raises:
        AssertionError: no kernel is written for the step's kind, which the plan has to prevent.
    """
    target = step.output
    match step.kind:
        case "conv":
            assert step.weight is not None
            if isinstance(choice, Winograd):
                packed = pack_winograd(step.weight, target.stored, choice, isa.lanes)
                return lambda: winograd(isa, step, choice), [packed, _padded(step)]
            assert isinstance(choice, Tile)
            packed = conv.pack_weights(step.weight, target.stored, choice.blocks, isa.lanes)
            return lambda: conv.convolution(isa, step, choice), [packed, _padded(step)]
        case "fused":
            assert isinstance(choice, Fused)
            weights = pack_fused(isa, step, choice)
            biases = [_padded(part) for part in step.parts]
            return lambda: fused(isa, step, choice), [c for pair in zip(weights, biases, strict=True) for c in pair]
        case "transposed":
            tile = best_tile(isa, step)
            parts = [conv.pack_weights(w, target.stored, tile.blocks, isa.lanes) for _, w in phases(step)]
            return lambda: transposed_convolution(isa, step, tile), [*parts, _padded(step)]
        case "depthwise":
            return lambda: depthwise(isa, step), [pack_depthwise(step), _padded(step)]
        case "pool":
            return lambda: pool.window_pool(isa, step), []
        case "global_pool":
            return lambda: pool.global_pool(isa, step), []
        case "channel_reduce" if step.attributes["op"] == "dot":
            assert step.bias is not None
            return lambda: pool.channel_reduce(isa, step), [pool.dot_weights(step), step.bias.astype(np.float32)]
        case "channel_reduce":
            return lambda: pool.channel_reduce(isa, step), []
        case "softmax":
            return lambda: pool.softmax(isa, step), []
        case "concat":
            return lambda: elementwise.concat(isa, step), []
        case "take":
            return lambda: elementwise.take_channels(isa, step), []
        case "depth_to_space":
            return lambda: elementwise.depth_to_space(step), []
        case "pad":
            return lambda: elementwise.pad(isa, step), []
        case "elementwise":
            return lambda: elementwise.elementwise(isa, step), [] if step.weight is None else [step.weight.reshape(-1)]
        case "resize":
            return lambda: resize.resize(isa, step), resize.tables(step)
    raise AssertionError(step.kind)


def _padded(step: Step) -> Any:
    assert step.bias is not None
    bias = np.zeros(step.output.stored, np.float32)
    bias[: len(step.bias)] = step.bias
    return bias
