"""gRPC's length-prefixed messages, put together from the pieces in which they arrive. Pure."""

from collections import deque
from dataclasses import dataclass

import numpy as np

from linewatch.edge_agent.http2.budget import SMALL_BYTES, Account
from linewatch.edge_agent.http2.status import Status, StatusError

PREFIX_BYTES = 5
_STEPS = (SMALL_BYTES, 1024 * 1024)
"""Bytes for which there is room at first, and when those have come: a length alone takes no memory. The system backs a large piece with pages
of megabytes, so that there must have come about as much."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a method takes.

    Attributes:
        largest: bytes of a message.
        messages: of one call that may be here and not taken yet; one for a call that has one request.
        streaming: whether more come after those that were taken.
        awaited: whether a server that stops waits for such calls.
        refunded: whether what a call cost is given back when it was answered; see `rate_limit`.
    """

    largest: int
    messages: int = 1
    streaming: bool = False
    awaited: bool = True
    refunded: bool = False


class MessageReader:
    """Assembles the messages of one stream. Memory is counted as it is filled, after the length is known and allowed.

    Attributes:
        expected: what the method takes.
        messages: that have arrived whole and were not taken yet.
    """

    def __init__(self, expected: Expected, account: Account) -> None:
        self.expected, self._account = expected, account
        self.messages: deque[memoryview] = deque()
        self._prefix = bytearray()
        self._body: memoryview | None = None
        self._length = self._filled = 0
        self._held = 0
        self._begun = 0

    @property
    def missing(self) -> int:
        """Bytes that the message that has begun still needs; 0 between messages."""
        if self._body is None:
            return PREFIX_BYTES - len(self._prefix) if self._prefix else 0
        return self._length - self._filled

    def feed(self, data: memoryview) -> None:
        """Take the next bytes.

        Raises:
            StatusError: the message is too large, compressed, one too many, or there is no memory for it.
        """
        while data or self._body is not None:
            if self._body is None:
                wanted = PREFIX_BYTES - len(self._prefix)
                self._prefix += data[:wanted]
                data = data[wanted:]
                if len(self._prefix) < PREFIX_BYTES:
                    break
                self._begin()
            assert self._body is not None
            part = data[: len(self._body) - self._filled]
            self._hold(len(part))
            self._body[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            data = data[len(part) :]
            if self._filled < len(self._body):
                break
            if self._filled < self._length:
                self._grow(self._body)
                continue
            self.messages.append(self._body)
            self._body, self._filled = None, 0

    def _begin(self) -> None:
        flag, length = self._prefix[0], int.from_bytes(self._prefix[1:], "big")
        self._prefix.clear()
        self._begun += 1
        if flag:
            raise StatusError(Status.UNIMPLEMENTED, "the message is compressed; send it without compression (grpc-encoding: identity)")
        if length > self.expected.largest:
            raise StatusError(Status.RESOURCE_EXHAUSTED, f"the message has {length} bytes; at most {self.expected.largest} are taken")
        if not self.expected.streaming and self._begun > 1:
            raise StatusError(Status.INVALID_ARGUMENT, "the call has more than one message; expected one")
        if len(self.messages) >= self.expected.messages:
            raise StatusError(Status.RESOURCE_EXHAUSTED, f"{len(self.messages)} messages wait already; read what is answered meanwhile")
        self._length = length
        self._body = _room(min(length, _STEPS[0]))

    def _grow(self, body: memoryview) -> None:
        step = next((step for step in _STEPS if step > len(body)), self._length)
        self._body = _room(min(self._length, step))
        self._body[: len(body)] = body

    def _hold(self, count: int) -> None:
        if not self._account.take(count, always=self._length <= SMALL_BYTES):
            raise StatusError(Status.RESOURCE_EXHAUSTED, "too many large messages are under way at once; send fewer at a time, or use shared memory")
        self._held += count

    def take(self) -> memoryview:
        """The next message of a stream; its memory is the caller's affair from now on."""
        message = self.messages.popleft()
        self._account.give_back(len(message))
        self._held -= len(message)
        return message

    def close(self) -> None:
        """Give the memory back: the call is over."""
        self._account.give_back(self._held)
        self._held = 0
        self._body = None
        self.messages.clear()


def _room(length: int) -> memoryview:
    """Memory that nobody has touched."""
    return np.empty(length, np.uint8).data


def message_prefix(length: int) -> bytes:
    """What goes before a message, uncompressed."""
    return b"\x00" + length.to_bytes(4, "big")
