"""Decoded training pictures at the model's input size, and the checks on them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from anomaly_model.errors import DatasetError, PictureError
from anomaly_model.manifest import InputSpec, PictureSize
from anomaly_model.picture import Rgb, read_picture, to_model_input
from training.dataset import Dataset, read_mask
from training.graph import GRID, MULTIPLE

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done, and how many there are."""


@dataclass(frozen=True, slots=True)
class LoadedSet:
    """A dataset in memory.

    Attributes:
        inputs: N x H x W x 3 uint8, the model's input size.
        is_anomaly: N bool.
        coverage: N x labels x H/4 x W/4 float32, the share of each cell that each label covers (0 to 1).
        has_mask: N bool; an anomaly without a mask teaches the classifier but not the segmentation.
        names: N picture names.
        picture: size of the pictures before they were resized.
        spec: the model's input.
    """

    inputs: Rgb
    is_anomaly: npt.NDArray[np.bool_]
    coverage: npt.NDArray[np.float32]
    has_mask: npt.NDArray[np.bool_]
    names: list[str]
    picture: PictureSize
    spec: InputSpec


def choose_input(picture: PictureSize, side: int) -> InputSpec:
    """The input whose shorter side is `side` (at most the picture's own), of the picture's shape, in steps of 16."""
    scale = min(1.0, side / min(picture.height, picture.width))
    height, width = (max(64, MULTIPLE * round(s * scale / MULTIPLE)) for s in (picture.height, picture.width))
    return InputSpec(height=height, width=width)


def load_set(dataset: Dataset, side: int, progress: Progress, spec: InputSpec | None = None) -> LoadedSet:
    """Decode every picture and mask; all problems are reported together.

    Raises:
        DatasetError: unreadable pictures, pictures of several sizes, or wrong masks; the first few are named.
    """
    inputs: list[Rgb] = []
    coverage: list[npt.NDArray[np.float32]] = []
    sizes: dict[tuple[int, int], str] = {}
    problems: list[str] = []
    for i, sample in enumerate(dataset.samples):
        progress("reading pictures", i, len(dataset.samples))
        try:
            picture = read_picture(sample.path)
        except PictureError as error:
            problems.append(str(error))
            continue
        height, width = picture.shape[:2]
        sizes.setdefault((width, height), sample.name)
        if len(sizes) > 1 or problems:
            continue
        spec = spec or choose_input(PictureSize(height=height, width=width), side)
        inputs.append(to_model_input(picture, spec)[0])
        try:
            labels = read_mask(sample, dataset.labels, height, width)
        except DatasetError as error:
            problems.append(str(error))
            continue
        coverage.append(_cell_coverage(labels, len(dataset.labels), spec))
    progress("reading pictures", len(dataset.samples), len(dataset.samples))
    if len(sizes) > 1:
        listed = ", ".join(f"{w}x{h} ({name})" for (w, h), name in list(sizes.items())[:4])
        problems.append(f"pictures have {len(sizes)} different sizes: {listed}; all must be of one size")
    if problems:
        shown = "\n  ".join(problems[:5])
        more = f"\n  and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise DatasetError(f"{dataset.source} cannot be used:\n  {shown}{more}")
    if spec is None:
        raise DatasetError(f"{dataset.source} has no labelled pictures")
    (width, height) = next(iter(sizes))
    return LoadedSet(
        np.stack(inputs),
        np.array([bool(s.is_anomaly) for s in dataset.samples]),
        np.stack(coverage),
        np.array([s.mask is not None for s in dataset.samples]),
        [s.name for s in dataset.samples],
        PictureSize(height=height, width=width),
        spec,
    )


def _cell_coverage(labels: npt.NDArray[np.uint8], count: int, spec: InputSpec) -> npt.NDArray[np.float32]:
    cells = (spec.width // GRID, spec.height // GRID)
    layers = [
        np.asarray(Image.fromarray((labels == i + 1).astype(np.float32)).resize(cells, Image.Resampling.BOX))
        for i in range(count)
    ]
    return np.stack(layers) if layers else np.zeros((0, cells[1], cells[0]), np.float32)
