"""The agent as a program: bind the sockets, serve, stop cleanly on SIGTERM."""

import gc
import grp
import os
import pwd
import signal
import socket
import stat
import sys
import threading
from pathlib import Path

import structlog
from prometheus_client import start_http_server

from anomaly_model.settings import SettingsError
from anomaly_model.signature import KeyFileError, read_trusted_keys
from edge_agent.agent import Agent
from edge_agent.http2.connection import ConnectionLimits
from edge_agent.http2.server import Server, ServerLimits
from edge_agent.http2.transport import tls_context
from edge_agent.memory import keep_freed_memory
from edge_agent.metrics import AgentCollector, Counts, exposition, registry
from edge_agent.protos import edge_agent_pb2
from edge_agent.service import MESSAGE_BYTES, EdgeAgentService
from edge_agent.settings import Settings
from edge_agent.side_services import Health, inspection_methods, reflection_methods

log = structlog.get_logger()
_SERVICE = edge_agent_pb2.DESCRIPTOR.services_by_name["EdgeAgent"].full_name
_BACKLOG = 128
_SWITCH_S = 0.0005
"""Longest time for which Python lets one thread run while others want to: a call waits for no log line."""


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
    """Remove a socket that a killed agent left behind; refuse to touch anything else."""
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


def _allowed(users: str) -> frozenset[int] | None:
    numbers = set()
    for user in (u.strip() for u in users.split(",") if u.strip()):
        try:
            numbers.add(int(user) if user.isdigit() else pwd.getpwnam(user).pw_uid)
        except KeyError:
            raise SettingsError(f"allowed_users: there is no user {user!r}") from None
    return frozenset(numbers) or None


def _check_keys(settings: Settings) -> None:
    """A device without its keys would refuse every model, one by one and much later."""
    if settings.trusted_keys:
        try:
            read_trusted_keys(Path(settings.trusted_keys))
        except KeyFileError as error:
            raise SettingsError(f"trusted_keys: {error}") from error


def _listen(server: Server, settings: Settings) -> None:
    server.listen(bind(settings))
    if settings.tcp:
        try:
            context = tls_context(settings.tls_certificate, settings.tls_key, settings.tls_clients)
        except OSError as error:
            raise SettingsError(
                f"tcp needs tls_certificate, tls_key and tls_clients, each a PEM file: {error}; without them anybody could call"
            ) from error
        server.listen(bind_tcp(settings), context)


def _serve_metrics(settings: Settings, collector: AgentCollector) -> None:
    if settings.metrics:
        host, _, port = settings.metrics.rpartition(":")
        try:
            start_http_server(int(port), host.strip("[]"), registry(collector))
        except (OSError, ValueError) as error:
            raise SettingsError(f"metrics {settings.metrics!r} cannot be listened on: {error}; expected HOST:PORT, such as 127.0.0.1:9464") from error


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Running calls get the grace time; models give their memory back.

    Raises:
        SettingsError: a socket cannot be bound as the settings say, or no trusted key can be read.
    """
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.TimeStamper(fmt="iso"),
                    structlog.processors.add_log_level, structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(),
    )  # fmt: skip
    keep_freed_memory()
    _check_keys(settings)
    agent, health, counts = Agent(settings), Health([_SERVICE]), Counts()
    collector = AgentCollector(counts, agent)
    service = EdgeAgentService(agent, counts, allowed=_allowed(settings.allowed_users), log_calls=settings.log_calls)
    methods = {**service.methods(), **health.methods(), **reflection_methods([_SERVICE]), **inspection_methods(lambda: exposition(collector))}
    server = Server(methods, ServerLimits(ConnectionLimits(message_bytes=MESSAGE_BYTES)))
    _listen(server, settings)
    wanted = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: wanted.set())
    sys.setswitchinterval(_SWITCH_S)
    gc.collect()
    gc.freeze()  # what is here stays: collections while calls run look at what they left only
    if settings.rescan_s:
        agent.follow()
    server.start()
    _serve_metrics(settings, collector)
    log.info("agent listening", socket=settings.socket, tcp=settings.tcp, models=[d.component for d in agent.models()])
    wanted.wait()
    log.info("agent stopping")
    health.shut_down()
    server.stop(settings.stop_grace_s)
    agent.shut_down()
    path = socket_path(settings.socket)
    if path is not None:
        path.unlink(missing_ok=True)
    log.info("agent stopped")
