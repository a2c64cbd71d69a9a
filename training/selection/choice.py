"""Choosing what goes into the model, by out-of-fold scores and counted cost. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from linewatch.anomaly_model.errors import DatasetError
from linewatch.training.arrays import F64, Bools
from linewatch.training.graph.spec import Stack
from linewatch.training.metrics import roc_auc
from linewatch.training.options import Budget
from linewatch.training.selection.decision import fit_slope
from linewatch.training.selection.stack import balanced_log_loss, fit_stack, stacked_out_of_fold

INDISTINGUISHABLE = 0.003
"""ROC AUC: candidates this close to the best are told apart by how far they separate the classes, not by rank."""
WORTH = 0.01
"""ROC AUC: a wish for a budget gives way where keeping it would cost more than this."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to make a score.

    Attributes:
        name: as reports call it.
        columns: names of the scores that it combines.
        roc_auc, log_loss: of its out-of-fold scores; log_loss is balanced over classes, smaller is better.
        milliseconds: what the whole graph with it costs, by `linewatch.training.graph.cost`.
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
        warning: that the budget was exceeded, and why; empty when it was kept.
    """

    chosen: Candidate
    candidates: tuple[Candidate, ...]
    stack: Stack
    columns: tuple[str, ...]
    out_of_fold: F64
    reason: str
    warning: str


def choose(
    groups: dict[str, tuple[str, ...]],
    scores: dict[str, F64],
    truth: Bools,
    folds: npt.NDArray[np.int64],
    milliseconds: Callable[[tuple[str, ...]], float],
    budget: Budget,
) -> Choice:
    """Choose among every single score and every named group of scores.

    Args:
        groups: candidates that combine scores: name to score names.
        scores: score name to N out-of-fold scores.
        truth: N, whether anomalous.
        folds: N; the combination of a picture's scores is fitted on the other folds.
        milliseconds: counts the cost of the graph with these scores.
        budget: what it may cost.

    Raises:
        DatasetError: the budget is a limit, and nothing keeps within it.
    """
    wanted = {**{name: (name,) for name in scores}, **groups}
    candidates: list[Candidate] = []
    out_of_fold: dict[str, F64] = {}
    for name, columns in wanted.items():
        matrix = np.stack([scores[c] for c in columns], axis=1)
        out_of_fold[name] = stacked_out_of_fold(matrix, truth, folds)
        used = _used(columns, fit_stack(matrix, truth))
        slope = fit_slope(out_of_fold[name], truth, 0.0)
        candidates.append(
            Candidate(
                name, used, roc_auc(out_of_fold[name], truth), balanced_log_loss(slope * out_of_fold[name], truth), milliseconds(used)
            )
        )
    chosen = _pick(candidates, budget)
    matrix = np.stack([scores[c] for c in chosen.columns], axis=1)
    # Rounded: areas that are the same may differ in the last bit of a sum.
    ordered = tuple(sorted(candidates, key=lambda c: (-round(c.roc_auc, 9), c.log_loss)))
    reason, warning = _reason(chosen, candidates, budget)
    return Choice(chosen, ordered, fit_stack(matrix, truth), chosen.columns, out_of_fold[chosen.name], reason, warning)


def _pick(candidates: list[Candidate], budget: Budget) -> Candidate:
    """The best within the budget; over it the cheapest that keeps the accuracy, where a wish would cost more than it is worth."""
    cheap = [c for c in candidates if c.milliseconds <= budget.ms]
    top = max(c.roc_auc for c in candidates)
    reached = max((c.roc_auc for c in cheap), default=-1.0)
    if budget.is_limit:
        check_limit(min(c.milliseconds for c in candidates), budget)
    elif top - reached > WORTH:
        return min((c for c in candidates if c.roc_auc >= top - WORTH), key=lambda c: (c.milliseconds, c.log_loss))
    return min((c for c in cheap if c.roc_auc >= reached - INDISTINGUISHABLE), key=lambda c: (c.log_loss, c.milliseconds))


def check_limit(least_ms: float, budget: Budget) -> None:
    """Refuse a limit that even the cheapest graph exceeds.

    Raises:
        DatasetError: it does.
    """
    if budget.is_limit and least_ms > budget.ms:
        raise DatasetError(
            f"nothing keeps within the budget of {budget.ms:g} ms: the cheapest graph for these pictures costs {least_ms:.1f} ms. "
            "Choose a smaller input side or a larger budget"
        )


def _used(columns: tuple[str, ...], stack: Stack) -> tuple[str, ...]:
    return tuple(c for c, weight in zip(columns, stack.weights, strict=True) if weight > 0)


def _reason(chosen: Candidate, candidates: list[Candidate], budget: Budget) -> tuple[str, str]:
    """Why it was chosen, and what to warn of."""
    text = f"{chosen.name}: ROC AUC {chosen.roc_auc:.3f} out of fold, {chosen.milliseconds:.1f} ms"
    if chosen.milliseconds > budget.ms:
        cheap = max((c for c in candidates if c.milliseconds <= budget.ms), key=lambda c: c.roc_auc, default=None)
        instead = "nothing does" if cheap is None else f"the best that does, {cheap.name}, reaches {cheap.roc_auc:.3f}"
        warning = f"the model costs {chosen.milliseconds:.1f} ms, more than the {budget.ms:g} ms that are wished for: {instead}"
        return f"{text}. It is the cheapest that keeps the accuracy; of those within {budget.ms:g} ms {instead}", warning
    best = max(candidates, key=lambda c: c.roc_auc)
    if best.roc_auc > chosen.roc_auc + INDISTINGUISHABLE:
        return f"{text}. {best.name} would reach {best.roc_auc:.3f} but costs {best.milliseconds:.1f} ms (budget {budget.ms:g} ms)", ""
    return f"{text}; of those within {INDISTINGUISHABLE} of the best it separates the classes furthest (log loss {chosen.log_loss:.3f})", ""
