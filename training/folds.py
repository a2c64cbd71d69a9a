"""Dividing pictures: near-duplicates stay together, every part gets its share of every kind. Pure functions."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]

LARGEST_DIFFERENCE = 2.0
"""Grey levels (root mean square over thumbnails) beyond which two pictures are never near-duplicates."""
DIFFERENCE_SHARE = 0.1
"""...and the share of a typical difference between two pictures of the set. Aligned parts all look alike; only pictures
that are far more alike than these are taken for the same part seen twice."""
_BLOCK = 1024


def near_duplicates(thumbnails: npt.NDArray[np.float32]) -> Ints:
    """Group numbers 0 to G - 1 for N thumbnails (N x h x w x 3, 0 to 255); near-duplicates share one.

    Memory is N x N bits, and time does not depend on how many duplicates there are: a camera that was left running may have
    taken thousands of one part.
    """
    count = len(thumbnails)
    flat = _flat(thumbnails)
    rows = [(start, np.packbits(near, axis=1)) for start, near in _near(flat, flat, _limit(flat))]
    groups = np.arange(count)
    while True:
        smallest = groups.copy()
        for start, bits in rows:
            near = np.unpackbits(bits, axis=1, count=count).astype(bool)
            smallest[start : start + len(near)] = np.where(near, groups, count).min(axis=1)
        smallest = smallest[smallest]
        if (smallest == groups).all():
            return np.unique(groups, return_inverse=True)[1].astype(np.int64)
        groups = smallest


def leaks(train: npt.NDArray[np.float32], test: npt.NDArray[np.float32]) -> list[tuple[int, int]]:
    """Pairs (test index, train index) of near-duplicates, one for each such test picture."""
    flat = _flat(train)
    pairs = []
    for start, near in _near(_flat(test), flat, _limit(flat)):
        pairs += [(int(start + i), int(near[i].argmax())) for i in np.flatnonzero(near.any(axis=1))]
    return pairs


def _flat(thumbnails: npt.NDArray[np.float32]) -> F64:
    return thumbnails.reshape(len(thumbnails), -1).astype(np.float64)


def _limit(flat: F64) -> float:
    """The difference below which two pictures of this set are near-duplicates."""
    count = len(flat)
    a, b = np.random.default_rng(0).integers(0, count, (2, min(20000, count * count)))
    differences = np.sqrt(((flat[a] - flat[b]) ** 2).mean(axis=1))[a != b]
    return min(LARGEST_DIFFERENCE, DIFFERENCE_SHARE * float(np.median(differences))) if len(differences) else 0.0


def _near(left: F64, right: F64, limit: float) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
    """Block by block of `left`'s rows: where it starts, and which rows of `right` differ by at most `limit` (root mean square)."""
    size = left.shape[1]
    squares = np.einsum("ij,ij->i", right, right)
    for start in range(0, len(left), _BLOCK):
        block = left[start : start + _BLOCK]
        distance = (np.einsum("ij,ij->i", block, block)[:, None] + squares - 2 * block @ right.T) / size
        yield start, distance <= limit**2 + 1e-6  # the expansion cancels: equal pictures come out a little apart


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
