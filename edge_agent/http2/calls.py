"""Calls, as handlers see them, and the methods that handle them."""

import random
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from edge_agent.http2.connection import Stream
from edge_agent.http2.frames import literal
from edge_agent.http2.status import Status, StatusError, timeout_seconds
from edge_agent.http2.transport import Peer

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:/=+-]{1,64}")


class Carrier(Protocol):
    """The connection that a call came on."""

    peer: Peer

    def leave_reading(self) -> None:
        """See `Call.about_to_wait`."""
        ...

    def messages(self, stream: Stream) -> Iterator[bytearray]:
        """See `Call.messages`."""
        ...

    def send(self, stream: Stream, message: bytes) -> None:
        """See `Call.send`."""
        ...


class Call:
    """One call, seen from its handler.

    Attributes:
        stream: that it came on.
        path: `/SERVICE/METHOD`.
        peer: who calls.
        headers: of the request, in lower case.
        request_id: the caller's own, or a new one; it is in log lines and in the answer's trailers (x-request-id).
        reads: whether its thread is still the one that reads from the connection.
    """

    def __init__(self, carrier: Carrier, stream: Stream, now: float) -> None:
        self._carrier, self.stream = carrier, stream
        self.path, self.headers, self.peer = stream.headers[":path"], stream.headers, carrier.peer
        timeout = self.headers.get("grpc-timeout")
        self.deadline = None if timeout is None else now + timeout_seconds(timeout)
        self.request_id = _request_id(self.headers.get("x-request-id", ""))
        stream.trailing = literal("x-request-id", self.request_id)
        self._on_cancel: Callable[[], None] | None = None
        self.reads = True

    def about_to_wait(self) -> None:
        """Let another thread read from this connection: the handler begins to wait for something else."""
        if self.reads:
            self.reads = False
            self._carrier.leave_reading()

    @property
    def gone(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self.stream.closed

    @property
    def remaining(self) -> float | None:
        """Seconds until the caller stops waiting; None when it did not say."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Have `callback` called, from another thread, when the caller goes; at once when it is gone already."""
        self._on_cancel = callback
        if self.gone:
            callback()

    def cancelled(self) -> None:
        """The caller is gone."""
        callback = self._on_cancel
        if callback is not None:
            callback()

    def message(self) -> bytearray:
        """The request of a unary call.

        Raises:
            StatusError: there is not exactly one.
        """
        if len(self.stream.messages) != 1:
            raise StatusError(Status.UNIMPLEMENTED, f"the call has {len(self.stream.messages)} messages; expected one")
        return self.stream.messages.popleft()

    def messages(self) -> Iterator[bytearray]:
        """The requests of a streaming call, as they come; ends when the client has sent all, or is gone."""
        self.about_to_wait()
        return self._carrier.messages(self.stream)

    def send(self, message: bytes) -> None:
        """Send one response of a streaming call.

        Raises:
            StatusError: the caller is gone or does not read.
        """
        self._carrier.send(self.stream, message)


def _request_id(given: str) -> str:
    return given if _REQUEST_ID.fullmatch(given) else f"{random.getrandbits(64):016x}"


@dataclass(frozen=True, slots=True)
class Method:
    """A method of a service.

    Unary ones get their call when its message is there, and return the response's bytes; others get it at once, send what they
    will, and return nothing.
    """

    handle: Callable[[Call], bytes | None]
    unary: bool = True
