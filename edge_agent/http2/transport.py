"""What frames travel over: a Unix socket or TLS on TCP; and who is at the other end."""

import contextlib
import os
import socket
import ssl
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

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


class Transport(Protocol):
    """A byte stream. One thread reads and one writes at a time; both may do so together."""

    peer: Peer

    def read(self) -> memoryview:
        """Wait for bytes; empty at the end. What is returned is valid until the next read.

        Raises:
            BlockingIOError: nothing came for a while. OSError: the connection broke.
        """
        ...

    def write(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """Send all of it.

        Raises:
            OSError: the connection broke, or the peer did not read for a while.
        """
        ...

    def end_writing(self) -> None:
        """Say that nothing more is written; reading goes on.

        Raises:
            OSError: the connection is broken already.
        """
        ...

    def shut(self) -> None:
        """End it in both directions; wakes whoever reads or writes."""
        ...

    def close(self) -> None:
        """Give its descriptor back. Nobody uses it any more: the number may be another connection's at once."""
        ...


def set_timeouts(connection: socket.socket, seconds: int) -> None:
    """Bound each read and write by the kernel: Python's own timeouts cost a poll for each."""
    value = struct.pack("ll", seconds, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


class _OnSocket:
    """How a connected socket ends, whatever goes over it."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def end_writing(self) -> None:
        """See `Transport`."""
        self._socket.shutdown(socket.SHUT_WR)

    def shut(self) -> None:
        """See `Transport`."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """See `Transport`."""
        self._socket.close()


class UnixTransport(_OnSocket):
    """A connected Unix socket."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection)
        self._buffer = bytearray(_READ_BYTES)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        _, uid, _ = _UCRED.unpack(credentials)
        self.peer = Peer(uid, f"uid {uid}")

    def read(self) -> memoryview:
        """See `Transport`."""
        return memoryview(self._buffer)[: self._socket.recv_into(self._buffer)]

    def write(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """See `Transport`."""
        wanted = sum(len(part) for part in parts)
        sent = self._socket.sendmsg(parts)
        if sent < wanted:
            self._socket.sendall(memoryview(b"".join(parts))[sent:])


class TlsTransport(_OnSocket):
    """TLS on a connected TCP socket, over memory: OpenSSL's objects do not bear two threads, so each turn of it is locked."""

    def __init__(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        """Shake hands.

        Raises:
            OSError: the peer does not speak TLS, shows no certificate that is trusted, or is too slow.
        """
        super().__init__(connection)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._shake_hands()
        if self._tls.selected_alpn_protocol() != "h2":
            raise OSError("the peer did not agree to HTTP/2 (ALPN h2)")
        self.peer = Peer(None, f"certificate {_common_name(self._tls.getpeercert() or {})}")

    def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                data = self._socket.recv(_READ_BYTES)
                if not data:
                    raise ConnectionResetError("the peer left during the handshake") from None
                self._incoming.write(data)
            except ssl.SSLError:
                with contextlib.suppress(OSError):
                    self._flush()  # the alert that says why
                raise
            else:
                self._flush()
                return

    def _flush(self) -> None:
        with self._sending:
            with self._lock:
                data = self._outgoing.read()
            if data:
                self._socket.sendall(data)

    def read(self) -> memoryview:
        """See `Transport`."""
        while True:
            with self._lock:
                try:
                    plain = self._tls.read(_READ_BYTES)
                except ssl.SSLWantReadError:
                    plain = None
                except ssl.SSLError as error:
                    raise OSError(str(error)) from error
            if plain is not None:
                return memoryview(plain)
            self._flush()  # answers to key updates
            data = self._socket.recv(_READ_BYTES)
            if not data:
                return memoryview(b"")
            with self._lock:
                self._incoming.write(data)

    def write(self, parts: Sequence[bytes | bytearray | memoryview]) -> None:
        """See `Transport`."""
        data = b"".join(parts)
        with self._lock:
            self._tls.write(data)
        self._flush()


def _common_name(certificate: Mapping[str, Any]) -> str:
    return next((value for part in certificate.get("subject", ()) for name, value in part if name == "commonName"), "?")


def tls_context(certificate: str, key: str, clients: str) -> ssl.SSLContext:
    """A server's context that asks clients for a certificate and speaks HTTP/2 only.

    Args:
        certificate: PEM file of the server's certificate and those that vouch for it.
        key: PEM file of its private key.
        clients: PEM file of the authorities whose clients may call.

    Raises:
        OSError: a file cannot be read or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(os.fspath(certificate), os.fspath(key))
    context.load_verify_locations(os.fspath(clients))
    context.set_alpn_protocols(["h2"])
    return context
