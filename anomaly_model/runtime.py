"""What it takes to run a bundle's graph. `linewatch.anomaly_model.runtime_choice` opens one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from linewatch.anomaly_model.picture import Rgb

ReadPicture = Callable[[memoryview, int], None]
"""Fills a buffer with a picture's bytes from an offset on."""


@dataclass(frozen=True, slots=True)
class ModelOutputs:
    """Raw outputs of a graph for one picture.

    Attributes:
        score: log-odds that the picture is anomalous, before the threshold.
        anomaly_map: h x w float32, 0 to 1.
        label_logits: (labels + 1) x h' x w' float32, background first; None for classification models.
        label_map: h' x w' uint8, the strongest label of each place, where the runtime has faster code for it than numpy.
    """

    score: float
    anomaly_map: npt.NDArray[np.float32]
    label_logits: npt.NDArray[np.float32] | None
    label_map: npt.NDArray[np.uint8] | None = None


class Runtime(Protocol):
    """Runs one bundle's graph. Not thread-safe: one caller at a time."""

    @property
    def name(self) -> str:
        """`onnxruntime`, or `tvm` and the variant that was loaded."""

    def prepare(self, picture: Rgb) -> npt.NDArray[np.uint8]:
        """What `to_model_input` gives for this graph, to the bit; compiled runtimes may have faster code for it.

        The result may be overwritten by the next call.
        """

    def prepare_from(self, read: ReadPicture, height: int, width: int) -> npt.NDArray[np.uint8]:
        """The same of a height x width picture, RGB888, that is read once, in pieces as they suit the runtime.

        Raises:
            Whatever `read` raises.
        """

    def run(self, model_input: npt.NDArray[np.uint8]) -> ModelOutputs:
        """Run on one picture from `to_model_input`: 1 x H x W x 3, uint8, RGB."""

    def run_arrays(self, model_input: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        """The same, as the graph's outputs in its order."""

    def close(self) -> None:
        """Give memory back."""


def split_outputs(arrays: list[npt.NDArray[np.float32]]) -> ModelOutputs:
    """Give the graph's outputs, in its order (score, map, labels), their names."""
    score, anomaly_map, *labels = arrays
    return ModelOutputs(float(score.reshape(-1)[0]), anomaly_map[0, 0], labels[0][0] if labels else None)
