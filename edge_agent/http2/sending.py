"""What goes out on a connection: responses as the peer's windows allow, each stream in its turn. Pure.

No stream waits for another's window, and nobody waits here at all: what does not fit yet is kept with its stream.
"""

from collections import deque
from collections.abc import Callable

from linewatch.edge_agent.http2.frames import (
    SMALLEST_MAX_FRAME,
    ErrorCode,
    Flag,
    FrameType,
    frame,
    frame_header,
    go_away,
    literal,
)
from linewatch.edge_agent.http2.messages import message_prefix
from linewatch.edge_agent.http2.status import Status, trailers
from linewatch.edge_agent.http2.streams import Buffer, Stream

DEFAULT_WINDOW = 65535
_RESPONSE = b"\x88" + literal("content-type", "application/grpc")  # 0x88: `:status 200` of the static table
_NO_TABLE = b"\x20"
_COPIED = 1024
"""Bytes of a message that are copied rather than sent from where they are."""


class Sender:
    """Frames to be sent, and messages that wait for the peer's windows.

    Attributes:
        out: frames, whole.
        window: bytes of DATA that the peer takes now, on all streams together.
        initial_window: the same for a new stream.
        frame_bytes: of the largest frame that the peer takes.
        leaving: whether a GOAWAY was written.
    """

    def __init__(self, close: Callable[[Stream], None]) -> None:
        """Nothing is to be sent yet.

        Args:
            close: told when the last frame of a stream was written.
        """
        self._close = close
        self.out = bytearray()
        self.window = self.initial_window = DEFAULT_WINDOW
        self.frame_bytes = SMALLEST_MAX_FRAME
        self._waiting: deque[Stream] = deque()
        self._goes_to: int | None = None
        self._update = b""

    @property
    def leaving(self) -> bool:
        """See the class."""
        return self._goes_to is not None

    def go_away(self, last: int, code: ErrorCode, reason: str = "") -> None:
        """Write a GOAWAY; the last stream that it names never rises."""
        self._goes_to = last if self._goes_to is None else min(self._goes_to, last)
        self.out += go_away(self._goes_to, code, reason)

    def table_size_changed(self) -> None:
        """The peer gives its table of header fields another size. We use none, and say so in the next block (RFC 7541, section 4.2)."""
        self._update = _NO_TABLE

    def headers(self, number: int, block: bytes, flags: int = 0) -> bytes:
        """A HEADERS frame of a whole block, to be sent before any later one."""
        update, self._update = self._update, b""
        return frame(FrameType.HEADERS, Flag.END_HEADERS | flags, number, update + block)

    @property
    def ready(self) -> bool:
        """Whether anything can be sent now."""
        return bool(self.out) or any(self._may_go(stream) for stream in self._waiting)

    @property
    def waits(self) -> bool:
        """Whether messages wait for the peer's windows."""
        return bool(self._waiting)

    def drop(self, stream: Stream) -> None:
        """Nothing more is sent on this stream."""
        if stream.outgoing:
            stream.outgoing.clear()
            self._waiting.remove(stream)

    def _may_go(self, stream: Stream) -> bool:
        return self.window > 0 and stream.send_window > 0

    def send(self, stream: Stream, message: bytes) -> None:
        """Send a message on a stream that is not over, as soon as its windows allow."""
        if not stream.answered:
            stream.answered = True
            self.out += self.headers(stream.number, _RESPONSE)
        prefix = message_prefix(len(message))
        parts = [prefix + message] if len(message) <= _COPIED else [prefix, message]
        if not stream.outgoing:
            if len(parts) == 1 and len(parts[0]) <= min(self.window, stream.send_window):
                self.out += self._data_header(stream, len(parts[0])) + parts[0]
                return
            self._waiting.append(stream)
        stream.outgoing.extend(memoryview(part) for part in parts)

    def _data_header(self, stream: Stream, length: int) -> bytes:
        self.window -= length
        stream.send_window -= length
        stream.moved += length
        return frame_header(length, FrameType.DATA, 0, stream.number)

    def finish(self, stream: Stream, status: Status, message: str = "") -> None:
        """End a call behind what was sent: trailers, alone when nothing was."""
        if stream.closed or (stream.ending is not None and stream.outgoing):
            return
        stream.ending = (b"" if stream.answered else _RESPONSE) + trailers(status, message) + stream.trailing
        if not stream.outgoing:
            self._end(stream)

    def _end(self, stream: Stream) -> None:
        assert stream.ending is not None
        self.out += self.headers(stream.number, stream.ending, Flag.END_STREAM)
        self._close(stream)

    def take(self, most: int) -> list[Buffer]:
        """Frames to be sent now, of about `most` bytes together: of each stream that may one, in turn."""
        taken: list[Buffer] = []
        size = 0
        while True:
            if self.out:
                size += len(self.out)
                taken.append(self.out)
                self.out = bytearray()
            if size >= most or not (stream := self._next()):
                return taken
            size += self._frame_of(stream, taken, most - size)

    def _next(self) -> Stream | None:
        for _ in range(len(self._waiting)):
            stream = self._waiting.popleft()
            if self._may_go(stream):
                return stream
            self._waiting.append(stream)
        return None

    def _frame_of(self, stream: Stream, taken: list[Buffer], most: int) -> int:
        count = min(self.window, stream.send_window, self.frame_bytes, max(most, SMALLEST_MAX_FRAME))
        parts: list[Buffer] = []
        size = 0
        while stream.outgoing and size < count:
            part = stream.outgoing.popleft()
            if len(part) > count - size:
                stream.outgoing.appendleft(part[count - size :])
                part = part[: count - size]
            parts.append(part)
            size += len(part)
        taken.append(self._data_header(stream, size))
        taken += parts
        if stream.outgoing:
            self._waiting.append(stream)
        elif stream.ending is not None:
            self._end(stream)
        return size
