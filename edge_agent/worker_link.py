"""A worker process, seen from the agent: started, asked, ended."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from edge_agent.channel import Answer, DetectRequest, Exchange, Ready, Refusal, Withdrawn, channel_pair, receive_reply, send
from edge_agent.errors import CallerGoneError, InvalidRequestError, WorkerError
from edge_agent.settings import Settings
from edge_agent.turns import Caller

_END_S = 5
LANES = 2
"""To each worker: while it judges one picture the next one's request is there already, so that it never waits for the agent."""


class WorkerGoneError(WorkerError):
    """The worker died, or was ended as it did not answer.

    Attributes:
        begun: whether it had begun with this call, or nobody should wait for another.
    """

    def __init__(self, message: str, *, begun: bool) -> None:
        super().__init__(message)
        self.begun = begun


class WorkerOptions(msgspec.Struct, frozen=True):
    """What a worker is told when it is started; it is one argument of its command line, as JSON."""

    lanes: list[tuple[int, int]]
    folder: str
    runtime: str
    threads: int
    trusted_keys: str
    measured: str
    cpus: list[int]
    other_sizes: Literal["resize", "refuse"]
    confine: bool
    address_space_mib: int


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a call: bytes to be put into the exchange, or an open segment's descriptor and offset; neither is in the exchange."""

    width: int
    height: int
    data: bytes | memoryview | None
    descriptor: int | None = None
    offset: int = 0


class Lane:
    """What one call at a time goes through to a worker.

    Attributes:
        link: the worker.
        exchange: memory that pictures and masks go through.
    """

    def __init__(self, link: "WorkerLink") -> None:
        self.link, self.exchange = link, Exchange()
        self._channel, self.theirs = channel_pair()
        self._number, self._asked = 0, False

    @property
    def worker_is_busy(self) -> bool:
        """Whether the worker has a picture from another lane, and would begin with one from here later."""
        return any(lane._asked for lane in self.link.lanes if lane is not self)

    def wait(self, seconds: float) -> Answer | Ready | Refusal | Withdrawn | None:
        """The next reply; None when the worker is gone.

        Raises:
            TimeoutError: none came.
        """
        self._channel.settimeout(seconds)
        return receive_reply(self._channel)

    def ask(self, picture: Picture, caller: Caller, timeout_s: float, meanwhile: Callable[[], None]) -> Answer:
        """Send a request, do something else, and wait for the answer.

        Raises:
            InvalidRequestError: the picture was refused. WorkerError: judging it failed.
            CallerGoneError: the caller left before the worker began. WorkerGoneError: there is no worker any more.
        """
        self._number = number = self._number % 0xFFFFFFFF + 1
        if picture.data is not None:
            self.exchange.picture(len(picture.data))[:] = picture.data
        caller.when_gone(lambda: self._withdraw(number))
        reply, reason, late = None, "died while it judged a picture", False
        self._asked = True
        try:
            send(self._channel, DetectRequest(number, picture.width, picture.height, picture.offset), picture.descriptor)
            meanwhile()
            reply = self.wait(timeout_s)
        except TimeoutError:
            reason, late = f"did not answer within {timeout_s:g} s", True
            self.link.process.kill()
        except OSError:
            pass  # the worker is gone: told below
        finally:
            self._asked = False
        match reply:
            case Answer():
                return reply
            case Withdrawn():
                raise CallerGoneError("the caller left before its picture was judged")
            case Refusal(message, invalid):
                raise InvalidRequestError(message) if invalid else WorkerError(message)
            case _:
                raise WorkerGoneError(reason, begun=late or self.exchange.begun(number))

    def _withdraw(self, number: int) -> None:
        with contextlib.suppress(ValueError):  # closed by now
            self.exchange.withdraw(number)

    def hang_up(self) -> None:
        """The worker ends when it reads this on all its lanes."""
        self._channel.close()


class WorkerLink:
    """One worker with one loaded model.

    Attributes:
        folder: of the bundle that it loaded.
        process: of the worker.
        lanes: to it.
        runtime: what runs the model there.
        makes_masks: whether its answers come with masks.
        version: of the model.
        unconfined: why it kept what workers give up; empty when it did give it up.
    """

    def __init__(self, folder: Path, settings: Settings, cpus: list[int]) -> None:
        """Start a worker; `load` must follow.

        Raises:
            WorkerError: no process can be started.
        """
        self.folder, self._settings = folder, settings
        self.runtime, self.makes_masks, self.unconfined, self.version = "", False, "", ""
        self.lanes = [Lane(self) for _ in range(LANES)]
        options = WorkerOptions(
            [(lane.theirs.fileno(), lane.exchange.descriptor) for lane in self.lanes], str(folder), settings.runtime,
            settings.threads, settings.trusted_keys, settings.measured, cpus, settings.other_sizes, settings.confine,
            settings.worker_mib,
        )  # fmt: skip
        command = [sys.executable, "-m", "edge_agent.worker", msgspec.json.encode(options).decode()]
        user = settings.worker_user or None
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=[fd for lane in options.lanes for fd in lane],
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                user=user, group=_group_of(user) if user else None, extra_groups=[] if user else None,
            )  # fmt: skip
        except (OSError, KeyError, ValueError) as error:
            self._close()
            raise WorkerError(f"the worker process cannot be started: {error}") from error
        finally:
            for lane in self.lanes:
                lane.theirs.close()

    def load(self) -> None:
        """Wait until the worker has loaded, checked and warmed its model.

        Raises:
            WorkerError: it refuses the model, died, or took too long. No process is left then.
        """
        try:
            ready = self._wait_until_ready()
        except BaseException:
            self.end()
            raise
        self.runtime, self.makes_masks, self.unconfined, self.version = ready.runtime, ready.makes_masks, ready.unconfined, ready.version

    def _wait_until_ready(self) -> Ready:
        try:
            reply = self.lanes[0].wait(self._settings.start_timeout_s)
        except TimeoutError:
            self.process.kill()
            raise WorkerError(f"the model did not load within {self._settings.start_timeout_s} s") from None
        match reply:
            case Ready():
                return reply
            case Refusal(message):
                raise WorkerError(message)
            case _:
                code = self.process.wait(self._settings.call_timeout_s)
                raise WorkerError(f"the worker process ended while loading ({exit_text(code)})")

    def end(self) -> None:
        """End the process and give its memory back. Nobody uses its lanes any more."""
        for lane in self.lanes:
            lane.hang_up()
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._close()

    def _close(self) -> None:
        for lane in self.lanes:
            lane.hang_up()
            with contextlib.suppress(OSError, ValueError):
                lane.exchange.close()


def _group_of(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


def exit_text(code: int) -> str:
    """How a process ended, for people."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
