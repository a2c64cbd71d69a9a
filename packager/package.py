"""Packaging: compile every variant of a target, verify that it agrees with ONNX Runtime, and write the component."""

import platform
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from linewatch.anomaly_model.bundle import Bundle, write_bundle
from linewatch.anomaly_model.files import replace_file
from linewatch.anomaly_model.parity import Parity
from linewatch.anomaly_model.progress import ProgressCallback, no_progress
from linewatch.packager.component import (
    REGISTER_NAME,
    Component,
    ComponentError,
    check_identity,
    default_name,
    default_version,
    write_component,
)
from linewatch.packager.elf import check_library, find_cubins
from linewatch.packager.measure import Timing, measure_in_child
from linewatch.packager.sbom import SBOM_NAME, make_sbom
from linewatch.packager.targets import Isa, Target
from linewatch.packager.toolchain import RUNTIME, runtime_library
from linewatch.packager.tune import Log, chooser, read_log, tune
from linewatch.packager.verification import execution_host, verify_parity

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MEASURED_NAME = "measured.json"
_TOOLS = ("linewatch", "apache-tvm", "apache-tvm-ffi", "onnxruntime")


@dataclass(frozen=True, slots=True)
class PackageOptions:
    """What a user may choose.

    Attributes:
        name, version: of the component; empty for `model-NAME` and `MODELVERSION.0.0`.
        description: of the component; empty for one that names the model.
        tags: of the component.
        location: address of the folder that the artifact will lie in; empty for a place to be filled in.
        tuning: `measure` schedules on this machine where it can run the code, `model` their cost, or the path of a log.
        key: signs the package; None leaves it unsigned.
        rounds: calls of each runtime that are timed; 0 for none.
    """

    name: str = ""
    version: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    location: str = ""
    tuning: str = "measure"
    key: "Ed25519PrivateKey | None" = None
    rounds: int = 60


@dataclass(frozen=True, slots=True)
class VariantResult:
    """One compiled library and what is known of it.

    Attributes:
        isa: what it is for.
        parity: against ONNX Runtime; None when nothing here can run it, so that it is not verified.
        timing: beside ONNX Runtime; None when this machine cannot run it.
    """

    isa: Isa
    parity: Parity | None
    timing: Timing | None


@dataclass(frozen=True, slots=True)
class Package:
    """What packaging gave.

    Attributes:
        component: recipe and artifacts.
        bundle: the compiled bundle, unpacked; of several that for this machine, or the first.
        variants: best first, target by target.
        cubins: GPU architectures that code was made for.
    """

    component: Component
    bundle: Bundle
    variants: list[VariantResult]
    cubins: list[str]
    seconds: float


def package(
    bundle: Bundle, target: Target, folder: Path, options: PackageOptions | None = None,
    progress: ProgressCallback = no_progress,
) -> Package:  # fmt: skip
    """Compile, compare, write: `package_each` for a single target.

    Args:
        bundle: to compile.
        target: to compile for.
        folder: for the component.
        options: what a user may choose.
        progress: see `ProgressCallback`.

    Raises:
        Whatever `package_each` raises.
    """
    return package_each(bundle, [target], folder, options, progress)


def package_each(
    bundle: Bundle, targets: Sequence[Target], folder: Path, options: PackageOptions | None = None,
    progress: ProgressCallback = no_progress,
) -> Package:  # fmt: skip
    """Compile for each target, compare, write one component. Nothing is written to `folder` unless every comparison passes.

    The same bundle, targets, options and schedules give the same artifacts, byte by byte. What was timed is written beside
    them, to measured.json.

    Args:
        bundle: to compile.
        targets: each of another architecture.
        folder: for the component.
        options: what a user may choose.
        progress: see `ProgressCallback`.

    Raises:
        ComponentError: name, version or description break Greengrass's rules, or two targets share an architecture.
        UnsupportedGraphError: the graph has an operator, attribute or shape that the schedules do not cover.
        ToolError: a program or library that a target needs is missing.
        TuningError: measuring schedules failed.
        LibraryError: what was compiled is not the library that was to be made.
        ParityError: compiled code does not give the answers that ONNX Runtime gives, or gives none.
        RecipeError: the component's recipe breaks a rule.
    """
    started = time.monotonic()
    options = options or PackageOptions()
    name, component_version = options.name or default_name(bundle.manifest), options.version or default_version(bundle.manifest)
    check_identity(name, component_version, options.description)
    _check_targets(targets)
    steps = _Steps(progress, sum(3 * len(t.variants) + (1 if t.gpu else 0) for t in targets) + 1)
    builds = [_build(bundle, target, options, steps) for target in targets]
    steps.next("writing the component")
    manifest = msgspec.structs.replace(bundle.manifest, component=name)
    shown = next((b for b in builds if b.target.machine == platform.machine()), builds[0])
    with tempfile.TemporaryDirectory(prefix="linewatch-package-") as scratch:
        compiled = {
            b.target.architecture: write_bundle(folder / "bundle" if b is shown else Path(scratch) / b.target.name, manifest, b.files, options.key)
            for b in builds
        }
        component = write_component(
            compiled, folder, name, component_version, description=options.description, tags=options.tags, location=options.location
        )
    timings = [v.timing for b in builds for v in b.variants if v.timing]
    replace_file(folder / MEASURED_NAME, _json([msgspec.to_builtins(t) for t in timings]))
    steps.finish()
    variants, cubins = [v for b in builds for v in b.variants], [c for b in builds for c in b.cubins]
    return Package(component, compiled[shown.target.architecture], variants, cubins, round(time.monotonic() - started, 2))


def _check_targets(targets: Sequence[Target]) -> None:
    taken: dict[str, Target] = {}
    for target in targets:
        if target.architecture in taken:
            raise ComponentError(
                f"{taken[target.architecture].name} and {target.name} are both for {target.machine}, which is all that a core "
                "tells apart; package them one at a time, with a --name each"
            )
        taken[target.architecture] = target


@dataclass(frozen=True, slots=True)
class _Build:
    """What was compiled for one target: all files of its bundle."""

    target: Target
    files: dict[str, bytes]
    variants: list[VariantResult]
    cubins: list[str]


def _build(bundle: Bundle, target: Target, options: PackageOptions, steps: "_Steps") -> _Build:
    # An artifact is for one platform: what was compiled for others stays behind.
    files = {n: bundle.read(n) for n in bundle.manifest.files if not n.startswith("compiled/") and n != SBOM_NAME}
    files[REGISTER_NAME] = (Path(__file__).parent / "device" / REGISTER_NAME).read_bytes()
    base = f"compiled/{target.cpu}"
    files[f"{base}/{RUNTIME}"] = runtime_library(target.machine)
    logs: dict[str, Log] = {}
    for isa in target.variants:
        steps.next(f"choosing schedules for {isa.name}")
        logs[isa.name] = _schedules(files["model.onnx"], target, isa, options.tuning)
        steps.next(f"compiling for {isa.name}")
        files[f"{base}/{isa.name}.so"] = _compiled(files["model.onnx"], target, isa, logs[isa.name])
    parities = {}
    for isa in target.variants:
        steps.next(f"comparing {isa.name} with ONNX Runtime")
        if execution_host(target.machine, isa):
            parities[isa.name] = verify_parity(bundle, files[f"{base}/{isa.name}.so"], target.machine, isa)
            parities[isa.name].check()
    files[f"{base}/target.json"] = _json(_describe(target, files, logs, parities))
    cubins: list[str] = []
    if target.gpu:
        steps.next(f"compiling for {target.gpu.arch}")
        cubins = _add_gpu(target, files)
    tools = {tool: version(tool) for tool in _TOOLS}
    files[SBOM_NAME] = make_sbom(bundle.manifest, files, tools, {f"{base}/{RUNTIME}": "apache-tvm"})
    timings = _timed(bundle, target, files, options.rounds)
    return _Build(target, files, [VariantResult(isa, parities.get(isa.name), timings.get(isa.name)) for isa in target.variants], cubins)


class _Steps:
    def __init__(self, progress: ProgressCallback, total: int) -> None:
        self._progress, self._total, self._done = progress, total, -1

    def next(self, what: str) -> None:
        self._done += 1
        self._progress(what, self._done, self._total)

    def finish(self) -> None:
        self._progress("done", self._total, self._total)


def _schedules(model: bytes, target: Target, isa: Isa, tuning: str) -> Log:
    if tuning == "model":
        return {}
    if tuning != "measure":
        return read_log(Path(tuning))
    return tune(model, isa) if execution_host(target.machine, isa) == "this machine" else {}


def _compiled(model: bytes, target: Target, isa: Isa, log: Log) -> bytes:
    from linewatch.packager.compile import compile_model

    library = compile_model(model, target.machine, isa, chooser(log))
    check_library(library, target.machine, target.glibc)
    return library


def _add_gpu(target: Target, files: dict[str, bytes]) -> list[str]:
    from linewatch.packager.gpu import GPU_LIBRARY, compile_gpu, describe_gpu

    assert target.gpu is not None
    library = compile_gpu(files["model.onnx"], target.machine, target.gpu)
    check_library(library, target.machine, target.glibc)
    base = f"compiled/{target.machine}-cuda"
    files[f"{base}/{GPU_LIBRARY}"] = library
    files[f"{base}/target.json"] = _json(describe_gpu(target.gpu, {tool: version(tool) for tool in _TOOLS}))
    return find_cubins(library)


def _timed(bundle: Bundle, target: Target, files: Mapping[str, bytes], rounds: int) -> dict[str, Timing]:
    runnable = [isa for isa in target.variants if execution_host(target.machine, isa) == "this machine"]
    if not rounds or not runnable:
        return {}
    scratch = Path(tempfile.mkdtemp(prefix="linewatch-package-"))
    try:
        trial = write_bundle(scratch / "trial", bundle.manifest, files)
        return {isa.name: measure_in_child(trial.folder, isa.name, rounds) for isa in runnable}
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value)) + b"\n"


def _describe(
    target: Target, files: Mapping[str, bytes], logs: Mapping[str, Log], parities: Mapping[str, Parity]
) -> dict[str, object]:  # fmt: skip
    base = f"compiled/{target.cpu}"
    needed = max(check_library(data, target.machine, target.glibc).glibc for name, data in files.items()
                 if name.startswith(base) and name.endswith(".so"))  # fmt: skip
    return {
        "target": target.name,
        "triple": target.triple,
        "machine": target.machine,
        "glibc": ".".join(map(str, needed)),
        "runtime": RUNTIME,
        "variants": [{"library": f"{isa.name}.so", "flags": list(isa.flags)} for isa in target.variants],
        "mcpu": {isa.name: isa.mcpu for isa in target.variants},
        "tools": {tool: version(tool) for tool in _TOOLS},
        "parity": [msgspec.to_builtins(parities[isa.name]) for isa in target.variants if isa.name in parities],
        "not_run_here": [isa.name for isa in target.variants if isa.name not in parities],
        "schedules": {name: msgspec.to_builtins(dict(sorted(log.items()))) for name, log in logs.items()},
    }
