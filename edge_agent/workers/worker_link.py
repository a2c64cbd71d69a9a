"""A worker process, seen from the agent: started, asked, ended."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.edge_agent.errors import CallerGoneError, InvalidRequestError, UnsoundModelError, WorkerError
from linewatch.edge_agent.settings import Settings
from linewatch.edge_agent.socket_pair import message_socket_pair
from linewatch.edge_agent.workers.channel_pool import Caller
from linewatch.edge_agent.workers.messages import (
    Answer,
    DetectRequest,
    Exchange,
    Loaded,
    Ready,
    Refusal,
    Reply,
    Withdrawn,
    WorkerOptions,
    receive_loaded,
    receive_reply,
    send,
)  # fmt: skip

_END_S = 5
_NUMBERS = itertools.count(1)
"""Of requests, for all lanes of this process together."""
_ERRORS: dict[str, type[LinewatchError]] = {"request": InvalidRequestError, "model": UnsoundModelError, "program": WorkerError}
LANES = 2
"""To each worker: while it judges one picture the next one's request is there already, so that it never waits for the agent."""


class WorkerGoneError(WorkerError):
    """The worker died, or was ended as it did not answer.

    Attributes:
        begun: whether this call may have been its end; a call that was not can go to another worker.
    """

    def __init__(self, message: str, *, begun: bool) -> None:
        super().__init__(message)
        self.begun = begun


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
        self._channel, self.theirs = message_socket_pair()
        self._number = 0  # of the request that the worker has; 0 when it has none from here

    @property
    def worker_is_busy(self) -> bool:
        """Whether the worker has a picture from another lane, and would begin with one from here later."""
        return any(lane._number for lane in self.link.lanes if lane is not self)

    @property
    def broken(self) -> bool:
        """Whether no call may go through here any more."""
        return self.link.broken

    def wait_until_loaded(self, seconds: float) -> Loaded | None:
        """What the worker says first; None when it is gone.

        Raises:
            TimeoutError: nothing came.
        """
        self._channel.settimeout(seconds)
        return receive_loaded(self._channel)

    def ask(self, picture: Picture, caller: Caller, timeout_s: float, meanwhile: Callable[[], None]) -> Answer:
        """Send a request, do something else, and wait for the answer.

        Raises:
            InvalidRequestError: the picture was refused. WorkerError: judging it failed.
            UnsoundModelError: what the model gave is no answer.
            CallerGoneError: the caller left before the worker began. WorkerGoneError: there is no worker any more.
        """
        number = next(_NUMBERS)
        if picture.data is not None:
            self.exchange.picture(len(picture.data))[:] = picture.data
        self._number = number
        try:
            caller.when_gone(lambda: self._withdraw(number))
            reply = self._converse(DetectRequest(number, picture.width, picture.height, picture.offset), picture.descriptor, timeout_s, meanwhile)
        finally:
            self._number = 0
        match reply:
            case Answer():
                return reply
            case Withdrawn():
                raise CallerGoneError("the caller left before its picture was judged")
            case Refusal(_, message, fault):
                raise _ERRORS[fault](message)

    def _converse(self, request: DetectRequest, descriptor: int | None, timeout_s: float, meanwhile: Callable[[], None]) -> Reply:
        """The reply to this request, and to no other: whatever goes wrong in between ends the worker, as its reply would wait for the next call."""
        reply = None
        try:
            if self._send(request, descriptor):
                meanwhile()
                self._channel.settimeout(timeout_s)
                reply = receive_reply(self._channel)
            if reply is not None and reply.number != request.number:
                raise WorkerError(f"reply {reply.number} came to request {request.number}")
        except BaseException as error:
            self.link.give_up(self)
            if not isinstance(error, Exception):
                raise
            late = isinstance(error, TimeoutError)
            reason = f"did not answer within {timeout_s:g} s" if late else f"was ended, as a call to it broke off ({type(error).__name__}: {error})"
            raise WorkerGoneError(reason, begun=True) from error
        if reply is None:
            self.link.give_up()
            begun = self.exchange.begun(request.number) and self.link.given_up_by in (None, self)
            raise WorkerGoneError("died while it judged a picture", begun=begun)
        return reply

    def _send(self, request: DetectRequest, descriptor: int | None) -> bool:
        try:
            send(self._channel, request, descriptor)
        except ConnectionError:
            return False
        return True

    def _withdraw(self, number: int) -> None:
        """A caller may go at any time, and its lane may have another's call by then."""
        if number == self._number:
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
        cpus: processors that it may use; empty means any.
        broken: whether it is gone, or was ended; nothing goes through its lanes any more.
        given_up_by: the lane for whose call's sake it was ended.
    """

    def __init__(self, folder: Path, settings: Settings, cpus: list[int]) -> None:
        """Start a worker; `load` must follow.

        Raises:
            WorkerError: no process can be started.
        """
        self.folder, self.cpus, self._settings = folder, cpus, settings
        self.broken = False
        self.given_up_by: Lane | None = None
        self.runtime, self.makes_masks, self.unconfined, self.version = "", False, "", ""
        self.lanes = [Lane(self) for _ in range(LANES)]
        options = WorkerOptions(
            [(lane.theirs.fileno(), lane.exchange.descriptor) for lane in self.lanes], str(folder), settings.runtime,
            settings.threads, settings.trusted_keys, settings.measured, cpus, settings.other_sizes, settings.confine,
            settings.worker_mib,
        )  # fmt: skip
        command = [sys.executable, "-P", "-m", "linewatch.edge_agent.workers.worker", msgspec.json.encode(options).decode()]
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
            reply = self.lanes[0].wait_until_loaded(self._settings.start_timeout_s)
        except TimeoutError:
            self.process.kill()
            raise WorkerError(f"the model did not load within {self._settings.start_timeout_s} s") from None
        match reply:
            case Ready():
                return reply
            case Refusal(_, message):
                raise WorkerError(message)
            case _:
                code = self.process.wait(self._settings.call_timeout_s)
                raise WorkerError(f"the worker process ended while loading ({exit_text(code)})")

    def give_up(self, lane: Lane | None = None) -> None:
        """End the process, whatever its lanes have; see `given_up_by`."""
        self.broken, self.given_up_by = True, self.given_up_by or lane
        self.process.kill()

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
            lane.exchange.close()


def _group_of(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


def exit_text(code: int) -> str:
    """How a process ended, for people."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
