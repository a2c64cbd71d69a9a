"""Dividing pictures into folds: groups stay together, every fold gets its share of every kind. Pure functions."""

import numpy as np

from linewatch.training.arrays import F64, Ints


def assign_folds(strata: Ints, groups: Ints, folds: int, seed: int) -> Ints:
    """Fold numbers for N pictures: no group is divided, and each stratum is spread over the folds as evenly as groups allow.

    Both classes (normal, anomalous) are in two folds or more if they are in two groups or more, so that whatever fold is left
    out, the others have both. scikit-learn's StratifiedGroupKFold does not promise that: all groups of a rare class may come to
    lie in one fold; and it refuses fewer groups than folds.

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
    totals = np.maximum(table.sum(axis=0), 1)
    order = rng.permutation(len(table))
    order = order[np.argsort(-table[order].sum(axis=1), kind="stable")]
    counts = np.zeros((folds, kinds))
    fold_of = np.zeros(len(table), np.int64)
    for group in order:
        # How full each fold is of what this group holds; then how full it is at all.
        crowding = ((counts + table[group]) / totals * table[group]).sum(axis=1) + 1e-6 * counts.sum(axis=1)
        fold = int(crowding.argmin())
        fold_of[group] = fold
        counts[fold] += table[group]
    _separate_classes(fold_of, np.stack([table[:, 0], table[:, 1:].sum(axis=1)], axis=1))
    return fold_of[groups]


def _separate_classes(fold_of: Ints, classes: F64) -> None:
    """Where a class of several groups (G x 2 pictures) came to lie in one fold, put its two largest groups into two."""
    owners = [np.flatnonzero(classes[:, c]) for c in range(classes.shape[1])]
    owners = [groups for groups in owners if len(groups) > 1]
    if all(len(np.unique(fold_of[groups])) > 1 for groups in owners):
        return
    # Two pairs that share a group, or none, can always be told apart by two colours.
    fixed: dict[int, int] = {}
    for c, groups in enumerate(owners):
        a, b = groups[np.argsort(-classes[groups, c], kind="stable")[:2]].tolist()
        first, second = (b, a) if b in fixed else (a, b)
        fixed.setdefault(first, 0)
        fixed.setdefault(second, 1 - fixed[first])
    for group, fold in fixed.items():
        fold_of[group] = fold
