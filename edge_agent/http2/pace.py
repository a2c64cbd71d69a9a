"""How much work a peer may make that leads to nothing. Pure, but for a lock.

Frames are cheap to send without end: pings, settings, resets, headers, calls that fail, frames without content. So what a connection's
frames cost comes off its allowance, and what a call cost is given back when it was answered. A connection whose allowance is used up
waits before it is read again; so does one that has used half of it when the peers of its socket together have used up theirs.

Costs are about microseconds of one processor (AMD EPYC, Milan).
"""

import threading
from dataclasses import dataclass

READ = 6
"""Of reading once from a connection."""
FRAME = 6
"""Of any frame."""
DATA = 12
"""Of a DATA frame."""
SMALL = 8
"""What frames that are answered, or change what is sent, cost more."""
CALL = 120
"""What a call costs before its handler has it, and its answer."""
_BLOCK_BYTE, _LONG_BLOCK = 0.3, 4096


def header_block(length: int) -> float:
    """Of unpacking a header block; long ones can be made to stand for very much."""
    return length * _BLOCK_BYTE * (1 + length / _LONG_BLOCK)


@dataclass(frozen=True, slots=True)
class Allowance:
    """Of work that leads to nothing.

    Attributes:
        a_second: cost; about the millionth part of a processor's time.
        at_once: cost, when it has been quiet.
    """

    a_second: float
    at_once: float


class Pot:
    """What is left of an allowance. Its time is told."""

    def __init__(self, allowance: Allowance, now: float, *, filled: float = 1.0) -> None:
        """So much of what may be spent at once is there."""
        self._allowance = allowance
        self._left, self._at = allowance.at_once * filled, now
        self._lock = threading.Lock()

    def spend(self, cost: float, now: float) -> None:
        """Take a cost out; a negative one is given back."""
        with self._lock:
            left = self._left + max(0.0, now - self._at) * self._allowance.a_second - cost
            # Debts of many that have gone are not the others' to wait for.
            self._left = min(self._allowance.at_once, max(left, -self._allowance.at_once))
            self._at = max(self._at, now)

    @property
    def wait(self) -> float:
        """Seconds after which something is in it again."""
        return max(0.0, -self._left / self._allowance.a_second)

    @property
    def half_spent(self) -> bool:
        """Whether less than half of what may be spent at once is left."""
        return self._left < self._allowance.at_once / 2


class Pace:
    """Of one connection: its own pot, and the one of all peers at its socket."""

    def __init__(self, own: Pot, shared: Pot) -> None:
        self._own, self._shared = own, shared

    def spend(self, cost: float, now: float) -> None:
        """See `Pot`."""
        self._own.spend(cost, now)
        self._shared.spend(cost, now)

    @property
    def wait(self) -> float:
        """Seconds for which the connection is not read."""
        return max(self._own.wait, self._shared.wait if self._own.half_spent else 0.0)

    @property
    def fair(self) -> bool:
        """Whether most of what the connection makes work with leads to something."""
        return not self._own.half_spent
