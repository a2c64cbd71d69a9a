"""Feature extractors, and the sampled cells of every training picture that branches are fitted on.

Pictures pass through the extractor's graph one at a time and only sampled cells are kept, so memory is bounded however
many pictures there are.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation

from linewatch.anomaly_model.progress import ProgressCallback
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.training.arrays import F32, Bools
from linewatch.training.data.pictures import PictureStore
from linewatch.training.families.extractor import Extractor
from linewatch.training.families.supervised import CONTEXT, CellClassifier
from linewatch.training.graph.color import write_color
from linewatch.training.graph.writer import GraphWriter
from linewatch.training.workspace import Arrays

DEFECT_SHARE = 0.3
"""A cell belongs to a label when the label covers at least this share of it..."""
CLEAR_SHARE = 0.02
"""...and to the background when no label covers more than this; cells between are left out."""
NEARBY = 3
"""Cells from a defect within which background counts as its boundary."""
DEFECT_CELLS = 400
BACKGROUND_CELLS = 300
NEARBY_CELLS = 120
COARSE_CELLS = 250
HARD_CELLS = 40
HARD_PICTURES = 400
"""Normal pictures searched for cells that fool the first fit."""
FINE_TOTAL = 250_000
COARSE_TOTAL = 100_000
MAP_VALUES = 80_000_000
"""Bounds over all pictures: fine cells, coarse cells, and values in whole feature maps."""


@dataclass(frozen=True, slots=True)
class Cells:
    """Sampled cells; an `owner` is the index of the picture that a cell comes from.

    Attributes:
        fine: n x 2 F, a cell and its context; fine_class: 0 background, i + 1 label i.
        coarse: n x F, of normal pictures.
        maps: m x F x h x w, whole coarse maps of normal pictures.
        pooled: pictures x numbers, of each picture as a whole.
    """

    fine: F32
    fine_class: npt.NDArray[np.int64]
    fine_owner: npt.NDArray[np.int64]
    coarse: F32
    coarse_owner: npt.NDArray[np.int64]
    maps: F32
    maps_owner: npt.NDArray[np.int64]
    pooled: F32


def collect_cells(store: PictureStore, extractor: Extractor, seed: int, progress: ProgressCallback) -> Arrays:
    """Sample cells from every picture.

    Args:
        store: the pictures.
        extractor: what makes cells of them.
        seed: of the sampling.
        progress: told of each picture.

    Returns:
        The fields of `Cells`.
    """
    rng = np.random.default_rng([seed, 2])
    g = GraphWriter(store.spec.height, store.spec.width)
    features = extractor.write(g, write_color(g))
    fine_map = g.concat(features.cells, g.pool("AveragePool", features.cells, CONTEXT, 1))
    runtime = OnnxRuntime(g.build([fine_map, extractor.write_coarse(g, features.cells), features.statistics]), threads=2)
    count = len(store)
    normals = np.flatnonzero(~store.is_anomaly)
    share = min(1.0, FINE_TOTAL / (count * (BACKGROUND_CELLS + DEFECT_CELLS)))
    coarse_each = int(np.clip(COARSE_TOTAL // max(1, len(normals)), 4, COARSE_CELLS))
    kept_maps: set[int] = set()
    fine: list[F32] = []
    classes: list[npt.NDArray[np.int64]] = []
    coarse: list[F32] = []
    maps: list[F32] = []
    pooled: list[F32] = []
    for i in range(count):
        progress(f"computing features ({extractor.name})", i, count)
        cell, wide, statistics = runtime.run_arrays(store.input(i))
        pooled.append(statistics.reshape(-1))
        if i == 0:
            kept_maps = set(rng.permutation(normals)[: max(8, MAP_VALUES // wide[0].size)].tolist())
        if i in kept_maps:
            maps.append(wide[0])
        flat = wide[0].reshape(wide.shape[1], -1).T
        # A copy: even an empty view would keep the whole map in memory, for every picture.
        coarse.append(flat[:0].copy() if store.is_anomaly[i] else flat[rng.permutation(len(flat))[:coarse_each]])
        index, labels = _choose(store, i, extractor.stride, share, rng)
        fine.append(cell[0].reshape(cell.shape[1], -1).T[index])
        classes.append(labels)
    progress(f"computing features ({extractor.name})", count, count)
    return {
        "fine": np.concatenate(fine),
        "fine_class": np.concatenate(classes),
        "fine_owner": np.repeat(np.arange(count), [len(c) for c in classes]),
        "coarse": np.concatenate(coarse),
        "coarse_owner": np.repeat(np.arange(count), [len(c) for c in coarse]),
        "maps": np.stack(maps) if maps else np.zeros((0, extractor.channels, 1, 1), np.float32),
        "maps_owner": np.array(sorted(kept_maps), np.int64),
        "pooled": np.stack(pooled),
    }


def _choose(
    store: PictureStore, i: int, stride: int, share: float, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which cells of picture i to keep for the cell classifier, and their classes."""
    labels = len(store.labels)
    if not labels or (store.is_anomaly[i] and not store.has_mask[i]):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    coverage = store.coverage(i, stride)
    shares = coverage.reshape(labels, -1)
    strongest, covered = shares.argmax(axis=0), shares.max(axis=0)
    background = np.flatnonzero(covered <= CLEAR_SHARE)
    kept = [rng.permutation(background)[: max(10, int(share * BACKGROUND_CELLS))]]
    classes = [np.zeros(len(kept[0]), np.int64)]
    defect = rng.permutation(np.flatnonzero(covered >= DEFECT_SHARE))[: max(10, int(share * DEFECT_CELLS))]
    if len(defect):
        kept.append(defect)
        classes.append(strongest[defect] + 1)
        # The boundary is where a mask is right or wrong.
        grown = binary_dilation(coverage.max(axis=0) >= DEFECT_SHARE, np.ones((2 * NEARBY + 1, 2 * NEARBY + 1)))
        near = np.intersect1d(background, np.flatnonzero(grown))
        near = rng.permutation(near)[: max(5, int(share * NEARBY_CELLS))]
        kept.append(near)
        classes.append(np.zeros(len(near), np.int64))
    return np.concatenate(kept), np.concatenate(classes)


def hard_negatives(store: PictureStore, extractor: Extractor, classifier: CellClassifier, chosen: Bools, seed: int) -> F32:
    """The background cells of the chosen normal pictures that look most like defects to a first fit.

    A picture's score is a maximum over thousands of cells, so the rare worst cells decide; random sampling misses them.

    Args:
        store: the pictures.
        extractor: what makes cells of them.
        classifier: the first fit.
        chosen: N bool, which pictures are searched.
        seed: of the choice where there are more normal pictures than `HARD_PICTURES`.

    Returns:
        n x 2 F float32, cells and their context.
    """
    g = GraphWriter(store.spec.height, store.spec.width)
    cells = extractor.write(g, write_color(g)).cells
    logits = classifier.write_logits(g, cells)
    fine = g.concat(cells, g.pool("AveragePool", cells, CONTEXT, 1))
    runtime = OnnxRuntime(g.build([logits, fine]), threads=2)
    found: list[F32] = [np.zeros((0, 2 * extractor.channels), np.float32)]
    normals = np.random.default_rng([seed, 3]).permutation(np.flatnonzero(chosen & ~store.is_anomaly))[:HARD_PICTURES]
    for i in normals:
        score, cell = runtime.run_arrays(store.input(int(i)))
        strongest = score[0].max(axis=0).ravel()
        worst = np.argsort(strongest)[-HARD_CELLS:]
        found.append(cell[0].reshape(cell.shape[1], -1).T[worst[strongest[worst] > -2]])
    return np.concatenate(found)
