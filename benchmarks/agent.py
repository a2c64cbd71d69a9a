"""What a DetectAnomalies call costs beside the raw model call, and what the agent takes; all in one run.

Pictures of 1280 x 720, one thread for each model, a real model (filter bank and U-Net, four classes, with masks). Two ways of calling:
`back to back`, and `paced`, with a pause of 10 ms before each call, as cameras make it: a processor that has rested answers later,
whoever asks. Kinds of calls take turns in blocks, so that what else the machine does falls on all of them.

  overhead   DetectAnomalies by shared memory, with a mask, less (preprocessing + compiled call), with one client: a camera program in
             C++ where it can be compiled, else Python. `preprocessing` is the reference, `to_model_input`; the agent's is compiled, and
             the overhead beside that one is given too. p99 is the difference of both sides' p99.
  throughput four clients against the bare runtime: resize and model in a loop without anything around it, in as many processes of one
             thread each as the agent has workers (setting concurrency).
  start      from StartModel to RUNNING.
  recovery   from the end of a worker by SIGKILL to the answer of the next call, which waits for the new worker.
  memory     resident: the agent before any model was started, and a worker after its calls.

Bars (exit code 1 when one is missed): overhead 0.7 ms p50 and 2 ms p99, throughput 0.95, start 3 s, recovery 1 s, agent 60 MiB, worker
250 MiB, compiled code 1.05 of ONNX Runtime. With --mlserver PROGRAM the same pictures go through MLServer hosting the same graph.
"""

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.peers import build_camera_program, camera_times, mlserver_times
from benchmarks.processes import children, resident_mib, run_together
from linewatch.anomaly_model.bundle import Bundle, open_bundle
from linewatch.anomaly_model.picture import Rgb, to_model_input
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.anomaly_model.runtime_tvm import TvmRuntime
from linewatch.commands.demo import running_agent
from linewatch.commands.drawn.part_set import PartSet
from linewatch.commands.drawn.writing import write_set
from linewatch.edge_agent.client import AgentClient, SharedFrame
from linewatch.edge_agent.protos import edge_agent_pb2 as pb

WIDTH, HEIGHT = 1280, 720
BLOCK = 25
BARS = {"overhead_p50_ms": 0.7, "overhead_p99_ms": 2.0, "start_seconds": 3.0, "recovery_seconds": 1.0, "idle_rss_mb": 60.0, "model_rss_mb": 250.0,
        "tvm_over_onnxruntime": 1.05}  # fmt: skip
BARE = """
import sys, time, numpy as np
from pathlib import Path
from linewatch.anomaly_model.bundle import open_bundle
from linewatch.anomaly_model.runtime_tvm import TvmRuntime, leave_torch_out
leave_torch_out()
runtime, picture, seconds = TvmRuntime(open_bundle(Path(sys.argv[1]))), np.load(sys.argv[2]), float(sys.argv[3])
for _ in range(20):
    runtime.run(runtime.prepare(picture))
print("ready", flush=True); sys.stdin.readline()
count, begun = 0, time.perf_counter()
while time.perf_counter() - begun < seconds:
    runtime.run(runtime.prepare(picture)); count += 1
print(count / (time.perf_counter() - begun))
"""


def make_model(folder: Path) -> Path:
    """A real model: trained on drawn parts and packaged."""
    from linewatch.packager.package import package
    from linewatch.packager.targets import find_target
    from linewatch.training.data.reading import read_dataset
    from linewatch.training.options import TrainingOptions
    from linewatch.training.train import train

    write_set(folder / "parts", PartSet(30, 30, 0, 0))
    bundle = train(read_dataset(folder / "parts" / "train"), folder / "bundle", TrainingOptions(name="bench")).bundle
    package(bundle, find_target("x86_64-cpu"), folder / "package")
    return folder / "package"


def enlarge(picture: Rgb) -> Rgb:
    """A drawn part at the size of a camera's frame: real content, so that masks are as busy as on the line."""
    return np.asarray(Image.fromarray(picture).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


class Calls:
    """The kinds of calls that are timed, and their times in milliseconds."""

    def __init__(self, bundle: Bundle, client: AgentClient, address: str, camera: Path | None) -> None:
        self._client, self._address, self._camera, self._model = client, address, camera, bundle.manifest.served_as
        self._reference, self._compiled = OnnxRuntime(bundle.read("model.onnx")), TvmRuntime(bundle)
        self._spec = bundle.manifest.input
        self.picture = enlarge(next(iter(PartSet(0, 1, 0, 0))).picture)
        self.ready = to_model_input(self.picture, self._spec)
        size = self.picture.nbytes
        self.frame = SharedFrame()
        self.frame.write(self.picture)
        bitmap = pb.Bitmap(width=WIDTH, height=HEIGHT, shared_memory_handle=pb.SharedMemoryHandle(name=self.frame.name, size=size))
        self._shared = pb.DetectAnomaliesRequest(model_component=self._model, bitmap=bitmap)
        self._shared.anomaly_mask_params.shared_memory_handle.CopyFrom(pb.SharedMemoryHandle(name=self.frame.name, size=size, offset=size))
        self._bytes = pb.DetectAnomaliesRequest(
            model_component=self._model, bitmap=pb.Bitmap(width=WIDTH, height=HEIGHT, byte_data=self.picture.tobytes())
        )
        self.times: dict[str, list[float]] = {}

    def kinds(self) -> dict[str, Callable[[], object]]:
        return {
            "onnxruntime": lambda: self._reference.run_arrays(self.ready),
            "tvm": lambda: self._compiled.run_arrays(self.ready),
            "preprocessing": lambda: to_model_input(self.picture, self._spec),
            "preprocessing_compiled": lambda: self._compiled.prepare(self.picture),
            "preprocessing_and_tvm": lambda: self._compiled.run(to_model_input(self.picture, self._spec)),
            "preprocessing_compiled_and_tvm": lambda: self._compiled.run(self._compiled.prepare(self.picture)),
            "detect_shared_memory_python": lambda: self._client.call("DetectAnomalies", self._shared),
            "detect_bytes_python": lambda: self._client.call("DetectAnomalies", self._bytes),
        }

    def run(self, rounds: int, pace_ms: float) -> dict[str, np.ndarray]:
        """Blocks of each kind in turn; the first block warms up and is not counted."""
        times: dict[str, list[float]] = {}
        for block in range(rounds // BLOCK + 1):
            for name, call in self.kinds().items():
                found = [self._timed(call, pace_ms) for _ in range(BLOCK)]
                if block:
                    times.setdefault(name, []).extend(found)
            if self._camera is not None:
                found = camera_times(self._camera, self._address, self._model, self.frame.name, (WIDTH, HEIGHT),
                                     calls=BLOCK + 5, pace_ms=pace_ms)[5:]  # fmt: skip
                if block:
                    times.setdefault("detect_shared_memory_cpp", []).extend(found)
        return {name: np.array(values) for name, values in times.items()}

    @staticmethod
    def _timed(call: Callable[[], object], pace_ms: float) -> float:
        if pace_ms:
            time.sleep(pace_ms / 1e3)
        begun = time.perf_counter()
        call()
        return (time.perf_counter() - begun) * 1e3


def overheads(times: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """By client and baseline: p50 and p99 in milliseconds."""
    found = {}
    for client in ("cpp", "python"):
        calls = times.get(f"detect_shared_memory_{client}")
        for baseline in ("preprocessing_and_tvm", "preprocessing_compiled_and_tvm"):
            if calls is not None:
                found[f"{client}_over_{baseline}"] = {
                    f"p{q}": round(float(np.quantile(calls, q / 100) - np.quantile(times[baseline], q / 100)), 3) for q in (50, 99)
                }
    return found


def bare_rate(bundle: Path, picture: Path, processes: int, seconds: float) -> float:
    """Pictures a second of the runtime alone, in some processes together."""
    return sum(run_together(BARE, [str(bundle), str(picture), str(seconds)], processes))


def agent_rate(address: str, model: str, picture: Rgb, clients: int, seconds: float, camera: Path | None) -> float:
    """Pictures a second that some clients together get answered by shared memory, all of them for as long."""
    rates = [0.0] * clients

    def python_client(i: int) -> None:
        with AgentClient(address) as client:
            count, begun = 0, time.perf_counter()
            while time.perf_counter() - begun < seconds:
                client.detect(picture, model)
                count += 1
            rates[i] = count / (time.perf_counter() - begun)

    def camera_client(i: int) -> None:
        assert camera is not None
        frame = SharedFrame()
        frame.write(picture)
        times = camera_times(camera, address, model, frame.name, (WIDTH, HEIGHT), seconds=seconds)
        rates[i] = len(times) / (sum(times) / 1e3)
        frame.close()

    threads = [threading.Thread(target=camera_client if camera else python_client, args=(i,)) for i in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


def throughput(folder: Path, picture: Rgb, seconds: float, camera: Path | None) -> dict[str, dict[str, float]]:
    """For one worker and for two: the bare runtime's rate before and after, the agent's, and their ratio."""
    bundle = open_bundle(folder / "bundle")
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "picture.npy"
        np.save(path, picture)
        for workers in (1, 2):
            before = bare_rate(folder / "bundle", path, workers, seconds)
            os.environ["LINEWATCH_AGENT_CONCURRENCY"] = str(workers)
            with running_agent(folder) as address, AgentClient(address) as client:
                client.wait_until_listening(30)
                client.start(bundle.manifest.served_as)
                rate = agent_rate(address, bundle.manifest.served_as, picture, 4, seconds, camera)
            del os.environ["LINEWATCH_AGENT_CONCURRENCY"]
            bare = (before + bare_rate(folder / "bundle", path, workers, seconds)) / 2
            found[f"workers_{workers}"] = {"bare_per_s": round(bare, 1), "agent_per_s": round(rate, 1), "ratio": round(rate / bare, 3)}
    return found


def start_seconds(client: AgentClient, model: str, times: int = 5) -> float:
    """Median of some starts."""
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        client.start(model)
        found.append(time.perf_counter() - begun)
        client.stop(model)
    return float(np.median(found))


def recovery_seconds(client: AgentClient, model: str, agent: int, picture: Rgb, times: int = 3) -> float:
    """Median of some; more than three a minute are not started again."""
    found = []
    for _ in range(times):
        client.detect(picture, model)
        [worker] = children(agent, "linewatch.edge_agent.workers.worker")
        os.kill(worker, signal.SIGKILL)
        begun = time.perf_counter()
        client.detect(picture, model)
        found.append(time.perf_counter() - begun)
    return float(np.median(found))


def summary(times: dict[str, np.ndarray], quantile: float) -> dict[str, float]:
    return {name: round(float(np.quantile(values, quantile)), 2) for name, values in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--package", type=Path, help="folder of a packaged model; default: train one on drawn parts")
    parser.add_argument("--rounds", type=int, default=300, help="calls of each kind, paced and back to back")
    parser.add_argument("--pace-ms", type=float, default=10, help="pause before each paced call")
    parser.add_argument("--seconds", type=float, default=15, help="of each measurement of throughput")
    parser.add_argument("--mlserver", type=Path, help="mlserver's program, in an environment of its own with onnxruntime, pillow and uvloop<0.22")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.package or make_model(Path(scratch))
        camera = build_camera_program(Path(scratch))
        bundle = open_bundle(folder / "bundle")
        model = bundle.manifest.served_as
        with running_agent(folder) as address, AgentClient(address) as client:
            client.wait_until_listening(30)
            [agent] = children(os.getpid(), address)
            time.sleep(3)
            idle = resident_mib(agent)
            started = start_seconds(client, model)
            client.start(model)
            calls = Calls(bundle, client, address, camera)
            paced, tight = calls.run(arguments.rounds, arguments.pace_ms), calls.run(arguments.rounds, 0)
            [worker] = children(agent, "linewatch.edge_agent.workers.worker")
            memory = {"agent_with_a_model_mib": round(resident_mib(agent), 1), "model_rss_mb": round(resident_mib(worker), 1)}
            peer = mlserver_times(arguments.mlserver, bundle.read("model.onnx"), calls.picture, 120) if arguments.mlserver else None
            recovered = recovery_seconds(client, model, agent, calls.picture)
            calls.frame.close()
        rates = throughput(folder, calls.picture, arguments.seconds, camera)
    back_to_back = overheads(tight)
    chosen = back_to_back[f"{'cpp' if camera else 'python'}_over_preprocessing_and_tvm"]
    ratio = float(np.median(paced["tvm"]) / np.median(paced["onnxruntime"]))
    figures: dict[str, object] = {
        "overhead_p50_ms": chosen["p50"], "overhead_p99_ms": chosen["p99"], "throughput_ratio": max(r["ratio"] for r in rates.values()),
        "start_seconds": round(started, 2), "recovery_seconds": round(recovered, 2), "idle_rss_mb": round(idle, 1), **memory,
        "tvm_over_onnxruntime": round(ratio, 3),
        "picture": f"{WIDTH}x{HEIGHT}", "input": f"{bundle.manifest.input.width}x{bundle.manifest.input.height}", "rounds": arguments.rounds,
        "machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "client": "C++" if camera else "Python",
        "overhead_back_to_back_ms": back_to_back, "overhead_paced_ms": overheads(paced), "throughput": rates,
        "back_to_back_p50_ms": summary(tight, 0.5), "back_to_back_p99_ms": summary(tight, 0.99),
        "paced_p50_ms": summary(paced, 0.5), "paced_p99_ms": summary(paced, 0.99),
    }  # fmt: skip
    if peer is not None:
        figures["mlserver"] = {"p50_ms": round(float(np.median(peer[0][20:])), 2), "p99_ms": round(float(np.quantile(peer[0][20:], 0.99)), 2),
                               "resident_mib": round(peer[1], 1)}  # fmt: skip
    holds = {f"{name} <= {bar}": float(figures[name]) <= bar for name, bar in BARS.items()}  # type: ignore[arg-type]
    holds["throughput_ratio >= 0.95"] = float(figures["throughput_ratio"]) >= 0.95  # type: ignore[arg-type]
    figures["holds"] = holds
    text = json.dumps(figures, indent=2)
    print(text)
    if arguments.json:
        arguments.json.write_text(text + "\n")
    return 0 if all(holds.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
