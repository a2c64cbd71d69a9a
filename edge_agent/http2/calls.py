"""Calls, as handlers see them."""

import random
import re
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from linewatch.edge_agent.http2.frames import literal
from linewatch.edge_agent.http2.status import Status, StatusError, timeout_seconds
from linewatch.edge_agent.http2.streams import Stream
from linewatch.edge_agent.http2.transport import Peer

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:/=+-]{1,64}")
Callback = Callable[[], None]


class Carrier(Protocol):
    """The connection that a call came on."""

    peer: Peer

    def hand_over_reading(self) -> bool:
        """See `Call.about_to_wait`."""
        ...

    def next_message(self, call: "Call") -> memoryview | None:
        """See `Call.messages`."""
        ...

    def send(self, call: "Call", message: bytes, *, more: bool) -> None:
        """See `Call.send`."""
        ...

    def finish(self, call: "Call", status: Status, text: str) -> None:
        """See `Call.finish`."""
        ...


class Call:
    """One call, seen from its handler.

    Attributes:
        stream: that it came on.
        path: `/SERVICE/METHOD`.
        peer: who calls.
        request_id: the caller's own, or a new one; it is in log lines and in the answer's trailers (x-request-id).
        ends_at: when it is ended whatever happens, on the monotonic clock; None for never.
        reads: whether its thread is still the one that reads from the connection.
    """

    def __init__(self, carrier: Carrier, stream: Stream, now: float) -> None:
        """Begin a call whose headers are there.

        Raises:
            StatusError: they are wrong.
        """
        self._carrier, self.stream, self.peer = carrier, stream, carrier.peer
        headers = stream.headers
        self.path = headers[":path"]
        timeout = headers.get("grpc-timeout")
        self._deadline = None if timeout is None else now + timeout_seconds(timeout)
        given = headers.get("x-request-id", "")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(64):016x}"
        stream.trailing = literal("x-request-id", self.request_id)
        self._when_gone: list[Callback] = []
        self.ends_at: float | None = None
        self.reads = True

    def about_to_wait(self) -> bool:
        """Let another thread read from this connection: the handler begins to wait for something else.

        Returns whether one does. When there are too many threads none does, and it is read again after this call.
        """
        if self.reads and self._carrier.hand_over_reading():
            self.reads = False
        return not self.reads

    @property
    def gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.stream.closed

    @property
    def remaining(self) -> float | None:
        """Seconds until the caller stops waiting; None when it did not say."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    def when_gone(self, callback: Callback) -> None:
        """Have `callback` called, from another thread, when the call is over before it was answered; at once when it is."""
        self._when_gone.append(callback)
        if self.gone:
            callback()

    def over(self) -> None:
        """Nobody waits for the answer any more."""
        callbacks, self._when_gone = self._when_gone, []
        for callback in callbacks:
            callback()

    def answered(self) -> None:
        """The handler is done: from now on nobody can go."""
        self._when_gone = []

    def message(self) -> memoryview:
        """The request of a call that has one.

        Raises:
            StatusError: there is none.
        """
        if not self.stream.reader.messages:
            raise StatusError(Status.INVALID_ARGUMENT, "the call has no request; expected one message")
        return self.stream.reader.messages[0]

    def messages(self) -> Iterator[memoryview]:
        """The requests of a conversation, as they come; ends when the client has sent all, or is gone."""
        while (message := self._carrier.next_message(self)) is not None:
            yield message

    def send(self, message: bytes, *, more: bool = False) -> None:
        """Send a response, as soon as the caller takes it; nobody waits for that. From any thread.

        Args:
            message: the response.
            more: whether the end follows at once, so that both go together.
        """
        self._carrier.send(self, message, more=more)

    def finish(self, status: Status = Status.OK, text: str = "") -> None:
        """End the call behind what was sent. From any thread."""
        self._carrier.finish(self, status, text)
