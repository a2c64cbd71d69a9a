"""Parts of check_gpu.py that use a GPU without torch's training: `python -P scripts/gpu_code.py PART JSON` prints one JSON object.

PART is `device`, `code` or `kernels`, JSON its parameters by name. A process of its own: a crash of generated code or of a driver is a
message and not the end of everything. Exit code 0 whatever was found (`problems` says it), 3 there is no NVIDIA GPU.
"""

import ctypes
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

CPU, CUDA = 1, 2
"""DLPack's device types."""
CUDART = "libcudart.so.13"
NO_GPU = 3
_POOLED = 2  # TVM's allocator that keeps freed blocks for the next picture
_MAJOR, _MINOR = 75, 76  # CUdevice_attribute: compute capability

Json = dict[str, Any]
Outputs = list[npt.NDArray[np.float32]]


class NoGpuError(Exception):
    """There is no NVIDIA GPU that could be used; the text says why."""


def find_device() -> Json:
    """The first GPU: name, architecture (sm_90), memory in MiB, and the driver's CUDA.

    Raises:
        NoGpuError: no driver, or no GPU.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise NoGpuError(f"no driver: {error}") from None
    code = driver.cuInit(0)
    if code:
        raise NoGpuError(f"the driver finds no GPU: cuInit gives {code}")
    device, version, major, minor = (ctypes.c_int() for _ in range(4))
    name, memory = ctypes.create_string_buffer(256), ctypes.c_size_t()
    calls = (
        driver.cuDeviceGet(ctypes.byref(device), 0),
        driver.cuDeviceGetName(name, len(name), device),
        driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device),
        driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
        driver.cuDriverGetVersion(ctypes.byref(version)),
    )
    if any(calls):
        raise NoGpuError(f"the driver does not describe the GPU: {calls}")
    return {
        "name": name.value.decode(), "arch": f"sm_{major.value}{minor.value}", "memory_mib": memory.value >> 20,
        "driver_cuda": f"{version.value // 1000}.{version.value % 1000 // 10}",
    }  # fmt: skip


def runs_on(code: str, device: str) -> bool:
    """Whether machine code for one architecture (sm_86) runs on another: the same generation, and not an older member of it."""
    (major, minor), (own, own_minor) = _capability(code), _capability(device)
    return major == own and minor <= own_minor


def _capability(arch: str) -> tuple[int, int]:
    found = re.fullmatch(r"sm_(\d+)(\d)", arch)
    if found is None:
        raise ValueError(f"{arch!r} is no architecture; expected such as sm_90")
    return int(found[1]), int(found[2])


def find_cudart() -> str:
    """What the loader finds CUDA's runtime by: its name, or a file that came with torch or a CUDA toolkit.

    Raises:
        NoGpuError: it is nowhere.
    """
    spec = find_spec("nvidia")
    places = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    found = [
        *(path for place in places for path in sorted(place.glob(f"*/lib/{CUDART}"))),
        *sorted(Path("/usr/local").glob(f"cuda*/lib*/{CUDART}")),
        *sorted(Path("/usr/local").glob(f"cuda*/targets/*/lib/{CUDART}")),
    ]
    for name in (CUDART, *map(str, found)):
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return name
    raise NoGpuError(f"no {CUDART}: install CUDA's runtime, or put its folder into LD_LIBRARY_PATH")


class DeviceRuntime:
    """A compiled library on one device, by TVM's runtime alone, which has to be loaded: neither TVM's compiler nor torch is needed."""

    def __init__(self, library: Path, device: int, shape: tuple[int, ...]) -> None:
        """Load a library.

        Args:
            library: with a graph of one uint8 input.
            device: `CPU` or `CUDA`.
            shape: of the input.
        """
        import tvm_ffi

        self._device = tvm_ffi.device("cuda" if device == CUDA else "cpu", 0)
        allocate = tvm_ffi.get_global_func("runtime.TVMTensorAllocWithScope")
        self._write = tvm_ffi.get_global_func("runtime.TVMTensorCopyFromBytes")
        self._read = tvm_ffi.get_global_func("runtime.TVMTensorCopyToBytes")
        self._wait = tvm_ffi.get_global_func("runtime.Device_StreamSync")
        self._module = tvm_ffi.load_module(str(library))
        self._vm = self._module["vm_load_executable"]()
        # Shapes are computed on the processor, so that it is always one of the devices.
        self._vm["vm_initialization"](device, 0, _POOLED, *(() if device == CPU else (CPU, 0, _POOLED)))
        self._main = self._vm["main"]
        self._input = allocate(tvm_ffi.Shape(shape), tvm_ffi.dtype("uint8"), self._device, None)

    def give(self, picture: npt.NDArray[np.uint8]) -> None:
        """Bring a picture of the input's shape to the device."""
        picture = np.ascontiguousarray(picture)
        self._write(self._input, picture.ctypes.data_as(ctypes.c_void_p), picture.nbytes)

    def compute(self) -> Any:
        """Run on what was given, and wait for the device; the outputs stay there."""
        outputs = self._main(self._input)
        self._wait(self._device, 0)
        return outputs

    def run_arrays(self, picture: npt.NDArray[np.uint8]) -> Outputs:
        """All outputs for a picture, in the graph's order, as float32 arrays."""
        self.give(picture)
        arrays = []
        for tensor in self.compute():
            array = np.empty(tuple(tensor.shape), np.float32)
            assert str(tensor.dtype) == "float32", tensor.dtype
            self._read(tensor, array.ctypes.data_as(ctypes.c_void_p), array.nbytes)
            arrays.append(array)
        return arrays


def load_gpu_code(bundle: Any, cuda_runtime: Path) -> DeviceRuntime:
    """A package's GPU code, loaded with the package's own runtime and TVM's CUDA runtime."""
    from linewatch.packager.gpu import GPU_LIBRARY
    from linewatch.packager.toolchain import RUNTIME

    find_cudart()
    machine = os.uname().machine
    # The compiler's process would have them already; a second copy would clash.
    import tvm_ffi  # noqa: F401  # its library is what the runtime is linked against

    ctypes.CDLL(str(bundle.path(f"compiled/{machine}-cpu/{RUNTIME}").resolve()), mode=ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(cuda_runtime.resolve()), mode=ctypes.RTLD_GLOBAL)
    spec = bundle.manifest.input
    return DeviceRuntime(bundle.path(f"compiled/{machine}-cuda/{GPU_LIBRARY}").resolve(), CUDA, (1, spec.height, spec.width, 3))


def check_code(bundle: str, cuda_runtime: str, pictures: int, rounds: int) -> Json:
    """GPU code of a package beside compiled code for the processor and ONNX Runtime on it: answers and times.

    Args:
        bundle: folder of the compiled bundle.
        cuda_runtime: TVM's libtvm_runtime_cuda.so.
        pictures: how many are drawn, besides the golden ones.
        rounds: calls of each runtime that are timed.

    Raises:
        NoGpuError: no GPU, or no CUDA.
    """
    from linewatch.anomaly_model.bundle import open_bundle
    from linewatch.anomaly_model.parity import golden_inputs
    from linewatch.anomaly_model.picture import to_model_input
    from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
    from linewatch.anomaly_model.runtime_tvm import TvmRuntime
    from linewatch.commands.drawn.part_set import PartSet

    opened, device = open_bundle(Path(bundle)), find_device()
    described = _described(opened)
    if not runs_on(described["gpu"], device["arch"]):
        return {**described, "problems": [f"made for {described['gpu']}; this GPU is {device['arch']}: package it with that gpu-code"]}
    reference, processor = OnnxRuntime(opened.read("model.onnx")), TvmRuntime(opened)
    golden, stored = golden_inputs(opened)
    drawn = [to_model_input(p.picture, opened.manifest.input) for p in PartSet(0, 0, (pictures + 1) // 2, pictures // 2, seed=11)]
    begun = time.perf_counter()
    gpu = load_gpu_code(opened, Path(cuda_runtime))
    loaded = time.perf_counter()
    gpu.run_arrays(golden[0])
    first = time.perf_counter()
    problems: list[str] = []
    ran_on = device["name"]
    parities = {
        name: _parity(opened.manifest, f"{described['gpu']} ({name})", ran_on, [gpu.run_arrays(p) for p in given], references, problems)
        for name, given, references in (
            ("golden", golden, [[reference.run_arrays(p), e] for p, e in zip(golden, stored, strict=True)]),
            ("drawn", drawn, [[reference.run_arrays(p)] for p in drawn]),
        )
    }
    once = gpu.run_arrays(golden[0])
    repeats = sum(any(not np.array_equal(a, b) for a, b in zip(once, gpu.run_arrays(golden[0]), strict=True)) for _ in range(10))
    calls = {
        "gpu": gpu.run_arrays, "gpu, copies left out": lambda _: gpu.compute(), processor.name: processor.run_arrays,
        "onnxruntime": reference.run_arrays,
    }  # fmt: skip
    return {
        **described, "load_s": round(loaded - begun, 3), "first_picture_s": round(first - loaded, 3), **parities,
        "repeats_that_differ": repeats, "milliseconds": time_calls(calls, golden, rounds), "problems": problems,
    }  # fmt: skip


def _described(bundle: Any) -> Json:
    base = f"compiled/{os.uname().machine}-cuda"
    if base.partition("/")[2] not in bundle.targets():
        raise ValueError(f"{bundle.folder} holds no GPU code for this machine; it has {bundle.targets() or 'no compiled code'}")
    target = json.loads(bundle.read(f"{base}/target.json"))
    return {key: target[key] for key in ("gpu", "cuda", "nvrtc")}


def _parity(
    manifest: Any, variant: str, ran_on: str, found: Sequence[Outputs], references: Sequence[Sequence[Outputs]], problems: list[str]
) -> Json | None:  # fmt: skip
    """The report of a comparison, None where an output is not finite; what is wrong is added to `problems`."""
    import msgspec

    from linewatch.anomaly_model.parity import DisparityError, ParityError, compare

    try:
        parity = compare(manifest, variant, ran_on, found, references, 0)
    except ParityError as error:
        problems.append(str(error))
        return None
    try:
        parity.check()
    except DisparityError as error:
        problems.append(str(error))
    report: Json = msgspec.to_builtins(parity)
    return report


def time_calls(calls: dict[str, Callable[[npt.NDArray[np.uint8]], object]], pictures: list[npt.NDArray[np.uint8]], rounds: int) -> Json:
    """Median and 99th percentile of each call in milliseconds, in turns, so that noise falls on all alike; five rounds warm caches."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds + 5):
        for name, call in calls.items():
            begun = time.perf_counter()
            call(pictures[i % len(pictures)])
            times[name].append((time.perf_counter() - begun) * 1e3)
    return {name: {"p50": round(float(np.median(t[5:])), 4), "p99": round(float(np.quantile(t[5:], 0.99)), 4)} for name, t in times.items()}


def check_kernels(bundle: str, cuda_runtime: str, rounds: int) -> Json:
    """What each CUDA kernel of a package's GPU code takes of a picture.

    Raises:
        NoGpuError: no GPU, or no CUDA.
    """
    import torch
    from torch.profiler import ProfilerActivity, profile

    from linewatch.anomaly_model.bundle import open_bundle
    from linewatch.anomaly_model.parity import golden_inputs

    find_device()
    opened = open_bundle(Path(bundle))
    torch.cuda.init()
    gpu = load_gpu_code(opened, Path(cuda_runtime))
    pictures, _ = golden_inputs(opened)
    gpu.run_arrays(pictures[0])
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        for i in range(rounds):
            gpu.run_arrays(pictures[i % len(pictures)])
    with tempfile.TemporaryDirectory(prefix="linewatch-gpu-") as folder:
        path = Path(folder) / "trace.json"
        seen.export_chrome_trace(str(path))
        kernels = sum_kernels(json.loads(path.read_text()), rounds)
    return {**_described(opened), "kernels": kernels, "problems": [] if kernels else ["the profiler saw no kernel"]}


def sum_kernels(trace: Json, rounds: int) -> list[Json]:
    """Launches and microseconds a picture of each kernel in a trace of the profiler, the longest first."""
    sums: dict[str, list[float]] = {}
    for event in trace["traceEvents"]:
        if event.get("cat") == "kernel":
            sums.setdefault(event["name"], []).append(float(event["dur"]))
    rows = [{"kernel": n, "launches": len(t) / rounds, "microseconds": round(sum(t) / rounds, 2)} for n, t in sums.items()]
    return sorted(rows, key=lambda row: -row["microseconds"])


PARTS: dict[str, Callable[..., Json]] = {"device": find_device, "code": check_code, "kernels": check_kernels}


def main() -> int:
    """Run one part."""
    _, part, parameters = sys.argv
    # Or tvm_ffi would compile an extension for older builds of torch, which nothing here needs.
    os.environ.setdefault("TVM_FFI_DISABLE_TORCH_C_DLPACK", "1")
    try:
        found = PARTS[part](**json.loads(parameters))
    except NoGpuError as error:
        print(error, file=sys.stderr)
        return NO_GPU
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
