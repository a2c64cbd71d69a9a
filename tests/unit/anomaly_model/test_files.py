"""Replacing a folder, where names can be exchanged and where they cannot (NFS): the old one, the new one, or an error with the old one."""

import ctypes
import errno
from pathlib import Path
from unittest import mock

import pytest

from linewatch.anomaly_model import files
from linewatch.anomaly_model.files import replace_folder


def make(folder: Path, text: str) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "file").write_text(text)
    return folder


def content(folder: Path) -> str:
    return (folder / "sub" / "file").read_text()


class Refusing:
    """A C library whose renameat2 fails."""

    def __init__(self, code: int) -> None:
        self.code = code

    def renameat2(self, *_: object) -> int:
        ctypes.set_errno(self.code)
        return -1


@pytest.fixture(params=[None, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP])
def _file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param is not None:
        monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Refusing(request.param))


@pytest.mark.usefixtures("_file_system")
def test_a_folder_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for text in ("first", "second", "third"):
        replace_folder(make(tmp_path / "new", text), target)
        assert content(target) == text
        assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_other_errors_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = make(tmp_path / "model", "old")
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: Refusing(errno.EACCES))
    with pytest.raises(PermissionError):
        replace_folder(make(tmp_path / "new", "new"), target)
    assert content(target) == "old"


def test_a_step_that_fails_leaves_the_old_folder(tmp_path: Path) -> None:
    target, source, real = make(tmp_path / "model", "old"), make(tmp_path / "new", "new"), Path.replace

    def replace(self: Path, to: Path) -> Path:
        if self == source:
            raise OSError(errno.ESTALE, "stale")
        return real(self, to)

    with (
        mock.patch.object(files, "_exchange", return_value=False), mock.patch.object(Path, "replace", replace),
        pytest.raises(OSError, match="stale"),
    ):  # fmt: skip
        replace_folder(source, target)
    assert (content(target), content(source)) == ("old", "new")


def test_killed_between_the_steps_nothing_is_lost_and_the_next_call_tidies(tmp_path: Path) -> None:
    target, source, real = make(tmp_path / "model", "old"), make(tmp_path / "new", "new"), Path.replace

    def replace(self: Path, to: Path) -> Path:
        if self == source:
            raise KeyboardInterrupt  # nothing after it runs, as when the power goes
        return real(self, to)

    with (
        mock.patch.object(files, "_exchange", return_value=False), mock.patch.object(Path, "replace", replace),
        pytest.raises(KeyboardInterrupt),
    ):  # fmt: skip
        replace_folder(source, target)
    assert (target.exists(), content(tmp_path / ".model.before"), content(source)) == (False, "old", "new")
    replace_folder(source, target)
    assert content(target) == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
