"""The bridge, seen from the agent: started, told, and started again when it dies."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from linewatch.edge_agent.bridge.messages import (
    BridgeOptions,
    Configured,
    RunningCalls,
    RunningCallsQuery,
    Serving,
    receive_from_bridge,
    send,
)
from linewatch.edge_agent.settings import Settings
from linewatch.edge_agent.socket_pair import message_socket_pair

log = structlog.get_logger()
_PAUSE_S = (1, 2, 5, 10, 30)
_WELL_S = 60.0
"""A bridge that has run for so long was well: the next death is the first again."""
_END_S = 5
IPC_SOCKET = "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"


class BridgeLink:
    """Keeps a bridge running. Its death costs a line in the log and a pause; calls of camera programs do not notice."""

    def __init__(self, settings: Settings, configured: Callable[[dict[str, Any]], None], calls: Callable[[], int]) -> None:
        """Not started yet.

        Args:
            settings: of the agent.
            configured: told the component's configuration, from a thread of the link.
            calls: how many calls workers have.
        """
        self._settings, self._configured, self._calls = settings, configured, calls
        self._ended = threading.Event()
        self._serving = self._wanted_to_end = False
        self._lock = threading.Lock()
        self._channel: Any = None
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="bridge", daemon=True)

    def start(self) -> None:
        """Start it, and again whenever it dies."""
        self._thread.start()

    def apply(self, settings: Settings) -> None:
        """Take other settings; a bridge that they concern is ended, and the next one has them."""
        with self._lock:
            old, self._settings = _options(self._settings, 0), settings
            if _options(settings, 0) != old and self._channel is not None:
                self._wanted_to_end = True
                with contextlib.suppress(OSError):
                    self._channel.shutdown(socket.SHUT_RDWR)

    def _start(self) -> None:
        ours, theirs = message_socket_pair()
        options = _options(self._settings, theirs.fileno())
        with theirs:
            command = [sys.executable, "-P", "-m", "linewatch.edge_agent.bridge", msgspec.json.encode(options).decode()]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
        with self._lock:
            self._channel, self._process = ours, process
            if self._serving:
                self._send(Serving())

    def _send(self, message: Serving | RunningCalls) -> None:
        with contextlib.suppress(OSError):
            send(self._channel, message)

    def _run(self) -> None:
        deaths = 0
        while not self._ended.is_set():
            begun = time.monotonic()
            try:
                self._start()
            except OSError as error:
                log.error("the bridge cannot be started", reason=str(error))
            else:
                self._listen()
                assert self._process is not None
                code = self._process.wait()
                self._channel.close()
                if self._ended.is_set():
                    return
                if self._wanted_to_end:
                    self._wanted_to_end = False
                    continue
                log.error("the bridge ended and is started again", exit_code=code)
            if time.monotonic() - begun > _WELL_S:
                deaths = 0
            self._ended.wait(_PAUSE_S[min(deaths, len(_PAUSE_S) - 1)])
            deaths += 1

    def _listen(self) -> None:
        while True:
            match receive_from_bridge(self._channel):
                case Configured(values):
                    self._configured(values)
                case RunningCallsQuery(number):
                    self._send(RunningCalls(number, self._calls()))
                case None:
                    return

    def serving(self) -> None:
        """The agent takes calls now."""
        with self._lock:
            self._serving = True
            if self._channel is not None:
                self._send(Serving())

    def close(self) -> None:
        """End it; results that were not published stay in the spool."""
        self._ended.set()
        with self._lock:
            process, channel = self._process, self._channel
        if channel is not None:
            with contextlib.suppress(OSError):
                channel.shutdown(socket.SHUT_RDWR)
        if process is not None:
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._thread.join(_END_S)


def _options(s: Settings, channel: int) -> BridgeOptions:
    return BridgeOptions(
        channel, in_greengrass(s), s.spool if s.results != "off" else "", s.results_keep, s.results_local_topic, s.results_iot_topic,
        s.mqtt, s.mqtt_topic, s.mqtt_ca, s.mqtt_certificate, s.mqtt_key, s.mqtt_user,
    )  # fmt: skip


def in_greengrass(settings: Settings) -> bool:
    """Whether there is a core to talk to."""
    return settings.greengrass == "auto" and bool(os.environ.get(IPC_SOCKET)) and bool(os.environ.get("SVCUID"))


def needs_bridge(settings: Settings) -> bool:
    """Whether anything goes through a bridge."""
    return in_greengrass(settings) or (settings.results != "off" and bool(settings.mqtt))
