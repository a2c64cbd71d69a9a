"""`linewatch doctor`: can this machine run models, and does a bundle give its golden answers here?"""

import statistics
import time
from importlib.util import find_spec
from pathlib import Path

from linewatch.anomaly_model.bundle import Bundle, open_bundle
from linewatch.anomaly_model.errors import LinewatchError
from linewatch.anomaly_model.measured import Measurable, write_measured
from linewatch.anomaly_model.parity import compare, golden_inputs
from linewatch.anomaly_model.runtime_choice import open_runtime
from linewatch.anomaly_model.signature import read_trusted_keys
from linewatch.commands.machine_checkup import Finding, examine_machine, examine_socket

_ROUNDS = 30


def examine(
    path: Path | None, keys: Path | None = None, record: Path | None = None, *, models: Path | None = None, address: str | None = None
) -> list[Finding]:
    """Run all checks; none of them raises.

    Args:
        path: a bundle, or None.
        keys: public keys, one of which must have signed each bundle.
        record: folder to write to which runtime was the fastest, for the agent's setting `measured`.
        models: an agent's models folder, of which each bundle is checked.
        address: of an agent's socket.
    """
    findings = list(examine_machine(models or Path()))
    if address is not None:
        findings += examine_socket(address)
    for folder in _bundles(path, models):
        findings += _examine_bundle(folder, keys, record)
    return findings


def _bundles(path: Path | None, models: Path | None) -> list[Path]:
    from linewatch.edge_agent.models.catalog import Catalog

    installed = [entry.folder for _, entry in sorted(Catalog(models).scan().items())] if models is not None else []
    return ([path] if path is not None else []) + installed


def _examine_bundle(path: Path, keys: Path | None, record: Path | None) -> list[Finding]:
    findings: list[Finding] = []
    try:
        bundle = open_bundle(path, trusted=read_trusted_keys(keys) if keys else ())
    except LinewatchError as error:
        return [Finding("bundle", False, str(error) if str(path) in str(error) else f"{path}: {error}")]
    signed = ", signed by a trusted key" if keys else ""
    findings.append(Finding("bundle", True, f"{bundle.manifest.served_as} version {bundle.manifest.model.version}, all hashes right{signed}"))
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
