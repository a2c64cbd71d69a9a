"""Callers for tests that do not come through a socket."""

from collections.abc import Callable


class Patient:
    """Waits for as long as it takes, unless it is told to leave."""

    def __init__(self, remaining: float | None = None) -> None:
        self.gone, self.remaining = False, remaining
        self._callback: Callable[[], None] | None = None

    def about_to_wait(self) -> None:
        pass

    def when_gone(self, callback: Callable[[], None]) -> None:
        """See `linewatch.edge_agent.workers.caller.Caller`."""
        self._callback = callback

    def leave(self) -> None:
        """Be gone."""
        self.gone = True
        if self._callback is not None:
            self._callback()
