"""A worker process, seen from the agent: started, asked, ended."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from edge_agent.channel import MESSAGE_BYTES, Answer, DetectRequest, Ready, Refusal, receive_reply, send
from edge_agent.errors import InvalidRequestError, WorkerError
from edge_agent.settings import Settings

_END_S = 5


class WorkerGoneError(WorkerError):
    """The worker died, or was ended as it did not answer."""


class WorkerLink:
    """One worker with one loaded model. Not thread-safe: one caller at a time.

    Attributes:
        folder: of the bundle that it loaded.
        process: of the worker.
        exchange: descriptor of the memory that pictures and masks go through.
        runtime: what runs the model there.
        makes_masks: whether its answers come with masks.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        """Start a worker; `load` must follow.

        Raises:
            WorkerError: no process can be started.
        """
        self.folder, self._settings = folder, settings
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES)
        self.exchange, self._channel = os.memfd_create("linewatch-exchange"), ours
        command = [sys.executable, "-m", "edge_agent.worker", str(theirs.fileno()), str(self.exchange), str(folder),
                   settings.runtime, str(settings.threads), settings.trusted_keys, settings.measured]  # fmt: skip
        try:
            with theirs:
                self.process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(), self.exchange),
                    env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                )  # fmt: skip
        except OSError as error:
            ours.close()
            os.close(self.exchange)
            raise WorkerError(f"the worker process cannot be started: {error.strerror}") from error
        self.runtime, self.makes_masks = "", False

    def load(self) -> None:
        """Wait until the worker has loaded, checked and warmed its model.

        Raises:
            WorkerError: it refuses the model, died, or took too long. No process is left then.
        """
        try:
            self.runtime, self.makes_masks = self._wait_until_ready()
        except BaseException:
            self.end()
            raise
        self._channel.settimeout(self._settings.call_timeout_s)

    def _wait_until_ready(self) -> tuple[str, bool]:
        self._channel.settimeout(self._settings.start_timeout_s)
        try:
            reply = receive_reply(self._channel)
        except TimeoutError:
            self.process.kill()
            raise WorkerError(f"the model did not load within {self._settings.start_timeout_s} s") from None
        match reply:
            case Ready(runtime, makes_masks):
                return runtime, makes_masks
            case Refusal(message):
                raise WorkerError(message)
            case _:
                code = self.process.wait(self._settings.call_timeout_s)
                raise WorkerError(f"the worker process ended while loading ({exit_text(code)})")

    def ask(self, request: DetectRequest, descriptor: int | None, meanwhile: Callable[[], None]) -> Answer:
        """Send a request, do something else, and wait for the answer.

        Raises:
            InvalidRequestError: the picture was refused. WorkerError: judging it failed.
            WorkerGoneError: there is no worker any more.
        """
        reply = None
        reason = "died while it judged a picture"
        try:
            send(self._channel, request, descriptor)
            meanwhile()
            reply = receive_reply(self._channel)
        except TimeoutError:
            reason = f"did not answer within {self._settings.call_timeout_s} s"
            self.process.kill()
        except OSError:
            pass  # the worker is gone: told below
        match reply:
            case Answer():
                return reply
            case Refusal(message, invalid):
                raise InvalidRequestError(message) if invalid else WorkerError(message)
            case _:
                raise WorkerGoneError(reason)

    def end(self) -> None:
        """End the process and give its memory back."""
        self._channel.close()  # the worker ends when it reads this
        try:
            self.process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self.exchange)


def exit_text(code: int) -> str:
    """How a process ended, for people."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
