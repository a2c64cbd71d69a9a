"""From the sockets that clients connect to, to gRPC's server, byte by byte, with what gRPC's server does not know or do.

It cannot say which user is at the other end of a Unix socket, and a caller's rights depend on that. So connections are accepted here:
the kernel tells the user, the way on starts from an address of its own, and gRPC tells that address with each call. Here is also where
connections are counted: those of each socket apart, and when there are too many the least useful one makes room, never the next to come.
"""

import contextlib
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from edge_agent.pace import Allowance, Pace

log = structlog.get_logger()
_UCRED = struct.Struct("3i")
_PIECE_BYTES = 128 * 1024
_SWEEP_S = 0.5
_A_SECOND = 100
"""Connections that are accepted, once as many have come as there may be."""
_WAIT_S = 1 / _A_SECOND
_FAREWELL_S = 1.0
_REST_S = 1.0
"""How long a connection that was used has been quiet before it makes room for another."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the peers of one socket may take together, and how long they may take.

    Attributes:
        connections: at a time.
        allowance: of work that a connection can make with what is not a picture; not looked at where TLS hides it.
        silent_s: seconds after which a peer has said something.
        stall_s: seconds after which a peer has read something, when there is something to read.
    """

    connections: int = 128
    allowance: Allowance = field(default_factory=Allowance)
    silent_s: float = 10
    stall_s: float = 30


@dataclass(eq=False)
class Peer:
    """Who is at the other end of a connection.

    Attributes:
        uid: of the process that connected, as the kernel says; None over TCP.
        address: as gRPC tells it with each call.
        calls: that are being handled.
        answered: whether a call of it was ever handled.
        received: bytes that came from it.
    """

    uid: int | None
    address: str
    calls: set[object] = field(default_factory=set)
    answered: bool = False
    received: int = 0

    @property
    def name(self) -> str:
        """For logs."""
        return "tcp" if self.uid is None else f"uid {self.uid}"


@dataclass(eq=False)
class Door:
    """A socket that is listened on, and where its connections go."""

    listener: socket.socket
    target: str
    limits: Limits
    open: "set[_Connection]" = field(default_factory=set)
    credit: float = 0.0
    at: float = 0.0

    def spend(self, now: float) -> bool:
        """Take note of a connection that came; returns whether the next one has to wait."""
        self.credit = min(self.limits.connections, self.credit + (now - self.at) * _A_SECOND) - 1
        self.at = now
        return self.credit < 1


class _End:
    """One of the two sockets of a connection, and what could not be sent there yet."""

    def __init__(self, connection: "_Connection", stream: socket.socket) -> None:
        self.connection, self.socket, self.number = connection, stream, stream.fileno()
        self.waiting, self.taken = b"", time.monotonic()
        self.ended, self.paused = False, False
        self.watched = 0

    @property
    def other(self) -> "_End":
        return self.connection.inner if self is self.connection.outer else self.connection.outer

    def wanted(self) -> int:
        """What to be told of: data, while there is room for it at the other end and its time has come; room, while something waits."""
        return (0 if self.ended or self.paused or self.other.waiting else select.EPOLLIN) | (select.EPOLLOUT if self.waiting else 0)


class _Connection:
    def __init__(self, door: Door, peer: Peer, outer: socket.socket, inner: socket.socket, now: float) -> None:
        self.door, self.peer = door, peer
        self.outer, self.inner = _End(self, outer), _End(self, inner)
        self.since, self.moved = now, now
        self.pace = Pace(door.limits.allowance, now) if peer.uid is not None else None


class Relay:
    """Accepts, and passes bytes on, in one thread."""

    def __init__(self, sweep: Callable[[], None]) -> None:
        """Accept nothing yet.

        Args:
            sweep: called now and then, for what else becomes old.
        """
        self._also_sweep = sweep
        self._epoll = select.epoll()
        self._doors: dict[int, Door] = {}
        self._ends: dict[int, _End] = {}
        self._paused: dict[_End | Door, float] = {}
        self._peers: dict[str, Peer] = {}
        self._piece = memoryview(bytearray(_PIECE_BYTES))
        self._waker, self._woken = socket.socketpair()
        self._epoll.register(self._woken, select.EPOLLIN)
        self._leaving, self._ended = False, 0.0
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def listen(self, listener: socket.socket, target: str, limits: Limits) -> None:
        """Pass connections to this socket on to the Unix socket at the path `target`; before `start`."""
        listener.setblocking(False)
        self._doors[listener.fileno()] = Door(listener, target, limits)
        self._epoll.register(listener, select.EPOLLIN)

    def start(self) -> None:
        """Begin to accept."""
        self._thread.start()

    def peer(self, address: str) -> Peer | None:
        """Whose connection gRPC knows by this address; None for one that did not come through here."""
        return self._peers.get(address)

    @property
    def leaving(self) -> bool:
        """Nobody else is let in."""
        return self._leaving

    def leave(self) -> None:
        """Accept no more; what is connected goes on."""
        if not self._leaving:
            self._leaving = True
            self._wake()

    def stop(self) -> None:
        """End all connections, when the server has ended its side of them and what it said has gone through, or after a second."""
        if not self._ended:
            self._ended = time.monotonic() + _FAREWELL_S
            self._wake()
            self._thread.join(5)

    def _wake(self) -> None:
        with contextlib.suppress(OSError):  # it has ended
            self._waker.send(b".")

    def _run(self) -> None:
        swept = time.monotonic()
        while not self._ended or (self._ends and time.monotonic() < self._ended):
            for number, events in self._epoll.poll(self._patience()):
                end = self._ends.get(number)
                if end is not None:
                    self._serve(end, events)
                elif number in self._doors:
                    self._accept(self._doors[number])
                elif number == self._woken.fileno():
                    self._woken.recv(16)
            if self._leaving:
                self._close_doors()
            now = time.monotonic()
            if self._paused:
                self._resume(now)
            if now - swept >= _SWEEP_S:
                swept = now
                self._sweep(now)
        self._close_doors()
        for end in list(self._ends.values()):
            self._close(end.connection)
        for rest in (self._epoll, self._waker, self._woken):
            rest.close()

    def _patience(self) -> float:
        if self._ended:
            return 0.01
        if not self._paused:
            return _SWEEP_S
        return max(0.0, min(_SWEEP_S, min(self._paused.values()) - time.monotonic()))

    def _resume(self, now: float) -> None:
        for waiting in [waiting for waiting, until in self._paused.items() if until <= now]:
            del self._paused[waiting]
            if isinstance(waiting, Door):
                self._epoll.register(waiting.listener, select.EPOLLIN)
            else:
                waiting.paused = False
                self._watch(waiting)

    def _close_doors(self) -> None:
        for door in self._doors.values():
            if self._paused.pop(door, None) is None:
                self._epoll.unregister(door.listener)
            door.listener.close()
        self._doors.clear()

    # --- connections

    def _accept(self, door: Door) -> None:
        try:
            outer, _ = door.listener.accept()
        except OSError as error:  # out of descriptors, or the peer has left: others may come
            if not isinstance(error, BlockingIOError):
                log.warning("connection not accepted", reason=str(error))
                time.sleep(0.01)
            return
        peer = Peer(_uid(outer), secrets.token_hex(12))
        now = time.monotonic()
        if door.spend(now):
            self._paused[door] = now + _WAIT_S
            self._epoll.unregister(door.listener)
        if len(door.open) >= door.limits.connections and not self._make_room(door):
            log.warning("connection refused", peer=peer.name, reason=f"{door.limits.connections} connections are in use")
            outer.close()
            return
        inner = socket.socket(socket.AF_UNIX)
        try:
            inner.setblocking(False)
            inner.bind(f"\0{peer.address}")  # the address by which gRPC will know it
            inner.connect(door.target)
        except OSError as error:
            log.warning("connection refused", peer=peer.name, reason=str(error))
            outer.close()
            inner.close()
            return
        if outer.family != socket.AF_UNIX:
            outer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = _Connection(door, peer, outer, inner, now)
        door.open.add(connection)
        self._peers[f"unix-abstract:{peer.address}"] = peer
        for end in (connection.outer, connection.inner):
            end.socket.setblocking(False)
            self._ends[end.number] = end
            self._watch(end)

    def _make_room(self, door: Door) -> bool:
        """End the connection that is missed least: of the user with most of them, first those that never had a call, then the quietest."""
        now = time.monotonic()
        users: dict[int | None, list[_Connection]] = {}
        for connection in door.open:
            users.setdefault(connection.peer.uid, []).append(connection)
        free = [c for c in max(users.values(), key=len) if not c.peer.calls and (not c.peer.answered or now - c.moved > _REST_S)]
        if not free:
            return False
        leaving = min(free, key=lambda c: (c.peer.answered, c.moved))
        log.warning("connection ended", peer=leaving.peer.name, reason=f"it was quiet, and {door.limits.connections} are open")
        self._close(leaving)
        return True

    def _sweep(self, now: float) -> None:
        self._also_sweep()
        for connection in {end.connection for end in self._ends.values()}:
            limits = connection.door.limits
            stuck = any(end.waiting and now - end.taken > limits.stall_s for end in (connection.outer, connection.inner))
            silent = not connection.peer.received and now - connection.since > limits.silent_s
            if stuck or silent:
                log.info("connection ended", peer=connection.peer.name, reason="the peer does not read" if stuck else "the peer says nothing")
                self._close(connection)

    def _close(self, connection: _Connection) -> None:
        if connection not in connection.door.open:
            return
        connection.door.open.discard(connection)
        self._peers.pop(f"unix-abstract:{connection.peer.address}", None)
        for end in (connection.outer, connection.inner):
            self._ends.pop(end.number, None)
            self._paused.pop(end, None)
            if end.watched:
                self._epoll.unregister(end.number)
            end.socket.close()

    # --- bytes

    def _serve(self, end: _End, events: int) -> None:
        try:
            if events & select.EPOLLOUT:
                self._send(end, end.waiting)
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                self._read(end)
            if end.connection in end.connection.door.open:
                self._watch(end)
                self._watch(end.other)
        except BlockingIOError:
            pass
        except OSError:
            self._close(end.connection)

    def _read(self, end: _End) -> None:
        if end.other.waiting:  # no room for more, told of in the same breath
            return
        connection = end.connection
        count = end.socket.recv_into(self._piece)
        if count:
            connection.moved = time.monotonic()
            if end is connection.outer:
                connection.peer.received += count
                wait = connection.pace.passed(self._piece[:count], connection.moved) if connection.pace else 0.0
                if wait:
                    end.paused, self._paused[end] = True, connection.moved + wait
            self._send(end.other, self._piece[:count])
        elif end is connection.inner:
            self._close(connection)
        else:  # the server will answer what it has, and end it
            end.ended = True
            end.other.socket.shutdown(socket.SHUT_WR)

    def _send(self, end: _End, data: bytes | memoryview) -> None:
        try:
            count = end.socket.send(data)
        except BlockingIOError:
            count = 0
        if count:
            end.taken = end.connection.moved = time.monotonic()
        end.waiting = bytes(data[count:]) if count < len(data) else b""

    def _watch(self, end: _End) -> None:
        wanted = end.wanted()
        if not end.watched and wanted:
            self._epoll.register(end.number, wanted)
        elif end.watched and not wanted:  # else the kernel would tell of its peer's end again and again
            self._epoll.unregister(end.number)
        elif wanted != end.watched:
            self._epoll.modify(end.number, wanted)
        end.watched = wanted


def _uid(connection: socket.socket) -> int | None:
    if connection.family != socket.AF_UNIX:
        return None
    with contextlib.suppress(OSError):
        _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return int(uid)
    return -1
