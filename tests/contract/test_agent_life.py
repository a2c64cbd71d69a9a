"""What the agent does by itself: restarts, metrics, who may call, idle models, several workers."""

import os
import re
import signal
import time
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest

from benchmarks.processes import free_port
from linewatch.edge_agent.client import AgentClient
from linewatch.edge_agent.models.states import State
from linewatch.edge_agent.protos import edge_agent_pb2 as pb
from tests.contract.test_agent_calls import raw, refused, running_agent_with
from tests.processes import worker_pids


def test_running_models_run_again_after_a_restart(models: Path, tmp_path: Path) -> None:
    state = str(tmp_path / "running.json")
    with running_agent_with(models, LINEWATCH_AGENT_STATE=state) as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start("parts")
    with running_agent_with(models, LINEWATCH_AGENT_STATE=state) as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        deadline = time.monotonic() + 20
        while client.describe("parts").status != State.RUNNING and time.monotonic() < deadline:
            time.sleep(0.05)
        assert client.describe("parts").status == State.RUNNING
        client.stop("parts")
    with running_agent_with(models, LINEWATCH_AGENT_STATE=state) as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        time.sleep(0.5)
        assert client.describe("parts").status == State.STOPPED, "who stops one has the last word"


def test_metrics_request_ids_and_what_the_log_says(models: Path, picture: np.ndarray) -> None:
    port = free_port()
    with running_agent_with(models, LINEWATCH_AGENT_METRICS=f"127.0.0.1:{port}") as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start("parts")
        for _ in range(3):
            client.detect(picture, "parts")
        assert 'linewatch_calls_total{model="parts",status="OK"} 3.0' in client.metrics()
        refused(client, "DetectAnomalies", raw(63, 63))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
            text = response.read().decode()
        assert 'linewatch_calls_total{model="parts",status="INVALID_ARGUMENT"} 1.0' in text
        _, call = client._stub.DescribeModel.with_call(
            pb.DescribeModelRequest(model_component="parts"), metadata=[("x-request-id", "line-7.42")]
        )
        assert ("x-request-id", "line-7.42") in [(m.key, m.value) for m in call.trailing_metadata()]
        with pytest.raises(grpc.RpcError) as error:
            client._stub.DescribeModel(pb.DescribeModelRequest(model_component="none"), metadata=[("x-request-id", "no { good")])
        [given] = [m.value for m in error.value.trailing_metadata() if m.key == "x-request-id"]
        assert re.fullmatch("[0-9a-f]{16}", given)


def test_only_allowed_users_may_call(models: Path) -> None:
    with running_agent_with(models, LINEWATCH_AGENT_ALLOWED_USERS=str(os.getuid() + 1)) as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        error = refused(client, "ListModels", pb.ListModelsRequest())
        assert error.code == "PERMISSION_DENIED"
        assert "allowed_users" in str(error)


def test_a_model_without_calls_is_idle_stopped_and_starts_again(models: Path, picture: np.ndarray) -> None:
    with running_agent_with(models, LINEWATCH_AGENT_IDLE_STOP_S="1", LINEWATCH_AGENT_RESCAN_S="1") as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start("parts")
        client.detect(picture, "parts")
        deadline = time.monotonic() + 20
        while client.describe("parts").status != State.STOPPED and time.monotonic() < deadline:
            time.sleep(0.1)
        assert "the next one starts it" in client.describe("parts").status_message
        client.detect(picture, "parts")
        assert client.describe("parts").status == State.RUNNING
        client.stop("parts")
        assert refused(client, "DetectAnomalies", raw(64, 64)).code == "FAILED_PRECONDITION", "a client's word is the last"


def test_several_workers_inspect_at_a_time_and_one_may_die(models: Path, picture: np.ndarray) -> None:
    with running_agent_with(models, LINEWATCH_AGENT_CONCURRENCY="2", LINEWATCH_AGENT_CPUS="0-1") as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start("parts")
        assert "2 workers" in client.describe("parts").status_message
        expected = client.detect(picture, "parts")[0].anomaly_score
        workers = worker_pids(address)
        assert sorted(sorted(os.sched_getaffinity(pid)) for pid in workers) == [[0], [1]]
        os.kill(workers[0], signal.SIGKILL)
        for _ in range(20):
            assert client.detect(picture, "parts")[0].anomaly_score == expected
            assert client.describe("parts").status == State.RUNNING
        deadline = time.monotonic() + 20
        while len(worker_pids(address)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(worker_pids(address)) == 2


def test_other_sizes_can_be_refused(models: Path, picture: np.ndarray) -> None:
    with running_agent_with(models, LINEWATCH_AGENT_OTHER_SIZES="refuse") as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start("parts")
        client.detect(picture, "parts")
        error = refused(client, "DetectAnomalies", raw(64, 64))
        assert error.code == "INVALID_ARGUMENT"
        assert "trained on 320x240" in str(error)
