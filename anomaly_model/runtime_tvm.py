"""The TVM runtime: loads a compiled library with TVM's small runtime only, never the compiler.

Needs the package apache-tvm-ffi (a 2.6 MB library) and libtvm_runtime.so (3.4 MB), which a compiled bundle brings along.
"""

import ctypes
import os
import platform
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from linewatch.anomaly_model.bundle import Bundle
from linewatch.anomaly_model.errors import MalformedBundleError, PlatformError, RuntimeUnavailableError
from linewatch.anomaly_model.picture import Rgb, Strip, box_tables, strips
from linewatch.anomaly_model.runtime import ModelOutputs, ReadPicture, split_outputs

_CPU = 1  # DLPack's device type
_SIZES = 16  # picture sizes whose resize tables are kept; cameras have one
_STRIP_BYTES = 256 * 1024  # of a picture at a time: fits into the second cache of what devices have
_POOLED = 2  # TVM's allocator that keeps freed blocks for the next picture


class CompiledVariant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One compiled library and the CPU flags it needs."""

    library: str
    flags: list[str]


class TargetDescription(msgspec.Struct, frozen=True, kw_only=True):
    """compiled/TARGET/target.json: what the runtime needs of it. The packager writes more into it, for people."""

    runtime: str
    variants: list[CompiledVariant]
    machine: str
    glibc: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}$")]


def host_target() -> str:
    """The name of the CPU target of this machine, such as `x86_64-cpu`."""
    return f"{platform.machine()}-cpu"


def cpu_flags() -> frozenset[str]:
    """What /proc/cpuinfo says that the CPU can do."""
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()


@cache
def _load_libraries(runtime: Path, threads: int) -> None:
    # Read when TVM's thread pool starts, which is at the first parallel loop.
    os.environ["TVM_NUM_THREADS"] = str(threads)
    # A pool that spins between pictures starves the camera program on a small device.
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "0")
    # Where the compiler is loaded (tests, build hosts) its runtime is there already; a second copy would clash.
    if "tvm" not in sys.modules:
        ctypes.CDLL(str(runtime), mode=ctypes.RTLD_GLOBAL)


def leave_torch_out() -> None:
    """For processes that have no use for torch, to be called before anything imports it.

    apache-tvm-ffi, and with it the compiler, imports torch where it is installed, as on a build host: 170 MB and two seconds.
    """
    sys.modules["torch"] = None  # type: ignore[assignment]


class TvmRuntime:
    """Runs a bundle's compiled code on this machine's CPU."""

    def __init__(self, bundle: Bundle, *, threads: int = 1, variant: str | None = None) -> None:
        """Load the best variant that this CPU can run, or the named one.

        Raises:
            RuntimeUnavailableError: no code for this machine, or apache-tvm-ffi is not installed.
            MalformedBundleError: the target.json of this machine's code is not a valid description.
            PlatformError: the code is for another architecture, C library or CPU. Nothing of it has been run then.
        """
        target = host_target()
        if target not in bundle.targets():
            raise RuntimeUnavailableError(
                f"the bundle in {bundle.folder} has no compiled code for {target}; it has {bundle.targets() or 'none'}. "
                f"Make it with: linewatch package BUNDLE --target {target} -o DIR"
            )
        try:
            import tvm_ffi
        except ImportError as error:
            raise RuntimeUnavailableError("the TVM runtime needs: pip install 'linewatch[agent]'") from error
        base = f"compiled/{target}"
        try:
            description = msgspec.json.decode(bundle.read(f"{base}/target.json"), type=TargetDescription)
        except msgspec.DecodeError as error:
            raise MalformedBundleError(f"{base}/target.json: {error}") from error
        _check_platform(description, bundle.folder)
        chosen = _choose_variant(description, variant)
        # Verified again just before code is loaded from these files.
        for name in (description.runtime, chosen.library):
            _check_library(f"{base}/{name}", bundle.read(f"{base}/{name}"))
        _load_libraries(bundle.path(f"{base}/{description.runtime}").resolve(), threads)
        self.name = f"tvm ({Path(chosen.library).stem})"
        self._module = tvm_ffi.load_module(str(bundle.path(f"{base}/{chosen.library}").resolve()))
        self._vm = self._module["vm_load_executable"]()
        self._vm["vm_initialization"](_CPU, 0, _POOLED)
        self._main = self._vm["main"]
        self._resize = self._module.get_function("box_resize", query_imports=True)
        try:
            self._label_map = self._module.get_function("label_map", query_imports=True)
        except AttributeError:  # of a classification model
            self._label_map = None
        self._tensor = tvm_ffi.from_dlpack
        self._spec = bundle.manifest.input
        self._input = _aligned((1, self._spec.height, self._spec.width, 3))
        self._input_tensor = self._tensor(self._input)
        self._input_flat = self._tensor(self._input.reshape(-1))
        self._sizes: dict[tuple[int, int], tuple[Any, list[Strip]]] = {}
        self._threads, self._strip, self._strip_tensor = threads, memoryview(b""), None

    def prepare(self, picture: Rgb) -> npt.NDArray[np.uint8]:
        """See `Runtime.prepare`. Returns this runtime's own input, so that `run` need not copy it."""
        table, _ = self._resizing(picture.shape[0], picture.shape[1])
        if not picture.flags.writeable or not picture.flags.c_contiguous:  # DLPack takes neither
            picture = picture.copy(order="C")
        self._resize(self._tensor(picture.reshape(-1)), table, self._input_flat, 0, self._spec.height, 0)
        return self._input

    def prepare_from(self, read: ReadPicture, height: int, width: int) -> npt.NDArray[np.uint8]:
        """See `Runtime.prepare_from`: in strips that are resized while they are in the processor's cache."""
        table, cut = self._resizing(height, width)
        row_bytes = width * 3
        for strip in cut:
            read(self._strip[: strip.rows * row_bytes], strip.above * row_bytes)
            self._resize(self._strip_tensor, table, self._input_flat, strip.first, strip.count, strip.above)
        return self._input

    def _resizing(self, height: int, width: int) -> tuple[Any, list[Strip]]:
        """The table and the strips for pictures of a size; there is room for each of these strips."""
        known = self._sizes.get((height, width))
        if known is None:
            if len(self._sizes) >= _SIZES:
                self._sizes.clear()
            # Threads share the rows of a call: several of them get the whole picture in one.
            cut = strips(height, width, self._spec, _STRIP_BYTES if self._threads == 1 else height * width * 3)
            known = self._sizes[height, width] = self._tensor(_aligned_copy(box_tables(height, width, self._spec))), cut
            needed = max(strip.rows for strip in cut) * width * 3
            if len(self._strip) < needed:  # never made smaller: sizes that were seen before keep their room
                room = _aligned((needed,))
                self._strip, self._strip_tensor = room.data, self._tensor(room)
        return known

    def run_arrays(self, model_input: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        """All outputs in the graph's order: views that keep their tensors, so that the pool does not give these to the next run."""
        return [_view(tensor) for tensor in self._run(model_input)]

    def _run(self, model_input: npt.NDArray[np.uint8]) -> Any:
        if model_input is not self._input:
            np.copyto(self._input, model_input)
        return self._main(self._input_tensor)

    def run(self, model_input: npt.NDArray[np.uint8]) -> ModelOutputs:
        """See `Runtime.run`."""
        tensors = self._run(model_input)
        outputs = split_outputs([_view(tensor) for tensor in tensors])
        if outputs.label_logits is None or self._label_map is None:
            return outputs
        strongest = _aligned(outputs.label_logits.shape[1:])
        self._label_map(tensors[2], self._tensor(strongest))
        return replace(outputs, label_map=strongest)

    def close(self) -> None:
        """See `Runtime.close`."""
        del self._main, self._resize, self._label_map, self._vm, self._module, self._input_tensor, self._input_flat, self._strip_tensor
        self._sizes.clear()


def _view(tensor: Any) -> npt.NDArray[np.float32]:
    return np.asarray(np.from_dlpack(tensor), np.float32)


def _check_platform(description: TargetDescription, folder: Path) -> None:
    if description.machine != platform.machine():
        raise PlatformError(
            f"the code in {folder} is for {description.machine}; this machine is {platform.machine()}. Deploy the component that is made "
            "for it"
        )
    found = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else None
    _, _, here = (found or "").partition(" ")
    if here and _numbers(description.glibc) > _numbers(here):
        raise PlatformError(
            f"the code in {folder} needs glibc {description.glibc}; this machine has {here}. Package the model again for a target with "
            "an older system"
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


_ELF_MACHINES = {"x86_64": 62, "aarch64": 183}


def _check_library(name: str, data: bytes) -> None:
    """What the library's own header says; target.json may be of another one.

    Raises:
        PlatformError: the data is no shared library, or one for another processor than this machine's.
    """
    machine = int.from_bytes(data[18:20], "little") if data[:4] == b"\x7fELF" else None
    if machine != _ELF_MACHINES.get(platform.machine()):
        raise PlatformError(f"{name} is no shared library for {platform.machine()}; deploy the component that is made for this machine")


def _choose_variant(description: TargetDescription, wanted: str | None) -> CompiledVariant:
    flags = cpu_flags()
    for variant in description.variants:
        if wanted in (None, Path(variant.library).stem) and flags.issuperset(variant.flags):
            return variant
    needed = {Path(v.library).stem: v.flags for v in description.variants}
    raise PlatformError(
        f"no compiled variant{f' {wanted}' if wanted else ''} runs on this CPU; the bundle has {needed}, each with the CPU "
        "flags that it needs"
    )


def _aligned_copy(values: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    copy = _aligned((values.nbytes,)).view(np.int32)
    copy[:] = values
    return copy


def _aligned(shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """An array on a 64-byte boundary, as TVM demands of its inputs."""
    size = int(np.prod(shape))
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].reshape(shape)
