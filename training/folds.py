"""Dividing pictures: near-duplicates stay together, every part gets its share of every kind. Pure functions."""

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

LARGEST_DIFFERENCE = 2.0
"""Grey levels (root mean square over thumbnails) beyond which two pictures are never near-duplicates."""
DIFFERENCE_SHARE = 0.1
"""...and the share of a typical difference between two pictures of the set. Aligned parts all look alike; only pictures
that are far more alike than these are taken for the same part seen twice."""


def near_duplicates(thumbnails: npt.NDArray[np.float32]) -> Ints:
    """Group numbers 0 to G - 1 for N thumbnails (N x h x w x 3, 0 to 255); near-duplicates share one."""
    count = len(thumbnails)
    flat = thumbnails.reshape(count, -1).astype(np.float32)
    parent = np.arange(count)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = int(parent[i])
        return i

    for i, j in _near_pairs(flat, flat, _limit(flat)):
        if i < j:
            parent[root(i)] = root(j)
    roots = np.array([root(i) for i in range(count)])
    return np.unique(roots, return_inverse=True)[1].astype(np.int64)


def leaks(train: npt.NDArray[np.float32], test: npt.NDArray[np.float32]) -> list[tuple[int, int]]:
    """Pairs (test index, train index) of near-duplicates, one for each such test picture."""
    flat = train.reshape(len(train), -1).astype(np.float32)
    pairs = _near_pairs(test.reshape(len(test), -1).astype(np.float32), flat, _limit(flat))
    return list(dict(reversed(pairs)).items())[::-1]


def _limit(flat: npt.NDArray[np.float32]) -> float:
    """The difference below which two pictures of this set are near-duplicates."""
    count = len(flat)
    a, b = np.random.default_rng(0).integers(0, count, (2, min(20000, count * count)))
    differences = np.sqrt(((flat[a] - flat[b]) ** 2).mean(axis=1))[a != b]
    return min(LARGEST_DIFFERENCE, DIFFERENCE_SHARE * float(np.median(differences))) if len(differences) else 0.0


def _near_pairs(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32], limit: float) -> list[tuple[int, int]]:
    """Index pairs of rows whose root mean square difference is at most `limit`."""
    size = left.shape[1]
    right_squares = np.einsum("ij,ij->i", right.astype(np.float64), right)
    found = []
    for start in range(0, len(left), 1024):
        block = left[start : start + 1024]
        squares = np.einsum("ij,ij->i", block.astype(np.float64), block)
        distance = (squares[:, None] + right_squares[None, :] - 2 * (block @ right.T).astype(np.float64)) / size
        # The expansion cancels badly in 32 bits, so candidates are looked at again exactly.
        for i, j in np.argwhere(distance <= limit**2 + 0.5):
            if ((block[i] - right[j]) ** 2).mean() <= limit**2:
                found.append((int(start + i), int(j)))
    return found


def merge_groups(a: Ints, b: Ints) -> Ints:
    """The finest grouping in which pictures that share a group in `a` or in `b` share one."""
    result = a.copy()
    while True:
        before = result.copy()
        for groups in (a, b):
            smallest = np.full(groups.max() + 1, len(result))
            np.minimum.at(smallest, groups, result)
            result = smallest[groups]
        if (result == before).all():
            return np.unique(result, return_inverse=True)[1].astype(np.int64)


def divide(strata: Ints, groups: Ints, parts: int, seed: int) -> Ints:
    """Part numbers for N pictures: no group is divided, and each stratum is spread over the parts as evenly as groups allow.

    Args:
        strata: the kind of each picture (normal, or the label of its defect).
        groups: pictures that must stay together share a number.
        parts: how many.
        seed: of the order among groups of equal size.
    """
    rng = np.random.default_rng([seed, 11])
    kinds = int(strata.max()) + 1
    table = np.zeros((int(groups.max()) + 1, kinds))
    np.add.at(table, (groups, strata), 1)
    totals = np.maximum(table.sum(axis=0), 1)
    order = rng.permutation(len(table))
    order = order[np.argsort(-table[order].sum(axis=1), kind="stable")]
    counts = np.zeros((parts, kinds))
    part_of = np.zeros(len(table), np.int64)
    for group in order:
        # How full each part is of what this group holds; then how full it is at all.
        crowding = ((counts + table[group]) / totals * table[group]).sum(axis=1) + 1e-6 * counts.sum(axis=1)
        part = int(crowding.argmin())
        part_of[group] = part
        counts[part] += table[group]
    return part_of[groups]
