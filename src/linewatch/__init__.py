"""Train, package and ask anomaly models from Python; what is not named in `__all__` may change with any version.

    from linewatch import AgentClient, TrainingOptions, find_target, open_bundle, package, read_dataset, train

Each name is imported when it is first used, so that a camera program needs the extra `agent` only, a training program `train`.
The folders beside this file hold the parts, which docs/explanation/path-of-the-data.md tells about.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from linewatch.anomaly_model.bundle import Bundle, open_bundle
    from linewatch.anomaly_model.detection import Detection, detect
    from linewatch.anomaly_model.errors import LinewatchError
    from linewatch.anomaly_model.picture import read_picture
    from linewatch.anomaly_model.runtime_choice import open_runtime
    from linewatch.edge_agent.client import AgentCallError, AgentClient
    from linewatch.packager.package import Package, PackageOptions, package
    from linewatch.packager.targets import find_target
    from linewatch.training.data.dataset import Dataset
    from linewatch.training.data.reading import read_dataset
    from linewatch.training.options import TrainingOptions
    from linewatch.training.train import Trained, train

    __version__: str
__all__ = [
    "AgentCallError", "AgentClient", "Bundle", "Dataset", "Detection", "LinewatchError", "Package", "PackageOptions", "Trained",
    "TrainingOptions", "detect", "find_target", "open_bundle", "open_runtime", "package", "read_dataset", "read_picture", "train",
]  # fmt: skip

_MODULES = {
    "anomaly_model.bundle": ("Bundle", "open_bundle"),
    "anomaly_model.detection": ("Detection", "detect"),
    "anomaly_model.errors": ("LinewatchError",),
    "anomaly_model.picture": ("read_picture",),
    "anomaly_model.runtime_choice": ("open_runtime",),
    "edge_agent.client": ("AgentCallError", "AgentClient"),
    "packager.package": ("Package", "PackageOptions", "package"),
    "packager.targets": ("find_target",),
    "training.data.dataset": ("Dataset",),
    "training.data.reading": ("read_dataset",),
    "training.options": ("TrainingOptions",),
    "training.train": ("Trained", "train"),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":  # of the tag that this was built from; see pyproject.toml
        return import_module("importlib.metadata").version("linewatch")
    if name not in _HOMES:
        raise AttributeError(f"module 'linewatch' has no attribute {name!r}; public are: {', '.join(__all__)}")
    found = globals()[name] = getattr(import_module(f"linewatch.{_HOMES[name]}"), name)
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
