"""From listening sockets to served connections, and a clean end."""

import selectors
import socket
import ssl
import threading
import time
from collections.abc import Mapping

import structlog

from edge_agent.http2.calls import Method
from edge_agent.http2.served import Budget, ServedConnection, ServerLimits
from edge_agent.http2.transport import TlsTransport, Transport, UnixTransport, set_timeouts

log = structlog.get_logger()
_FAREWELL_S = 1.0


class Server:
    """Serves methods on sockets that are listened on already."""

    def __init__(self, methods: Mapping[str, Method], limits: ServerLimits) -> None:
        self._methods, self.limits = methods, limits
        self.budget = Budget(limits.buffered_bytes)
        self._listening = selectors.DefaultSelector()
        self._served: set[ServedConnection] = set()
        self._open = 0
        self._changed = threading.Condition()
        self._stopping = False
        self._waker, self._woken = socket.socketpair()
        self._listening.register(self._woken, selectors.EVENT_READ)

    def listen(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accept from this socket; with TLS where a context is given."""
        listener.setblocking(False)
        self._listening.register(listener, selectors.EVENT_READ, (listener, tls))

    def start(self) -> None:
        """Begin to accept."""
        threading.Thread(target=self._accept, name="accept", daemon=True).start()

    def _accept(self) -> None:
        while not self._stopping:
            for key, _ in self._listening.select():
                if key.data is None:
                    break
                listener, tls = key.data
                try:
                    connection, _ = listener.accept()
                except OSError as error:  # out of descriptors, or the peer has left: others may come
                    log.warning("connection not accepted", reason=str(error))
                    time.sleep(0.05)
                    continue
                if not self._has_room():
                    log.warning("connection refused", reason=f"{self.limits.connections} connections are open")
                    connection.close()
                    continue
                threading.Thread(target=self._serve, args=(connection, tls), name="connection", daemon=True).start()
        for key in list(self._listening.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
        self._listening.close()
        self._waker.close()

    def _serve(self, connection: socket.socket, tls: ssl.SSLContext | None) -> None:
        transport: Transport
        try:
            connection.setblocking(True)
            set_timeouts(connection, self.limits.stall_s)
            if tls is None:
                transport = UnixTransport(connection)
            else:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                transport = TlsTransport(connection, tls)
        except OSError as error:
            log.warning("connection refused", reason=str(error))
            connection.close()
            self.gone(None)
            return
        served = ServedConnection(self, transport, self._methods)
        with self._changed:
            self._served.add(served)
        served.run()

    def _has_room(self) -> bool:
        with self._changed:
            if self._open >= self.limits.connections:
                return False
            self._open += 1
            return True

    def gone(self, served: "ServedConnection | None") -> None:
        """A connection is over; None for one that did not come about."""
        with self._changed:
            self._open -= 1
            if served is not None:
                self._served.discard(served)
            self._changed.notify_all()

    def idle(self) -> None:
        """A call was answered."""
        if self._stopping:
            with self._changed:
                self._changed.notify_all()

    def stop(self, grace_s: float) -> bool:
        """Take no more calls, wait for those that run, then close what is open. Returns whether all were answered."""
        if not self._stopping:
            self._stopping = True
            self._waker.send(b".")
        deadline = time.monotonic() + grace_s
        with self._changed:
            for served in list(self._served):
                served.leave()
            done = self._changed.wait_for(lambda: not any(s.busy for s in self._served), max(0.0, deadline - time.monotonic()))
            remaining = list(self._served)
        for served in remaining:
            served.drain()
        with self._changed:  # a peer that is still sending would take a closed connection for a broken one, and drop what it has not read
            self._changed.wait_for(lambda: not self._served, _FAREWELL_S)
            remaining = list(self._served)
        for served in remaining:
            served.close()
        return done
