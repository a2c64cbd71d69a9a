"""What check_gpu.py does around a GPU; its device runtime runs here on the processor."""

import ctypes.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.training.graph.bank import write_bank
from linewatch.training.graph.color import write_color
from linewatch.training.graph.writer import GraphWriter
from scripts import check_gpu, gpu_code

ROOT = Path(__file__).parents[2]


def python(code: str) -> list[str]:
    return [sys.executable, "-P", "-c", code]


def fit(device: str, **unet: float) -> dict:
    whole = {"roc_auc": 0.9, "resumed_roc_auc": 0.9, "resumed_difference": 0.0, **unet}
    return {"device": device, "torch": "2", "unet": whole, "discriminator": {"roc_auc": 0.95}}


def training(**found: object) -> dict:
    return {"chosen": "U-Net peak", "segmentation": "U-Net", "roc_auc": 0.99, "graph": "a", "wall_s": 20.0, **found}


@pytest.mark.parametrize(("code", "device", "runs"), [
    ("sm_90", "sm_90", True), ("sm_86", "sm_89", True), ("sm_89", "sm_86", False), ("sm_75", "sm_80", False), ("sm_90", "sm_100", False),
    ("sm_100", "sm_103", True),
])  # fmt: skip
def test_machine_code_runs_within_its_generation(code: str, device: str, runs: bool) -> None:
    assert gpu_code.runs_on(code, device) is runs


def test_what_is_no_architecture_is_refused() -> None:
    with pytest.raises(ValueError, match="'gfx90a' is no architecture"):
        gpu_code.runs_on("gfx90a", "sm_90")


def test_a_step_gives_what_was_printed_and_what_it_cost() -> None:
    program = "import json, os, sys; print('careful', file=sys.stderr); print(json.dumps({'a': os.environ['X']}))"
    found = check_gpu.run_step(python(program), 60, {"X": "b"})
    assert found["a"] == "b"
    assert found["said"] == ["careful"]
    assert found["processor_s"] > 0
    assert 0 < found["wall_s"] < 60


@pytest.mark.parametrize(("program", "limit_s", "said", "code"), [
    ("import sys; sys.exit('no such thing')", 60, "exit code 1; no such thing", 1),
    ("import os; os.abort()", 60, "exit code -6", -6),
    ("print([1])", 60, "printed no JSON object", 0),
    ("print('nothing')", 60, "printed no JSON object", 0),
    # What a program started is ended with it, or it would be waited for.
    ("import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])", 1, "did not end within 1 s", None),
], ids=["fails", "crashes", "no object", "no JSON", "hangs"])  # fmt: skip
def test_a_step_that_does_not_do_its_work(program: str, limit_s: float, said: str, code: int | None) -> None:
    with pytest.raises(check_gpu.StepError, match=said) as caught:
        check_gpu.run_step(python(program), limit_s)
    assert caught.value.code == code


def test_told_to_end_it_ends_what_it_started(tmp_path: Path) -> None:
    child = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    program = (
        f"import signal, sys; sys.path.insert(0, {str(ROOT)!r}); signal.signal(signal.SIGTERM, signal.default_int_handler); "
        f"from scripts import check_gpu; check_gpu.run_step([sys.executable, '-c', {child!r}], 600)"
    )
    process = subprocess.Popen(python(program), stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not ((tmp_path / "pid").is_file() and (tmp_path / "pid").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert b"KeyboardInterrupt" in said
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_fits_are_judged_by_how_well_they_tell_parts_apart() -> None:
    assert check_gpu.judge_fits(fit("cuda:0", resumed_difference=1e-4), fit("cpu")) == []
    assert check_gpu.judge_fits(fit("cpu"), fit("cpu")) == ["torch 2 took cpu: it sees no CUDA"]
    assert "unet: ROC AUC 0.5 with CUDA, 0.9 without" in check_gpu.judge_fits(fit("cuda:0", roc_auc=0.5, resumed_roc_auc=0.5), fit("cpu"))
    [problem] = check_gpu.judge_fits(fit("cuda:0", resumed_roc_auc=0.6), fit("cpu"))
    assert problem.startswith("unet with CUDA: ROC AUC 0.9, but 0.6 when it was stopped")
    [problem] = check_gpu.judge_fits(fit("cuda:0"), fit("cpu", resumed_difference=0.1))
    assert problem.startswith("unet without CUDA: weights differ by 0.1")
    assert check_gpu.judge_fits(fit("cuda:0", roc_auc=float("nan")), fit("cpu"))


def test_another_choice_is_told_and_a_worse_model_is_a_problem() -> None:
    same = check_gpu.compare_trainings(training(wall_s=9.0), training(wall_s=10.0), training())
    assert same == {"same_choice": True, "same_graph_twice": True, "seconds_cuda_over_cpu": 0.5, "problems": []}
    other = check_gpu.compare_trainings(training(), training(segmentation="bank", graph="b"), training())
    assert not other["same_choice"]
    assert not other["same_graph_twice"]
    assert other["problems"] == []
    worse = check_gpu.compare_trainings(training(), training(roc_auc=0.9), training())
    assert worse["problems"] == ["cuda again: ROC AUC 0.9 out of fold, 0.99 without CUDA"]


def test_the_report_is_written_step_by_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = check_gpu.Report(tmp_path / "gpu.json")
    report.add("device", {"arch": "sm_90"})
    assert json.loads((tmp_path / "gpu.json").read_text()) == {"steps": {"device": {"arch": "sm_90"}}, "problems": []}
    report.add("code bundle", {"problems": ["wrong"]})
    assert json.loads((tmp_path / "gpu.json").read_text())["problems"] == ["code bundle: wrong"]
    assert capsys.readouterr().out == 'device: {"arch": "sm_90"}\ncode bundle: {"problems": ["wrong"]}\n'


def test_kernels_are_summed_by_name_the_longest_first() -> None:
    trace = {"traceEvents": [
        {"cat": "kernel", "name": "add", "dur": 2}, {"cat": "kernel", "name": "conv", "dur": 30.0}, {"cat": "kernel", "name": "add", "dur": 4},
        {"cat": "gpu_memcpy", "name": "copy", "dur": 99}, {"ph": "M", "name": "process_name"},
    ]}  # fmt: skip
    assert gpu_code.sum_kernels(trace, 2) == [
        {"kernel": "conv", "launches": 0.5, "microseconds": 15.0}, {"kernel": "add", "launches": 1.0, "microseconds": 3.0},
    ]  # fmt: skip


def test_calls_are_timed_in_turns() -> None:
    order: list[str] = []
    pictures = [np.zeros((1, 2, 2, 3), np.uint8)]
    times = gpu_code.time_calls({"a": lambda _: order.append("a"), "b": lambda _: order.append("b")}, pictures, 3)
    assert order == ["a", "b"] * 8
    assert set(times) == {"a", "b"}
    assert 0 <= times["a"]["p50"] <= times["a"]["p99"]


@pytest.mark.parametrize(("given", "said"), [
    (["--parts", "code"], "code: name a compiled bundle"),
    (["bundle", "--parts", "kernels", "--cuda-runtime", "nowhere.so"], "kernels: no libtvm_runtime_cuda.so: install apache-tvm"),
    (["--parts", "everything"], "invalid choice: 'everything'"),
])  # fmt: skip
def test_wrong_arguments_are_refused(given: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        check_gpu.read_arguments(given)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_parts_are_those_that_can_be_run() -> None:
    assert check_gpu.read_arguments([]).parts == ["fit", "train"]
    assert check_gpu.read_arguments(["bundle"]).parts == ["code", "kernels", "fit", "train"]
    assert check_gpu.read_arguments(["bundle", "--parts", "train", "code"]).parts == ["code", "train"]
    assert check_gpu.read_arguments(["bundle"]).cuda_runtime.name == "libtvm_runtime_cuda.so"


@pytest.mark.skipif(ctypes.util.find_library("cuda") is not None, reason="there is an NVIDIA driver")
def test_without_a_gpu_nothing_is_run() -> None:
    done = subprocess.run([sys.executable, "-P", str(ROOT / "scripts" / "check_gpu.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("no NVIDIA GPU can be used: exit code 3; no driver: libcuda.so.1")


@pytest.mark.slow
def test_the_device_runtime_gives_what_the_graph_gives(tmp_path: Path) -> None:
    import tvm  # noqa: F401  # its runtime is the one that the library runs on

    from linewatch.packager.compile import compile_model
    from linewatch.packager.targets import AVX2
    from linewatch.packager.tune import chooser

    g = GraphWriter(32, 48)
    strongest = g.node("ReduceMax", write_bank(g, write_color(g)), axes=[1], keepdims=1)
    model = g.build([g.node("GlobalMaxPool", strongest), g.node("Sigmoid", g.upsample(strongest, 2))])
    library = tmp_path / "model.so"
    library.write_bytes(compile_model(model, "x86_64", AVX2, chooser({})))
    runtime, reference = gpu_code.DeviceRuntime(library, gpu_code.CPU, (1, 32, 48, 3)), OnnxRuntime(model)
    for seed in range(3):
        # Every second row of a larger picture: not in one piece.
        picture = np.random.default_rng(seed).integers(0, 256, (1, 64, 48, 3), np.uint8)[:, ::2]
        for ours, theirs in zip(runtime.run_arrays(picture), reference.run_arrays(picture), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
def test_fits_are_run_and_told() -> None:
    command = [sys.executable, "-P", str(ROOT / "scripts" / "gpu_fit.py"), json.dumps({"pictures": 9, "steps": 4})]
    found = check_gpu.run_step(command, 600, check_gpu.ON_CPU)
    assert found["device"] == "cpu"
    assert found["unet"]["resumed_difference"] == 0
    assert found["unet"]["resumed_roc_auc"] == found["unet"]["roc_auc"]
    assert found["discriminator"]["roc_auc"] > 0.9
