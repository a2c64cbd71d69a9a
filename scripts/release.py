"""Make a release in dist/: sdist, wheel, bill of materials, checksums. The same commit gives the same bytes, wherever and whenever.

    python scripts/release.py [FOLDER]

The version is that of the tag (docs/reference/compatibility.md). The wheel is made from the sdist, so that what is published is
what can be built again from it.
"""

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output import make_outputter
from cyclonedx.schema import OutputFormat, SchemaVersion
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
USERS = ("agent", "packager", "train", "server", "cluster", "cuda")
"""Extras whose dependencies the bill of materials lists; the others are for developers."""
EPOCH = 1577836800
"""2020-01-01, for sources without git."""


@dataclass(frozen=True)
class Locked:
    """An entry of a lock.

    Attributes:
        version: that is locked.
        wanted_by: packages that need it; empty where only linewatch itself does.
    """

    version: str
    wanted_by: tuple[str, ...]


def read_locks(*texts: str) -> dict[str, Locked]:
    """Entries by name; pip-compile says in a comment who needs each."""
    found = {}
    for entry in re.finditer(r"^([a-z0-9][a-z0-9._-]*)==(\S+) .*\n((?:    .*\n?)*)", "".join(texts), re.MULTILINE):
        via = re.findall(r"^    #(?: via)? +([a-z][a-z0-9._-]*)(?: \(pyproject\.toml\))?$", entry[3], re.MULTILINE)
        found[entry[1]] = Locked(entry[2], tuple(name for name in via if name not in ("via", "linewatch")))
    return found


def needed(project: Mapping[str, object], locks: Mapping[str, Locked]) -> set[str]:
    """Names of what users' extras need, directly or not."""
    optional: Mapping[str, list[str]] = project["optional-dependencies"]  # type: ignore[assignment]
    direct: list[str] = [*project["dependencies"], *(text for extra in USERS for text in optional[extra])]  # type: ignore[misc]
    found = {canonicalize_name(Requirement(text).name) for text in direct} & set(locks)
    while more := {name for name, entry in locks.items() if set(entry.wanted_by) & found} - found:
        found |= {str(name) for name in more}  # type: ignore[arg-type]
    return {str(name) for name in found}


def bill_of_materials(version: str, files: Mapping[str, bytes], epoch: int) -> bytes:
    """What a release consists of, and what it is tested with, in CycloneDX.

    Args:
        version: of the release.
        files: sdist and wheel.
        epoch: seconds since 1970 that stand for the moment of the release.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    locks = read_locks(*((ROOT / name).read_text() for name in ("constraints.txt", "constraints-dev.txt", "constraints-cuda.txt")))
    notice = (ROOT / "NOTICE").read_text()
    licences = dict(re.findall(r"^  (\S+)  +([A-Za-z0-9.-]+(?: (?:AND|OR) [A-Za-z0-9.-]+)*)(?: \(.*)?$", notice, re.MULTILINE))
    make = LicenseFactory()
    root = Component(
        name="linewatch", version=version, type=ComponentType.APPLICATION, bom_ref="linewatch", purl=PackageURL("pypi", None, "linewatch", version),
        licenses=[make.make_from_string(project["license"])],
    )  # fmt: skip
    digest = hashlib.sha256(b"".join(hashlib.sha256(files[name]).digest() for name in sorted(files))).hexdigest()
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, digest))
    bom.metadata.timestamp = datetime.fromtimestamp(epoch, UTC)
    bom.metadata.component = root
    wanted = needed(project, locks)
    parts = {
        name: Component(
            name=name, version=locks[name].version, type=ComponentType.LIBRARY, bom_ref=name,
            purl=PackageURL("pypi", None, name, locks[name].version),
            licenses=[make.make_from_string(licences[name])] if name in licences else [],
        )
        for name in sorted(wanted)
    }  # fmt: skip
    for part in parts.values():
        bom.components.add(part)
    for name, data in sorted(files.items()):
        hashes = [HashType(alg=HashAlgorithm.SHA_256, content=hashlib.sha256(data).hexdigest())]
        bom.components.add(Component(name=name, type=ComponentType.FILE, bom_ref=f"file:{name}", hashes=hashes))
    for name, part in parts.items():
        bom.register_dependency(part, [parts[other] for other in sorted(wanted) if name in locks[other].wanted_by])
    inner = {other for other in wanted if set(locks[other].wanted_by) & wanted}
    bom.register_dependency(root, [part for name, part in parts.items() if name not in inner])
    return make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string(indent=1).encode() + b"\n"


def moment() -> int:
    """Seconds since 1970 that stand for the release: SOURCE_DATE_EPOCH, else the commit's."""
    if value := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(value)
    asked = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S607
    return int(asked.stdout) if asked.returncode == 0 and asked.stdout.strip() else EPOCH


def build(source: Path, kind: str, folder: Path, epoch: int) -> Path:
    """A wheel or sdist of a source tree."""
    before = set(folder.iterdir())
    subprocess.run(
        [sys.executable, "-P", "-m", "hatchling", "build", "-t", kind, "-d", str(folder)], cwd=source, check=True, stdout=subprocess.DEVNULL,
        env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
    )  # fmt: skip
    [made] = set(folder.iterdir()) - before
    return made


def main() -> None:
    """Make everything and list it."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("linewatch-*"):
        old.unlink()
    epoch = moment()
    sdist = build(ROOT, "sdist", folder, epoch)
    with tempfile.TemporaryDirectory() as scratch:
        with tarfile.open(sdist) as archive:
            archive.extractall(scratch, filter="data")
        [tree] = Path(scratch).iterdir()
        wheel = build(tree, "wheel", folder, epoch)
    files = {path.name: path.read_bytes() for path in (sdist, wheel)}
    version = wheel.name.split("-")[1]
    name = f"linewatch-{version}.cdx.json"
    files[name] = bill_of_materials(version, dict(files), epoch)
    (folder / name).write_bytes(files[name])
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {file}\n" for file, data in sorted(files.items()))
    (folder / "SHA256SUMS").write_text(sums)
    print(sums, end="")


if __name__ == "__main__":
    main()
