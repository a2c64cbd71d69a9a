"""Opens a runtime for a bundle: the one that is asked for, or the one that suits this machine."""

from pathlib import Path
from typing import Literal

from linewatch.anomaly_model.bundle import Bundle
from linewatch.anomaly_model.errors import PlatformError, RuntimeUnavailableError
from linewatch.anomaly_model.measured import read_measured
from linewatch.anomaly_model.runtime import Runtime
from linewatch.anomaly_model.runtime_tvm import TvmRuntime, host_target

RuntimeName = Literal["auto", "tvm", "onnxruntime", "onnxruntime-gpu"]


def open_runtime(bundle: Bundle, name: RuntimeName = "auto", *, threads: int = 1, measured: Path | None = None) -> Runtime:
    """Load a bundle's graph.

    `auto` takes what was measured to be the fastest for this bundle here (see `linewatch.anomaly_model.measured`); without a
    measurement TVM when the bundle holds code for this machine, and ONNX Runtime when it holds no code at all.

    Args:
        bundle: verified.
        name: of the runtime.
        threads: of the CPU, for one picture.
        measured: folder of measurements; None looks at none.

    Raises:
        RuntimeUnavailableError: the named runtime cannot run this bundle here.
        PlatformError: the bundle holds code for other machines only.
    """
    if name == "auto" and measured is not None and (record := read_measured(measured, bundle)):
        name = record.runtime
    if name == "auto" and bundle.targets() and host_target() not in bundle.targets():
        raise PlatformError(
            f"the bundle in {bundle.folder} is made for {', '.join(bundle.targets())}; this machine is {host_target()}. Deploy the "
            "component that is made for it, or set runtime to onnxruntime"
        )
    if name == "tvm" or (name == "auto" and host_target() in bundle.targets()):
        return TvmRuntime(bundle, threads=threads)
    try:
        from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"the bundle in {bundle.folder} has no compiled code for this machine ({host_target()}; it has "
            f"{bundle.targets() or 'none'}), and ONNX Runtime is not installed: pip install 'linewatch[agent]'"
        ) from error
    return OnnxRuntime(bundle.read("model.onnx"), threads=threads, gpu=name == "onnxruntime-gpu")
