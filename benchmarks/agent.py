"""What a DetectAnomalies call costs beside the raw model call: ONNX Runtime, TVM, shared memory, bytes.

In one run, on one model and 1280 x 720 pictures, one thread, in turns, each call after the same pause: cameras pause
between pictures, and a processor that has rested answers later, whoever asks. Two bars:
  TVM <= 1.05 x ONNX Runtime (median of pairs), and
  DetectAnomalies by shared memory <= TVM call + preprocessing + 1.5 ms at p50.
`preprocessing` is the reference (Pillow); the agent uses the compiled resize, which is timed beside it.
Exit code 1 when one of them does not hold.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from anomaly_model.bundle import Bundle, open_bundle
from anomaly_model.picture import Rgb, to_model_input
from anomaly_model.runtime_onnx import OnnxRuntime
from anomaly_model.runtime_tvm import TvmRuntime
from edge_agent.client import AgentClient, SharedFrame
from edge_agent.protos import edge_agent_pb2 as pb
from linewatch.demo import running_agent
from linewatch.drawn_parts import PartSet, write_set

WIDTH, HEIGHT = 1280, 720


def make_model(folder: Path) -> Path:
    """A real model: trained on drawn parts and packaged."""
    from anomaly_model.targets import find_target
    from packager.package import package
    from training.dataset import read_dataset
    from training.options import TrainingOptions
    from training.train import train

    write_set(folder / "parts", PartSet(30, 30, 0, 0))
    bundle = train(read_dataset(folder / "parts" / "train"), folder / "bundle", TrainingOptions(name="bench")).bundle
    package(bundle, find_target("x86_64-cpu"), folder / "package")
    return folder / "package"


def enlarge(picture: Rgb) -> Rgb:
    """A drawn part at the size of a camera's frame: real content, so that masks are as busy as on the line."""
    return np.asarray(Image.fromarray(picture).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def child_pids(parent: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


def resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def agent_memory() -> dict[str, float]:
    """Resident memory of the agent that this process started, and of its worker."""
    [agent] = [p for p in child_pids(os.getpid()) if b"agent" in Path(f"/proc/{p}/cmdline").read_bytes()]
    [worker] = child_pids(agent)
    return {"agent_mib": round(resident_mib(agent), 1), "worker_mib": round(resident_mib(worker), 1)}


def measure(bundle: Bundle, client: AgentClient, model: str, rounds: int, pace: float) -> dict[str, np.ndarray]:
    pictures = [enlarge(part.picture) for part in PartSet(2, 2, 0, 0)]
    size = pictures[0].nbytes
    reference, compiled = OnnxRuntime(bundle.read("model.onnx")), TvmRuntime(bundle)
    frame = SharedFrame()
    handle = pb.SharedMemoryHandle(name=frame.name, size=size)
    shared = pb.DetectAnomaliesRequest(
        model_component=model, bitmap=pb.Bitmap(width=WIDTH, height=HEIGHT, shared_memory_handle=handle)
    )
    shared.anomaly_mask_params.shared_memory_handle.CopyFrom(pb.SharedMemoryHandle(name=frame.name, size=size, offset=size))
    spec = bundle.manifest.input
    times: dict[str, list[float]] = {}

    def timed(name: str, call: Callable[[], object]) -> None:
        time.sleep(pace)
        begun = time.perf_counter()
        call()
        times.setdefault(name, []).append((time.perf_counter() - begun) * 1e3)

    for i in range(rounds + 5):
        picture = pictures[i % len(pictures)]
        ready = to_model_input(picture, spec)
        by_bytes = pb.DetectAnomaliesRequest(
            model_component=model, bitmap=pb.Bitmap(width=WIDTH, height=HEIGHT, byte_data=picture.tobytes()))  # fmt: skip
        timed("onnxruntime", lambda r=ready: reference.run_arrays(r))
        timed("preprocessing", lambda p=picture: to_model_input(p, spec))
        timed("preprocessing_compiled", lambda p=picture: compiled.prepare(p))
        timed("tvm", lambda r=ready: compiled.run_arrays(r))
        frame.write(picture)
        timed("detect_shared_memory", lambda: client.call("DetectAnomalies", shared))
        timed("detect_bytes", lambda r=by_bytes: client.call("DetectAnomalies", r))
    frame.close()
    return {name: np.array(values[5:]) for name, values in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--package", type=Path, help="folder of a packaged model; default: train one on drawn parts")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--pace-ms", type=float, default=10, help="pause before each timed call, like a camera's")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.package or make_model(Path(scratch))
        bundle = open_bundle(folder / "bundle")
        model = bundle.manifest.model.name
        with running_agent(folder) as address, AgentClient(address) as client:
            client.wait_until_listening(30)
            client.start(model)
            times = measure(bundle, client, model, arguments.rounds, arguments.pace_ms / 1e3)
            memory = agent_memory()
    p50 = {name: float(np.median(values)) for name, values in times.items()}
    ratio = float(np.median(times["tvm"] / times["onnxruntime"]))
    overhead = p50["detect_shared_memory"] - p50["tvm"] - p50["preprocessing"]
    figures = {
        "picture": f"{WIDTH}x{HEIGHT}", "input": f"{bundle.manifest.input.width}x{bundle.manifest.input.height}",
        "rounds": arguments.rounds, "pace_ms": arguments.pace_ms, "machine": platform.processor() or platform.machine(), "cores": os.cpu_count(),
        "p50_ms": {n: round(v, 2) for n, v in p50.items()},
        "p99_ms": {n: round(float(np.quantile(v, 0.99)), 2) for n, v in times.items()},
        "tvm_over_onnxruntime": round(ratio, 3),
        "shared_memory_over_tvm": round(p50["detect_shared_memory"] / p50["tvm"], 3),
        "bytes_over_shared_memory": round(p50["detect_bytes"] / p50["detect_shared_memory"], 3),
        "shared_memory_overhead_ms": round(overhead, 2),
        "overhead_beside_compiled_preprocessing_ms": round(p50["detect_shared_memory"] - p50["tvm"] - p50["preprocessing_compiled"], 2), **memory,
        "agent_total_mib": round(sum(memory.values()), 1),
        "holds": {"tvm_at_most_1.05_of_onnxruntime": ratio <= 1.05, "overhead_at_most_1.5_ms": overhead <= 1.5},
    }  # fmt: skip
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    return 0 if all(figures["holds"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
