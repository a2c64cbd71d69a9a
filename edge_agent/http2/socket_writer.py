"""What is sent on a socket, by whichever thread has something to send. Nobody waits here: what the kernel does not take goes when it would."""

import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from linewatch.edge_agent.http2.streams import Buffer
from linewatch.edge_agent.http2.transport import Transport

_SENT_AT_ONCE = 256 * 1024
_PARTS_AT_ONCE = 64


class SocketWriter:
    """Of one connection.

    Attributes:
        blocked: whether something was taken to be sent that the kernel does not take now.
        taken_at: when it last took anything, on the monotonic clock.
    """

    def __init__(
        self, connection: socket.socket, transport: Transport, take: Callable[[int], Sequence[Buffer]], when_writable: Callable[[], None]
    ) -> None:
        """Nothing is to be sent yet.

        Args:
            connection: the socket.
            transport: between plain bytes and those on the wire.
            take: gives what is to be sent, of about so many bytes; nothing when there is nothing.
            when_writable: has `resume` called when the kernel takes more.
        """
        self._socket, self._transport, self._take, self._when_writable = connection, transport, take, when_writable
        self._sending = threading.Lock()
        self._unsent: deque[Buffer] = deque()
        self.blocked = False
        self.taken_at = time.monotonic()

    def flush(self, ready: Callable[[], bool]) -> None:
        """Send what the kernel takes now. Whoever sends already takes ours along.

        Args:
            ready: whether there is anything to take.

        Raises:
            OSError: the connection is broken.
        """
        while not self.blocked and self._sending.acquire(blocking=False):
            try:
                self._send()
            finally:
                self._sending.release()
            # Others found us sending: something is ready since our last look, or the kernel has told already that it takes more.
            if not (self._unsent and not self.blocked) and not ready():
                return

    def _send(self) -> None:
        while True:
            if not self._unsent:
                self._unsent.extend(self._transport.wrap(taken) if (taken := self._take(_SENT_AT_ONCE)) else ())
                if not self._unsent:
                    return
            parts = [self._unsent.popleft() for _ in range(min(_PARTS_AT_ONCE, len(self._unsent)))]
            try:
                count = self._socket.sendmsg(parts, (), socket.MSG_DONTWAIT)
            except BlockingIOError:
                count = 0
            if count:
                self.taken_at = time.monotonic()
            if self._keep(parts, count):
                self.blocked = True
                self._when_writable()
                return

    def _keep(self, parts: Sequence[Buffer], count: int) -> bool:
        """Put back what was not sent of these; returns whether there is any."""
        for at, part in enumerate(parts):
            if count < len(part):
                self._unsent.extendleft(reversed([memoryview(part)[count:], *parts[at + 1 :]]))
                return True
            count -= len(part)
        return False

    def resume(self) -> None:
        """The kernel takes more; `flush` is to follow."""
        self.blocked = False

    def end(self) -> None:
        """Say that nothing more is sent.

        Raises:
            OSError: the connection is broken already.
        """
        with self._sending:
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Give the socket's descriptor back, when nobody sends any more: its number may be another connection's at once."""
        with self._sending:
            self._socket.close()
