"""How many inference units a model should have. Pure: load goes in, a number comes out.

Demand grows at once when calls wait, and shrinks only after a quiet while, so that a pause of the line does not cost a
start at its end.
"""

from dataclasses import dataclass

BUSY, QUIET = 0.8, 0.3
"""Shares of the units' time above which there is one more, and below which there may be one less."""
GROW_AFTER_S, SHRINK_AFTER_S = 2.0, 60.0


@dataclass(slots=True)
class Scaler:
    """Decides between a least and a most number of units.

    Attributes:
        least: units that are always there.
        most: units that may be there.
    """

    least: int
    most: int
    _busy_since: float | None = None
    _quiet_since: float | None = None

    def decide(self, units: int, load: float, waiting: int, now: float) -> int:
        """The number of units that there should be.

        Args:
            units: how many there are.
            load: share of the units' time since the last decision that was spent on calls, 0 to 1.
            waiting: calls that wait for a unit.
            now: seconds of a clock that does not jump.
        """
        busy, quiet = load > BUSY or waiting > 0, load < QUIET and waiting == 0
        self._busy_since = (self._busy_since if self._busy_since is not None else now) if busy else None
        self._quiet_since = (self._quiet_since if self._quiet_since is not None else now) if quiet else None
        wanted = units
        if self._busy_since is not None and now - self._busy_since >= GROW_AFTER_S:
            wanted, self._busy_since = units + 1, now
        elif self._quiet_since is not None and now - self._quiet_since >= SHRINK_AFTER_S:
            wanted, self._quiet_since = units - 1, now
        return min(max(wanted, self.least), self.most)
