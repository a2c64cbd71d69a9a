"""Records of the fastest runtime: of this bundle and machine only, and never a reason not to start."""

import json
from pathlib import Path

import pytest

from linewatch.anomaly_model.bundle import Bundle
from linewatch.anomaly_model.errors import RuntimeUnavailableError
from linewatch.anomaly_model.measured import read_measured, write_measured
from linewatch.anomaly_model.runtime_choice import open_runtime
from linewatch.commands.checkup import examine
from linewatch.packager.package import Package


def test_the_fastest_is_taken(packaged: Package, bundle: Bundle, tmp_path: Path) -> None:
    assert open_runtime(packaged.bundle, measured=tmp_path).name.startswith("tvm")
    assert write_measured(tmp_path, packaged.bundle, {"tvm": 9.0, "onnxruntime": 3.0}).runtime == "onnxruntime"
    assert open_runtime(packaged.bundle, measured=tmp_path).name == "onnxruntime"
    assert read_measured(tmp_path, bundle) is None, "a record of another bundle"
    assert open_runtime(packaged.bundle, "tvm", measured=tmp_path).name.startswith("tvm"), "who names a runtime gets it"


@pytest.mark.parametrize("content", [b"", b"{", b'{"runtime": "rm -rf"}', b"\0" * 100_000])
def test_a_broken_record_does_not_count(packaged: Package, tmp_path: Path, content: bytes) -> None:
    write_measured(tmp_path, packaged.bundle, {"onnxruntime": 3.0})
    [record] = tmp_path.iterdir()
    whole = record.read_bytes()
    record.write_bytes(content)
    assert open_runtime(packaged.bundle, measured=tmp_path).name.startswith("tvm")
    record.write_text(json.dumps({**json.loads(whole), "machine": "riscv64"}))
    assert read_measured(tmp_path, packaged.bundle) is None


def test_doctor_measures_what_agrees_and_records_the_fastest(packaged: Package, tmp_path: Path) -> None:
    findings = examine(packaged.bundle.folder, record=tmp_path)
    checks = [f.check for f in findings]
    assert all(f.ok for f in findings)
    assert checks[-1] == "fastest runtime"
    assert any(c.startswith("golden pictures on tvm") for c in checks)
    record = read_measured(tmp_path, packaged.bundle)
    assert record is not None
    assert set(record.p50_ms) == {"tvm", "onnxruntime"}
    assert record.p50_ms[record.runtime] == min(record.p50_ms.values())


def test_a_gpu_that_is_not_there(packaged: Package) -> None:
    with pytest.raises(RuntimeUnavailableError, match="Install onnxruntime-gpu"):
        open_runtime(packaged.bundle, "onnxruntime-gpu")
