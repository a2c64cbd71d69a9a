"""Masks as label maps: 0 is the background, i + 1 the i-th label."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from linewatch.anomaly_model.errors import DatasetError
from linewatch.anomaly_model.limits import LIMITS
from linewatch.anomaly_model.manifest import Label
from linewatch.training.arrays import LabelMap
from linewatch.training.data.dataset import Sample

_PNG = b"\x89PNG\r\n\x1a\n"


class UnreadableMaskError(DatasetError):
    """A mask is missing, damaged, or no PNG."""


def read_mask(sample: Sample, labels: Sequence[Label], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Read a sample's mask as a label map: height x width uint8, 0 background, i + 1 the i-th of `labels`.

    Transparent pixels (alpha below 128) are background: the published masks have no white at all, only a transparent
    palette colour around the defect. White is background too.

    Args:
        sample: whose mask; all background where it has none.
        labels: the model's.
        height: of the sample's picture in pixels, which the mask must have too.
        width: likewise.

    Raises:
        UnreadableMaskError: not a PNG, damaged, or too large.
        DatasetError: not of the picture's size, or a colour that the colour map does not name.
    """
    result = np.zeros((height, width), np.uint8)
    if sample.mask is None:
        return result
    where = f"the mask of {sample.display_name}"
    try:
        with sample.mask.open("rb") as stream:
            data = stream.read(LIMITS.mask_file_bytes + 1)
    except OSError as error:
        raise UnreadableMaskError(f"{where} cannot be opened: {error.strerror}") from error
    if len(data) > LIMITS.mask_file_bytes:
        raise UnreadableMaskError(f"{where} has over {LIMITS.mask_file_bytes} bytes")
    try:
        with Image.open(BytesIO(data), formats=("PNG",)) as image:
            if image.size != (width, height):
                raise DatasetError(
                    f"{where} is {image.width}x{image.height} pixels, its picture {width}x{height}; they must be equal"
                )
            rgba = np.asarray(image.convert("RGBA"))
    except DatasetError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds of errors for damaged files
        reason = str(error) if data.startswith(_PNG) else f"its {len(data)} bytes begin with {data[:8]!r}"
        raise UnreadableMaskError(f"{where} is not a readable PNG (renaming another format is not enough): {reason}") from error
    rgb, visible = rgba[..., :3], rgba[..., 3] >= 128
    if not sample.colors:
        result[visible & (rgb.max(axis=2) >= 128)] = 1
        return result
    packed = rgb.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    known = visible & (packed == 0xFFFFFF)
    index = {label.name: i + 1 for i, label in enumerate(labels)}
    for color, name in sample.colors.items():
        if name not in index:
            raise DatasetError(
                f"{sample.display_name} has a mask of label {name!r}; the model's labels are {sorted(index) or 'none'}"
            )
        match = visible & (packed == int(color[1:], 16))
        result[match] = index[name]
        known |= match
    strange = visible & ~known
    if strange.any():
        found = f"#{int(packed[strange][0]):06X}"
        raise DatasetError(
            f"{where} has {int(strange.sum())} pixels of a colour ({found}) that its colour map does not name; "
            f"expected white, transparent or one of {sorted(sample.colors)}. Save masks without smoothing"
        )
    return result


def resize_nearest(label_map: LabelMap, height: int, width: int) -> LabelMap:
    """Nearest neighbour, as masks are drawn for answers."""
    h, w = label_map.shape
    return np.asarray(label_map[(np.arange(height) * h // height)[:, None], np.arange(width) * w // width])


def defect_width(mask: LabelMap) -> float | None:
    """How wide a mask's defects are in pixels: 2 area / boundary length; None for an empty mask.

    For a long strip that is its width, for a disc its radius. The boundary is counted in pixel edges, which is 4 / pi
    times the length of a boundary that runs in all directions.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    inside = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] > 0, 1)
    area = int(inside.sum())
    edges = int((inside[1:] != inside[:-1]).sum() + (inside[:, 1:] != inside[:, :-1]).sum())
    return 2 * area / (edges * np.pi / 4)


@dataclass(frozen=True, slots=True)
class PackedLabelMap:
    """A label map in the few hundred bytes that a mostly empty one takes.

    Attributes:
        shape: height and width.
        data: its rows, compressed.
    """

    shape: tuple[int, int]
    data: bytes

    @classmethod
    def pack(cls, label_map: LabelMap) -> "PackedLabelMap":
        """Compress a label map."""
        return cls((label_map.shape[0], label_map.shape[1]), zlib.compress(label_map.tobytes(), 1))

    def unpack(self) -> LabelMap:
        """The label map again."""
        return np.frombuffer(zlib.decompress(self.data), np.uint8).reshape(self.shape)
