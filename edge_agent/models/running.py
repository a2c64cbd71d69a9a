"""Which models run, kept in a file, so that they run again after the agent was restarted, killed or updated."""

import threading
from pathlib import Path

import msgspec
import structlog

from linewatch.anomaly_model.files import replace_file

log = structlog.get_logger()
_MOST_BYTES = 1024 * 1024


class RunningModels:
    """A set of names in a file, written whole and at once. A file that cannot be read is an empty set: clients start models again."""

    def __init__(self, path: Path | None) -> None:
        """Read what an agent before this one left; `path` None keeps nothing."""
        self._path, self._lock = path, threading.Lock()
        self._names = _read(path) if path else set()
        for left in path.parent.glob(f".{path.name}-*") if path else ():
            left.unlink(missing_ok=True)  # of an agent that was killed while it wrote

    @property
    def names(self) -> frozenset[str]:
        """Models that ran when this was last written."""
        with self._lock:
            return frozenset(self._names)

    def add(self, name: str) -> None:
        """A client, or the agent itself, started it."""
        self._change(name, there=True)

    def remove(self, name: str) -> None:
        """A client stopped it, or it was removed."""
        self._change(name, there=False)

    def _change(self, name: str, *, there: bool) -> None:
        with self._lock:
            if (name in self._names) is there:
                return
            self._names ^= {name}
            if self._path is None:
                return
            try:
                replace_file(self._path, msgspec.json.encode(sorted(self._names)) + b"\n")
            except OSError as error:  # a full disk must not keep a model from running
                log.warning("running models not kept", path=str(self._path), reason=error.strerror)


def _read(path: Path) -> set[str]:
    try:
        with path.open("rb") as stream:
            return set(msgspec.json.decode(stream.read(_MOST_BYTES), type=list[str]))
    except FileNotFoundError:
        return set()
    except (OSError, msgspec.DecodeError) as error:
        log.warning("running models not known", path=str(path), reason=str(error))
        return set()
