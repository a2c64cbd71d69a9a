"""Compiled code against ONNX Runtime and OpenVINO: every architecture that training exports, published nets, your own.

    python -m benchmarks.compile --json benchmarks/compile.json
    python -m benchmarks.compile --json out.json --onnx mine.onnx --onnx other.onnx

Each runtime has a process of its own for each net and number of threads; they take turns, a few calls each, so that all
see the same machine and none has another's threads beside it. A row's ratio is the median over turns. OpenVINO runs with
its default settings, which choose low precision where the processor is fast at it (which one is printed), and once more in
single precision, as the others. Exit code 1 when a bar is missed: geometric mean over ONNX
Runtime <= 0.95, no net above 1.10.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

BAR, WORST = 0.95, 1.10
TURNS, TURN_S = 15, 0.12
RUNTIMES = ("tvm", "onnxruntime", "openvino", "openvino-f32")


def opened(runtime: str, folder: Path, threads: int) -> tuple[Callable[[], list[np.ndarray]], str]:
    """A call of a model with a fixed picture, and what there is to say of the runtime."""
    picture = np.load(folder / "picture.npy")
    if runtime == "tvm":
        return _tvm(folder, picture)
    if runtime == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda: session.run(None, {name: picture}), f"onnxruntime {onnxruntime.__version__}"
    import openvino

    core = openvino.Core()
    settings: dict[str, object] = {"INFERENCE_NUM_THREADS": threads}
    if runtime == "openvino-f32":
        settings["INFERENCE_PRECISION_HINT"] = "f32"
    compiled = core.compile_model(str(folder / "model.onnx"), "CPU", settings)
    request = compiled.create_infer_request()
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    return lambda: [np.array(v) for v in request.infer([picture]).values()], f"openvino {openvino.__version__}, {precision}"


def _tvm(folder: Path, picture: np.ndarray) -> tuple[Callable[[], list[np.ndarray]], str]:
    import ctypes

    import tvm_ffi

    library = os.environ["TVM_RUNTIME_LIBRARY"]
    ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    machine = tvm_ffi.load_module(str(folder / "model.so"))["vm_load_executable"]()
    machine["vm_initialization"](1, 0, 2)
    raw = np.zeros(picture.nbytes + 64, np.uint8)
    aligned = raw[-raw.ctypes.data % 64 :][: picture.nbytes].view(picture.dtype).reshape(picture.shape)
    aligned[:] = picture
    tensor, main = tvm_ffi.from_dlpack(aligned), machine["main"]

    def call() -> list[np.ndarray]:
        result = main(tensor)
        return [np.from_dlpack(t) for t in ([result] if isinstance(result, tvm_ffi.Tensor) else result)]

    return call, "apache-tvm"


def child(runtime: str, folder: Path, threads: int) -> None:
    """Say what is running and the first answer, then time calls for as long as each line on standard input says."""
    call, said = opened(runtime, folder, threads)
    np.savez(folder / f"{runtime}.npz", *call())
    for _ in range(3):
        call()
    print(json.dumps(said), flush=True)
    for line in sys.stdin:
        until, times = time.perf_counter() + float(line), []
        while not times or time.perf_counter() < until:
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        print(json.dumps(float(np.median(times))), flush=True)


def compare(name: str, model: bytes, threads: int, folder: Path, library: bytes) -> dict[str, object]:
    """One row."""
    import onnxruntime

    (folder / "model.onnx").write_bytes(model)
    (folder / "model.so").write_bytes(library)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    source = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).get_inputs()[0]
    rng = np.random.default_rng(0)
    is_bytes = source.type == "tensor(uint8)"
    np.save(folder / "picture.npy", rng.integers(0, 256, source.shape, np.uint8) if is_bytes else rng.normal(size=source.shape).astype(np.float32))
    from linewatch.packager.toolchain import RUNTIME

    runtime = folder / RUNTIME
    environment = {**os.environ, "TVM_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads), "TVM_RUNTIME_LIBRARY": str(runtime)}
    children, said, times = {}, {}, {r: [] for r in RUNTIMES}
    try:
        for runtime_name in RUNTIMES:
            command = [sys.executable, __file__, "--child", runtime_name, str(folder), str(threads)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
            first = process.stdout.readline()
            if not first:
                process.wait()
                continue
            children[runtime_name], said[runtime_name] = process, json.loads(first)
        for missing in {"tvm", "onnxruntime"} - set(children):
            raise SystemExit(f"{name}: {missing} could not run; try: {sys.executable} {__file__} --child {missing} ...")
        for _ in range(TURNS):
            for runtime_name, process in children.items():
                process.stdin.write(f"{TURN_S}\n")
                process.stdin.flush()
                times[runtime_name].append(json.loads(process.stdout.readline()))
    finally:
        for process in children.values():
            process.stdin.close()
            process.wait(60)
    answers = {r: np.load(folder / f"{r}.npz") for r in children}
    difference = 0.0
    for key, right in answers["onnxruntime"].items():
        off = np.abs(answers["tvm"][key].reshape(-1) - right.reshape(-1)).max()
        difference = max(difference, float(off / max(np.ptp(right), np.abs(right).max(), 1e-6)))

    def ratio(other: str) -> float | None:
        if other not in children:
            return None
        return round(float(np.median(np.array(times["tvm"]) / np.array(times[other]))), 4)

    return {
        "net": name, "threads": threads, **{f"{r}_ms": round(float(np.median(times[r])) * 1e3, 3) if r in children else None for r in RUNTIMES},
        "over_onnxruntime": ratio("onnxruntime"), "over_openvino": ratio("openvino"), "over_openvino_f32": ratio("openvino-f32"),
        "difference": difference,
        "runtimes": said,
    }  # fmt: skip


def geomean(values: list[float]) -> float | None:
    return round(float(np.exp(np.mean(np.log(values)))), 4) if values else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--onnx", type=Path, action="append", default=[], help="a graph of yours, added to the others; may be given several times")
    parser.add_argument("--only", action="append", default=[], metavar="NET", help="only nets whose name holds this text")
    parser.add_argument("--threads", type=int, action="append", help="default: 1 and 2")
    parser.add_argument("--no-tune", action="store_true", help="choose schedules by the model of their cost")
    parser.add_argument("--isa", choices=("avx512", "avx2", "neon"), help="default: the best that this machine has")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    if "--child" in sys.argv:
        runtime, folder, threads = sys.argv[-3:]
        child(runtime, Path(folder), int(threads))
        return 0
    arguments = parser.parse_args()
    from benchmarks.exported import EXPORTED
    from benchmarks.nets import PUBLISHED
    from benchmarks.processes import this_machine
    from linewatch.anomaly_model.runtime_tvm import cpu_flags, host_target
    from linewatch.packager.compile import compile_model
    from linewatch.packager.plan import UnsupportedGraphError
    from linewatch.packager.plan.reading import of_one_picture
    from linewatch.packager.targets import find_target
    from linewatch.packager.toolchain import RUNTIME, runtime_library
    from linewatch.packager.tune import chooser, tune

    runnable = [isa for isa in find_target(host_target()).variants if cpu_flags().issuperset(isa.flags)]
    isa = next(i for i in runnable if arguments.isa in (None, i.name))
    nets: dict[str, Callable[[], bytes]] = {**EXPORTED, **PUBLISHED, **{p.name: p.read_bytes for p in arguments.onnx}}
    if arguments.only:
        nets = {name: make for name, make in nets.items() if any(text in name for text in arguments.only)}
    rows, refused = [], {}
    print(f"{'net':28} thr {'TVM ms':>9} {'ORT ms':>9} {'OV ms':>9} {'/ORT':>6} {'/OV':>6} {'/OV32':>6} {'differs':>8}  compiled", flush=True)
    for name, make in nets.items():
        model = of_one_picture(make())
        started = time.monotonic()
        try:
            log = {} if arguments.no_tune else tune(model, isa)
            library = compile_model(model, platform.machine(), isa, chooser(log))
        except UnsupportedGraphError as error:
            refused[name] = str(error)
            print(f"{name:28} not covered: {error}", flush=True)
            continue
        compiled = time.monotonic() - started
        for threads in arguments.threads or [1, 2]:
            with tempfile.TemporaryDirectory(prefix="linewatch-bench-") as folder:
                (Path(folder) / RUNTIME).write_bytes(runtime_library(platform.machine()))
                row = compare(name, model, threads, Path(folder), library)
            row["compile_seconds"] = round(compiled, 1)
            rows.append(row)
            beside = " ".join("     -" if row[k] is None else f"{row[k]:6.2f}" for k in ("over_openvino", "over_openvino_f32"))
            print(f"{name:28} {threads:3} {row['tvm_ms']:9.2f} {row['onnxruntime_ms']:9.2f} {row['openvino_ms'] or float('nan'):9.2f} "
                  f"{row['over_onnxruntime']:6.2f} {beside} {row['difference']:8.1e}  {compiled:.1f} s", flush=True)  # fmt: skip
    over = [row["over_onnxruntime"] for row in rows]
    result = {
        "geomean_over_onnxruntime": geomean(over),
        "geomean_over_openvino": geomean([row["over_openvino"] for row in rows if row["over_openvino"]]),
        "geomean_over_openvino_f32": geomean([row["over_openvino_f32"] for row in rows if row["over_openvino_f32"]]),
        "worst_over_onnxruntime": max(over, default=None), "isa": isa.name, "tuned": not arguments.no_tune,
        "machine": this_machine(), "rows": rows, "not_covered": refused,
    }  # fmt: skip
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(f"geometric mean over ONNX Runtime {result['geomean_over_onnxruntime']} (bar {BAR}), worst {result['worst_over_onnxruntime']} "
          f"(bar {WORST}); over OpenVINO {result['geomean_over_openvino']}, in single precision {result['geomean_over_openvino_f32']}")  # fmt: skip
    for said in sorted({s for row in rows for s in row["runtimes"].values()}):
        print(f"  {said}")
    held = rows and result["geomean_over_onnxruntime"] <= BAR and max(over) <= WORST
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
