"""The agent under Greengrass: the real awsiotsdk client in its bridge against a local IPC endpoint."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from linewatch.edge_agent.client import AgentClient
from tests.contract.test_agent_calls import running_agent_with
from tests.greengrass_core import Core
from tests.processes import bridge_pid

RESULTS = {"Results": "all", "ResultsLocalTopic": "linewatch/{thing}/{model}", "ResultsIotTopic": "plant/{model}", "MeaningOfLife": 42}


@pytest.fixture
def core(tmp_path: Path) -> Iterator[Core]:
    made = Core(tmp_path / "ipc.sock", configuration={"Queue": "3", "LogCalls": 1.0, **RESULTS})
    yield made
    made.close()


@contextlib.contextmanager
def agent(models: Path, core: Core, tmp_path: Path, **settings: str) -> Iterator[AgentClient]:
    environment = {**core.environment(), "LINEWATCH_AGENT_SPOOL": str(tmp_path / "spool"), **settings}
    with running_agent_with(models, **environment) as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        yield client


def test_state_results_and_configuration(models: Path, core: Core, tmp_path: Path, picture: np.ndarray) -> None:
    with agent(models, core, tmp_path) as client:
        core.wait(lambda: core.states == ["RUNNING"])
        client.start("parts")
        results = [client.detect(picture, "parts")[0] for _ in range(5)]
        core.wait(lambda: len(core.local) == 5 and len(core.iot) == 5)
        assert {topic for topic, _ in core.local} == {"linewatch/line-7/parts"}
        assert {topic for topic, _ in core.iot} == {"plant/parts"}
        for result, (_, document), (_, same) in zip(results, core.local, core.iot, strict=True):
            assert document == same
            assert document["model"] == "parts"
            assert document["is_anomalous"] == result.is_anomalous
            assert document["confidence"] == pytest.approx(result.confidence, abs=1e-5)
            assert [a["name"] for a in document["anomalies"]] == [a.name for a in result.anomalies[1:]]
        core.configure(Results="off")
        time.sleep(0.5)
        client.detect(picture, "parts")
        core.configure(Results="all", ResultsLocalTopic="changed/{model}")

        def published_there() -> bool:
            client.detect(picture, "parts")
            return any(topic == "changed/parts" for topic, _ in core.local)

        core.wait(published_there)
        core.configure(Queue="not a number")
        time.sleep(0.3)
        client.detect(picture, "parts")


def test_results_wait_for_the_network_and_for_a_killed_bridge(models: Path, core: Core, tmp_path: Path, picture: np.ndarray) -> None:
    core.offline = True
    with agent(models, core, tmp_path) as client:
        client.start("parts")
        sent = [round(client.detect(picture if i % 2 else picture[::-1].copy(), "parts")[0].anomaly_score, 4) for i in range(10)]
        core.wait(lambda: len(core.local) == 10)
        assert core.iot == []
        first = bridge_pid(client._address)
        os.kill(first, signal.SIGKILL)
        client.detect(picture, "parts")
        core.offline = False
        core.wait(lambda: len(core.iot) >= 11, seconds=40)
        assert [round(document["score"], 4) for _, document in core.iot][:10] == sent, "in order"
        assert bridge_pid(client._address) != first
        core.wait(lambda: "linewatch_results_waiting 0.0" in client.metrics())
        core.wait(lambda: core.states == ["RUNNING", "RUNNING"])


def test_a_core_that_restarts_is_connected_again(models: Path, core: Core, tmp_path: Path) -> None:
    with agent(models, core, tmp_path):
        core.wait(lambda: core.states == ["RUNNING"])
        core.disconnect()
        core.wait(lambda: core.connections == 2, seconds=40)
        core.wait(lambda: core.states == ["RUNNING", "RUNNING"])


def test_a_small_core_lacks_operations_and_a_wrong_token_all_of_them(models: Path, core: Core, tmp_path: Path, picture: np.ndarray) -> None:
    core.missing = frozenset({"SubscribeToComponentUpdates", "SubscribeToConfigurationUpdate", "PublishToIoTCore"})
    with agent(models, core, tmp_path) as client:
        core.wait(lambda: core.states == ["RUNNING"])
        client.start("parts")
        client.detect(picture, "parts")
        core.wait(lambda: len(core.local) == 1)
    with agent(models, core, tmp_path, SVCUID="wrong") as client:
        client.start("parts")
        client.detect(picture, "parts")
    assert core.states == ["RUNNING"]


def test_updates_wait_while_a_picture_is_inspected(models: Path, core: Core, tmp_path: Path) -> None:
    large = np.zeros((3000, 3000, 3), np.uint8)
    with agent(models, core, tmp_path) as client:
        core.wait(lambda: core.states == ["RUNNING"])
        client.start("parts")
        core.wait(lambda: bool(core._subscriptions))
        time.sleep(0.5)
        core.ask_to_update("idle")
        core.wait(lambda: len(core.deferred) == 1)
        assert core.deferred[0] == {"deploymentId": "idle", "recheckAfterMs": 0, "message": ""}
        ended = threading.Event()

        def keep_busy() -> None:
            with AgentClient(client._address) as mine:
                while not ended.is_set():
                    mine.detect(large, "parts")

        busy = threading.Thread(target=keep_busy)
        busy.start()
        try:
            for i in range(20):
                core.ask_to_update(f"busy-{i}")
                core.wait(lambda i=i: len(core.deferred) == i + 2)
        finally:
            ended.set()
            busy.join(30)
        waits = [answer["recheckAfterMs"] for answer in core.deferred[1:]]
        assert max(waits) == 2000
        assert any(answer["message"] == "a picture is being inspected" for answer in core.deferred[1:])


def test_what_cannot_be_served_is_tried_again_when_it_is_mended(models: Path, core: Core, tmp_path: Path) -> None:
    core.configuration = {"SocketGroup": "no-such-group"}
    environment = {**core.environment(), "LINEWATCH_AGENT_SPOOL": str(tmp_path / "spool")}
    with running_agent_with(models, **environment) as address, AgentClient(address) as client:
        time.sleep(2)
        assert core.states == []
        core.configure(SocketGroup="")
        client.wait_until_listening(30)
        core.wait(lambda: core.states == ["RUNNING"])
