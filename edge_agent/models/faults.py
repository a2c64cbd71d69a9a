"""How often something went wrong of late."""

import time
from collections.abc import Callable

_MINUTE_S = 60.0


class RecentFaults:
    """Faults within a minute: deaths of workers, and answers that are none."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """None yet; `clock` gives seconds."""
        self._clock = clock
        self._times: list[float] = []

    def add(self) -> int:
        """Count one; returns how many there were in the last minute, with this one."""
        now = self._clock()
        self._times = [*(t for t in self._times if now - t < _MINUTE_S), now]
        return len(self._times)
