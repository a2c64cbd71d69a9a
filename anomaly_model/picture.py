"""The only way a picture becomes a model's input. Training, the agent, parity checks and tests all come through here."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from linewatch.anomaly_model.errors import PictureError
from linewatch.anomaly_model.limits import LIMITS, Limits
from linewatch.anomaly_model.manifest import InputSpec

Rgb = npt.NDArray[np.uint8]
"""A picture: height x width x 3, R, G, B, 0 to 255."""


def check_size(width: int, height: int, limits: Limits = LIMITS) -> None:
    """Refuse pictures outside the contract's sizes.

    Raises:
        PictureError: a side is too short or too long.
    """
    low, high = limits.picture_side_min, limits.picture_side_max
    if not (low <= width <= high and low <= height <= high):
        raise PictureError(f"the picture is {width}x{height} pixels; each side must be {low} to {high}")


def _upright(image: Image.Image) -> Image.Image:
    """As people see it: turned by its EXIF orientation, RGB; 16-bit grey by its upper byte, transparency ignored."""
    if image.mode.startswith("I"):  # Pillow would clip 16 bits to 255: all but the darkest pixels white
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    return ImageOps.exif_transpose(image).convert("RGB")


def decode_picture(data: bytes, name: str = "picture", limits: Limits = LIMITS) -> Rgb:
    """Decode a PNG or JPEG file's bytes to RGB.

    Raises:
        PictureError: too many bytes, not a PNG or JPEG, damaged, or of a forbidden size.
    """
    if len(data) > limits.picture_file_bytes:
        raise PictureError(f"{name} has {len(data)} bytes; at most {limits.picture_file_bytes} are allowed")
    try:
        with Image.open(BytesIO(data), formats=("PNG", "JPEG")) as image:
            check_size(image.width, image.height, limits)
            return np.asarray(_upright(image))
    except PictureError as error:
        raise PictureError(f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise PictureError(f"{name} is not a PNG or JPEG picture: its {len(data)} bytes begin with {data[:8]!r}") from None
    # Pillow raises a dozen kinds of errors for damaged files, SyntaxError and struct.error among them.
    except Exception as error:
        raise PictureError(f"{name} cannot be read as a PNG or JPEG picture: {error}") from error


def read_picture(path: Path, name: str = "", limits: Limits = LIMITS) -> Rgb:
    """Read and decode a picture file; at most the allowed number of bytes is taken into memory.

    Args:
        path: of the file.
        name: how errors call it; empty for its path.
        limits: on its size.

    Raises:
        PictureError: see `decode_picture`; also when the file cannot be opened.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(limits.picture_file_bytes + 1)
    except OSError as error:
        raise PictureError(f"{name or path} cannot be opened: {error.strerror}") from error
    return decode_picture(data, name or str(path), limits)


def wrap_rgb888(data: bytes | bytearray | memoryview, width: int, height: int, limits: Limits = LIMITS) -> Rgb:
    """View packed RGB888 bytes as a picture, without copying them.

    Args:
        data: rows from the top, R, G, B of each pixel, without padding.
        width: in pixels.
        height: in pixels.
        limits: on the sides.

    Raises:
        PictureError: a forbidden size, or a number of bytes that is not width x height x 3.
    """
    check_size(width, height, limits)
    found, expected = memoryview(data).nbytes, width * height * 3
    if found != expected:
        raise PictureError(
            f"{found} bytes of picture data do not make {width}x{height} RGB888: expected width x height x 3 = {expected} "
            "bytes, rows packed without padding"
        )
    return np.frombuffer(data, np.uint8).reshape(height, width, 3)


BOX_BITS = 22
"""Fixed-point bits of Pillow's 8-bit resampling: means are (sum * round(2^22 / count) + 2^21) >> 22."""


def _box_windows(size_in: int, size_out: int) -> npt.NDArray[np.int32]:
    """For each output position: first input position, how many, and 2^22 / how many (3 x size_out)."""
    scale = size_in / size_out
    stretch = max(scale, 1.0)
    reach, narrow = 0.5 * stretch, 1.0 / stretch
    centre = (np.arange(size_out) + 0.5) * scale
    first = np.maximum((centre - reach + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + reach + 0.5).astype(np.int64), size_in) - 1
    # A pixel at the very edge of a window counts at its right end only. The arithmetic is written as Pillow's is: another
    # order of operations rounds differently, and a window is then off by one pixel.
    first += (first - centre + 0.5) * narrow <= -0.5
    last -= (last - centre + 0.5) * narrow > 0.5
    count = last - first + 1
    return np.stack([first, count, (0.5 + (1.0 / count) * 2**BOX_BITS).astype(np.int64)]).astype(np.int32)


def box_tables(height: int, width: int, spec: InputSpec) -> npt.NDArray[np.int32]:
    """How compiled code resizes a height x width picture, so that it gives what `to_model_input` gives.

    int32: bytes a row, then three numbers for each output column and for each output row (see `_box_windows`).
    """
    columns, rows = _box_windows(width, spec.width), _box_windows(height, spec.height)
    return np.concatenate([np.array([width * 3], np.int32), columns.ravel(), rows.ravel()])


@dataclass(frozen=True, slots=True)
class Strip:
    """Some rows of a graph's input, and the rows of the picture that they are made of.

    Attributes:
        first, count: rows of the input.
        above: the picture's first row that they need.
        rows: how many from there on.
    """

    first: int
    count: int
    above: int
    rows: int


def strips(height: int, width: int, spec: InputSpec, largest: int) -> list[Strip]:
    """Cut the resizing of a height x width picture into strips that need `largest` bytes of it at most, or one row of the input each.

    Args:
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        spec: of the graph's input.
        largest: bytes of the picture that a strip may need.
    """
    first, count, _ = _box_windows(height, spec.height)
    ends, found, begin = first + count, [], 0
    for y in range(1, spec.height + 1):
        if y == spec.height or (ends[y] - first[begin]) * width * 3 > largest:
            above = int(first[begin])
            found.append(Strip(begin, y - begin, above, int(ends[y - 1]) - above))
            begin = y
    return found


def to_model_input(picture: Rgb, spec: InputSpec) -> Rgb:
    """Bring a picture to the graph's input: area-averaged to spec.height x spec.width, 1 x H x W x 3, uint8, RGB.

    Pillow's box filter works in integers, so the result is the same on every machine. Rows first, then columns, as two
    calls: in one call Pillow chooses the order by the sizes, and each order rounds differently.
    """
    if picture.shape[:2] == (spec.height, spec.width):
        return np.ascontiguousarray(picture)[np.newaxis]
    image = Image.fromarray(np.ascontiguousarray(picture))
    narrowed = image.resize((spec.width, image.height), Image.Resampling.BOX)
    resized = narrowed.resize((spec.width, spec.height), Image.Resampling.BOX)
    return np.asarray(resized)[np.newaxis]
