"""Connections that were accepted and wait to be begun with, so that a user, or host, that makes very many keeps no other out."""

import select
import socket
import time
from collections import deque
from collections.abc import Callable

import structlog

from linewatch.edge_agent.http2.rate_limit import Allowance, TokenBucket
from linewatch.edge_agent.http2.transport import Peer

log = structlog.get_logger()
_ALLOWANCE = Allowance(per_second=100, burst=200)
"""Connections of one user, or of one host, that are begun with."""
_WAITING = 128
"""Of one user, at most."""
_REMEMBERED = 1000
"""Users and hosts that what they may still do is known of."""


class Arrivals:
    """A queue for each user or host, and its allowance. Not thread-safe."""

    def __init__(self, begin: Callable[[socket.socket, Peer], None], clock: Callable[[], float] = time.monotonic) -> None:
        """Nobody waits yet.

        Args:
            begin: takes a connection over.
            clock: seconds.
        """
        self._begin, self._clock = begin, clock
        self._buckets: dict[str, TokenBucket] = {}
        self._queues: dict[str, deque[tuple[socket.socket, Peer]]] = {}

    @property
    def waiting(self) -> bool:
        """Whether any connection waits."""
        return bool(self._queues)

    def put(self, who: str, connection: socket.socket, peer: Peer) -> None:
        """Take a connection, which is begun with at once if its user may; one too many is closed."""
        queue = self._queues.setdefault(who, deque())
        if len(queue) >= _WAITING:
            _forget_gone(queue)
        if len(queue) >= _WAITING:
            connection.close()
            log.warning("connection refused", peer=peer.name, reason=f"{_WAITING} of this user wait already")
        else:
            queue.append((connection, peer))
            self.admit()

    def admit(self) -> None:
        """Begin with connections whose users may have more; those whose peers have left take nobody's place."""
        now = self._clock()
        if len(self._buckets) > _REMEMBERED:
            self._buckets.clear()
        for who, queue in list(self._queues.items()):
            bucket = self._buckets.setdefault(who, TokenBucket(_ALLOWANCE, now))
            bucket.spend(0, now)
            while queue and not bucket.wait:
                connection, peer = queue.popleft()
                if _has_left(connection):
                    connection.close()
                    continue
                bucket.spend(1, now)
                self._begin(connection, peer)
            if not queue:
                del self._queues[who]

    def close(self) -> None:
        """Close all that wait."""
        for queue in self._queues.values():
            for connection, _ in queue:
                connection.close()
        self._queues.clear()


def _forget_gone(queue: deque[tuple[socket.socket, Peer]]) -> None:
    for connection, peer in list(queue):
        if _has_left(connection):
            queue.remove((connection, peer))
            connection.close()


def _has_left(connection: socket.socket) -> bool:
    poll = select.poll()
    poll.register(connection, select.POLLRDHUP)
    return any(events & (select.POLLRDHUP | select.POLLHUP) for _, events in poll.poll(0))
