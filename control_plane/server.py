"""The server as a program: open everything, serve, stop cleanly on SIGTERM."""

import asyncio
import fcntl
import logging
import os
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
import uvicorn

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.anomaly_model.settings import SettingsError
from linewatch.control_plane.access.audit import AuditLog
from linewatch.control_plane.access.credentials import MasterKey
from linewatch.control_plane.access.registry import account_of_found
from linewatch.control_plane.connections import ConnectionLimiter, Listener, ServerLoop, address_group, bounded_protocol
from linewatch.control_plane.gateway import Gateway
from linewatch.control_plane.hosting.manager import HostingManager
from linewatch.control_plane.jobs.runner import JobRunner
from linewatch.control_plane.jobs.worker import open_objects
from linewatch.control_plane.objects.directory import DirectoryObjects
from linewatch.control_plane.services import Services
from linewatch.control_plane.settings import Settings
from linewatch.control_plane.store.database import Store
from linewatch.control_plane.wire.page_tokens import PageTokens

log = structlog.get_logger()

_GRACE_S = 30
_DESCRIPTORS = 16384


@contextmanager
def only_server(folder: Path) -> Iterator[None]:
    """Keep another server away from the data folder.

    Raises:
        LinewatchError: another one uses it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "server.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LinewatchError(f"another server uses the data folder {folder}; stop it, or name another --data") from None
        yield


def open_store(settings: Settings) -> Store:
    """The database, with its schema brought to this version.

    Raises:
        StoreError: the database's address is malformed, it cannot be used, or its schema is newer than this program.
    """
    settings.folder.mkdir(parents=True, exist_ok=True)
    store = Store(settings.database_url)
    store.migrate()
    return store


def open_services(settings: Settings) -> Services:
    """Everything that lives as long as the server does; nothing is started yet."""
    store = open_store(settings)
    master = MasterKey.open(settings.folder)
    account = account_of_found(store, settings)
    objects = open_objects(
        settings.objects_root, settings.objects_endpoint, settings.region, settings.objects_timeout_s, account
    )  # fmt: skip
    if isinstance(objects, DirectoryObjects):
        objects.buckets(account)  # whoever asks: from now on each bucket has an owner
    hosting = HostingManager(settings, store)
    return Services(settings, store, objects, master, PageTokens(master.derive("page tokens")), hosting)


def _configure_logs() -> None:
    """One JSON line for each event, ours and the libraries', on standard output."""
    shared: list[structlog.typing.Processor] = [
        structlog.processors.TimeStamper(fmt="iso"), structlog.stdlib.add_log_level, structlog.processors.format_exc_info,
    ]  # fmt: skip
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()], logger_factory=structlog.PrintLoggerFactory()
    )  # fmt: skip
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.JSONRenderer()],
    ))  # fmt: skip
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
    for noisy in ("alembic", "boto3", "botocore", "uvicorn"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _check_tls(settings: Settings) -> None:
    if not settings.tls_certificate:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_certificate, settings.tls_key)
    except OSError as error:  # SSLError is one
        raise SettingsError(
            f"tls_certificate {settings.tls_certificate} and tls_key {settings.tls_key} cannot be used: {error.strerror or error}; "
            "expected two PEM files that belong together"
        ) from None


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        SettingsError: the address cannot be bound, or the TLS files cannot be used.
        LinewatchError: the data folder or the database cannot be used.
    """
    _configure_logs()
    _check_tls(settings)
    with only_server(settings.folder):
        services = open_services(settings)
        audit = AuditLog(settings.audit_file, settings.audit_mib << 20, settings.audit_files)
        gateway = Gateway(services, audit)
        config = uvicorn.Config(
            gateway, host=settings.host, port=settings.port, http=bounded_protocol(settings.headers_s), ws="none", lifespan="off",
            log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=_GRACE_S, backlog=512,
            proxy_headers=bool(settings.proxy_names), forwarded_allow_ips=list(settings.proxy_names),
            ssl_certfile=settings.tls_certificate or None, ssl_keyfile=settings.tls_key or None,
        )  # fmt: skip
        runner = JobRunner(services)
        # Each connection is a descriptor, and so is much else.
        least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(least, min(most, _DESCRIPTORS)), most))
        limiter = ConnectionLimiter(settings.connections, settings.connections_each, frozenset(map(address_group, settings.proxy_names)))
        try:
            listening = Listener(config.bind_socket(), limiter)
            listening.listen(config.backlog)  # who reads that we listen may call at once; uvicorn would listen later
        except SystemExit:  # uvicorn's way to say so
            raise SettingsError(f"{settings.host}:{settings.port} cannot be bound: it is in use, or no address of this machine") from None
        # Connections inherit it. asyncio would set it, but not on a socket that names no protocol, as uvicorn's does not; an
        # answer in two pieces then waits 40 ms for the client's delayed acknowledgement.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        services.hosting.start()
        runner.start()
        scheme = "https" if settings.tls_certificate else "http"
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        log.info("server listening", url=f"{scheme}://{host}:{listening.getsockname()[1]}", data=str(settings.folder),
                 pid=os.getpid(), anonymous=settings.anonymous)  # fmt: skip
        # uvicorn stops on these, and then sends them once more to whoever listened before: that must not end us half-stopped.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        try:
            with asyncio.Runner(loop_factory=lambda: ServerLoop(settings.headers_s)) as loop:
                loop.run(uvicorn.Server(config).serve(sockets=[listening]))
        finally:
            log.info("server stopping")
            runner.stop()
            services.hosting.stop()
            gateway.close()
            audit.close()
            services.store.close()
            log.info("server stopped")
