"""Dividing pictures: near-duplicates stay together, every part gets its share of every kind. Pure functions."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Thumbnails = npt.NDArray[np.float32]

LARGEST_DIFFERENCE = 2.0
"""Grey levels (root mean square over thumbnails) beyond which two pictures are never near-duplicates."""
DIFFERENCE_SHARE = 0.1
"""...and the share of a small difference between two pictures of a class. Good parts of a line all look alike; only pictures
that are far more alike than these are taken for the same part seen twice."""
SMALL_DIFFERENCE = 0.33
"""The quantile of all differences that stands for it: in a class of two kinds of parts, one between parts of a kind."""
LEAST_LEFT = 5
"""Pictures of a class that must be left when a group is left out, or half of them where there are fewer than ten."""
_BLOCK = 1024


def near_duplicates(thumbnails: Thumbnails, is_anomaly: Bools) -> Ints:
    """Group numbers 0 to G - 1 for N thumbnails (N x h x w x 3, 0 to 255); near-duplicates of one class share one.

    Only what would leak an answer is joined: a picture that was seen in training tells the class of its double. A good part
    and a bad one that look alike tell nothing of each other, and if anything mislead.

    Memory is N x N bits, and time does not depend on how many duplicates there are: a camera that was left running may have
    taken thousands of one part.
    """
    groups = np.zeros(len(thumbnails), np.int64)
    for value in (False, True):
        members = np.flatnonzero(is_anomaly == value)
        if len(members):
            groups[members] = groups.max() + 1 + _joined(_flat(thumbnails[members]))
    return _renumbered(groups)


def _joined(flat: F64) -> Ints:
    """The connected components of "is nearly the same as", numbered by their first member."""
    count = len(flat)
    rows = [(start, np.packbits(near, axis=1)) for start, near in _near(flat, flat, _limit(flat))]
    groups = np.arange(count)
    while True:
        smallest = groups.copy()
        for start, bits in rows:
            near = np.unpackbits(bits, axis=1, count=count).astype(bool)
            smallest[start : start + len(near)] = np.where(near, groups, count).min(axis=1)
        smallest = smallest[smallest]
        if (smallest == groups).all():
            return groups
        groups = smallest


def leaks(train: Thumbnails, train_is_anomaly: Bools, test: Thumbnails, test_is_anomaly: Bools) -> list[tuple[int, int]]:
    """Pairs (test index, train index) of near-duplicates of one class, one for each such test picture."""
    pairs = []
    for value in (False, True):
        known, asked = np.flatnonzero(train_is_anomaly == value), np.flatnonzero(test_is_anomaly == value)
        if not len(known):
            continue
        flat = _flat(train[known])
        for start, near in _near(_flat(test[asked]), flat, _limit(flat)):
            pairs += [(int(asked[start + i]), int(known[near[i].argmax()])) for i in np.flatnonzero(near.any(axis=1))]
    return sorted(pairs)


def _flat(thumbnails: Thumbnails) -> F64:
    return thumbnails.reshape(len(thumbnails), int(np.prod(thumbnails.shape[1:]))).astype(np.float64)


def _limit(flat: F64) -> float:
    """The difference up to which two pictures of a class are near-duplicates."""
    count = len(flat)
    a, b = np.random.default_rng(0).integers(0, count, (2, min(20000, count * count)))
    differences = np.sqrt(((flat[a] - flat[b]) ** 2).mean(axis=1))[a != b]
    return min(LARGEST_DIFFERENCE, DIFFERENCE_SHARE * float(np.quantile(differences, SMALL_DIFFERENCE))) if len(differences) else 0.0


def _near(left: F64, right: F64, limit: float) -> Iterator[tuple[int, npt.NDArray[np.bool_]]]:
    """Block by block of `left`'s rows: where it starts, and which rows of `right` differ by at most `limit` (root mean square)."""
    size = left.shape[1]
    squares = np.einsum("ij,ij->i", right, right)
    for start in range(0, len(left), _BLOCK):
        block = left[start : start + _BLOCK]
        distance = (np.einsum("ij,ij->i", block, block)[:, None] + squares - 2 * block @ right.T) / size
        yield start, distance <= limit**2 + 1e-6  # the expansion cancels: equal pictures come out a little apart


def _renumbered(groups: Ints) -> Ints:
    """0 to G - 1."""
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


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
            return _renumbered(result)


@dataclass(frozen=True, slots=True)
class Groups:
    """Which of N pictures stay together.

    Attributes:
        named: N group numbers that the user gave, a number of its own for each other picture; never divided.
        alike: N group numbers of near-duplicates; these give way where a class would be lost.
        given_up: indices of near-duplicates that were divided all the same, group by group.
    """

    named: Ints
    alike: Ints
    given_up: tuple[Ints, ...] = ()

    def merged(self) -> Ints:
        """N group numbers, 0 to G - 1."""
        return merge_groups(self.named, self.alike)

    def without(self, group: int) -> "Groups":
        """A group of near-duplicates divided into its pictures."""
        members = np.flatnonzero(self.alike == group)
        alike = self.alike.copy()
        alike[members] = alike.max() + 1 + np.arange(len(members))
        return Groups(self.named, _renumbered(alike), (*self.given_up, members))

    def largest(self, members: Ints) -> int | None:
        """The largest group of near-duplicates among some pictures; None when each is its own."""
        sizes = np.bincount(self.alike[members])
        return int(sizes.argmax()) if sizes.max() > 1 else None

    def subset(self, index: Ints) -> "Groups":
        """Of some of the pictures, which are numbered anew; what was given up before is not among it."""
        named, alike = (_renumbered(g[index]) for g in (self.named, self.alike))
        return Groups(named, alike)


def keep_classes(groups: Groups, is_anomaly: Bools) -> Groups:
    """Near-duplicates give way until any group can be left out and enough pictures of each class are left to learn from.

    Parts of a line that look alike are the normal case; a group that holds all of a class leaves nothing to learn from.
    """
    for value in (False, True):
        members = np.flatnonzero(is_anomaly == value)
        wanted = min(LEAST_LEFT, len(members) // 2)
        while len(members):
            merged = groups.merged()[members]
            sizes = np.bincount(merged)
            group = groups.largest(members[merged == sizes.argmax()])
            if group is None or len(members) - sizes.max() >= wanted:
                break
            groups = groups.without(group)
    return groups


def classes_in_one_group(groups: Ints, is_anomaly: Bools) -> list[bool]:
    """Classes (is it the anomalous one?) that are there, but in a single group: they cannot be cross-validated."""
    return [value for value in (False, True) if len(np.unique(groups[is_anomaly == value])) == 1]


def divide(strata: Ints, groups: Ints, parts: int, seed: int) -> Ints:
    """Part numbers for N pictures: no group is divided, and each stratum is spread over the parts as evenly as groups allow.

    Both classes (normal, anomalous) are in two parts or more if they are in two groups or more, so that whatever part is left
    out, the others have both.

    Args:
        strata: the kind of each picture (0 normal, or 1 and more by the label of its defect).
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
    _part_classes(part_of, np.stack([table[:, 0], table[:, 1:].sum(axis=1)], axis=1))
    return part_of[groups]


def _part_classes(part_of: Ints, classes: F64) -> None:
    """Where a class of several groups (G x 2 pictures) came to lie in one part, put its two largest groups into two."""
    owners = [np.flatnonzero(classes[:, c]) for c in range(classes.shape[1])]
    owners = [groups for groups in owners if len(groups) > 1]
    if all(len(np.unique(part_of[groups])) > 1 for groups in owners):
        return
    # Two pairs that share a group, or none, can always be told apart by two colours.
    fixed: dict[int, int] = {}
    for c, groups in enumerate(owners):
        a, b = groups[np.argsort(-classes[groups, c], kind="stable")[:2]].tolist()
        first, second = (b, a) if b in fixed else (a, b)
        fixed.setdefault(first, 0)
        fixed.setdefault(second, 1 - fixed[first])
    for group, part in fixed.items():
        part_of[group] = part
