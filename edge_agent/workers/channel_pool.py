"""Who may use a worker next: first come, first served, with a bound, and no turn for callers that have gone."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.edge_agent.errors import CallerGoneError, DeadlineError, ExhaustedError


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


class _OfLink(Protocol):
    @property
    def link(self) -> object: ...

    @property
    def broken(self) -> bool: ...


Lane = TypeVar("Lane", bound=_OfLink)


class _Ticket(Generic[Lane]):
    def __init__(self) -> None:
        self.called = threading.Event()
        self.lane: Lane | None = None
        self.error: LinewatchError | None = None


class Turns(Generic[Lane]):
    """Free lanes to workers, and those who wait for one.

    A lane is what one call at a time goes through; its `link` is the worker at the other end. Of the free lanes the one is taken
    whose worker has the fewest calls. One that is `broken` when it is given back is not offered again.
    """

    def __init__(self, name: str, queue: int, patience_s: float, closed: Callable[[], LinewatchError]) -> None:
        """Nobody is let in before `open`.

        Args:
            name: of the model, for messages.
            queue: how many may wait.
            patience_s: seconds that each may wait, deadline or not.
            closed: what those are told who come while it is shut.
        """
        self._name, self._queue, self._patience_s, self._closed = name, queue, patience_s, closed
        self._open = False
        self._changed = threading.Condition()
        self._free: list[Lane] = []
        self._busy: list[Lane] = []
        self._leaving: list[Lane] = []
        self._waiting: deque[_Ticket[Lane]] = deque()

    def bound(self, queue: int, patience_s: float) -> None:
        """Other bounds, for those who come from now on."""
        self._queue, self._patience_s = queue, patience_s

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._waiting)

    @property
    def busy(self) -> int:
        """How many lanes are in use now."""
        return len(self._busy)

    @contextmanager
    def turn(self, caller: Caller) -> Iterator[Lane]:
        """Wait for a lane and hold it.

        Raises:
            ExhaustedError: too many wait already. DeadlineError: no lane was free in time. CallerGoneError: the caller left.
            LinewatchError: it is shut; see `closed`.
        """
        lane = self._take(caller)
        try:
            yield lane
        finally:
            with self._changed:
                self._give_back(lane)

    def _give_back(self, lane: Lane) -> None:
        self._busy.remove(lane)
        if lane in self._leaving:
            self._leaving.remove(lane)
        elif not lane.broken:
            self._free.append(lane)
            self._call_next()
        self._changed.notify_all()

    def _take(self, caller: Caller) -> Lane:
        with self._changed:
            if not self._open:
                raise self._closed()
            if self._free and not self._waiting:
                return self._pick()
            if len(self._waiting) >= self._queue:
                raise ExhaustedError(
                    f"model {self._name!r} has {self._queue} calls waiting; send fewer pictures at a time, or raise the setting queue"
                )
            ticket: _Ticket[Lane] = _Ticket()
            self._waiting.append(ticket)
        try:
            caller.about_to_wait()
            caller.when_gone(ticket.called.set)
            remaining = caller.remaining
            ticket.called.wait(self._patience_s if remaining is None else max(0.0, min(remaining, self._patience_s)))
        except BaseException:
            with self._changed:
                if ticket in self._waiting:
                    self._waiting.remove(ticket)
                elif ticket.lane is not None:  # nobody else would give it back
                    self._give_back(ticket.lane)
            raise
        with self._changed:
            if ticket.lane is not None:
                return ticket.lane
            if ticket.error is not None:
                raise ticket.error
            self._waiting.remove(ticket)
        if caller.gone:
            raise CallerGoneError("the caller left while its call waited")
        raise DeadlineError(f"model {self._name!r} was busy, or being started again, for as long as the call could wait")

    def _call_next(self) -> None:
        while self._free and self._waiting:
            ticket = self._waiting.popleft()
            ticket.lane = self._pick()
            ticket.called.set()

    def _pick(self) -> Lane:
        lane = self._free[0] if len(self._free) == 1 else min(self._free, key=lambda free: sum(b.link is free.link for b in self._busy))
        self._free.remove(lane)
        self._busy.append(lane)
        return lane

    def offer(self, lanes: Sequence[Lane]) -> None:
        """Let these be used."""
        with self._changed:
            self._free.extend(lanes)
            self._call_next()

    def withdraw(self, lanes: Sequence[Lane]) -> None:
        """Let these be used no more; those in use are until they are given back."""
        with self._changed:
            self._free = [lane for lane in self._free if lane not in lanes]
            self._leaving += [lane for lane in self._busy if lane in lanes and lane not in self._leaving]

    def uses(self, lanes: Sequence[Lane]) -> bool:
        """Whether one of these is in use."""
        with self._changed:
            return any(lane in lanes for lane in self._busy)

    def wait_until_idle(self, lanes: Sequence[Lane], seconds: float) -> bool:
        """Wait until none of these is in use."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.uses(lanes), seconds)

    def open(self) -> None:
        """Let callers in, to wait if need be."""
        with self._changed:
            self._open = True

    def shut(self) -> None:
        """Let nobody in, and tell all who wait that there will be no turn."""
        with self._changed:
            self._open = False
            while self._waiting:
                ticket = self._waiting.popleft()
                ticket.error = self._closed()
                ticket.called.set()
