"""Programs that the agent's benchmark times beside it: a camera program in C++, and MLServer."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.processes import free_port, resident_tree_mib

ROOT = Path(__file__).parents[1]
_PEER = Path(__file__).parent / "mlserver_peer"


def build_camera_program(folder: Path) -> Path | None:
    """`agent_client.cc`, compiled with the system's gRPC; None where a tool is missing."""
    tools = {name: shutil.which(name) for name in ("grpc_cpp_plugin", "protoc", "g++", "pkg-config")}
    plugin, protoc, compiler, pkg_config = tools.values()
    if not (plugin and protoc and compiler and pkg_config):
        return None
    proto = ROOT / "protos" / "edge-agent.proto"
    outputs = [f"--cpp_out={folder}", f"--grpc_out={folder}", f"--plugin=protoc-gen-grpc={plugin}"]
    subprocess.run([protoc, f"-I{proto.parent}", *outputs, str(proto)], check=True)
    flags = subprocess.run([pkg_config, "--cflags", "--libs", "grpc++", "protobuf"], capture_output=True, text=True, check=True).stdout.split()
    sources = [str(Path(__file__).with_name("agent_client.cc")), str(folder / "edge-agent.pb.cc"), str(folder / "edge-agent.grpc.pb.cc")]
    program = folder / "agent_client"
    subprocess.run([compiler, "-O2", f"-I{folder}", *sources, *flags, "-o", str(program)], check=True)
    return program


def camera_times(
    program: Path, address: str, model: str, segment: str, size: tuple[int, int], *, calls: int = 1_000_000, pace_ms: float = 0, seconds: float = 300
) -> list[float]:
    """Milliseconds of each of its calls, so many or for so long; the segment holds a width x height picture, and behind it room for a mask."""
    width, height = size
    command = [str(program), address, model, str(width), str(height), segment, str(calls), str(pace_ms), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return [float(line) for line in done.stdout.split()]


@contextlib.contextmanager
def _running_mlserver(program: Path, model: Path, folder: Path) -> Iterator[tuple[str, int]]:
    """Its gRPC address and process."""
    port = free_port()
    (folder / "settings.json").write_text(json.dumps({
        "debug": False, "host": "127.0.0.1", "grpc_port": port, "http_port": free_port(), "metrics_port": free_port(), "parallel_workers": 0,
        "grpc_max_message_length": 64 * 1024 * 1024, "logging_settings": None,
    }))  # fmt: skip
    (folder / "model-settings.json").write_text(json.dumps({"name": "peer", "implementation": "runtime.AnomalyRuntime"}))
    shutil.copy(_PEER / "runtime.py", folder)
    environment = {**os.environ, "PEER_MODEL": str(model), "PYTHONPATH": str(folder)}
    process = subprocess.Popen([str(program), "start", str(folder)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)  # fmt: skip
    try:
        yield f"127.0.0.1:{port}", process.pid
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def mlserver_times(program: Path, model: bytes, picture: np.ndarray, calls: int) -> tuple[list[float], float]:
    """Milliseconds of each call to MLServer, hosting this graph, by its own client; and the resident MiB of all its processes.

    The model runs in the server itself (parallel_workers 0), which is a third faster than in a process beside it.

    Args:
        program: `mlserver`, in an environment of its own that has onnxruntime and pillow as well, and uvloop < 0.22, which it needs.
        model: the ONNX graph.
        picture: height x width x 3 uint8.
        calls: how many, one after the other.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "model.onnx").write_bytes(model)
        np.save(folder / "picture.npy", picture)
        with _running_mlserver(program, folder / "model.onnx", folder) as (address, pid):
            command = [str(program.with_name("python")), str(_PEER / "client.py"), address, str(folder / "picture.npy"), str(calls)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
            if done.returncode:
                raise RuntimeError(f"MLServer's client failed: {done.stderr[-500:]}")
            return [float(line) for line in done.stdout.split()], resident_tree_mib(pid)
