"""How much work a peer may make that leads to nothing. Pure, but for a lock.

Frames are cheap to send without end: pings, settings, resets, headers, calls that fail, frames without content. So what a connection's
frames cost comes off its allowance, and off the one of its user; what a call cost that is worth it is given back when it was answered
(`messages.Expected`). When a user's allowance is used up, those of its connections that have used half of theirs wait before they are read
again; when it is used up by far, all of them do. Of those that are not fair one is read at a time. Other users notice nothing.

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
CALL = 250
"""What a call costs before its handler has it, and its answer."""
_BLOCK_BYTE, _FIELD, _LONG_BLOCK = 1.0, 5.0, 4096
RECORD = 3
"""Of a TLS record."""


def header_block(length: int, fields: int) -> float:
    """Of unpacking a header block of so many bytes to so many fields, and of looking at them; long ones can be made to stand for very much."""
    return length * _BLOCK_BYTE * (1 + length / _LONG_BLOCK) + fields * _FIELD


_DEEP_S, _LONGEST_S = 1.0, 3.0
"""Of debts: seconds that it takes to make up for them, until which connections that have spent little are read, and at most."""


@dataclass(frozen=True, slots=True)
class Allowance:
    """Of work that leads to nothing.

    Attributes:
        per_second: cost; about the millionth part of a processor's time.
        burst: cost that may be spent at once, when it has been quiet.
    """

    per_second: float
    burst: float


class TokenBucket:
    """What is left of an allowance: it fills by so much a second, up to the burst, and may be owed. Its time is told."""

    def __init__(self, allowance: Allowance, now: float, *, filled: float = 1.0) -> None:
        """So much of what may be spent at once is there."""
        self._allowance = allowance
        self._left, self._at = allowance.burst * filled, now
        self._lock = threading.Lock()

    def spend(self, cost: float, now: float) -> None:
        """Take a cost out; a negative one is given back."""
        with self._lock:
            left = self._left + max(0.0, now - self._at) * self._allowance.per_second - cost
            # Debts end some time: who made them may have gone.
            self._left = min(self._allowance.burst, max(left, -_LONGEST_S * self._allowance.per_second))
            self._at = max(self._at, now)

    @property
    def wait(self) -> float:
        """Seconds after which something is in it again."""
        return max(0.0, -self._left / self._allowance.per_second)

    @property
    def half_spent(self) -> bool:
        """Whether less than half of what may be spent at once is left."""
        return self._left < self._allowance.burst / 2


class UserBucket(TokenBucket):
    """Of all connections of a user together.

    Attributes:
        reading: held while one of them that is not fair is read, so that many cannot spend at once what is there for one.
    """

    def __init__(self, allowance: Allowance, now: float) -> None:
        super().__init__(allowance, now)
        self.reading = threading.Lock()

    @property
    def wait_of_all(self) -> float:
        """Seconds for which not even connections that have spent little are read: very many of them have."""
        return max(0.0, self.wait - _DEEP_S)


class RateLimit:
    """Of one connection: its own bucket, and the one of its user."""

    def __init__(self, own: TokenBucket, shared: UserBucket) -> None:
        self._own, self._shared = own, shared
        self.reading = shared.reading

    def spend(self, cost: float, now: float) -> None:
        """See `TokenBucket`."""
        self._own.spend(cost, now)
        self._shared.spend(cost, now)

    @property
    def wait(self) -> float:
        """Seconds for which the connection is not read."""
        return self._shared.wait if self._own.half_spent else self._shared.wait_of_all

    @property
    def fair(self) -> bool:
        """Whether little of what the connection and its user make work with leads to nothing."""
        return not self._own.half_spent and not self._shared.wait
