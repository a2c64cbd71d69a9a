"""Setting a part of the pictures aside for the evaluation. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from linewatch.training.arrays import Bools, Ints
from linewatch.training.data.folds import assign_folds
from linewatch.training.data.groups import LEAST_LEFT, Groups, keep_classes

_TOO_MUCH = 2.0
"""Times the wanted share; what takes more of a class is taken only where nothing else does."""


@dataclass(frozen=True, slots=True)
class HoldOut:
    """A part that is set aside.

    Attributes:
        kept, out: indices of the pictures to train on and to evaluate on.
        groups: of all pictures, after near-duplicates gave way.
    """

    kept: Ints
    out: Ints
    groups: Groups


def hold_out(strata: Ints, groups: Groups, share: float, seed: int) -> HoldOut | None:
    """Set about `share` of every kind of picture aside.

    Groups stay together, but near-duplicates give way where the part would have none of a class, or leave too few. A part
    without one of the classes is taken only where the user's own groups, or less than ten pictures of it, allow no other.

    Args:
        strata: the kind of each of N pictures (0 normal, or 1 and more by the label of its defect).
        groups: which pictures stay together.
        share: 0 to 0.5.
        seed: of the order among groups of equal size.

    Returns:
        None when nothing can be set aside without leaving too few of a class to train on.
    """
    is_anomaly = strata > 0
    groups = keep_classes(groups, is_anomaly, 2)
    while (out := _choose(strata, groups, share, seed, both=True)) is None:
        given = _give_way(groups, is_anomaly)
        if given is None:
            out = _choose(strata, groups, share, seed, both=False)
            break
        groups = given
    return None if out is None else HoldOut(np.flatnonzero(~out), np.flatnonzero(out), groups)


def _choose(strata: Ints, groups: Groups, share: float, seed: int, *, both: bool) -> Bools | None:
    """A part of a division, or two where no one will do; `both`: it must have both classes, if there are both."""
    part = assign_folds(strata, groups.merged(), max(2, round(1 / share)), seed)
    members = [strata == 0, strata > 0] if (strata > 0).any() else [strata == 0]
    indivisible = groups.indivisible()

    def possible(out: Bools) -> bool:
        return bool(out.any()) and all(
            (out & mine).any() >= both
            and (~out & mine).sum() >= LEAST_LEFT
            and len(np.unique(indivisible[~out & mine])) > 1
            for mine in members
        )

    def excess(out: Bools) -> float:
        return max(0.0, *(float((out & mine).sum() / mine.sum()) - _TOO_MUCH * share for mine in members))

    return min(filter(possible, _candidates(part)), key=excess, default=None)


def _candidates(part: Ints) -> Iterator[Bools]:
    numbers = range(int(part.max()) + 1)
    yield from (part == p for p in numbers)
    yield from ((part == p) | (part == q) for p, q in combinations(numbers, 2))


def _give_way(groups: Groups, is_anomaly: Bools) -> Groups | None:
    """The largest group of near-duplicates divided, in the class that has fewer groups if there is one."""
    merged = groups.merged()
    classes = [np.flatnonzero(is_anomaly == value) for value in (False, True)]
    for members in sorted((m for m in classes if len(m)), key=lambda m: len(np.unique(merged[m]))):
        group = groups.largest(members)
        if group is not None:
            return groups.without(group)
    return None
