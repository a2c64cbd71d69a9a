"""The agent's own Greengrass component: wheels and scripts that install it on a device without a network.

<12 hex>_linewatch_edge_agent.zip
install.sh, run.sh, VERSION, requirements.txt     see the scripts for what they do
wheels/                                           linewatch and all that `linewatch[agent]` needs
python.tar.gz                                     a Python 3.11 of its own, when one was given
lookoutvision_edge_agent/protos/edge-agent.proto  where clients of the old agent copy it from
"""

import hashlib
import re
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from anomaly_model.bundle import zip_files
from anomaly_model.errors import LinewatchError
from anomaly_model.targets import ARCHITECTURES
from packager.component import Component, Identity, check_identity, finish_component
from packager.toolchain import ToolError, run_pip

NAME = "linewatch.EdgeAgent"
PYTHON = "3.11"
_OLDEST_GLIBC = (2, 27)
_HERE = Path(__file__).parent
Progress = Callable[[str, int, int], None]


class AgentComponentError(LinewatchError):
    """The agent's component cannot be made."""


def write_agent_component(
    machine: str, folder: Path, *, name: str = NAME, wheel: Path | None = None, python: Path | None = None, location: str = "",
    progress: Progress = lambda _what, _done, _total: None,
) -> Component:  # fmt: skip
    """Collect the wheels and write artifact, recipe and component.json below `folder`.

    Args:
        machine: x86_64 or aarch64.
        folder: laid out as a model's component is.
        name: of the component.
        wheel: of linewatch itself; by default built from the source tree that this runs in.
        python: a relocatable Python 3.11 (a .tar.gz with python/bin/python3.11 in it) for devices that have none.
        location: address of the folder that the artifact will lie in.
        progress: told what is being done.

    Raises:
        AgentComponentError: no such machine, or no source to build linewatch from.
        ToolError: pip cannot fetch or build what is needed.
    """
    if machine not in ARCHITECTURES:
        raise AgentComponentError(f"unknown machine {machine!r}; expected {' or '.join(ARCHITECTURES)}")
    own = version("linewatch")
    check_identity(name, own)
    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory(prefix="linewatch-agent-") as scratch:
        wheels = Path(scratch)
        progress("building linewatch", 0, 3)
        _own_wheel(wheel, wheels)
        progress(f"fetching wheels for {machine}", 1, 3)
        _fetch(agent_requirements(), machine, wheels)
        for path in sorted(wheels.glob("*.whl")):
            files[f"wheels/{path.name}"] = path.read_bytes()
    progress("writing the component", 2, 3)
    files["requirements.txt"] = _requirements({n.removeprefix("wheels/"): d for n, d in files.items()}).encode()
    files["VERSION"] = own.encode()
    for script in ("install.sh", "run.sh"):
        files[script] = (_HERE / "device" / script).read_bytes()
    files["lookoutvision_edge_agent/protos/edge-agent.proto"] = _proto().read_bytes()
    if python is not None:
        files["python.tar.gz"] = python.read_bytes()
    digest = hashlib.sha256(b"".join(hashlib.sha256(data).digest() for _, data in sorted(files.items()))).hexdigest()[:12]

    def write_artifact(path: Path) -> None:
        zip_files(path, sorted(files.items()), zipfile.ZIP_STORED)  # wheels are compressed already

    done = finish_component(folder, Identity(name, own), ARCHITECTURES[machine], f"{digest}_linewatch_edge_agent", write_artifact,
                            recipe="agent", location=location)  # fmt: skip
    progress("writing the component", 3, 3)
    return done


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
    root = _HERE.parent
    if not (root / "pyproject.toml").is_file():
        raise AgentComponentError("linewatch runs from an installation, not from its source tree: name its wheel with --wheel FILE")
    run_pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(root))


def _fetch(wanted: Mapping[str, str], machine: str, folder: Path) -> None:
    major, newest = _OLDEST_GLIBC
    platforms = [f"manylinux_{major}_{minor}_{machine}" for minor in range(newest, 4, -1)]
    platforms += [f"{legacy}_{machine}" for legacy in ("manylinux2014", "manylinux2010", "manylinux1")]
    flags = [flag for name in platforms for flag in ("--platform", name)]
    base = ["download", "--only-binary", ":all:", "--python-version", PYTHON, "--implementation", "cp", *flags, "--dest", str(folder)]
    absent = []
    for name, pin in wanted.items():
        try:
            run_pip(*base, "--no-deps", f"{name}=={pin}")
        except ToolError:
            absent.append(name)
    if not absent:
        return
    # A release that is newer than the oldest systems has no wheel for them: the newest one that has is taken, with its needs.
    pins = folder / "pins.txt"
    pins.write_text("".join(f"{name}=={pin}\n" for name, pin in wanted.items() if name not in absent))
    ranges: dict[str, Requirement] = {canonicalize_name(r.name): r for r in map(Requirement, requires("linewatch") or [])}
    run_pip(*base, "--constraint", str(pins), *(f"{name}{ranges[name].specifier}" if name in ranges else name for name in absent))


def _requirements(wheels: Mapping[str, bytes]) -> str:
    """One line a wheel, with its hash: what is installed is what was packed."""
    lines = []
    for name, data in sorted(wheels.items()):
        distribution, pin = name.split("-")[:2]
        lines.append(f"{re.sub(r'[-_.]+', '-', distribution).lower()}=={pin} --hash=sha256:{hashlib.sha256(data).hexdigest()}\n")
    return "".join(lines)


def _proto() -> Path:
    for path in (_HERE.parent / "protos" / "edge-agent.proto", _HERE.parent / "edge_agent" / "protos" / "edge-agent.proto"):
        if path.is_file():
            return path
    raise AgentComponentError("edge-agent.proto was not found; install linewatch again")
