"""What a graph computes, as data."""

from dataclasses import dataclass

import numpy as np

from linewatch.training.arrays import F64
from linewatch.training.graph.outputs import FittedFamily


@dataclass(frozen=True, slots=True)
class Stack:
    """score = scores @ weights + bias, a log-odds. A weight of 0 means that the branch does not help."""

    weights: F64
    bias: float

    def __call__(self, scores: F64) -> F64:
        """Combine n x branches scores to n log-odds."""
        return np.asarray(scores @ self.weights + self.bias)


@dataclass(frozen=True, slots=True)
class GraphSpec:
    """What the shipped graph computes.

    Attributes:
        fitted: family name to fitted family; only those that are used.
        columns: names of the scores that are combined.
        stack: their weights, in the same order.
        segmenter: the family whose label logits are shipped; None for classification models.
        fine: whether label logits are brought to the input's full resolution (thin defects) or to half of it.
    """

    fitted: dict[str, FittedFamily]
    columns: tuple[str, ...]
    stack: Stack
    segmenter: str | None
    fine: bool
