"""GPU code: the graph as CUDA kernels, compiled ahead of time to cubins for one architecture, in a shared library.

No GPU is needed. TVM's own CUDA runtime has to be loadable all the same, or it would silently embed source text instead
of machine code; where the machine has no driver, stand-ins with the same symbols are linked for it, which nothing calls.
Both would get in the way of the packager's process, so that `python -P -m linewatch.packager.gpu` does it in one of its own.
"""

import ctypes
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection
from elftools.elf.sections import SymbolTableSection

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.packager.child import ChildError, run_module
from linewatch.packager.elf import find_cubins, needed_libraries
from linewatch.packager.targets import Gpu
from linewatch.packager.toolchain import ToolError, compiler

GPU_LIBRARY = "cuda.so"
_RUNTIME = "libtvm_runtime_cuda.so"
_COMPILERS = {11: ("nvidia-cuda-nvrtc-cu11", "libnvrtc.so.11.2"), 12: ("nvidia-cuda-nvrtc-cu12", "libnvrtc.so.12")}
_NEWEST_OF_11 = (11, 8)
_WITH_SCALES = 3
"""Inputs of a Resize that has scales and no sizes."""
_INCLUDES = "#ifdef __CUDACC_RTC__"


class GpuError(LinewatchError):
    """GPU code could not be made."""


def compile_gpu(model: bytes, machine: str, gpu: Gpu) -> bytes:
    """Compile a graph; returns the shared library.

    Raises:
        GpuError: it failed, or what came out is not machine code for the asked architecture.
        ToolError: no CUDA compiler of the asked generation is installed.
    """
    find_nvrtc(gpu)
    with tempfile.TemporaryDirectory(prefix="linewatch-gpu-") as folder:
        path = Path(folder)
        (path / "model.onnx").write_bytes(model)
        (path / "gpu.json").write_bytes(msgspec.json.encode({"machine": machine, "arch": gpu.arch, "cuda": gpu.cuda}))
        try:
            run_module("linewatch.packager.gpu", folder, timeout_s=900)
        except ChildError as error:
            raise GpuError(f"compiling for {gpu.arch} failed: {error}") from error
        library = (path / GPU_LIBRARY).read_bytes()
    found = find_cubins(library)
    if not found or set(found) != {gpu.arch}:
        raise GpuError(f"the library holds GPU code for {', '.join(found) or 'nothing'}; expected {gpu.arch} only")
    return library


def describe_gpu(gpu: Gpu, tools: Mapping[str, str]) -> dict[str, object]:
    """target.json of the GPU code."""
    return {
        "gpu": gpu.arch, "cuda": ".".join(map(str, gpu.cuda)), "tensorrt": gpu.tensorrt, "library": GPU_LIBRARY,
        "nvrtc": _generation(gpu)[0], "tools": dict(tools), "parity": [], "not_run_here": [gpu.arch],
    }  # fmt: skip


def _generation(gpu: Gpu) -> tuple[str, str]:
    """The compiler for a device's CUDA: CUDA 10 has none that can be installed, and runs what 11 makes by its driver."""
    major = 11 if gpu.cuda <= _NEWEST_OF_11 else 12
    return _COMPILERS[major]


def find_nvrtc(gpu: Gpu) -> Path:
    """NVIDIA's run-time compiler of the device's generation.

    Raises:
        ToolError: it is not installed.
    """
    package, name = _generation(gpu)
    spec = find_spec("nvidia.cuda_nvrtc") if find_spec("nvidia") else None
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = Path(place) / "lib" / name
        if path.is_file():
            return path
    raise ToolError(f"{name} is needed for CUDA {gpu.cuda[0]}.{gpu.cuda[1]} ({gpu.arch}): pip install 'linewatch[cuda]' (it is in {package})")


class Nvrtc:
    """NVRTC, by ctypes."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def compile(self, source: str, arch: str) -> bytes:
        """CUDA source to a cubin.

        Raises:
            GpuError: with the compiler's log.
        """
        library, program = self._library, ctypes.c_void_p()
        self._check(library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"model.cu", 0, None, None))
        options = [f"--gpu-architecture={arch}".encode(), b"--std=c++17", b"--device-as-default-execution-space"]
        try:
            code = library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
            if code:
                raise GpuError(f"NVRTC refuses the kernels: {self._text(program, 'ProgramLog')[-1500:]}")
            return self._bytes(program, "CUBIN")
        finally:
            library.nvrtcDestroyProgram(ctypes.byref(program))

    def _bytes(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        buffer = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f"nvrtcGet{what}")(program, buffer))
        return buffer.raw

    def _text(self, program: ctypes.c_void_p, what: str) -> str:
        return self._bytes(program, what).rstrip(b"\0").decode(errors="replace")

    def _check(self, code: int) -> None:
        if code:
            raise GpuError(f"NVRTC: {self._library.nvrtcGetErrorString(code).decode()}")


def self_contained(source: str) -> str:
    """TVM's CUDA source without headers, which NVRTC's package does not bring: the types that they would define."""
    start = source.find(_INCLUDES)
    if start < 0:
        return source
    depth, at = 0, start
    for line in source[start:].splitlines(keepends=True):
        at += len(line)
        depth += line.lstrip().startswith("#if") - line.lstrip().startswith("#endif")
        if depth == 0:
            break
    types = "".join(
        f"typedef {kind} {name};\n"
        for kind, name in (("signed char", "int8_t"), ("unsigned char", "uint8_t"), ("short", "int16_t"), ("unsigned short", "uint16_t"),
                           ("int", "int32_t"), ("unsigned int", "uint32_t"), ("long long", "int64_t"), ("unsigned long long", "uint64_t"))
    )  # fmt: skip
    return source[:start] + types + source[at:]


def _load_runtime() -> None:
    """Load TVM's CUDA runtime, with stand-ins for what of CUDA this machine lacks."""
    spec = find_spec("tvm")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0]) / "lib" / _RUNTIME
    with tempfile.TemporaryDirectory(prefix="linewatch-cuda-") as folder:
        for name, (symbols, versioned) in _wanted(path).items():
            try:
                ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
            except OSError:
                ctypes.CDLL(str(_stand_in(Path(folder), name, symbols, versioned=versioned)), mode=ctypes.RTLD_GLOBAL)
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _wanted(path: Path) -> dict[str, tuple[list[str], bool]]:
    """The CUDA libraries that a library needs: name to symbols, and whether their names carry a version."""
    with path.open("rb") as stream:
        elf = ELFFile(stream)
        symbols = elf.get_section_by_name(".dynsym")
        versions = {v.name for s in elf.iter_sections() if isinstance(s, GNUVerNeedSection) for _, vs in s.iter_versions() for v in vs}
        assert isinstance(symbols, SymbolTableSection)
        undefined = [s.name for s in symbols.iter_symbols() if s["st_shndx"] == "SHN_UNDEF"]
        needed = needed_libraries(elf)
    found = {}
    for name in needed:
        if name.startswith("libcuda.so"):
            found[name] = ([s for s in undefined if s.startswith("cu") and not s.startswith("cuda")], name in versions)
        elif name.startswith("libcudart.so"):
            found[name] = ([s for s in undefined if s.startswith("cuda")], name in versions)
    return found


def _stand_in(folder: Path, name: str, symbols: list[str], *, versioned: bool) -> Path:
    source, script, target = folder / f"{name}.c", folder / f"{name}.map", folder / name
    source.write_text("".join(f"int {symbol}(void) {{ return 100; }}\n" for symbol in symbols))  # 100: no device
    script.write_text(f"{name} {{ global: *; }};\n")
    options = [f"-Wl,--version-script={script}"] if versioned else []
    subprocess.run(
        [compiler("x86_64"), "-shared", "-fPIC", f"-Wl,-soname,{name}", *options, str(source), "-o", str(target)], check=True
    )
    return target


def build(model: bytes, machine: str, gpu: Gpu, to_machine_code: Callable[[str], bytes]) -> bytes:
    """Compile a graph in this process, whose TVM will from now on have its CUDA runtime; returns the shared library.

    Args:
        model: the serialised graph.
        machine: architecture of the processor, such as x86_64.
        gpu: the device.
        to_machine_code: compiles CUDA source, which is self-contained, to what a driver loads.

    Raises:
        GpuError: the kernels are refused, or TVM's import would make another graph of this one.
        ToolError: no linker for the architecture.
    """
    import tvm

    _refuse_uneven_resizes(model)
    _load_runtime()
    from linewatch.packager.compile import link
    from linewatch.packager.gpu_lowering import compile_kernels

    def compiled(source: str, *_: Any) -> bytearray:
        return bytearray(to_machine_code(self_contained(source)))

    tvm.register_global_func("tvm_callback_cuda_compile", compiled, override=True)
    return link(compile_kernels(model, machine, gpu.arch), machine)


def _refuse_uneven_resizes(model: bytes) -> None:
    """TVM's import takes the ratio of sizes for a scale: another one where the scaled size is no whole number, and with it all coordinates.

    Raises:
        GpuError: there is such a scale.
    """
    import onnx
    from onnx import numpy_helper

    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model)).graph
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*graph.input, *graph.value_info]}
    for node in graph.node:
        scales = constants.get(node.input[2]) if node.op_type == "Resize" and len(node.input) == _WITH_SCALES else None
        if scales is None:
            continue
        sizes = np.array(shapes[node.input[0]]) * scales
        if not np.allclose(sizes, np.round(sizes), atol=1e-3):
            raise GpuError(f"{node.name or node.op_type} makes {shapes[node.input[0]]} {scales.tolist()} times as large, which is no whole number")


def _main(folder: Path) -> None:
    asked = msgspec.json.decode((folder / "gpu.json").read_bytes())
    gpu = Gpu(asked["arch"], (asked["cuda"][0], asked["cuda"][1]), "")
    nvrtc = Nvrtc(find_nvrtc(gpu))
    model = (folder / "model.onnx").read_bytes()
    (folder / GPU_LIBRARY).write_bytes(build(model, asked["machine"], gpu, lambda source: nvrtc.compile(source, gpu.arch)))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
