"""Fitting: with both classes by evidence, with normal pictures only by rule.

costs -> every family fold by fold -> out-of-fold scores -> segmenter by IoU, scores by ROC AUC, within the budget
-> threshold, confidence -> what was chosen, fitted on everything
"""

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from linewatch.anomaly_model.manifest import Decision, InputSpec, Json, Label, PictureSize
from linewatch.training.bank import write_color
from linewatch.training.choice import Budget, Choice, check_limit, choose
from linewatch.training.cost import cost_model
from linewatch.training.cross_validation import OutOfFold, cross_validate, strata
from linewatch.training.decision import decide, decide_from_normals, weakness
from linewatch.training.export import Recipe, write_model
from linewatch.training.families import Family, FeatureFamily, Fitted
from linewatch.training.features import BANK, Cells, collect_cells
from linewatch.training.folds import divide
from linewatch.training.graph import GraphWriter
from linewatch.training.options import TrainingOptions
from linewatch.training.pictures import DEFAULT_SIDE, PictureStore, choose_input
from linewatch.training.stack import Stack, fit_normals_stack
from linewatch.training.unet import UNet, export
from linewatch.training.unet_training import UNetFamily
from linewatch.training.workspace import Progress, Workspace

F64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

FOLDS = 6
NORMALS_FOLDS = 20
THIN_AT_INPUT = 6.0
"""Pixels at the model's input; label logits of thinner defects are brought to full resolution."""
SIDE_STEP = 64
WORTH_IOU = 0.05
"""Average IoU: a wish for a budget gives way where keeping it would cost masks more than this."""


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be fitted.

    Attributes:
        store: the training pictures.
        groups: pictures that must stay together share a number.
        defect_width: of thin defects, in pixels of the model's input; None without masks.
        side_why: why the input has its size, for people.
        options: what the user chose.
        workspace: where finished steps are kept.
        progress: told of what is done.
    """

    store: PictureStore
    groups: Ints
    defect_width: float | None
    side_why: str
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
        weak: why it is not better than calling everything anomalous; empty when it is, or when there is no telling.
        warnings: what else people must know.
    """

    recipe: Recipe
    fitted: dict[str, Fitted]
    decision: Decision
    labels: list[Label]
    out_of_fold: F64
    choice: Choice | None
    findings: Json
    weak: str = ""
    warnings: tuple[str, ...] = ()


def fit(task: Task) -> Result:
    """Fit by the regime that the pictures ask for.

    Raises:
        DatasetError: the budget is a limit, and nothing keeps within it; said before anything slow is done.
    """
    return fit_labelled(task) if task.store.is_anomaly.any() else fit_normals(task)


def fit_normals(task: Task) -> Result:
    """Normal pictures only: one-class scores, all counting alike, and a threshold for a stated false-alarm rate."""
    folds = min(NORMALS_FOLDS, int(task.groups.max()) + 1)
    # A pretrained net, where there is one, sees more than the bank.
    family = task.feature_families(folds)[-1]
    fitted: dict[str, Fitted] = {family.name: family.fit(np.ones(len(task.store), bool), "final")}
    cost = Cost(task, fitted)
    least = cost(tuple(c for c in cost.columns if c.endswith("peak")), None)
    check_limit(least, task.options.budget)
    found = task.cross_validate(family)
    columns = tuple(c for c in found.scores if c.endswith("peak"))  # the mean over a picture says little of one place
    matrix = np.stack([found.scores[c] for c in columns], axis=1)
    stack = fit_normals_stack(matrix)
    scores = stack(matrix)
    target = task.options.false_alarms
    findings: Json = {
        "regime": "normal pictures only",
        "why": f"no anomalies to choose by: {', '.join(columns)} count alike; the threshold is the score that {target:.1%} of "
        "normal parts are expected to exceed",
        "false_alarms": target,
        "folds": folds,
    }
    warning = f"the model costs {least:.1f} ms, more than the {task.options.budget.ms:g} ms that are wished for"
    return Result(
        Recipe(fitted, columns, stack, None, fine=False), fitted, decide_from_normals(scores, target), [], scores, None, findings,
        warnings=(warning,) if least > task.options.budget.ms else (),
    )  # fmt: skip


def fit_labelled(task: Task) -> Result:
    """Both classes: every family is tried, and what the evidence says is fitted on everything."""
    store, options = task.store, task.options
    families: dict[str, Family] = {f.name: f for f in task.feature_families(FOLDS)}
    if options.unet_steps:
        families["U-Net"] = UNetFamily(store, options.unet_steps, options.seed, task.workspace, task.progress)
    everything = np.ones(len(store), bool)
    # Untrained weights cost as much as trained ones, so the slow net is not fitted before it is wanted.
    samples: dict[str, Fitted] = {
        name: untrained_unet(len(store.labels)) if name == "U-Net" else family.fit(everything, "final")
        for name, family in families.items()
    }
    cost = Cost(task, samples)
    if options.budget.is_limit:
        check_limit(cost.least(), options.budget)
    found = {name: task.cross_validate(family) for name, family in families.items()}
    scores = {column: values for oof in found.values() for column, values in oof.scores.items()}
    segmenter = choose_segmenter(found, lambda name: cost(_peak(found[name]), name), options.budget)
    folds = divide(strata(store), task.groups, FOLDS, options.seed)
    choice = choose(
        _groups(found), scores, store.is_anomaly, folds, lambda columns: cost(columns, segmenter), options.budget
    )
    task.progress("fitting the final model", 0, 1)
    fitted = {
        name: families[name].fit(everything, "final") if name == "U-Net" else samples[name]
        for name in cost.families(choice.columns, segmenter)
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
        _findings(task, choice, found, segmenter), weakness(choice.out_of_fold, store.is_anomaly, folds),
        (choice.warning,) if choice.warning else (),
    )  # fmt: skip


class Cost:
    """What graphs cost, each counted once.

    Args:
        task: what is fitted.
        samples: family name to what may be written into a graph in its place.
    """

    def __init__(self, task: Task, samples: dict[str, Fitted]) -> None:
        self._task, self._samples = task, samples
        g = GraphWriter(task.store.spec.height, task.store.spec.width)
        color = write_color(g)
        written = {name: fitted.write(g, color) for name, fitted in samples.items()}
        self._owner = {column: name for name, w in written.items() for column in w.scores}
        able = [name for name, w in written.items() if w.labels is not None and task.store.labels]
        self._segmenters: list[str | None] = [*able] or [None]
        self._known: dict[tuple[tuple[str, ...], str | None], float] = {}

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all scores."""
        return tuple(self._owner)

    def families(self, columns: tuple[str, ...], segmenter: str | None) -> list[str]:
        """Families that a graph needs."""
        return list(dict.fromkeys([*(self._owner[c] for c in columns), *([segmenter] if segmenter else [])]))

    def __call__(self, columns: tuple[str, ...], segmenter: str | None) -> float:
        """Milliseconds of the whole graph with these scores and the segmenter's labels."""
        if (columns, segmenter) not in self._known:
            parts = {name: self._samples[name] for name in self.families(columns, segmenter)}
            even = Stack(np.ones(len(columns)), 0.0)
            graph = write_model(Recipe(parts, columns, even, segmenter, self._task.fine), self._task.store)
            self._known[columns, segmenter] = cost_model().milliseconds(graph)
        return self._known[columns, segmenter]

    def least(self) -> float:
        """Milliseconds of the cheapest graph of one score."""
        return min(self((column,), segmenter) for column in self._owner for segmenter in self._segmenters)


def affordable_side(picture: PictureSize, side: int, labels: int, options: TrainingOptions) -> int:
    """The largest side up to `side` at which a U-Net alone keeps within the budget; at least 256."""
    while side > DEFAULT_SIDE:
        spec = choose_input(picture, side)
        if _unet_ms(spec, labels) <= options.budget.ms:
            break
        side = max(DEFAULT_SIDE, side - SIDE_STEP)
    return side


def _unet_ms(spec: InputSpec, labels: int) -> float:
    g = GraphWriter(spec.height, spec.width)
    written = untrained_unet(labels).write(g, write_color(g))
    assert written.labels is not None
    return cost_model().milliseconds(g.build([*written.scores.values(), g.upsample(written.labels, 2)]))


def untrained_unet(labels: int) -> Fitted:
    """A U-Net that knows nothing, for counting its cost."""
    return export(UNet(max(1, labels) + 1))


def _peak(oof: OutOfFold) -> tuple[str, ...]:
    return (next(c for c in oof.scores if c.endswith("peak")),)


def choose_segmenter(found: dict[str, OutOfFold], milliseconds: Callable[[str], float], budget: Budget) -> str | None:
    """The family with the best Average IoU, among those that keep within the budget; the cheapest when none does.

    A wish for a budget gives way where keeping it would cost more than `WORTH_IOU`.
    """
    able = {name: float(oof.average_iou().mean()) for name, oof in found.items() if oof.segments}
    if not able:
        return None
    costs = {name: milliseconds(name) for name in able}
    cheap = [name for name in able if costs[name] <= budget.ms] or [min(costs, key=lambda name: costs[name])]
    best, within = max(able, key=lambda name: able[name]), max(cheap, key=lambda name: able[name])
    return within if budget.is_limit or able[best] - able[within] <= WORTH_IOU else best


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
        "budget_ms": task.options.budget.ms,
        "budget_is_limit": task.options.budget.is_limit,
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
