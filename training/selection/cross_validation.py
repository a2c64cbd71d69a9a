"""Out-of-fold scores: what each family says of pictures that it was not fitted on, from running its ONNX graph."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linewatch.anomaly_model.detection import strongest_label
from linewatch.anomaly_model.progress import ProgressCallback
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.training.arrays import F64, Ints, LabelMap
from linewatch.training.data.folds import assign_folds, count_folds
from linewatch.training.data.masks import resize_nearest
from linewatch.training.data.pictures import PictureStore
from linewatch.training.families.family import Family
from linewatch.training.graph.color import write_color
from linewatch.training.graph.writer import GraphWriter
from linewatch.training.selection.decision import minimum_areas
from linewatch.training.workspace import Arrays, Workspace


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
    """

    family: str
    scores: dict[str, F64]
    areas: F64
    shown: F64
    overlaps: F64

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
) -> OutOfFold:
    """Fit and score the family fold by fold.

    Args:
        family: what is fitted.
        store: the training pictures.
        groups: N group numbers; pictures that must stay together share one.
        seed: of the folds.
        workspace: where finished folds are kept.
        progress: told of each fold.
    """
    number = count_folds(store.is_anomaly, groups, family.folds)
    folds = assign_folds(store.strata(), groups, number, seed)
    count, labels = len(store), len(store.labels)
    scores: dict[str, F64] = {}
    areas, shown, overlaps = (np.full((count, labels), np.nan) for _ in range(3))
    for fold in range(number):
        progress(f"cross-validating {family.name}", fold, number)
        held_out = np.flatnonzero(folds == fold)
        if not len(held_out):
            continue
        kept = workspace.step(
            f"fold-{family.name}-{fold}".replace(" ", "-"),
            lambda fold=fold, held_out=held_out: _score(  # type: ignore[misc]
                family, store, folds != fold, held_out, f"fold-{fold + 1}-of-{number}"
            ),
        )
        for name, values in kept.items():
            if name.startswith("score "):
                column = scores.setdefault(name.removeprefix("score "), np.full(count, np.nan))
                column[held_out] = values
        areas[held_out], shown[held_out], overlaps[held_out] = kept["areas"], kept["shown"], kept["overlaps"]
    progress(f"cross-validating {family.name}", number, number)
    # A branch that some fold could not be fitted for (too few pictures of a class) has nothing to say as a whole.
    complete = {name: values for name, values in scores.items() if not np.isnan(values).any()}
    return OutOfFold(family.name, complete, areas, shown, overlaps)


def _score(family: Family, store: PictureStore, chosen: npt.NDArray[np.bool_], held_out: Ints, key: str) -> Arrays:
    fitted = family.fit(chosen, key)
    g = GraphWriter(store.spec.height, store.spec.width)
    written = fitted.write(g, write_color(g))
    outputs = written.score_values
    if written.segmentation is not None:
        outputs.append(written.segmentation.logits)
    runtime = OnnxRuntime(g.build(outputs), threads=2)
    labels = len(store.labels)
    columns: dict[str, F64] = {f"score {name}": np.zeros(len(held_out)) for name in written.scores}
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
