"""What `linewatch doctor` says of the machine and of an agent's socket; what it says of bundles is in `checkup`."""

import grp
import os
import pwd
import shutil
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.anomaly_model.runtime_tvm import cpu_flags, host_target
from linewatch.edge_agent.memory import available_mib

_LIBRARIES = ("grpc", "grpc_health", "hpack", "google.protobuf", "awsiot", "prometheus_client", "structlog", "tvm_ffi", "onnxruntime")
_NVIDIA = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu/igpu0")
_FREE_MIB, _DISK_MIB = 300, 200


@dataclass(frozen=True, slots=True)
class Finding:
    """One check."""

    check: str
    ok: bool
    found: str


def examine_machine(folder: Path) -> Iterator[Finding]:
    """Python, CPU, GPU, memory, disk below `folder`, confinement, libraries."""
    vectors = [name for name in ("avx512f", "avx2", "fma", "neon", "asimd") if name in cpu_flags()]
    yield Finding("Python", sys.version_info >= (3, 11), sys.version.split()[0])
    yield Finding("CPU", bool(vectors), f"{host_target()}, {os.cpu_count()} cores, {' '.join(vectors) or 'no known vectors'}")
    yield _gpu()
    shared = os.access("/dev/shm", os.R_OK | os.W_OK)
    yield Finding("shared memory", shared, "/dev/shm is writable" if shared else "/dev/shm is missing or not writable")
    yield _memory()
    yield _disk(folder)
    confined = Path("/proc/sys/kernel/seccomp").exists()
    yield Finding("confinement", True, "workers can be confined (seccomp)" if confined else "this kernel has no seccomp: workers run unconfined")
    yield from map(_installed, _LIBRARIES)


def _gpu() -> Finding:
    device = next((path for path in _NVIDIA if Path(path).exists()), None)
    if device is None:
        return Finding("GPU", True, "none; the CPU is used")
    if not os.access(device, os.R_OK | os.W_OK):
        return Finding("GPU", False, f"{device} may not be opened by this user; add it to the group video")
    if find_spec("onnxruntime") is not None:
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            return Finding("GPU", True, f"{device}, and ONNX Runtime can use it")
    return Finding("GPU", True, f"{device}, which nothing installed can use: onnxruntime-gpu is missing; the CPU is used")


def _memory() -> Finding:
    free = available_mib()
    if free is None:
        return Finding("memory", True, "not known")
    return Finding("memory", free >= _FREE_MIB, f"{free} MiB available; a model needs up to {_FREE_MIB}")


def _disk(folder: Path) -> Finding:
    try:
        free = shutil.disk_usage(folder).free // 2**20
    except OSError as error:
        return Finding("disk", False, f"{folder}: {error.strerror}")
    return Finding("disk", free >= _DISK_MIB, f"{free} MiB free at {folder.resolve()}; {_DISK_MIB} are wanted for models and results")


def _installed(module: str) -> Finding:
    there = _is_there(module)
    return Finding(module, there, "installed" if there else "missing: pip install 'linewatch[agent]'")


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is missing
        return False


def examine_socket(address: str) -> Iterator[Finding]:
    """Whether this user can call the agent on a socket, and whether it answers."""
    from linewatch.edge_agent.api.sockets import socket_path
    from linewatch.edge_agent.client import AgentClient

    try:
        path = socket_path(address)
    except LinewatchError as error:
        yield Finding("socket", False, str(error))
        return
    if path is not None:
        finding = _permissions(path)
        yield finding
        if not finding.ok:
            return
    try:
        with AgentClient(address, timeout_s=5) as client:
            models = {m.model_component: m.status_message for m in client.models()}
    except LinewatchError as error:
        yield Finding("agent", False, str(error))
        return
    yield Finding("agent", True, f"answers; models: {', '.join(sorted(models)) or 'none'}")


def _permissions(path: Path) -> Finding:
    try:
        status = path.stat()
    except OSError as error:
        return Finding("socket", False, f"{path}: {error.strerror}; is the agent running?")
    if not stat.S_ISSOCK(status.st_mode):
        return Finding("socket", False, f"{path} is not a socket")
    mode, owner, group = f"{stat.S_IMODE(status.st_mode):04o}", _name(pwd.getpwuid, status.st_uid), _name(grp.getgrgid, status.st_gid)
    may = os.access(path, os.W_OK)
    hint = "" if may else f"; this user may not connect: add it to the group {group}, or see the agent's settings socket_mode and socket_group"
    return Finding("socket", may, f"{path}, mode {mode}, {owner}:{group}{hint}")


def _name(lookup: object, number: int) -> str:
    try:
        return str(lookup(number)[0])  # type: ignore[operator]
    except KeyError:
        return str(number)
