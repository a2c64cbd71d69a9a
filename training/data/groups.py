"""Groups of pictures that are never divided, and near-duplicates that give way where a class would be lost. Pure functions."""

from dataclasses import dataclass

import numpy as np

from linewatch.training.arrays import Bools, Ints
from linewatch.training.data.folds import fewest_folds

LEAST_LEFT = 5
"""Pictures of a class that must be left when a group is left out, or half of them where there are fewer than ten."""
NOT_NAMED = -1
"""The group number of a picture that the user gave no group."""


def renumber(groups: Ints) -> Ints:
    """The same groups, numbered 0 to G - 1."""
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


@dataclass(frozen=True, slots=True)
class Groups:
    """Which of N pictures stay together.

    Likeness joins only pictures without a group of the user's: who names the parts knows better than thumbnails do, and one
    pair that looks alike would tie two parts, and by others all parts, into one.

    Attributes:
        named: N group numbers that the user gave, or `NOT_NAMED`; never divided.
        alike: N group numbers of near-duplicates; these give way where a class would be lost. Those of named pictures do not count.
        given_up: indices of near-duplicates that were divided all the same, group by group.
    """

    named: Ints
    alike: Ints
    given_up: tuple[Ints, ...] = ()

    def merged(self) -> Ints:
        """N group numbers, 0 to G - 1."""
        return self._with(self.alike)

    def indivisible(self) -> Ints:
        """N group numbers, 0 to G - 1: what is left when no likeness counts."""
        return self._with(np.arange(len(self.named)))

    def _with(self, others: Ints) -> Ints:
        return renumber(np.where(self.named != NOT_NAMED, self.named, self.named.max(initial=0) + 1 + others))

    def without(self, group: int) -> "Groups":
        """A group of near-duplicates divided into its pictures."""
        members = np.flatnonzero((self.alike == group) & (self.named == NOT_NAMED))
        alike = self.alike.copy()
        alike[members] = alike.max() + 1 + np.arange(len(members))
        return Groups(self.named, renumber(alike), (*self.given_up, members))

    def largest(self, members: Ints) -> int | None:
        """The largest group of near-duplicates among some pictures; None when none of them can be divided."""
        sizes = np.bincount(self.alike[members[self.named[members] == NOT_NAMED]])
        return int(sizes.argmax()) if sizes.max(initial=0) > 1 else None

    def subset(self, index: Ints) -> "Groups":
        """Of some of the pictures, which are numbered anew; what was given up before is not among it."""
        return Groups(self.named[index], renumber(self.alike[index]))


def keep_classes(groups: Groups, is_anomaly: Bools, folds: int) -> Groups:
    """Near-duplicates give way, largest group first, where they leave too little to learn from or to judge by.

    Afterwards any group can be left out and enough pictures of each class are left, and each class is in
    `fewest_folds` groups or more, so that so many folds can have both. What the user's own groups do not allow stays as it is. Parts
    of a line that look alike are the normal case; a group that holds all of a class leaves nothing to learn from.

    Args:
        groups: which pictures stay together.
        is_anomaly: N.
        folds: how many are wanted.
    """
    for value in (False, True):
        members = np.flatnonzero(is_anomaly == value)
        while len(members) and (group := _in_the_way(groups, members, folds)) is not None:
            groups = groups.without(group)
    return groups


def _in_the_way(groups: Groups, members: Ints, folds: int) -> int | None:
    """The group of near-duplicates, among a class's pictures, that is to be divided next; None when nothing is, or can be."""
    merged = groups.merged()[members]
    sizes = np.bincount(merged)
    if len(np.unique(merged)) < min(fewest_folds(folds), len(members)):
        return groups.largest(members)
    if len(members) - sizes.max() < min(LEAST_LEFT, len(members) // 2):
        return groups.largest(members[merged == sizes.argmax()])
    return None


def classes_in_one_group(groups: Ints, is_anomaly: Bools) -> list[bool]:
    """Classes (is it the anomalous one?) that are there, but in a single group: they cannot be cross-validated."""
    return [value for value in (False, True) if len(np.unique(groups[is_anomaly == value])) == 1]
