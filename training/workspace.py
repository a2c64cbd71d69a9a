"""Results of finished steps on disk, so that training goes on where kill -9 stopped it.

The folder lies beside the bundle that is being made and is removed when everything is written. It belongs to one run: its
fingerprint covers the data, the options and the program's version, and another run's leftovers are thrown away.
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from linewatch.anomaly_model.errors import LinewatchError, Remedy
from linewatch.anomaly_model.files import replace_file

Arrays = Mapping[str, npt.NDArray[np.generic]]

_MARK = "fingerprint"


def fingerprint(*facts: object) -> str:
    """SHA-256 over facts that JSON can say."""
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


@dataclass(frozen=True, slots=True)
class Workspace:
    """A folder with the results of finished steps."""

    folder: Path

    @classmethod
    def open(cls, folder: Path, mark: str) -> "Workspace":
        """Use what an earlier run of the same fingerprint left, or begin anew.

        Raises:
            LinewatchError: the folder exists and is not ours to throw away.
        """
        found = folder / _MARK
        if folder.exists() and not found.is_file() and any(not p.name.startswith(f".{_MARK}-") for p in folder.iterdir()):
            raise LinewatchError(f"{folder} is in the way: it was not made by training. Move it", Remedy.OTHER_OUTPUT)
        if folder.exists() and (not found.is_file() or found.read_text() != mark):
            cls(folder).remove()
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(found, mark.encode())
        return cls(folder)

    def load(self, name: str) -> dict[str, npt.NDArray[np.generic]] | None:
        """A step's result, or None when it is not finished."""
        path = self.folder / f"{name}.npz"
        if not path.is_file():
            return None
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}

    def save(self, name: str, arrays: Arrays) -> None:
        """Keep a step's result; atomic."""
        buffer = BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        replace_file(self.folder / f"{name}.npz", buffer.getvalue())

    def step(self, name: str, compute: Callable[[], Arrays]) -> Arrays:
        """The result of a step, computed only once."""
        found = self.load(name)
        if found is not None:
            return found
        result = compute()
        self.save(name, result)
        return result

    def forget(self, name: str) -> None:
        """Remove a result that is no longer needed."""
        (self.folder / f"{name}.npz").unlink(missing_ok=True)

    def remove(self) -> None:
        """The work is done. What says that the folder is ours goes last: a run that is killed here leaves nothing in the way."""
        for path in self.folder.iterdir():
            if path.name != _MARK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(self.folder)
