"""Feature extractors: what turns a picture into a map of feature cells inside the graph."""

from collections.abc import Callable
from dataclasses import dataclass

from linewatch.training.graph.bank import COARSE, FEATURES, STRIDE, write_bank
from linewatch.training.graph.writer import GraphWriter


@dataclass(frozen=True, slots=True)
class Extractor:
    """Turns a picture into a map of feature cells.

    Attributes:
        name: as reports call it.
        channels: features a cell.
        stride: pixels of the model's input on a side of a cell.
        coarse: cells on a side that one-class branches average.
        write: writes it into a graph over `write_color`'s planes and returns the map's name.
        is_pretrained: its weights were learnt on other pictures: it gets a discriminator, and its scores bear its name.
    """

    name: str
    channels: int
    stride: int
    coarse: int
    write: Callable[[GraphWriter, str], str]
    is_pretrained: bool

    @property
    def score_prefix(self) -> str:
        """Before the names of scores."""
        return f"{self.name} " if self.is_pretrained else ""

    @property
    def coarse_stride(self) -> int:
        """Pixels of the model's input on a side of a cell that one-class branches work on."""
        return self.stride * self.coarse

    def write_coarse(self, g: GraphWriter, features: str) -> str:
        """The cells that one-class branches work on."""
        return features if self.coarse == 1 else g.pool("AveragePool", features, self.coarse, self.coarse)


BANK = Extractor("bank", FEATURES, STRIDE, COARSE, write_bank, is_pretrained=False)
