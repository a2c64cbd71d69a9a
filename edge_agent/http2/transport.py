"""What bytes go through between a socket and HTTP/2: nothing, or TLS; and who is at the other end."""

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from linewatch.edge_agent.http2.streams import Buffer

_UCRED = struct.Struct("3i")
_READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Peer:
    """Who calls.

    Attributes:
        uid: of the process that connected, as the kernel says; None over TCP.
        name: for logs: `uid 1000` or the subject of a certificate.
    """

    uid: int | None
    name: str


def peer_of(connection: socket.socket) -> Peer:
    """Who is at the other end of a socket; a certificate's name is known after its handshake only."""
    if connection.family != socket.AF_UNIX:
        return Peer(None, "tcp")
    uid = -1
    with contextlib.suppress(OSError):
        _, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Peer(uid, f"uid {uid}")


class Transport(Protocol):
    """From plain bytes to those on the wire, and back. One thread unwraps and one wraps at a time; both may do so together.

    Attributes:
        records: that were unwrapped last.
    """

    records: int

    def unwrap(self, data: memoryview) -> memoryview | None:
        """What came, in plain; None at the end.

        Raises:
            OSError: it cannot be read.
        """
        ...

    def wrap(self, parts: Sequence[Buffer]) -> Sequence[Buffer]:
        """What is to be sent, as it goes on the wire.

        Raises:
            OSError: nothing more can be sent.
        """
        ...


class Plain:
    """As it is."""

    records = 0

    def unwrap(self, data: memoryview) -> memoryview | None:
        """See `Transport`."""
        return data

    def wrap(self, parts: Sequence[Buffer]) -> Sequence[Buffer]:
        """See `Transport`."""
        return parts


class Tls:
    """TLS over memory: OpenSSL's objects do not bear two threads, so each turn of it is locked."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._lock = threading.Lock()
        self.records = 0

    def handshake(self, connection: socket.socket) -> Peer:
        """Before anything else; takes as long as the socket lives.

        Raises:
            ConnectionResetError: the peer left during the handshake.
            ssl.SSLError: the peer does not speak TLS, or shows no certificate that is trusted.
            OSError: the peer does not speak HTTP/2, or the socket fails or was closed.
        """
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                connection.sendall(self._outgoing.read())
                data = connection.recv(_READ_BYTES)
                if not data:
                    raise ConnectionResetError("the peer left during the handshake") from None
                self._incoming.write(data)
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    connection.sendall(self._outgoing.read())  # the alert that says why
                raise
            else:
                connection.sendall(self._outgoing.read())
                break
        if self._tls.selected_alpn_protocol() != "h2":
            raise OSError("the peer did not agree to HTTP/2 (ALPN h2)")
        return Peer(None, f"certificate {_common_name(self._tls.getpeercert() or {})}")

    def unwrap(self, data: memoryview) -> memoryview | None:
        """See `Transport`.

        Raises:
            OSError: what came is not valid TLS.
        """
        plain: list[bytes] = []
        with self._lock:
            self._incoming.write(data)
            self.records = 0
            while True:
                self.records += 1
                try:
                    part = self._tls.read(_READ_BYTES)
                except ssl.SSLWantReadError:
                    return memoryview(b"".join(plain))
                except ssl.SSLError as error:
                    raise OSError(str(error)) from error
                if not part:
                    return memoryview(b"".join(plain)) if plain else None
                plain.append(part)

    def wrap(self, parts: Sequence[Buffer]) -> Sequence[Buffer]:
        """See `Transport`."""
        with self._lock:
            self._tls.write(b"".join(parts))
            return [self._outgoing.read()]


def _common_name(certificate: Mapping[str, Any]) -> str:
    return next((value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"), "?")
