"""What the branches are fitted on: sampled feature cells of every training picture.

Pictures are passed through the bank's graph one at a time and only sampled cells are kept, so memory grows with the
number of samples and not with the pictures' area.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from anomaly_model.runtime_onnx import OnnxRuntime
from training.branches import CONTEXT, Segmentation
from training.graph import COARSE, F32, GraphWriter, write_bank
from training.pictures import LoadedSet, Progress

DEFECT_SHARE = 0.3
"""A cell belongs to a label when the label covers at least this share of it..."""
CLEAR_SHARE = 0.02
"""...and to the background when no label covers more than this; cells between are left out."""
DEFECT_CELLS = 400
BACKGROUND_CELLS = 300
NEARBY_CELLS = 120
COARSE_CELLS = 250
HARD_CELLS = 40


@dataclass(frozen=True, slots=True)
class Cells:
    """Sampled cells; `owner` is the index of the picture a cell comes from.

    Attributes:
        fine: n x 2 FEATURES, a cell and its context; fine_class: 0 background, i + 1 label i.
        coarse: n x FEATURES, of normal pictures only.
        pooled: pictures x 2 FEATURES, mean and maximum over the picture.
    """

    fine: F32
    fine_class: npt.NDArray[np.int64]
    fine_owner: npt.NDArray[np.int64]
    coarse: F32
    coarse_owner: npt.NDArray[np.int64]
    pooled: F32


def _feature_graph(height: int, width: int) -> OnnxRuntime:
    """Features with context (fine), coarse features, and pooled statistics."""
    g = GraphWriter(height, width)
    features = write_bank(g)
    fine = g.concat(features, g.pool("AveragePool", features, CONTEXT, 1))
    coarse = g.pool("AveragePool", features, COARSE, COARSE)
    pooled = g.concat(g.node("GlobalAveragePool", features), g.node("GlobalMaxPool", features))
    return OnnxRuntime(g.build([fine, coarse, pooled]), threads=2)


def collect_cells(data: LoadedSet, rng: np.random.Generator, progress: Progress) -> Cells:
    """Sample cells from every picture."""
    runtime = _feature_graph(data.spec.height, data.spec.width)
    fine: list[F32] = []
    classes: list[npt.NDArray[np.int64]] = []
    coarse: list[F32] = []
    pooled: list[F32] = []
    count = len(data.names)
    for i in range(count):
        progress("computing features", i, count)
        cell, wide, statistics = runtime.run_arrays(data.inputs[i : i + 1])
        pooled.append(statistics.reshape(-1))
        wide = wide[0].reshape(wide.shape[1], -1).T
        if data.is_anomaly[i]:
            coarse.append(wide[:0])
        else:
            coarse.append(wide[rng.permutation(len(wide))[:COARSE_CELLS]])
        index, labels = _choose(data, i, rng)
        fine.append(cell[0].reshape(cell.shape[1], -1).T[index])
        classes.append(labels)
    progress("computing features", count, count)
    return Cells(
        np.concatenate(fine),
        np.concatenate(classes),
        np.repeat(np.arange(count), [len(c) for c in classes]),
        np.concatenate(coarse),
        np.repeat(np.arange(count), [len(c) for c in coarse]),
        np.stack(pooled),
    )


def _choose(data: LoadedSet, i: int, rng: np.random.Generator) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Which cells of picture i to keep for the segmentation, and their classes."""
    labels = data.coverage.shape[1]
    if not labels or (data.is_anomaly[i] and not data.has_mask[i]):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    shares = data.coverage[i].reshape(labels, -1)
    strongest, covered = shares.argmax(axis=0), shares.max(axis=0)
    background = np.flatnonzero(covered <= CLEAR_SHARE)
    kept = [rng.permutation(background)[:BACKGROUND_CELLS]]
    classes = [np.zeros(len(kept[0]), np.int64)]
    defect = rng.permutation(np.flatnonzero(covered >= DEFECT_SHARE))[:DEFECT_CELLS]
    if len(defect):
        kept.append(defect)
        classes.append(strongest[defect] + 1)
        near = rng.permutation(np.intersect1d(background, _around(covered, data, 3)))[:NEARBY_CELLS]
        kept.append(near)
        classes.append(np.zeros(len(near), np.int64))
    return np.concatenate(kept), np.concatenate(classes)


def _around(covered: F32, data: LoadedSet, reach: int) -> npt.NDArray[np.int64]:
    """Cells within `reach` of a defect: the boundary is where a mask is right or wrong."""
    h, w = data.coverage.shape[2:]
    mask = np.pad(covered.reshape(h, w) >= DEFECT_SHARE, reach)
    near = np.zeros((h, w), bool)
    for dy in range(2 * reach + 1):
        for dx in range(2 * reach + 1):
            near |= mask[dy : dy + h, dx : dx + w]
    return np.flatnonzero(near)


def hard_negatives(data: LoadedSet, segmentation: Segmentation, chosen: npt.NDArray[np.bool_]) -> F32:
    """The background cells of the chosen normal pictures that look most like defects to a first fit.

    A picture's score is a maximum over thousands of cells, so the rare worst cells decide; random sampling misses them.
    """
    g = GraphWriter(data.spec.height, data.spec.width)
    features = write_bank(g)
    logits = segmentation.write_logits(g, features)
    fine = g.concat(features, g.pool("AveragePool", features, CONTEXT, 1))
    runtime = OnnxRuntime(g.build([logits, fine]), threads=2)
    found: list[F32] = []
    for i in np.flatnonzero(chosen & ~data.is_anomaly):
        score, cell = runtime.run_arrays(data.inputs[i : i + 1])
        strongest = score[0].max(axis=0).ravel()
        worst = np.argsort(strongest)[-HARD_CELLS:]
        found.append(cell[0].reshape(cell.shape[1], -1).T[worst[strongest[worst] > -2]])
    return np.concatenate(found)
