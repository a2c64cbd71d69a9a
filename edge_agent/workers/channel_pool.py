"""Free channels to a model's workers, and the calls that wait for one: first come, first served, with a bound; who has gone leaves."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.edge_agent.errors import CallerGoneError, DeadlineError, ExhaustedError
from linewatch.edge_agent.workers.caller import Caller


class _ToWorker(Protocol):
    @property
    def worker(self) -> object: ...

    @property
    def broken(self) -> bool: ...


Channel = TypeVar("Channel", bound=_ToWorker)


class _Waiter(Generic[Channel]):
    def __init__(self) -> None:
        self.woken = threading.Event()
        self.channel: Channel | None = None
        self.error: LinewatchError | None = None


class ChannelPool(Generic[Channel]):
    """Free channels to workers, and those who wait for one.

    A channel is what one call at a time goes through; its `worker` is at the other end. Of the free channels the one is taken
    whose worker has the fewest calls. One that is `broken` when it is released is not used again.
    """

    def __init__(self, name: str, queue: int, wait_s: float, closed: Callable[[], LinewatchError]) -> None:
        """No channels yet, and closed until `open`.

        Args:
            name: of the model, for messages.
            queue: how many may wait.
            wait_s: seconds that each may wait, deadline or not.
            closed: what those are told who come while the pool is closed.
        """
        self._name, self._queue, self._wait_s, self._closed = name, queue, wait_s, closed
        self._open = False
        self._changed = threading.Condition()
        self._free: list[Channel] = []
        self._busy: list[Channel] = []
        self._leaving: list[Channel] = []
        self._waiting: deque[_Waiter[Channel]] = deque()

    def set_bounds(self, queue: int, wait_s: float) -> None:
        """Other bounds, for those who come from now on."""
        self._queue, self._wait_s = queue, wait_s

    @property
    def waiting(self) -> int:
        """How many wait now."""
        return len(self._waiting)

    @property
    def busy(self) -> int:
        """How many channels are in use now."""
        return len(self._busy)

    @contextmanager
    def acquire(self, caller: Caller) -> Iterator[Channel]:
        """Wait for a channel and hold it.

        Raises:
            ExhaustedError: too many calls wait already.
            DeadlineError: no channel was free in time.
            CallerGoneError: the caller left while it waited.
            LinewatchError: the pool is closed; see `closed`.
        """
        channel = self._wait_for_one(caller)
        try:
            yield channel
        finally:
            with self._changed:
                self._release(channel)

    def _release(self, channel: Channel) -> None:
        self._busy.remove(channel)
        if channel in self._leaving:
            self._leaving.remove(channel)
        elif not channel.broken:
            self._free.append(channel)
            self._serve_next()
        self._changed.notify_all()

    def _wait_for_one(self, caller: Caller) -> Channel:
        with self._changed:
            if not self._open:
                raise self._closed()
            if self._free and not self._waiting:
                return self._pick()
            if len(self._waiting) >= self._queue:
                raise ExhaustedError(
                    f"model {self._name!r} has {self._queue} calls waiting; send fewer pictures at a time, or raise the setting queue"
                )
            waiter: _Waiter[Channel] = _Waiter()
            self._waiting.append(waiter)
        try:
            caller.about_to_wait()
            caller.when_gone(waiter.woken.set)
            remaining = caller.remaining
            waiter.woken.wait(self._wait_s if remaining is None else max(0.0, min(remaining, self._wait_s)))
        except BaseException:
            with self._changed:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)
                elif waiter.channel is not None:  # nobody else would give it back
                    self._release(waiter.channel)
            raise
        with self._changed:
            if waiter.channel is not None:
                return waiter.channel
            if waiter.error is not None:
                raise waiter.error
            self._waiting.remove(waiter)
        if caller.gone:
            raise CallerGoneError("the caller left while its call waited")
        raise DeadlineError(f"model {self._name!r} was busy, or being started again, for as long as the call could wait")

    def _serve_next(self) -> None:
        while self._free and self._waiting:
            waiter = self._waiting.popleft()
            waiter.channel = self._pick()
            waiter.woken.set()

    def _pick(self) -> Channel:
        channel = self._free[0] if len(self._free) == 1 else min(self._free, key=lambda free: sum(b.worker is free.worker for b in self._busy))
        self._free.remove(channel)
        self._busy.append(channel)
        return channel

    def add(self, channels: Sequence[Channel]) -> None:
        """Let these be used from now on."""
        with self._changed:
            self._free.extend(channels)
            self._serve_next()

    def remove(self, channels: Sequence[Channel]) -> None:
        """Let these be used no more; those in use are until they are released."""
        with self._changed:
            self._free = [channel for channel in self._free if channel not in channels]
            self._leaving += [channel for channel in self._busy if channel in channels and channel not in self._leaving]

    def uses(self, channels: Sequence[Channel]) -> bool:
        """Whether one of these is in use."""
        with self._changed:
            return any(channel in channels for channel in self._busy)

    def wait_until_idle(self, channels: Sequence[Channel], seconds: float) -> bool:
        """Wait until none of these is in use."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.uses(channels), seconds)

    def open(self) -> None:
        """Let callers in, to wait if need be."""
        with self._changed:
            self._open = True

    def close(self) -> None:
        """Let nobody in, and tell all who wait that there will be no channel."""
        with self._changed:
            self._open = False
            while self._waiting:
                waiter = self._waiting.popleft()
                waiter.error = self._closed()
                waiter.woken.set()
