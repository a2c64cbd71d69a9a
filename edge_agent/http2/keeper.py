"""From listening sockets to served connections, and a clean end.

One thread, the keeper, accepts, sends on what peers did not take at once, and ends what has taken too long. Connections of each socket
are counted apart. When there are too many, the one that is missed least makes room, never the next to come.
"""

import contextlib
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable

import structlog

from linewatch.edge_agent.http2.budget import Budget
from linewatch.edge_agent.http2.limits import ServerLimits
from linewatch.edge_agent.http2.pace import Allowance, Pace, Pot, UserPot
from linewatch.edge_agent.http2.served import Application, ServedConnection
from linewatch.edge_agent.http2.transport import Peer, Plain, Seal, Tls, peer_of

log = structlog.get_logger()
_SWEEP_S = 0.5
_ARRIVALS = Allowance(a_second=100, at_once=200)
"""Connections of one user, or of one host, that are begun with."""
_WAITING = 128
"""Of one user, for their turn."""
_WAIT_S = 0.01
_REMEMBERED = 1000
"""Users and hosts that what they may still do is known of."""
_FAREWELL_S = 1.0
_REST_S = 1.0
"""How long ago a connection had a call before it makes room for another of its own user."""
_AT_FIRST = 0.1
"""Of its allowance, what a connection may spend at first: else who comes again and again would have it again and again."""


class Listener:
    """A socket that is listened on, and its connections.

    Attributes:
        limits: of all of them together.
        budget: of their messages.
        threads: that calls may take.
    """

    def __init__(
        self, listening: socket.socket, limits: ServerLimits, tls: ssl.SSLContext | None, when_writable: Callable[[ServedConnection], None]
    ) -> None:
        listening.setblocking(False)
        self.socket, self.limits, self._tls = listening, limits, tls
        self.budget = Budget(limits.held_bytes)
        self.threads = threading.BoundedSemaphore(limits.connections + limits.threads)
        self._users: dict[str, UserPot] = {}
        self._when_writable = when_writable
        self._changed = threading.Condition()
        self._served: set[ServedConnection] = set()
        self._shaking: dict[socket.socket, float] = {}
        self._arrivals: dict[str, Pot] = {}
        self._arriving: dict[str, deque[tuple[socket.socket, Peer]]] = {}
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

    # --- of the keeper

    def accept(self, application: Application) -> bool:
        """Take the next connection; returns False when there cannot be one for the moment."""
        try:
            connection, address = self.socket.accept()
        except BlockingIOError:
            return True
        except OSError as error:  # out of descriptors, or the peer has left: others may come
            log.warning("connection not accepted", reason=str(error))
            return False
        peer = peer_of(connection)
        who = peer.name if peer.uid is not None else str(address[0])
        queue = self._arriving.setdefault(who, deque())
        if len(queue) >= _WAITING:
            self._forget_gone(queue)
        if len(queue) >= _WAITING:
            connection.close()
            log.warning("connection refused", peer=peer.name, reason=f"{_WAITING} of this user wait for their turn")
        else:
            queue.append((connection, peer))
            self.admit(application)
        return True

    def admit(self, application: Application) -> None:
        """Begin with connections whose turn it is.

        Each user, or host, has an allowance of connections, so that one that makes very many keeps no other out.
        """
        now = time.monotonic()
        if len(self._arrivals) > _REMEMBERED:
            self._arrivals.clear()
        for who, queue in list(self._arriving.items()):
            pot = self._arrivals.setdefault(who, Pot(_ARRIVALS, now))
            pot.spend(0, now)
            while queue and not pot.wait:
                connection, peer = queue.popleft()
                if _has_left(connection):
                    connection.close()
                    continue
                pot.spend(1, now)
                self._begin(connection, peer, application)
            if not queue:
                del self._arriving[who]

    @staticmethod
    def _forget_gone(queue: deque[tuple[socket.socket, Peer]]) -> None:
        for connection, peer in list(queue):
            if _has_left(connection):
                queue.remove((connection, peer))
                connection.close()

    @property
    def arriving(self) -> bool:
        """Whether connections wait for their turn."""
        return bool(self._arriving)

    def _begin(self, connection: socket.socket, peer: Peer, application: Application) -> None:
        if self._make_room(peer.name):
            self._start(connection, peer, application)
        else:
            connection.close()
            log.warning("connection refused", peer=peer.name, reason=f"{self.limits.connections} connections are in use")

    def _start(self, connection: socket.socket, peer: Peer, application: Application) -> None:
        connection.setblocking(True)
        if connection.family != socket.AF_UNIX:
            _follow(connection, self.limits.stall_s)
        with self._changed:
            self._shaking[connection] = time.monotonic()
        try:
            threading.Thread(target=self._serve, args=(connection, peer, application), name="connection", daemon=True).start()
        except RuntimeError as error:
            with self._changed:
                del self._shaking[connection]
            connection.close()
            log.warning("connection refused", peer=peer.name, reason=str(error))

    def _serve(self, connection: socket.socket, peer: Peer, application: Application) -> None:
        seal: Seal = Plain()
        served = None
        try:
            if self._tls is not None:
                secret = Tls(self._tls)
                peer, seal = secret.shake_hands(connection), secret
            now = time.monotonic()
            pace = Pace(Pot(self.limits.allowance, now, filled=_AT_FIRST), self._pot(peer.name, now))
            served = ServedConnection(self, connection, peer, seal, application, pace)
        except OSError as error:
            log.warning("connection refused", reason=str(error), peer=peer.name)
        finally:
            with self._changed:
                del self._shaking[connection]
                if self._stopping:
                    served = None
                if served is not None:
                    self._served.add(served)
                self._changed.notify_all()
        if served is None:
            connection.close()
        else:
            served.run()

    def _pot(self, user: str, now: float) -> UserPot:
        with self._changed:
            if len(self._users) > _REMEMBERED:  # of those without connections nobody is asked
                connected = {one.peer.name for one in self._served}
                self._users = {name: pot for name, pot in self._users.items() if name in connected}
            return self._users.setdefault(user, UserPot(self.limits.together, now))

    def _make_room(self, user: str) -> bool:
        """Where there are too many for one more of this user, end the connection that is missed least.

        It is of the user with most of them: first those that never had a call, then the one whose last call is longest ago. No user keeps
        another out: with fewer than that one, it gets a place whatever is done on it.
        """
        with self._changed:
            if len(self._served) + len(self._shaking) < self.limits.connections:
                return True
            served = list(self._served)
            shaking = min(self._shaking, key=lambda connection: self._shaking[connection], default=None)
        users: dict[str, list[ServedConnection]] = {}
        for one in served:
            users.setdefault(one.peer.name, []).append(one)
        now = time.monotonic()
        largest = max(users.values(), key=len, default=[])
        free = [one for one in largest if not one.handles and (not one.answered or now - one.called_at > _REST_S)]
        if shaking is not None and len(self._shaking) > len(free):
            with contextlib.suppress(OSError):
                shaking.shutdown(socket.SHUT_RDWR)
            return True
        if not free and len(largest) > len(users.get(user, [])) + 1:
            free = largest
        if not free:
            return False
        leaving = min(free, key=lambda one: (one.handles, one.answered, one.called_at))
        log.warning("connection ended", peer=leaving.peer.name, reason=f"others are used more, and {self.limits.connections} are open")
        leaving.close()
        with self._changed:
            self._served.discard(leaving)
        return True

    def turn_away(self) -> None:
        """Close connections that wait for their turn."""
        for queue in self._arriving.values():
            for connection, _ in queue:
                connection.close()
        self._arriving.clear()

    def sweep(self, now: float) -> None:
        """End what has taken too long."""
        with self._changed:
            served = list(self._served)
            late = [connection for connection, since in self._shaking.items() if now - since > self.limits.handshake_s]
        for connection in late:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for one in served:
            one.sweep(now)

    def leave(self) -> None:
        """Take no more calls."""
        with self._changed:
            self._stopping = True
            served = list(self._served)
        for one in served:
            one.leave()

    def stop(self, deadline: float) -> bool:
        """Wait for calls that run, then close what is open. Returns whether all were answered."""
        with self._changed:
            done = self._changed.wait_for(lambda: not any(one.busy for one in list(self._served)), max(0.0, deadline - time.monotonic()))
            served = list(self._served)
        for one in served:
            one.drain()
        with self._changed:  # a peer that is still sending would take a closed connection for a broken one, and drop what it has not read
            self._changed.wait_for(lambda: not self._served, _FAREWELL_S)
            served = list(self._served)
        for one in served:
            one.close()
        return done


def _has_left(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return any(events & (select.POLLRDHUP | select.POLLHUP) for _, events in poll.poll(0))


def _follow(connection: socket.socket, seconds: float) -> None:
    """Over a network a peer may vanish without a word; then the kernel ends the connection."""
    for level, name, value in (
        (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10), (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2),
        (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(seconds * 1e3)),
    ):  # fmt: skip
        connection.setsockopt(level, name, value)


class Keeper:
    """The thread that all listeners share."""

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
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def listen(self, listening: socket.socket, limits: ServerLimits, tls: ssl.SSLContext | None = None) -> None:
        """Serve connections to this socket, which is listened on already; before `start`."""
        self._listeners[listening.fileno()] = Listener(listening, limits, tls, self._when_writable)
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
                self._turn()
            except Exception:  # nobody else would accept
                time.sleep(_WAIT_S)
                with contextlib.suppress(Exception):
                    log.exception("fault of the keeper")
        self._close_listeners()
        for listener in self._listeners.values():
            listener.turn_away()
        for rest in (self._epoll, self._waker, self._woken):
            rest.close()

    def _turn(self) -> None:
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
                listener.admit(self._application)
            self._arriving = any(listener.arriving for listener in self._listeners.values())
        if now - self._swept >= _SWEEP_S:
            self._swept = now
            self._sweep(now)

    def _sweep(self, now: float) -> None:
        with self._lock:
            self._blocked = {number: served for number, served in self._blocked.items() if not served.closed}
        for listener in self._listeners.values():
            listener.sweep(now)

    def _accept(self, listener: Listener) -> None:
        if not listener.accept(self._application):
            self._paused[listener] = time.monotonic() + _WAIT_S
            self._epoll.unregister(listener.socket)
        self._arriving = self._arriving or listener.arriving

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
            listener.leave()
        answered = [listener.stop(deadline) for listener in listeners]
        self._ended = True
        self._wake()
        if self._thread.ident is not None:
            self._thread.join(5)
        return all(answered)
