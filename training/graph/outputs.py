"""What a fitted family writes into a graph."""

from dataclasses import dataclass
from typing import Protocol

from linewatch.training.graph.writer import GraphWriter


@dataclass(frozen=True, slots=True)
class Written:
    """Names of a fitted family's values in a graph.

    Attributes:
        scores: score name to value, each 1 x 1 x 1 x 1.
        unusual: a distance map from what is normal, 1 x 1 x h x w; None when the family has none.
        labels: label logits with the background first, 1 x (labels + 1) x h x w; None without segmentation.
        strongest: the largest label logit relative to the background, 1 x 1 x h x w; None without segmentation.
    """

    scores: dict[str, str]
    unusual: str | None = None
    labels: str | None = None
    strongest: str | None = None


class Fitted(Protocol):
    """A fitted family."""

    def write(self, g: GraphWriter, color: str) -> Written:
        """Write everything over `write_color`'s planes; what is not used is left out when the graph is built."""
