"""The bridge's process: `python -P -m linewatch.edge_agent.bridge OPTIONS`, with `BridgeOptions` as JSON. Ends when the agent does."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog

from linewatch.edge_agent.bridge.messages import (
    BridgeOptions,
    Configured,
    RunningCalls,
    RunningCallsQuery,
    Serving,
    receive_from_agent,
    send,
)
from linewatch.edge_agent.bridge.publishing import Destination, DestinationError, Publisher
from linewatch.edge_agent.log_lines import configure_logging

log = structlog.get_logger()
_ANSWER_S = 2.0
_RECONNECT_S = 2.0


class Bridge:
    """Holds the connections, and passes on what is said."""

    def __init__(self, options: BridgeOptions) -> None:
        self._options = options
        self._channel = socket.socket(fileno=options.channel)
        self._answered = threading.Condition()
        self._asked = 0
        self._answer = RunningCalls(0, 0)
        self._serving = threading.Event()
        self._ended = threading.Event()
        self._core: Any = None

    # --- the agent

    def _send(self, message: Configured | RunningCallsQuery) -> None:
        try:
            send(self._channel, message)
        except OSError:
            self._ended.set()

    def configured(self, values: Mapping[str, Any]) -> None:
        """The core told the configuration."""
        self._send(Configured(dict(values)))

    def busy(self) -> bool:
        """Ask the agent whether pictures are being inspected; one that does not answer in time is not asked again."""
        with self._answered:
            self._asked = number = self._asked + 1
            self._send(RunningCallsQuery(number))
            # An answer that comes late is to an earlier question.
            if not self._answered.wait_for(lambda: self._answer.number >= number, _ANSWER_S):
                return False
            return self._answer.calls > 0

    def run(self) -> None:
        """Until the agent ends."""
        if self._options.greengrass:
            threading.Thread(target=self._follow_core, name="core", daemon=True).start()
        for publisher in self._publishers():
            publisher.start()
        while True:
            match receive_from_agent(self._channel):
                case RunningCalls() as answer:
                    with self._answered:
                        self._answer = answer
                        self._answered.notify_all()
                case Serving():
                    self._serving.set()
                case None:
                    return

    # --- outside

    def _follow_core(self) -> None:
        """Stay connected to the core: its nucleus restarts when it is updated."""
        from linewatch.edge_agent.bridge.greengrass import Core

        failing = False
        while not self._ended.is_set():
            try:
                core = Core(self.configured, self.busy)
            except DestinationError as error:
                if not failing:
                    log.warning("no connection to the core", reason=str(error))
                failing = True
                self._ended.wait(_RECONNECT_S)
                continue
            failing = False
            self._core = core
            core.follow_configuration()
            core.defer_updates()
            log.info("connected to the core")
            while not self._serving.wait(0.2) and not core.lost.is_set():
                pass
            if not core.lost.is_set():
                core.serving()
            core.lost.wait()
            self._core = None
            core.close()
            log.warning("the connection to the core is lost")

    def _connected_core(self) -> Any:
        if self._core is None:
            raise DestinationError("no connection to the core")
        return self._core

    def _publishers(self) -> list[Publisher]:
        options = self._options
        if not options.spool:
            return []
        destinations: list[Destination] = []
        if options.greengrass:
            from linewatch.edge_agent.bridge.greengrass import CoreTopic

            topics = ((options.local_topic, False), (options.iot_topic, True))
            destinations += [CoreTopic(self._connected_core, topic, iot=iot) for topic, iot in topics if topic]
        if options.mqtt:
            from linewatch.edge_agent.bridge.mqtt import BrokerTopic

            destinations.append(BrokerTopic(options))
        names = [destination.name for destination in destinations]
        return [Publisher(Path(options.spool), options.keep, destination, names) for destination in destinations]


def main(argument: str) -> None:
    """Run; ends at once when the agent hangs up, whatever a library's threads do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    configure_logging()
    Bridge(msgspec.json.decode(argument, type=BridgeOptions)).run()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
