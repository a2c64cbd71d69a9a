"""The whole path in one go: pictures, training, packaging, the agent on a socket, every held-out picture over gRPC."""

import dataclasses
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.anomaly_model.files import replace_file
from linewatch.anomaly_model.picture import read_picture
from linewatch.anomaly_model.progress import ProgressCallback
from linewatch.anomaly_model.runtime_tvm import host_target
from linewatch.commands.demo_result import DemoResult, PictureResult, Summary
from linewatch.commands.drawn.part_set import PartSet
from linewatch.commands.drawn.writing import write_set
from linewatch.commands.splits import find_splits
from linewatch.edge_agent.client import AgentClient
from linewatch.packager.package import package
from linewatch.packager.targets import find_target
from linewatch.training.data.dataset import Dataset
from linewatch.training.metrics import image_metrics
from linewatch.training.options import TrainingOptions
from linewatch.training.train import train

_END_S = 20


def run_demo(output: Path, data: Path | None, options: TrainingOptions, progress: ProgressCallback) -> DemoResult:
    """Run the whole path and write bundle, package, summary.json and report.html below `output`.

    Args:
        output: folder for everything that is made.
        data: pictures in a layout that `find_splits` knows; None draws some.
        options: of the training; its name is replaced.
        progress: called with what is being done, how many steps are done, and how many there are.

    Raises:
        LinewatchError: any step failed; the message says which.
    """
    from linewatch.commands.report import write_report

    if data is None:
        data, name = output / "data", "demo"
        write_set(data, PartSet(seed=options.seed), progress)
    else:
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", data.resolve().name).strip("-._") or "demo"
    learn, test = find_splits(data)
    started = time.monotonic()
    trained = train(learn, output / "bundle", dataclasses.replace(options, name=name), test, progress)
    bundle = trained.bundle
    train_seconds = time.monotonic() - started
    packed = package(bundle, find_target(host_target()), output / "package", progress=progress)
    answers = list(_ask_agent(output / "package", packed.component.name, test, progress))
    truth, scores = np.array([r.is_anomaly for r in answers]), np.array([r.score for r in answers])
    metrics = image_metrics(scores, truth, bundle.manifest.decision.threshold)
    times = np.array([r.milliseconds for r in answers])
    summary = Summary(
        f1=round(metrics.f1, 4), precision=round(metrics.precision, 4), recall=round(metrics.recall, 4),
        p50_ms=round(float(np.median(times)), 2), p99_ms=round(float(np.quantile(times, 0.99)), 2),
        tvm_over_onnxruntime=next(v.timing.tvm_over_onnxruntime for v in packed.variants if v.timing), train_seconds=round(train_seconds, 1),
        package_seconds=packed.seconds, pictures=len(answers),
    )  # fmt: skip
    replace_file(output / "summary.json", msgspec.json.format(msgspec.json.encode(summary)) + b"\n")
    result = DemoResult(answers, metrics, summary, packed, test, trained.weak, trained.warnings)
    write_report(output / "report.html", result, progress)
    return result


def _ask_agent(models: Path, model: str, test: Dataset, progress: ProgressCallback) -> Iterator[PictureResult]:
    """Send every picture of `test` through shared memory."""
    with running_agent(models) as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start(model)
        for i, sample in enumerate(test.samples):
            progress("asking the agent", i, len(test.samples))
            picture = read_picture(sample.path)
            if i == 0:  # the first call grows buffers on both sides; cameras send thousands
                client.detect(picture, model)
            begun = time.perf_counter()
            result, _ = client.detect(picture, model)
            spent = (time.perf_counter() - begun) * 1e3
            found = ", ".join(
                f"{a.name} {a.pixel_anomaly.total_percentage_area:.1%}" for a in result.anomalies if a.name != "background"
            )
            yield PictureResult(sample.name, sample.path, bool(sample.is_anomaly), result.is_anomalous, result.confidence,
                                result.anomaly_score, found, spent)  # fmt: skip
        progress("asking the agent", len(test.samples), len(test.samples))
        client.stop(model)


@contextmanager
def running_agent(models: Path) -> Iterator[str]:
    """An agent of our own on a socket in a temporary folder; ended by its process id.

    Raises:
        LinewatchError: it ended by itself, or did not end when it was told to; with what its threads did then.
    """
    with tempfile.TemporaryDirectory(prefix="linewatch-") as folder:
        address = f"unix://{folder}/agent.sock"
        command = [sys.executable, "-P", "-m", "linewatch", "agent", "--models", str(models), "--socket", address]
        log = Path(folder) / "agent.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(command, stdout=stream, stderr=stream, env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"})
        try:
            yield address
        except LinewatchError as error:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
            raise LinewatchError(f"{error}\nthe agent's log ends with:\n{tail}") from error
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGABRT)
                process.wait()
                raise LinewatchError(f"the agent did not end within {_END_S} s of SIGTERM\n{log.read_text(errors='replace')[-6000:]}") from None
