"""Which models are installed: bundles below a folder, registrations that deployed components wrote there, and what a core unpacked."""

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from linewatch.anomaly_model.errors import BundleError
from linewatch.anomaly_model.limits import LIMITS
from linewatch.anomaly_model.manifest import MANIFEST_NAME, Manifest, parse_manifest

_DEPTH = 3
_MOST = 1000


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """An installed model.

    Attributes:
        component: the name that clients use.
        folder: of its bundle.
        manifest: what bundle.json says; None when it cannot be read, and `problem` says why.
        stamp: changes when the folder or its bundle.json does.
        autostart: whether its registration asks to start it without a client's word.
    """

    component: str
    folder: Path
    manifest: Manifest | None
    problem: str = ""
    stamp: tuple[str, int, int] = ("", 0, 0)
    autostart: bool = False


class _Registration(msgspec.Struct, frozen=True):
    component: str
    version: str
    folder: str
    autostart: bool | str = False  # recipes know no types: a core writes a boolean as it likes


class Catalog:
    """Looks again at each `scan`; a bundle.json that did not change is not parsed again."""

    def __init__(self, root: Path, artifacts: Path | None = None) -> None:
        """`artifacts`: where a core unpacks components, as NAME/VERSION/STEM; None looks at none."""
        self._root = root
        self._artifacts = artifacts
        self._lock = threading.Lock()
        self._parsed: dict[Path, tuple[int, int, Manifest | None, str]] = {}

    def scan(self) -> dict[str, InstalledModel]:
        """All installed models by component name.

        A registration (NAME.json, written by a component's run script) goes before a bundle that was merely found: while
        a component is updated both versions lie on disk, and the registration says which one counts. Of components that a core unpacked
        and that did not register, the highest version counts.
        """
        with self._lock:
            found: dict[str, InstalledModel] = {}
            registered: set[Path] = set()
            for path in sorted(self._root.glob("*.json"))[:_MOST]:
                try:
                    entry = msgspec.json.decode(path.read_bytes(), type=_Registration)
                except (OSError, msgspec.DecodeError):
                    continue  # half-written or foreign: not a model
                folder = Path(entry.folder)
                registered.add(folder.resolve())
                autostart = str(entry.autostart).lower() == "true"
                found[entry.component] = replace(self._describe(entry.component, folder), autostart=autostart)
            for component, folder in _unpacked(self._artifacts) if self._artifacts else ():
                found.setdefault(component, self._describe(component, folder))
            for folder in _bundle_folders(self._root, _DEPTH):
                if folder.resolve() not in registered:
                    entry_found = self._describe("", folder)
                    found.setdefault(entry_found.component, entry_found)
            return found

    def _describe(self, component: str, folder: Path) -> InstalledModel:
        """`component` empty: a bundle that was found is called as the component that it was packaged as, else as its model."""
        manifest, problem = self._parse(folder)
        known = self._parsed.get(folder / MANIFEST_NAME)
        stamp = (str(folder), *(known[:2] if known else (0, 0)))
        name = component or (manifest.served_as if manifest else folder.name)
        return InstalledModel(name, folder, manifest, problem, stamp)

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
    if depth:
        try:
            children = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        except OSError:  # no folder, or removed at this moment
            return
        for child in children[:_MOST]:
            yield from _bundle_folders(child, depth - 1)


def _unpacked(artifacts: Path) -> Iterator[tuple[str, Path]]:
    """Components below a core's unpacked artifacts that are models, with the bundle of their highest version."""
    versions: dict[str, list[Path]] = {}
    for manifest in sorted(artifacts.glob(f"*/*/*/{MANIFEST_NAME}"))[:_MOST]:
        versions.setdefault(manifest.parents[2].name, []).append(manifest.parent)
    for component, folders in versions.items():
        yield component, max(folders, key=lambda folder: precedence(folder.parent.name))


def precedence(version: str) -> tuple[list[int], bool, list[tuple[bool, int, str]]]:
    """Orders the versions of components: semantic versioning 2.0.0, section 11.

    >>> sorted(["1.10.0", "1.9.0", "1.10.0-rc.2", "1.10.0-rc.10"], key=precedence)
    ['1.9.0', '1.10.0-rc.2', '1.10.0-rc.10', '1.10.0']
    """
    release, _, early = version.partition("+")[0].partition("-")
    identifiers = [(not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in early.split(".") if part]
    return [int(number) for number in re.findall(r"[0-9]+", release)], not early, identifiers
