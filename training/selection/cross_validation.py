"""Out-of-fold scores: what each family says of pictures that it was not fitted on, from running its ONNX graph."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linewatch.anomaly_model.detection import strongest_label
from linewatch.anomaly_model.progress import ProgressCallback
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.training.arrays import F64, Bools, Ints, LabelMap
from linewatch.training.data.folds import assign_folds, count_divisions, count_folds
from linewatch.training.data.masks import resize_nearest
from linewatch.training.data.pictures import PictureStore
from linewatch.training.families.family import Family
from linewatch.training.graph.color import write_color
from linewatch.training.graph.writer import GraphWriter
from linewatch.training.metrics import roc_auc
from linewatch.training.selection.decision import minimum_areas
from linewatch.training.workspace import Arrays, Workspace

NEAR_CHANCE = 0.6
"""ROC AUC that no score of a slow family reaches on its first fold..."""
USELESS_MASKS = 0.1
"""...and mean IoU that its masks stay below: then it is dropped."""
_SCORE = "score "
"""Before the names of scores among the arrays of a finished fold."""


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """What a family said of every picture.

    Attributes:
        family: its name.
        scores: score name to N scores.
        areas: N x labels, the share of the picture that each label was found on; NaN without segmentation.
        shown: N x labels, the share of the picture that the mask shows; NaN where a picture has no known mask.
        overlaps: N x labels, intersection / union with the mask; NaN where neither mask nor family shows the label, and
            where a picture has no known mask.
        folds: N fold numbers; of the first division where there are several, from which areas and overlaps are.
        divisions: in how many ways the pictures were divided; scores are averages over them.
    """

    family: str
    scores: dict[str, F64]
    areas: F64
    shown: F64
    overlaps: F64
    folds: Ints
    divisions: int

    @property
    def segments(self) -> bool:
        """Whether the family finds labels."""
        return not np.isnan(self.areas).all()

    def minimum_areas(self) -> list[float]:
        """For each label the smallest area that counts; see `decision.minimum_areas`."""
        known = ~np.isnan(self.shown).any(axis=1)
        return minimum_areas(self.areas[known], self.shown[known])

    def average_iou(self) -> F64:
        """Average IoU of each label when areas below the minimum do not count; 0 where it never occurs."""
        wiped = self.areas < np.array(self.minimum_areas())
        overlaps = np.where(wiped, np.where(self.shown > 0, 0.0, np.nan), self.overlaps)
        known = ~np.isnan(overlaps)
        return np.asarray(np.where(known, overlaps, 0).sum(axis=0) / np.maximum(1, known.sum(axis=0)))


def cross_validate(
    family: Family, store: PictureStore, groups: Ints, seed: int, workspace: Workspace, progress: ProgressCallback
) -> OutOfFold | None:
    """Fit and score the family fold by fold; None for one that is slow to fit and near chance on its first fold.

    Where few pictures make one division a matter of luck, and the family is quick to fit, they are divided in several ways and each
    picture's scores are averaged: as scores, not as ranks, since threshold and probability are chosen on their scale, and on drawn
    pictures both give the same areas. Two divisions take away most of what one errs downwards (ROC AUC -.013 to -.003 with 40
    pictures); what a third and fifth add is not seen, and how far an area strays is for the most part up to the pictures.

    Args:
        family: what is fitted.
        store: the training pictures.
        groups: N group numbers; pictures that must stay together share one.
        seed: of the folds.
        workspace: where finished folds are kept.
        progress: told of each fold.
    """
    number = count_folds(store.is_anomaly, groups, family.folds)
    ways = [
        assign_folds(store.strata(), groups, number, seed + way)
        for way in range(count_divisions(store.is_anomaly, groups, number, family.divisions))
    ]
    total = number * len(ways)

    def score(step: int) -> Arrays:
        folds, fold = ways[step // number], step % number
        progress(f"cross-validating {family.name}", step, total)
        held_out = np.flatnonzero(folds == fold)
        key = f"fold-{step + 1}-of-{total}"
        return workspace.step(
            f"fold-{family.name}-{step}".replace(" ", "-"), lambda: _score(family, store, folds != fold, held_out, key)
        )

    if family.placeholder() is not None and _near_chance(score(0), store.is_anomaly[ways[0] == 0]):
        progress(f"cross-validating {family.name}", total, total)
        return None
    found = [_together(folds, [score(way * number + fold) for fold in range(number)]) for way, folds in enumerate(ways)]
    progress(f"cross-validating {family.name}", total, total)
    # A branch that some fold could not be fitted for (too few pictures of a class) has nothing to say as a whole.
    names = [name for name in found[0] if name.startswith(_SCORE) and not any(np.isnan(way.get(name, np.nan)).any() for way in found)]
    scores = {name.removeprefix(_SCORE): np.mean([way[name] for way in found], axis=0) for name in names}
    return OutOfFold(family.name, scores, found[0]["areas"], found[0]["shown"], found[0]["overlaps"], ways[0], len(ways))


def _near_chance(fold: Arrays, truth: Bools) -> bool:
    """Whether nothing of what a family said of a fold is worth the time of the other folds."""
    if truth.all() or not truth.any():
        return False
    areas = [roc_auc(np.asarray(values, np.float64), truth) for name, values in fold.items() if name.startswith(_SCORE)]
    overlaps = np.asarray(fold["overlaps"], np.float64)
    masks = float(np.nanmean(overlaps)) if np.isfinite(overlaps).any() else 0.0
    return max(areas) < NEAR_CHANCE and masks < USELESS_MASKS


def _together(folds: Ints, kept: list[Arrays]) -> dict[str, F64]:
    """What was found fold by fold, for all N pictures; NaN where a fold had nothing to say."""
    result: dict[str, F64] = {}
    for fold, arrays in enumerate(kept):
        for name, values in arrays.items():
            whole = result.setdefault(name, np.full((len(folds), *values.shape[1:]), np.nan))
            whole[folds == fold] = values
    return result


def _score(family: Family, store: PictureStore, chosen: npt.NDArray[np.bool_], held_out: Ints, key: str) -> Arrays:
    fitted = family.fit(chosen, key)
    g = GraphWriter(store.spec.height, store.spec.width)
    written = fitted.write(g, write_color(g))
    outputs = written.score_values
    if written.segmentation is not None:
        outputs.append(written.segmentation.logits)
    runtime = OnnxRuntime(g.build(outputs), threads=2)
    labels = len(store.labels)
    columns: dict[str, F64] = {f"{_SCORE}{name}": np.zeros(len(held_out)) for name in written.scores}
    areas, shown, overlaps = (np.full((len(held_out), labels), np.nan) for _ in range(3))
    known = store.has_pixel_labels()
    for row, index in enumerate(held_out):
        values = runtime.run_arrays(store.input(int(index)))
        for column, value in zip(columns.values(), values, strict=False):
            column[row] = float(value.reshape(-1)[0])
        if written.segmentation is not None and labels:
            found = strongest_label(values[-1][0])
            areas[row] = [(found == k + 1).mean() for k in range(labels)]
            if known[index]:
                truth = store.label_map(int(index))
                shown[row] = [(truth == k + 1).mean() for k in range(labels)]
                overlaps[row] = _overlaps(truth, found, labels)
    return {**columns, "areas": areas, "shown": shown, "overlaps": overlaps}


def _overlaps(truth: LabelMap, found: LabelMap, labels: int) -> list[float]:
    found = resize_nearest(found, *truth.shape)
    result = []
    for k in range(1, labels + 1):
        t, f = truth == k, found == k
        union = int((t | f).sum())
        result.append(int((t & f).sum()) / union if union else np.nan)
    return result
