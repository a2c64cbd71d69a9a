"""Times compiled code against ONNX Runtime on this machine, in a process that holds only what a device holds.

Run as `python -P -m linewatch.packager.measure BUNDLE VARIANT ROUNDS`; prints one JSON object. A process of its own, so that the TVM
compiler is not loaded, memory can be told, and a crash of generated code is an error message and not our end.
"""

import re
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from linewatch.anomaly_model.bundle import Bundle, open_bundle
from linewatch.anomaly_model.parity import ParityError, golden_inputs
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.anomaly_model.runtime_tvm import TvmRuntime, leave_torch_out
from linewatch.packager.child import ChildError, run_module


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds, one thread, alternating calls."""

    p50_ms: float
    p99_ms: float


class Timing(msgspec.Struct, frozen=True):
    """One variant beside ONNX Runtime.

    Attributes:
        tvm_over_onnxruntime: median over pairs of calls of (TVM's time / ONNX Runtime's time); below 1 TVM is faster.
        peak_memory_mib: resident memory of a process that holds both runtimes.
    """

    variant: str
    tvm: Latency
    onnxruntime: Latency
    tvm_over_onnxruntime: float
    peak_memory_mib: float


def measure(bundle: Bundle, variant: str, rounds: int) -> Timing:
    """Time a variant and ONNX Runtime in turns."""
    reference, compiled = OnnxRuntime(bundle.read("model.onnx")), TvmRuntime(bundle, variant=variant)
    inputs, _ = golden_inputs(bundle)
    times: list[tuple[float, float]] = []
    for i in range(rounds + 5):
        picture = inputs[i % len(inputs)]
        t0 = time.perf_counter()
        compiled.run_arrays(picture)
        t1 = time.perf_counter()
        reference.run_arrays(picture)
        times.append((t1 - t0, time.perf_counter() - t1))
    table = np.array(times[5:]) * 1e3  # the first calls warm caches
    return Timing(
        variant=variant,
        tvm=_latency(table[:, 0]),
        onnxruntime=_latency(table[:, 1]),
        tvm_over_onnxruntime=round(float(np.median(table[:, 0] / table[:, 1])), 4),
        peak_memory_mib=_peak_memory_mib(),
    )


def _peak_memory_mib() -> float:
    # Not getrusage: its maximum survives exec, so it would tell the size of the process that started this one.
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return round(int(found[1]) / 1024, 1) if found else 0.0


def _latency(values: npt.NDArray[np.float64]) -> Latency:
    return Latency(round(float(np.median(values)), 3), round(float(np.quantile(values, 0.99)), 3))


def measure_in_child(folder: Path, variant: str, rounds: int) -> Timing:
    """`measure` in a process of its own.

    Raises:
        ParityError: the process died or could not run the variant.
    """
    try:
        answer = run_module("linewatch.packager.measure", str(folder), variant, str(rounds), timeout_s=600)
    except ChildError as error:
        raise ParityError(f"variant {variant} could not be run: {error}") from error
    return msgspec.json.decode(answer, type=Timing)


if __name__ == "__main__":
    leave_torch_out()
    _, folder_name, variant_name, round_count = sys.argv
    sys.stdout.buffer.write(msgspec.json.encode(measure(open_bundle(Path(folder_name)), variant_name, int(round_count))))
