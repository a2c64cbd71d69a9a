"""Choosing what goes into the model, by out-of-fold scores and counted cost. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from linewatch.anomaly_model.errors import DatasetError
from linewatch.training.arrays import F64, Bools, Ints
from linewatch.training.graph.spec import Stack
from linewatch.training.metrics import roc_auc
from linewatch.training.options import Budget
from linewatch.training.selection.stack import balanced_log_loss, fit_slope, fit_stack, stacked_out_of_fold
from linewatch.training.selection.standard_error import auc_influence, standard_error

INDISTINGUISHABLE = 0.003
"""ROC AUC: equally simple candidates this close to the best of them are told apart by cost, not by rank."""
WORTH = 0.01
"""ROC AUC: a wish for a budget gives way where keeping it would cost more than this."""
PERFECT = 1 - 1e-9
"""ROC AUC that separates the classes: areas that are the same may differ in the last bit of a sum."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of N pictures.

    Attributes:
        scores: score name to N out-of-fold scores.
        family_of: score name to the name of the family that gives it.
        truth: N, whether anomalous.
        folds: N; the combination of a picture's scores is fitted on the other folds.
        groups: N group numbers; pictures of one group are not independent.
    """

    scores: Mapping[str, F64]
    family_of: Mapping[str, str]
    truth: Bools
    folds: Ints
    groups: Ints

    def matrix(self, columns: tuple[str, ...]) -> F64:
        """N x columns scores."""
        return np.stack([self.scores[c] for c in columns], axis=1)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to make a score.

    Attributes:
        name: as reports call it.
        columns: names of the scores that it combines.
        families: how many families give them.
        roc_auc, log_loss: of its out-of-fold scores; log_loss is balanced over classes, smaller is better.
        standard_error: of `roc_auc`.
        difference_error: standard error of what it lacks to the best candidate of all; 0 for that one itself.
        milliseconds: what the whole graph with it costs, by `linewatch.training.graph.cost`.
    """

    name: str
    columns: tuple[str, ...]
    families: int
    roc_auc: float
    log_loss: float
    standard_error: float
    difference_error: float
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
    combinations: dict[str, tuple[str, ...]], evidence: Evidence, milliseconds: Callable[[tuple[str, ...]], float], budget: Budget
) -> Choice:
    """Choose among every single score and every named combination of scores.

    A single score is judged as it is, a combination by stacks that were fitted on other folds than they are judged on. One thing
    leaks all the same: the scores that such a stack is fitted on come from fits that saw the labels of the fold it is judged on. On
    drawn pictures (ridge regressions as members, 60 draws each) four strong scores came out at .930 where .926 is true with 40
    pictures, and at .960 for .959 with 90; four that know nothing at .58 with 40 pictures and .52 with 90. Fitting every family anew
    without each pair of folds takes three to four times the time and errs as far to the other side (.912, .957, .51, .48). So
    nothing is fitted anew; a combination must be ahead by more than one standard error to be taken before a single score.

    Args:
        combinations: name to score names.
        evidence: what every score said out of fold.
        milliseconds: counts the cost of the graph with these scores.
        budget: what it may cost.

    Raises:
        DatasetError: the budget is a limit, and nothing keeps within it.
    """
    truth = evidence.truth
    out_of_fold: dict[str, F64] = {}
    used: dict[str, tuple[str, ...]] = {}
    for name, columns in {**{name: (name,) for name in evidence.scores}, **combinations}.items():
        weights = fit_stack(evidence.matrix(columns), truth).weights
        kept = tuple(c for c, weight in zip(columns, weights, strict=True) if weight > 0)
        used[name] = kept
        judged = columns if len(kept) > 1 else kept  # what comes down to one score is that score
        out_of_fold[name] = stacked_out_of_fold(evidence.matrix(judged), truth, evidence.folds)
    areas = {name: roc_auc(values, truth) for name, values in out_of_fold.items()}
    influences = {name: auc_influence(values, truth) for name, values in out_of_fold.items()}

    def difference_error(a: str, b: str) -> float:
        return standard_error(influences[a] - influences[b], evidence.groups)

    best = max(areas, key=lambda name: areas[name])
    candidates = [
        Candidate(
            name, columns, len({evidence.family_of[c] for c in columns}), areas[name],
            balanced_log_loss(fit_slope(out_of_fold[name], truth) * out_of_fold[name], truth),
            standard_error(influences[name], evidence.groups), difference_error(name, best), milliseconds(columns),
        )
        for name, columns in used.items()
    ]  # fmt: skip
    chosen, why = _pick(candidates, budget, difference_error)
    ordered = tuple(sorted(candidates, key=lambda c: (-round(c.roc_auc, 9), c.log_loss)))
    reason, warning = _reason(chosen, why, candidates, budget)
    stack = fit_stack(evidence.matrix(chosen.columns), truth)
    return Choice(chosen, ordered, stack, chosen.columns, out_of_fold[chosen.name], reason, warning)


def _pick(
    candidates: list[Candidate], budget: Budget, difference_error: Callable[[str, str], float]
) -> tuple[Candidate, str]:
    """The best within the budget; over it the cheapest that keeps the accuracy, where a wish would cost more than it is worth.

    Returns:
        The candidate, and why it is that one.
    """
    cheap = [c for c in candidates if c.milliseconds <= budget.ms]
    top = max(c.roc_auc for c in candidates)
    reached = max((c.roc_auc for c in cheap), default=-1.0)
    if budget.is_limit:
        check_limit(min(c.milliseconds for c in candidates), budget)
    elif top - reached > WORTH:
        keeping = (c for c in candidates if c.roc_auc >= top - WORTH)
        return min(keeping, key=lambda c: (c.milliseconds, c.log_loss)), "it is the cheapest that keeps the accuracy"
    return simplest(cheap, difference_error)


def simplest(candidates: list[Candidate], difference_error: Callable[[str, str], float]) -> tuple[Candidate, str]:
    """The simplest within one standard error of the best: of the fewest families, then the fewest scores (after Breiman et al. 1984).

    The error is that of the difference to the best, on the same pictures: scores that resemble each other are told apart by much
    less than either's own error. Equally simple ones differ in nothing but evidence: of them the best, or what is as good and cheaper.
    """
    perfect = [c for c in candidates if c.roc_auc >= PERFECT]
    if perfect:
        chosen = min(perfect, key=lambda c: (c.log_loss, c.milliseconds))
        return chosen, f"of what separates the classes perfectly it does so furthest (log loss {chosen.log_loss:.3f})"
    best = max(candidates, key=lambda c: (c.roc_auc, -c.log_loss))
    near = [c for c in candidates if best.roc_auc - c.roc_auc <= difference_error(c.name, best.name)]
    least = min((c.families, len(c.columns)) for c in near)
    simple = [c for c in near if (c.families, len(c.columns)) == least]
    reached = max(c.roc_auc for c in simple)
    chosen = min(
        (c for c in simple if c.roc_auc >= reached - INDISTINGUISHABLE), key=lambda c: (round(c.milliseconds, 1), c.log_loss)
    )
    if chosen is best:
        return chosen, "it is the best, and nothing simpler is within one standard error of it"
    error = difference_error(chosen.name, best.name)
    return chosen, f"the best, {best.name}, reaches {best.roc_auc:.3f}, which is within one standard error ({error:.3f}) and not simpler"


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


def _reason(chosen: Candidate, why: str, candidates: list[Candidate], budget: Budget) -> tuple[str, str]:
    """Why it was chosen, and what to warn of."""
    text = f"{chosen.name}: ROC AUC {chosen.roc_auc:.3f} ± {chosen.standard_error:.3f} out of fold, {chosen.milliseconds:.1f} ms; {why}"
    if chosen.milliseconds > budget.ms:
        cheap = max((c for c in candidates if c.milliseconds <= budget.ms), key=lambda c: c.roc_auc, default=None)
        instead = "nothing does" if cheap is None else f"the best that does, {cheap.name}, reaches {cheap.roc_auc:.3f}"
        warning = f"the model costs {chosen.milliseconds:.1f} ms, more than the {budget.ms:g} ms that are wished for: {instead}"
        return f"{text}; of those within {budget.ms:g} ms {instead}", warning
    best = max(candidates, key=lambda c: c.roc_auc)
    if best.milliseconds > budget.ms and best.roc_auc > chosen.roc_auc + INDISTINGUISHABLE:
        return f"{text}. {best.name} would reach {best.roc_auc:.3f} but costs {best.milliseconds:.1f} ms (budget {budget.ms:g} ms)", ""
    return text, ""
