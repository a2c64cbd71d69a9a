"""Who gets a worker next."""

import threading
import time
from dataclasses import dataclass, field

import pytest

from linewatch.edge_agent.errors import CallerGoneError, DeadlineError, ExhaustedError, WrongStateError
from linewatch.edge_agent.workers.channel_pool import Turns
from tests.callers import Patient


@dataclass(eq=False)
class Lane:
    link: object = field(default_factory=object)
    broken: bool = False


def opened(*lanes: Lane, queue: int = 2, patience_s: float = 5) -> Turns[Lane]:
    turns: Turns[Lane] = Turns("parts", queue, patience_s, lambda: WrongStateError("closed"))
    turns.open()
    turns.offer(lanes)
    return turns


def until(condition: object) -> None:
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.001)
    assert condition()  # type: ignore[operator]


def test_the_least_busy_worker_is_taken() -> None:
    one, other = object(), object()
    turns = opened(Lane(one), Lane(one), Lane(other), Lane(other))
    with turns.turn(Patient()) as a, turns.turn(Patient()) as b:
        assert {a.link, b.link} == {one, other}
        assert turns.busy == 2


def test_first_come_first_served() -> None:
    turns, order = opened(Lane()), []

    def call(number: int) -> None:
        with turns.turn(Patient()):
            order.append(number)

    with turns.turn(Patient()):
        threads = []
        for number in range(2):
            threads.append(threading.Thread(target=call, args=(number,)))
            threads[-1].start()
            until(lambda number=number: turns.waiting == number + 1)
        with pytest.raises(ExhaustedError, match="2 calls waiting"), turns.turn(Patient()):
            pass
    for thread in threads:
        thread.join(5)
    assert order == [0, 1]


def test_callers_that_go_and_deadlines_that_pass_free_their_places() -> None:
    turns, errors = opened(Lane(), queue=1), []

    def call(caller: Patient) -> None:
        try:
            with turns.turn(caller):
                pass
        except (CallerGoneError, DeadlineError) as error:
            errors.append(type(error))

    with turns.turn(Patient()):
        going = Patient()
        thread = threading.Thread(target=call, args=(going,))
        thread.start()
        until(lambda: turns.waiting == 1)
        going.leave()
        thread.join(5)
        call(Patient(remaining=0.01))
        assert turns.waiting == 0
    assert errors == [CallerGoneError, DeadlineError]


def test_shut_tells_those_who_wait_and_those_who_come() -> None:
    lane = Lane()
    turns, errors = opened(lane), []

    def call() -> None:
        try:
            with turns.turn(Patient()):
                pass
        except WrongStateError as error:
            errors.append(str(error))

    with turns.turn(Patient()):
        thread = threading.Thread(target=call)
        thread.start()
        until(lambda: turns.waiting == 1)
        turns.shut()
        thread.join(5)
        call()
    assert errors == ["closed", "closed"]


def test_lanes_that_were_withdrawn_are_used_to_their_call_s_end_and_no_more() -> None:
    old, new = Lane(), Lane()
    turns = opened(old)
    with turns.turn(Patient()):
        turns.withdraw([old])
        assert not turns.wait_until_idle([old], 0.01)
        turns.offer([new])
        with turns.turn(Patient()) as lane:
            assert lane is new
    assert turns.wait_until_idle([old], 1)
    with turns.turn(Patient()) as lane:
        assert lane is new


def test_a_caller_that_breaks_off_while_it_waits_takes_no_lane_along() -> None:
    turns = opened(Lane(), queue=1)

    class NoThread(Patient):
        def when_gone(self, callback: object) -> None:
            raise RuntimeError("can't start new thread")

    class NoThreadAndALane(Patient):
        def when_gone(self, callback: object) -> None:
            holding.__exit__(None, None, None)  # the lane comes at this moment
            raise RuntimeError("can't start new thread")

    holding = turns.turn(Patient())
    holding.__enter__()
    with pytest.raises(RuntimeError), turns.turn(NoThread()):
        pass
    assert turns.waiting == 0
    with pytest.raises(RuntimeError), turns.turn(NoThreadAndALane()):
        pass
    assert (turns.waiting, turns.busy) == (0, 0)
    with turns.turn(Patient(remaining=0)):
        assert turns.busy == 1


def test_a_broken_lane_is_not_offered_again() -> None:
    first, second = Lane(), Lane()
    turns = opened(first, second)
    with turns.turn(Patient()) as lane:
        lane.broken = True
    for _ in range(3):
        with turns.turn(Patient()) as other:
            assert other is not lane
