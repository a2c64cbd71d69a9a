"""How requests arrive, and who makes room."""

import threading
import time

import pytest

from edge_agent.errors import CallerGoneError, ExhaustedError
from edge_agent.intake import LARGE_BYTES, Intake, IntakeLimits


class Stuck:
    """Requests of one connection that do not come whole, each in a thread of its own."""

    def __init__(self, intake: Intake) -> None:
        self.intake, self.errors = intake, []
        self.threads: list[threading.Thread] = []

    def add(self, count: int = 1) -> "Stuck":
        for _ in range(count):
            self.threads.append(threading.Thread(target=self._arrive))
            self.threads[-1].start()
            time.sleep(0.002)
        return self

    def _arrive(self) -> None:
        ended = threading.Event()
        try:
            ticket = self.intake.arrive(self, ended.set)
            assert ended.wait(10)
            self.intake.arrived(ticket)
        except (CallerGoneError, ExhaustedError) as error:
            self.errors.append(type(error))

    def end(self) -> None:
        """With limits of stall_s=0."""
        for _ in range(500):
            self.intake.end_stalled()
            if not any(thread.is_alive() for thread in self.threads):
                return
            time.sleep(0.01)
        raise AssertionError("they hold lanes for ever")


def test_a_request_takes_the_lane_of_one_that_does_not_come_whole() -> None:
    intake = Intake(IntakeLimits(lanes=2, waiting=10, patience_s=0.01, stall_s=0))
    stuck = Stuck(intake).add(8)
    intake.arrived(intake.arrive("other", lambda: None))
    stuck.end()
    assert set(stuck.errors) == {CallerGoneError}


def test_a_request_that_comes_at_a_good_pace_keeps_its_lane() -> None:
    intake = Intake(IntakeLimits(lanes=1, waiting=10, patience_s=0.01))
    begun, ended, taken = time.monotonic(), threading.Event(), threading.Event()
    large = intake.arrive("camera", ended.set, lambda: int((time.monotonic() - begun) * 2**20))

    def other() -> None:
        intake.arrived(intake.arrive("other", lambda: None))
        taken.set()

    waiting = threading.Thread(target=other)
    waiting.start()
    assert not ended.wait(1.3), "others are given a second at most"
    intake.arrived(large)
    assert taken.wait(5)
    waiting.join(5)


def test_of_too_many_that_wait_one_of_the_busiest_connection_is_refused() -> None:
    intake = Intake(IntakeLimits(lanes=1, waiting=3, patience_s=5, stall_s=0))
    first = Stuck(intake).add()
    done = threading.Event()

    def other() -> None:
        intake.arrived(intake.arrive("other", lambda: None))
        done.set()

    waiting = threading.Thread(target=other)
    waiting.start()
    many = Stuck(intake).add(5)
    assert many.errors == [ExhaustedError] * 3
    intake.end_stalled()
    assert done.wait(5), "whose connection has fewest goes first"
    waiting.join(5)
    first.end()
    many.end()


def test_bytes_are_counted_until_they_are_read() -> None:
    intake = Intake(IntakeLimits(held_bytes=10 * LARGE_BYTES))
    over, ended = [], []
    intake.hold(6 * LARGE_BYTES)
    with pytest.raises(ExhaustedError):
        intake.hold(5 * LARGE_BYTES)
    intake.release(6 * LARGE_BYTES)
    intake.leaving(20 * LARGE_BYTES, lambda: ended.append(True), over.append)
    with pytest.raises(ExhaustedError):
        intake.hold(2 * LARGE_BYTES)
    assert not ended, "it has a second to be read"
    over[0]()
    intake.hold(10 * LARGE_BYTES)
