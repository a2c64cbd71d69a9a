"""The one thread that all listeners share: it accepts, sends on what peers did not take at once, and ends what has taken too long."""

import contextlib
import select
import socket
import ssl
import threading
import time

import structlog

from linewatch.edge_agent.http2.application import Application
from linewatch.edge_agent.http2.limits import ServerLimits
from linewatch.edge_agent.http2.listener import Listener
from linewatch.edge_agent.http2.served import ServedConnection

log = structlog.get_logger()
_SWEEP_S = 0.5
_WAIT_S = 0.01


class EventLoop:
    """The thread."""

    def __init__(self, application: Application) -> None:
        """Serve nothing yet."""
        self._application = application
        self._epoll = select.epoll()
        self._listeners: dict[int, Listener] = {}
        self._paused: dict[Listener, float] = {}
        self._arriving = False
        self._lock = threading.Lock()
        self._blocked: dict[int, ServedConnection] = {}
        self._waker, self._woken = socket.socketpair()
        self._epoll.register(self._woken, select.EPOLLIN)
        self._accepting, self._ended, self._swept = True, False, time.monotonic()
        self._thread = threading.Thread(target=self._run, name="event-loop", daemon=True)

    def listen(self, listening: socket.socket, limits: ServerLimits, tls: ssl.SSLContext | None = None) -> None:
        """Serve connections to this socket, which is listened on already; before `start`."""
        self._listeners[listening.fileno()] = Listener(listening, limits, tls, self._application, self._when_writable)
        self._epoll.register(listening, select.EPOLLIN)

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()

    def _unblocked(self, number: int) -> ServedConnection | None:
        with self._lock:
            return self._blocked.pop(number, None)

    def _when_writable(self, served: ServedConnection) -> None:
        with self._lock:
            self._blocked[served.number] = served
        events = select.EPOLLOUT | select.EPOLLONESHOT
        try:
            self._epoll.register(served.number, events)
        except FileExistsError:
            self._epoll.modify(served.number, events)

    def _run(self) -> None:
        while not self._ended:
            try:
                self._run_once()
            except Exception:  # nobody else would accept
                time.sleep(_WAIT_S)
                with contextlib.suppress(Exception):
                    log.exception("fault of the event loop")
        self._close_listeners()
        for listener in self._listeners.values():
            listener.arrivals.close()
        for rest in (self._epoll, self._waker, self._woken):
            rest.close()

    def _run_once(self) -> None:
        for number, _ in self._epoll.poll(_WAIT_S if self._paused or self._arriving else _SWEEP_S):
            listener = self._listeners.get(number)
            if listener is not None:
                self._accept(listener)
            elif number == self._woken.fileno():
                self._woken.recv(16)
            elif (served := self._unblocked(number)) is not None:
                served.resume()
        now = time.monotonic()
        if not self._accepting:
            self._close_listeners()
        for listener in [listener for listener, until in self._paused.items() if until <= now]:
            del self._paused[listener]
            self._epoll.register(listener.socket, select.EPOLLIN)
        if self._arriving:
            for listener in self._listeners.values():
                listener.arrivals.admit()
            self._arriving = any(listener.arrivals.waiting for listener in self._listeners.values())
        if now - self._swept >= _SWEEP_S:
            self._swept = now
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        with self._lock:
            self._blocked = {number: served for number, served in self._blocked.items() if not served.closed}
        for listener in self._listeners.values():
            listener.sweep(now)

    def _accept(self, listener: Listener) -> None:
        if not listener.accept():
            self._paused[listener] = time.monotonic() + _WAIT_S
            self._epoll.unregister(listener.socket)
        self._arriving = self._arriving or listener.arrivals.waiting

    def _close_listeners(self) -> None:
        for listener in self._listeners.values():
            if listener.socket.fileno() >= 0:
                if self._paused.pop(listener, None) is None:
                    self._epoll.unregister(listener.socket)
                listener.socket.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it has ended
            self._waker.send(b".")

    def stop(self, grace_s: float) -> bool:
        """Take no more calls, wait for those that run, then close what is open. Returns whether all were answered."""
        self._accepting = False
        self._wake()
        deadline = time.monotonic() + grace_s
        listeners = list(self._listeners.values())
        for listener in listeners:
            listener.go_away()
        answered = [listener.stop(deadline) for listener in listeners]
        self._ended = True
        self._wake()
        if self._thread.ident is not None:
            self._thread.join(5)
        return all(answered)
