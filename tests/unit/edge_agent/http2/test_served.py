"""A served connection over a socket pair: calls, faults of handlers, and what takes too long, by times that the test names."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from benchmarks.http2_frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    RST_STREAM,
    frame,
    hello,
    literal,
    message,
    request_block,
)
from linewatch.edge_agent.http2.budget import Budget
from linewatch.edge_agent.http2.calls import Call
from linewatch.edge_agent.http2.limits import ServerLimits
from linewatch.edge_agent.http2.messages import Expected
from linewatch.edge_agent.http2.rate_limit import Allowance, RateLimit, TokenBucket, UserBucket
from linewatch.edge_agent.http2.served import ServedConnection
from linewatch.edge_agent.http2.status import Status, StatusError
from linewatch.edge_agent.http2.transport import Peer, Plain

LIMITS = ServerLimits(handshake_s=10, idle_s=100, stall_s=30)
Handler = Callable[[Call], bool]


class Device:
    """Owner, application and peer of one connection."""

    def __init__(self, threads: int = 8) -> None:
        self.limits, self.budget = LIMITS, Budget(10**8)
        self.threads = threading.BoundedSemaphore(threads)
        self.handler: Handler = self.echo
        self.over = threading.Event()
        self.writable: list[ServedConnection] = []
        self.theirs, ours = socket.socketpair()
        self.theirs.settimeout(10)
        lots = Allowance(10**9, 10**9)
        rate = RateLimit(TokenBucket(lots, 0), UserBucket(lots, 0))
        self.served = ServedConnection(self, ours, Peer(1, "uid 1"), Plain(), self, rate)
        self._thread = threading.Thread(target=self.served.run, daemon=True)
        self._thread.start()
        self._came = b""

    # --- the application

    def expected(self, path: str, peer: Peer) -> Expected | None:
        if path == "/t/Forbidden":
            raise StatusError(Status.PERMISSION_DENIED, f"{peer.name} may not call")
        return {"/t/Call": Expected(10**6), "/t/Talk": Expected(1000, 4, streaming=True)}.get(path)

    def handle(self, call: Call) -> bool:
        return self.handler(call)

    @staticmethod
    def echo(call: Call) -> bool:
        call.send(bytes(call.message()), more=True)
        return True

    # --- the owner

    def gone(self, served: ServedConnection) -> None:
        assert served is self.served
        self.over.set()

    def idle(self) -> None:
        pass

    def when_writable(self, served: ServedConnection) -> None:
        self.writable.append(served)

    # --- the peer

    def say(self, *frames: bytes) -> None:
        self.theirs.sendall(b"".join(frames))

    def call(self, number: int, data: bytes = b"abc", path: str = "/t/Call", more: bytes = b"") -> None:
        self.say(frame(HEADERS, END_HEADERS, number, request_block(path) + more), frame(DATA, END_STREAM, number, message(data)))

    def read(self) -> tuple[int, int, int, bytes]:
        """The next frame: type, flags, stream, payload."""
        while len(self._came) < 9 or len(self._came) < 9 + int.from_bytes(self._came[:3], "big"):
            data = self.theirs.recv(65536)
            if not data:
                raise EOFError
            self._came += data
        length = int.from_bytes(self._came[:3], "big")
        head, payload, self._came = self._came[:9], self._came[9 : 9 + length], self._came[9 + length :]
        return head[3], head[4], int.from_bytes(head[5:], "big"), payload

    def until(self, kind: int, number: int, flags: int = 0) -> bytes:
        """The payload of the next frame of a type on a stream, with these flags at least."""
        while True:
            found = self.read()
            if (found[0], found[2]) == (kind, number) and found[1] & flags == flags:
                return found[3]

    def status(self, number: int) -> int:
        """How a call ended."""
        trailers = self.until(HEADERS, number, END_STREAM)
        return int(trailers.partition(b"grpc-status")[2][1:].partition(b"\x00")[0])

    def answer(self, number: int) -> bytes:
        return self.until(DATA, number)[5:]

    def close(self) -> None:
        self.theirs.close()
        self.served.close()
        assert self.over.wait(10), "its threads go on"


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device()
    yield made
    made.close()


def eventually(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_calls_are_answered_one_after_the_other(device: Device) -> None:
    device.say(hello())
    for number in (1, 3, 5):
        device.call(number, bytes([number]))
        assert device.answer(number) == bytes([number])
        assert device.status(number) == Status.OK
    eventually(lambda: device.served.answered and not device.served.handles)


@pytest.mark.parametrize(("error", "status"), [
    (ZeroDivisionError("secret"), Status.INTERNAL), (StatusError(Status.NOT_FOUND, "no"), Status.NOT_FOUND), (MemoryError(), Status.INTERNAL),
])  # fmt: skip
def test_a_handler_that_raises_ends_its_call_and_no_other(device: Device, error: Exception, status: Status) -> None:
    def fails(_: Call) -> bool:
        raise error

    device.say(hello())
    device.handler = fails
    device.call(1)
    assert device.status(1) == status
    device.handler = device.echo
    device.call(3)
    assert device.status(3) == Status.OK


@pytest.mark.parametrize(("path", "status"), [("/t/Forbidden", Status.PERMISSION_DENIED), ("/t/None", Status.UNIMPLEMENTED)])
def test_who_may_not_call_what_is_told_without_a_handler(device: Device, path: str, status: Status) -> None:
    device.handler = lambda _: pytest.fail("it was handled")
    device.say(hello())
    device.call(1, path=path)
    assert device.status(1) == status


def test_a_deadline_that_is_over_is_told_before_the_handler(device: Device) -> None:
    device.handler = lambda _: pytest.fail("it was handled")
    device.say(hello())
    device.call(1, more=literal("grpc-timeout", "0n"))
    assert device.status(1) == Status.DEADLINE_EXCEEDED


def test_a_call_that_waits_lets_others_be_answered_and_learns_that_its_caller_went(device: Device) -> None:
    gone, entered = threading.Event(), threading.Event()

    def waits(call: Call) -> bool:
        call.when_gone(gone.set)
        assert call.about_to_wait()
        device.handler = device.echo
        entered.set()
        assert gone.wait(10)
        assert call.gone
        return True

    device.handler = waits
    device.say(hello())
    device.call(1)
    assert entered.wait(10)
    device.call(3)
    assert device.status(3) == Status.OK
    device.say(frame(RST_STREAM, 0, 1, (8).to_bytes(4, "big")))
    assert gone.wait(10)
    eventually(lambda: not device.served.handles)


def test_without_threads_calls_are_answered_all_the_same() -> None:
    device = Device(threads=1)
    device.threads.acquire()  # others have them
    answers: list[bool] = []

    def waits(call: Call) -> bool:
        answers.append(call.about_to_wait())
        return device.echo(call)

    device.handler = waits
    device.say(hello())
    for number in (1, 3):
        device.call(number)
        assert device.status(number) == Status.OK
    assert answers == [False, False]
    device.close()


def test_a_conversation_gets_its_messages_as_they_come(device: Device) -> None:
    def talks(call: Call) -> bool:
        assert call.about_to_wait()
        for one in call.messages():
            call.send(bytes(one)[::-1])
        return True

    device.handler = talks
    device.say(hello(), frame(HEADERS, END_HEADERS, 1, request_block("/t/Talk")))
    for word in (b"abc", b"def"):
        device.say(frame(DATA, 0, 1, message(word)))
        assert device.answer(1) == word[::-1]
    device.say(frame(DATA, END_STREAM, 1))
    assert device.status(1) == Status.OK


def test_who_breaks_the_protocol_is_told_and_gets_time_to_read_that(device: Device) -> None:
    device.say(b"GET / HTTP/1.1\r\n\r\n")
    assert device.until(GOAWAY, 0)[8:] == b"this is no HTTP/2 connection"
    assert not device.served.closed
    device.served.sweep(time.monotonic() + 1)
    assert not device.served.closed
    device.served.sweep(time.monotonic() + 3)
    assert device.served.closed


def test_who_says_nothing_is_ended(device: Device) -> None:
    device.served.sweep(time.monotonic() + 9)
    assert not device.served.closed
    device.served.sweep(time.monotonic() + 11)
    assert device.served.closed


def test_a_connection_without_calls_is_asked_to_go_and_then_ended(device: Device) -> None:
    device.say(hello())
    device.call(1)
    assert device.status(1) == Status.OK
    eventually(lambda: not device.served.busy)
    now = time.monotonic()
    device.served.sweep(now + 99)
    device.say(frame(PING, 0, 0, bytes(8)))
    device.until(PING, 0, ACK)  # and no GOAWAY before it
    device.served.sweep(time.monotonic() + 101)
    assert device.until(GOAWAY, 0)[:4] == (1).to_bytes(4, "big")
    assert not device.served.closed
    device.served.sweep(time.monotonic() + 3)
    assert device.served.closed


def test_a_request_that_does_not_come_whole_is_ended_and_its_connection_goes_on(device: Device) -> None:
    device.say(hello(), frame(HEADERS, END_HEADERS, 1, request_block("/t/Call")), frame(DATA, 0, 1, message(bytes(1000))[:100]))
    eventually(lambda: device.served.busy)
    device.served.sweep(time.monotonic() + 29)
    device.served.sweep(time.monotonic() + 31)
    assert device.status(1) == Status.DEADLINE_EXCEEDED
    device.call(3)
    assert device.status(3) == Status.OK


def waiting(gone: threading.Event, seconds: float | None = None) -> Handler:
    """A handler that waits until its caller has gone, or its time is over, `seconds` from now."""

    def handle(call: Call) -> bool:
        if seconds is not None:
            call.ends_at = time.monotonic() + seconds
        call.when_gone(gone.set)
        call.about_to_wait()
        assert gone.wait(10)
        return True

    return handle


def test_a_call_that_takes_longer_than_it_may_is_ended(device: Device) -> None:
    gone = threading.Event()
    device.handler = waiting(gone, 50)
    device.say(hello())
    device.call(1)
    eventually(lambda: device.served.handles)
    device.served.sweep(time.monotonic() + 49)
    assert not gone.is_set()
    device.served.sweep(time.monotonic() + 51)
    assert device.status(1) == Status.DEADLINE_EXCEEDED
    assert gone.wait(10)


def answer_more_than_is_read(device: Device) -> None:
    """Answers of a megabyte, to a peer whose windows are as large as can be: what the socket holds is what bounds them."""
    device.handler = lambda call: call.send(bytes(10**6), more=True) is None
    largest = (2**31 - 1 - 65535).to_bytes(4, "big")
    device.say(hello(b"\x00\x04" + (2**31 - 1).to_bytes(4, "big")), frame(8, 0, 0, largest))


def test_who_does_not_read_keeps_nobody_and_is_ended(device: Device) -> None:
    answer_more_than_is_read(device)
    for number in (1, 3):
        device.call(number)
    eventually(lambda: device.writable)
    device.served.sweep(time.monotonic() + 29)
    assert not device.served.closed
    device.served.sweep(time.monotonic() + 31)
    assert device.served.closed


def test_what_the_kernel_did_not_take_goes_when_it_takes_more(device: Device) -> None:
    answer_more_than_is_read(device)
    device.call(1)
    eventually(lambda: device.writable)
    got = 0
    device.theirs.settimeout(0.05)
    while got < 10**6:
        with contextlib.suppress(TimeoutError):
            kind, _, number, payload = device.read()
            got += len(payload) if (kind, number) == (DATA, 1) else 0
            continue
        device.served.resume()
    assert got == 10**6 + 5
    assert device.status(1) == Status.OK


def test_a_caller_that_leaves_in_the_middle_ends_the_connection_s_calls(device: Device) -> None:
    gone = threading.Event()
    device.handler = waiting(gone)
    device.say(hello())
    device.call(1)
    eventually(lambda: device.served.handles)
    device.theirs.close()
    assert gone.wait(10)
    assert device.over.wait(10)
    assert device.budget.account().take(10**8), "its memory was given back"


def test_going_away_answers_what_came_before(device: Device) -> None:
    release = threading.Event()

    def waits(call: Call) -> bool:
        call.about_to_wait()
        assert release.wait(10)
        return device.echo(call)

    device.handler = waits
    device.say(hello())
    device.call(1)
    eventually(lambda: device.served.handles)
    device.served.go_away()
    device.until(GOAWAY, 0)
    assert device.served.busy
    release.set()
    assert device.status(1) == Status.OK
    eventually(lambda: not device.served.busy)
    device.served.half_close()
    with pytest.raises(EOFError):
        device.read()
