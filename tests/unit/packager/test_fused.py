"""Convolution, depthwise and 1 x 1 computed together: the same as ONNX Runtime says, and only where nobody else reads what is between."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tvm import relax

from benchmarks.nets import Net, efficientnet_lite0_encoder
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.anomaly_model.runtime_tvm import cpu_flags
from linewatch.packager.compile import compile_model, cpu_target, lower
from linewatch.packager.emulate import Emulation
from linewatch.packager.kernels import writer
from linewatch.packager.plan import Step, make_plan
from linewatch.packager.schedule import Apart, Choice, Fused, candidates, choose, cost, fusions
from linewatch.packager.targets import AVX2, AVX512, NEON, Isa
from linewatch.packager.tune import chooser, log_path, read_log, signature, tune
from tests.toolchain import require_arm64

RNG = np.random.default_rng(0)


def bottleneck(
    net: Net, x: str, channels: tuple[int, int, int], *, k: int = 3, stride: int = 1, pads: list[int] | None = None, expand: int = 1
) -> str:
    """Of a value with channels[0] channels: a convolution of `expand` x `expand`, a depthwise one, one of 1 x 1."""
    inner, wide, out = channels
    low, high = net.constant(np.float32(0)), net.constant(np.float32(6))
    y = net.op("Clip", net.conv(x, inner, wide, expand), low, high)
    y = net.op("Clip", net.conv(y, wide, wide, k, stride, pads if pads is not None else [k // 2] * 4, wide), low, high)
    return net.conv(y, wide, out, 1)


def compiled(model: bytes, isa: Isa, choice: Callable[[Isa, Step], Choice]) -> relax.VirtualMachine:
    module = lower({"main": make_plan(model, isa.lanes)}, isa, choice)
    return relax.VirtualMachine(tvm.compile(module, target=cpu_target("x86_64", isa)), tvm.cpu())


def assert_equals_onnxruntime(model: bytes, machine: relax.VirtualMachine, side: int) -> None:
    picture = RNG.normal(size=(1, 3, side, side)).astype(np.float32)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    expected = session.run(None, {"x": picture})
    for found, right in zip(machine["main"](tvm.runtime.tensor(picture)), expected, strict=True):
        np.testing.assert_allclose(found.numpy(), right, rtol=2e-4, atol=2e-5 * max(1.0, float(np.abs(right).max())))


@st.composite
def blocks(draw: st.DrawFn) -> tuple[bytes, int]:
    """A net of one block with a residual where shapes allow one, and its side."""
    side, k, stride = draw(st.integers(5, 24)), draw(st.sampled_from([3, 5])), draw(st.sampled_from([1, 2, 3]))
    pads = draw(st.lists(st.integers(0, k // 2), min_size=4, max_size=4))
    wide, out, expand = draw(st.integers(2, 70)), draw(st.integers(2, 60)), draw(st.sampled_from([1, 1, 3]))
    inner = out if draw(st.booleans()) else draw(st.integers(1, 40))
    net = Net(side)
    x = net.op("Abs", net.conv("x", 3, inner, 1))
    y = bottleneck(net, x, (inner, wide, out), k=k, stride=stride, pads=pads, expand=expand)
    if inner == out and stride == 1 and pads[0] + pads[2] == pads[1] + pads[3] == k - 1:
        y = net.op("Relu", net.op("Add", y, x))
    return net.build(y), side


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(drawn=blocks(), rows=st.sampled_from([1, 2]), shared=st.booleans())
def test_equals_onnxruntime(isa: Isa, drawn: tuple[bytes, int], rows: int, shared: bool) -> None:
    model, side = drawn
    [fused] = [step for step in make_plan(model, isa.lanes).steps if step.kind == "fused"]
    by_rows = {choice.rows: choice for choice in fusions(isa, fused)}

    def forced(isa: Isa, step: Step) -> Choice:
        return by_rows.get(rows, by_rows[1]) if step.kind == "fused" else choose(isa, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "PARALLEL_WORK", 1 if shared else 1e18)
        machine = compiled(model, isa, forced)
    for _ in range(3 if shared else 1):  # threads that disturbed each other would not do so each time
        assert_equals_onnxruntime(model, machine, side)


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["model's", "apart"])
def test_an_encoder_equals_onnxruntime(isa: Isa, choice: str) -> None:
    model = efficientnet_lite0_encoder(64)

    def chosen(isa: Isa, step: Step) -> Choice:
        return Apart() if choice == "apart" and step.kind == "fused" else choose(isa, step)

    assert_equals_onnxruntime(model, compiled(model, isa, chosen), 64)


@pytest.mark.slow
def test_equals_onnxruntime_on_arm64() -> None:
    """Under emulation, with vectors of four."""
    require_arm64()
    net = Net(24)
    x = net.op("Transpose", net.op("Cast", "picture", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    x = bottleneck(net, x, (3, 18, 10), k=5, stride=2, pads=[1, 1, 2, 2], expand=3)
    y = net.op("Add", bottleneck(net, x, (10, 50, 10)), x)
    graph = helper.make_graph(
        net.nodes, "net", [helper.make_tensor_value_info("picture", TensorProto.UINT8, [1, 24, 24, 3])],
        [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)], net.constants,
    )  # fmt: skip
    parsed = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    parsed.ir_version = 9
    model = onnx.shape_inference.infer_shapes(parsed, strict_mode=True).SerializeToString()
    chosen = []

    def forced(isa: Isa, step: Step) -> Choice:
        if step.kind != "fused":
            return choose(isa, step)
        chosen.append(fusions(isa, step)[0])
        return chosen[-1]

    library = compile_model(model, "aarch64", NEON, forced)
    assert len(chosen) == 2
    picture = RNG.integers(0, 256, (1, 24, 24, 3), np.uint8)
    [[found]] = Emulation(library, "aarch64").run([picture])
    [expected] = OnnxRuntime(model).run_arrays(picture)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=2e-4, atol=2e-5 * float(np.abs(expected).max()))


def kinds(model: bytes) -> list[str]:
    return [step.kind for step in make_plan(model, 16).steps]


def test_an_inverted_bottleneck_is_one_step() -> None:
    net = Net(16)
    x = net.conv("x", 3, 8, 1)
    plan = make_plan(net.build(net.op("Add", bottleneck(net, x, (8, 48, 8)), x)), 16)
    assert [step.kind for step in plan.steps] == ["input", "conv", "fused"]
    step = plan.steps[-1]
    assert [part.kind for part in step.parts] == ["conv", "depthwise", "conv"]
    assert step.residual
    assert step.inputs == [plan.steps[1].output] * 2


def test_what_someone_else_reads_is_computed_whole() -> None:
    net = Net(16)
    wide = net.conv("x", 3, 32, 1)
    filtered = net.conv(wide, 32, 32, 3, group=32)
    narrow = net.conv(filtered, 32, 8, 1)
    assert kinds(net.build(narrow)) == ["input", "fused"]
    assert kinds(net.build(narrow, wide)) == ["input", "conv", "depthwise", "conv"]
    assert kinds(net.build(narrow, filtered)) == ["input", "conv", "depthwise", "conv"]
    assert kinds(net.build(narrow, net.op("Sigmoid", filtered)))[:4] == ["input", "conv", "depthwise", "conv"]


@pytest.mark.parametrize(("k", "stride"), [(3, 1), (1, 2)])
def test_other_layers_are_left_as_they_are(k: int, stride: int) -> None:
    net = Net(16)
    filtered = net.conv(net.conv("x", 3, 32, 1), 32, 32, 3, group=32)
    assert kinds(net.build(net.conv(filtered, 32, 8, k, stride, 0))) == ["input", "conv", "depthwise", "conv"]


@pytest.mark.parametrize("isa", [AVX512, AVX2, NEON], ids=lambda isa: isa.name)
def test_wide_maps_that_leave_the_cache_are_not_written(isa: Isa) -> None:
    steps = [step for step in make_plan(efficientnet_lite0_encoder(512), isa.lanes).steps if step.kind == "fused"]
    assert len(steps) == 11
    for step in steps:
        for choice in candidates(isa, step):
            assert cost(isa, step, choice) > 0
            if isinstance(choice, Fused):
                assert step.output.height % choice.rows == 0
        assert choose(isa, step) in candidates(isa, step)
        if step.parts[0].output.size * 4 > 4 << 20:
            assert isinstance(choose(isa, step), Fused)


@pytest.mark.slow
@pytest.mark.skipif(not cpu_flags().issuperset(AVX2.flags), reason="this CPU has no AVX2")
def test_both_ways_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was measured compiles."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    net = Net(48)
    x = net.conv("x", 3, 16, 1)
    model = net.build(net.op("Add", bottleneck(net, x, (16, 96, 16)), x))
    log = tune(model, AVX2)
    [fused] = [step for step in make_plan(model, 8).steps if step.kind == "fused"]
    assert set(log) == {*map(signature, (*fused.parts[::2], fused)), *(n for n in log if n.startswith("3x48"))}
    assert log[signature(fused)] in candidates(AVX2, fused)
    assert read_log(log_path(AVX2)) == log
    assert_equals_onnxruntime(model, compiled(model, AVX2, chooser(log)), 48)
    assert_equals_onnxruntime(model, compiled(model, AVX2, chooser({**log, signature(fused): Apart()})), 48)
