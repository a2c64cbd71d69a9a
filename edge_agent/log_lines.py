"""One JSON object a line on standard output: what a core files, and what people search."""

import threading
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import structlog

from linewatch.edge_agent.quoting import truncated

_TEXT, _TRACE, _ITEMS = 2000, 8000, 100
_A_SECOND = 20
AS_ASKED = frozenset({"picture inspected"})
"""Lines that a setting asks for, each of them; of all others callers could make as many as they like."""


def configure_logging() -> None:
    """For this process; its log lines are whole however many threads write, short, and not more than a disk bears."""
    structlog.configure(
        processors=[RateFilter(_A_SECOND), structlog.processors.TimeStamper(fmt="iso"), structlog.processors.add_log_level,
                    structlog.processors.format_exc_info, shorten, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(),
    )  # fmt: skip


def shorten(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor: no value is longer than people read."""
    for key, value in line.items():
        line[key] = _bounded(value, _TRACE if key == "exception" else _TEXT)
    return line


def _bounded(value: Any, most: int) -> Any:
    if isinstance(value, str):
        return truncated(value, most)
    if isinstance(value, (list, tuple)):
        return [_bounded(item, _TEXT // 10) for item in value[:_ITEMS]]
    return value if value is None or isinstance(value, (bool, int, float)) else truncated(str(value), most)


class RateFilter:
    """A processor: of each kind of line so many a second; the next one of that kind says how many were left out."""

    def __init__(self, a_second: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._clock = a_second, clock
        self._lock = threading.Lock()
        self._kinds: dict[str, tuple[int, int]] = {}
        self._left_out: dict[str, int] = {}

    def __call__(self, _: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """See structlog.

        Raises:
            structlog.DropEvent: there were too many of its kind in this second.
        """
        kind = str(line["event"])
        if kind in AS_ASKED:
            return line
        now = int(self._clock())
        with self._lock:
            second, count = self._kinds.get(kind, (now, 0))
            count = count + 1 if second == now else 1
            self._kinds[kind] = now, count
            if count > self._most:
                self._left_out[kind] = self._left_out.get(kind, 0) + 1
                raise structlog.DropEvent
            left_out = self._left_out.pop(kind, 0)
        if left_out:
            line["left_out"] = left_out
        return line
