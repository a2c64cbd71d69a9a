"""Measures a few schedules a layer on this machine and keeps the fastest.

What was measured is kept in a log, by the layer's shape: the next packaging takes it from there, which is fast and gives
the same bytes. `python -P -m linewatch.packager.tune MODEL MCPU < NAMES_AND_LOG` measures in a process of its own, so that a crash of generated
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
from typing import Any

import msgspec
import numpy as np

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.anomaly_model.files import replace_file
from linewatch.anomaly_model.runtime_tvm import leave_torch_out
from linewatch.packager.child import ChildError, run_module
from linewatch.packager.plan import Step, make_plan
from linewatch.packager.schedule import Apart, Choice, candidates, choose, cost
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
    if step.parts:
        return ", then ".join(map(signature, step.parts))
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


def chosen_layers(model: bytes, isa: Isa) -> dict[str, Step]:
    """What of the graph has a choice, one for each signature: convolutions, then layers that may be computed together."""
    steps = make_plan(model, isa.lanes).steps
    plain = [part for step in steps for part in (step.parts or [step]) if part.kind == "conv"]
    return {signature(step): step for step in [*plain, *(step for step in steps if step.kind == "fused")]}


def tune(model: bytes, isa: Isa) -> Log:
    """Measure what the log does not have yet; returns all of the graph's choices.

    Raises:
        TuningError: the measuring process failed.
    """
    path = log_path(isa)
    known = read_log(path) if path.is_file() else {}
    layers = chosen_layers(model, isa)
    missing = [name for name, step in layers.items() if name not in known or not _fits(isa, step, known[name])]
    if missing:
        known |= _measured(model, isa, missing, {name: known[name] for name in layers if name in known})
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


def _measured(model: bytes, isa: Isa, names: list[str], known: Log) -> Log:
    with tempfile.TemporaryDirectory(prefix="linewatch-tune-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model)
        try:
            answer = run_module("linewatch.packager.tune", str(path), isa.mcpu, timeout_s=600, given=msgspec.json.encode((names, known)))
        except ChildError as error:
            raise TuningError(f"measuring schedules for {isa.name} failed: {error}. Package with --no-tune") from error
    return msgspec.json.decode(answer, type=dict[str, Choice])


def _measure(model: bytes, isa: Isa, names: list[str], known: Log) -> Log:
    """Measure the named layers: convolutions first, whose choices are those of layers that are computed one after another."""
    layers = {name: step for name, step in chosen_layers(model, isa).items() if name in names}
    best: Log = {}
    for fused in (False, True):
        some = {name: step for name, step in layers.items() if (step.kind == "fused") == fused}
        if some:
            best |= _fastest(isa, some, chooser({**known, **best}))
    return best


def _fastest(isa: Isa, layers: dict[str, Step], choose_part: Callable[[Isa, Step], Choice]) -> Log:
    """Compile every candidate as functions of one module, and time them layer by layer, in turns."""
    import tvm

    from linewatch.packager.compile import chosen, cpu_target, kernel_of

    tried: dict[str, list[Choice]] = {}
    functions: dict[str, Any] = {}
    made: dict[tuple[str, int], list[_Made]] = {}
    for name, step in layers.items():
        ordered = sorted(candidates(isa, step), key=lambda c, s=step: cost(isa, s, c))  # type: ignore[misc]
        worth = _WORTH * cost(isa, step, ordered[0])
        tried[name] = [c for c in ordered[:_CANDIDATES] if cost(isa, step, c) <= worth]
        for k, choice in enumerate(tried[name]):
            steps = chosen(isa, step.parts, choose_part) if isinstance(choice, Apart) else [(step, choice)]
            made[name, k] = []
            for part, its_choice in steps:
                function = f"f{len(functions)}"
                make, values = kernel_of(isa, part, its_choice)
                functions[function] = make().with_attr("global_symbol", function)  # type: ignore[attr-defined]
                made[name, k].append((function, part, [tvm.runtime.tensor(v) for v in values]))
    module = tvm.compile(tvm.IRModule(functions), target=cpu_target(platform.machine(), isa))
    rng, best = np.random.default_rng(0), {}

    def call(first: Any, residual: list[Any], steps: list[_Made]) -> Callable[[], None]:
        calls = []
        for function, part, constants in steps:
            output = tvm.runtime.tensor(np.zeros(part.output.size, np.float32))
            calls.append((module[function], [first, *constants, *(residual if part.residual else []), output]))
            first = output

        def run() -> None:
            for function, arguments in calls:
                function(*arguments)

        return run

    for name, step in layers.items():
        values = [tvm.runtime.tensor(rng.normal(size=t.size).astype(np.float32)) for t in step.inputs]
        calls = [call(values[0], values[1:], made[name, k]) for k in range(len(tried[name]))]
        best[name] = tried[name][int(np.argmin(_least_times(calls)))]
    return best


_Made = tuple[str, Step, list[Any]]
"""A function's name, the step that it computes, and its constants."""


def _least_times(calls: list[Callable[[], None]]) -> list[float]:
    """Seconds of each call, in turns: what else the machine does falls on all of them."""
    times, spent = [1e9] * len(calls), [0.0] * len(calls)
    for n in range(_ROUNDS):
        for k, call in enumerate(calls):
            if n >= 2 and spent[k] > _BUDGET_S:
                continue
            started = time.perf_counter()
            call()
            elapsed = time.perf_counter() - started
            spent[k] += elapsed
            times[k] = min(times[k], elapsed)
    return times


if __name__ == "__main__":
    leave_torch_out()
    _, model_path, mcpu = sys.argv
    wanted, found = msgspec.json.decode(sys.stdin.buffer.read(), type=tuple[list[str], Log])
    sys.stdout.buffer.write(msgspec.json.encode(_measure(Path(model_path).read_bytes(), CPUS[platform.machine()][mcpu], wanted, found)))
