"""A pretrained residual net as a feature extractor, from a weights file: no model code is downloaded or run.

The file's tensors carry the names that timm and torchvision both use (conv1, bn1, layer1.0.conv1, ...); the net's depth,
widths and kind of block are read off them, so every plain member of the family loads: ResNet-18 to -152, wide ones, and
smaller ones. After PatchCore (Roth et al. 2022) the second and third stage are used, locally averaged.
"""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.anomaly_model.manifest import Json
from linewatch.training.arrays import F32
from linewatch.training.families.extractor import Extractor, Features, write_statistics
from linewatch.training.graph.color import OFFSET, OPPONENT
from linewatch.training.graph.writer import GraphWriter

LARGEST_FILE = 2 * 1024**3
MEAN = np.array([0.485, 0.456, 0.406])
DEVIATION = np.array([0.229, 0.224, 0.225])
"""Of ImageNet's pictures, red, green, blue, 0 to 1: what such nets were trained on."""
_EPSILON = 1e-5
_NAME = re.compile(r"(timm|torchvision):([A-Za-z0-9_.\-]{1,100})")
_UNKNOWN = "not stated by the file; ask its publisher"


class BackboneError(LinewatchError):
    """Pretrained weights are missing, or are not what was asked for."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """A pretrained net.

    Attributes:
        name: such as `timm:resnet18`.
        sha256: of the weights file.
        licence: of the weights, as far as it is known.
        weights: tensor name to array.
    """

    name: str
    sha256: str
    licence: str
    weights: Mapping[str, F32]

    def record(self) -> Json:
        """What the bundle says of it."""
        return {"name": self.name, "sha256": self.sha256, "licence": self.licence}

    def extractor(self) -> Extractor:
        """Stage 2 with stage 3 brought to its size, 1/8 of the input."""
        channels = sum(_width(self.weights, stage) for stage in (2, 3))
        return Extractor(self.name, channels, 8, 1, self._write, is_pretrained=True)

    def _write(self, g: GraphWriter, color: str) -> Features:
        # Opponent colours back to what the net was trained on, in one convolution of 1 x 1.
        to_rgb = np.linalg.inv(OPPONENT.astype(np.float64)) / 2  # -1 to 1 becomes -0.5 to 0.5
        weight = to_rgb / DEVIATION[:, None]
        bias = (-to_rgb @ OFFSET - MEAN) / DEVIATION
        x = g.conv(color, weight[:, :, None, None].astype(np.float32), bias.astype(np.float32))
        x = g.node("Relu", self._conv(g, x, "conv1", "bn1", 2))
        x = g.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        stages = []
        for stage in (1, 2, 3):
            for block in range(_blocks(self.weights, stage)):
                x = self._block(g, x, f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1)
            stages.append(x)
        joined = g.concat(stages[1], g.upsample(stages[2], 2))
        cells = g.pool("AveragePool", joined, 3, 1)
        return Features(cells, write_statistics(g, cells))

    def _block(self, g: GraphWriter, x: str, name: str, stride: int) -> str:
        shortcut = x
        if f"{name}.downsample.0.weight" in self.weights:
            shortcut = self._conv(g, x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
        if f"{name}.conv3.weight" in self.weights:  # a bottleneck strides in its second convolution
            y = g.node("Relu", self._conv(g, x, f"{name}.conv1", f"{name}.bn1", 1))
            y = g.node("Relu", self._conv(g, y, f"{name}.conv2", f"{name}.bn2", stride))
            y = self._conv(g, y, f"{name}.conv3", f"{name}.bn3", 1)
        else:
            y = g.node("Relu", self._conv(g, x, f"{name}.conv1", f"{name}.bn1", stride))
            y = self._conv(g, y, f"{name}.conv2", f"{name}.bn2", 1)
        return g.node("Relu", g.node("Add", y, shortcut))

    def _conv(self, g: GraphWriter, x: str, conv: str, norm: str, stride: int) -> str:
        w = self.weights
        scale = w[f"{norm}.weight"] / np.sqrt(w[f"{norm}.running_var"] + _EPSILON)
        weight = w[f"{conv}.weight"] * scale[:, None, None, None]
        return g.conv(x, weight, w[f"{norm}.bias"] - w[f"{norm}.running_mean"] * scale, stride=stride)


def _blocks(weights: Mapping[str, F32], stage: int) -> int:
    return len({key.split(".")[1] for key in weights if key.startswith(f"layer{stage}.")})


def _width(weights: Mapping[str, F32], stage: int) -> int:
    last = f"layer{stage}.{_blocks(weights, stage) - 1}"
    conv = "conv3" if f"{last}.conv3.weight" in weights else "conv2"
    return int(weights[f"{last}.{conv}.weight"].shape[0])


def cache_path(name: str) -> Path:
    """Where weights that were fetched are kept: LINEWATCH_CACHE, or ~/.cache/linewatch."""
    root = os.environ.get("LINEWATCH_CACHE") or str(Path.home() / ".cache" / "linewatch")
    return Path(root) / "backbones" / f"{name.replace(':', '-')}.safetensors"


def load_backbone(name: str, file: Path | None, licence: str | None = None) -> Backbone:
    """Load pretrained weights.

    Args:
        name: `timm:NAME` or `torchvision:NAME`.
        file: weights (.safetensors, or a .pth with tensors only); None: the cache, filled over the network if need be.
        licence: of the weights, when the file does not say.

    Raises:
        BackboneError: no such weights, or not a plain residual net; the message names the file and the command.
    """
    if not _NAME.fullmatch(name):
        raise BackboneError(f"backbone {name!r} is not of the form timm:NAME or torchvision:NAME, such as timm:resnet18")
    path = file or cache_path(name)
    if file is not None and not file.is_file():
        raise BackboneError(f"backbone weights {file} do not exist. {_how_to_fetch(name)}")
    if not path.is_file():
        _fetch(name, path)
    if path.stat().st_size > LARGEST_FILE:
        raise BackboneError(f"{path} has {path.stat().st_size} bytes; at most {LARGEST_FILE} are allowed")
    data = path.read_bytes()
    weights, stated = _read(path, data)
    _check(path, weights)
    return Backbone(name, hashlib.sha256(data).hexdigest(), licence or stated or _UNKNOWN, weights)


def _how_to_fetch(name: str) -> str:
    library, _, model = name.partition(":")
    make = (
        f"timm.create_model('{model}', pretrained=True)"
        if library == "timm"
        else f"torchvision.models.{model}(weights='DEFAULT')"
    )
    target = f"{model}.safetensors"
    return (
        f'On a machine with internet: pip install {library} safetensors && python -c "import {library}, safetensors.torch as s; '
        f"s.save_file({make}.state_dict(), '{target}')\"; then copy {target} here and add --backbone-weights {target}"
    )


def _fetch(name: str, path: Path) -> None:
    """Fetch weights through timm or torchvision, and keep them.

    Raises:
        BackboneError: the library is not installed, or fetching the weights failed.
    """
    library, _, model = name.partition(":")
    try:
        from safetensors.torch import save

        if library == "timm":
            import timm

            net = timm.create_model(model, pretrained=True)
            licence = str(net.pretrained_cfg.get("license") or _UNKNOWN)
        else:
            import torchvision

            net, licence = torchvision.models.get_model(model, weights="DEFAULT"), _UNKNOWN
        data = save({k: v.contiguous() for k, v in net.state_dict().items()}, {"license": licence})
    except ImportError as error:
        raise BackboneError(
            f"no weights of {name} at {path}, and {error.name} is not installed to fetch them. {_how_to_fetch(name)}"
        ) from error
    except Exception as error:  # whatever the libraries and the network below them raise
        raise BackboneError(
            f"no weights of {name} at {path}, and fetching them failed: {error}. {_how_to_fetch(name)}"
        ) from error
    from linewatch.anomaly_model.files import replace_file

    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, data)


def _read(path: Path, data: bytes) -> tuple[dict[str, F32], str | None]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "numpy") as archive:
                return _floats({k: archive.get_tensor(k) for k in archive.keys()}), (archive.metadata() or {}).get("license")  # noqa: SIM118
        except SafetensorError as error:
            raise BackboneError(f"{path} is not a safetensors file: {error}") from error
    from io import BytesIO

    import torch

    try:
        # Tensors only: torch refuses anything in the file that would run code.
        loaded = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
        loaded = loaded.get("state_dict", loaded)
        return _floats({k: v.numpy() for k, v in loaded.items()}), None
    except Exception as error:  # pickle, zip and torch errors alike
        raise BackboneError(f"{path} is not a file of tensors that torch reads: {str(error).partition('.')[0]}") from error


def _floats(tensors: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, F32]:
    return {k: np.asarray(v, np.float32) for k, v in tensors.items() if np.issubdtype(v.dtype, np.floating)}


def _check(path: Path, weights: Mapping[str, F32]) -> None:
    """Refuse what is not a plain residual net, before anything is computed with it.

    Raises:
        BackboneError: a tensor is missing, the first convolution is not 7 x 7 of three channels, or one is grouped.
    """
    needed = ["conv1.weight", "bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"]
    needed += [f"layer{stage}.0.conv{n}.weight" for stage in (1, 2, 3) for n in (1, 2)]
    missing = [name for name in needed if name not in weights]
    if missing:
        raise BackboneError(
            f"{path} has no tensor {missing[0]!r}; expected a plain residual net as timm's and torchvision's resnet18, "
            f"resnet34, resnet50 or wide_resnet50_2. It has {len(weights)} tensors, such as {sorted(weights)[:3]}"
        )
    first = weights["conv1.weight"].shape
    if len(first) != 4 or first[1] != 3 or first[2] != 7:
        raise BackboneError(f"{path}: conv1.weight has shape {first}; expected N x 3 x 7 x 7")
    grouped = [
        k
        for k, v in weights.items()
        if re.fullmatch(r"layer[123]\.\d+\.conv2\.weight", k) and v.shape[1] != _inner(k, weights)
    ]
    if grouped:
        raise BackboneError(f"{path}: {grouped[0]} is a grouped convolution (ResNeXt), which is not supported")


def _inner(name: str, weights: Mapping[str, F32]) -> int:
    return int(weights[name.replace("conv2", "conv1")].shape[0])
