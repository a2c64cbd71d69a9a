"""Verifies compiled code: runs it on golden pictures and makes the parity report."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from linewatch.anomaly_model.bundle import Bundle
from linewatch.anomaly_model.manifest import InputSpec
from linewatch.anomaly_model.parity import Outputs, Parity, ParityError, compare, golden_inputs
from linewatch.anomaly_model.picture import Rgb, to_model_input
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.anomaly_model.runtime_tvm import cpu_flags
from linewatch.packager.emulate import Emulation, EmulationError
from linewatch.packager.targets import Isa
from linewatch.packager.toolchain import emulator

_SIZES = [(64, 64), (64, 4096), (479, 641), (720, 1280), (1080, 1920), (4096, 64)]
_SIZES_EMULATED = [(64, 64), (97, 300), (479, 641)]


def execution_host(machine: str, isa: Isa) -> str | None:
    """What can run a variant's code: `this machine`, an emulator's name, or None when nothing here can."""
    prefix = emulator(machine)
    if prefix is None:
        return None
    if prefix:
        return Path(prefix[0]).name.removesuffix("-static")
    return "this machine" if cpu_flags().issuperset(isa.flags) else None


def verify_parity(
    bundle: Bundle, library: bytes, machine: str, isa: Isa, pictures: list[npt.NDArray[np.uint8]] | None = None
) -> Parity:  # fmt: skip
    """Compare a variant with ONNX Runtime on the golden pictures, or on others.

    Args:
        bundle: whose graph was compiled, and whose golden outputs count.
        library: compiled.
        machine: its architecture.
        isa: what it uses.
        pictures: 1 x H x W x 3 uint8 each; None for the golden ones.

    Raises:
        ParityError: the code could not be run at all.
        ToolError: no emulator.
    """
    ran_on = execution_host(machine, isa)
    try:
        emulation = Emulation(library, machine)
        reference = OnnxRuntime(bundle.read("model.onnx"))
        stored: list[list[Outputs]] = []
        if pictures is None:
            pictures, expected = golden_inputs(bundle)
            stored = [[e] for e in expected]
        found = emulation.run(pictures)
        references = [[reference.run_arrays(p), *(stored[i] if stored else [])] for i, p in enumerate(pictures)]
        spec, sizes = bundle.manifest.input, _SIZES if ran_on == "this machine" else _SIZES_EMULATED
        differences = _resize_differences(emulation, spec, sizes)
    except EmulationError as error:
        raise ParityError(f"variant {isa.name} could not be checked: {error}") from error
    return compare(bundle.manifest, isa.name, ran_on or "", found, references, differences)


def _resize_differences(emulation: Emulation, spec: InputSpec, sizes: list[tuple[int, int]]) -> int:
    """Compiled resize against the reference, on noise of many sizes, larger and smaller than the input."""
    rng = np.random.default_rng(0)
    pictures: list[Rgb] = [rng.integers(0, 256, (*size, 3), np.uint8) for size in [*sizes, (spec.height, spec.width)]]
    found = emulation.resize(pictures, spec)
    return sum(int((f != to_model_input(p, spec)).sum()) for f, p in zip(found, pictures, strict=True))
