"""The agent's own Greengrass component: wheels and scripts that install it on devices without a network.

One artifact for each kind of device, <12 hex>_linewatch_edge_agent.zip:

    install.sh, run.sh, VERSION, requirements.txt     see the scripts for what they do
    wheels/                                           linewatch and all that `linewatch[agent]` needs
    python.tar.gz                                     a Python 3.11 of its own, when one was given
    lookoutvision_edge_agent/protos/edge-agent.proto  where clients of the old agent copy it from
"""

import hashlib
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.anomaly_model.files import zip_files
from linewatch.anomaly_model.progress import ProgressCallback, no_progress
from linewatch.packager.component import (
    AGENT,
    AGENT_VERSIONS,
    Component,
    ComponentIdentity,
    Draft,
    check_identity,
    finish_component,
)
from linewatch.packager.elf import LibraryError, read_machine
from linewatch.packager.targets import ARCHITECTURES
from linewatch.packager.toolchain import ToolError, run_pip

PYTHON = "3.11"
_OLDEST_GLIBC = (2, 27)
_HERE = Path(__file__).parent
_PROTO = _HERE.parent / "protos" / "edge-agent.proto"


class AgentComponentError(LinewatchError):
    """The agent's component cannot be made."""


def write_agent_component(
    machines: Sequence[str], folder: Path, *, name: str = AGENT, component_version: str = "", wheel: Path | None = None,
    pythons: Sequence[Path] = (), location: str = "", progress: ProgressCallback = no_progress,
) -> Component:  # fmt: skip
    """Collect the wheels and write artifacts, recipe and component.json below `folder`.

    Args:
        machines: x86_64, aarch64 or both: the kinds of devices, each with an artifact and a manifest of its own.
        folder: laid out as a model's component is.
        name: of the component.
        component_version: empty for linewatch's own.
        wheel: of linewatch itself; by default built from the source tree that this runs in.
        pythons: relocatable Pythons 3.11 (.tar.gz with python/bin/python3.11 in it) for devices that have none; each goes to the kind of
            device that it is made for.
        location: address of the folder that the artifacts will lie in.
        progress: told what is being done.

    Raises:
        AgentComponentError: no such machine, no Python for it, a version that models do not take, or no source to build linewatch from.
        ToolError: pip cannot fetch or build what is needed.
    """
    for machine in machines:
        if machine not in ARCHITECTURES:
            raise AgentComponentError(f"unknown machine {machine!r}; expected {' or '.join(ARCHITECTURES)}")
    own = version("linewatch")
    component_version = component_version or component_version_of(own)
    check_identity(name, component_version)
    _check_version(name, component_version)
    archives = _by_machine(pythons, machines)
    drafts = []
    with tempfile.TemporaryDirectory(prefix="linewatch-agent-") as scratch:
        progress("building linewatch", 0, len(machines) + 2)
        built = Path(scratch) / "own"
        built.mkdir()
        _own_wheel(wheel, built)
        for done, machine in enumerate(dict.fromkeys(machines), 1):
            progress(f"fetching wheels for {machine}", done, len(machines) + 2)
            wheels = Path(scratch) / machine
            wheels.mkdir()
            _fetch(agent_requirements(), machine, wheels)
            files = {f"wheels/{path.name}": path.read_bytes() for path in sorted([*built.glob("*.whl"), *wheels.glob("*.whl")])}
            drafts.append(_draft(own, machine, files, archives.get(machine)))
        progress("writing the component", len(machines) + 1, len(machines) + 2)
        return finish_component(folder, ComponentIdentity(name, component_version), drafts, recipe="agent", values={}, location=location)


def _draft(own: str, machine: str, files: dict[str, bytes], python: Path | None) -> Draft:
    """The artifact for one kind of device, of its wheels."""
    files["requirements.txt"] = _requirements({n.removeprefix("wheels/"): d for n, d in files.items()}).encode()
    for script in ("install.sh", "run.sh"):
        files[script] = (_HERE / "device" / script).read_bytes()
    files["lookoutvision_edge_agent/protos/edge-agent.proto"] = _PROTO.read_bytes()
    if python is not None:
        files["python.tar.gz"] = python.read_bytes()
    named = (hashlib.sha256(name.encode() + data).digest() for name, data in sorted(files.items()))
    digest = hashlib.sha256(b"".join(named)).hexdigest()[:12]
    files["VERSION"] = f"{own}-{digest}".encode()  # another content is installed anew, whatever it calls itself
    # Wheels are compressed already.
    write = partial(zip_files, files=sorted(files.items()), compression=zipfile.ZIP_STORED)
    return Draft(ARCHITECTURES[machine], f"{digest}_linewatch_edge_agent", write)


def component_version_of(own: str) -> str:
    """A version of linewatch as Greengrass writes one; what comes between two releases has the number of the next."""
    parts = Version(own).release
    return ".".join(map(str, (*parts, 0, 0)[:3]))


def _check_version(name: str, component_version: str) -> None:
    first, end = AGENT_VERSIONS
    if name == AGENT and not first <= tuple(map(int, component_version.split("."))) < end:
        above, below = (".".join(map(str, v)) for v in AGENT_VERSIONS)
        raise AgentComponentError(
            f"models depend on {AGENT} {above} or newer, below {below}; with version {component_version} none of them could be deployed"
        )


def _by_machine(pythons: Sequence[Path], machines: Sequence[str]) -> dict[str, Path]:
    """Which archive is for which machine, by the program in it.

    Raises:
        AgentComponentError: an archive has no Python, or one for a machine that is not among `machines` or has one already.
    """
    found: dict[str, Path] = {}
    for path in pythons:
        try:
            with tarfile.open(path) as archive:
                program = archive.extractfile("python/bin/python3.11")
                machine = read_machine(program.read(64) if program else b"")
        except (OSError, KeyError, tarfile.TarError, EOFError, LibraryError) as error:
            raise AgentComponentError(f"{path} is not a .tar.gz with a Python in python/bin/python3.11: {error}") from error
        if machine not in machines:
            raise AgentComponentError(f"{path} is a Python for {machine}; the component is for {' and '.join(machines)}")
        if machine in found:
            raise AgentComponentError(f"{path} and {found[machine]} are both for {machine}; give one for each machine")
        found[machine] = path
    return found


def agent_requirements() -> dict[str, str]:
    """What `linewatch[agent]` needs, directly or not, as it is installed here: name to version.

    Raises:
        AgentComponentError: something of it is not installed here.
    """
    found: dict[str, str] = {}
    pending = [("linewatch", frozenset({"agent"}))]
    seen = set(pending)
    while pending:
        distribution, extras = pending.pop()
        for text in requires(distribution) or []:
            requirement = Requirement(text)
            if requirement.marker and not any(requirement.marker.evaluate({"extra": extra, "python_version": PYTHON}) for extra in extras | {""}):
                continue
            key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
            if key[0] != "linewatch" and key not in seen:
                seen.add(key)
                pending.append(key)
                try:
                    found[key[0]] = version(key[0])
                except PackageNotFoundError as error:
                    raise AgentComponentError(
                        f"{key[0]} is not installed here, so its version is not known: pip install 'linewatch[agent]'"
                    ) from error
    return dict(sorted(found.items()))


def _own_wheel(wheel: Path | None, folder: Path) -> None:
    if wheel is not None:
        (folder / wheel.name).write_bytes(wheel.read_bytes())
        return
    root = _HERE.parents[2]
    if not (root / "pyproject.toml").is_file():
        raise AgentComponentError("linewatch runs from an installation, not from its source tree: name its wheel with --wheel FILE")
    run_pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(root))


def _fetch(wanted: Mapping[str, str], machine: str, folder: Path) -> None:
    major, newest = _OLDEST_GLIBC
    platforms = [f"manylinux_{major}_{minor}_{machine}" for minor in range(newest, 4, -1)]
    platforms += [f"{legacy}_{machine}" for legacy in ("manylinux2014", "manylinux2010", "manylinux1")]
    flags = [flag for name in platforms for flag in ("--platform", name)]
    base = ["download", "--only-binary", ":all:", "--python-version", PYTHON, "--implementation", "cp", *flags, "--dest", str(folder)]
    absent = {pinned.partition("==")[0] for pinned in _download(base, [f"{name}=={pin}" for name, pin in wanted.items()])}
    if not absent:
        return
    # A release that is newer than the oldest systems has no wheel for them: the newest one that has is taken, with its needs.
    pins = folder / "pins.txt"
    pins.write_text("".join(f"{name}=={pin}\n" for name, pin in wanted.items() if name not in absent))
    ranges: dict[str, Requirement] = {canonicalize_name(r.name): r for r in map(Requirement, requires("linewatch") or [])}
    run_pip(*base, "--constraint", str(pins), *(f"{name}{ranges[name].specifier}" if name in ranges else name for name in sorted(absent)))


def _download(base: Sequence[str], pinned: Sequence[str]) -> list[str]:
    """Download wheels; returns those that there are none of. By halves: pip takes all or nothing, and a start of it costs more than a wheel."""
    try:
        run_pip(*base, "--no-deps", *pinned)
    except ToolError:
        if len(pinned) == 1:
            return list(pinned)
        half = len(pinned) // 2
        return [*_download(base, pinned[:half]), *_download(base, pinned[half:])]
    return []


def _requirements(wheels: Mapping[str, bytes]) -> str:
    """One line a wheel, with its hash: what is installed is what was packed."""
    lines = []
    for name, data in sorted(wheels.items()):
        distribution, pin = name.split("-")[:2]
        lines.append(f"{re.sub(r'[-_.]+', '-', distribution).lower()}=={pin} --hash=sha256:{hashlib.sha256(data).hexdigest()}\n")
    return "".join(lines)
