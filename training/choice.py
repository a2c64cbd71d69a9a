"""Choosing what goes into the model, by out-of-fold scores and measured time. Pure, but for the clock that is passed in."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.decision import fit_slope
from training.metrics import roc_auc
from training.stack import Stack, balanced_log_loss, fit_stack, stacked_out_of_fold

F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

INDISTINGUISHABLE = 0.003
"""ROC AUC: candidates this close to the best are told apart by how far they separate the classes, not by rank."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to make a score.

    Attributes:
        name: as reports call it.
        columns: names of the scores that it combines.
        roc_auc, log_loss: of its out-of-fold scores; log_loss is balanced over classes, smaller is better.
        milliseconds: of the whole graph with it, one core, ONNX Runtime; NaN before it was measured.
    """

    name: str
    columns: tuple[str, ...]
    roc_auc: float
    log_loss: float
    milliseconds: float


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, of what, and why.

    Attributes:
        chosen: the candidate.
        candidates: all, best first.
        stack: its weights on all pictures.
        columns: the chosen candidate's scores that got a weight, in the stack's order.
        out_of_fold: N scores of the stack in which no picture's own label took part.
        reason: for people.
    """

    chosen: Candidate
    candidates: tuple[Candidate, ...]
    stack: Stack
    columns: tuple[str, ...]
    out_of_fold: F64
    reason: str


def choose(
    groups: dict[str, tuple[str, ...]],
    scores: dict[str, F64],
    truth: Bools,
    folds: npt.NDArray[np.int64],
    milliseconds: Callable[[tuple[str, ...]], float],
    budget_ms: float,
) -> Choice:
    """Choose among every single score and every named group of scores.

    Args:
        groups: candidates that combine scores: name to score names.
        scores: score name to N out-of-fold scores.
        truth: N, whether anomalous.
        folds: N; the combination of a picture's scores is fitted on the other folds.
        milliseconds: measures the graph with these scores.
        budget_ms: the most that it may take.
    """
    wanted = {**{name: (name,) for name in scores}, **groups}
    candidates: list[Candidate] = []
    honest: dict[str, F64] = {}
    for name, columns in wanted.items():
        matrix = np.stack([scores[c] for c in columns], axis=1)
        honest[name] = stacked_out_of_fold(matrix, truth, folds)
        used = _used(columns, fit_stack(matrix, truth))
        slope = fit_slope(honest[name], truth, 0.0)
        candidates.append(
            Candidate(
                name, used, roc_auc(honest[name], truth), balanced_log_loss(slope * honest[name], truth), milliseconds(used)
            )
        )
    fast = [c for c in candidates if c.milliseconds <= budget_ms]
    eligible = fast or [min(candidates, key=lambda c: c.milliseconds)]
    top = max(c.roc_auc for c in eligible)
    chosen = min((c for c in eligible if c.roc_auc >= top - INDISTINGUISHABLE), key=lambda c: (c.log_loss, c.milliseconds))
    matrix = np.stack([scores[c] for c in chosen.columns], axis=1)
    ordered = tuple(sorted(candidates, key=lambda c: (-c.roc_auc, c.log_loss)))
    reason = _reason(chosen, candidates, fast, budget_ms)
    return Choice(chosen, ordered, fit_stack(matrix, truth), chosen.columns, honest[chosen.name], reason)


def _used(columns: tuple[str, ...], stack: Stack) -> tuple[str, ...]:
    return tuple(c for c, weight in zip(columns, stack.weights, strict=True) if weight > 0)


def _reason(chosen: Candidate, candidates: list[Candidate], fast: list[Candidate], budget_ms: float) -> str:
    text = f"{chosen.name}: ROC AUC {chosen.roc_auc:.3f} out of fold, {chosen.milliseconds:.1f} ms"
    if not fast:
        return f"{text}. Nothing fits into {budget_ms:g} ms; this is the fastest. Choose a smaller side or a larger budget"
    best = max(candidates, key=lambda c: c.roc_auc)
    if best.roc_auc > chosen.roc_auc + INDISTINGUISHABLE:
        return f"{text}. {best.name} would reach {best.roc_auc:.3f} but takes {best.milliseconds:.1f} ms (budget {budget_ms:g} ms)"
    return f"{text}; of those within {INDISTINGUISHABLE} of the best it separates the classes furthest (log loss {chosen.log_loss:.3f})"
