"""Who gets a worker next."""

import threading
import time
from dataclasses import dataclass, field

import pytest

from linewatch.edge_agent.errors import CallerGoneError, DeadlineError, ExhaustedError, WrongStateError
from linewatch.edge_agent.workers.channel_pool import ChannelPool
from tests.callers import Patient


@dataclass(eq=False)
class Channel:
    worker: object = field(default_factory=object)
    broken: bool = False


def opened(*channels: Channel, queue: int = 2, wait_s: float = 5) -> ChannelPool[Channel]:
    pool: ChannelPool[Channel] = ChannelPool("parts", queue, wait_s, lambda: WrongStateError("closed"))
    pool.open()
    pool.add(channels)
    return pool


def until(condition: object) -> None:
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.001)
    assert condition()  # type: ignore[operator]


def test_the_least_busy_worker_is_taken() -> None:
    one, other = object(), object()
    pool = opened(Channel(one), Channel(one), Channel(other), Channel(other))
    with pool.acquire(Patient()) as a, pool.acquire(Patient()) as b:
        assert {a.worker, b.worker} == {one, other}
        assert pool.busy == 2


def test_first_come_first_served() -> None:
    pool, order = opened(Channel()), []

    def call(number: int) -> None:
        with pool.acquire(Patient()):
            order.append(number)

    with pool.acquire(Patient()):
        threads = []
        for number in range(2):
            threads.append(threading.Thread(target=call, args=(number,)))
            threads[-1].start()
            until(lambda number=number: pool.waiting == number + 1)
        with pytest.raises(ExhaustedError, match="2 calls waiting"), pool.acquire(Patient()):
            pass
    for thread in threads:
        thread.join(5)
    assert order == [0, 1]


def test_callers_that_go_and_deadlines_that_pass_free_their_places() -> None:
    pool, errors = opened(Channel(), queue=1), []

    def call(caller: Patient) -> None:
        try:
            with pool.acquire(caller):
                pass
        except (CallerGoneError, DeadlineError) as error:
            errors.append(type(error))

    with pool.acquire(Patient()):
        going = Patient()
        thread = threading.Thread(target=call, args=(going,))
        thread.start()
        until(lambda: pool.waiting == 1)
        going.leave()
        thread.join(5)
        call(Patient(remaining=0.01))
        assert pool.waiting == 0
    assert errors == [CallerGoneError, DeadlineError]


def test_shut_tells_those_who_wait_and_those_who_come() -> None:
    channel = Channel()
    pool, errors = opened(channel), []

    def call() -> None:
        try:
            with pool.acquire(Patient()):
                pass
        except WrongStateError as error:
            errors.append(str(error))

    with pool.acquire(Patient()):
        thread = threading.Thread(target=call)
        thread.start()
        until(lambda: pool.waiting == 1)
        pool.close()
        thread.join(5)
        call()
    assert errors == ["closed", "closed"]


def test_lanes_that_were_withdrawn_are_used_to_their_call_s_end_and_no_more() -> None:
    old, new = Channel(), Channel()
    pool = opened(old)
    with pool.acquire(Patient()):
        pool.remove([old])
        assert not pool.wait_until_idle([old], 0.01)
        pool.add([new])
        with pool.acquire(Patient()) as channel:
            assert channel is new
    assert pool.wait_until_idle([old], 1)
    with pool.acquire(Patient()) as channel:
        assert channel is new


def test_a_caller_that_breaks_off_while_it_waits_takes_no_lane_along() -> None:
    pool = opened(Channel(), queue=1)

    class NoThread(Patient):
        def when_gone(self, callback: object) -> None:
            raise RuntimeError("can't start new thread")

    class NoThreadAndALane(Patient):
        def when_gone(self, callback: object) -> None:
            holding.__exit__(None, None, None)  # the channel comes at this moment
            raise RuntimeError("can't start new thread")

    holding = pool.acquire(Patient())
    holding.__enter__()
    with pytest.raises(RuntimeError), pool.acquire(NoThread()):
        pass
    assert pool.waiting == 0
    with pytest.raises(RuntimeError), pool.acquire(NoThreadAndALane()):
        pass
    assert (pool.waiting, pool.busy) == (0, 0)
    with pool.acquire(Patient(remaining=0)):
        assert pool.busy == 1


def test_a_broken_lane_is_not_offered_again() -> None:
    first, second = Channel(), Channel()
    pool = opened(first, second)
    with pool.acquire(Patient()) as channel:
        channel.broken = True
    for _ in range(3):
        with pool.acquire(Patient()) as other:
            assert other is not channel
