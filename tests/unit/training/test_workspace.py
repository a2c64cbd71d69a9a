from pathlib import Path

import numpy as np
import pytest

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.training.workspace import Workspace, fingerprint


def test_a_step_is_computed_once(tmp_path: Path) -> None:
    calls = []

    def compute() -> dict[str, np.ndarray]:
        calls.append(1)
        return {"a": np.arange(3)}

    for _ in range(2):
        space = Workspace.open(tmp_path / "w", "mark")
        assert space.step("s", compute)["a"].tolist() == [0, 1, 2]
    assert len(calls) == 1
    space.forget("s")
    assert space.load("s") is None


def test_another_run_begins_anew(tmp_path: Path) -> None:
    Workspace.open(tmp_path / "w", "one").save("s", {"a": np.zeros(1)})
    assert Workspace.open(tmp_path / "w", "two").load("s") is None


def test_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "thesis.txt").write_text("dear")
    with pytest.raises(LinewatchError, match="in the way"):
        Workspace.open(tmp_path / "w", "mark")
    assert (tmp_path / "w" / "thesis.txt").read_text() == "dear"


def test_objects_are_refused(tmp_path: Path) -> None:
    space = Workspace.open(tmp_path / "w", "mark")
    np.savez(space.folder / "evil.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="pickle"):
        space.load("evil")


def test_fingerprint_tells_apart() -> None:
    assert fingerprint([1, "a"]) == fingerprint([1, "a"]) != fingerprint([1, "b"])


def test_what_a_kill_leaves_is_never_in_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = Workspace.open(tmp_path / "w", "mark")
    for name in "abc":
        space.save(name, {"a": np.zeros(1)})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("linewatch.training.workspace.shutil.rmtree", killed)  # after the files, before the folder
        with pytest.raises(KeyboardInterrupt):
            space.remove()
    assert Workspace.open(tmp_path / "w", "mark").load("a") is None
    Workspace.open(tmp_path / "w", "mark").remove()
    assert not (tmp_path / "w").exists()
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / ".fingerprint-x7").touch()  # killed before the mark was in place
    assert Workspace.open(tmp_path / "w", "mark").load("a") is None
