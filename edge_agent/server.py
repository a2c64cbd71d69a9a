"""The agent as a program: bind the socket, serve, stop cleanly on SIGTERM."""

import grp
import os
import signal
import socket
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from anomaly_model.settings import SettingsError
from anomaly_model.signature import KeyFileError, read_trusted_keys
from edge_agent.agent import Agent
from edge_agent.protos import edge_agent_pb2, edge_agent_pb2_grpc
from edge_agent.service import MESSAGE_BYTES, EdgeAgentService
from edge_agent.settings import Settings

log = structlog.get_logger()
_SERVICE = edge_agent_pb2.DESCRIPTOR.services_by_name["EdgeAgent"].full_name
_THREADS = 16
"""Calls that are looked at together; those for one model then take turns."""


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


def bind(server: grpc.Server, settings: Settings) -> None:
    """Bind the socket with the settings' mode and group, with no moment in which it is more open than that."""
    path = socket_path(settings.socket)
    if path is None:
        server.add_insecure_port(settings.socket)
        return
    _clear_stale(path)
    previous = os.umask(0o177)
    try:
        if not server.add_insecure_port(f"unix:{path}"):
            raise SettingsError(f"socket {path} cannot be bound; does its folder exist, and may this user write there?")
    except RuntimeError as error:
        raise SettingsError(
            f"socket {path} cannot be bound; does its folder exist, and may this user write there?"
        ) from error
    finally:
        os.umask(previous)
    if settings.socket_group:
        try:
            os.chown(path, -1, grp.getgrnam(settings.socket_group).gr_gid)
        except (KeyError, PermissionError) as error:
            raise SettingsError(f"socket group {settings.socket_group!r} cannot be set: {error}") from error
    path.chmod(int(settings.socket_mode, 8))


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Running calls get the grace time; models give their memory back.

    Raises:
        SettingsError: the socket cannot be bound as the settings say, or no trusted key can be read.
    """
    structlog.configure(
        processors=[structlog.processors.TimeStamper(fmt="iso"), structlog.processors.add_log_level,
                    structlog.processors.format_exc_info, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(),
    )  # fmt: skip
    if settings.trusted_keys:  # a device without its keys would refuse every model, one by one and much later
        try:
            read_trusted_keys(Path(settings.trusted_keys))
        except KeyFileError as error:
            raise SettingsError(f"trusted_keys: {error}") from error
    agent = Agent(settings)
    server = grpc.server(
        ThreadPoolExecutor(_THREADS, thread_name_prefix="call"),
        options=[("grpc.max_receive_message_length", MESSAGE_BYTES), ("grpc.max_send_message_length", MESSAGE_BYTES),
                 ("grpc.so_reuseport", 0)],
    )  # fmt: skip
    edge_agent_pb2_grpc.add_EdgeAgentServicer_to_server(EdgeAgentService(agent), server)  # type: ignore[no-untyped-call]
    healthy = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection([_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME], server)
    bind(server, settings)
    if settings.rescan_s:
        agent.follow()
    wanted = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: wanted.set())
    server.start()
    for name in ("", _SERVICE):
        healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
    log.info("agent listening", socket=settings.socket, models=[d.component for d in agent.list()])
    wanted.wait()
    log.info("agent stopping")
    healthy.enter_graceful_shutdown()
    server.stop(settings.stop_grace_s).wait()
    agent.shut_down()
    path = socket_path(settings.socket)
    if path is not None:
        path.unlink(missing_ok=True)
    log.info("agent stopped")
