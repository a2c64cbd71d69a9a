"""How a worker's process is started, loads, and is ended: with processes that do not start, say no, say nothing, or do not end."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from linewatch.edge_agent.errors import WorkerError
from linewatch.edge_agent.settings import Settings
from linewatch.edge_agent.workers import worker_link
from linewatch.edge_agent.workers.messages import ErrorReply, Ready, WorkerOptions, send
from linewatch.edge_agent.workers.worker_link import CHANNELS, WorkerLink, exit_text

OPEN = Path("/proc/self/fd")
Says = Callable[[socket.socket], None]


class Process:
    """In the place of a Popen: says something on its first channel, and ends when it is killed, or when it is asked to."""

    def __init__(self, options: WorkerOptions, says: Says, *, ends: bool, code: int = 0) -> None:
        self.pid, self.killed, self._ends, self._code = 10**8, 0, ends, code
        self._sockets = [socket.socket(fileno=os.dup(number)) for number, _ in options.channels]
        says(self._sockets[0])

    def kill(self) -> None:
        self.killed += 1
        self._code = -9
        self.gone()

    def gone(self) -> None:
        for one in self._sockets:
            one.close()

    def wait(self, timeout: float | None = None) -> int:
        if not self._ends and not self.killed:
            raise subprocess.TimeoutExpired("worker", timeout or 0)
        self.gone()
        return self._code


@pytest.fixture
def descriptors() -> Iterator[None]:
    """None are left open."""
    before = len(list(OPEN.iterdir()))
    yield
    assert len(list(OPEN.iterdir())) == before


def started(patch: pytest.MonkeyPatch, says: Says, *, ends: bool = True, code: int = 0, **changed: Any) -> WorkerLink:
    def start(command: list[str], **_: Any) -> Process:
        return Process(msgspec.json.decode(command[-1], type=WorkerOptions), says, ends=ends, code=code)

    patch.setattr(worker_link.subprocess, "Popen", start)
    return WorkerLink(Path("folder"), Settings(**changed), [1, 3])


def process_of(link: WorkerLink) -> Process:
    process: Any = link.process
    return process


def says(message: msgspec.Struct) -> Says:
    return lambda end: send(end, message)


@pytest.mark.usefixtures("descriptors")
def test_it_says_what_it_loaded_and_ends_when_its_channels_close(monkeypatch: pytest.MonkeyPatch) -> None:
    link = started(monkeypatch, says(Ready("tvm", True, "no seccomp", "7")))
    link.load()
    assert (link.runtime, link.makes_masks, link.unconfined, link.version) == ("tvm", True, "no seccomp", "7")
    assert len(link.channels) == CHANNELS
    link.end()
    assert not process_of(link).killed


@pytest.mark.usefixtures("descriptors")
def test_a_model_that_is_refused_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    link = started(monkeypatch, says(ErrorReply(0, "BundleError: not signed", "program")))
    with pytest.raises(WorkerError, match="BundleError: not signed"):
        link.load()


@pytest.mark.usefixtures("descriptors")
def test_one_that_says_nothing_in_time_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    link = started(monkeypatch, lambda _: None, ends=False, start_timeout_s=1)
    monkeypatch.setattr(link.channels[0], "wait_until_loaded", lambda _: (_ for _ in ()).throw(TimeoutError()))  # the clock runs fast
    with pytest.raises(WorkerError, match="did not load within 1 s"):
        link.load()
    assert process_of(link).killed


@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize(("code", "text"), [(-11, "killed by SIGSEGV"), (3, "exit code 3")])
def test_one_that_dies_while_it_loads_is_told_how(monkeypatch: pytest.MonkeyPatch, code: int, text: str) -> None:
    link = started(monkeypatch, lambda end: end.shutdown(socket.SHUT_RDWR), code=code)
    with pytest.raises(WorkerError, match=rf"ended while loading \({text}\)"):
        link.load()


@pytest.mark.usefixtures("descriptors")
@pytest.mark.parametrize("error", [OSError(11, "Resource temporarily unavailable"), KeyError("no such user"), ValueError("embedded null byte")])
def test_a_process_that_cannot_be_started_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(worker_link.subprocess, "Popen", fails)
    with pytest.raises(WorkerError, match="cannot be started"):
        WorkerLink(Path("folder"), Settings(), [])


@pytest.mark.usefixtures("descriptors")
def test_one_that_does_not_end_by_itself_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    link = started(monkeypatch, says(Ready("tvm", True, "", "1")), ends=False)
    link.load()
    link.end()
    assert process_of(link).killed == 1


@pytest.mark.usefixtures("descriptors")
def test_it_is_given_up_for_the_first_call_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    link = started(monkeypatch, says(Ready("tvm", True, "", "1")))
    link.load()
    link.abort(link.channels[1])
    link.abort(link.channels[0])
    link.abort()
    assert link.aborted_for is link.channels[1]
    assert all(channel.broken for channel in link.channels)
    link.end()


def test_how_a_process_ended_is_told() -> None:
    assert [exit_text(code) for code in (0, 2, -9)] == ["exit code 0", "exit code 2", "killed by SIGKILL"]
