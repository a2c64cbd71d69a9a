"""One installed model on this device: its state, its workers, and the calls that wait for them."""

import contextlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from linewatch.edge_agent.errors import ExhaustedError, InvalidOutputError, WorkerError, WrongStateError
from linewatch.edge_agent.memory import available_mib
from linewatch.edge_agent.models.faults import RecentFaults
from linewatch.edge_agent.models.loading import Loader, log_running, running_on
from linewatch.edge_agent.models.states import Event, State, StateMachine
from linewatch.edge_agent.settings import Settings, cpu_shares
from linewatch.edge_agent.workers.caller import Caller
from linewatch.edge_agent.workers.channel import WorkerChannel, WorkerGoneError
from linewatch.edge_agent.workers.channel_pool import ChannelPool
from linewatch.edge_agent.workers.prediction import PictureRequest, Prediction, predict
from linewatch.edge_agent.workers.worker_link import WorkerLink, exit_text

log = structlog.get_logger()
_JOIN_S = 5.0
_FAILED = "the model is FAILED; start it again"


class ModelHost:
    """Starts and stops a model's workers and passes calls to them, with a bounded queue."""

    def __init__(self, component: str, folder: Path, settings: Settings) -> None:
        self.component, self._folder, self._settings = component, folder, settings
        self._machine = StateMachine(component)
        self._pool: ChannelPool[WorkerChannel[WorkerLink]] = ChannelPool(component, settings.queue, settings.call_timeout_s, self._not_running)
        self._changing = threading.RLock()
        self._replacing = threading.Lock()
        self._links: list[WorkerLink] = []
        self._loader = Loader()
        self._undrained: list[WorkerLink] = []
        self._faults = RecentFaults()
        self._crash_count = 0
        self._outcome = "it was being ended"
        self._used = time.monotonic()
        self._idle_stopped, self._closing = False, False
        self._threads: list[threading.Thread] = []

    def apply(self, settings: Settings) -> None:
        """Take other settings; workers that run keep theirs."""
        self._settings = settings
        self._pool.set_bounds(settings.queue, settings.call_timeout_s)

    @property
    def version(self) -> str:
        """Of the model that is, or was last, loaded."""
        links = self._links
        return links[0].version if links else ""

    @property
    def status(self) -> tuple[State, str]:
        """State and status message."""
        return self._machine.current

    @property
    def workers(self) -> list[WorkerLink]:
        """Those that serve now."""
        return list(self._links)

    @property
    def pid(self) -> int | None:
        """Of the first worker, while there is one."""
        links = self._links
        return links[0].process.pid if links else None

    @property
    def queue_length(self) -> int:
        """Calls that wait for a worker."""
        return self._pool.waiting

    @property
    def running_calls(self) -> int:
        """Calls that a worker has."""
        return self._pool.busy

    @property
    def crashes(self) -> int:
        """Workers that died since the agent was started."""
        return self._crash_count

    # --- life

    def start(self, folder: Path) -> State:
        """Begin loading from `folder`; returns STARTING.

        Raises:
            WrongStateError: not STOPPED or FAILED.
            ExhaustedError: too little free memory, and the state does not change; or too many threads, and the model is FAILED.
        """
        if self._machine.current[0] in (State.STOPPED, State.FAILED):
            self._require_memory("starting")
        with self._changing:
            state = self._machine.apply(Event.START)
            self._folder, self._idle_stopped = folder, False
        if not self._begin(self._load):
            message = "no thread can be started; raise the limit on threads (ulimit -u, or TasksMax), or stop other programs"
            self._machine.apply(Event.CRASHED, message)
            self._pool.close()
            raise ExhaustedError(f"model {self.component!r}: {message}")
        return state

    def _begin(self, work: Callable[..., object], *arguments: object) -> bool:
        """Do something in a thread of its own; returns whether there could be one."""
        thread = threading.Thread(target=work, args=arguments, name=self.component, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            log.error("no thread can be started", model=self.component, reason=str(error))
            return False
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        return True

    def _require_memory(self, what: str) -> None:
        free, needed = available_mib(), self._settings.free_mib
        if free is not None and free < needed:
            raise ExhaustedError(
                f"{what} model {self.component!r} needs {needed} MiB of free memory, {free} MiB are available; stop "
                "another model first, or lower the setting free_mib"
            )

    def _open_all(self, folder: Path) -> list[WorkerLink]:
        """As many workers as the setting `concurrency` says."""
        return self._loader.load(folder, self._settings, cpu_shares(self._settings.cpus, self._settings.concurrency))

    def _load(self) -> None:
        for link in self._undrained:
            link.end()
        self._undrained.clear()
        try:
            links = self._open_all(self._folder)
        # Whatever goes wrong becomes the model's status message: the agent itself must not die of a bad model.
        except Exception as error:
            log.error("model failed to start", model=self.component, reason=str(error))
            self._machine.apply(Event.CRASHED, str(error))
            self._pool.close()
            return
        with self._changing:
            if self._closing:
                for link in links:
                    link.end()
                return
            self._links, self._used = list(links), time.monotonic()
            self._machine.apply(Event.LOADED, running_on(links))
            self._pool.add(_channels(links))
            self._pool.open()
        log_running("model running", self.component, links)
        for link in links:
            self._begin(self._watch, link)

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
                links = self._open_all(folder)
            except Exception as error:
                log.error("new version refused", model=self.component, folder=str(folder), reason=str(error))
                self._machine.note(f"the version before goes on serving; {folder} was refused: {error}")
                return False
            with self._changing:
                serves = self._machine.current[0] is State.RUNNING
                if serves:
                    old, self._links, self._folder = self._links, list(links), folder
                    self._pool.remove(_channels(old))
                    self._pool.add(_channels(links))
                    self._machine.note(running_on(links))
                else:
                    old = links
            if serves:
                log_running("new version running", self.component, links)
                for link in links:
                    self._begin(self._watch, link)
            for link in old:
                self._drain(link)
            return serves

    def _watch(self, link: WorkerLink) -> None:
        """Notice when a worker dies between calls."""
        code = link.process.wait()
        self._crashed(link, f"the worker process ended ({exit_text(code)})")

    def _drain(self, link: WorkerLink) -> None:
        """End a worker that is not used for new calls, when its last one is answered."""
        if not self._pool.wait_until_idle(link.channels, self._settings.call_timeout_s):
            link.abort()  # whoever waits for it is told
            self._pool.wait_until_idle(link.channels, _JOIN_S)
        link.end()

    def _may_go_on(self) -> bool:
        """Count a fault: a worker's death, or an answer that is none. More than the setting `restarts` within a minute are too many."""
        return self._faults.add() <= self._settings.restarts

    def _crashed(self, link: WorkerLink, reason: str) -> str:
        """What becomes of a model of which a worker died, for people.

        It is started again, and calls wait for it, unless there were too many faults within a minute: then something is wrong
        that trying again does not mend, and the model is FAILED.
        """
        with self._changing:
            if link not in self._links or self._machine.current[0] is not State.RUNNING:
                return self._outcome  # whoever noticed first has decided
            self._links.remove(link)
            self._pool.remove(link.channels)
            self._crash_count += 1
            again = self._may_go_on()
            outcome = "it is being started again" if again else _FAILED
            if again and self._links:
                self._machine.note(f"{reason}; {outcome}")
                again = self._begin(self._replace_worker, link, self._links)
            elif again:
                self._links = []  # another list: those that stand in for the dead of this one are not wanted any more
                self._machine.apply(Event.CRASHED, f"{reason}; {outcome}")
                self._machine.apply(Event.START, f"{reason}; {outcome}")
                again = self._begin(self._start_again, link)
            if not again:
                outcome = _FAILED
                self._fail(Event.CRASHED, f"{reason}; {outcome}", link)
            self._outcome = outcome
            log.error("worker died", model=self.component, reason=reason, outcome=outcome)
            return outcome

    def _invalid_output(self, link: WorkerLink, reason: str) -> str:
        """What becomes of a model that gave no answer, for people: too many such faults within a minute, and it is FAILED."""
        with self._changing:
            if link not in self._links or self._machine.current[0] is not State.RUNNING:
                return self._outcome
            outcome = "it goes on" if self._may_go_on() else _FAILED
            self._outcome = outcome
            log.error("no answer can be made of what the model gave", model=self.component, reason=reason, outcome=outcome)
            if outcome is _FAILED:
                self._fail(Event.INVALID_OUTPUT, f"{reason}; {outcome}")
            else:
                self._machine.note(f"{reason}; {outcome}")
            return outcome

    def _fail(self, event: Event, message: str, *dead: WorkerLink) -> None:
        """Serve no more; callers that wait are told, and calls that workers have are answered."""
        self._machine.apply(event, message)
        links, self._links = self._links, []
        self._pool.remove(_channels(links))
        self._pool.close()
        for link in [*links, *dead]:
            if not self._begin(self._drain, link):
                link.abort()
                self._undrained.append(link)

    def _start_again(self, dead: WorkerLink) -> None:
        self._load()
        self._drain(dead)

    def _replace_worker(self, dead: WorkerLink, survivors: list[WorkerLink]) -> None:
        """In place of a worker that died while others serve, on its processors."""
        try:
            [link] = self._loader.load(self._folder, self._settings, [dead.cpus])
        except Exception as error:
            log.error("worker failed to start", model=self.component, reason=str(error))
            self._machine.note(f"running on fewer workers than concurrency says: {error}")
        else:
            with self._changing:
                serves = self._links is survivors  # not stopped, nor another version, meanwhile
                if serves:
                    self._links.append(link)
                    self._pool.add(link.channels)
                    self._machine.note(running_on(self._links))
            if serves:
                self._begin(self._watch, link)
            else:
                link.end()
        self._drain(dead)

    def stop(self, *, idle: bool = False) -> State:
        """Wait for the running calls, end the workers, and return when their memory is back: STOPPED.

        Args:
            idle: nobody called; the next call starts it again.

        Raises:
            WrongStateError: not RUNNING.
        """
        with self._changing:
            self._machine.apply(Event.STOP)
            links, self._links = self._links, []
            self._pool.remove(_channels(links))
            if not idle:
                self._pool.close()
        for link in links:
            self._drain(link)
        log.info("model stopped", model=self.component, idle=idle)
        with self._changing:
            self._idle_stopped = idle
            return self._machine.apply(Event.GONE, f"no call for {self._settings.idle_stop_s} s; the next one starts it" if idle else "")

    def stop_if_idle(self) -> None:
        """Stop when no call came for as long as the setting `idle_stop_s` says."""
        limit = self._settings.idle_stop_s
        if limit and self._machine.current[0] is State.RUNNING and not self._pool.busy and time.monotonic() - self._used > limit:
            with contextlib.suppress(WrongStateError):
                self.stop(idle=True)

    def shut_down(self) -> None:
        """End the workers whatever the state; for the end of the agent, when the time that running calls had is over."""
        self._closing = True
        for link in self._undrained:
            link.end()
        self._loader.stop()
        for link in list(self._links):
            if self._pool.uses(link.channels):
                link.process.kill()
        with contextlib.suppress(WrongStateError):
            self.stop()
        deadline = time.monotonic() + _JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    # --- calls

    def predict(self, request: PictureRequest, caller: Caller) -> Prediction:
        """Run the model on a picture, when a worker is free.

        A call that a worker had not begun with when it died goes to the next worker.

        Raises:
            WrongStateError: the model is not RUNNING.
            ExhaustedError: the queue is full.
            InvalidRequestError: the picture was refused.
            DeadlineError: no worker was free in time.
            CallerGoneError: the caller left, and nobody waits for the answer any more.
            WorkerError: the worker died or did not answer; see `_crashed` for what follows.
            InvalidOutputError: what the model gave is no answer; see `_invalid_output`.
        """
        begun = self._used = time.monotonic()
        if self._idle_stopped:
            with contextlib.suppress(WrongStateError):  # another call was faster
                self.start(self._folder)
        while True:
            try:
                with self._pool.acquire(caller) as channel:
                    waited = time.monotonic() - begun
                    try:
                        return predict(channel, caller, request, waited, self._settings.call_timeout_s)
                    except WorkerGoneError as error:
                        outcome = self._crashed(channel.worker, f"the worker process {error}")
                        if not error.begun:
                            continue
                        raise WorkerError(f"model {self.component!r}: the worker process {error}; {outcome}") from error.__cause__
                    except InvalidOutputError as error:
                        raise InvalidOutputError(f"model {self.component!r}: {error}; {self._invalid_output(channel.worker, str(error))}") from None
            finally:
                self._used = time.monotonic()

    def _not_running(self) -> WrongStateError:
        state, message = self._machine.current
        detail = f" ({message})" if message else ""
        return WrongStateError(f"model {self.component!r} is {state.name}{detail}; DetectAnomalies needs it to be RUNNING")


def _channels(links: list[WorkerLink]) -> list[WorkerChannel[WorkerLink]]:
    return [channel for link in links for channel in link.channels]
