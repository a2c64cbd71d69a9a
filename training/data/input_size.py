"""The size of the model's input: of the pictures' shape, and large enough for thin defects."""

import numpy as np

from linewatch.anomaly_model.errors import DatasetError, PictureError
from linewatch.anomaly_model.manifest import InputSpec, PictureSize
from linewatch.training.arrays import LabelMap
from linewatch.training.data.dataset import Dataset
from linewatch.training.data.masks import read_mask
from linewatch.training.data.survey import size_of

DEFAULT_SIDE = 256
LARGEST_SIDE = 512
WANTED_WIDTH = 2.0
"""Pixels that a thin defect should be wide at the model's input; thinner ones drown in their surroundings."""
MULTIPLE = 16
"""Input sides must be multiples of this, so that every step that halves divides evenly."""
_MASKS_MEASURED = 200


def choose_input(picture: PictureSize, side: int) -> InputSpec:
    """The input whose shorter side is `side` (at most the picture's own), of the picture's shape, in steps of 16."""
    scale = min(1.0, side / min(picture.height, picture.width))
    height, width = (max(64, MULTIPLE * round(s * scale / MULTIPLE)) for s in (picture.height, picture.width))
    return InputSpec(height=height, width=width)


def defect_width(mask: LabelMap) -> float | None:
    """How wide a mask's defects are in pixels: 2 area / boundary length; None for an empty mask.

    For a long strip that is its width, for a disc its radius. The boundary is counted in pixel edges, which is 4 / pi
    times the length of a boundary that runs in all directions.
    """
    inside = np.pad(mask > 0, 1)
    area = int(inside.sum())
    edges = int((inside[1:] != inside[:-1]).sum() + (inside[:, 1:] != inside[:, :-1]).sum())
    return 2 * area / (edges * np.pi / 4) if area else None


def choose_side(dataset: Dataset) -> tuple[int, float | None]:
    """The shorter side of the model's input for this data, and the width of its thin defects in pixels of the pictures.

    256, unless that would leave the thinnest tenth of the masks under two pixels wide: then as much larger as it takes,
    up to 512.
    """
    masked = [s for s in dataset.samples if s.mask is not None]
    step = max(1, len(masked) // _MASKS_MEASURED)
    widths: list[float] = []
    shorter = 0
    for sample in masked[::step]:
        try:
            size = size_of(sample)
            mask = read_mask(sample, dataset.labels, size.height, size.width)
        except (DatasetError, PictureError):
            continue  # reported with all other problems by the survey
        shorter = min(size.height, size.width)
        width = defect_width(mask)
        if width is not None:
            widths.append(width)
    if not widths:
        return DEFAULT_SIDE, None
    thin = float(np.quantile(widths, 0.1))
    wanted = MULTIPLE * int(np.ceil(WANTED_WIDTH / thin * shorter / MULTIPLE))
    return int(np.clip(wanted, DEFAULT_SIDE, LARGEST_SIDE)), thin
