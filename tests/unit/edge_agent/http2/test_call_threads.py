"""The threads of a connection: one reads at a time, however many wait, fail to start, or are not to be had."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from linewatch.edge_agent.http2 import call_threads
from linewatch.edge_agent.http2.call_threads import CallThreads


class Connection:
    """Gives calls to handlers that wait, or do not; knows who reads, and who was told that all threads have ended."""

    def __init__(self, calls: list[bool], more: int) -> None:
        self.calls, self.more = calls, threading.BoundedSemaphore(more)
        self.threads = CallThreads(self.more, self.next_call, self.handle, self.end)
        self.over, self.release = threading.Event(), threading.Event()
        self.ends = self.reading = self.most_readers = 0
        self.handed_over: list[bool] = []
        self.handled: list[int] = []
        self._lock = threading.Lock()

    def next_call(self) -> Any:
        with self._lock:
            self.reading += 1
            self.most_readers = max(self.most_readers, self.reading)
        try:
            if not self.calls:
                self.over.wait(10)
                return None
            return SimpleNamespace(waits=self.calls.pop(0), reads=True)
        finally:
            with self._lock:
                self.reading -= 1

    def handle(self, call: Any) -> None:
        if call.waits:
            given = self.threads.hand_over_reading()
            self.handed_over.append(given)
            call.reads = not given
            if given:
                self.release.wait(10)
        self.handled.append(threading.get_ident())

    def end(self) -> None:
        self.ends += 1

    def run(self) -> None:
        first = threading.Thread(target=self.threads.run)
        first.start()
        deadline = threading.Event()
        for _ in range(1000):
            if not self.calls and self.reading:
                break
            deadline.wait(0.005)
        self.release.set()
        self.over.set()
        first.join(10)
        for _ in range(1000):
            if self.ends:
                return
            deadline.wait(0.005)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    for _ in range(200):
        if threading.active_count() <= before:
            return
        threading.Event().wait(0.01)
    raise AssertionError("threads are left")


def test_calls_that_do_not_wait_are_handled_by_the_thread_that_reads() -> None:
    connection = Connection([False] * 5, more=4)
    connection.run()
    assert len(set(connection.handled)) == 1
    assert connection.ends == 1


def test_others_read_on_while_calls_wait_and_one_at_a_time() -> None:
    connection = Connection([True, False, True, False], more=4)
    connection.run()
    assert connection.handed_over == [True, True]
    assert len(connection.handled) == 4
    assert connection.most_readers == 1
    assert connection.ends == 1
    assert all(connection.more.acquire(blocking=False) for _ in range(4)), "all places were given back"


def test_without_a_place_for_a_thread_the_call_goes_on_and_reading_waits() -> None:
    connection = Connection([True, True, True], more=1)
    connection.run()
    assert connection.handed_over == [True, False, False]
    assert len(connection.handled) == 3
    assert connection.ends == 1


def test_a_system_without_threads_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoThread:
        def __init__(self, **_: Any) -> None:
            pass

        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(call_threads, "threading", SimpleNamespace(Thread=NoThread, Lock=threading.Lock))
    connection = Connection([True, False], more=2)
    connection.run()
    assert connection.handed_over == [False]
    assert connection.ends == 1
    assert all(connection.more.acquire(blocking=False) for _ in range(2))
