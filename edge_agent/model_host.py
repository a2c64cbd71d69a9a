"""One installed model on this device: its state, its worker, and the calls that wait for it."""

import contextlib
import os
import sys
import threading
import time
from array import array
from pathlib import Path

import structlog

from edge_agent.channel import EXCHANGE_MASK_OFFSET, Answer, DetectRequest
from edge_agent.errors import ExhaustedError, InvalidRequestError, WorkerError, WrongStateError
from edge_agent.mask import CompactMask, overlap, paint, whiten
from edge_agent.settings import Settings
from edge_agent.shared_memory import Segment
from edge_agent.states import Event, State, StateMachine
from edge_agent.worker_link import WorkerGoneError, WorkerLink, exit_text

log = structlog.get_logger()
_MINUTE_S = 60.0


class ModelHost:
    """Starts and stops a worker and passes calls to it, one at a time, with a bounded queue."""

    def __init__(self, component: str, folder: Path, settings: Settings) -> None:
        self.component, self._folder, self._settings = component, folder, settings
        self._machine = StateMachine(component)
        self._turn = threading.Lock()
        self._replacing = threading.Lock()
        self._places = threading.BoundedSemaphore(settings.queue + 1)
        self._link: WorkerLink | None = None
        self._starting: WorkerLink | None = None
        self._crashes: list[float] = []
        self._settled = threading.Event()
        self._settled.set()
        self._loader: threading.Thread | None = None

    @property
    def status(self) -> tuple[State, str]:
        """State and status message."""
        return self._machine.current

    @property
    def folder(self) -> Path:
        """Of the bundle that is, or was last, loaded."""
        return self._folder

    @property
    def pid(self) -> int | None:
        """Of the worker, while there is one."""
        link = self._link
        return link.process.pid if link else None

    # --- life

    def start(self, folder: Path) -> State:
        """Begin loading from `folder`; returns STARTING.

        Raises:
            WrongStateError: not STOPPED or FAILED.
            ExhaustedError: too little free memory; the state does not change.
        """
        if self._machine.current[0] in (State.STOPPED, State.FAILED):
            self._require_memory("starting")
        state = self._machine.apply(Event.START)
        self._folder = folder
        self._begin_loading()
        return state

    def _begin_loading(self) -> None:
        self._loader = threading.Thread(target=self._load, name=f"load-{self.component}", daemon=True)
        self._loader.start()

    def _require_memory(self, what: str) -> None:
        free, needed = available_mib(), self._settings.free_mib
        if free is not None and free < needed:
            raise ExhaustedError(
                f"{what} model {self.component!r} needs {needed} MiB of free memory, {free} MiB are available; stop "
                "another model first, or lower the setting free_mib"
            )

    def _open(self, folder: Path) -> WorkerLink:
        self._starting = WorkerLink(folder, self._settings)
        try:
            self._starting.load()
            return self._starting
        finally:
            self._starting = None

    def _load(self) -> None:
        try:
            self._try_to_load()
        finally:
            self._settled.set()

    def _try_to_load(self) -> None:
        try:
            link = self._open(self._folder)
        # Whatever goes wrong becomes the model's status message: the agent itself must not die of a bad model.
        except Exception as error:
            log.error("model failed to start", model=self.component, reason=str(error))
            self._machine.apply(Event.CRASHED, str(error))
            return
        self._link = link
        self._machine.apply(Event.LOADED, f"running on {link.runtime}")
        log.info("model running", model=self.component, runtime=link.runtime, pid=link.process.pid)
        self._watch(link)

    def replace(self, folder: Path) -> bool:
        """Load another version beside the one that serves, and switch over between two calls; then the old one leaves.

        A version that is refused changes nothing but the status message: the old one goes on serving.

        Returns:
            Whether the new version serves now.
        """
        with self._replacing:
            if self._machine.current[0] is not State.RUNNING:
                return False
            try:
                self._require_memory("replacing")
                link = self._open(folder)
            except Exception as error:
                log.error("new version refused", model=self.component, folder=str(folder), reason=str(error))
                self._machine.note(f"the version before goes on serving; {folder} was refused: {error}")
                return False
            with self._turn:
                if self._machine.current[0] is not State.RUNNING:
                    old, serves = link, False
                else:
                    assert self._link is not None
                    old, self._link, self._folder, serves = self._link, link, folder, True
                    self._machine.note(f"running on {link.runtime}")
            if serves:
                log.info("new version running", model=self.component, folder=str(folder), runtime=link.runtime, pid=link.process.pid)
                self._watch(link)
            old.end()
            return serves

    def _watch(self, link: WorkerLink) -> None:
        """Notice when a worker dies between calls."""

        def wait() -> None:
            code = link.process.wait()
            with self._turn:
                if link is self._link and self._machine.current[0] is State.RUNNING:
                    self._crashed(f"the worker process ended ({exit_text(code)})")

        threading.Thread(target=wait, name=f"watch-{self.component}", daemon=True).start()

    def _crashed(self, reason: str) -> str:
        """What becomes of a model whose worker died, for people. Called with the turn held.

        It is started again, and calls wait for it, unless it died too often within a minute: then something is wrong
        that trying again does not mend, and it is FAILED.
        """
        self._end_worker()
        now = time.monotonic()
        self._crashes = [*(t for t in self._crashes if now - t < _MINUTE_S), now]
        again = len(self._crashes) <= self._settings.restarts
        outcome = "it is being started again" if again else "the model is FAILED; start it again"
        log.error("worker died", model=self.component, reason=reason, outcome=outcome)
        with contextlib.suppress(WrongStateError):
            self._machine.apply(Event.CRASHED, f"{reason}; {outcome}")
            if again:
                self._settled.clear()
                self._machine.apply(Event.START, f"{reason}; {outcome}")
                self._begin_loading()
        return outcome

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
        starting = self._starting
        if starting is not None:
            starting.process.kill()
        with contextlib.suppress(WrongStateError):
            self.stop()
            return
        if self._loader:
            self._loader.join(self._settings.call_timeout_s)

    def _end_worker(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.end()

    # --- calls

    def detect(self, width: int, height: int, picture: bytes | Segment, mask: Segment | None) -> tuple[Answer, bytes | None]:
        """Judge a picture; the mask comes back as bytes unless it went into the client's segment.

        Raises:
            WrongStateError: not RUNNING. ExhaustedError: the queue is full. InvalidRequestError: the picture was refused.
            WorkerError: the worker died or did not answer; see `_crashed` for what follows.
        """
        if self._settled.is_set():
            self._require_running()
        if not self._places.acquire(blocking=False):
            raise ExhaustedError(
                f"model {self.component!r} has {self._settings.queue} calls waiting; send fewer pictures at a time, or raise "
                "the setting queue"
            )
        try:
            with self._turn:
                self._settled.wait(self._settings.call_timeout_s)
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
        link, whitened = self._link, False
        assert link is not None

        def meanwhile() -> None:
            nonlocal whitened
            # A client may want the mask in the picture's own place: no white there before the picture was read.
            if mask is not None and link.makes_masks and not (isinstance(picture, Segment) and overlap(picture, mask)):
                with contextlib.suppress(OSError):  # painting will meet the same error, and tell the client
                    whiten(mask, height, width * 3)
                    whitened = True

        offset, descriptor = (0, None) if isinstance(picture, bytes) else (picture.offset, picture.descriptor)
        if isinstance(picture, bytes):
            _write_all(link.exchange, picture)
        try:
            answer = link.ask(DetectRequest(width, height, offset), descriptor, meanwhile)
        except WorkerGoneError as error:
            outcome = self._crashed(f"the worker process {error}")
            raise WorkerError(f"model {self.component!r}: the worker process {error}; {outcome}") from None
        if not answer.mask_rows:
            return answer, None
        compact = _read_mask(link.exchange, answer, width * 3)
        if mask is None:
            return answer, compact.to_bytes()
        try:
            paint(mask, compact, whitened=whitened)
        except OSError as error:
            raise InvalidRequestError(
                f"the mask cannot be written to the shared memory that was named for it: {error.strerror}"
            ) from error
        return answer, None

def _read_mask(exchange: int, answer: Answer, row_bytes: int) -> CompactMask:
    data = memoryview(os.pread(exchange, answer.mask_rows * row_bytes, EXCHANGE_MASK_OFFSET))
    rows = [data[i * row_bytes : (i + 1) * row_bytes] for i in range(answer.mask_rows)]
    index = array("H", answer.mask_index)
    if sys.byteorder == "big":
        index.byteswap()
    return CompactMask(rows, index.tolist())


def _write_all(descriptor: int, data: bytes) -> None:
    done = 0
    while done < len(data):
        done += os.pwrite(descriptor, memoryview(data)[done:], done)


def available_mib() -> int | None:
    """MemAvailable of this machine, in MiB."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) // 1024
    except OSError:
        pass
    return None
