"""One HTTP/2 connection, seen from the server: bytes in, events and bytes out. Pure: no sockets, threads or clocks.

What it takes from a peer is bounded before memory is: header blocks, frames, streams, messages. What a peer does wrong ends the
connection with the code that RFC 9113 names (ConnectionFaultError), what a caller does wrong ends the call.
"""

import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from hpack import Decoder, HPACKError, OversizedHeaderListError

from edge_agent.http2.frames import (
    HEADER_BYTES,
    LARGEST_MAX_FRAME,
    LARGEST_WINDOW,
    PREFACE,
    SMALLEST_MAX_FRAME,
    ConnectionFaultError,
    ErrorCode,
    Flag,
    FrameType,
    Setting,
    frame,
    frame_header,
    go_away,
    literal,
    reset,
    settings_frame,
    window_update,
)  # fmt: skip
from edge_agent.http2.messages import MessageReader, message_prefix
from edge_agent.http2.status import Status, StatusError, trailers

_DEFAULT_WINDOW = 65535
_RESPONSE = b"\x88" + literal("content-type", "application/grpc")  # 0x88: `:status 200` of the static table
_WRONG_TYPE = b"\x08\x03415"  # `:status`, by the name of index 8, with a value of its own


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What one peer may take.

    Attributes:
        streams: calls at a time; the next one is refused, and gRPC's clients wait or try again.
        header_bytes: of one call's headers, packed and unpacked.
        frame_bytes: of a DATA frame; other frames may have gRPC's usual 16 KiB.
        window: bytes of a message that may come before its length is known.
        message_bytes: of the largest message.
    """

    streams: int = 64
    header_bytes: int = 16 * 1024
    frame_bytes: int = 1024 * 1024
    window: int = 1024 * 1024
    message_bytes: int = 4 * 1024 * 1024


class Happening(Enum):
    """What became of a stream."""

    OPENED = auto()
    ENDED = auto()
    RESET = auto()


@dataclass(slots=True, eq=False)
class Stream:
    """One call.

    Attributes:
        number: odd, counted by the peer.
        headers: of the request, pseudo-headers included; of those that come twice the last.
        messages: that have arrived and were not taken yet.
        ended: whether the client has sent all it will.
        closed: whether nothing more is to be sent: answered, or reset by either side.
        answered: whether the response's headers were written.
        trailing: header fields to send behind the status.
        busy: whether a handler works on it: until `forget` it counts, and keeps its memory.
        send_window: bytes that the peer takes now.
        receive_window: bytes that the peer may send now.
    """

    number: int
    headers: dict[str, str]
    reader: MessageReader
    send_window: int
    receive_window: int
    messages: deque[bytearray] = field(default_factory=deque)
    ended: bool = False
    closed: bool = False
    answered: bool = False
    trailing: bytes = b""
    busy: bool = False


Event = tuple[Happening, Stream]


class Connection:
    """The state of one connection. Not thread-safe.

    Attributes:
        out: bytes to send; whoever sends them empties it.
    """

    def __init__(
        self, limits: ConnectionLimits, reserve: Callable[[int], bool] = lambda _: True, release: Callable[[int], None] = lambda _: None
    ) -> None:
        self._limits, self._reserve, self._release = limits, reserve, release
        self._decoder = Decoder(max_header_list_size=limits.header_bytes)
        self._rest = bytearray()
        self._preface = len(PREFACE)
        self._greeted = False
        self._data: Stream | None = None
        self._data_left, self._data_ends = 0, False
        self._block: tuple[int, int, bytearray] | None = None
        self._last = 0
        self._leaving = False
        self._send_window, self._receive_window = _DEFAULT_WINDOW, LARGEST_WINDOW
        self._peer_window, self._peer_frame = _DEFAULT_WINDOW, SMALLEST_MAX_FRAME
        self.streams: dict[int, Stream] = {}
        self.out = bytearray(settings_frame({
            Setting.MAX_CONCURRENT_STREAMS: limits.streams, Setting.INITIAL_WINDOW_SIZE: limits.window,
            Setting.MAX_FRAME_SIZE: limits.frame_bytes, Setting.MAX_HEADER_LIST_SIZE: limits.header_bytes,
        }) + window_update(0, LARGEST_WINDOW - _DEFAULT_WINDOW))  # fmt: skip

    # --- what comes

    def receive(self, data: memoryview) -> list[Event]:
        """Take what was read.

        Raises:
            ConnectionFaultError: the peer broke the protocol; `out` holds the GOAWAY to send before closing.
        """
        events: list[Event] = []
        try:
            if self._rest:
                self._rest += data
                whole, self._rest = self._rest, bytearray()
                data = memoryview(whole)
            taken = self._take(data, events)
            self._rest += data[taken:]
        except ConnectionFaultError as fault:
            self.out += go_away(self._last, fault.code, str(fault))
            raise
        return events

    def _take(self, data: memoryview, events: list[Event]) -> int:
        at = 0
        if self._preface:
            part = bytes(data[: self._preface])
            if not PREFACE[-self._preface :].startswith(part):
                raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, "this is no HTTP/2 connection")
            self._preface -= len(part)
            at = len(part)
        while True:
            if self._data_left:
                part_view = data[at : at + self._data_left]
                if not part_view:
                    return at
                at += len(part_view)
                self._data_left -= len(part_view)
                self._data_part(part_view, events)
                continue
            if len(data) - at < HEADER_BYTES:
                return at
            high, low, kind, flags, number = struct.unpack_from(">BHBBI", data, at)
            length, number = high << 16 | low, number & LARGEST_WINDOW
            self._check_frame(kind, flags, length, number)
            if kind == FrameType.DATA and not flags & Flag.PADDED:
                self._begin_data(number, length, length, flags)
                at += HEADER_BYTES
                if not length:
                    self._data_part(memoryview(b""), events)
                continue
            if len(data) - at - HEADER_BYTES < length:
                return at
            at += HEADER_BYTES + length
            self._frame(kind, flags, number, data[at - length : at], events)

    def _check_frame(self, kind: int, flags: int, length: int, number: int) -> None:
        if not self._greeted and (kind != FrameType.SETTINGS or flags & Flag.ACK):
            raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        self._greeted = True
        most = self._limits.frame_bytes if kind == FrameType.DATA else SMALLEST_MAX_FRAME
        if length > most:
            raise ConnectionFaultError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {length} bytes; at most {most} are taken")
        if self._block is not None and (kind != FrameType.CONTINUATION or number != self._block[0]):
            raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, "a header block was interrupted")

    def _frame(self, kind: int, flags: int, number: int, payload: memoryview, events: list[Event]) -> None:
        match kind:
            case FrameType.DATA:
                body = _unpadded(payload, flags)
                self._begin_data(number, len(payload), 0, flags)
                self._data_part(body, events)
            case FrameType.HEADERS:
                body = _unpadded(payload, flags)
                if flags & Flag.PRIORITY:
                    if len(body) < 5:
                        raise ConnectionFaultError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
                    body = body[5:]
                self._block = (number, flags, bytearray(body))
                self._end_block_if(flags, events)
            case FrameType.CONTINUATION:
                if self._block is None:
                    raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
                self._block[2].extend(payload)
                if len(self._block[2]) > self._limits.header_bytes:
                    raise ConnectionFaultError(ErrorCode.ENHANCE_YOUR_CALM, f"headers of more than {self._limits.header_bytes} bytes")
                self._end_block_if(flags, events)
            case FrameType.SETTINGS:
                self._settings(flags, number, payload)
            case FrameType.PING:
                _expect(len(payload) == 8, ErrorCode.FRAME_SIZE_ERROR, "PING of another length than 8")
                _expect(number == 0, ErrorCode.PROTOCOL_ERROR, "PING on a stream")
                if not flags & Flag.ACK:
                    self.out += frame(FrameType.PING, Flag.ACK, 0, bytes(payload))
            case FrameType.WINDOW_UPDATE:
                self._window_update(number, payload, events)
            case FrameType.RST_STREAM:
                _expect(len(payload) == 4, ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of another length than 4")
                _expect(0 < number <= self._last, ErrorCode.PROTOCOL_ERROR, "RST_STREAM of a stream that never was")
                stream = self._live(number)
                if stream is not None:
                    self.close(stream)
                    events.append((Happening.RESET, stream))
            case FrameType.PRIORITY:
                _expect(number > 0, ErrorCode.PROTOCOL_ERROR, "PRIORITY of the connection")
                _expect(len(payload) == 5, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of another length than 5")
            case FrameType.GOAWAY:
                _expect(number == 0, ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
            case FrameType.PUSH_PROMISE:
                raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, "clients do not push")
            case _:
                pass  # section 5.5: types that are not known are ignored

    def _settings(self, flags: int, number: int, payload: memoryview) -> None:
        _expect(number == 0, ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & Flag.ACK:
            _expect(not payload, ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement with settings in it")
            return
        _expect(len(payload) % 6 == 0, ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a length that is no multiple of 6")
        for key, value in struct.iter_unpack(">HI", payload):
            if key == Setting.INITIAL_WINDOW_SIZE:
                _expect(value <= LARGEST_WINDOW, ErrorCode.FLOW_CONTROL_ERROR, "a window of more than 2^31 - 1 bytes")
                for stream in self.streams.values():
                    stream.send_window += value - self._peer_window
                    _expect(stream.send_window <= LARGEST_WINDOW, ErrorCode.FLOW_CONTROL_ERROR, "a window of more than 2^31 - 1 bytes")
                self._peer_window = value
            elif key == Setting.MAX_FRAME_SIZE:
                _expect(SMALLEST_MAX_FRAME <= value <= LARGEST_MAX_FRAME, ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE out of its range")
                self._peer_frame = value
            elif key == Setting.ENABLE_PUSH:
                _expect(value <= 1, ErrorCode.PROTOCOL_ERROR, "ENABLE_PUSH is neither 0 nor 1")
        self.out += frame(FrameType.SETTINGS, Flag.ACK, 0)

    def _window_update(self, number: int, payload: memoryview, events: list[Event]) -> None:
        _expect(len(payload) == 4, ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of another length than 4")
        increment = int.from_bytes(payload, "big") & LARGEST_WINDOW
        if number == 0:
            self._send_window += increment
            _expect(increment > 0 and self._send_window <= LARGEST_WINDOW, ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR,
                    "a window that grows by nothing, or beyond 2^31 - 1 bytes")  # fmt: skip
            return
        _expect(number <= self._last, ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of a stream that never was")
        stream = self._live(number)
        if stream is not None:
            stream.send_window += increment
            if not increment or stream.send_window > LARGEST_WINDOW:
                self.abandon(stream, ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR)
                events.append((Happening.RESET, stream))

    def _live(self, number: int) -> Stream | None:
        """A stream that is not over; frames for others may have crossed our answer, and are passed over."""
        stream = self.streams.get(number)
        return stream if stream is not None and not stream.closed else None

    # --- calls that come

    def _end_block_if(self, flags: int, events: list[Event]) -> None:
        if not flags & Flag.END_HEADERS:
            return
        assert self._block is not None
        (number, begun_with, block), self._block = self._block, None
        _expect(number % 2 == 1, ErrorCode.PROTOCOL_ERROR, "clients' streams have odd numbers")
        try:
            fields = self._decoder.decode(bytes(block))
        except OversizedHeaderListError as error:
            raise ConnectionFaultError(ErrorCode.ENHANCE_YOUR_CALM, str(error)) from error
        except (HPACKError, UnicodeDecodeError) as error:
            raise ConnectionFaultError(ErrorCode.COMPRESSION_ERROR, str(error)) from error
        ends = bool(begun_with & Flag.END_STREAM)
        if number <= self._last:
            stream = self._live(number)
            if stream is not None:
                _expect(ends and not stream.ended, ErrorCode.PROTOCOL_ERROR, "HEADERS twice on one stream")
                self._end_request(stream, events)
            return  # of a stream that is over: it may have crossed our reset
        self._last = number
        self._open(number, {str(name): str(value) for name, value in fields}, ends, events)

    def _open(self, number: int, headers: dict[str, str], ends: bool, events: list[Event]) -> None:
        if self._leaving:
            return  # GOAWAY named an earlier stream as the last: the client knows that this one was not looked at
        if len(self.streams) >= self._limits.streams:
            self.out += reset(number, ErrorCode.REFUSED_STREAM)
            return
        if headers.get(":method") != "POST" or ":path" not in headers:
            self.out += reset(number, ErrorCode.PROTOCOL_ERROR)
            return
        reader = MessageReader(self._limits.message_bytes, self._reserve, self._release)
        stream = Stream(number, headers, reader, self._peer_window, self._limits.window)
        if not headers.get("content-type", "").startswith("application/grpc"):
            self.out += frame(FrameType.HEADERS, Flag.END_HEADERS | Flag.END_STREAM, number, _WRONG_TYPE)
            return
        self.streams[number] = stream
        events.append((Happening.OPENED, stream))
        if ends:
            self._end_request(stream, events)

    def _begin_data(self, number: int, length: int, body: int, flags: int) -> None:
        _expect(0 < number <= self._last, ErrorCode.PROTOCOL_ERROR, "DATA of a stream that never was")
        _expect(length <= self._receive_window, ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        self._receive_window -= length
        if self._receive_window < LARGEST_WINDOW // 2:  # pieces are copied as they come: what is bounded is each stream's
            self.out += window_update(0, LARGEST_WINDOW - self._receive_window)
            self._receive_window = LARGEST_WINDOW
        stream = self._live(number)
        self._data, self._data_left, self._data_ends = stream, body, bool(flags & Flag.END_STREAM)
        if stream is None:
            return
        if stream.ended:
            raise ConnectionFaultError(ErrorCode.STREAM_CLOSED, "DATA after the end of a stream")
        stream.receive_window -= length
        _expect(stream.receive_window >= 0, ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the stream's window")

    def _data_part(self, part: memoryview, events: list[Event]) -> None:
        stream = self._data
        if stream is None or stream.closed:
            return
        try:
            messages = stream.reader.feed(part)
        except StatusError as error:
            self.finish(stream, error.status, str(error))
            events.append((Happening.RESET, stream))
            return
        for message in messages:
            stream.messages.append(message)
        if self._data_left:
            self._widen(stream, self._data_left)
            return
        if self._data_ends:
            self._end_request(stream, events)
        else:
            self._widen(stream, 0)

    def _widen(self, stream: Stream, coming: int) -> None:
        """Let the rest of a message come whose length is allowed, and keep room for the next one's beginning."""
        wanted = max(stream.reader.missing - coming, 0) + self._limits.window
        if stream.receive_window < wanted - self._limits.window // 2:
            self.out += window_update(stream.number, wanted - stream.receive_window)
            stream.receive_window = wanted

    def _end_request(self, stream: Stream, events: list[Event]) -> None:
        stream.ended = True
        if stream.reader.missing:
            self.finish(stream, Status.INTERNAL, f"the request ended {stream.reader.missing} bytes before its message did")
            events.append((Happening.RESET, stream))
            return
        events.append((Happening.ENDED, stream))

    # --- what goes

    def sendable(self, stream: Stream, wanted: int) -> int:
        """How many bytes of DATA may be sent in one frame now."""
        return max(0, min(wanted, self._send_window, stream.send_window, self._peer_frame))

    def begin_answer(self, stream: Stream) -> None:
        """Write the response's headers, once."""
        if not stream.answered and not stream.closed:
            stream.answered = True
            self.out += frame(FrameType.HEADERS, Flag.END_HEADERS, stream.number, _RESPONSE)

    def data_header(self, stream: Stream, length: int) -> bytes:
        """The header of a DATA frame of `length` bytes, which `sendable` allowed; the payload is the caller's to send after it."""
        self._send_window -= length
        stream.send_window -= length
        return frame_header(length, FrameType.DATA, 0, stream.number)

    def answer_small(self, stream: Stream, message: bytes) -> bool:
        """Write headers, one message and the trailers at once; False, and nothing written, when it is large or the windows are small."""
        size = 5 + len(message)
        if size > SMALLEST_MAX_FRAME or self.sendable(stream, size) < size:
            return False
        data = message_prefix(len(message)) + message
        self.begin_answer(stream)
        self.out += self.data_header(stream, len(data)) + data
        self.finish(stream, Status.OK)
        return True

    def finish(self, stream: Stream, status: Status, message: str = "") -> None:
        """End a call: trailers, alone when nothing was answered yet."""
        if stream.closed:
            return
        block = (b"" if stream.answered else _RESPONSE) + trailers(status, message) + stream.trailing
        self.out += frame(FrameType.HEADERS, Flag.END_HEADERS | Flag.END_STREAM, stream.number, block)
        if not stream.ended:  # what else it sends is not looked at: RFC 9113, section 8.1
            self.out += reset(stream.number, ErrorCode.NO_ERROR)
        self.close(stream)

    def abandon(self, stream: Stream, code: ErrorCode) -> None:
        """End a stream without an answer."""
        if not stream.closed:
            self.out += reset(stream.number, code)
            self.close(stream)

    def close(self, stream: Stream) -> None:
        """Nothing more is sent on this stream. One that a handler works on goes on counting: a peer that opens and resets gains nothing."""
        stream.closed = True
        if not stream.busy:
            self.forget(stream)

    def forget(self, stream: Stream) -> None:
        """No handler works on it any more: its place and its memory are free."""
        stream.busy = False
        stream.messages.clear()
        stream.reader.close()
        if stream.closed:
            self.streams.pop(stream.number, None)

    def leave(self) -> None:
        """Say that no further calls are taken; those that are here are answered."""
        if not self._leaving:
            self._leaving = True
            self.out += go_away(self._last, ErrorCode.NO_ERROR)


def _expect(holds: bool, code: ErrorCode, message: str) -> None:
    if not holds:
        raise ConnectionFaultError(code, message)


def _unpadded(payload: memoryview, flags: int) -> memoryview:
    if not flags & Flag.PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]
