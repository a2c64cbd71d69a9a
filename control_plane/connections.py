"""Bounds on connections that hold before anybody is known: how many, and how long each may keep us waiting.

A connection is counted from the moment when it is accepted, before TLS has begun. From then on it is either being answered,
or a clock runs: for the handshake, for headers, and for a peer that does not take its answer.
"""

import asyncio
import fcntl
import socket
import sys
import termios
from collections import Counter
from collections.abc import Callable
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from linewatch.control_plane.limits import HEADER_BYTES


def address_group(address: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 that a host of IPv6 has to itself."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(found, IPv6Address):
        return str(found.ipv4_mapped or IPv6Network((int(found) >> 64 << 64, 64)))
    return str(found)


class ConnectionLimiter:
    """Connections that may be open, in all and of one address."""

    def __init__(self, most: int, each: int, exempt: frozenset[str] = frozenset()) -> None:
        """None is taken yet.

        Args:
            most: in all.
            each: of one address.
            exempt: addresses of proxies, which speak for many.
        """
        self._most, self._each, self._exempt = most, each, exempt
        self._taken: Counter[str] = Counter()
        self._all = 0

    def take(self, address: str) -> Callable[[], None] | None:
        """Take a place; returns what gives it back, or None where there is none left."""
        who = address_group(address)
        if self._all >= self._most or (who not in self._exempt and self._taken[who] >= self._each):
            return None
        self._all += 1
        self._taken[who] += 1

        def release() -> None:
            self._all -= 1
            self._taken[who] -= 1
            if not self._taken[who]:
                del self._taken[who]

        return release


class Connection(socket.socket):
    """An accepted connection; closing it gives its place back."""

    release: Callable[[], None] | None = None

    def close(self) -> None:
        """Close it."""
        super().close()
        release, self.release = self.release, None
        if release is not None:
            release()


class Listener(socket.socket):
    """A listening socket that accepts as many connections as there are places, and closes the rest at once."""

    def __init__(self, bound: socket.socket, limiter: ConnectionLimiter) -> None:
        """Take over a bound socket."""
        super().__init__(bound.family, bound.type, bound.proto, fileno=bound.detach())
        self._limiter = limiter

    def accept(self) -> tuple[Connection, Any]:
        """The next connection that has a place."""
        while True:
            accepted, address = super().accept()
            release = self._limiter.take(address[0])
            if release is None:
                accepted.close()
                continue
            connection = Connection(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
            connection.release = release
            return connection, address


class ServerLoop(asyncio.SelectorEventLoop):
    """An event loop whose servers do not wait long for a TLS peer."""

    def __init__(self, patience_s: float) -> None:
        """`patience_s`: for a handshake, and for a peer's goodbye."""
        super().__init__()
        self._patience_s = patience_s

    async def create_server(self, *args: Any, ssl: Any = None, **options: Any) -> Any:
        """As asyncio's."""
        if ssl is not None:
            options |= {"ssl_handshake_timeout": self._patience_s, "ssl_shutdown_timeout": self._patience_s}
        return await super().create_server(*args, ssl=ssl, **options)


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 with bounds on headers and trailers, and with clocks, none of which the parser and uvicorn have."""

    headers_s = 10.0
    _overhead = 0  # bytes since the last piece of a body
    _clock: asyncio.TimerHandle | None = None
    _unacknowledged = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new connection."""
        super().connection_made(transport)
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came, and count what is no body."""
        if self._clock is None and self._is_idle:
            self._start_clock()
        self._overhead += len(data)
        super().data_received(data)
        if self._overhead > HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response("the headers of the request are over 64 KiB")

    def on_headers_complete(self) -> None:
        """A request that will be answered."""
        self._overhead = 0
        self._stop_clock()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of a body. Not its framing or its trailers: those have a bound, as headers have."""
        self._overhead = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        """The answer is written; the peer has to take it, or to send the next request."""
        super().on_response_complete()
        if self._is_idle:
            self._start_clock()

    def pause_writing(self) -> None:
        """The peer does not take its answer."""
        super().pause_writing()
        self._start_clock()

    def resume_writing(self) -> None:
        """The peer took some of it."""
        super().resume_writing()
        if not self._is_idle:
            self._stop_clock()

    @property
    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _start_clock(self) -> None:
        self._stop_clock()
        self._unacknowledged = self._unacknowledged_bytes()
        self._clock = self.loop.call_later(self.headers_s, self._timed_out)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _timed_out(self) -> None:
        before = self._unacknowledged
        if 0 < self._unacknowledged_bytes() < before:  # slow, but it takes its answer
            self._start_clock()
        else:
            self.transport.abort()

    def _unacknowledged_bytes(self) -> int:
        """Bytes of answers that wait here, or in the kernel for the peer's acknowledgement."""
        queued = bytearray(4)
        fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, queued)
        return self.transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)


def bounded_protocol(patience_s: float) -> type[BoundedProtocol]:
    """The protocol with a setting, as uvicorn takes classes only."""
    return type("BoundedProtocol", (BoundedProtocol,), {"headers_s": patience_s})
