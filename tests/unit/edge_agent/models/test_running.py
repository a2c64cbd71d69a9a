"""Which models run is kept over restarts."""

import errno
from pathlib import Path

import pytest

from linewatch.edge_agent.models import running
from linewatch.edge_agent.models.running import RunningModels


def test_names_come_back(tmp_path: Path) -> None:
    path = tmp_path / "running.json"
    models = RunningModels(path)
    for name in ("a", "b", "c"):
        models.add(name)
    models.remove("b")
    models.remove("never there")
    assert RunningModels(path).names == {"a", "c"}


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1}', b"[1]", b"\xff" * 100])
def test_a_damaged_file_is_no_reason_not_to_start(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "running.json"
    path.write_bytes(content)
    models = RunningModels(path)
    assert models.names == frozenset()
    models.add("a")
    assert RunningModels(path).names == {"a"}


def test_a_full_disk_does_not_keep_a_model_from_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(running, "replace_file", full)
    models = RunningModels(tmp_path / "running.json")
    models.add("a")
    assert models.names == {"a"}


def test_without_a_file_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    RunningModels(None).add("a")
    assert list(tmp_path.iterdir()) == []
