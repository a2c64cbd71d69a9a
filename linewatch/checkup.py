"""`linewatch doctor`: can this machine run models, and does a bundle give its golden answers here?"""

import os
import statistics
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from anomaly_model.bundle import Bundle, open_bundle
from anomaly_model.errors import LinewatchError
from anomaly_model.measured import Measurable, write_measured
from anomaly_model.parity import compare, golden_inputs
from anomaly_model.runtime import open_runtime
from anomaly_model.runtime_tvm import cpu_flags, host_target
from anomaly_model.signature import read_trusted_keys

_ROUNDS = 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One check."""

    check: str
    ok: bool
    found: str


def examine(path: Path | None, keys: Path | None = None, record: Path | None = None) -> list[Finding]:
    """Run all checks; none of them raises.

    Args:
        path: a bundle, or None.
        keys: public keys, one of which must have signed the bundle.
        record: folder to write to which runtime was the fastest, for the agent's setting `measured`.
    """
    vectors = [name for name in ("avx512f", "avx2", "fma", "neon", "asimd") if name in cpu_flags()]
    memory = os.access("/dev/shm", os.R_OK | os.W_OK)
    findings = [
        Finding("Python", sys.version_info >= (3, 11), sys.version.split()[0]),
        Finding("CPU", bool(vectors), f"{host_target()}, {os.cpu_count()} cores, {' '.join(vectors) or 'no known vectors'}"),
        Finding("shared memory", memory, "/dev/shm is writable" if memory else "/dev/shm is missing or not writable"),
        *(_installed(module) for module in ("grpc", "tvm_ffi", "onnxruntime", "structlog")),
    ]
    if path is None:
        return findings
    try:
        bundle = open_bundle(path, trusted=read_trusted_keys(keys) if keys else ())
    except LinewatchError as error:
        return [*findings, Finding("bundle", False, str(error))]
    model, signed = bundle.manifest.model, ", signed by a trusted key" if keys else ""
    findings.append(Finding("bundle", True, f"{model.name} version {model.version}, all hashes right{signed}"))
    times: dict[Measurable, float] = {}
    for name in _runtimes(bundle):
        finding, milliseconds = _golden(bundle, name)
        findings.append(finding)
        if finding.ok:
            times[name] = milliseconds
    if record is not None and times:
        best = write_measured(record, bundle, times).runtime
        findings.append(Finding("fastest runtime", True, f"{best}, recorded in {record}"))
    return findings


def _runtimes(bundle: Bundle) -> list[Measurable]:
    names: list[Measurable] = ["onnxruntime"]
    if bundle.targets():
        names.append("tvm")
    if find_spec("onnxruntime") is not None:
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            names.append("onnxruntime-gpu")
    return names


def _installed(module: str) -> Finding:
    there = find_spec(module) is not None
    return Finding(module, there, "installed" if there else "missing: pip install 'linewatch[agent]'")


def _golden(bundle: Bundle, name: Measurable) -> tuple[Finding, float]:
    """Parity with the answers stored at training, and the median milliseconds of a call."""
    try:
        runtime = open_runtime(bundle, name)
        inputs, expected = golden_inputs(bundle)
        found = [runtime.run_arrays(picture) for picture in inputs]
        parity = compare(bundle.manifest, runtime.name, "this machine", found, [[e] for e in expected], 0)
        parity.check()
    except LinewatchError as error:
        return Finding(f"golden pictures on {name}", False, str(error)), 0.0
    times = []
    for i in range(_ROUNDS):
        started = time.perf_counter()
        runtime.run_arrays(inputs[i % len(inputs)])
        times.append(time.perf_counter() - started)
    milliseconds = statistics.median(times) * 1e3
    said = (
        f"{parity.pictures} pictures, largest difference of score {parity.score_difference:.1e}, map {parity.map_difference:.1e}, mask "
        f"{parity.mask_difference:.1e}, no changed verdict; {milliseconds:.1f} ms"
    )
    return Finding(f"golden pictures on {runtime.name}", True, said), milliseconds
