"""What happens when processes are killed, sockets are left behind, and a trainer dies in the middle."""

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.processes import children
from linewatch.anomaly_model.bundle import Bundle, open_bundle
from linewatch.commands.demo import running_agent
from linewatch.edge_agent.client import AgentCallError, AgentClient, SharedFrame
from linewatch.edge_agent.errors import InvalidRequestError
from linewatch.edge_agent.models.host import ModelHost
from linewatch.edge_agent.models.states import State
from linewatch.edge_agent.settings import Settings
from linewatch.edge_agent.workers.prediction import PictureRequest
from linewatch.edge_agent.workers.shared_buffer import MARKS_OFFSET
from linewatch.edge_agent.workers.shared_memory import open_segment
from tests.callers import Patient
from tests.contract.test_agent_calls import running_agent_with
from tests.processes import worker_pids

pytestmark = pytest.mark.fault
BLANK = np.zeros((240, 320, 3), np.uint8)


def wait_for_state(client: AgentClient, model: str, state: State) -> str:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        description = client.describe(model)
        if description.status == state:
            return str(description.status_message)
        time.sleep(0.02)
    raise AssertionError(f"{model} is {State(client.describe(model).status).name}, expected {state.name}")


def test_a_killed_worker_is_started_again_while_calls_wait(models: Path) -> None:
    before = set(worker_pids())
    with running_agent(models) as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start("parts")
        client.detect(BLANK, "parts")
        for _ in range(3):
            [worker] = set(worker_pids()) - before
            os.kill(worker, signal.SIGKILL)
            time.sleep(0.05)  # the agent has noticed
            assert client.detect(BLANK, "parts")[0].confidence > 0
            assert client.describe("parts").status == State.RUNNING
        [worker] = set(worker_pids()) - before
        os.kill(worker, signal.SIGKILL)
        message = wait_for_state(client, "parts", State.FAILED)
        assert "SIGKILL" in message
        assert "start it again" in message, "the fourth death within a minute"


def test_calls_that_a_killed_worker_had_not_begun_go_to_the_next_one(models: Path) -> None:
    before = set(worker_pids())
    with running_agent(models) as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start("parts")
        [worker] = set(worker_pids()) - before
        os.kill(worker, signal.SIGSTOP)
        failed: list[AgentCallError] = []

        def call() -> None:
            with AgentClient(address) as mine:
                try:
                    mine.detect(BLANK, "parts")
                except AgentCallError as error:
                    failed.append(error)

        first = threading.Thread(target=call)
        first.start()
        time.sleep(0.3)
        second = threading.Thread(target=call)
        second.start()
        time.sleep(0.1)
        os.kill(worker, signal.SIGKILL)
        first.join()
        second.join()
        assert failed == []
        client.detect(BLANK, "parts")


def begun(worker: int) -> bytes:
    """Which requests this worker has begun with, on all its channels: see `linewatch.edge_agent.workers.shared_buffer.SharedBuffer`."""
    marks = b""
    for path in sorted(Path(f"/proc/{worker}/fd").iterdir()):
        if "linewatch-shared-buffer" in str(path.readlink()):
            with path.open("rb") as memory:
                memory.seek(MARKS_OFFSET + 8)
                marks += memory.read(8)
    return marks


def test_a_worker_killed_in_a_call_fails_this_call_only(models: Path) -> None:
    before = set(worker_pids())
    large = np.zeros((3000, 3000, 3), np.uint8)
    with running_agent(models) as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start("parts")
        [worker] = set(worker_pids()) - before
        answers: list[str] = []

        def call() -> None:
            with AgentClient(address) as mine:
                try:
                    mine.detect(large, "parts")
                    answers.append("answered")
                except AgentCallError as error:
                    answers.append(str(error))

        old = begun(worker)
        thread = threading.Thread(target=call)
        thread.start()
        deadline = time.monotonic() + 30
        while begun(worker) == old and time.monotonic() < deadline:
            pass
        os.kill(worker, signal.SIGKILL)
        killed = time.monotonic()
        client.detect(BLANK, "parts")
        assert time.monotonic() - killed < 10, "bounded; what it takes is measured by benchmarks/agent.py"
        thread.join(30)
        [answer] = answers
        assert answer.startswith("INTERNAL"), answer
        assert "it is being started again" in answer


def test_a_killed_worker_fails_its_model_and_can_be_started_again(models: Path) -> None:
    before = set(worker_pids())
    with running_agent_with(models, LINEWATCH_AGENT_RESTARTS="0") as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start("parts")
        client.detect(BLANK, "parts")
        [worker] = set(worker_pids()) - before
        os.kill(worker, signal.SIGKILL)
        assert "SIGKILL" in wait_for_state(client, "parts", State.FAILED)
        with pytest.raises(AgentCallError, match=r"FAILED_PRECONDITION.*FAILED"):
            client.detect(BLANK, "parts")
        client.start("parts")
        client.detect(BLANK, "parts")


def test_a_worker_that_hangs_is_ended(models: Path) -> None:
    before = set(worker_pids())
    with running_agent_with(models, LINEWATCH_AGENT_CALL_TIMEOUT_S="1", LINEWATCH_AGENT_RESTARTS="0") as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start("parts")
        [worker] = set(worker_pids()) - before
        os.kill(worker, signal.SIGSTOP)
        with pytest.raises(AgentCallError, match=r"INTERNAL.*did not answer within 1 s"):
            client.detect(BLANK, "parts")
        wait_for_state(client, "parts", State.FAILED)
        client.start("parts")
        client.detect(BLANK, "parts")


def test_stop_ends_the_worker_process(models: Path) -> None:
    before = set(worker_pids())
    with running_agent(models) as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start("parts")
        [worker] = set(worker_pids()) - before
        client.stop("parts")
        assert not Path(f"/proc/{worker}").exists()


def test_a_full_shared_memory_refuses_the_mask_and_keeps_the_model(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    host = ModelHost("parts", models / "parts", Settings())
    frame = SharedFrame()
    try:
        frame.write(BLANK)
        host.start(models / "parts")
        deadline = time.monotonic() + 30
        while host.status[0] is State.STARTING and time.monotonic() < deadline:
            time.sleep(0.02)
        with open_segment(frame.name, BLANK.nbytes, BLANK.nbytes, rows=(BLANK.nbytes, 1), caller=os.getuid(), writable=True) as mask:
            with monkeypatch.context() as patch:
                patch.setattr("linewatch.edge_agent.workers.mask.os.pwritev", full)
                with pytest.raises(InvalidRequestError, match="No space left"):
                    host.predict(PictureRequest(320, 240, BLANK.tobytes(), mask), Patient())
            assert host.status[0] is State.RUNNING
            host.predict(PictureRequest(320, 240, BLANK.tobytes(), mask), Patient())
    finally:
        frame.close()
        host.shut_down()
    assert host.pid is None


def agent_process(models: Path, socket: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "linewatch", "agent", "--models", str(models), "--socket", f"unix://{socket}"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_sockets_left_behind_are_replaced_and_living_ones_are_not(models: Path, tmp_path: Path) -> None:
    socket = tmp_path / "a.sock"
    first = agent_process(models, socket)
    try:
        with AgentClient(f"unix://{socket}") as client:
            client.wait_until_listening(30)
            client.start("parts")
        rival = agent_process(models, socket)
        _, complaint = rival.communicate(timeout=60)
        assert rival.returncode == 1
        assert b"another agent is listening" in complaint
        [worker] = children(first.pid)
        first.kill()
        first.communicate(timeout=30)
        assert socket.exists()
        deadline = time.monotonic() + 10
        while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not Path(f"/proc/{worker}").exists(), "an orphaned worker must end by itself"
    finally:
        if first.poll() is None:
            first.kill()
            first.communicate()
    second = agent_process(models, socket)
    try:
        with AgentClient(f"unix://{socket}") as client:
            client.wait_until_listening(30)
            client.start("parts")
            client.detect(BLANK, "parts")
        second.send_signal(signal.SIGTERM)
        second.communicate(timeout=30)
        assert second.returncode == 0
        assert not socket.exists()
    finally:
        if second.poll() is None:
            second.kill()
            second.communicate()


def test_a_file_in_the_sockets_place_is_left_alone(models: Path, tmp_path: Path) -> None:
    precious = tmp_path / "notes.txt"
    precious.write_text("keep me")
    agent = agent_process(models, precious)
    _, complaint = agent.communicate(timeout=60)
    assert agent.returncode == 1
    assert b"not a socket" in complaint
    assert precious.read_text() == "keep me"


def trainer(data: Path, output: Path, *extra: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "linewatch", "train", str(data), "-o", str(output), "--side", "64", "--accept-weak", *extra]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def wait_for(process: subprocess.Popen[bytes], text: bytes) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"the trainer ended without saying {text!r}")


def test_a_trainer_killed_in_the_middle_leaves_the_old_bundle_and_goes_on(
    bundle: Bundle, parts: Path, tmp_path: Path
) -> None:
    old = tmp_path / "bundle"
    shutil.copytree(bundle.folder, old)
    process = trainer(parts / "train", old, "--effort", "quick", "--encoder", "none")
    wait_for(process, b"fitting the final model")
    process.kill()
    process.communicate(timeout=30)
    assert open_bundle(old).manifest == bundle.manifest
    kept = {p.name for p in (tmp_path / "bundle.unfinished").iterdir()}
    assert {"fold-bank-0.npz", "fold-bank-5.npz", "pictures.npz"} <= kept
    again = trainer(parts / "train", old, "--effort", "quick", "--encoder", "none")
    _, said = again.communicate(timeout=120)
    assert again.returncode == 0, said
    assert b"reading pictures" not in said, "what was finished is not done again"
    assert b"computing features" not in said
    assert not (tmp_path / "bundle.unfinished").exists()
    straight = trainer(parts / "train", tmp_path / "straight", "--effort", "quick", "--encoder", "none")
    straight.communicate(timeout=120)
    assert open_bundle(old).manifest.files["model.onnx"] == open_bundle(tmp_path / "straight").manifest.files["model.onnx"]


def test_a_trainer_that_is_told_to_stop_says_how_to_go_on(parts: Path, tmp_path: Path) -> None:
    process = trainer(parts / "train", tmp_path / "b", "--effort", "quick", "--encoder", "none")
    wait_for(process, b"cross-validating")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"goes on where it was" in said
    assert b"Traceback" not in said
    assert not (tmp_path / "b").exists()


def test_no_space_while_exporting(parts: Path, tmp_path: Path) -> None:
    process = trainer(parts / "train", tmp_path / "b", "--effort", "quick", "--encoder", "none")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1
    assert b"Free space" in said or b"no space left" in said
    assert b"Traceback" not in said
    assert not (tmp_path / "b").exists()
