"""GPU code is machine code for the asked architecture, made without a GPU."""

import pytest

from benchmarks.nets import Net
from linewatch.packager.elf import find_cubins, read_facts
from linewatch.packager.gpu import GpuError, compile_gpu, find_nvrtc, self_contained
from linewatch.packager.targets import Gpu
from linewatch.training.graph.bank import write_bank
from linewatch.training.graph.color import write_color
from linewatch.training.graph.writer import GraphWriter
from tests.toolchain import require_arm64


@pytest.fixture(scope="module")
def model() -> bytes:
    """The operators that our graphs are made of, on a small picture."""
    g = GraphWriter(64, 64)
    features = write_bank(g, write_color(g))
    strongest = g.node("ReduceMax", features, axes=[1], keepdims=1)
    distance = g.node("Sqrt", g.node("Relu", g.node("Sub", strongest, g.pool("AveragePool", strongest, 3, 1))))
    return g.build([g.node("GlobalMaxPool", distance), g.node("Sigmoid", g.upsample(distance, 2))])


@pytest.mark.slow
@pytest.mark.parametrize(("machine", "gpu"), [
    ("aarch64", Gpu("sm_72", (11, 4), "8.5.2")), ("aarch64", Gpu("sm_72", (10, 2), "8.2.1")), ("aarch64", Gpu("sm_87", (12, 6), "10.3.0")),
    ("x86_64", Gpu("sm_75", (10, 2), "7.1.3")), ("x86_64", Gpu("sm_80", (11, 2), "8.2.0")),
    ("x86_64", Gpu("sm_86", (11, 8), "8.6.1")),
], ids=lambda v: v if isinstance(v, str) else f"{v.arch}-{v.cuda[0]}.{v.cuda[1]}")  # fmt: skip
def test_machine_code_for_the_asked_gpu(model: bytes, machine: str, gpu: Gpu) -> None:
    if machine == "aarch64":
        require_arm64()
    library = compile_gpu(model, machine, gpu)
    assert set(find_cubins(library)) == {gpu.arch}
    assert b"__global__" not in library, "source text: the device would have to compile it"
    facts = read_facts(library)
    assert facts.machine == machine
    assert facts.glibc <= (2, 27)


def test_the_compiler_follows_the_devices_cuda() -> None:
    assert find_nvrtc(Gpu("sm_72", (11, 4), "")).name == "libnvrtc.so.11.2"
    assert find_nvrtc(Gpu("sm_72", (10, 2), "")).name == "libnvrtc.so.11.2"
    assert find_nvrtc(Gpu("sm_90", (12, 0), "")).name == "libnvrtc.so.12"


@pytest.mark.slow
def test_what_cannot_be_compiled_is_said() -> None:
    net = Net(16)
    with pytest.raises(GpuError, match="compiling for sm_72 failed"):
        compile_gpu(net.build("x")[:-40], "x86_64", Gpu("sm_72", (11, 4), ""))


def test_headers_are_replaced_by_the_types_of_them() -> None:
    source = "a\n#ifdef __CUDACC_RTC__\n#if X\n#include <q>\n#endif\n#else\n#include <cstdint>\n#endif\nb\n"
    made = self_contained(source)
    assert made.startswith("a\ntypedef signed char int8_t;")
    assert made.endswith("uint64_t;\nb\n")
    assert "#" not in made
    assert self_contained("plain") == "plain"
