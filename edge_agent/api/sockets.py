"""The sockets that the agent listens on: where they are, who may connect, and what to do with one that was left behind."""

import grp
import os
import socket
import ssl
import stat
from pathlib import Path

from linewatch.anomaly_model.settings import SettingsError
from linewatch.edge_agent.settings import Settings

_BACKLOG = 1024


def socket_path(address: str) -> Path | None:
    """The file of a unix: address; None for an abstract one.

    Raises:
        SettingsError: not a Unix socket address.
    """
    if address.startswith("unix-abstract:"):
        return None
    if not address.startswith("unix:"):
        raise SettingsError(f"socket {address!r} is not a Unix socket; expected unix:///PATH or unix-abstract:NAME")
    path = Path("/" + address.removeprefix("unix:").lstrip("/")) if address.startswith("unix:/") else Path(address[5:])
    if len(os.fsencode(path)) > 107:
        raise SettingsError(f"socket path {path} is longer than the 107 bytes that Linux allows; choose a shorter one")
    return path


def _clear_stale(path: Path) -> None:
    """Remove a socket that a killed agent left behind; refuse to touch anything else.

    Raises:
        SettingsError: something else than a socket is at `path`, or the socket is in use or cannot be tried.
    """
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(status.st_mode):
        raise SettingsError(f"{path} exists and is not a socket; remove it or choose another --socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise SettingsError(f"socket {path} is in use or not ours ({error.strerror})") from error
    raise SettingsError(f"another agent is listening on {path}; stop it, or choose another --socket")


def bind(settings: Settings) -> socket.socket:
    """Listen on the Unix socket, with the settings' mode and group and no moment in which it is more open than that.

    Raises:
        SettingsError: says what is in the way.
    """
    path = socket_path(settings.socket)
    listener = socket.socket(socket.AF_UNIX)
    try:
        if path is None:
            listener.bind("\0" + settings.socket.removeprefix("unix-abstract:"))
        else:
            _clear_stale(path)
            previous = os.umask(0o177)
            try:
                listener.bind(str(path))
            finally:
                os.umask(previous)
            if settings.socket_group:
                os.chown(path, -1, grp.getgrnam(settings.socket_group).gr_gid)
            path.chmod(int(settings.socket_mode, 8))
    except KeyError:
        listener.close()
        raise SettingsError(f"socket group {settings.socket_group!r} cannot be set: there is no such group") from None
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"socket {settings.socket} cannot be bound ({error.strerror}); does its folder exist, and may this user write there and "
            "give it the group of the setting socket_group?"
        ) from error
    listener.listen(_BACKLOG)
    return listener


def bind_tcp(settings: Settings) -> socket.socket:
    """Listen on the setting `tcp`.

    Raises:
        SettingsError: says what is in the way.
    """
    host, _, port = settings.tcp.rpartition(":")
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host.strip("[]"), int(port)), family=family, backlog=_BACKLOG)
    except (OSError, ValueError) as error:
        raise SettingsError(f"tcp {settings.tcp!r} cannot be listened on: {error}; expected HOST:PORT, such as 0.0.0.0:50051") from error


def tls_context(settings: Settings) -> ssl.SSLContext:
    """Of a server that asks its clients for a certificate, and speaks HTTP/2.

    Raises:
        SettingsError: a file cannot be read or is not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols(["h2"])
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
        context.load_verify_locations(settings.tls_clients)
    except OSError as error:
        raise SettingsError(
            f"tcp needs tls_certificate, tls_key and tls_clients, each a PEM file: {error}; without them anybody could call"
        ) from error
    return context
