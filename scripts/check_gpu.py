r"""Run on an NVIDIA GPU what Linewatch has for one, and compare it with the processor.

    python scripts/check_gpu.py component/bundle                 # everything
    python scripts/check_gpu.py component/bundle --parts code    # one part
    python scripts/check_gpu.py --parts fit train --json gpu.json

`code` and `kernels` take folders `bundle` of packages for a target with NVIDIA, made anywhere for the GPU of this machine:

    linewatch package BUNDLE -o component --target x86_64-nvidia \
        --compiler-options '{"gpu-code": "sm_90", "cuda-ver": "12.4", "trt-ver": "10.3.0"}'

They need no CUDA compiler and no TVM compiler here, and `code` no torch: the package's own libtvm_runtime.so, apache-tvm-ffi,
libtvm_runtime_cuda.so of apache-tvm (--cuda-runtime where that is not installed) and libcudart.so.13. Parts:

    device   what the driver says of the GPU; always
    code     GPU code on golden and drawn pictures: answers beside ONNX Runtime's and those stored at training, times beside compiled
             code for the processor and ONNX Runtime on it, one thread each, in turns
    kernels  what each CUDA kernel takes of a picture, by torch's profiler
    fit      the U-Net, whole and stopped half-way, and the discriminator, with CUDA, and with few steps of the U-Net with CUDA and without:
             how well they tell parts apart
    train    `linewatch train` on drawn parts, twice with CUDA and once without: what was chosen, how good it is, seconds

Each step runs in a process of its own, which is ended after --limit seconds. Prints as it goes; --json writes all of it. ONNX Runtime with
CUDA (onnxruntime-gpu) is not run here: `linewatch doctor BUNDLE` compares and times it where it is installed.
Exit code: 0 everything that was asked for ran and agreed, 1 something did not, 2 wrong arguments, 3 there is no NVIDIA GPU.
"""

import argparse
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PARTS = ("code", "kernels", "fit", "train")
NEED_BUNDLE = ("code", "kernels")
CUDA_RUNTIME = "libtvm_runtime_cuda.so"
NO_GPU = 3
WORSE = 0.03
"""Most by which an area under the ROC curve may be below the processor's: other roundings train another net."""
CPU_STEPS = 12
"""Of the U-Net on the processor, twice: half a minute."""
_TAIL = 1500

Json = dict[str, Any]


class StepError(Exception):
    """A process did not do its work; the text says how it ended, `code` is its exit code, None when it was ended."""

    def __init__(self, text: str, code: int | None) -> None:
        super().__init__(text)
        self.code = code


class Report:
    """What was found, printed and written as it comes: it is there even when the next step takes the machine down."""

    def __init__(self, path: Path | None) -> None:
        """`path` is the file to write, None for none."""
        self._path = path
        self.steps: dict[str, Json] = {}
        self.problems: list[str] = []

    def add(self, step: str, found: Json) -> None:
        """Keep a step's findings; its `problems` become the report's."""
        self.steps[step] = found
        self.problems += [f"{step}: {problem}" for problem in found.get("problems", [])]
        print(f"{step}: {json.dumps(found)}", flush=True)
        if self._path:
            self._path.write_text(json.dumps({"steps": self.steps, "problems": self.problems}, indent=1) + "\n")


def run_step(command: Sequence[str], limit_s: float, environment: Mapping[str, str] | None = None) -> Json:
    """Run a program that prints a JSON object.

    Args:
        command: with its arguments.
        limit_s: seconds after which it is ended with all that it started.
        environment: variables to set besides ours.

    Returns:
        The object, with `wall_s` and `processor_s` (seconds of the whole process), and `said`: lines on standard error.

    Raises:
        StepError: it took too long, failed, or printed something else.
    """
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, **(environment or {})}, start_new_session=True)
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:  # also when we are told to end
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        out.seek(0)
        err.seek(0)
        printed, said = out.read().decode(errors="replace"), err.read().decode(errors="replace").strip()
    if code is None:
        raise StepError(f"did not end within {limit_s:g} s; {said[-_TAIL:]}", None)
    if code:
        raise StepError(f"exit code {code}; {said[-_TAIL:]}", code)
    try:
        found = json.loads(printed)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise StepError(f"printed no JSON object: {printed[-_TAIL:]!r}; {said[-_TAIL:]}", 0)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**found, "wall_s": round(time.perf_counter() - begun, 2), "processor_s": round(processor, 2), "said": said.splitlines()[:5]}


def find_gpu(arguments: argparse.Namespace) -> Json:
    """The part `device`.

    Raises:
        StepError: there is no GPU (exit code `NO_GPU`), or the driver does not answer.
    """
    return run_step(_code("device", {}), arguments.limit)


def _code(part: str, parameters: Json) -> list[str]:
    return [sys.executable, "-P", str(HERE / "gpu_code.py"), part, json.dumps(parameters)]


def check_bundles(part: str, arguments: argparse.Namespace, report: Report) -> None:
    """The parts `code` and `kernels`, bundle by bundle."""
    for bundle in arguments.bundle:
        parameters = {"bundle": str(bundle), "cuda_runtime": str(arguments.cuda_runtime), "rounds": arguments.rounds}
        if part == "code":
            parameters["pictures"] = arguments.pictures
        report.add(f"{part} {bundle}", _guarded(_code(part, parameters), arguments.limit))


def _guarded(command: Sequence[str], limit_s: float, environment: Mapping[str, str] | None = None) -> Json:
    try:
        return run_step(command, limit_s, environment)
    except StepError as error:
        return {"problems": [str(error)]}


ON_CPU = {"CUDA_VISIBLE_DEVICES": ""}
"""Hides GPUs from a process."""


def check_fits(arguments: argparse.Namespace, report: Report) -> None:
    """The part `fit`."""
    runs = {"cuda": (arguments.steps, {}), "cuda, few steps": (arguments.cpu_steps, {}), "cpu, few steps": (arguments.cpu_steps, ON_CPU)}
    found = {}
    for label, (steps, environment) in runs.items():
        command = [sys.executable, "-P", str(HERE / "gpu_fit.py"), json.dumps({"pictures": arguments.pictures, "steps": steps})]
        found[label] = _guarded(command, arguments.limit, environment)
        report.add(f"fit {label}", found[label])
    if not any(result["problems"] for result in found.values()):
        problems = judge_resumed(found["cuda"], "with CUDA") + judge_fits(found["cuda, few steps"], found["cpu, few steps"])
        report.add("fit compared", {"problems": problems})


def judge_fits(cuda: Json, cpu: Json) -> list[str]:
    """What is wrong with fits on CUDA, beside those of as many steps on the processor."""
    problems = [] if cuda["device"].startswith("cuda") else [f"torch {cuda['torch']} took {cuda['device']}: it sees no CUDA"]
    aucs = {net: (cuda[net]["roc_auc"], cpu[net]["roc_auc"]) for net in ("unet", "discriminator")}
    problems += [f"{net}: ROC AUC {there} with CUDA, {here} without" for net, (there, here) in aucs.items() if not there >= here - WORSE]
    problems += judge_resumed(cuda, "with CUDA") + judge_resumed(cpu, "without CUDA")
    if cpu["unet"]["resumed_difference"]:
        problems.append(f"unet without CUDA: weights differ by {cpu['unet']['resumed_difference']:.2g} when it was stopped and went on")
    return problems


def judge_resumed(found: Json, where: str) -> list[str]:
    """What is wrong with a U-Net that was stopped half-way and went on, beside one that was not."""
    unet = found["unet"]
    if unet["resumed_roc_auc"] >= unet["roc_auc"] - WORSE:
        return []
    return [f"unet {where}: ROC AUC {unet['roc_auc']}, but {unet['resumed_roc_auc']} when it was stopped and went on"]


def check_trainings(arguments: argparse.Namespace, report: Report) -> None:
    """The part `train`."""
    linewatch = [sys.executable, "-P", "-m", "linewatch"]
    with tempfile.TemporaryDirectory(prefix="linewatch-gpu-") as name:
        folder, count = Path(name), str(arguments.pictures)
        draw = [*linewatch, "demo-data", str(folder / "parts"), "--train", count, "--test", count, "--seed", "3", "--json"]
        drawn = _guarded(draw, arguments.limit)
        if "folder" not in drawn:
            report.add("train", drawn)
            return
        runs = {}
        for label, environment in (("cuda", {}), ("cpu", ON_CPU), ("cuda again", {})):
            bundle = folder / label.replace(" ", "-")
            result = _guarded(
                [*linewatch, "train", str(folder / "parts" / "train"), "-o", str(bundle), "--test", str(folder / "parts" / "test"),
                 "--effort", arguments.effort, "--accept-weak", "--json"], arguments.limit, environment,
            )  # fmt: skip
            runs[label] = result if "training" not in result else summarise(result, (bundle / "model.onnx").read_bytes())
            report.add(f"train {label}", runs[label])
        if all("chosen" in run for run in runs.values()):
            report.add("train compared", compare_trainings(runs["cuda"], runs["cuda again"], runs["cpu"]))


def summarise(printed: Json, model: bytes) -> Json:
    """What counts of what `linewatch train --json` printed, beside its costs, and the graph's SHA-256."""
    training, evaluation = printed["training"], printed["evaluation"]
    return {
        "chosen": training["why"].partition(":")[0], "segmentation": training.get("segmentation", {}).get("chosen"),
        "average_iou": evaluation.get("average_iou"), "roc_auc": training["out_of_fold"]["roc_auc"], "f1": evaluation["f1"],
        "candidates": {c["name"]: c["roc_auc"] for c in training["candidates"]}, "graph": hashlib.sha256(model).hexdigest()[:12],
        **{key: printed[key] for key in ("wall_s", "processor_s", "said")}, "problems": [],
    }  # fmt: skip


def compare_trainings(cuda: Json, again: Json, cpu: Json) -> Json:
    """Whether CUDA chose and answered as the processor; another choice is told, a worse model is a problem."""
    problems = []
    for label, run in (("cuda", cuda), ("cuda again", again)):
        if not run["roc_auc"] >= cpu["roc_auc"] - WORSE:
            problems.append(f"{label}: ROC AUC {run['roc_auc']} out of fold, {cpu['roc_auc']} without CUDA")
    return {
        "same_choice": all((run["chosen"], run["segmentation"]) == (cpu["chosen"], cpu["segmentation"]) for run in (cuda, again)),
        "same_graph_twice": cuda["graph"] == again["graph"], "seconds_cuda_over_cpu": round(again["wall_s"] / cpu["wall_s"], 3),
        "problems": problems,
    }  # fmt: skip


def find_cuda_runtime() -> Path | None:
    """TVM's CUDA runtime as apache-tvm brings it."""
    spec = find_spec("tvm")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (path := Path(place) / "lib" / CUDA_RUNTIME).is_file():
            return path
    return None


def read_arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """Arguments of the command line; wrong ones end the program with code 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="*", type=Path, help="compiled bundle, for code and kernels")
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="default: all that can be run with what is given")
    parser.add_argument("--cuda-runtime", type=Path, help=f"{CUDA_RUNTIME}; default: that of the installed apache-tvm")
    parser.add_argument("--pictures", type=int, default=24, help="drawn for code, and of each class for fit and train (default: 24)")
    parser.add_argument("--rounds", type=int, default=60, help="calls of each runtime that are timed (default: 60)")
    parser.add_argument("--steps", type=int, default=200, help="of the U-Net in fit, with CUDA (default: 200)")
    parser.add_argument("--cpu-steps", type=int, default=CPU_STEPS, help=f"as many with CUDA and without, compared (default: {CPU_STEPS})")
    parser.add_argument("--effort", default="standard", help="of train (default: standard)")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds of each process (default: 300)")
    parser.add_argument("--json", type=Path, help="file to write everything to")
    arguments = parser.parse_args(given)
    asked = [p for p in PARTS if p in (arguments.parts or PARTS) and (arguments.parts or arguments.bundle or p not in NEED_BUNDLE)]
    needy = [p for p in asked if p in NEED_BUNDLE]
    if needy and not arguments.bundle:
        parser.error(f"{', '.join(needy)}: name a compiled bundle")
    arguments.cuda_runtime = arguments.cuda_runtime or find_cuda_runtime()
    if needy and not (arguments.cuda_runtime and arguments.cuda_runtime.is_file()):
        parser.error(f"{', '.join(needy)}: no {CUDA_RUNTIME}: install apache-tvm, or name the file with --cuda-runtime")
    arguments.parts = asked
    return arguments


def main(given: Sequence[str] | None = None) -> int:
    """Run what was asked for; returns the exit code."""
    arguments = read_arguments(given)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    report = Report(arguments.json)
    try:
        report.add("device", find_gpu(arguments))
    except StepError as error:
        print(f"no NVIDIA GPU can be used: {error}", file=sys.stderr)
        return NO_GPU if error.code == NO_GPU else 1
    for part in arguments.parts:
        if part in NEED_BUNDLE:
            check_bundles(part, arguments, report)
        else:
            {"fit": check_fits, "train": check_trainings}[part](arguments, report)
    print("\n".join(report.problems) or "everything that was run agrees", flush=True)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
