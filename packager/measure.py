"""Compares compiled code with ONNX Runtime on this machine, in a process that holds only what a device holds.

Run as `python -m packager.measure BUNDLE VARIANT ROUNDS`; prints one JSON object. A process of its own, so that the TVM
compiler is not loaded, memory can be told, and a crash of generated code is an error message and not our end.
"""

import re
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from anomaly_model.bundle import Bundle, open_bundle
from anomaly_model.detection import interpret
from anomaly_model.errors import LinewatchError
from anomaly_model.manifest import GOLDEN_NAME, InputSpec
from anomaly_model.picture import read_picture, to_model_input
from anomaly_model.runtime import split_outputs
from anomaly_model.runtime_onnx import OnnxRuntime
from anomaly_model.runtime_tvm import TvmRuntime

TOLERANCE = 1e-3
"""Largest allowed difference, as a share of the output's range."""


class ParityError(LinewatchError):
    """Compiled code does not give the answers that ONNX Runtime gives."""


class Latency(msgspec.Struct, frozen=True):
    """Milliseconds, one thread, alternating calls."""

    p50_ms: float
    p99_ms: float


class Comparison(msgspec.Struct, frozen=True):
    """One variant against ONNX Runtime.

    Attributes:
        pictures: golden pictures compared.
        score_difference, map_difference, labels_difference: largest difference as a share of the output's range.
        changed_answers: pictures whose verdict differs.
        resize_differences: values of resized pictures that differ from the reference; must be 0.
        tvm_over_onnxruntime: median over pairs of calls of (TVM's time / ONNX Runtime's time); below 1 TVM is faster.
        peak_memory_mib: resident memory of a process that holds both runtimes.
    """

    variant: str
    pictures: int
    score_difference: float
    map_difference: float
    labels_difference: float
    changed_answers: int
    resize_differences: int
    tvm: Latency
    onnxruntime: Latency
    tvm_over_onnxruntime: float
    peak_memory_mib: float

    def check(self) -> None:
        """Refuse code that does not agree.

        Raises:
            ParityError: names what differs and by how much.
        """
        differences = {"score": self.score_difference, "map": self.map_difference, "labels": self.labels_difference}
        # `not <=` and not `>`: a NaN must not pass.
        wrong = [f"{name} differs by {value:.2g}" for name, value in differences.items() if not value <= TOLERANCE]
        if self.changed_answers:
            wrong.append(f"{self.changed_answers} of {self.pictures} golden pictures get another verdict")
        if self.resize_differences:
            wrong.append(f"{self.resize_differences} values of resized pictures differ")
        if wrong:
            raise ParityError(
                f"variant {self.variant} does not agree with ONNX Runtime: {'; '.join(wrong)}; allowed is {TOLERANCE} of "
                "each output's range and no changed verdict. Nothing was packaged"
            )


def golden_inputs(bundle: Bundle) -> tuple[list[npt.NDArray[np.uint8]], list[list[npt.NDArray[np.float32]]]]:
    """The bundle's golden pictures (1 x H x W x 3) and their expected raw outputs."""
    inputs, expected = [], []
    with np.load(BytesIO(bundle.read(GOLDEN_NAME)), allow_pickle=False) as archive:
        count = len({name.split(".")[0] for name in archive.files})
        for n in range(count):
            inputs.append(read_picture(bundle.path(f"golden/{n}.png"))[np.newaxis])
            names = [f"{n}.{output}" for output in ("score", "map", "labels")]
            expected.append([archive[name] for name in names if name in archive.files])
    return inputs, expected


def compare(bundle: Bundle, variant: str, rounds: int) -> Comparison:
    """Run a variant and ONNX Runtime on the golden pictures, and time both in turns."""
    reference, compiled = OnnxRuntime(bundle.read("model.onnx")), TvmRuntime(bundle, variant=variant)
    inputs, expected = golden_inputs(bundle)
    span = max(bundle.manifest.score_range.high - bundle.manifest.score_range.low, 1e-6)
    worst, changed = [0.0, 0.0, 0.0], 0
    for picture, stored in zip(inputs, expected, strict=True):
        ours, theirs = compiled.run_arrays(picture), reference.run_arrays(picture)
        # Both the reference here and the one stored at training: a broken reference must not excuse broken code.
        for other in (theirs, stored):
            for i, (a, b) in enumerate(zip(ours, other, strict=True)):
                scale = (span, 1.0, max(float(np.ptp(b)), 1e-6))[i]
                worst[i] = float(np.maximum(worst[i], np.abs(a - b).max() / scale))
        verdicts = {interpret(split_outputs(o), bundle.manifest).is_anomalous for o in (ours, theirs, stored)}
        changed += len(verdicts) > 1
    times: list[tuple[float, float]] = []
    for i in range(rounds + 5):
        picture = inputs[i % len(inputs)]
        t0 = time.perf_counter()
        compiled.run_arrays(picture)
        t1 = time.perf_counter()
        reference.run_arrays(picture)
        times.append((t1 - t0, time.perf_counter() - t1))
    table = np.array(times[5:]) * 1e3  # the first calls warm caches
    return Comparison(
        variant=variant,
        pictures=len(inputs),
        score_difference=worst[0],
        map_difference=worst[1],
        labels_difference=worst[2],
        changed_answers=changed,
        resize_differences=_resize_differences(compiled, bundle.manifest.input),
        tvm=_latency(table[:, 0]),
        onnxruntime=_latency(table[:, 1]),
        tvm_over_onnxruntime=round(float(np.median(table[:, 0] / table[:, 1])), 4),
        peak_memory_mib=_peak_memory_mib(),
    )


_SIZES = [(64, 64), (64, 4096), (479, 641), (720, 1280), (1080, 1920), (4096, 64)]


def _resize_differences(compiled: TvmRuntime, spec: InputSpec) -> int:
    """Compiled resize against the reference, on noise of many sizes, larger and smaller than the input."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in [*_SIZES, (spec.height, spec.width)]]
    return sum(int((compiled.prepare(p) != to_model_input(p, spec)).sum()) for p in pictures)


def _peak_memory_mib() -> float:
    # Not getrusage: its maximum survives exec, so it would tell the size of the process that started this one.
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return round(int(found[1]) / 1024, 1) if found else 0.0


def _latency(values: npt.NDArray[np.float64]) -> Latency:
    return Latency(round(float(np.median(values)), 3), round(float(np.quantile(values, 0.99)), 3))


def compare_in_child(folder: Path, variant: str, rounds: int) -> Comparison:
    """`compare` in a process of its own.

    Raises:
        ParityError: the process died or could not run the variant.
    """
    command = [sys.executable, "-m", "packager.measure", str(folder), variant, str(rounds)]
    try:
        result = subprocess.run(command, capture_output=True, timeout=600, check=False)
    except subprocess.TimeoutExpired as error:
        raise ParityError(f"variant {variant} did not finish {rounds} pictures in {error.timeout:.0f} s") from error
    if result.returncode:
        tail = result.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise ParityError(f"variant {variant} could not be checked: exit code {result.returncode}; {' '.join(tail)}")
    return msgspec.json.decode(result.stdout, type=Comparison)


if __name__ == "__main__":
    _, folder_name, variant_name, round_count = sys.argv
    comparison = compare(open_bundle(Path(folder_name)), variant_name, int(round_count))
    sys.stdout.buffer.write(msgspec.json.encode(comparison))
