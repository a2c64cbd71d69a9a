"""A reply belongs to its request: whatever fails in between, no call gets another call's verdict, and none hangs."""

import contextlib
import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.edge_agent.errors import CallerGoneError, ExhaustedError, InvalidOutputError, WorkerError, WrongStateError
from linewatch.edge_agent.models import host as host_module
from linewatch.edge_agent.models.host import ModelHost
from linewatch.edge_agent.models.states import State
from linewatch.edge_agent.settings import Settings
from linewatch.edge_agent.workers import channel as channel_module
from linewatch.edge_agent.workers import worker_link
from linewatch.edge_agent.workers.caller import Caller
from linewatch.edge_agent.workers.channel import Picture, WorkerChannel
from linewatch.edge_agent.workers.prediction import PictureRequest, Prediction
from tests.callers import Patient
from tests.fake_workers import FAULTS, SIDE, FakeWorkers, mask_of, picture

_WAIT_S = 0.3
_IDENTITIES = itertools.count(1)
BROKEN_OFF: dict[str, Callable[[], BaseException]] = {
    "no thread": lambda: RuntimeError("can't start new thread"),
    "no memory": MemoryError,
    "an interrupt": KeyboardInterrupt,
    "an error of the system": lambda: OSError(5, "Input/output error"),
    "a time-out of its own": lambda: TimeoutError("of something else"),
    "a connection of its own": lambda: ConnectionResetError("of something else"),
}
PLACES = ("while it waits", "told who to tell", "before it is sent", "when it was sent", "meanwhile", "before the reply", "with the reply")
Injected = tuple[str, str]


class Saboteur:
    """Raises at one place in the call that this thread makes."""

    def __init__(self) -> None:
        self._mine = threading.local()
        self._send, self._receive = channel_module.send, channel_module.receive_reply

    def plan(self, injected: Injected | None) -> None:
        self._mine.injected = injected

    def at(self, place: str) -> None:
        injected = getattr(self._mine, "injected", None)
        if injected is not None and injected[0] == place:
            self._mine.injected = None
            error = BROKEN_OFF[injected[1]]()
            raise error

    def send(self, *arguments: Any) -> None:
        self.at("before it is sent")
        self._send(*arguments)
        self.at("when it was sent")

    def receive_reply(self, channel: Any) -> Any:
        self.at("before the reply")
        reply = self._receive(channel)
        self.at("with the reply")
        return reply


class SabotagedCaller(Patient):
    def __init__(self, saboteur: Saboteur) -> None:
        super().__init__()
        self._saboteur = saboteur

    def about_to_wait(self) -> None:
        pass

    def when_gone(self, callback: Callable[[], None]) -> None:
        self._saboteur.at("told who to tell")
        super().when_gone(callback)

    @property
    def remaining(self) -> float | None:
        self._saboteur.at("while it waits")
        return None

    @remaining.setter
    def remaining(self, _: float | None) -> None:
        pass

    def meanwhile(self) -> None:
        """Called between request and reply."""
        self._saboteur.at("meanwhile")


def asked_with_something_in_between(
    channel: WorkerChannel[Any], picture: Picture, caller: Caller, timeout_s: float, meanwhile: Callable[[], None], real: Any = WorkerChannel.ask
) -> Any:
    def both() -> None:
        if isinstance(caller, SabotagedCaller):
            caller.meanwhile()
        meanwhile()

    return real(channel, picture, caller, timeout_s, both)


class Device:
    """A model on fake workers."""

    def __init__(self, **changed: Any) -> None:
        self.saboteur, self.workers = Saboteur(), FakeWorkers()
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(worker_link.subprocess, "Popen", self.workers)
        self._patch.setattr(WorkerChannel, "ask", asked_with_something_in_between)
        self._patch.setattr(channel_module, "send", self.saboteur.send)
        self._patch.setattr(channel_module, "receive_reply", self.saboteur.receive_reply)
        chosen: dict[str, Any] = {"call_timeout_s": _WAIT_S, "restarts": 10**6, "queue": 64, "free_mib": 0, **changed}
        self.host = ModelHost("parts", Path("parts"), Settings(**chosen))
        self.host.start(Path("parts"))
        self.until(State.RUNNING)

    def until(self, state: State) -> None:
        deadline = time.monotonic() + 20
        while self.host.status[0] is not state and time.monotonic() < deadline:
            time.sleep(0.002)
        assert self.host.status[0] is state, self.host.status

    def call(self, fault: str = "none", injected: Injected | None = None, caller: Patient | None = None) -> Prediction:
        """One call; its verdict and mask are looked at here."""
        identity = next(_IDENTITIES)
        self.saboteur.plan(injected)
        prediction = self.host.predict(PictureRequest(SIDE, SIDE, picture(identity, fault)), caller or SabotagedCaller(self.saboteur))
        assert prediction.answer.score == identity, "the verdict of another picture"
        assert prediction.mask == mask_of(identity), "the mask of another picture"
        return prediction

    def close(self) -> None:
        self.host.shut_down()
        self._patch.undo()


@contextlib.contextmanager
def device(**changed: Any) -> Iterator[Device]:
    made = Device(**changed)
    try:
        yield made
    finally:
        made.close()


def until_answered(made: Device) -> None:
    """A worker may be on its way."""
    for _ in range(50):
        with contextlib.suppress(LinewatchError):
            made.call()
            return
    raise AssertionError("nothing is answered any more")


@pytest.mark.parametrize("kind", BROKEN_OFF)
@pytest.mark.parametrize("place", PLACES[1:])
def test_a_call_that_breaks_off_leaves_nothing_for_the_next_one(place: str, kind: str) -> None:
    with device() as made:
        made.call()
        if kind == "a connection of its own" and place in ("before it is sent", "when it was sent"):
            with contextlib.suppress(WorkerError):  # that is what a dead worker looks like: the next one answers, unless it had begun
                made.call(injected=(place, kind))
        else:
            with pytest.raises((type(BROKEN_OFF[kind]()), WorkerError)):
                made.call(injected=(place, kind))
        for _ in range(4):
            until_answered(made)


@pytest.mark.parametrize("fault", FAULTS[1:])
def test_a_worker_that_does_something_else_is_not_believed(fault: str) -> None:
    with device() as made:
        if fault in ("dies before it begins", "answers twice"):
            made.call(fault)  # by the next worker; by the first answer
        else:
            with pytest.raises(WorkerError):
                made.call(fault)
        if fault == "answers twice":
            with contextlib.suppress(WorkerError):  # on one of the two channels
                made.call()
            with contextlib.suppress(WorkerError):
                made.call()
        for _ in range(4):
            until_answered(made)


calls = st.lists(
    st.tuples(st.sampled_from(FAULTS), st.none() | st.tuples(st.sampled_from(PLACES), st.sampled_from(sorted(BROKEN_OFF))), st.booleans()),
    min_size=1, max_size=8,
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(calls, min_size=1, max_size=4), st.integers(1, 3))
def test_whatever_fails_no_call_gets_another_s_verdict(threads: list[list[tuple[str, Injected | None, bool]]], concurrency: int) -> None:
    """Calls from several threads, each with a fault of its worker, one of the agent, and a caller who leaves, as it comes."""
    wrong: list[BaseException] = []
    with device(concurrency=concurrency) as made:

        def run(planned: list[tuple[str, Injected | None, bool]]) -> None:
            for fault, injected, leaves in planned:
                caller = SabotagedCaller(made.saboteur)
                leaving = threading.Timer(random.Random(str(planned)).uniform(0, 0.01), caller.leave)
                if leaves:
                    leaving.start()
                try:
                    made.call(fault, injected, caller)
                except (LinewatchError, RuntimeError, MemoryError, KeyboardInterrupt, OSError):
                    pass  # its own error
                except BaseException as error:
                    wrong.append(error)
                leaving.cancel()

        running = [threading.Thread(target=run, args=(planned,), daemon=True) for planned in threads]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join(60)
            assert not thread.is_alive(), "a call hangs"
        assert wrong == []
        until_answered(made)
        assert made.host.running_calls == 0
        assert made.host.queue_length == 0


def test_a_call_goes_to_the_next_worker_when_its_own_was_ended_for_another_call() -> None:
    with device(call_timeout_s=2) as made:
        first, outcome = threading.Event(), []

        class Late(SabotagedCaller):
            def meanwhile(self) -> None:
                first.wait(5)
                raise RuntimeError("can't start new thread")

        def breaks_off() -> None:
            try:
                made.call(caller=Late(made.saboteur), fault="is silent")
            except WorkerError as error:
                outcome.append(str(error))

        thread = threading.Thread(target=breaks_off)
        thread.start()
        while not made.host.running_calls:
            time.sleep(0.001)
        other = threading.Thread(target=lambda: outcome.append(made.call().answer.score))
        other.start()
        while made.host.running_calls < 2:
            time.sleep(0.001)
        first.set()
        thread.join(20)
        other.join(20)
        assert len(outcome) == 2
        assert [o for o in outcome if isinstance(o, float)], "it was not its fault"
        assert "can't start new thread" in next(o for o in outcome if isinstance(o, str))


def test_a_caller_that_goes_late_cancels_no_other_call() -> None:
    with device() as made:
        callers = [Patient(), Patient()]
        for caller in callers:  # one on each channel
            made.call(caller=caller)

        class Meddling(SabotagedCaller):
            def meanwhile(self) -> None:
                for caller in callers:
                    caller.leave()

        for _ in range(4):
            made.call(caller=Meddling(made.saboteur))


def test_a_caller_that_left_gets_nothing_painted() -> None:
    with device() as made:

        class Leaving(SabotagedCaller):
            def meanwhile(self) -> None:
                self.gone = True  # and the worker has begun: it does not look again

        with pytest.raises(CallerGoneError):
            made.call(caller=Leaving(made.saboteur))


def test_numbers_are_never_given_twice_to_requests_of_any_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    with device(concurrency=2) as made:
        real = channel_module.send

        def noting(channel: Any, message: Any, descriptor: int | None = None) -> None:
            seen.append(message.number)
            real(channel, message, descriptor)

        monkeypatch.setattr(channel_module, "send", noting)
        for _ in range(12):
            made.call()
    assert len(set(seen)) == 12


def test_answers_that_are_none_count_against_the_model() -> None:
    with device(restarts=2) as made:
        for _ in range(2):
            with pytest.raises(InvalidOutputError, match=r"the score is nan; it goes on"):
                made.call("finds no finite score")
            made.call()
        assert "nan" in made.host.status[1]
        assert len(made.workers.told) == 1, "no worker died of it"
        with pytest.raises(InvalidOutputError, match=r"the model is FAILED"):
            made.call("finds no finite score")
        assert made.host.status[0] is State.FAILED
        with pytest.raises(WrongStateError, match="nan"):
            made.call()
        made.host.start(Path("parts"))
        made.until(State.RUNNING)
        made.call()


def test_a_worker_in_place_of_one_that_died_has_its_processors() -> None:
    with device(concurrency=2, cpus="0-3") as made:
        assert [o.cpus for o in made.workers.told] == [[0, 2], [1, 3]]
        [_, second] = made.host.workers
        second.process.kill()
        deadline = time.monotonic() + 10
        while len(made.host.workers) < 2 or second in made.host.workers:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        assert [o.cpus for o in made.workers.told] == [[0, 2], [1, 3], [1, 3]]


class NoThreads(threading.Thread):
    def start(self) -> None:
        raise RuntimeError("can't start new thread")


def no_threads(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(host_module, "threading", SimpleNamespace(Thread=NoThreads, RLock=threading.RLock, Lock=threading.Lock))


def test_without_threads_a_model_fails_and_says_so() -> None:
    with device() as made:
        made.call()
        with pytest.MonkeyPatch.context() as patch:
            no_threads(patch)
            with pytest.raises(WorkerError, match="FAILED"):
                made.call("dies in the middle")
            assert made.host.status[0] is State.FAILED
            with pytest.raises(ExhaustedError, match="thread"):
                made.host.start(Path("parts"))
            assert made.host.status[0] is State.FAILED
        made.host.start(Path("parts"))
        made.until(State.RUNNING)
        made.call()
