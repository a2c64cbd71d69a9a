"""One HTTP/2 connection, seen from the server: bytes in, events and bytes out. Pure: no sockets, threads or clocks.

What it takes from a peer is bounded before memory is: header blocks, frames, streams, messages. What a peer does wrong ends the
connection with the code that RFC 9113 names (ConnectionFaultError), what is wrong with a request ends its stream.
"""

from collections.abc import Callable

from linewatch.edge_agent.http2 import rate_limit
from linewatch.edge_agent.http2.budget import SMALL_BYTES, Account
from linewatch.edge_agent.http2.closed_streams import ClosedStreams
from linewatch.edge_agent.http2.fields import (
    FieldDecoder,
    MalformedError,
    check_trailers,
    content_length,
    request_fields,
    size,
)
from linewatch.edge_agent.http2.frames import (
    LARGEST_WINDOW,
    ConnectionFaultError,
    ErrorCode,
    Flag,
    FrameType,
    Setting,
    expect,
    frame,
    read_settings,
    reset,
    settings_frame,
    window_update,
)  # fmt: skip
from linewatch.edge_agent.http2.limits import ConnectionLimits
from linewatch.edge_agent.http2.messages import Expected, MessageReader
from linewatch.edge_agent.http2.reading import Block, FrameReader, depends_on
from linewatch.edge_agent.http2.sending import DEFAULT_WINDOW, Sender
from linewatch.edge_agent.http2.status import Status, StatusError
from linewatch.edge_agent.http2.streams import Buffer, Event, Stream, StreamEvent

_STATUS_ONLY = {415: b"\x08\x03415", 405: b"\x08\x03405"}
"""Header blocks: `:status`, by the name of the static table's index 8, with a value of its own."""


class Connection:
    """The state of one connection. Not thread-safe.

    Attributes:
        streams: open ones, and closed ones that a handler works on; by number.
        cost: of what came since it was last set to nothing; see `rate_limit`.
        sender: what goes out.
    """

    def __init__(self, limits: ConnectionLimits, account: Account, expected: Callable[[str], Expected | None]) -> None:
        """Nothing has come yet.

        Args:
            limits: of the peer.
            account: of the memory that its messages take.
            expected: what the method of a path takes; None when there is no such method. May raise StatusError: the peer may not call it.
        """
        self._limits, self._account, self._expected = limits, account, expected
        self._reader = FrameReader(self, limits.frame_bytes, limits.header_bytes * 5 // 4)
        self._decoder = FieldDecoder(limits.header_bytes)
        self._events: list[Event] = []
        self._data: Stream | None = None
        self._data_ends = False
        self._last = 0
        self._over = ClosedStreams()
        self._receive_window = LARGEST_WINDOW
        self.streams: dict[int, Stream] = {}
        self.cost = 0.0
        self.sender = Sender(self._answered)
        self.sender.out += settings_frame({
            Setting.MAX_CONCURRENT_STREAMS: limits.streams, Setting.INITIAL_WINDOW_SIZE: limits.window,
            Setting.MAX_FRAME_SIZE: limits.frame_bytes, Setting.MAX_HEADER_LIST_SIZE: limits.header_bytes,
        }) + window_update(0, LARGEST_WINDOW - DEFAULT_WINDOW)  # fmt: skip

    @property
    def greeted(self) -> bool:
        """Whether the peer has said what a client says first."""
        return self._reader.greeted

    def receive(self, data: memoryview) -> list[Event]:
        """Take what was read.

        Raises:
            ConnectionFaultError: the peer broke the protocol; a GOAWAY is to be sent before closing.
        """
        events: list[Event] = []
        self._events = events
        self.cost += rate_limit.READ
        try:
            self._reader.feed(data)
        except ConnectionFaultError as fault:
            self.sender.go_away(self._last, fault.code, str(fault))
            raise
        return events

    # --- frames, see `reading.Frames`

    def frame(self, kind: int, flags: int, number: int, payload: memoryview) -> None:
        """See `Frames`: a frame that is neither DATA nor a header block's first.

        Args:
            kind: its type.
            flags: see `Flag`.
            number: of its stream.
            payload: all of it.

        Raises:
            ConnectionFaultError: RFC 9113 forbids it.
        """
        self.cost += rate_limit.FRAME
        match kind:
            case FrameType.SETTINGS:
                self._settings(flags, number, payload)
            case FrameType.PING:
                expect(len(payload) == 8, ErrorCode.FRAME_SIZE_ERROR, "PING of another length than 8")
                expect(number == 0, ErrorCode.PROTOCOL_ERROR, "PING on a stream")
                if not flags & Flag.ACK:
                    self.cost += rate_limit.SMALL
                    self.sender.out += frame(FrameType.PING, Flag.ACK, 0, bytes(payload))
            case FrameType.WINDOW_UPDATE:
                self._window_update(number, payload)
            case FrameType.RST_STREAM:
                expect(len(payload) == 4, ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM of another length than 4")
                stream = self._open_stream(kind, number)
                if stream is not None:
                    self._end(stream, crossing=False)
                    self._events.append((StreamEvent.RESET, stream))
            case FrameType.PRIORITY:
                expect(number > 0, ErrorCode.PROTOCOL_ERROR, "PRIORITY of the connection")
                expect(len(payload) == 5, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of another length than 5")
                if depends_on(payload) == number and number in self.streams:
                    self._reset(self.streams[number], ErrorCode.PROTOCOL_ERROR)
            case FrameType.GOAWAY:
                expect(number == 0, ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
                expect(len(payload) >= 8, ErrorCode.FRAME_SIZE_ERROR, "GOAWAY shorter than 8")
            case FrameType.PUSH_PROMISE:
                raise ConnectionFaultError(ErrorCode.PROTOCOL_ERROR, "clients do not push")

    def _settings(self, flags: int, number: int, payload: memoryview) -> None:
        expect(number == 0, ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & Flag.ACK:
            expect(not payload, ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement with settings in it")
            return
        self.cost += rate_limit.SMALL + len(payload)
        for key, value in read_settings(payload):
            if key == Setting.INITIAL_WINDOW_SIZE:
                for stream in self.streams.values():
                    stream.send_window += value - self.sender.initial_window
                    expect(stream.send_window <= LARGEST_WINDOW, ErrorCode.FLOW_CONTROL_ERROR, "a window of more than 2^31 - 1 bytes")
                self.cost += len(self.streams)
                self.sender.initial_window = value
            elif key == Setting.HEADER_TABLE_SIZE:
                self.sender.table_size_changed()
            elif key == Setting.MAX_FRAME_SIZE:
                self.sender.frame_bytes = value
        self.sender.out += frame(FrameType.SETTINGS, Flag.ACK, 0)

    def _window_update(self, number: int, payload: memoryview) -> None:
        expect(len(payload) == 4, ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of another length than 4")
        increment = int.from_bytes(payload, "big") & LARGEST_WINDOW
        if number == 0:
            expect(increment > 0, ErrorCode.PROTOCOL_ERROR, "a window that grows by nothing")
            self.sender.window += increment
            expect(self.sender.window <= LARGEST_WINDOW, ErrorCode.FLOW_CONTROL_ERROR, "a window of more than 2^31 - 1 bytes")
            return
        stream = self._open_stream(FrameType.WINDOW_UPDATE, number)
        if stream is not None:
            stream.send_window += increment
            if not increment or stream.send_window > LARGEST_WINDOW:
                self._reset(stream, ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR)

    def _open_stream(self, kind: int, number: int) -> Stream | None:
        """The stream that a frame is for; None for one that is over, when the frame may have crossed what ended it.

        Raises:
            ConnectionFaultError: there never was such a stream, or the peer has closed it and knows that.
        """
        stream = self.streams.get(number)
        if stream is not None and not stream.closed:
            return stream
        expect(number % 2 == 1 and number <= self._last, ErrorCode.PROTOCOL_ERROR, "a frame of a stream that never was")
        if kind in (FrameType.DATA, FrameType.HEADERS):
            self._over.expect_crossing(number)
        return None

    # --- headers

    def block(self, block: Block) -> None:
        """A header block: of a request, or behind its body."""
        fields = self._decoder.decode(block.data)
        cost = rate_limit.FRAME + rate_limit.header_block(len(block.data), len(fields))
        self.cost += cost
        if block.number > self._last:
            self._last = block.number
            stream = self._open(block, fields)
            if stream is not None:
                stream.cost += cost
                self._spend(stream, rate_limit.CALL)
                if block.ends:
                    self._end_request(stream)
            return
        stream = self._open_stream(FrameType.HEADERS, block.number)
        if stream is None:
            return
        try:
            check_trailers(fields)
            if stream.ended or not block.ends:
                self._reset(stream, ErrorCode.STREAM_CLOSED if stream.ended else ErrorCode.PROTOCOL_ERROR)
            else:
                self._end_request(stream)
        except MalformedError:
            self._reset(stream, ErrorCode.PROTOCOL_ERROR)

    def _spend(self, stream: Stream, cost: float) -> None:
        stream.cost += cost
        self.cost += cost

    def _open(self, block: Block, fields: list[tuple[str, str]]) -> Stream | None:
        if self.sender.leaving:  # GOAWAY named an earlier stream as the last: the client knows that this one was not looked at
            self._over.add(block.number, crossing=True)
            return None
        try:
            if block.on_itself:
                raise MalformedError("a stream that depends on itself")
            headers = request_fields(fields)
            length = content_length(headers)
        except MalformedError:
            self._refuse(block, reset(block.number, ErrorCode.PROTOCOL_ERROR))
            return None
        if len(self.streams) >= self._limits.streams:
            self._refuse(block, reset(block.number, ErrorCode.REFUSED_STREAM))
            return None
        wrong = 405 if headers[":method"] != "POST" else 0 if headers.get("content-type", "").startswith("application/grpc") else 415
        if wrong:
            answer = self.sender.headers(block.number, _STATUS_ONLY[wrong], Flag.END_STREAM)
            self._refuse(block, answer if block.ends else answer + reset(block.number, ErrorCode.NO_ERROR))
            return None
        refused, expected = None, None
        try:
            expected = self._expected(headers[":path"])
        except StatusError as error:
            refused = error
        reader = MessageReader(expected or Expected(0), self._account)
        stream = Stream(block.number, headers, reader, self.sender.initial_window, self._limits.window, length, ended=block.ends)
        self.streams[block.number] = stream
        if size(fields) > self._limits.header_bytes:
            self.finish(stream, Status.RESOURCE_EXHAUSTED, f"headers of more than {self._limits.header_bytes} bytes")
        elif refused is not None:
            self.finish(stream, refused.status, str(refused))
        elif expected is None:
            self.finish(stream, Status.UNIMPLEMENTED, f"there is no method {headers[':path'][:200]!r}")
        else:
            self._events.append((StreamEvent.OPENED, stream))
        return stream

    def _refuse(self, block: Block, answer: bytes) -> None:
        """End a stream that there will be no call on."""
        self.sender.out += answer
        self._over.add(block.number, crossing=not block.ends)
        self.cost += rate_limit.CALL

    # --- bodies, see `reading.Frames`

    def begin_data(self, kind: int, number: int, length: int, body: int, *, ends: bool) -> None:
        """See `Frames`: a frame begins that is DATA, or that nobody knows and that is passed over (RFC 9113, section 5.5).

        Args:
            kind: its type.
            number: of its stream.
            length: of the payload, in bytes.
            body: bytes of what is not padding.
            ends: whether the stream's request ends with it.

        Raises:
            ConnectionFaultError: more DATA than a window allows, or on a stream that is not open.
        """
        self._data = stream = self._open_stream(kind, number) if kind == FrameType.DATA else None
        if kind == FrameType.DATA:
            expect(length <= self._receive_window, ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
            self._receive_window -= length
            if self._receive_window < LARGEST_WINDOW // 2:  # pieces are copied as they come: what is bounded is each stream's
                self.sender.out += window_update(0, LARGEST_WINDOW - self._receive_window)
                self._receive_window = LARGEST_WINDOW
        if stream is None:
            self.cost += rate_limit.DATA + length / 64
            return
        self._spend(stream, rate_limit.DATA)
        stream.receive_window -= length
        expect(stream.receive_window >= 0, ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the stream's window")
        self._data_ends = ends
        if stream.body_left is not None:
            stream.body_left -= body

    def data(self, part: memoryview, coming: int) -> None:
        """A piece of a frame's body."""
        stream = self._data
        if stream is None or stream.closed:
            return
        if stream.ended:
            self._reset(stream, ErrorCode.STREAM_CLOSED)
            return
        if stream.body_left is not None and stream.body_left < 0:
            self._reset(stream, ErrorCode.PROTOCOL_ERROR)
            return
        stream.moved += len(part)
        try:
            stream.reader.feed(part)
        except StatusError as error:
            self.finish(stream, error.status, str(error))
            self._events.append((StreamEvent.RESET, stream))
            return
        if not self._data_ends:
            self._widen(stream, coming)

    def end_data(self) -> None:
        """The frame is over."""
        stream, self._data = self._data, None
        if stream is not None and not stream.closed and self._data_ends:
            self._end_request(stream)

    def _widen(self, stream: Stream, coming: int) -> None:
        """Let the rest of a message come whose length is allowed, and keep room for the next one's beginning."""
        wanted = max(stream.reader.missing - coming, 0) + self._limits.window
        if stream.receive_window < wanted - self._limits.window // 2:
            self.sender.out += window_update(stream.number, wanted - stream.receive_window)
            stream.receive_window = wanted

    def _end_request(self, stream: Stream) -> None:
        stream.ended = True
        if stream.closed:  # refused; its peer knows, and has now said all
            return
        if stream.body_left:
            self._reset(stream, ErrorCode.PROTOCOL_ERROR)
        elif stream.reader.missing:
            self.finish(stream, Status.INVALID_ARGUMENT, f"the request ended {stream.reader.missing} bytes before its message did")
            self._events.append((StreamEvent.RESET, stream))
        else:
            self._events.append((StreamEvent.ENDED, stream))

    # --- how streams end

    def _reset(self, stream: Stream, code: ErrorCode) -> None:
        if not stream.closed:
            self.sender.out += reset(stream.number, code)
            self._end(stream, crossing=True)
            self._events.append((StreamEvent.RESET, stream))

    def _answered(self, stream: Stream) -> None:
        """The answer is written. What else the peer sends is not looked at: RFC 9113, section 8.1."""
        if not stream.ended:
            self.sender.out += reset(stream.number, ErrorCode.NO_ERROR)
        self._end(stream, crossing=not stream.ended)

    def _end(self, stream: Stream, *, crossing: bool) -> None:
        """Nothing more is sent on this stream. One that a handler works on goes on counting: a peer that opens and resets gains nothing."""
        stream.closed = True
        self.sender.drop(stream)
        self._over.add(stream.number, crossing=crossing)
        if not stream.busy:
            self.forget(stream)

    def forget(self, stream: Stream) -> None:
        """No handler works on it any more: its memory is free, and its place when it is closed."""
        stream.busy = False
        stream.reader.close()
        if stream.closed:
            self._account.give_back(stream.answered_bytes)
            stream.answered_bytes = 0
            self.streams.pop(stream.number, None)

    # --- what goes

    def send(self, stream: Stream, message: bytes) -> None:
        """Send a message on a stream, as soon as its windows allow; it counts until the stream is over.

        Raises:
            StatusError: large messages that the peer has not read take too much memory already.
        """
        if stream.closed or stream.ending is not None:
            return
        if not stream.reader.expected.streaming:  # who answers is done with the request
            stream.reader.close()
        if not self._account.take(len(message), always=len(message) <= SMALL_BYTES):
            raise StatusError(Status.RESOURCE_EXHAUSTED, "too many large answers wait to be read; read them, or give shared memory for the mask")
        stream.answered_bytes += len(message)
        self.sender.send(stream, message)

    def finish(self, stream: Stream, status: Status, message: str = "") -> None:
        """End a call behind what was sent."""
        self.sender.finish(stream, status, message)

    def take(self, most: int) -> list[Buffer]:
        """What is to be sent now, of about `most` bytes."""
        return self.sender.take(most)

    def go_away(self) -> None:
        """Say that no further calls are taken; those that are here are answered."""
        if not self.sender.leaving:
            self.sender.go_away(self._last, ErrorCode.NO_ERROR)

    def end(self) -> None:
        """It is over: nobody reads what is sent."""
        for stream in list(self.streams.values()):
            if not stream.closed:
                self._end(stream, crossing=False)
