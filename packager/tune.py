"""Measures a few schedules a layer on this machine and keeps the fastest.

What was measured is kept in a log, by the layer's shape: the next packaging takes it from there, which is fast and gives
the same bytes. `python -P -m linewatch.packager.tune MODEL MCPU < NAMES` measures in a process of its own, so that a crash of generated
code is not our end.
"""

import hashlib
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.anomaly_model.files import replace_file
from linewatch.anomaly_model.runtime_tvm import leave_torch_out
from linewatch.packager.child import ChildError, run_module
from linewatch.packager.plan import Step, make_plan
from linewatch.packager.schedule import Choice, candidates, choose, cost
from linewatch.packager.targets import CPUS, Isa
from linewatch.packager.toolchain import cache_folder

Log = dict[str, Choice]
"""A layer's signature to the choice that was the fastest."""
_CANDIDATES = 4
_WORTH = 1.6
"""Candidates that the model holds for this much slower than its best one are not measured."""
_ROUNDS = 6
_BUDGET_S = 0.05
"""A candidate is run at least twice, and not again once it has had so much time."""


class TuningError(LinewatchError):
    """Measuring schedules failed."""


def signature(step: Step) -> str:
    """What a choice is remembered by: shapes, without weights."""
    source, target = step.inputs[0], step.output
    numbers = " ".join(f"{name}{step.number(name)}" for name in ("ky", "kx", "sy", "sx", "dy", "dx", "top", "left"))
    residual = " residual" if step.residual else ""
    return f"{source.channels}x{source.height}x{source.width} to {target.channels}x{target.height}x{target.width} {numbers}{residual}"


def chooser(log: Log) -> Callable[[Isa, Step], Choice]:
    """The log's choice, or the model's where the log has none that fits."""

    def chosen(isa: Isa, step: Step) -> Choice:
        known = log.get(signature(step))
        return known if known is not None and _fits(isa, step, known) else choose(isa, step)

    return chosen


def _fits(isa: Isa, step: Step, choice: Choice) -> bool:
    """Whether a choice from a file can be computed at all: a log may be of another program's version, or edited."""
    return choice in candidates(isa, step)


def convolutions(model: bytes, isa: Isa) -> dict[str, Step]:
    """The graph's convolutions, one for each signature."""
    return {signature(step): step for step in make_plan(model, isa.lanes).steps if step.kind == "conv"}


def tune(model: bytes, isa: Isa) -> Log:
    """Measure what the log does not have yet; returns the choices for all of the graph's convolutions.

    Raises:
        TuningError: the measuring process failed.
    """
    path = log_path(isa)
    known = read_log(path) if path.is_file() else {}
    layers = convolutions(model, isa)
    missing = [name for name, step in layers.items() if name not in known or not _fits(isa, step, known[name])]
    if missing:
        known |= _measured(model, isa, missing)
        replace_file(path, dump_log(known))
    return {name: known[name] for name in layers}


def log_path(isa: Isa) -> Path:
    """Where this machine's measurements for an instruction set are kept; other processors and compilers have others."""
    cpu = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("model name", "CPU part"))), "")
    what = f"{platform.machine()} {cpu} {isa} {version('apache-tvm')} {version('linewatch')}"
    return cache_folder() / "tuning" / f"{isa.name}-{isa.mcpu}-{hashlib.sha256(what.encode()).hexdigest()[:12]}.json"


def read_log(path: Path) -> Log:
    """Read a log.

    Raises:
        TuningError: not a log.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Choice])
    except (OSError, msgspec.DecodeError) as error:
        raise TuningError(f"{path} is not a tuning log: {error}") from error


def dump_log(log: Log) -> bytes:
    """As it is kept: sorted, one layer a line."""
    return msgspec.json.format(msgspec.json.encode(dict(sorted(log.items()))), indent=1) + b"\n"


def _measured(model: bytes, isa: Isa, names: list[str]) -> Log:
    with tempfile.TemporaryDirectory(prefix="linewatch-tune-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        try:
            answer = run_module("linewatch.packager.tune", str(path), isa.mcpu, timeout_s=600, given=msgspec.json.encode(names))
        except ChildError as error:
            raise TuningError(f"measuring schedules for {isa.name} failed: {error}. Package with --no-tune") from error
    return msgspec.json.decode(answer, type=dict[str, Choice])


def _measure(model: bytes, isa: Isa, names: list[str]) -> Log:
    """Compile every candidate for the named layers as a function of one module, and time them layer by layer, in turns."""
    import tvm

    from linewatch.packager.compile import cpu_target, kernel_of

    layers = {name: step for name, step in convolutions(model, isa).items() if name in names}
    tried: dict[str, list[Choice]] = {}
    functions, constants = {}, {}
    for i, (name, step) in enumerate(layers.items()):
        ordered = sorted(candidates(isa, step), key=lambda c, s=step: cost(isa, s, c))  # type: ignore[misc]
        worth = _WORTH * cost(isa, step, ordered[0])
        tried[name] = [c for c in ordered[:_CANDIDATES] if cost(isa, step, c) <= worth]
        for k, choice in enumerate(tried[name]):
            make, values = kernel_of(isa, step, choice)
            functions[f"f{i}_{k}"] = make().with_attr("global_symbol", f"f{i}_{k}")  # type: ignore[attr-defined]
            constants[name, k] = [tvm.runtime.tensor(v) for v in values]
    module = tvm.compile(tvm.IRModule(functions), target=cpu_target(platform.machine(), isa))
    rng, best = np.random.default_rng(0), {}
    for i, (name, step) in enumerate(layers.items()):
        values = [tvm.runtime.tensor(rng.normal(size=t.size).astype(np.float32)) for t in step.inputs]
        first, residual = (values[:-1], values[-1:]) if step.residual else (values, [])
        output = tvm.runtime.tensor(np.zeros(step.output.size, np.float32))
        calls = [(module[f"f{i}_{k}"], [*first, *constants[name, k], *residual, output]) for k in range(len(tried[name]))]
        times = [1e9] * len(calls)
        spent = [0.0] * len(calls)
        for n in range(_ROUNDS):
            for k, (function, arguments) in enumerate(calls):
                if n >= 2 and spent[k] > _BUDGET_S:
                    continue
                started = time.perf_counter()
                function(*arguments)
                elapsed = time.perf_counter() - started
                spent[k] += elapsed
                times[k] = min(times[k], elapsed)
        best[name] = tried[name][int(np.argmin(times))]
    return best


if __name__ == "__main__":
    leave_torch_out()
    _, model_path, mcpu = sys.argv
    wanted = msgspec.json.decode(sys.stdin.buffer.read(), type=list[str])
    sys.stdout.buffer.write(msgspec.json.encode(_measure(Path(model_path).read_bytes(), CPUS[platform.machine()][mcpu], wanted)))
