"""What is slow to make is made once for all processes of a run (pytest-xdist starts one for each core)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from filelock import FileLock

T = TypeVar("T")


class Once:
    """Folders below `root`, each made by the first that asks for it; others wait meanwhile."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def folder(self, name: str, make: Callable[[Path], object]) -> Path:
        """The folder of that name, which `make` filled. One that failed is made again by the next, so that each test tells why."""
        folder, done = self._root / name, self._root / f"{name}.done"
        with FileLock(self._root / f"{name}.lock"):
            if not done.exists():
                folder.mkdir(exist_ok=True)
                make(folder)
                done.touch()
        return folder

    def value(self, name: str, kind: type[T], make: Callable[[Path], T]) -> T:
        """What `make` gave, a dataclass or Struct; read from a file by those who did not make it."""
        kept = self._root / f"{name}.json"
        self.folder(name, lambda folder: kept.write_bytes(msgspec.json.encode(make(folder), enc_hook=str)))
        return msgspec.json.decode(kept.read_bytes(), type=kind, dec_hook=_as_path)


def _as_path(kind: type, value: Any) -> Any:
    assert issubclass(kind, Path), kind
    return Path(value)
