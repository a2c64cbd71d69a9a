"""Results to a real MQTT broker, Debian's mosquitto, in the open and with TLS."""

import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from awscrt import io, mqtt

from benchmarks.processes import free_port
from linewatch.edge_agent.client import AgentClient
from tests.certificates import Authority
from tests.conftest import need_tool
from tests.contract.test_agent_calls import running_agent_with


class Broker:
    """mosquitto on loopback; `plain` is for the test's own subscription, `port` for the agent."""

    def __init__(self, folder: Path, *, tls: bool) -> None:
        program = need_tool("mosquitto")
        self.plain, self.port = free_port(), free_port()
        self.authority = Authority(folder / "authority")
        lines = ["persistence false", f"listener {self.plain} 127.0.0.1", "allow_anonymous true", f"listener {self.port} 127.0.0.1"]
        if tls:
            certificate, key = self.authority.issue("localhost")
            lines += [f"cafile {self.authority.certificate}", f"certfile {certificate}", f"keyfile {key}", "require_certificate true"]
        if os.getuid() == 0:
            lines.append("user root")
        self._configuration = folder / "mosquitto.conf"
        self._configuration.write_text("\n".join(lines) + "\n")
        self._program = program
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([self._program, "-c", str(self._configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.plain)) == 0:
                    return
            time.sleep(0.05)
        raise AssertionError("mosquitto does not listen")

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)


class Subscriber:
    """Collects what arrives on a topic."""

    def __init__(self, port: int, topic: str) -> None:
        self.got: list[tuple[str, dict[str, object]]] = []
        self._changed = threading.Condition()
        group = io.EventLoopGroup(1)
        bootstrap = io.ClientBootstrap(group, io.DefaultHostResolver(group))
        self._connection = mqtt.Connection(
            client=mqtt.Client(bootstrap), host_name="127.0.0.1", port=port, client_id="test", clean_session=True, on_connection_resumed=self._again
        )
        self._topic = topic
        self._connection.connect().result(10)
        self._subscribe().result(10)

    def _subscribe(self) -> object:
        future, _ = self._connection.subscribe(self._topic, mqtt.QoS.AT_LEAST_ONCE, self._take)
        return future

    def _again(self, **_: object) -> None:
        self._subscribe()

    def _take(self, topic: str, payload: bytes, **_: object) -> None:
        with self._changed:
            self.got.append((topic, json.loads(payload)))
            self._changed.notify_all()

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.got) >= count, 60), len(self.got)

    def close(self) -> None:
        self._connection.disconnect().result(10)


@pytest.fixture(params=["mqtt", "mqtts"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path, tls=request.param == "mqtts")
    yield made
    made.stop()


def test_results_reach_the_broker_also_after_it_was_away(broker: Broker, request: pytest.FixtureRequest, models: Path, tmp_path: Path,
                                                         picture: np.ndarray) -> None:  # fmt: skip
    scheme = request.node.callspec.params["broker"]
    settings = {"RESULTS": "all", "SPOOL": str(tmp_path / "spool"), "MQTT": f"{scheme}://localhost:{broker.port}", "MQTT_TOPIC": "plant/{model}"}
    if scheme == "mqtts":
        certificate, key = broker.authority.issue("agent")
        settings |= {"MQTT_CA": str(broker.authority.certificate), "MQTT_CERTIFICATE": str(certificate), "MQTT_KEY": str(key)}
    subscriber = Subscriber(broker.plain, "plant/#")
    environment = {f"LINEWATCH_AGENT_{name}": value for name, value in settings.items()}
    with running_agent_with(models, **environment) as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start("parts")
        sent = [round(client.detect(picture if i % 3 else picture[::-1].copy(), "parts")[0].anomaly_score, 4) for i in range(6)]
        subscriber.wait(6)
        assert {topic for topic, _ in subscriber.got} == {"plant/parts"}
        broker.stop()
        sent += [round(client.detect(picture if i % 3 else picture[::-1].copy(), "parts")[0].anomaly_score, 4) for i in range(6)]
        assert "linewatch_results_waiting" in client.metrics()
        subscriber.close()
        broker.start()
        subscriber = Subscriber(broker.plain, "plant/#")
        subscriber.wait(6)
        assert [round(float(document["score"]), 4) for _, document in subscriber.got][-6:] == sent[-6:]  # type: ignore[arg-type]
    subscriber.close()
