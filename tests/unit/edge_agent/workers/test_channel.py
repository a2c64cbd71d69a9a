"""One channel to a worker whose other end is in the test's hand: what each reply, silence or death becomes."""

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.edge_agent.errors import CallerGoneError, InvalidOutputError, InvalidRequestError, WorkerError
from linewatch.edge_agent.workers.channel import Picture, WorkerChannel, WorkerGoneError
from linewatch.edge_agent.workers.messages import (
    Cancelled,
    ErrorReply,
    PredictRequest,
    PredictResponse,
    Ready,
    Reply,
    receive_request,
    send,
)
from tests.callers import Patient

PICTURE = Picture(2, 1, b"abcdef")


class Process:
    """A worker's process, as channels see it: remembers that it was given up, and for whom."""

    def __init__(self) -> None:
        self.channels: list[WorkerChannel[Process]] = []
        self.makes_masks, self.broken = True, False
        self.aborted_for: WorkerChannel[Process] | None = None

    def abort(self, channel: "WorkerChannel[Process] | None" = None) -> None:
        self.broken, self.aborted_for = True, self.aborted_for or channel


class Both:
    """Both ends of a channel; the worker's end does to each request what it was told."""

    def __init__(self) -> None:
        self.process = Process()
        self.channel: WorkerChannel[Process] = WorkerChannel(self.process)
        self.other: WorkerChannel[Process] = WorkerChannel(self.process)
        self.process.channels += [self.channel, self.other]
        self.seen: list[PredictRequest] = []

    def ask(self, worker: Callable[[PredictRequest, socket.socket], None], caller: Patient | None = None, timeout_s: float = 5) -> PredictResponse:
        def serve() -> None:
            received = receive_request(self.channel.theirs)
            assert received is not None
            self.seen.append(received[0])
            worker(received[0], self.channel.theirs)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            return self.channel.ask(PICTURE, caller or Patient(), timeout_s, lambda: None)
        finally:
            thread.join(10)

    def close(self) -> None:
        for channel in self.process.channels:
            channel.close()
            channel.theirs.close()
            channel.buffer.close()


@pytest.fixture
def both() -> Iterator[Both]:
    made = Both()
    yield made
    made.close()


def response(number: int) -> PredictResponse:
    return PredictResponse(number, True, 0.9, 1.0, 0.5, [], 0, 0, 0, b"", (0, 0, 0, 0))


def replies(reply: Callable[[int], Reply | Ready]) -> Callable[[PredictRequest, socket.socket], None]:
    return lambda request, end: send(end, reply(request.number))


def dies(both: Both, *, begun: bool) -> Callable[[PredictRequest, socket.socket], None]:
    def worker(request: PredictRequest, end: socket.socket) -> None:
        if begun:
            both.channel.buffer.begin(request.number)
        end.shutdown(socket.SHUT_RDWR)

    return worker


def test_bytes_go_through_the_buffer_and_each_request_has_a_number_of_its_own(both: Both) -> None:
    for _ in range(3):
        assert both.ask(replies(response)).number == both.seen[-1].number
        assert bytes(both.channel.buffer.picture(6)) == b"abcdef"
    assert len({request.number for request in both.seen}) == 3
    assert not both.process.broken


@pytest.mark.parametrize(("fault", "kind"), [("request", InvalidRequestError), ("model", InvalidOutputError), ("program", WorkerError)])
def test_an_error_reply_is_the_call_s_own_and_the_worker_goes_on(both: Both, fault: Any, kind: type[LinewatchError]) -> None:
    with pytest.raises(kind, match=r"^why$"):
        both.ask(replies(lambda number: ErrorReply(number, "why", fault)))
    assert not both.process.broken
    assert both.ask(replies(response)).score == 1.0


@pytest.mark.parametrize("reply", [lambda n: response(n - 1), lambda n: ErrorReply(n + 1, "no", "request"), lambda _: Ready("x", True, "", "1")])
def test_a_reply_that_is_not_this_request_s_ends_the_worker(both: Both, reply: Callable[[int], Reply]) -> None:
    with pytest.raises(WorkerGoneError) as raised:
        both.ask(replies(reply))
    assert raised.value.begun
    assert both.process.aborted_for is both.channel


def test_a_worker_that_is_silent_is_ended(both: Both) -> None:
    with pytest.raises(WorkerGoneError, match=r"did not answer within 0\.05 s") as raised:
        both.ask(lambda *_: None, timeout_s=0.05)
    assert raised.value.begun
    assert both.process.aborted_for is both.channel


@pytest.mark.parametrize("begun", [False, True])
def test_a_dead_worker_s_call_may_go_to_another_one_unless_it_was_begun_with(both: Both, begun: bool) -> None:
    with pytest.raises(WorkerGoneError, match="died") as raised:
        both.ask(dies(both, begun=begun))
    assert raised.value.begun is begun
    assert both.process.broken


def test_what_was_begun_with_may_go_to_another_one_when_the_worker_was_ended_for_another_call(both: Both) -> None:
    both.process.abort(both.other)
    with pytest.raises(WorkerGoneError) as raised:
        both.ask(dies(both, begun=True))
    assert not raised.value.begun


def test_a_worker_that_was_dead_before_is_told_from_one_that_broke_off(both: Both) -> None:
    both.channel.theirs.close()
    with pytest.raises(WorkerGoneError, match="died") as raised:
        both.channel.ask(PICTURE, Patient(), 5, lambda: None)
    assert not raised.value.begun


def test_an_exception_between_request_and_reply_ends_the_worker_and_is_told(both: Both) -> None:
    def breaks() -> None:
        raise MemoryError

    with pytest.raises(WorkerGoneError, match="MemoryError") as raised:
        both.channel.ask(PICTURE, Patient(), 5, breaks)
    assert raised.value.begun
    assert both.process.aborted_for is both.channel


def test_an_interrupt_ends_the_worker_and_stays_an_interrupt(both: Both) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        both.channel.ask(PICTURE, Patient(), 5, interrupted)
    assert both.process.broken


def test_a_caller_that_leaves_cancels_its_own_request_only(both: Both) -> None:
    caller = Patient()

    def leaves(request: PredictRequest, end: socket.socket) -> None:
        caller.leave()
        assert both.channel.buffer.cancelled(request.number)
        send(end, Cancelled(request.number))

    with pytest.raises(CallerGoneError):
        both.ask(leaves, caller)

    def next_one(request: PredictRequest, end: socket.socket) -> None:
        caller.leave()  # late, and again
        assert not both.channel.buffer.cancelled(request.number)
        send(end, response(request.number))

    assert both.ask(next_one).score == 1.0


def test_a_caller_that_leaves_when_the_memory_is_gone_harms_nobody(both: Both) -> None:
    caller = Patient()

    def worker(request: PredictRequest, end: socket.socket) -> None:
        both.channel.buffer.memory.close()
        caller.leave()
        send(end, response(request.number))

    assert both.ask(worker, caller).score == 1.0


def test_a_worker_is_busy_while_another_channel_has_a_request(both: Both) -> None:
    looked: list[tuple[bool, bool]] = []

    def worker(request: PredictRequest, end: socket.socket) -> None:
        looked.append((both.channel.worker_is_busy, both.other.worker_is_busy))
        send(end, response(request.number))

    both.ask(worker)
    assert looked == [(False, True)]
    assert not both.other.worker_is_busy


def test_waiting_for_a_model_to_load_ends(both: Both) -> None:
    with pytest.raises(TimeoutError):
        both.channel.wait_until_loaded(0.01)
    send(both.channel.theirs, Ready("x", True, "", "1"))
    assert both.channel.wait_until_loaded(5) == Ready("x", True, "", "1")
    both.channel.theirs.close()
    assert both.channel.wait_until_loaded(5) is None
