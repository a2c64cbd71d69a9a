"""How requests arrive: few at a time, so that their memory is bounded, and none can be held up by those that never come whole.

gRPC tells of a call when its headers are there, and takes memory for the message when somebody asks for it. Asking is what a call needs
a lane for. Most messages are there already, and hold a lane for less than a millisecond.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edge_agent.errors import CallerGoneError, ExhaustedError

LARGE_BYTES = 64 * 1024
"""Of a message that is not worth counting, at most."""
_LONG_S = 1.0
"""For a message to arrive or to be read while others wait for its place."""
_FLOWING_S, _FLOWING_RATE = 10.0, 256 * 1024
"""For a message whose connection brings so many bytes a second all the while: it is large, or the machine is busy."""


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """Bounds of requests that arrive and that are handled.

    Attributes:
        lanes: requests that arrive at a time.
        waiting: that wait for a lane; of more, one is refused.
        patience_s: seconds after which one that waits takes the lane of another that has been arriving for as long, on a connection
            with more calls; of others after a second, and of one that comes at a good pace after ten.
        stall_s: seconds after which a request has arrived though nobody waits for its lane, and a large answer has been read.
        held_bytes: of requests that have arrived and are not answered yet, and of large answers that are not read yet.
    """

    lanes: int = 8
    waiting: int = 32
    patience_s: float = 0.02
    stall_s: float = 30
    held_bytes: int = 256 * 1024 * 1024


class Ticket:
    """A call that arrives, waits for that, or leaves."""

    __slots__ = ("_before", "_received", "begun", "ended", "give_up", "granted", "owner", "refused")

    def __init__(self, owner: object, give_up: Callable[[], None], received: Callable[[], int] = lambda: 0) -> None:
        self.owner, self.give_up, self._received = owner, give_up, received
        self.ended, self.refused = False, False
        self.begin()
        self.granted: threading.Event | None = None

    def begin(self) -> None:
        """Its time runs from now."""
        self.begun, self._before = time.monotonic(), self._received()

    def patience(self, seconds: float, now: float) -> float:
        """How long it may arrive: so many seconds, and longer when it comes at a good pace."""
        return _FLOWING_S if self._received() - self._before > _FLOWING_RATE * (now - self.begun) else seconds

    def end(self) -> None:
        """End the call: its lane is needed by another, or it has taken too long."""
        self.ended = True
        self.give_up()


class Intake:
    """Lanes, and those who wait for one.

    First goes whose connection has the fewest calls here, and of those the newest; who must leave is of the connection with the most
    calls, and of those the oldest. So a pile of calls that never come whole delays nobody else.
    """

    def __init__(self, limits: IntakeLimits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._arriving: list[Ticket] = []
        self._waiting: list[Ticket] = []
        self._leaving: list[Ticket] = []
        self._held = 0

    def arrive(self, owner: object, give_up: Callable[[], None], received: Callable[[], int] = lambda: 0) -> Ticket:
        """Wait for a lane and hold it, until `arrived`.

        Args:
            owner: the connection that the call comes on.
            give_up: ends the call: its lane is needed by another, or it has taken too long. May be called from any thread.
            received: bytes that the connection has brought so far.

        Raises:
            ExhaustedError: more are waiting for a lane than may.
        """
        ticket = Ticket(owner, give_up, received)
        with self._lock:
            if len(self._arriving) < self._limits.lanes:
                self._arriving.append(ticket)
                return ticket
            ticket.granted = threading.Event()
            self._waiting.append(ticket)
            if len(self._waiting) > self._limits.waiting:
                refused = self._most(self._waiting)
                refused.refused = True
                self._waiting.remove(refused)
                self._grant(refused)
        self._wait(ticket, ticket.granted)
        return ticket

    def arrived(self, ticket: Ticket) -> None:
        """Give the lane back.

        Raises:
            CallerGoneError: the call was ended, by `give_up`.
        """
        with self._lock:
            self._arriving.remove(ticket)
            if self._waiting and len(self._arriving) < self._limits.lanes:
                following = self._next()
                following.begin()
                self._arriving.append(following)
                self._grant(following)
        if ticket.ended:
            raise CallerGoneError("the request did not arrive whole in the time that there was for it")

    @staticmethod
    def _grant(ticket: Ticket) -> None:
        assert ticket.granted is not None
        ticket.granted.set()

    def _calls(self) -> Counter[object]:
        return Counter(ticket.owner for ticket in (*self._arriving, *self._waiting))

    def _most(self, tickets: Sequence[Ticket]) -> Ticket:
        calls = self._calls()
        return max(tickets, key=lambda ticket: calls[ticket.owner])

    def _next(self) -> Ticket:
        calls = self._calls()
        ticket = min(reversed(self._waiting), key=lambda ticket: calls[ticket.owner])
        self._waiting.remove(ticket)
        return ticket

    def _wait(self, ticket: Ticket, granted: threading.Event) -> None:
        while not granted.wait(self._limits.patience_s):
            now = time.monotonic()
            with self._lock:
                calls = self._calls()
                slow = [each for each in self._arriving if now - each.begun > each.patience(
                    self._limits.patience_s if calls[each.owner] > calls[ticket.owner] else _LONG_S, now)]  # fmt: skip
                leaving = self._most(slow) if slow else None
            if leaving is not None:
                leaving.end()
        if ticket.refused:
            raise ExhaustedError("too many requests are arriving at once; send fewer at a time, or pictures by shared memory")

    def end_stalled(self) -> None:
        """Give up requests that have been arriving, and answers that have been leaving, for too long; to be called now and then."""
        now = time.monotonic()
        with self._lock:
            stalled = [ticket for ticket in (*self._arriving, *self._leaving) if now - ticket.begun > self._limits.stall_s]
        for ticket in stalled:
            ticket.end()

    def hold(self, count: int) -> None:
        """Count a request's bytes, until `release`.

        Raises:
            ExhaustedError: there are too many. The answer that has been waiting longest to be read is given up then.
        """
        slow = None
        with self._lock:
            fits = self._held + count <= self._limits.held_bytes
            if fits:
                self._held += count
            elif self._leaving and time.monotonic() - self._leaving[0].begun > _LONG_S:
                slow = self._leaving[0]
        if slow is not None:
            slow.end()
        if not fits:
            raise ExhaustedError("too many large messages are under way at once; send fewer at a time, or pictures by shared memory")

    def release(self, count: int) -> None:
        """A request was handled."""
        with self._lock:
            self._held -= count

    def leaving(self, count: int, give_up: Callable[[], None], when_over: Callable[[Callable[[], None]], None]) -> None:
        """Count an answer's bytes until the call is over: gRPC keeps them for as long as its caller does not read.

        Args:
            count: how many.
            give_up: ends the call.
            when_over: has a callback called when it is over.
        """
        ticket = Ticket(None, give_up)
        with self._lock:
            self._held += count
            self._leaving.append(ticket)

        def over() -> None:
            with self._lock:
                self._held -= count
                self._leaving.remove(ticket)

        when_over(over)
