"""How long work tells of its progress."""

from collections.abc import Callable

ProgressCallback = Callable[[str, int, int], None]
"""Called with what is being done, how many steps are done, and how many there are."""


def no_progress(_what: str, _done: int, _total: int) -> None:
    """For callers that do not want to know."""
