"""Which models are installed: bundles below a folder, and registrations that deployed components wrote there."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from anomaly_model.errors import BundleError
from anomaly_model.limits import LIMITS
from anomaly_model.manifest import MANIFEST_NAME, Manifest, parse_manifest

_DEPTH = 3
_MOST = 1000


@dataclass(frozen=True, slots=True)
class Installed:
    """An installed model.

    Attributes:
        component: the name that clients use.
        folder: of its bundle.
        manifest: what bundle.json says; None when it cannot be read, and `problem` says why.
    """

    component: str
    folder: Path
    manifest: Manifest | None
    problem: str = ""


class _Registration(msgspec.Struct, frozen=True):
    component: str
    version: str
    folder: str


class Catalog:
    """Looks again at each `scan`; a bundle.json that did not change is not parsed again."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._parsed: dict[Path, tuple[int, int, Manifest | None, str]] = {}

    def scan(self) -> dict[str, Installed]:
        """All installed models by component name.

        A registration (NAME.json, written by a component's run script) goes before a bundle that was merely found: while
        a component is updated both versions lie on disk, and the registration says which one counts.
        """
        with self._lock:
            found: dict[str, Installed] = {}
            registered: set[Path] = set()
            for path in sorted(self._root.glob("*.json"))[:_MOST]:
                try:
                    entry = msgspec.json.decode(path.read_bytes(), type=_Registration)
                except (OSError, msgspec.DecodeError):
                    continue  # half-written or foreign: not a model
                folder = Path(entry.folder)
                registered.add(folder.resolve())
                found[entry.component] = self._describe(entry.component, folder)
            for folder in _bundle_folders(self._root, _DEPTH):
                if folder.resolve() not in registered:
                    manifest, problem = self._parse(folder)
                    name = manifest.model.name if manifest else folder.name
                    found.setdefault(name, Installed(name, folder, manifest, problem))
            return found

    def _describe(self, component: str, folder: Path) -> Installed:
        manifest, problem = self._parse(folder)
        return Installed(component, folder, manifest, problem)

    def _parse(self, folder: Path) -> tuple[Manifest | None, str]:
        path = folder / MANIFEST_NAME
        try:
            status = path.stat()
            known = self._parsed.get(path)
            if known and known[:2] == (status.st_mtime_ns, status.st_size):
                return known[2:]
            with path.open("rb") as stream:
                manifest, problem = parse_manifest(stream.read(LIMITS.bundle_json_bytes + 1)), ""
        except OSError as error:
            return None, f"{path} cannot be read: {error.strerror}"
        except BundleError as error:
            manifest, problem = None, str(error)
        self._parsed[path] = (status.st_mtime_ns, status.st_size, manifest, problem)
        return manifest, problem


def _bundle_folders(root: Path, depth: int) -> Iterator[Path]:
    if (root / MANIFEST_NAME).is_file():
        yield root
        return
    if depth and root.is_dir():
        for child in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))[:_MOST]:
            yield from _bundle_folders(child, depth - 1)
