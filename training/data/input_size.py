"""The size of the model's input: of the pictures' shape, and large enough for thin defects."""

import numpy as np

from linewatch.anomaly_model.manifest import InputSpec, PictureSize
from linewatch.training.data.dataset import Dataset
from linewatch.training.data.survey import size_of

DEFAULT_SIDE = 256
LARGEST_SIDE = 512
WANTED_WIDTH = 2.0
"""Pixels that a thin defect should be wide at the model's input; thinner ones drown in their surroundings."""
THIN = 4.0
"""Pixels at the model's input; what is wider does not suffer from resampling."""
LITTLE_LARGER = 1.25
MULTIPLE = 16
"""Input sides must be multiples of this, so that every step that halves divides evenly."""
_MASKS_COMPARED = 200


def choose_input(picture: PictureSize, side: int) -> InputSpec:
    """The input whose shorter side is `side` (at most the picture's own), of the picture's shape, in steps of 16."""
    scale = min(1.0, side / min(picture.height, picture.width))
    height, width = (max(64, MULTIPLE * round(s * scale / MULTIPLE)) for s in (picture.height, picture.width))
    return InputSpec(height=height, width=width)


def choose_side(dataset: Dataset) -> tuple[int, float | None]:
    """The shorter side of the model's input for a surveyed dataset, and the width of its thin defects in pixels of the pictures.

    256, unless that would leave the thinnest tenth of the masks under two pixels wide: then as much larger as it takes,
    up to 512. Where the pictures themselves are little larger than that, their own size: hardly quicker, resampling would blur
    what is thin.
    """
    masked = [s for s in dataset.samples if s.mask is not None]
    compared = masked[:: max(1, len(masked) // _MASKS_COMPARED)]
    widths = [s.defect_width for s in compared if s.defect_width is not None]
    if not widths:
        return DEFAULT_SIDE, None
    size = size_of(compared[-1])
    shorter = min(size.height, size.width)
    thin = float(np.quantile(widths, 0.1))
    wanted = MULTIPLE * int(np.ceil(WANTED_WIDTH / thin * shorter / MULTIPLE))
    side = int(np.clip(wanted, DEFAULT_SIDE, LARGEST_SIDE))
    if thin * side / shorter < THIN and side < shorter <= LITTLE_LARGER * side:
        side = shorter
    return side, thin
