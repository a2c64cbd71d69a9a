"""Which runtime was the fastest for a bundle on this machine: written by `linewatch doctor`, read when a model is loaded."""

import hashlib
import platform
from pathlib import Path
from typing import Literal

import msgspec

from linewatch.anomaly_model.bundle import Bundle
from linewatch.anomaly_model.files import replace_file
from linewatch.anomaly_model.limits import LIMITS
from linewatch.anomaly_model.manifest import MANIFEST_NAME

Measurable = Literal["tvm", "onnxruntime", "onnxruntime-gpu"]



class Measured(msgspec.Struct, frozen=True):
    """What was measured.

    Attributes:
        runtime: the fastest of those that give the right answers.
        p50_ms: median milliseconds of each of them.
        machine: type of machine; a record of another one does not count.
    """

    runtime: Measurable
    p50_ms: dict[str, float]
    machine: str


def write_measured(folder: Path, bundle: Bundle, p50_ms: dict[Measurable, float]) -> Measured:
    """Record measurements of a bundle; there must be one at least."""
    best = min(p50_ms, key=lambda name: p50_ms[name])
    record = Measured(best, {str(k): round(v, 3) for k, v in p50_ms.items()}, platform.machine())
    replace_file(_path(folder, bundle), msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    return record


def read_measured(folder: Path, bundle: Bundle) -> Measured | None:
    """The record of exactly this bundle; None when there is none that counts."""
    try:
        with _path(folder, bundle).open("rb") as stream:
            record = msgspec.json.decode(stream.read(LIMITS.measured_bytes), type=Measured)
    except (OSError, msgspec.DecodeError):
        return None  # a hint is no reason not to start a model
    return record if record.machine == platform.machine() else None


def _path(folder: Path, bundle: Bundle) -> Path:
    return folder / f"{hashlib.sha256((bundle.folder / MANIFEST_NAME).read_bytes()).hexdigest()[:32]}.json"
