"""One installed model on this device: its state, its worker process, and the calls that wait for it."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable
from pathlib import Path

import structlog

from edge_agent.channel import (
    EXCHANGE_MASK_OFFSET,
    MESSAGE_BYTES,
    Answer,
    DetectRequest,
    Ready,
    Refusal,
    receive_reply,
    send,
)  # fmt: skip
from edge_agent.errors import ExhaustedError, InvalidRequestError, WorkerError, WrongStateError
from edge_agent.mask import CompactMask, overlap, paint, whiten
from edge_agent.settings import Settings
from edge_agent.shared_memory import Segment
from edge_agent.states import Event, State, StateMachine

log = structlog.get_logger()


class ModelHost:
    """Starts and stops a worker and passes calls to it, one at a time, with a bounded queue."""

    def __init__(self, component: str, folder: Path, settings: Settings) -> None:
        self.component, self._folder, self._settings = component, folder, settings
        self._machine = StateMachine(component)
        self._turn = threading.Lock()
        self._places = threading.BoundedSemaphore(settings.queue + 1)
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._exchange = -1
        self._makes_masks = False
        self._loader: threading.Thread | None = None

    @property
    def status(self) -> tuple[State, str]:
        """State and status message."""
        return self._machine.current

    @property
    def pid(self) -> int | None:
        """Of the worker, while there is one."""
        return self._process.pid if self._process else None

    # --- life

    def start(self, folder: Path) -> State:
        """Begin loading from `folder`; returns STARTING.

        Raises:
            WrongStateError: not STOPPED or FAILED.
            ExhaustedError: too little free memory; the state does not change.
        """
        state, _ = self._machine.current
        free, needed = available_mib(), self._settings.free_mib
        if state in (State.STOPPED, State.FAILED) and free is not None and free < needed:
            raise ExhaustedError(
                f"starting model {self.component!r} needs {needed} MiB of free memory, {free} MiB are available; stop "
                "another model first, or lower the setting free_mib"
            )
        state = self._machine.apply(Event.START)
        self._folder = folder
        self._loader = threading.Thread(target=self._load, name=f"load-{self.component}", daemon=True)
        self._loader.start()
        return state

    def _load(self) -> None:
        try:
            runtime = self._spawn()
        # Whatever goes wrong becomes the model's status message: the agent itself must not die of a bad model.
        except Exception as error:
            self._end_worker()
            log.error("model failed to start", model=self.component, reason=str(error))
            self._machine.apply(Event.CRASHED, str(error))
            return
        self._machine.apply(Event.LOADED, f"running on {runtime}")
        log.info("model running", model=self.component, runtime=runtime, pid=self.pid)
        process = self._process
        assert process is not None
        threading.Thread(target=self._watch, args=(process,), name=f"watch-{self.component}", daemon=True).start()

    def _spawn(self) -> str:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MESSAGE_BYTES)
        self._exchange = os.memfd_create("linewatch-exchange")
        command = [sys.executable, "-m", "edge_agent.worker", str(theirs.fileno()), str(self._exchange),
                   str(self._folder), self._settings.runtime, str(self._settings.threads), self._settings.trusted_keys,
                   self._settings.measured]  # fmt: skip
        with theirs:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(), self._exchange),
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )  # fmt: skip
        self._channel = ours
        ours.settimeout(self._settings.start_timeout_s)
        try:
            reply = receive_reply(ours)
        except TimeoutError:
            raise WorkerError(f"the model did not load within {self._settings.start_timeout_s} s") from None
        match reply:
            case Ready(runtime, makes_masks):
                self._makes_masks = makes_masks
                ours.settimeout(self._settings.call_timeout_s)
                return runtime
            case Refusal(message):
                raise WorkerError(message)
            case _:
                code = self._process.wait(self._settings.call_timeout_s)
                raise WorkerError(f"the worker process ended while loading ({_exit_text(code)})")

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Notice when a worker dies between calls."""
        code = process.wait()
        with self._turn:
            if process is self._process and self._machine.current[0] is State.RUNNING:
                self._crashed(f"the worker process ended ({_exit_text(code)}); start the model again")

    def _crashed(self, reason: str) -> None:
        """Called with the turn held."""
        self._end_worker()
        log.error("model failed", model=self.component, reason=reason)
        with contextlib.suppress(WrongStateError):
            self._machine.apply(Event.CRASHED, reason)

    def stop(self) -> State:
        """Wait for the running call, end the worker, and return when its memory is back: STOPPED.

        Raises:
            WrongStateError: not RUNNING.
        """
        self._machine.apply(Event.STOP)
        with self._turn:
            self._end_worker()
            log.info("model stopped", model=self.component)
            return self._machine.apply(Event.GONE)

    def shut_down(self) -> None:
        """End the worker whatever the state; for the end of the agent."""
        with contextlib.suppress(WrongStateError):
            self.stop()
            return
        process = self._process
        if process and process.poll() is None:
            process.kill()
        if self._loader:
            self._loader.join(self._settings.call_timeout_s)

    def _end_worker(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        process, self._process = self._process, None
        if process is not None:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._exchange >= 0:
            os.close(self._exchange)
            self._exchange = -1

    # --- calls

    def detect(self, width: int, height: int, picture: bytes | Segment, mask: Segment | None) -> tuple[Answer, bytes | None]:
        """Judge a picture; the mask comes back as bytes unless it went into the client's segment.

        Raises:
            WrongStateError: not RUNNING. ExhaustedError: the queue is full. InvalidRequestError: the picture was refused.
            WorkerError: the worker died or did not answer; the model is FAILED then.
        """
        self._require_running()
        if not self._places.acquire(blocking=False):
            raise ExhaustedError(
                f"model {self.component!r} has {self._settings.queue} calls waiting; send fewer pictures at a time, or raise "
                "the setting queue"
            )
        try:
            with self._turn:
                self._require_running()
                return self._call(width, height, picture, mask)
        finally:
            self._places.release()

    def _require_running(self) -> None:
        state, message = self._machine.current
        if state is not State.RUNNING:
            detail = f" ({message})" if message else ""
            raise WrongStateError(
                f"model {self.component!r} is {state.name}{detail}; DetectAnomalies needs it to be RUNNING"
            )

    def _call(self, width: int, height: int, picture: bytes | Segment, mask: Segment | None) -> tuple[Answer, bytes | None]:
        whitened = False

        def meanwhile() -> None:
            nonlocal whitened
            # A client may want the mask in the picture's own place: no white there before the picture was read.
            if mask is not None and self._makes_masks and not (isinstance(picture, Segment) and overlap(picture, mask)):
                with contextlib.suppress(OSError):  # painting will meet the same error, and tell the client
                    whiten(mask, height, width * 3)
                    whitened = True

        if isinstance(picture, bytes):
            _write_all(self._exchange, picture)
            answer = self._ask(DetectRequest(width, height, 0), None, meanwhile)
        else:
            answer = self._ask(DetectRequest(width, height, picture.offset), picture.descriptor, meanwhile)
        if not answer.mask_rows:
            return answer, None
        compact = self._read_mask(answer, width * 3)
        if mask is None:
            return answer, compact.to_bytes()
        try:
            paint(mask, compact, whitened=whitened)
        except OSError as error:
            raise InvalidRequestError(
                f"the mask cannot be written to the shared memory that was named for it: {error.strerror}"
            ) from error
        return answer, None

    def _ask(self, request: DetectRequest, descriptor: int | None, meanwhile: Callable[[], None]) -> Answer:
        """Send a request to the worker, do something else, and wait for the answer."""
        assert self._channel is not None
        reply = None
        reason = "died while it judged a picture"
        try:
            send(self._channel, request, descriptor)
            meanwhile()
            reply = receive_reply(self._channel)
        except TimeoutError:
            reason = f"did not answer within {self._settings.call_timeout_s} s"
            if self._process:
                self._process.kill()
        except OSError:
            pass  # the worker is gone: told below
        match reply:
            case Answer():
                return reply
            case Refusal(message, invalid):
                raise InvalidRequestError(message) if invalid else WorkerError(message)
            case _:
                self._crashed(f"the worker process {reason}")
                raise WorkerError(
                    f"model {self.component!r}: the worker process {reason}; the model is FAILED, start it again"
                )

    def _read_mask(self, answer: Answer, row_bytes: int) -> CompactMask:
        data = memoryview(os.pread(self._exchange, answer.mask_rows * row_bytes, EXCHANGE_MASK_OFFSET))
        rows = [data[i * row_bytes : (i + 1) * row_bytes] for i in range(answer.mask_rows)]
        index = array("H", answer.mask_index)
        if sys.byteorder == "big":
            index.byteswap()
        return CompactMask(rows, index.tolist())


def _write_all(descriptor: int, data: bytes) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, memoryview(data)[done:], done)


def _exit_text(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"


def available_mib() -> int | None:
    """MemAvailable of this machine, in MiB."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) // 1024
    except OSError:
        pass
    return None
