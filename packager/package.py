"""Packaging: compile every variant of a target, prove that it agrees, and write the component."""

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import msgspec

from anomaly_model.bundle import Bundle, write_bundle
from anomaly_model.errors import LinewatchError
from anomaly_model.runtime_tvm import cpu_flags
from packager.component import Component, check_identity, default_name, default_version, write_component
from packager.isa import TARGETS, Target
from packager.measure import Comparison, compare_in_child

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done, and how many there are."""
_RUNTIME = "libtvm_runtime.so"


class UnknownTargetError(LinewatchError):
    """No such target."""


@dataclass(frozen=True, slots=True)
class Package:
    """What packaging gave.

    Attributes:
        component: recipe and artifact.
        bundle: the compiled bundle, unpacked.
        comparisons: one for each variant that could run here, best first.
        skipped: variants that this machine's CPU cannot run, so that nothing is proven for them.
    """

    component: Component
    bundle: Bundle
    comparisons: list[Comparison]
    skipped: list[str]
    seconds: float


def find_target(name: str) -> Target:
    """Look a target up by name.

    Raises:
        UnknownTargetError: lists the valid names.
    """
    if name not in TARGETS:
        raise UnknownTargetError(f"unknown target {name!r}; known targets: {', '.join(sorted(TARGETS))}")
    return TARGETS[name]


def package(
    bundle: Bundle,
    target: Target,
    folder: Path,
    *,
    name: str | None = None,
    component_version: str | None = None,
    rounds: int = 60,
    progress: Progress = lambda _what, _done, _total: None,
) -> Package:
    """Compile, compare, write. Nothing is written to `folder` unless every comparison passes.

    Raises:
        ParityError, UnsupportedGraphError, ComponentError, UnknownTargetError
    """
    from packager.compile import compile_model

    started = time.monotonic()
    name, component_version = name or default_name(bundle), component_version or default_version(bundle)
    check_identity(name, component_version)
    steps, done = 2 * len(target.variants) + 1, 0
    files = {n: bundle.read(n) for n in bundle.manifest.files if not n.startswith(f"compiled/{target.name}/")}
    base = f"compiled/{target.name}"
    files[f"{base}/{_RUNTIME}"] = _runtime_library()
    scratch = Path(tempfile.mkdtemp(prefix="linewatch-package-"))
    try:
        for isa in target.variants:
            progress(f"compiling for {isa.name}", done, steps)
            library = scratch / f"{isa.name}.so"
            compile_model(files["model.onnx"], target, isa, library)
            files[f"{base}/{isa.name}.so"] = library.read_bytes()
            done += 1
        description = _describe(target)
        files[f"{base}/target.json"] = _json(description)
        trial = write_bundle(scratch / "trial", bundle.manifest, files)
        flags = cpu_flags()
        runnable = [isa.name for isa in target.variants if flags.issuperset(isa.flags)]
        comparisons = []
        for variant in runnable:
            progress(f"comparing {variant} with ONNX Runtime", done, steps)
            comparisons.append(compare_in_child(trial.folder, variant, rounds))
            comparisons[-1].check()
            done += 1
        skipped = [isa.name for isa in target.variants if isa.name not in runnable]
        files[f"{base}/target.json"] = _json({
            **description, "parity": [msgspec.to_builtins(c) for c in comparisons], "not_run_here": skipped,
        })  # fmt: skip
        progress("writing the component", steps - 1, steps)
        compiled = write_bundle(folder / "bundle", bundle.manifest, files)
        component = write_component(compiled, target, folder, name, component_version)
        progress("writing the component", steps, steps)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Package(component, compiled, comparisons, skipped, round(time.monotonic() - started, 2))


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value)) + b"\n"


def _describe(target: Target) -> dict[str, object]:
    return {
        "target": target.name,
        "triple": target.triple,
        "runtime": _RUNTIME,
        "variants": [{"library": f"{isa.name}.so", "flags": list(isa.flags)} for isa in target.variants],
        "mcpu": {isa.name: isa.mcpu for isa in target.variants},
        "tools": {p: version(p) for p in ("linewatch", "apache-tvm", "apache-tvm-ffi", "onnxruntime")},
    }


def _runtime_library() -> bytes:
    """TVM's device runtime for x86-64, from the installed apache-tvm."""
    spec = find_spec("tvm")
    for place in (spec.submodule_search_locations or []) if spec else []:
        path = Path(place) / "lib" / _RUNTIME
        if path.is_file():
            return path.read_bytes()
    raise LinewatchError(f"{_RUNTIME} was not found in apache-tvm; install it with: pip install 'linewatch[packager]'")
