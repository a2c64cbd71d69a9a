"""What a fitted family writes into a graph, typed: which values there are, what each tells, and on which grid a map lies.

A grid is named by its stride: how many pixels of the model's input lie on a side of one of its cells.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from linewatch.training.graph.writer import GraphWriter


class Supervision(Enum):
    """What a score was learnt from."""

    ONE_CLASS = "what is normal: normal pictures, with noise or marked defects beside them"
    SUPERVISED = "labels: of pictures, or of masks"


@dataclass(frozen=True, slots=True)
class Score:
    """A scalar in a graph; larger is more anomalous.

    Attributes:
        value: its name, 1 x 1 x 1 x 1.
        supervision: what it was learnt from.
        is_peak: it tells of the strongest place; otherwise of the picture as a whole.
    """

    value: str
    supervision: Supervision
    is_peak: bool = False


@dataclass(frozen=True, slots=True)
class DistanceMap:
    """How far each cell is from what is normal.

    Attributes:
        value: its name, 1 x 1 x H/stride x W/stride, 0 and more, without a bound.
        stride: of its grid.
    """

    value: str
    stride: int


@dataclass(frozen=True, slots=True)
class Segmentation:
    """What each cell shows.

    Attributes:
        logits: label logits with the background first, 1 x (labels + 1) x H/stride x W/stride.
        max_logit: the largest label logit relative to the background, 1 x 1 x H/stride x W/stride.
        stride: of both grids.
    """

    logits: str
    max_logit: str
    stride: int


@dataclass(frozen=True, slots=True)
class FamilyOutputs:
    """What a fitted family gives.

    Attributes:
        scores: by their names in reports.
        distance_map: None when the family has none.
        segmentation: None when the family has none.
    """

    scores: dict[str, Score]
    distance_map: DistanceMap | None = None
    segmentation: Segmentation | None = None

    @property
    def score_values(self) -> list[str]:
        """Names of the scores' values in the graph."""
        return [score.value for score in self.scores.values()]


class FittedFamily(Protocol):
    """A fitted family."""

    def write(self, g: GraphWriter, color: str) -> FamilyOutputs:
        """Write everything over `write_color`'s planes; what is not used is left out when the graph is built."""
