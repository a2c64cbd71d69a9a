"""The server's side of HTTP/2 against h2, which is another implementation, and against what RFC 9113 forbids."""

import struct
from collections.abc import Sequence

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hpack import Encoder
from hypothesis import given, settings
from hypothesis import strategies as st

from linewatch.edge_agent.http2.budget import Account, Budget
from linewatch.edge_agent.http2.connection import Connection
from linewatch.edge_agent.http2.frames import (
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
)  # fmt: skip
from linewatch.edge_agent.http2.limits import ConnectionLimits
from linewatch.edge_agent.http2.messages import Expected, message_prefix
from linewatch.edge_agent.http2.status import Status, StatusError
from linewatch.edge_agent.http2.streams import Event, Stream, StreamEvent

Fields = Sequence[tuple[str, str]]
HEADERS = [(":method", "POST"), (":scheme", "http"), (":path", "/S/M"), (":authority", "x"), ("te", "trailers"), ("content-type", "application/grpc")]
LIMITS = ConnectionLimits(streams=4, header_bytes=2000, frame_bytes=20_000, window=70_000)
LARGEST = 500_000
METHODS = {"/S/M": Expected(LARGEST), "/S/Talk": Expected(1000, 3, streaming=True)}
METHOD_NOT_HERE = [*HEADERS[:2], (":path", "/no/such"), *HEADERS[3:]]
HELLO = PREFACE + settings_frame({})


def connection(limits: ConnectionLimits = LIMITS, account: Account | None = None) -> Connection:
    return Connection(limits, account or Budget(10**9).account(), METHODS.get)


def grpc_message(data: bytes) -> bytes:
    return message_prefix(len(data)) + data


def block(fields: Fields = HEADERS) -> bytes:
    """Every field a literal without a table, so that blocks do not depend on each other."""
    encoder = Encoder()
    return bytes(encoder.encode([(name, value, True) for name, value in fields], huffman=False))


def request(number: int, fields: Fields = HEADERS, flags: int = Flag.END_HEADERS) -> bytes:
    return frame(FrameType.HEADERS, flags, number, block(fields))


def data(number: int, payload: bytes, flags: int = 0) -> bytes:
    return frame(FrameType.DATA, flags, number, payload)


def sent(ours: Connection, most: int = 10**9) -> bytes:
    return b"".join(ours.take(most))


class Client:
    """h2 on one side, ours on the other; bytes are handed over in pieces of a given size."""

    def __init__(self, piece: int = 10_000, ours: Connection | None = None) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self.h2.initiate_connection()
        self.ours, self.piece = ours or connection(), piece
        self.events: list[Event] = []
        self.seen: list[h2.events.Event] = []
        self.reads = True

    def exchange(self) -> None:
        while True:
            theirs = self.h2.data_to_send()
            for at in range(0, len(theirs), self.piece):
                self.events += self.ours.receive(memoryview(theirs[at : at + self.piece]))
            out = sent(self.ours, 20_000)
            if not theirs and not out:
                return
            new = self.h2.receive_data(out)
            self.seen += new
            for event in new if self.reads else ():
                if isinstance(event, h2.events.DataReceived):
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def send(self, message: bytes, *, end: bool = True) -> int:
        number = self.h2.get_next_available_stream_id()
        self.h2.send_headers(number, HEADERS)
        rest = memoryview(grpc_message(message))
        while rest:
            count = min(self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size, len(rest))
            if count:
                self.h2.send_data(number, bytes(rest[:count]))
                rest = rest[count:]
            before = self.h2.local_flow_control_window(number)
            self.exchange()
            assert count or self.h2.local_flow_control_window(number) > before, "the window does not open"
        if end:
            self.h2.end_stream(number)
        self.exchange()
        return number

    def of(self, event: StreamEvent) -> list[Stream]:
        return [stream for what, stream in self.events if what is event]

    def received(self, number: int) -> bytes:
        return b"".join(e.data for e in self.seen if isinstance(e, h2.events.DataReceived) and e.stream_id == number)

    def status(self, number: int) -> dict[str, str]:
        kinds = (h2.events.ResponseReceived, h2.events.TrailersReceived)
        return {k: v for e in self.seen if isinstance(e, kinds) and e.stream_id == number for k, v in e.headers}


@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=200_000), min_size=1, max_size=4), st.integers(1000, 30_000))
def test_messages_arrive_whole_however_they_are_cut(messages: list[bytes], piece: int) -> None:
    client = Client(piece)
    for message in messages:
        number = client.send(message)
        stream = client.of(StreamEvent.ENDED)[-1]
        assert [bytes(m) for m in stream.reader.messages] == [message]
        stream.busy = True
        client.ours.send(stream, message)
        client.ours.finish(stream, Status.OK)
        client.ours.forget(stream)
        client.exchange()
        assert client.received(number) == grpc_message(message)
        assert client.status(number)["grpc-status"] == "0"
    assert client.ours.streams == {}


def test_no_answer_waits_for_another_s_window() -> None:
    client = Client()
    client.reads = False
    client.send(b"x")
    [large] = client.of(StreamEvent.ENDED)
    client.h2.increment_flow_control_window(10**6)  # of the connection, so that only the stream's is shut
    client.ours.send(large, bytes(200_000))
    client.ours.finish(large, Status.OK)
    client.exchange()
    assert not large.closed
    assert large.send_window == 0
    number = client.send(b"y")
    client.ours.send(client.of(StreamEvent.ENDED)[-1], b"small")
    client.ours.finish(client.of(StreamEvent.ENDED)[-1], Status.OK)
    client.exchange()
    assert client.received(number) == grpc_message(b"small")
    client.h2.increment_flow_control_window(10**6, large.number)
    client.exchange()
    assert len(client.received(large.number)) == 200_005
    assert client.ours.streams == {}


def test_answers_that_are_reset_are_not_kept() -> None:
    client = Client()
    client.reads = False
    client.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    client.exchange()
    for _ in range(50):
        number = client.send(b"x")
        stream = client.of(StreamEvent.ENDED)[-1]
        client.ours.send(stream, bytes(100))
        client.ours.finish(stream, Status.OK)
        assert client.ours.sender.waits
        client.h2.reset_stream(number)
        client.exchange()
    assert not client.ours.sender.waits


def test_large_answers_take_turns() -> None:
    client = Client()
    for _ in range(3):
        client.send(b"x")
    for stream in client.of(StreamEvent.ENDED):
        client.ours.send(stream, bytes(60_000))
    client.reads = False
    client.exchange()
    numbers = [e.stream_id for e in client.seen if isinstance(e, h2.events.DataReceived)]
    assert set(numbers[:3]) == {1, 3, 5}


def test_errors_are_trailers_only_percent_encoded_and_short() -> None:
    client = Client()
    number = client.send(b"x")
    [stream] = client.of(StreamEvent.ENDED)
    client.ours.finish(stream, Status.INVALID_ARGUMENT, "größer als 4096: 100 %\n" + "\U0001f600" * 100_000)
    client.exchange()
    status = client.status(number)
    assert status["grpc-status"] == "3"
    assert status["grpc-message"].startswith("gr%C3%B6%C3%9Fer als 4096: 100 %25%0A%F0%9F%98%80")
    assert len(status["grpc-message"]) < 4600, "it fits the smallest frame, and gRPC's clients take it"


def test_a_message_too_large_is_refused_before_memory_is_taken() -> None:
    account = Budget(10**9).account()
    client = Client(ours=connection(account=account))
    number = client.h2.get_next_available_stream_id()
    client.exchange()
    client.h2.send_headers(number, HEADERS)
    client.h2.send_data(number, message_prefix(LARGEST + 1) + b"first bytes")
    client.exchange()
    status = client.status(number)
    assert status["grpc-status"] == "8"
    assert f"at most {LARGEST}" in status["grpc-message"]
    assert account.held == 0
    assert client.ours.streams == {}


def test_memory_is_given_back_however_calls_end() -> None:
    account = Budget(10**9).account()
    client = Client(ours=connection(account=account))
    client.reads = False
    client.send(b"x" * 5000)
    assert account.held == 5000
    [answered] = client.of(StreamEvent.ENDED)
    answered.busy = True
    client.ours.send(answered, bytes(100_000))
    client.ours.finish(answered, Status.OK)
    assert account.held == 100_000, "who answers is done with the request; its caller has not read yet"
    client.ours.forget(answered)
    assert account.held == 100_000
    client.h2.reset_stream(answered.number)
    client.exchange()
    assert account.held == 0
    number = client.send(b"y" * 7000, end=False)
    assert account.held == 7000
    client.h2.reset_stream(number)
    client.exchange()
    assert account.held == 0
    client.send(b"z" * 9000)
    client.ours.end()
    assert account.held == 0


def test_messages_without_content_count() -> None:
    ours = connection()
    talk = [*HEADERS[:2], (":path", "/S/Talk"), *HEADERS[3:]]
    events = ours.receive(memoryview(HELLO + request(1, talk) + data(1, message_prefix(0) * 4) + request(3) + data(3, message_prefix(0) * 2)))
    assert [what for what, _ in events] == [StreamEvent.OPENED, StreamEvent.RESET] * 2
    out = sent(ours)
    assert b"grpc-status\x018" in out
    assert b"grpc-status\x013" in out
    assert not ours.streams


def test_a_peer_that_resets_gains_no_further_places() -> None:
    client = Client()
    for _ in range(LIMITS.streams):
        number = client.send(b"x")
        client.of(StreamEvent.ENDED)[-1].busy = True
        client.h2.reset_stream(number)
        client.exchange()
    assert client.ours.receive(memoryview(request(101))) == []
    assert sent(client.ours) == reset(101, ErrorCode.REFUSED_STREAM)
    assert len(client.of(StreamEvent.RESET)) == LIMITS.streams


@pytest.mark.parametrize(("fields", "status"), [
    ([*HEADERS[:-1], ("content-type", "text/html")], "415"), ([(":method", "GET"), *HEADERS[1:]], "405"),
])  # fmt: skip
def test_what_is_not_grpc(fields: Fields, status: str) -> None:
    client = Client()
    number = client.h2.get_next_available_stream_id()
    client.h2.send_headers(number, fields, end_stream=True)
    client.exchange()
    assert client.status(number) == {":status": status}


def test_methods_that_are_not_here() -> None:
    client = Client()
    number = client.h2.get_next_available_stream_id()
    client.h2.send_headers(number, [*HEADERS[:2], (":path", "/no/such"), *HEADERS[3:]])
    client.exchange()
    assert client.status(number)["grpc-status"] == "12"
    assert client.events == []


def test_after_leaving_no_call_is_taken_and_those_before_are_answered() -> None:
    ours = connection()
    [(_, stream), *_] = ours.receive(memoryview(HELLO + request(1) + data(1, grpc_message(b"x"), 1)))
    sent(ours)
    ours.go_away()
    ours.go_away()
    assert sent(ours) == go_away(1, ErrorCode.NO_ERROR), "once"
    assert ours.receive(memoryview(request(3) + data(3, b"late"))) == []
    ours.send(stream, b"y")
    ours.finish(stream, Status.OK)
    assert b"grpc-status" in sent(ours)
    with pytest.raises(ConnectionFaultError):
        ours.receive(memoryview(frame(FrameType.PING, 0, 0, b"short")))
    assert struct.unpack_from(">I", sent(ours), 9) == (1,), "the last stream that is named never rises"


# fmt: off
WRONG: dict[str, tuple[bytes, ErrorCode]] = {
    "no preface": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", ErrorCode.PROTOCOL_ERROR),
    "no settings": (PREFACE + frame(FrameType.PING, 0, 0, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "a frame too large": (HELLO + data(1, bytes(LIMITS.frame_bytes + 1)), ErrorCode.FRAME_SIZE_ERROR),
    "data of no stream": (HELLO + data(1, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data of stream 0": (HELLO + data(0, b"x"), ErrorCode.PROTOCOL_ERROR),
    "data of a stream that was reset": (HELLO + request(1) + frame(FrameType.RST_STREAM, 0, 1, bytes(4)) + data(1, b"x"), ErrorCode.STREAM_CLOSED),
    "data of a stream that was skipped": (HELLO + request(5) + data(3, b"x"), ErrorCode.PROTOCOL_ERROR),
    "headers of a stream that was reset": (HELLO + request(1) + frame(FrameType.RST_STREAM, 0, 1, bytes(4)) + request(1), ErrorCode.STREAM_CLOSED),
    "an even stream": (HELLO + request(2), ErrorCode.PROTOCOL_ERROR),
    "stream 0": (HELLO + request(0), ErrorCode.PROTOCOL_ERROR),
    "a stream number that falls": (HELLO + request(5) + request(3), ErrorCode.PROTOCOL_ERROR),
    "an interrupted block": (HELLO + request(1, flags=0) + frame(FrameType.PING, 0, 0, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "a block that goes on elsewhere": (HELLO + request(1, flags=0) + frame(FrameType.CONTINUATION, 4, 3, b""), ErrorCode.PROTOCOL_ERROR),
    "a continuation of nothing": (HELLO + frame(FrameType.CONTINUATION, 4, 1, b""), ErrorCode.PROTOCOL_ERROR),
    "headers without end": (
        HELLO + frame(FrameType.HEADERS, 0, 1) + frame(FrameType.CONTINUATION, 0, 1, bytes(1500)) * 2, ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "headers that unpack to far too much": (
        HELLO + request(1) + frame(FrameType.HEADERS, 4, 3, b"\x40\x01a\x7f\xf1\x05" + b"x" * 880 + b"\xbe" * 10), ErrorCode.ENHANCE_YOUR_CALM,
    ),
    "broken compression": (HELLO + frame(FrameType.HEADERS, 4, 1, b"\xff\xff\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR),
    "an index of no field": (HELLO + frame(FrameType.HEADERS, 4, 1, b"\xbe"), ErrorCode.COMPRESSION_ERROR),
    "a table too large": (HELLO + frame(FrameType.HEADERS, 4, 1, b"\x3f\xe2\x1f" + block()), ErrorCode.COMPRESSION_ERROR),
    "more padding than frame": (HELLO + request(1) + data(1, b"\x05abc", Flag.PADDED), ErrorCode.PROTOCOL_ERROR),
    "padding without length": (HELLO + request(1) + data(1, b"", Flag.PADDED), ErrorCode.FRAME_SIZE_ERROR),
    "headers of padding": (HELLO + frame(FrameType.HEADERS, 4 | Flag.PADDED, 1, b"\x09abc"), ErrorCode.PROTOCOL_ERROR),
    "headers too short for their priority": (HELLO + frame(FrameType.HEADERS, 4 | Flag.PRIORITY, 1, b"abc"), ErrorCode.FRAME_SIZE_ERROR),
    "a reset of no stream": (HELLO + frame(FrameType.RST_STREAM, 0, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    "a short reset": (HELLO + request(1) + frame(FrameType.RST_STREAM, 0, 1, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
    "a long ping": (HELLO + frame(FrameType.PING, 0, 0, bytes(9)), ErrorCode.FRAME_SIZE_ERROR),
    "a ping on a stream": (HELLO + frame(FrameType.PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "settings of 5 bytes": (HELLO + frame(FrameType.SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
    "settings on a stream": (HELLO + frame(FrameType.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    "an acknowledgement with settings": (HELLO + frame(FrameType.SETTINGS, Flag.ACK, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
    "a window too large": (HELLO + settings_frame({Setting.INITIAL_WINDOW_SIZE: 2**31}), ErrorCode.FLOW_CONTROL_ERROR),
    "frames too large": (HELLO + settings_frame({Setting.MAX_FRAME_SIZE: 2**24}), ErrorCode.PROTOCOL_ERROR),
    "frames too small": (HELLO + settings_frame({Setting.MAX_FRAME_SIZE: 2**14 - 1}), ErrorCode.PROTOCOL_ERROR),
    "push neither on nor off": (HELLO + settings_frame({Setting.ENABLE_PUSH: 2}), ErrorCode.PROTOCOL_ERROR),
    "a window that overflows": (HELLO + window_update(0, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
    "a window that grows by nothing": (HELLO + window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
    "a window of no stream": (HELLO + window_update(3, 1), ErrorCode.PROTOCOL_ERROR),
    "a window of 5 bytes": (HELLO + frame(FrameType.WINDOW_UPDATE, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
    "a priority of the connection": (HELLO + frame(FrameType.PRIORITY, 0, 0, bytes(5)), ErrorCode.PROTOCOL_ERROR),
    "a priority of 4 bytes": (HELLO + frame(FrameType.PRIORITY, 0, 1, bytes(4)), ErrorCode.FRAME_SIZE_ERROR),
    "a farewell on a stream": (HELLO + frame(FrameType.GOAWAY, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "a push": (HELLO + frame(FrameType.PUSH_PROMISE, 4, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    "more than the stream's window": (HELLO + request(1) + data(1, bytes(20_000)) * 4, ErrorCode.FLOW_CONTROL_ERROR),
}
# fmt: on


@pytest.mark.parametrize("what", WRONG)
def test_what_the_rfc_forbids_ends_the_connection_with_its_code(what: str) -> None:
    wrong, code = WRONG[what]
    ours = connection(ConnectionLimits(streams=4, header_bytes=2000, frame_bytes=20_000, window=70_000))
    if what == "more than the stream's window":  # before a message begins none of it is given back
        ours = connection(ConnectionLimits(frame_bytes=20_000, window=19_000))
    with pytest.raises(ConnectionFaultError) as fault:
        ours.receive(memoryview(wrong))
    assert fault.value.code == code
    farewell = go_away(0, code, str(fault.value))
    out = sent(ours)
    assert out.endswith(farewell[13:])
    assert struct.unpack_from(">I", out, len(out) - len(farewell) + 9)[0] in (0, 1, 5)
    assert "0x" not in str(fault.value)


# fmt: off
MALFORMED: dict[str, Fields] = {
    "a name in capitals": [*HEADERS, ("Name", "x")],
    "a name with a space": [*HEADERS, ("na me", "x")],
    "a name that is empty": [*HEADERS, ("", "x")],
    "a value with a line break": [*HEADERS, ("name", "x\r\ny")],
    "a value with a NUL": [*HEADERS, ("name", "x\0")],
    "a value that begins with a space": [*HEADERS, ("name", " x")],
    "a pseudo-header that is unknown": [(":proto", "x"), *HEADERS],
    "a pseudo-header of responses": [(":status", "200"), *HEADERS],
    "a pseudo-header that comes late": [*HEADERS[:3], *HEADERS[4:], (":authority", "x")],
    "a pseudo-header that comes twice": [HEADERS[2], *HEADERS],
    "no method": HEADERS[1:],
    "no scheme": [HEADERS[0], *HEADERS[2:]],
    "no path": [*HEADERS[:2], *HEADERS[3:]],
    "an empty path": [*HEADERS[:2], (":path", ""), *HEADERS[3:]],
    "connection": [*HEADERS, ("connection", "close")],
    "transfer-encoding": [*HEADERS, ("transfer-encoding", "chunked")],
    "te that is not trailers": [*HEADERS[:4], ("te", "gzip"), HEADERS[5]],
    "a length that is no number": [*HEADERS, ("content-length", "²")],
}
# fmt: on


@pytest.mark.parametrize("what", MALFORMED)
def test_a_request_that_is_malformed_ends_its_stream_only(what: str) -> None:
    ours = connection()
    ours.receive(memoryview(HELLO))
    sent(ours)
    assert ours.receive(memoryview(request(1, MALFORMED[what]))) == []
    assert sent(ours) == reset(1, ErrorCode.PROTOCOL_ERROR)
    assert ours.receive(memoryview(data(1, b"crosses the reset"))) == []
    assert [what for what, _ in ours.receive(memoryview(request(3)))] == [StreamEvent.OPENED]


@pytest.mark.parametrize(("rest", "code"), [
    (data(1, b"x", 1) , ErrorCode.PROTOCOL_ERROR),
    (data(1, b"x" * 11), ErrorCode.PROTOCOL_ERROR),
    (frame(FrameType.HEADERS, 5, 1, block([(":path", "/late")])), ErrorCode.PROTOCOL_ERROR),
    (frame(FrameType.HEADERS, 4, 1, block([("late", "but no end")])), ErrorCode.PROTOCOL_ERROR),
    (window_update(1, 0), ErrorCode.PROTOCOL_ERROR),
    (window_update(1, 2**31 - 1), ErrorCode.FLOW_CONTROL_ERROR),
    (frame(FrameType.PRIORITY, 0, 1, b"\0\0\0\x01\x10"), ErrorCode.PROTOCOL_ERROR),
    (data(1, grpc_message(b"hello"), 1) + data(1, b"x"), ErrorCode.STREAM_CLOSED),
    (data(1, grpc_message(b"hello"), 1) + frame(FrameType.HEADERS, 5, 1, block([("too", "late")])), ErrorCode.STREAM_CLOSED),
], ids=["a body too short", "a body too long", "a pseudo-header behind it", "trailers without end", "a window that grows by nothing",
        "a window that overflows", "a stream that depends on itself", "data after the end", "headers after the end"])  # fmt: skip
def test_what_is_wrong_with_a_stream_ends_that_stream(rest: bytes, code: ErrorCode) -> None:
    ours = connection()
    ours.receive(memoryview(HELLO + request(1, [*HEADERS, ("content-length", "10")])))
    sent(ours)
    [*_, (what, stream)] = ours.receive(memoryview(rest))
    assert (what, stream.number) == (StreamEvent.RESET, 1)
    assert sent(ours).endswith(reset(1, code))
    assert ours.streams == {}


def test_headers_that_are_too_many_are_told_so() -> None:
    client = Client()
    number = client.h2.get_next_available_stream_id()
    client.exchange()
    client.h2.send_headers(number, [*HEADERS, ("name", "1" * 3000)], end_stream=True)
    client.exchange()
    assert client.status(number)["grpc-status"] == "8"
    assert client.events == []
    client.send(b"and the connection goes on")
    assert client.of(StreamEvent.ENDED)


def test_padding_and_priority_are_passed_over() -> None:
    ours = connection()
    head = frame(FrameType.HEADERS, Flag.END_HEADERS | Flag.PADDED | Flag.PRIORITY, 1, b"\x03" + b"\0\0\0\0\x10" + block() + bytes(3))
    body = data(1, b"\x04" + grpc_message(b"padded") + bytes(4), Flag.PADDED | Flag.END_STREAM)
    whole = HELLO + head + frame(77, 0xFF, 9, bytes(17_000)) + body  # type: ignore[arg-type]
    events: list[Event] = []
    for at in range(0, len(whole), 7):
        events += ours.receive(memoryview(whole[at : at + 7]))
    assert [what for what, _ in events] == [StreamEvent.OPENED, StreamEvent.ENDED]
    assert [bytes(m) for m in events[0][1].reader.messages] == [b"padded"]


def test_what_was_said_of_streams_long_ago_is_passed_over() -> None:
    ours = connection()
    ours.receive(memoryview(HELLO))
    for number in range(1, 2 * 400, 2):
        ours.receive(memoryview(request(number)))
    assert len(ours.streams) == LIMITS.streams
    assert ours.receive(memoryview(data(LIMITS.streams * 2 + 1, b"crosses the refusal"))) == []


def test_a_field_that_is_no_utf_8_is_taken() -> None:
    ours = connection()
    events = ours.receive(memoryview(HELLO + frame(FrameType.HEADERS, 4, 1, block() + b"\x00\x01a\x04caf\xe9")))
    assert [what for what, _ in events] == [StreamEvent.OPENED]


def test_a_peer_without_a_table_is_told_that_there_is_none() -> None:
    ours = connection()
    ours.receive(memoryview(HELLO + settings_frame({Setting.HEADER_TABLE_SIZE: 0}) + request(1, METHOD_NOT_HERE) + request(3, METHOD_NOT_HERE)))
    out = sent(ours)
    assert out.count(b"\x20\x88") == 1, "before the first status only"


def test_answers_that_nobody_reads_are_bounded() -> None:
    account = Budget(500_000).account()
    client = Client(ours=connection(account=account))
    client.reads = False
    refused = 0
    for _ in range(4):
        client.send(b"x")
        try:
            client.ours.send(client.of(StreamEvent.ENDED)[-1], bytes(120_000))
        except StatusError:
            refused += 1
    assert refused == 2
    assert account.held == 240_000


def test_what_crosses_our_answer_is_passed_over() -> None:
    ours = connection()
    [(_, stream)] = ours.receive(memoryview(HELLO + request(1)))
    ours.finish(stream, Status.NOT_FOUND, "no")
    late = data(1, b"late") + frame(FrameType.RST_STREAM, 0, 1, bytes(4)) + window_update(1, 5)
    late += frame(FrameType.HEADERS, 5, 1, block([("late", "trailer")])) + frame(99, 0, 0, b"unknown")  # type: ignore[arg-type]
    assert ours.receive(memoryview(late)) == []
    assert ours.receive(memoryview(request(3))) != []


def test_work_that_leads_to_nothing_costs_and_pictures_hardly_do() -> None:
    def cost(said: bytes) -> float:
        ours = connection(ConnectionLimits(window=10**7))
        ours.receive(memoryview(HELLO))
        ours.cost = 0.0
        ours.receive(memoryview(said))
        return ours.cost

    assert cost(request(1) + data(1, message_prefix(400_000) + bytes(16_000)) + data(1, bytes(16_000)) * 20) < 700
    for flood in (frame(FrameType.PING, 0, 0, bytes(8)), settings_frame({}), window_update(0, 1), frame(FrameType.PRIORITY, 0, 3, bytes(5)),
                  frame(99, 0, 0)):  # type: ignore[arg-type]  # fmt: skip
        assert cost(flood * 1000) > 2000


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_anything_else_is_a_fault_or_is_taken_and_never_an_accident(draws: st.DataObject) -> None:
    original = bytearray(HELLO + request(1) + data(1, grpc_message(b"hello"), 1) + frame(FrameType.PING, 0, 0, bytes(8)) + request(3)
                         + data(3, b"\x02" + grpc_message(b"x") + b"\0\0", Flag.PADDED) + window_update(3, 9))  # fmt: skip
    for _ in range(draws.draw(st.integers(1, 6))):
        at = draws.draw(st.integers(len(PREFACE), len(original) - 1))
        original[at] = draws.draw(st.integers(0, 255))
    account = Budget(10**9).account()
    ours = connection(account=account)
    piece = draws.draw(st.integers(1, len(original)))
    try:
        for start in range(0, len(original), piece):
            for what, stream in ours.receive(memoryview(bytes(original[start : start + piece]))):
                if what is StreamEvent.ENDED and draws.draw(st.booleans()):
                    ours.send(stream, b"answer")
                    ours.finish(stream, Status.OK)
    except ConnectionFaultError:
        pass
    assert len(ours.streams) <= LIMITS.streams
    assert len(sent(ours)) < 3000
    ours.end()
    assert account.held == 0
