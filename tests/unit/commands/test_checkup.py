"""What doctor says of machines, sockets and models."""

import socket
from pathlib import Path

import pytest

from linewatch.commands import machine_checkup
from linewatch.commands.checkup import examine
from linewatch.commands.machine_checkup import Finding, examine_machine, examine_socket


def named(findings: list[Finding], check: str) -> Finding:
    return next(f for f in findings if f.check == check)


def test_this_machine_is_fit(tmp_path: Path) -> None:
    findings = list(examine_machine(tmp_path))
    assert [f for f in findings if not f.ok] == []
    assert {"Python", "CPU", "GPU", "shared memory", "memory", "disk", "confinement", "grpc", "hpack", "awsiot"} <= {f.check for f in findings}


def test_what_is_missing_is_named_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checkup, "_LIBRARIES", ("no_such_library", "no_such.part"))
    monkeypatch.setattr(machine_checkup, "_DISK_MIB", 10**9)
    monkeypatch.setattr(machine_checkup, "_FREE_MIB", 10**9)
    findings = list(examine_machine(tmp_path))
    assert {f.check for f in findings if not f.ok} == {"memory", "disk", "no_such_library", "no_such.part"}
    assert "linewatch[agent]" in named(findings, "no_such.part").found


def test_a_gpu_that_this_user_may_not_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "nvidiactl"
    device.touch()
    monkeypatch.setattr(machine_checkup, "_NVIDIA", (str(device),))
    assert "onnxruntime-gpu is missing" in named(list(examine_machine(tmp_path)), "GPU").found
    monkeypatch.setattr(machine_checkup.os, "access", lambda *_: False)
    gpu = named(list(examine_machine(tmp_path)), "GPU")
    assert not gpu.ok
    assert "group video" in gpu.found


def test_sockets(tmp_path: Path) -> None:
    absent, plain, dead = tmp_path / "absent", tmp_path / "plain", tmp_path / "dead"
    plain.touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    for path, message in ((absent, "is the agent running?"), (plain, "is not a socket")):
        [finding] = examine_socket(f"unix://{path}")
        assert not finding.ok
        assert message in finding.found
    found = list(examine_socket(f"unix://{dead}"))
    assert [f.ok for f in found] == [True, False]
    assert "no agent answers" in found[1].found
    [finding] = examine_socket("tcp://x")
    assert not finding.ok


def test_all_models_of_a_folder_are_checked(models: Path) -> None:
    findings = examine(None, models=models)
    assert any(f.ok and f.check.startswith("golden pictures on tvm") for f in findings)
    [broken] = [f for f in findings if f.check == "bundle" and not f.ok]
    assert str(models / "broken") in broken.found
