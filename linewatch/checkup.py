"""`linewatch doctor`: can this machine run models, and does a bundle give its golden answers here?"""

import os
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from anomaly_model.bundle import Bundle, open_bundle
from anomaly_model.errors import LinewatchError
from anomaly_model.picture import read_picture
from anomaly_model.runtime import RuntimeName, open_runtime
from anomaly_model.runtime_tvm import cpu_flags, host_target


@dataclass(frozen=True, slots=True)
class Finding:
    """One check."""

    check: str
    ok: bool
    found: str


def examine(path: Path | None) -> list[Finding]:
    """Run all checks; none of them raises."""
    vectors = [name for name in ("avx512f", "avx2", "fma", "neon", "asimd") if name in cpu_flags()]
    memory = os.access("/dev/shm", os.R_OK | os.W_OK)
    findings = [
        Finding("Python", sys.version_info >= (3, 11), sys.version.split()[0]),
        Finding("CPU", bool(vectors), f"{host_target()}, {os.cpu_count()} cores, {' '.join(vectors) or 'no known vectors'}"),
        Finding("shared memory", memory, "/dev/shm is writable" if memory else "/dev/shm is missing or not writable"),
        *(
            _installed(module, extra)
            for module, extra in (("grpc", "agent"), ("tvm_ffi", "agent"), ("onnxruntime", "agent"))
        ),
    ]
    if path is None:
        return findings
    try:
        bundle = open_bundle(path)
    except LinewatchError as error:
        return [*findings, Finding("bundle", False, str(error))]
    findings.append(
        Finding("bundle", True, f"{bundle.manifest.model.name} version {bundle.manifest.model.version}, all hashes right")
    )
    names: list[RuntimeName] = ["onnxruntime", *(["tvm"] if host_target() in bundle.targets() else [])]  # type: ignore[list-item]
    return findings + [_golden(bundle, name) for name in names]


def _installed(module: str, extra: str) -> Finding:
    there = find_spec(module) is not None
    return Finding(module, there, "installed" if there else f"missing: pip install 'linewatch[{extra}]'")


def _golden(bundle: Bundle, name: RuntimeName) -> Finding:
    """Largest score difference to the answers stored at training, as a share of the score's range."""
    try:
        runtime = open_runtime(bundle, name)
        with np.load(bundle.path("golden/expected.npz"), allow_pickle=False) as expected:
            scores = {
                key.split(".")[0]: float(expected[key].reshape(-1)[0]) for key in expected.files if key.endswith(".score")
            }
        span = max(bundle.manifest.score_range.high - bundle.manifest.score_range.low, 1e-6)
        worst = max(
            abs(runtime.run(read_picture(bundle.path(f"golden/{n}.png"))[np.newaxis]).score - score) / span
            for n, score in scores.items()
        )
    except LinewatchError as error:
        return Finding(f"golden pictures on {name}", False, str(error))
    return Finding(
        f"golden pictures on {runtime.name}",
        worst <= 1e-3,
        f"{len(scores)} pictures, largest difference {worst:.1e} of the range",
    )
