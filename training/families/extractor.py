"""Feature extractors: what turns a picture into a map of feature cells, and into numbers for the whole of it, inside the graph."""

from collections.abc import Callable
from dataclasses import dataclass

from linewatch.training.graph.bank import COARSE, FEATURES, STRIDE, write_bank
from linewatch.training.graph.writer import GraphWriter


@dataclass(frozen=True, slots=True)
class Features:
    """What an extractor wrote into a graph.

    Attributes:
        cells: 1 x channels x H/stride x W/stride.
        statistics: 1 x numbers x 1 x 1, of the picture as a whole.
    """

    cells: str
    statistics: str


@dataclass(frozen=True, slots=True)
class Extractor:
    """Turns a picture into a map of feature cells.

    Attributes:
        name: as reports call it.
        channels: features a cell.
        stride: pixels of the model's input on a side of a cell.
        coarse: cells on a side that one-class branches average.
        write: writes it into a graph over `write_color`'s planes.
        is_pretrained: its weights were learnt on other pictures: it gets a discriminator, and its scores bear its name.
    """

    name: str
    channels: int
    stride: int
    coarse: int
    write: Callable[[GraphWriter, str], Features]
    is_pretrained: bool

    @property
    def score_prefix(self) -> str:
        """Before the names of scores."""
        return f"{self.name} " if self.is_pretrained else ""

    @property
    def coarse_stride(self) -> int:
        """Pixels of the model's input on a side of a cell that one-class branches work on."""
        return self.stride * self.coarse

    def write_coarse(self, g: GraphWriter, cells: str) -> str:
        """The cells that one-class branches work on."""
        return cells if self.coarse == 1 else g.pool("AveragePool", cells, self.coarse, self.coarse)


def write_statistics(g: GraphWriter, *grids: str, deviation: bool = False) -> str:
    """Mean and maximum of each channel of each grid, and its standard deviation on request; 1 x numbers x 1 x 1."""
    found = []
    for grid in grids:
        mean = g.node("GlobalAveragePool", grid)
        found += [mean, g.node("GlobalMaxPool", grid)]
        if deviation:
            square = g.node("GlobalAveragePool", g.node("Mul", grid, grid))
            # Never below 0, whatever rounding does.
            found.append(g.node("Sqrt", g.node("Relu", g.node("Sub", square, g.node("Mul", mean, mean)))))
    return g.concat(*found)


def _write_bank(g: GraphWriter, color: str) -> Features:
    cells = write_bank(g, color)
    return Features(cells, write_statistics(g, cells))


BANK = Extractor("bank", FEATURES, STRIDE, COARSE, _write_bank, is_pretrained=False)
