"""What commands print, where it tells people what to do next."""

import platform
from pathlib import Path

import pytest

from linewatch.anomaly_model.bundle import write_bundle
from linewatch.commands.tables import print_package
from linewatch.packager.component import write_component
from linewatch.packager.package import Package
from tests.unit.anomaly_model.test_manifest import SMALL

OTHER = {"x86_64": "aarch64"}.get(platform.machine(), "x86_64")


def printed(folder: Path, machine: str, capsys: pytest.CaptureFixture[str]) -> str:
    files = {"model.onnx": b"", "register.sh": b"", f"compiled/{machine}-cpu/a.so": b""}
    bundle = write_bundle(folder / "bundle", SMALL, files)
    print_package(Package(write_component({"amd64": bundle}, folder, "model-phone", "1.0.0"), bundle, [], [], 1.0))
    return capsys.readouterr().out


def test_the_next_command_works_here_or_says_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = printed(tmp_path / "here", platform.machine(), capsys)
    assert f"next: linewatch agent --models {tmp_path}/here; clients call the model model-phone\n" in here
    device = printed(tmp_path / "device", OTHER, capsys)
    assert f"linewatch agent --models {tmp_path}" not in device
    assert f"next: copy {tmp_path}/device to the device, and there: linewatch doctor device/bundle; linewatch agent --models device; " in device
    assert "clients call the model model-phone" in device
