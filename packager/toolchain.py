"""Programs and libraries for other architectures: cross linker, emulator, and TVM's device runtime."""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import zipfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.anomaly_model.files import replace_file
from linewatch.packager.child import ChildError, run_module

RUNTIME = "libtvm_runtime.so"
FFI = "libtvm_ffi.so"
_WHEELS = {RUNTIME: "apache-tvm", FFI: "apache-tvm-ffi"}
_PLATFORMS = {"aarch64": "manylinux_2_28_aarch64", "x86_64": "manylinux_2_28_x86_64"}
_LARGEST = 64 << 20


class ToolError(LinewatchError):
    """A program or library that packaging for a platform needs is missing."""


def compiler(machine: str) -> str:
    """The C compiler that links for an architecture.

    Raises:
        ToolError: says what to install.
    """
    names = [f"{machine}-linux-gnu-gcc", *(["gcc", "cc"] if machine == platform.machine() else [])]
    for name in names:
        if path := shutil.which(name):
            return path
    package = f"gcc-{machine.replace('_', '-')}-linux-gnu"
    raise ToolError(f"no C compiler for {machine}: looked for {', '.join(names)}; install it, on Debian: apt-get install {package}")


def emulator(machine: str) -> list[str] | None:
    """The command that runs a program of another architecture; empty on that architecture itself, None without one."""
    if machine == platform.machine():
        return []
    for name in (f"qemu-{machine}-static", f"qemu-{machine}"):
        path = shutil.which(name)
        root = Path(f"/usr/{machine}-linux-gnu")
        if path and root.is_dir():
            return [path, "-L", str(root)]
    return None


def cache_folder() -> Path:
    """Where downloaded and measured things are kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "linewatch"


def runtime_library(machine: str, name: str = RUNTIME) -> bytes:
    """A library of TVM's device runtime: from the installed package, or fetched once for another architecture.

    Raises:
        ToolError: it can be had from nowhere.
    """
    distribution = _WHEELS[name]
    if machine == platform.machine():
        return _installed(name)
    kept = cache_folder() / "runtime" / f"{distribution}-{version(distribution)}-{machine}" / name
    if not kept.is_file():
        replace_file(kept, _fetched(distribution, name, machine))
    return kept.read_bytes()


def _installed(name: str) -> bytes:
    package = {RUNTIME: "tvm", FFI: "tvm_ffi"}[name]
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = Path(place) / "lib" / name
        if path.is_file():
            return path.read_bytes()
    raise ToolError(f"{name} was not found in {package}; install it with: pip install 'linewatch[packager]'")


def _fetched(distribution: str, name: str, machine: str) -> bytes:
    """From the wheel of the same version for another architecture, which pip finds where it finds others.

    Raises:
        ToolError: pip cannot download the wheel, or it does not hold the file.
    """
    wanted = f"{distribution}=={version(distribution)}"
    with tempfile.TemporaryDirectory(prefix="linewatch-runtime-") as folder:
        try:
            run_pip("download", "--no-deps", "--only-binary", ":all:", "--platform", _PLATFORMS[machine], "--python-version", "3.11",
                    "--dest", folder, wanted)  # fmt: skip
        except ToolError as error:
            raise ToolError(
                f"{name} for {machine} is needed once, from {wanted}: {error}. Packaging for {machine} on a machine without a network: "
                f"copy {cache_folder() / 'runtime'} from one that has done it"
            ) from error
        [wheel] = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for entry in archive.infolist():
                if Path(entry.filename).name == name and entry.file_size <= _LARGEST:
                    return archive.read(entry)
    raise ToolError(f"{wanted} for {machine} holds no {name}")


def run_pip(*arguments: str) -> None:
    """One pip command.

    Raises:
        ToolError: with the end of what pip said.
    """
    try:
        run_module("pip", *arguments[:1], "--quiet", "--disable-pip-version-check", *arguments[1:], timeout_s=900)
    except ChildError as error:
        raise ToolError(f"pip {arguments[0]} failed: {error}") from error


def built_runner(machine: str) -> Path:
    """`runner/run_model.c` for an architecture, beside TVM's two libraries; built once for each version of its parts.

    Raises:
        ToolError: no compiler, or it failed.
    """
    source = Path(__file__).parent / "runner" / "run_model.c"
    libraries = {name: runtime_library(machine, name) for name in (RUNTIME, FFI)}
    digest = hashlib.sha256(b"".join([source.read_bytes(), *libraries.values()])).hexdigest()[:12]
    folder = cache_folder() / "runner" / f"{machine}-{digest}"
    program = folder / "run_model"
    if program.is_file():
        return program
    spec = find_spec("tvm_ffi")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    headers = Path(spec.submodule_search_locations[0]) / "include"
    for name, data in libraries.items():
        replace_file(folder / name, data)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        built = Path(scratch) / "run_model"
        command = [compiler(machine), "-std=c11", "-O1", f"-I{headers}", str(source), f"-L{folder}", "-ltvm_ffi", "-ldl",
                   "-Wl,-rpath,$ORIGIN", "-o", str(built)]  # fmt: skip
        result = subprocess.run(command, capture_output=True, timeout=120, check=False)
        if result.returncode:
            raise ToolError(f"the runner for {machine} could not be built: {result.stderr.decode(errors='replace')[-500:]}")
        built.replace(program)
    return program
