"""The server's side of HTTP/2 against h2, which is another implementation, and against what RFC 9113 forbids."""

import struct
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import pytest
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.http2.connection import Connection, ConnectionLimits, Event, Happening, Stream
from edge_agent.http2.frames import (
    PREFACE,
    ConnectionFaultError,
    ErrorCode,
    Flag,
    FrameType,
    Setting,
    frame,
    go_away,
    reset,
    settings_frame,
    window_update,
)
from edge_agent.http2.messages import message_prefix
from edge_agent.http2.status import Status

HEADERS = [(":method", "POST"), (":scheme", "http"), (":path", "/S/M"), (":authority", "x"), ("te", "trailers"), ("content-type", "application/grpc")]
LIMITS = ConnectionLimits(streams=4, header_bytes=2000, frame_bytes=20_000, window=70_000, message_bytes=500_000)


def grpc_message(data: bytes) -> bytes:
    return message_prefix(len(data)) + data


class Client:
    """h2 on one side, ours on the other; bytes are handed over in pieces of a given size."""

    def __init__(self, piece: int = 10_000, limits: ConnectionLimits = LIMITS) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.ours, self.piece = Connection(limits), piece
        self.events: list[Event] = []
        self.seen: list[h2.events.Event] = []

    def exchange(self) -> None:
        while True:
            data = self.h2.data_to_send()
            for at in range(0, len(data), self.piece):
                self.events += self.ours.receive(memoryview(data[at : at + self.piece]))
            out, self.ours.out = bytes(self.ours.out), bytearray()
            if not data and not out:
                return
            self.seen += self.h2.receive_data(out)

    def send(self, message: bytes, *, end: bool = True) -> int:
        number = self.h2.get_next_available_stream_id()
        self.h2.send_headers(number, HEADERS)
        data = memoryview(grpc_message(message))
        while data:
            count = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size, len(data))
            if count:
                self.h2.send_data(number, bytes(data[:count]))
                data = data[count:]
            before = self.h2.local_flow_control_window(number)
            self.exchange()
            assert count or self.h2.local_flow_control_window(number) > before, "the window does not open"
        if end:
            self.h2.end_stream(number)
        self.exchange()
        return number

    def of(self, happening: Happening) -> list[Stream]:
        return [stream for what, stream in self.events if what is happening]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=200_000), min_size=1, max_size=4), st.integers(1000, 30_000))
def test_messages_arrive_whole_however_they_are_cut(messages: list[bytes], piece: int) -> None:
    client = Client(piece)
    for message in messages:
        client.send(message)
        stream = client.of(Happening.ENDED)[-1]
        assert [bytes(m) for m in stream.messages] == [message]
        stream.busy = True
        assert client.ours.answer_small(stream, message[:1000])
        client.ours.forget(stream)
        client.exchange()
    assert client.ours.streams == {}
    got = b"".join(e.data for e in client.seen if isinstance(e, h2.events.DataReceived))
    assert got == b"".join(grpc_message(m[:1000]) for m in messages)
    ends = [dict(e.headers) for e in client.seen if isinstance(e, h2.events.TrailersReceived)]
    assert ends == [{"grpc-status": "0"}] * len(messages)


def test_large_answers_wait_for_the_peer_s_window() -> None:
    client = Client()
    client.send(b"question")
    [stream] = client.of(Happening.ENDED)
    data, at = bytes(range(256)) * 2000, 0
    client.ours.begin_answer(stream)
    while at < len(data):
        count = client.ours.sendable(stream, len(data) - at)
        if not count:
            client.exchange()
            for event in client.seen:
                if isinstance(event, h2.events.DataReceived) and event.flow_controlled_length:
                    client.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    event.flow_controlled_length = 0
            client.exchange()
            assert client.ours.sendable(stream, 1), "nothing opens the window"
            continue
        assert count <= 65535
        client.ours.out += client.ours.data_header(stream, count) + data[at : at + count]
        at += count
    client.ours.finish(stream, Status.OK)
    client.exchange()
    assert b"".join(e.data for e in client.seen if isinstance(e, h2.events.DataReceived)) == data


def test_errors_are_trailers_only_and_percent_encoded() -> None:
    client = Client()
    client.send(b"x")
    [stream] = client.of(Happening.ENDED)
    client.ours.finish(stream, Status.INVALID_ARGUMENT, "größer als 4096: 100 %\n")
    client.exchange()
    [response] = [dict(e.headers) for e in client.seen if isinstance(e, h2.events.ResponseReceived)]
    assert response["grpc-status"] == "3"
    assert response["grpc-message"] == "gr%C3%B6%C3%9Fer als 4096: 100 %25%0A"


def test_a_message_too_large_is_refused_before_memory_is_taken() -> None:
    reserved: list[int] = []
    client = Client()
    client.ours = Connection(LIMITS, lambda count: bool(reserved.append(count)) or True)
    number = client.h2.get_next_available_stream_id()
    client.exchange()
    client.h2.send_headers(number, HEADERS)
    client.h2.send_data(number, message_prefix(LIMITS.message_bytes + 1) + b"first bytes")
    client.exchange()
    [response] = [dict(e.headers) for e in client.seen if isinstance(e, h2.events.ResponseReceived)]
    assert response["grpc-status"] == "8"
    assert f"at most {LIMITS.message_bytes}" in response["grpc-message"]
    assert reserved == []
    assert client.ours.streams == {}


def test_memory_that_was_reserved_is_released_however_calls_end() -> None:
    taken = 0

    def reserve(count: int) -> bool:
        nonlocal taken
        taken += count
        return True

    def release(count: int) -> None:
        nonlocal taken
        taken -= count

    client = Client()
    client.ours = Connection(LIMITS, reserve, release)
    client.send(b"x" * 5000)
    assert taken == 5000
    [answered] = client.of(Happening.ENDED)
    answered.busy = True
    client.ours.finish(answered, Status.OK)
    assert taken == 5000, "its handler still has the message"
    client.ours.forget(answered)
    assert taken == 0
    number = client.send(b"y" * 7000, end=False)
    assert taken == 7000
    client.h2.reset_stream(number)
    client.exchange()
    assert taken == 0


def test_a_peer_that_resets_gains_no_further_places() -> None:
    client = Client()
    for _ in range(LIMITS.streams):
        number = client.send(b"x")
        client.of(Happening.ENDED)[-1].busy = True
        client.h2.reset_stream(number)
        client.exchange()
    events = client.ours.receive(memoryview(request(101, good_block())))
    assert events == []
    assert client.ours.out == reset(101, ErrorCode.REFUSED_STREAM)
    assert len(client.of(Happening.RESET)) == LIMITS.streams


def test_other_content_types_are_not_grpc() -> None:
    client = Client()
    number = client.h2.get_next_available_stream_id()
    client.h2.send_headers(number, [*HEADERS[:-1], ("content-type", "text/html")], end_stream=True)
    client.exchange()
    [response] = [dict(e.headers) for e in client.seen if isinstance(e, h2.events.ResponseReceived)]
    assert response == {":status": "415"}


def test_after_leaving_no_call_is_taken_and_those_before_are_answered() -> None:
    connection = Connection(LIMITS)
    [(_, stream), *_] = connection.receive(memoryview(HELLO + request(1, good_block()) + frame(FrameType.DATA, 1, 1, grpc_message(b"x"))))
    connection.out.clear()
    connection.leave()
    connection.leave()
    assert connection.out == go_away(1, ErrorCode.NO_ERROR), "once"
    assert connection.receive(memoryview(request(3, good_block()))) == []
    connection.out.clear()
    assert connection.answer_small(stream, b"y")
    assert b"grpc-status" in connection.out


def request(number: int, block: bytes, flags: int = Flag.END_HEADERS) -> bytes:
    return frame(FrameType.HEADERS, flags, number, block)


def good_block() -> bytes:
    return bytes(Encoder().encode(HEADERS))


HELLO = PREFACE + settings_frame({})
# fmt: off
WRONG: dict[str, tuple[bytes, ErrorCode]] = {
    "no preface": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", ErrorCode.PROTOCOL_ERROR),
    "no settings": (PREFACE + frame(FrameType.PING, 0, 0, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "a frame too large": (HELLO + frame(FrameType.DATA, 0, 1, bytes(LIMITS.frame_bytes + 1)), ErrorCode.FRAME_SIZE_ERROR),
    "data of no stream": (HELLO + frame(FrameType.DATA, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data of stream 0": (HELLO + frame(FrameType.DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data after the end": (
        HELLO + request(1, good_block(), Flag.END_HEADERS | Flag.END_STREAM) + frame(FrameType.DATA, 0, 1, b"x"), ErrorCode.STREAM_CLOSED,
    ),
    "an even stream": (HELLO + request(2, good_block()), ErrorCode.PROTOCOL_ERROR),
    "headers twice": (HELLO + request(1, good_block()) * 2, ErrorCode.PROTOCOL_ERROR),
    "an interrupted block": (HELLO + request(1, good_block(), 0) + frame(FrameType.PING, 0, 0, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "a continuation of nothing": (HELLO + frame(FrameType.CONTINUATION, 4, 1, b""), ErrorCode.PROTOCOL_ERROR),
    "headers without end": (HELLO + request(1, b"", 0) + frame(FrameType.CONTINUATION, 0, 1, bytes(1500)) * 2, ErrorCode.ENHANCE_YOUR_CALM),
    "headers that unpack to too much": (HELLO + request(1, bytes(Encoder().encode([*HEADERS, ("a", "0" * 3000)]))), ErrorCode.ENHANCE_YOUR_CALM),
    "broken compression": (HELLO + request(1, b"\xff\xff\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
    "more padding than frame": (HELLO + request(1, good_block()) + frame(FrameType.DATA, Flag.PADDED, 1, b"\x05abc"), ErrorCode.PROTOCOL_ERROR),
    "a reset of no stream": (HELLO + frame(FrameType.RST_STREAM, 0, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "a short reset": (HELLO + request(1, good_block()) + frame(FrameType.RST_STREAM, 0, 1, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    "a long ping": (HELLO + frame(FrameType.PING, 0, 0, bytes(9)), ErrorCode.FRAME_SIZE_ERROR),
    "a ping on a stream": (HELLO + frame(FrameType.PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "settings of 5 bytes": (HELLO + frame(FrameType.SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
    "settings on a stream": (HELLO + frame(FrameType.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "an acknowledgement with settings": (HELLO + frame(FrameType.SETTINGS, Flag.ACK, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
    "a window too large": (HELLO + settings_frame({Setting.INITIAL_WINDOW_SIZE: 2**31}), ErrorCode.FLOW_CONTROL_ERROR),
    "frames too large": (HELLO + settings_frame({Setting.MAX_FRAME_SIZE: 2**24}), ErrorCode.PROTOCOL_ERROR),
    "a window that overflows": (HELLO + window_update(0, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "a window that grows by nothing": (HELLO + window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
    "a window of no stream": (HELLO + window_update(3, 1), ErrorCode.PROTOCOL_ERROR),
    "a push": (HELLO + frame(FrameType.PUSH_PROMISE, 4, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
}
# fmt: on


@pytest.mark.parametrize("what", WRONG)
def test_what_the_rfc_forbids_ends_the_connection_with_its_code(what: str) -> None:
    data, code = WRONG[what]
    connection = Connection(LIMITS)
    with pytest.raises(ConnectionFaultError) as fault:
        connection.receive(memoryview(data))
    assert fault.value.code == code
    kind, last, said = struct.unpack_from(">xxxBxxxxxII", connection.out, len(connection.out) - 17 - len(str(fault.value).encode()[:200]))
    assert (kind, said) == (FrameType.GOAWAY, code)
    assert last in (0, 1)


def test_more_than_the_stream_s_window() -> None:
    connection = Connection(ConnectionLimits(window=10_000))
    with pytest.raises(ConnectionFaultError) as fault:
        connection.receive(memoryview(HELLO + request(1, good_block()) + frame(FrameType.DATA, 0, 1, bytes(10_001))))
    assert fault.value.code == ErrorCode.FLOW_CONTROL_ERROR


def test_what_crosses_our_answer_is_passed_over() -> None:
    connection = Connection(LIMITS)
    events = connection.receive(memoryview(HELLO + request(1, good_block())))
    connection.finish(events[0][1], Status.UNIMPLEMENTED, "no")
    late = frame(FrameType.DATA, 0, 1, b"late") + frame(FrameType.RST_STREAM, 0, 1, bytes(4)) + window_update(1, 5)
    late += frame(FrameType.HEADERS, 5, 1, Encoder().encode([("late", "trailer")])) + frame(99, 0, 0, b"unknown")  # type: ignore[arg-type]
    assert connection.receive(memoryview(late)) == []
    assert connection.receive(memoryview(request(3, good_block()))) != []


def mutations() -> Iterator[bytes]:
    yield HELLO + request(1, good_block()) + frame(FrameType.DATA, 1, 1, grpc_message(b"hello")) + frame(FrameType.PING, 0, 0, bytes(8))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_anything_else_is_a_fault_or_is_taken_and_never_an_accident(data: st.DataObject) -> None:
    original = bytearray(next(mutations()))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(len(PREFACE), len(original) - 1))
        original[at] = data.draw(st.integers(0, 255))
    connection = Connection(LIMITS)
    piece = data.draw(st.integers(1, len(original)))
    try:
        for start in range(0, len(original), piece):
            connection.receive(memoryview(bytes(original[start : start + piece])))
    except ConnectionFaultError:
        pass
    assert len(connection.streams) <= LIMITS.streams
    assert len(connection.out) < 2000
