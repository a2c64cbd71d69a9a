"""The kinds of parts that can be drawn."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linewatch.commands.drawn import brushed, fabric, machined, moulded, printed


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of parts.

    Attributes:
        labels: the defects' names and their colours in masks, #RRGGBB.
        draw: draws a part with the named defects; returns 240 x 320 x 3 uint8 RGB and its 240 x 320 uint8 label map: 0
            background, i + 1 the i-th label. All that it decides comes from the generator.
    """

    labels: dict[str, str]
    draw: Callable[[np.random.Generator, list[str]], tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]


KINDS = {
    "machined": Kind(machined.LABELS, machined.draw),
    "brushed": Kind(brushed.LABELS, brushed.draw),
    "fabric": Kind(fabric.LABELS, fabric.draw),
    "printed": Kind(printed.LABELS, printed.draw),
    "moulded": Kind(moulded.LABELS, moulded.draw),
}
DEFAULT_KIND = "machined"
