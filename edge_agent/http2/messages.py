"""gRPC's length-prefixed messages, put together from the pieces in which they arrive. Pure."""

from collections.abc import Callable

from edge_agent.http2.status import Status, StatusError

PREFIX_BYTES = 5
COMPRESSED = 1


class MessageReader:
    """Assembles the messages of one stream. Memory is taken when a length is known and allowed."""

    def __init__(self, largest: int, reserve: Callable[[int], bool], release: Callable[[int], None]) -> None:
        """No memory is taken yet.

        Args:
            largest: bytes of the largest message that is taken.
            reserve: asked before memory for a message is taken; False when too much is taken already.
            release: told when that memory is free again.
        """
        self._largest, self._reserve, self._release = largest, reserve, release
        self._prefix = bytearray()
        self._body: bytearray | None = None
        self._filled = 0
        self._reserved = 0

    @property
    def missing(self) -> int:
        """Bytes that the message that has begun still needs; 0 between messages."""
        if self._body is None:
            return PREFIX_BYTES - len(self._prefix) if self._prefix else 0
        return len(self._body) - self._filled

    def feed(self, data: memoryview) -> list[bytearray]:
        """Take the next bytes; returns the messages that they complete.

        Raises:
            StatusError: the message is too large, compressed, or there is no memory for it.
        """
        done = []
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
            self._body[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            data = data[len(part) :]
            if self._filled < len(self._body):
                break
            done.append(self._body)
            self._body, self._filled = None, 0
        return done

    def _begin(self) -> None:
        flag, length = self._prefix[0], int.from_bytes(self._prefix[1:], "big")
        self._prefix.clear()
        if flag:
            raise StatusError(Status.UNIMPLEMENTED, "the message is compressed; send it without compression (grpc-encoding: identity)")
        if length > self._largest:
            raise StatusError(Status.RESOURCE_EXHAUSTED, f"the message has {length} bytes; at most {self._largest} are taken")
        if not self._reserve(length):
            raise StatusError(Status.RESOURCE_EXHAUSTED, "too many large messages are arriving at once; send fewer at a time, or use shared memory")
        self._reserved += length
        self._body = bytearray(length)

    def give_back(self, count: int) -> None:
        """A message of a stream was taken, and its memory is free."""
        self._release(count)
        self._reserved -= count

    def close(self) -> None:
        """Give the memory back: the call is over."""
        self._release(self._reserved)
        self._reserved = 0
        self._body = None


def message_prefix(length: int) -> bytes:
    """What goes before a message, uncompressed."""
    return b"\x00" + length.to_bytes(4, "big")
