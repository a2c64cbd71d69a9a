"""A socket that is listened on, and the connections to it: each has a handshake, then threads of its own.

Connections of each socket are counted apart. When there are too many, the one that is missed least makes room, never the next to come.
"""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable

import structlog

from linewatch.edge_agent.http2.application import Application
from linewatch.edge_agent.http2.arrivals import Arrivals
from linewatch.edge_agent.http2.budget import Budget
from linewatch.edge_agent.http2.eviction import by_user, largest, least_missed, resting
from linewatch.edge_agent.http2.limits import ServerLimits
from linewatch.edge_agent.http2.rate_limit import RateLimit, TokenBucket, UserBucket
from linewatch.edge_agent.http2.served import ServedConnection
from linewatch.edge_agent.http2.transport import Peer, Plain, Tls, Transport, peer_of

log = structlog.get_logger()
_REMEMBERED = 1000
"""Users that what they may still do is known of."""
_LINGER_S = 1.0
_AT_FIRST = 0.1
"""Of its allowance, what a connection may spend at first: else who comes again and again would have it again and again."""


class Listener:
    """A socket that is listened on, and its connections.

    Attributes:
        limits: of all of them together.
        budget: of their messages.
        threads: that calls may take.
        arrivals: connections that wait to be begun with.
    """

    def __init__(
        self, listening: socket.socket, limits: ServerLimits, tls: ssl.SSLContext | None, application: Application,
        when_writable: Callable[[ServedConnection], None],
    ) -> None:  # fmt: skip
        """No connections yet.

        Args:
            listening: the socket, which is listened on already.
            limits: of all connections together.
            tls: of the handshake; None for none.
            application: what calls are for.
            when_writable: has a connection's `resume` called when the kernel takes more.
        """
        listening.setblocking(False)
        self.socket, self.limits, self._tls = listening, limits, tls
        self.budget = Budget(limits.held_bytes)
        self.threads = threading.BoundedSemaphore(limits.connections + limits.threads)
        self._users: dict[str, UserBucket] = {}
        self._application, self._when_writable = application, when_writable
        self.arrivals = Arrivals(self._begin)
        self._changed = threading.Condition()
        self._served: set[ServedConnection] = set()
        self._handshaking: dict[socket.socket, float] = {}
        self._stopping = False

    # --- of connections

    def when_writable(self, served: ServedConnection) -> None:
        """See `Owner`."""
        self._when_writable(served)

    def gone(self, served: ServedConnection) -> None:
        """See `Owner`."""
        with self._changed:
            self._served.discard(served)
            self._changed.notify_all()

    def idle(self) -> None:
        """See `Owner`."""
        if self._stopping:
            with self._changed:
                self._changed.notify_all()

    # --- of the event loop

    def accept(self) -> bool:
        """Take the next connection; returns False when there cannot be one for the moment."""
        try:
            connection, address = self.socket.accept()
        except BlockingIOError:
            return True
        except OSError as error:  # out of descriptors, or the peer has left: others may come
            log.warning("connection not accepted", reason=str(error))
            return False
        peer = peer_of(connection)
        self.arrivals.put(peer.name if peer.uid is not None else str(address[0]), connection, peer)
        return True

    def _begin(self, connection: socket.socket, peer: Peer) -> None:
        if self._make_room(peer.name):
            self._start(connection, peer)
        else:
            connection.close()
            log.warning("connection refused", peer=peer.name, reason=f"{self.limits.connections} connections are in use")

    def _start(self, connection: socket.socket, peer: Peer) -> None:
        connection.setblocking(True)
        if connection.family != socket.AF_UNIX:
            _keep_alive(connection, self.limits.stall_s)
        with self._changed:
            self._handshaking[connection] = time.monotonic()
        try:
            threading.Thread(target=self._serve, args=(connection, peer), name="connection", daemon=True).start()
        except RuntimeError as error:
            with self._changed:
                del self._handshaking[connection]
            connection.close()
            log.warning("connection refused", peer=peer.name, reason=str(error))

    def _serve(self, connection: socket.socket, peer: Peer) -> None:
        transport: Transport = Plain()
        served = None
        try:
            if self._tls is not None:
                secret = Tls(self._tls)
                peer, transport = secret.handshake(connection), secret
            now = time.monotonic()
            rate = RateLimit(TokenBucket(self.limits.allowance, now, filled=_AT_FIRST), self._bucket(peer.name, now))
            served = ServedConnection(self, connection, peer, transport, self._application, rate)
        except OSError as error:
            log.warning("connection refused", reason=str(error), peer=peer.name)
        finally:
            with self._changed:
                del self._handshaking[connection]
                if self._stopping:
                    served = None
                if served is not None:
                    self._served.add(served)
                self._changed.notify_all()
        if served is None:
            connection.close()
        else:
            served.run()

    def _bucket(self, user: str, now: float) -> UserBucket:
        with self._changed:
            if len(self._users) > _REMEMBERED:  # of those without connections nobody is asked
                connected = {one.peer.name for one in self._served}
                self._users = {name: bucket for name, bucket in self._users.items() if name in connected}
            return self._users.setdefault(user, UserBucket(self.limits.together, now))

    def _make_room(self, user: str) -> bool:
        """Where there are too many for one more of this user, end the connection that is missed least; returns whether there is room."""
        with self._changed:
            if len(self._served) + len(self._handshaking) < self.limits.connections:
                return True
            served = list(self._served)
            oldest = min(self._handshaking, key=lambda connection: self._handshaking[connection], default=None)
            handshakes = len(self._handshaking)
        users, now = by_user(served), time.monotonic()
        if oldest is not None and handshakes > len(resting(largest(users), now)):
            with contextlib.suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)
            return True
        leaving = least_missed(users, user, now)
        if leaving is None:
            return False
        log.warning("connection ended", peer=leaving.peer.name, reason=f"others are used more, and {self.limits.connections} are open")
        leaving.close()
        with self._changed:
            self._served.discard(leaving)
        return True

    def sweep(self, now: float) -> None:
        """End what has taken too long."""
        with self._changed:
            served = list(self._served)
            late = [connection for connection, since in self._handshaking.items() if now - since > self.limits.handshake_s]
        for connection in late:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for one in served:
            one.sweep(now)

    def go_away(self) -> None:
        """Take no more calls."""
        with self._changed:
            self._stopping = True
            served = list(self._served)
        for one in served:
            one.go_away()

    def stop(self, deadline: float) -> bool:
        """Wait for calls that run, then close what is open. Returns whether all were answered."""
        with self._changed:
            done = self._changed.wait_for(lambda: not any(one.busy for one in list(self._served)), max(0.0, deadline - time.monotonic()))
            served = list(self._served)
        for one in served:
            one.half_close()
        with self._changed:  # a peer that is still sending would take a closed connection for a broken one, and drop what it has not read
            self._changed.wait_for(lambda: not self._served, _LINGER_S)
            served = list(self._served)
        for one in served:
            one.close()
        return done


def _keep_alive(connection: socket.socket, seconds: float) -> None:
    """Over a network a peer may vanish without a word; then the kernel ends the connection."""
    for level, name, value in (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10), (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1e3)),
    ):  # fmt: skip
        connection.setsockopt(level, name, value)
