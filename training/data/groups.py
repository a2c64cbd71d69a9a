"""Groups of pictures that are never divided, and near-duplicates that give way where a class would be lost. Pure functions."""

from dataclasses import dataclass

import numpy as np

from linewatch.training.arrays import Bools, Ints

LEAST_LEFT = 5
"""Pictures of a class that must be left when a group is left out, or half of them where there are fewer than ten."""


def renumber(groups: Ints) -> Ints:
    """The same groups, numbered 0 to G - 1."""
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
            return renumber(result)


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
        return Groups(self.named, renumber(alike), (*self.given_up, members))

    def largest(self, members: Ints) -> int | None:
        """The largest group of near-duplicates among some pictures; None when each is its own."""
        sizes = np.bincount(self.alike[members])
        return int(sizes.argmax()) if sizes.max() > 1 else None

    def subset(self, index: Ints) -> "Groups":
        """Of some of the pictures, which are numbered anew; what was given up before is not among it."""
        named, alike = (renumber(g[index]) for g in (self.named, self.alike))
        return Groups(named, alike)


def keep_classes(groups: Groups, is_anomaly: Bools) -> Groups:
    """Near-duplicates give way until any group can be left out and enough pictures of each class are left to learn from.

    Parts of a line that look alike are the normal case; a group that holds all of a class leaves nothing to learn from.
    """
    for value in (False, True):
        members = np.flatnonzero(is_anomaly == value)
        wanted = min(LEAST_LEFT, len(members) // 2)
        while len(members):
            merged = groups.merged()
            sizes = np.bincount(merged[members])
            together = np.flatnonzero(merged == sizes.argmax())
            group = groups.largest(together[is_anomaly[together] == value])
            if group is None:  # look-alikes of the other class can tie named parts to each other, too
                group = groups.largest(together)
            if group is None or len(members) - sizes.max() >= wanted:
                break
            groups = groups.without(group)
    return groups


def classes_in_one_group(groups: Ints, is_anomaly: Bools) -> list[bool]:
    """Classes (is it the anomalous one?) that are there, but in a single group: they cannot be cross-validated."""
    return [value for value in (False, True) if len(np.unique(groups[is_anomaly == value])) == 1]
