"""Branches that know normal pictures only: how far is a cell from what was seen there, or anywhere?

Each is fitted on feature cells of normal pictures and writes itself into the graph. A branch offers scalar scores
(1 x 1 x 1 x 1 each, larger is more anomalous); `linewatch.training.selection.stack` weighs them.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linewatch.training.arrays import F32
from linewatch.training.graph.outputs import Score, Supervision
from linewatch.training.graph.writer import GraphWriter


def peak(g: GraphWriter, cells: str, supervision: Supervision) -> Score:
    """The largest 3 x 3 mean of a one-channel map: a lone noisy cell does not decide."""
    return Score(g.node("GlobalMaxPool", g.pool("AveragePool", cells, 3, 1)), supervision, is_peak=True)


def _mean(g: GraphWriter, distance: str) -> Score:
    return Score(g.node("GlobalAveragePool", distance), Supervision.ONE_CLASS)


def whitening(cells: F32, dimensions: int, rng: np.random.Generator) -> tuple[F32, F32]:
    """The first principal components of cells (n x F), scaled towards unit variance.

    Returns:
        projection (D x F) and offset (D): points are cells @ projection.T + offset.
    """
    mean = cells.mean(axis=0)
    scale = cells.std(axis=0) + 1e-3
    standard = ((cells - mean) / scale)[rng.permutation(len(cells))[:8000]]
    _, singular, rows = np.linalg.svd(standard, full_matrices=False)
    dimensions = min(dimensions, len(rows))
    deviation = np.maximum(singular[:dimensions] / np.sqrt(len(standard)), 1e-3)
    # Full whitening would blow up noise in the last dimensions; the square root is the usual middle way.
    projection = rows[:dimensions] / np.sqrt(deviation)[:, None] / scale
    return projection.astype(np.float32), (-projection @ mean).astype(np.float32)


@dataclass(frozen=True, slots=True)
class NearestNeighbours:
    """Distance of each coarse cell to the nearest of a bank of normal cells, in whitened PCA space.

    After PatchCore (Roth et al. 2022): half the bank by greedy k-centre selection, half at random.

    Attributes:
        projection: D x features, whitening.
        offset: D.
        bank: M x D.
    """

    projection: F32
    offset: F32
    bank: F32

    @classmethod
    def fit(cls, cells: F32, rng: np.random.Generator, *, dimensions: int = 24, size: int = 512) -> "NearestNeighbours":
        """Fit on cells of normal pictures.

        Args:
            cells: n x F.
            rng: of the choice among them.
            dimensions: principal components that distances are measured in.
            size: cells in the bank.
        """
        projection, offset = whitening(cells, dimensions, rng)
        points = cells @ projection.T + offset
        return cls(
            projection.astype(np.float32), offset.astype(np.float32), _choose_bank(points, size, rng).astype(np.float32)
        )

    def write(self, g: GraphWriter, features: str) -> tuple[str, dict[str, Score]]:
        """Write over features (1 x F x h x w); returns the distance map (1 x 1 x h x w) and the scores."""
        point = g.conv(features, self.projection[:, :, None, None], self.offset)
        # min |x - c|^2 = |x|^2 - max(2 x.c - |c|^2): one convolution and one maximum over channels.
        nearness = g.conv(point, 2 * self.bank[:, :, None, None], -(self.bank**2).sum(axis=1))
        nearest = g.node("ReduceMax", nearness, axes=[1], keepdims=1)
        ones = np.ones((1, self.bank.shape[1], 1, 1), np.float32)
        length = g.conv(g.node("Mul", point, point), ones)
        distance = g.node("Sqrt", g.node("Relu", g.node("Sub", length, nearest)))
        return distance, {
            "nearest-neighbour peak": peak(g, distance, Supervision.ONE_CLASS),
            "nearest-neighbour mean": _mean(g, distance),
        }


def _choose_bank(points: npt.NDArray[np.floating], size: int, rng: np.random.Generator) -> npt.NDArray[np.floating]:
    if len(points) <= size:
        return points
    order = rng.permutation(len(points))
    random, pool = points[order[: size - size // 2]], points[order[size - size // 2 :][:12000]]
    nearest = np.full(len(pool), np.inf)
    latest, chosen = pool[0], [0]
    for _ in range(min(size // 2, len(pool)) - 1):
        nearest = np.minimum(nearest, ((pool - latest) ** 2).sum(axis=1))
        chosen.append(int(nearest.argmax()))
        latest = pool[chosen[-1]]
    return np.concatenate([random, pool[chosen]])


@dataclass(frozen=True, slots=True)
class PositionGaussian:
    """Distance of each cell to what is normal at its place, in deviations there.

    After PaDiM (Defard et al. 2021), with a covariance that is diagonal after one whitening for all places: a full one at
    each place would be megabytes of graph and would need as many normal pictures as dimensions.

    Attributes:
        projection: D x features, whitening.
        offset: D.
        mean, precision: D x h x w; precision is 1 / deviation.
    """

    projection: F32
    offset: F32
    mean: F32
    precision: F32

    @classmethod
    def fit(cls, maps: F32, rng: np.random.Generator, *, dimensions: int = 24) -> "PositionGaussian":
        """Fit on n x F x h x w feature maps of normal pictures."""
        cells = maps.transpose(0, 2, 3, 1).reshape(-1, maps.shape[1])
        projection, offset = whitening(cells[rng.permutation(len(cells))[:60000]], dimensions, rng)
        points = np.einsum("df,nfhw->ndhw", projection, maps, optimize=True) + offset[:, None, None]
        mean = points.mean(axis=0)
        variance = points.var(axis=0)
        # Few pictures tell little about one place: its variance is drawn towards the mean over all places.
        overall = variance.mean(axis=(1, 2), keepdims=True)
        trust = len(maps) / (len(maps) + 10)
        deviation = np.sqrt(trust * variance + (1 - trust) * overall + 1e-6)
        return cls(projection, offset, mean.astype(np.float32), (1 / deviation).astype(np.float32))

    def write(self, g: GraphWriter, features: str) -> tuple[str, dict[str, Score]]:
        """Write over features (1 x F x h x w); returns the distance map (1 x 1 x h x w) and the scores."""
        point = g.conv(features, self.projection[:, :, None, None], self.offset)
        centred = g.node("Sub", point, g.constant(self.mean[None]))
        away = g.node("Mul", centred, g.constant(self.precision[None]))
        share = np.full((1, len(self.offset), 1, 1), 1 / len(self.offset), np.float32)
        distance = g.node("Sqrt", g.conv(g.node("Mul", away, away), share))
        return distance, {
            "position peak": peak(g, distance, Supervision.ONE_CLASS),
            "position mean": _mean(g, distance),
        }
