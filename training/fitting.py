"""Fitting: with both classes by evidence, with normal pictures only by rule.

every family fold by fold -> out-of-fold scores -> segmenter by IoU, scores by ROC AUC, within the budget
-> threshold, confidence -> what was chosen, fitted on everything
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from anomaly_model.manifest import Decision, InputSpec, Json, Label, PictureSize
from training.bank import write_color
from training.choice import Choice, choose
from training.cross_validation import OutOfFold, cross_validate, strata
from training.decision import decide, decide_from_normals
from training.export import Recipe, write_model
from training.families import Family, FeatureFamily, Fitted
from training.features import BANK, Cells, collect_cells
from training.folds import divide
from training.graph import GraphWriter
from training.latency import measure_ms
from training.options import TrainingOptions
from training.pictures import DEFAULT_SIDE, PictureStore, choose_input
from training.stack import Stack, fit_normals_stack
from training.unet import UNet, export
from training.unet_training import UNetFamily
from training.workspace import Progress, Workspace

F64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FOLDS = 6
NORMALS_FOLDS = 20
THIN_AT_INPUT = 6.0
"""Pixels at the model's input; label logits of thinner defects are brought to full resolution."""
SIDE_STEP = 64


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
    """

    store: PictureStore
    groups: Ints
    defect_width: float | None
    options: TrainingOptions
    workspace: Workspace
    progress: Progress

    @property
    def fine(self) -> bool:
        """Whether label logits are brought to full resolution."""
        return self.defect_width is not None and self.defect_width < THIN_AT_INPUT

    def cross_validate(self, family: Family) -> OutOfFold:
        """The family's out-of-fold scores."""
        return cross_validate(family, self.store, self.groups, self.options.seed, self.workspace, self.progress)

    def feature_families(self, folds: int) -> list[FeatureFamily]:
        """The filter bank, and the pretrained net where one was named."""
        backbone, seed = self.options.backbone, self.options.seed
        families = []
        for extractor in [BANK] if backbone is None else [BANK, backbone.extractor()]:
            arrays = self.workspace.step(
                f"cells-{extractor.name}".replace(":", "-"),
                lambda e=extractor: collect_cells(self.store, e, seed, self.progress),  # type: ignore[misc]
            )
            families.append(FeatureFamily(extractor, self.store, Cells(**arrays), seed, folds, extractor is not BANK))  # type: ignore[arg-type]
        return families


@dataclass(frozen=True, slots=True)
class Result:
    """What fitting found.

    Attributes:
        recipe: of the shipped graph.
        fitted: every family that was fitted on all pictures, shipped or not.
        decision: threshold and slope.
        labels: with their minimum areas; empty for classification.
        out_of_fold: N scores that no picture's own label took part in.
        choice: None with normal pictures only.
        findings: what the bundle and the report say of it.
    """

    recipe: Recipe
    fitted: dict[str, Fitted]
    decision: Decision
    labels: list[Label]
    out_of_fold: F64
    choice: Choice | None
    findings: Json


def fit(task: Task) -> Result:
    """Fit by the regime that the pictures ask for."""
    return fit_labelled(task) if task.store.is_anomaly.any() else fit_normals(task)


def fit_normals(task: Task) -> Result:
    """Normal pictures only: one-class scores, all counting alike, and a threshold for a stated false-alarm rate."""
    folds = min(NORMALS_FOLDS, int(task.groups.max()) + 1)
    # A pretrained net, where there is one, sees more than the bank.
    family = task.feature_families(folds)[-1]
    found = task.cross_validate(family)
    columns = tuple(c for c in found.scores if c.endswith("peak"))  # the mean over a picture says little of one place
    matrix = np.stack([found.scores[c] for c in columns], axis=1)
    stack = fit_normals_stack(matrix)
    scores = stack(matrix)
    task.progress("fitting the final model", 0, 1)
    fitted: dict[str, Fitted] = {family.name: family.fit(np.ones(len(task.store), bool), "final")}
    task.progress("fitting the final model", 1, 1)
    target = task.options.false_alarms
    findings: Json = {
        "regime": "normal pictures only",
        "why": f"no anomalies to choose by: {', '.join(columns)} count alike; the threshold is the score that {target:.1%} of "
        "normal parts are expected to exceed",
        "false_alarms": target,
        "folds": folds,
    }
    recipe = Recipe(fitted, columns, stack, None, fine=False)
    return Result(recipe, fitted, decide_from_normals(scores, target), [], scores, None, findings)


def fit_labelled(task: Task) -> Result:
    """Both classes: every family is tried, and what the evidence says is fitted on everything."""
    store, options = task.store, task.options
    families: dict[str, Family] = {f.name: f for f in task.feature_families(FOLDS)}
    if options.unet_steps:
        families["U-Net"] = UNetFamily(store, options.unet_steps, options.seed, task.workspace, task.progress)
    found = {name: task.cross_validate(family) for name, family in families.items()}
    owner = {column: name for name, oof in found.items() for column in oof.scores}
    scores = {column: values for oof in found.values() for column, values in oof.scores.items()}
    everything = np.ones(len(store), bool)
    # Untrained weights take as long as trained ones, so the slow net is not fitted before it is wanted.
    samples: dict[str, Fitted] = {
        name: untrained_unet(len(store.labels)) if name == "U-Net" else family.fit(everything, "final")
        for name, family in families.items()
    }
    known: dict[tuple[str | None, tuple[str, ...]], float] = {}

    def milliseconds(columns: tuple[str, ...], segmenter: str | None) -> float:
        """Time of the whole graph."""
        if (segmenter, columns) not in known:
            task.progress("measuring candidates", len(known), len(known) + 1)
            parts = {name: samples[name] for name in _used(columns, owner, segmenter)}
            even = Stack(np.ones(len(columns)), 0.0)
            graph = write_model(Recipe(parts, columns, even, segmenter, task.fine), store)
            known[segmenter, columns] = measure_ms(graph, store.input(0))
        return known[segmenter, columns]

    segmenter = _choose_segmenter(found, lambda name: milliseconds(_peak(found[name]), name), options.budget_ms)
    choice = choose(
        _groups(found), scores, store.is_anomaly, divide(strata(store), task.groups, FOLDS, options.seed),
        lambda columns: milliseconds(columns, segmenter), options.budget_ms,
    )  # fmt: skip
    task.progress("fitting the final model", 0, 1)
    fitted = {
        name: families[name].fit(everything, "final") if name == "U-Net" else samples[name]
        for name in _used(choice.columns, owner, segmenter)
    }
    task.progress("fitting the final model", 1, 1)
    labels: list[Label] = []
    if segmenter is not None:
        areas = found[segmenter].minimum_areas()
        labels = [msgspec.structs.replace(lb, minimum_area=a) for lb, a in zip(store.labels, areas, strict=True)]
    return Result(
        Recipe(fitted, choice.columns, choice.stack, segmenter, task.fine),
        {name: f for name, f in (samples | fitted).items() if name != "U-Net" or name in fitted},
        decide(choice.out_of_fold, store.is_anomaly), labels, choice.out_of_fold, choice,
        _findings(task, choice, found, segmenter),
    )  # fmt: skip


def affordable_side(picture: PictureSize, side: int, labels: int, options: TrainingOptions) -> int:
    """The largest side up to `side` at which a U-Net alone keeps within the budget, measured here; at least 256."""
    while side > DEFAULT_SIDE:
        spec = choose_input(picture, side)
        if _unet_ms(spec, labels) <= options.budget_ms:
            break
        side = max(DEFAULT_SIDE, side - SIDE_STEP)
    return side


def _unet_ms(spec: InputSpec, labels: int) -> float:
    g = GraphWriter(spec.height, spec.width)
    written = untrained_unet(labels).write(g, write_color(g))
    assert written.labels is not None
    graph = g.build([*written.scores.values(), g.upsample(written.labels, 2)])
    return measure_ms(graph, np.zeros((1, spec.height, spec.width, 3), np.uint8))


def untrained_unet(labels: int) -> Fitted:
    """A U-Net that knows nothing, for measuring."""
    return export(UNet(max(1, labels) + 1))


def _used(columns: tuple[str, ...], owner: dict[str, str], segmenter: str | None) -> list[str]:
    """Families that a graph needs."""
    return list(dict.fromkeys([*(owner[c] for c in columns), *([segmenter] if segmenter else [])]))


def _peak(oof: OutOfFold) -> tuple[str, ...]:
    return (next(c for c in oof.scores if c.endswith("peak")),)


def _choose_segmenter(found: dict[str, OutOfFold], milliseconds: Callable[[str], float], budget_ms: float) -> str | None:
    """The family with the best Average IoU, among those that keep within the budget; the fastest when none does."""
    able = {name: float(oof.average_iou().mean()) for name, oof in found.items() if oof.segments}
    if not able:
        return None
    times = {name: milliseconds(name) for name in able}
    fast = [name for name in able if times[name] <= budget_ms]
    return max(fast, key=lambda name: able[name]) if fast else min(times, key=lambda name: times[name])


def _groups(found: dict[str, OutOfFold]) -> dict[str, tuple[str, ...]]:
    """Combinations worth trying: each family's scores, its one-class scores, and everything."""
    groups: dict[str, tuple[str, ...]] = {}
    for name, oof in found.items():
        groups[f"{name}, all scores"] = tuple(oof.scores)
        one_class = tuple(c for c in oof.scores if "neighbour" in c or "position" in c or "discriminator" in c)
        if one_class:
            groups[f"{name}, one-class scores"] = one_class
    if len(found) > 1:
        groups["everything"] = tuple(c for oof in found.values() for c in oof.scores)
    return groups


def _findings(task: Task, choice: Choice, found: dict[str, OutOfFold], segmenter: str | None) -> Json:
    names = [label.name for label in task.store.labels]
    findings: Json = {
        "regime": "normal and anomalous pictures" + (" with masks" if segmenter else ""),
        "why": choice.reason,
        "budget_ms": task.options.budget_ms,
        "candidates": [
            {"name": c.name, "scores": list(c.columns), "roc_auc": round(c.roc_auc, 4), "log_loss": round(c.log_loss, 4),
             "milliseconds": round(c.milliseconds, 2)}
            for c in choice.candidates
        ],
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
