"""Fitting: with both classes by evidence, with normal pictures only by rule.

costs -> every family fold by fold -> out-of-fold scores -> segmenter by IoU, scores by ROC AUC, within the budget
-> threshold, confidence -> what was chosen, fitted on everything
"""

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from linewatch.anomaly_model.manifest import Decision, Json, Label
from linewatch.anomaly_model.progress import ProgressCallback
from linewatch.training.arrays import F64, Bools, Ints
from linewatch.training.data.folds import FOLDS, NORMALS_FOLDS, assign_folds, count_folds
from linewatch.training.data.pictures import PictureStore
from linewatch.training.families.cells import Cells, collect_cells
from linewatch.training.families.encoder import Encoder
from linewatch.training.families.extractor import BANK
from linewatch.training.families.family import Family
from linewatch.training.families.features import FeatureFamily
from linewatch.training.graph.outputs import FittedFamily, Score, Supervision
from linewatch.training.graph.spec import GraphSpec
from linewatch.training.options import TrainingOptions
from linewatch.training.selection.choice import Choice, Evidence, check_limit, choose
from linewatch.training.selection.cross_validation import OutOfFold, cross_validate
from linewatch.training.selection.decision import decide, decide_from_normals, weakness
from linewatch.training.selection.graph_cost import GraphCosts
from linewatch.training.selection.normals import choose_columns, score_normals
from linewatch.training.selection.segmenter import choose_segmenter
from linewatch.training.selection.stack import fit_normals_stack
from linewatch.training.workspace import Workspace

UNET_STEPS_FOR_ONE = 2
"""The U-Net's steps are smaller, and cost half."""
THIN_AT_INPUT = 6.0
"""Pixels at the model's input; label logits of thinner defects are brought to full resolution."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be fitted.

    Attributes:
        store: the training pictures.
        groups: pictures that must stay together share a number.
        defect_width: of thin defects, in pixels of the model's input; None without masks.
        options: what the user chose.
        workspace: where finished steps are kept.
        progress: told of what is done.
        encoder: pretrained; None where there is none.
    """

    store: PictureStore
    groups: Ints
    defect_width: float | None
    options: TrainingOptions
    workspace: Workspace
    progress: ProgressCallback
    encoder: Encoder | None = None

    @property
    def fine(self) -> bool:
        """Whether label logits are brought to full resolution."""
        return self.defect_width is not None and self.defect_width < THIN_AT_INPUT

    def cross_validate(self, family: Family) -> OutOfFold | None:
        """The family's out-of-fold scores; None for one that was dropped."""
        return cross_validate(family, self.store, self.groups, self.options.seed, self.workspace, self.progress)

    def feature_families(self, folds: int) -> list[FeatureFamily]:
        """The filter bank, and the pretrained nets that there are."""
        seed = self.options.seed
        families = []
        for extractor in [BANK, *(net.extractor() for net in (self.encoder, self.options.backbone) if net is not None)]:
            arrays = self.workspace.step(
                f"cells-{extractor.name}".replace(":", "-"),
                lambda e=extractor: collect_cells(self.store, e, seed, self.progress),  # type: ignore[misc]
            )
            # What the net learns from masks on the same encoder is better than what a classifier of its cells does.
            segments = self.encoder is None or extractor.name != self.encoder.label or not self.options.net_steps
            families.append(FeatureFamily(extractor, self.store, Cells(**arrays), self.groups, seed, folds, segments))  # type: ignore[arg-type]
        return families


@dataclass(frozen=True, slots=True)
class FitResult:
    """What fitting found.

    Attributes:
        graph_spec: of the shipped graph.
        fitted: every family that was fitted on all pictures, shipped or not.
        decision: threshold and slope.
        labels: with their minimum areas; empty for classification.
        out_of_fold: N scores that no picture's own label took part in.
        choice: None with normal pictures only.
        findings: what the bundle and the report say of it.
        weak: why it is not better than calling everything anomalous; empty when it is, or when there is no telling.
        warnings: what else people must know.
    """

    graph_spec: GraphSpec
    fitted: dict[str, FittedFamily]
    decision: Decision
    labels: list[Label]
    out_of_fold: F64
    choice: Choice | None
    findings: Json
    weak: str = ""
    warnings: tuple[str, ...] = ()


def fit(task: Task) -> FitResult:
    """Fit by the regime that the pictures ask for.

    Raises:
        DatasetError: the budget is a limit, and nothing keeps within it; said before anything slow is done.
    """
    return fit_labelled(task) if task.store.is_anomaly.any() else fit_normals(task)


def fit_normals(task: Task) -> FitResult:
    """Normal pictures only: the one-class scores that find made-up defects, and a threshold for a stated false-alarm rate."""
    folds = count_folds(task.store.is_anomaly, task.groups, NORMALS_FOLDS)
    families = {family.name: family for family in task.feature_families(folds)}
    everything = np.ones(len(task.store), bool)
    samples: dict[str, FittedFamily] = {name: family.fit(everything, "final") for name, family in families.items()}
    cost = GraphCosts(task.store, samples, fine=task.fine)
    peaks = tuple(c for c, score in cost.scores.items() if score.is_peak)  # the mean over a picture says little of one place
    check_limit(min(cost((c,), None) for c in peaks), task.options.budget)
    if task.options.budget.is_limit:
        peaks = tuple(c for c in peaks if cost((c,), None) <= task.options.budget.ms)
    found = score_normals(list(families.values()), task.store, task.groups, task.options.seed, task.workspace, task.progress)
    columns, alone = choose_columns(found, peaks)
    while task.options.budget.is_limit and cost(columns, None) > task.options.budget.ms:
        columns = columns[:-1]
    matrix = np.stack([found.clean[c] for c in columns], axis=1)
    stack = fit_normals_stack(matrix)
    scores = stack(matrix)
    target = task.options.false_alarms
    milliseconds = cost(columns, None)
    findings: Json = {
        "regime": "normal pictures only",
        "why": f"{', '.join(columns)} of {len(alone)} scores: of defects made up on pictures that no fit had seen they find most (ROC AUC "
        f"{found.roc_auc(columns):.3f}); the threshold is the score that {target:.1%} of normal parts are expected to exceed",
        "made_up_roc_auc": {c: round(value, 4) for c, value in sorted(alone.items(), key=lambda item: -item[1])},
        "false_alarms": target,
        "folds": folds,
        "divisions": _divisions(task, {"every family": (found.folds, 1)}),
    }
    warning = f"the model costs {milliseconds:.1f} ms, more than the {task.options.budget.ms:g} ms that are wished for"
    fitted = {name: samples[name] for name in cost.families(columns, None)}
    return FitResult(
        GraphSpec(fitted, columns, stack, None, fine=False), samples, decide_from_normals(scores, target), [], scores, None, findings,
        warnings=(warning,) if milliseconds > task.options.budget.ms else (),
    )  # fmt: skip


def fit_labelled(task: Task) -> FitResult:
    """Both classes: every family is tried, and what the evidence says is fitted on everything."""
    store, options = task.store, task.options
    candidates: list[Family] = [*task.feature_families(FOLDS)]
    if options.net_steps:
        candidates.append(net_family(task))
    families = {family.name: family for family in candidates}
    everything = np.ones(len(store), bool)
    placeholders: dict[str, FittedFamily] = {n: p for n, f in families.items() if (p := f.placeholder()) is not None}
    samples = {name: placeholders.get(name) or family.fit(everything, "final") for name, family in families.items()}
    cost = GraphCosts(store, samples, fine=task.fine)
    if options.budget.is_limit:
        check_limit(cost.least(), options.budget)
    tried = {name: task.cross_validate(family) for name, family in families.items()}
    found = {name: oof for name, oof in tried.items() if oof is not None}
    scores = {column: values for oof in found.values() for column, values in oof.scores.items()}
    segmenter = choose_segmenter(found, lambda name: cost(_first_peak(found[name], cost.scores), name), options.budget)
    folds = assign_folds(store.strata(), task.groups, count_folds(store.is_anomaly, task.groups, FOLDS), options.seed)
    family_of = {column: name for name, oof in found.items() for column in oof.scores}
    evidence = Evidence(scores, family_of, store.is_anomaly, folds, task.groups)
    choice = choose(_combinations(found, cost.scores), evidence, lambda columns: cost(columns, segmenter), options.budget)
    task.progress("fitting the final model", 0, 1)
    fitted = {
        name: families[name].fit(everything, "final") if name in placeholders else samples[name]
        for name in cost.families(choice.columns, segmenter)
    }
    task.progress("fitting the final model", 1, 1)
    labels: list[Label] = []
    if segmenter is not None:
        areas = found[segmenter].minimum_areas()
        labels = [msgspec.structs.replace(lb, minimum_area=a) for lb, a in zip(store.labels, areas, strict=True)]
    return FitResult(
        GraphSpec(fitted, choice.columns, choice.stack, segmenter, task.fine),
        {name: f for name, f in (samples | fitted).items() if name not in placeholders or name in fitted},
        decide(choice.out_of_fold, store.is_anomaly), labels, choice.out_of_fold, choice,
        _findings(task, choice, tried, segmenter), weakness(choice.out_of_fold, store.is_anomaly, folds),
        (choice.warning,) if choice.warning else (),
    )  # fmt: skip


def net_family(task: Task) -> Family:
    """The net that is fitted to these pictures: on the encoder where there is one."""
    # Importing torch takes two seconds, which a quick training without an encoder does without.
    from linewatch.training.families.segmentation_training import SegmentationFamily
    from linewatch.training.families.unet_training import UNetFamily

    steps, seed = task.options.net_steps, task.options.seed
    if task.encoder is None:
        return UNetFamily(task.store, UNET_STEPS_FOR_ONE * steps, seed, task.workspace, task.progress)
    return SegmentationFamily(task.encoder, task.store, steps, seed, task.workspace, task.progress)


def _first_peak(oof: OutOfFold, scores: Mapping[str, Score]) -> tuple[str, ...]:
    return (next(c for c in oof.scores if scores[c].is_peak),)


def _combinations(found: dict[str, OutOfFold], scores: Mapping[str, Score]) -> dict[str, tuple[str, ...]]:
    """Combinations worth trying: each family's scores, its one-class scores, and everything."""
    combinations: dict[str, tuple[str, ...]] = {}
    for name, oof in found.items():
        combinations[f"{name}, all scores"] = tuple(oof.scores)
        one_class = tuple(c for c in oof.scores if scores[c].supervision is Supervision.ONE_CLASS)
        if one_class:
            combinations[f"{name}, one-class scores"] = one_class
    if len(found) > 1:
        combinations["everything"] = tuple(c for oof in found.values() for c in oof.scores)
    return combinations


def _findings(task: Task, choice: Choice, tried: Mapping[str, OutOfFold | None], segmenter: str | None) -> Json:
    found = {name: oof for name, oof in tried.items() if oof is not None}
    names = [label.name for label in task.store.labels]
    findings: Json = {
        "regime": "normal and anomalous pictures" + (" with masks" if segmenter else ""),
        "why": choice.reason,
        "budget_ms": task.options.budget.ms,
        "budget_is_limit": task.options.budget.is_limit,
        "candidates": [
            {"name": c.name, "scores": list(c.columns), "roc_auc": round(c.roc_auc, 4), "log_loss": round(c.log_loss, 4),
             "standard_error": round(c.standard_error, 4), "difference_error": round(c.difference_error, 4),
             "milliseconds": round(c.milliseconds, 2)}
            for c in choice.candidates
        ],
        "divisions": _divisions(task, {name: (oof.folds, oof.divisions) for name, oof in found.items()}),
        "dropped": [name for name in tried if name not in found],
        "weights": {c: round(float(w), 6) for c, w in zip(choice.columns, choice.stack.weights, strict=True)},
    }  # fmt: skip
    if segmenter is not None:
        ious = {name: [round(float(v), 4) for v in oof.average_iou()] for name, oof in found.items() if oof.segments}
        findings["segmentation"] = {
            "chosen": segmenter,
            "resolution": "full" if task.fine else "half",
            "average_iou": {name: dict(zip(names, values, strict=True)) for name, values in ious.items()},
        }
    return findings


def _divisions(task: Task, found: Mapping[str, tuple[Ints, int]]) -> dict[str, Json]:
    """Of each family in how many ways the pictures were divided, and how many pictures and groups of each class each fold had."""

    def count(members: Bools) -> Json:
        return {"pictures": int(members.sum()), "groups": len(np.unique(task.groups[members]))}

    is_anomaly = task.store.is_anomaly
    return {
        name: {
            "ways": ways,
            "folds": [
                {"normal": count(~is_anomaly & (folds == fold)), "anomaly": count(is_anomaly & (folds == fold))}
                for fold in range(int(folds.max()) + 1)
            ],
        }
        for name, (folds, ways) in found.items()
    }
