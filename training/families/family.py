"""Families of branches: what is fitted together and written into a graph together.

A family is fitted on some pictures and gives a `FittedFamily`, which writes itself into a graph and states what it gives
there: scores, a distance map, a segmentation, and the grid of each (`FamilyOutputs`). Cross-validation, the choice
and the final export treat all families alike.
"""

from typing import Protocol

from linewatch.training.arrays import Bools
from linewatch.training.graph.outputs import FittedFamily

SEGMENTATION_NET = "segmentation net"
"""The family whose net stands on the pretrained encoder."""


class Family(Protocol):
    """Something that can be fitted.

    Attributes:
        name: as reports call it.
        folds: how many parts the pictures are divided into for its out-of-fold scores; few where fitting is slow.
        divisions: in how many ways they are divided where one way is a matter of luck; 1 where fitting is slow.
    """

    @property
    def name(self) -> str:
        """See above."""

    @property
    def folds(self) -> int:
        """See above."""

    @property
    def divisions(self) -> int:
        """See above."""

    def placeholder(self) -> FittedFamily | None:
        """What costs as much as a fit, where fitting is too slow to be done before it is wanted; None where it is fast."""

    def fit(self, chosen: Bools, key: str) -> FittedFamily:
        """Fit on the chosen pictures. `key` names this fit among all fits of a run, for checkpoints."""
