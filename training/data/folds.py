"""Dividing pictures into folds: groups stay together, every fold gets its share of every kind. Pure functions."""

import numpy as np

from linewatch.training.arrays import F64, Bools, Ints

FOLDS = 6
"""Wanted where both classes are there and fitting is quick..."""
NORMALS_FOLDS = 20
"""...and with normal pictures only, where a bank of normal cells should be nearly as large as the final one."""
FEW_GROUPS = 40
"""Groups that hold a class, below which it is a matter of luck which of them come to lie in one fold."""


def fewest_folds(wanted: int) -> int:
    """With how few folds one makes do where groups allow no more: half of what is wanted, rounded up, and at least 2."""
    return max(2, -(-wanted // 2))


def count_folds(is_anomaly: Bools, groups: Ints, wanted: int) -> int:
    """How many folds N pictures are divided into: as many as wanted, or as groups allow.

    With few groups each is left out once. Where a class is in fewer groups than are wanted there are fewer folds, so that each
    has both classes, but no fewer than `fewest_folds`: the scores of a fold without one of them are still good for
    something, those of a fit to a third of the pictures are not.

    Args:
        is_anomaly: N.
        groups: N group numbers.
        wanted: 2 or more.
    """
    classes = [is_anomaly == value for value in (False, True)]
    least = min(len(np.unique(groups[mine])) for mine in classes if mine.any())
    return max(2, min(wanted, len(np.unique(groups)), max(least, fewest_folds(wanted))))


def count_divisions(is_anomaly: Bools, groups: Ints, folds: int, wanted: int) -> int:
    """In how many ways N pictures are divided: as many as wanted where a class is in few groups, else 1.

    Also 1 with normal pictures only, where nothing is chosen, and where each group is a fold: there is but one such division.

    Args:
        is_anomaly: N.
        groups: N group numbers.
        folds: how many there are in each division.
        wanted: 1 or more.
    """
    least = min(len(np.unique(groups[is_anomaly == value])) for value in (False, True))
    return wanted if 0 < least < FEW_GROUPS and len(np.unique(groups)) > folds else 1


def assign_folds(strata: Ints, groups: Ints, folds: int, seed: int) -> Ints:
    """Fold numbers for N pictures: no group is divided, and each stratum is spread over the folds as evenly as groups allow.

    Each class (normal, anomalous) is in as many folds as it can be: in all, or in as many as there are groups that hold it.
    scikit-learn's StratifiedGroupKFold does not promise that: all groups of a rare class may come to lie in one fold; and it refuses
    fewer groups than folds.

    Args:
        strata: N, the kind of each picture: 0 normal, or 1 and more by the label of its defect.
        groups: N group numbers, 0 to G - 1; pictures that must stay together share one.
        folds: how many; some stay empty where there are fewer groups.
        seed: of the order among groups of equal size.

    Returns:
        N fold numbers, 0 to folds - 1.
    """
    rng = np.random.default_rng([seed, 11])
    kinds = int(strata.max()) + 1
    table = np.zeros((int(groups.max()) + 1, kinds))
    np.add.at(table, (groups, strata), 1)
    order = rng.permutation(len(table))
    order = order[np.argsort(-table[order].sum(axis=1), kind="stable")]
    classes = np.stack([table[:, 0], table[:, 1:].sum(axis=1)], axis=1) > 0
    fold_of = _fill(table, order, folds, {})
    if (_occupied(classes, fold_of, folds) < np.minimum(classes.sum(axis=0), folds)).any():
        fold_of = _fill(table, order, folds, _spread_classes(classes[order], order, folds))
    return fold_of[groups]


def _fill(table: F64, order: Ints, folds: int, placed: dict[int, int]) -> Ints:
    """Folds of G groups (G x kinds pictures), in that order each where it is needed most; some have their place already."""
    totals = np.maximum(table.sum(axis=0), 1)
    counts = np.zeros((folds, table.shape[1]))
    fold_of = np.zeros(len(table), np.int64)
    for group, fold in placed.items():
        fold_of[group] = fold
        counts[fold] += table[group]
    for group in order:
        if group in placed:
            continue
        # How full each fold is of what this group holds; then how full it is at all.
        crowding = ((counts + table[group]) / totals * table[group]).sum(axis=1) + 1e-6 * counts.sum(axis=1)
        fold = int(crowding.argmin())
        fold_of[group] = fold
        counts[fold] += table[group]
    return fold_of


def _occupied(classes: Bools, fold_of: Ints, folds: int) -> Ints:
    """In how many folds each class is; `classes`: G x 2, which groups hold it."""
    return np.array([np.count_nonzero(np.bincount(fold_of[has], minlength=folds)) for has in classes.T])


def _spread_classes(classes: Bools, order: Ints, folds: int) -> dict[int, int]:
    """Places for some groups, so that each class is in as many folds as it can be.

    Groups with both classes first, each in a fold of its own; then of each class one group into every fold that still lacks it.
    """
    both = order[classes.all(axis=1)][:folds]
    placed = {int(group): fold for fold, group in enumerate(both)}
    for c in range(2):
        alone = order[classes[:, c] & ~classes[:, 1 - c]]
        placed |= {int(group): fold for group, fold in zip(alone, range(len(both), folds), strict=False)}
    return placed
