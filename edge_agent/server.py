"""The agent as a program: bind the sockets, serve, stop cleanly on SIGTERM."""

import contextlib
import gc
import os
import pwd
import signal
import socket
import sqlite3
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import start_http_server

from linewatch.anomaly_model.numbers import read_digits
from linewatch.anomaly_model.settings import SettingsError
from linewatch.anomaly_model.signature import KeyFileError, read_trusted_keys
from linewatch.edge_agent.api.call_record import CallRecord
from linewatch.edge_agent.api.endpoint import Endpoint
from linewatch.edge_agent.api.service import EdgeAgentService
from linewatch.edge_agent.api.side_services import Health, inspection_methods, reflection_methods
from linewatch.edge_agent.api.sockets import bind, bind_tcp, socket_path, tls_context
from linewatch.edge_agent.bridge.link import BridgeLink, in_greengrass, needs_bridge
from linewatch.edge_agent.configuration import changes, configured, with_live_changes
from linewatch.edge_agent.http2.limits import ServerLimits
from linewatch.edge_agent.log_lines import configure_logging
from linewatch.edge_agent.memory import keep_freed_memory
from linewatch.edge_agent.models.manager import ModelManager
from linewatch.edge_agent.models.metrics import AgentCollector, Counts, exposition, registry
from linewatch.edge_agent.protos import edge_agent_pb2
from linewatch.edge_agent.results.sink import ResultSink
from linewatch.edge_agent.results.spool import Spool, SpoolWriter
from linewatch.edge_agent.settings import Settings

log = structlog.get_logger()
_SERVICE = edge_agent_pb2.DESCRIPTOR.services_by_name["EdgeAgent"].full_name
_CONFIGURATION_S = 10
_LARGEST_UID = 2**32 - 2
_AGAIN_S = 10
_SWITCH_S = 0.0005
"""Longest time for which Python lets one thread run while others want to: a call waits for no log line."""

_UNIX = ServerLimits()
_TCP = ServerLimits(connections=64, threads=32)


def _allowed(users: str) -> frozenset[int] | None:
    numbers = set()
    for user in (u.strip() for u in users.split(",") if u.strip()):
        try:
            number = read_digits(user, _LARGEST_UID)
            numbers.add(pwd.getpwnam(user).pw_uid if number is None else number)
        except KeyError:
            raise SettingsError(f"allowed_users: there is no user {user!r}") from None
    return frozenset(numbers) or None


def _check_keys(settings: Settings) -> None:
    """A device without its keys would refuse every model, one by one and much later.

    Raises:
        SettingsError: `trusted_keys` names no public keys that can be read.
    """
    if settings.trusted_keys:
        try:
            read_trusted_keys(Path(settings.trusted_keys))
        except KeyFileError as error:
            raise SettingsError(f"trusted_keys: {error}") from error


def _listen(endpoint: Endpoint, settings: Settings) -> None:
    endpoint.listen(bind(settings), _UNIX)
    if settings.tcp:
        context = tls_context(settings)
        endpoint.listen(bind_tcp(settings), _TCP, context)


def _serve_metrics(settings: Settings, collector: AgentCollector) -> None:
    if settings.metrics:
        host, _, port = settings.metrics.rpartition(":")
        try:
            start_http_server(int(port), host.strip("[]"), registry(collector))
        except (OSError, ValueError) as error:
            raise SettingsError(f"metrics {settings.metrics!r} cannot be listened on: {error}; expected HOST:PORT, such as 127.0.0.1:9464") from error


def _check_results(settings: Settings) -> None:
    if settings.results != "off" and not (settings.spool and (settings.results_local_topic or settings.results_iot_topic or settings.mqtt)):
        raise SettingsError(
            f"results {settings.results!r} needs the setting spool, and somewhere to go: results_local_topic or results_iot_topic under "
            "Greengrass, or mqtt"
        )


def _open_results(settings: Settings) -> ResultSink:
    if not settings.spool:
        return ResultSink(None, "off")
    try:
        return ResultSink(SpoolWriter(Spool(Path(settings.spool), settings.results_keep)), settings.results)
    except (OSError, sqlite3.Error) as error:
        raise SettingsError(f"spool {settings.spool} cannot be opened: {error}") from error


class Program:
    """The models, the endpoint, the results and the bridge, put together."""

    def __init__(self, settings: Settings) -> None:
        """Bind nothing yet.

        Raises:
            SettingsError: settings contradict each other, or name what cannot be read.
        """
        _check_keys(settings)
        self.settings = settings
        self._lock = threading.Lock()
        self._first, self._ending = threading.Event(), threading.Event()
        self._given = settings
        self.models: ModelManager | None = None
        self.record: CallRecord | None = None
        self.results = ResultSink(None, "off")
        self.bridge: BridgeLink | None = None
        if needs_bridge(settings):
            self.bridge = BridgeLink(settings, self.configured, self._calls)
            self.bridge.start()

    def _calls(self) -> int:
        return self.models.running_calls if self.models else 0

    def configured(self, values: Mapping[str, Any]) -> None:
        """The core told the component's configuration."""
        try:
            wanted, unknown = configured(self._given, values)
            _check_results(wanted)
        except SettingsError as error:
            log.error("configuration refused; the one before goes on", reason=str(error))
            self._first.set()
            return
        if unknown:
            log.warning("configuration keys that nobody knows", keys=unknown)
        with self._lock:
            live, later = changes(self.settings, wanted)
            self.settings = with_live_changes(self.settings, wanted) if self.models else wanted
            if self.models is not None:
                self._apply()
                log.info("configuration changed", now=live, after_a_restart=later)
            if self.bridge is not None:
                self.bridge.apply(self.settings)
        self._first.set()

    def _apply(self) -> None:
        assert self.models is not None
        self.models.apply(self.settings)
        self.results.mode = self.settings.results
        if self.record is not None:
            self.record.log_calls = self.settings.log_calls

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT.

        Under Greengrass what cannot be served yet is tried again: a component that ends three times within an hour is given up by its
        core, and a configuration that is mended would find nobody.

        Raises:
            SettingsError: what cannot be served, elsewhere.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._ending.set())
        while not self._ending.is_set():
            try:
                self._serve()
            except SettingsError as error:
                if not in_greengrass(self._given):
                    raise
                self.models = None
                self.results.close()
                log.error("cannot serve; trying again", reason=str(error), after_s=_AGAIN_S)
                self._ending.wait(_AGAIN_S)

    def _serve(self) -> None:
        if in_greengrass(self.settings) and not self._first.wait(_CONFIGURATION_S):
            log.warning("the core told no configuration; going on without", waited_s=_CONFIGURATION_S)
        _check_results(self.settings)
        self.results = _open_results(self.settings)
        counts, health = Counts(), Health([_SERVICE])
        with self._lock:
            self.models = models = ModelManager(self.settings)
            self.record = record = CallRecord(counts, self.results)
            service = EdgeAgentService(models, record, allowed=_allowed(self.settings.allowed_users))
            self._apply()
        collector = AgentCollector(counts, models, self.results)
        methods = {**service.methods(), **health.methods(), **reflection_methods([_SERVICE]), **inspection_methods(lambda: exposition(collector))}
        endpoint = Endpoint(methods)
        _listen(endpoint, self.settings)
        sys.setswitchinterval(_SWITCH_S)
        gc.collect()
        gc.freeze()  # what is here stays: collections while calls run look at what they left only
        models.watch()
        endpoint.start()
        _serve_metrics(self.settings, collector)
        log.info("agent listening", socket=self.settings.socket, tcp=self.settings.tcp, models=[d.component for d in models.descriptions()])
        if self.bridge is not None:
            self.bridge.serving()
        _notify_ready()
        self._ending.wait()
        log.info("agent stopping")
        health.shut_down()
        endpoint.stop(self.settings.stop_grace_s)
        models.shut_down()
        self.results.close()
        path = socket_path(self.settings.socket)
        if path is not None:
            path.unlink(missing_ok=True)
        log.info("agent stopped")

    def close(self) -> None:
        """End the bridge."""
        if self.bridge is not None:
            self.bridge.close()


def _notify_ready() -> None:
    """Tell systemd, which runs components of the small nucleus, that the socket is bound."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.connect("\0" + address[1:] if address.startswith("@") else address)
            channel.send(b"READY=1")


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT. Running calls get the grace time; models give their memory back.

    Raises:
        SettingsError: a socket cannot be bound as the settings say, or no trusted key can be read.
    """
    configure_logging()
    keep_freed_memory()
    program = Program(settings)
    try:
        program.run()
    finally:
        program.close()
