"""Whoever waits for an answer, as queue and workers see them."""

from collections.abc import Callable
from typing import Protocol


class Caller(Protocol):
    """Whoever waits for an answer."""

    @property
    def gone(self) -> bool:
        """Whether nobody waits any more."""
        ...

    @property
    def remaining(self) -> float | None:
        """Seconds until nobody waits any more; None when that is not known."""
        ...

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Call `callback`, from any thread, when nobody waits any more."""
        ...

    def about_to_wait(self) -> object:
        """The call's thread begins to wait: others are to see to its connection meanwhile."""
        ...
