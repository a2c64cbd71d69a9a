"""Peers that send rubbish, go away, do not read; memory that is full; clocks that jump; a SIGTERM in the middle."""

import contextlib
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.floods import FLOODS, connector, pour
from benchmarks.http2_frames import PING, frame, hello
from benchmarks.processes import resident_mib
from linewatch.commands.demo import running_agent
from linewatch.edge_agent.client import AgentCallError, AgentClient, SharedFrame
from linewatch.edge_agent.models.states import State
from linewatch.edge_agent.protos import edge_agent_pb2 as pb
from tests.clock import jumping_clock
from tests.contract.test_agent_calls import running_agent_with
from tests.processes import agent_pid, worker_pids

pytestmark = pytest.mark.fault
BLANK = np.zeros((240, 320, 3), np.uint8)
REQUESTS = int(os.environ.get("LINEWATCH_FAULT_REQUESTS", "4000"))
ALLOWED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNIMPLEMENTED"}


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def random_request(chance: random.Random, frame_name: str) -> bytes:
    """A DetectAnomaliesRequest that is right in some parts and wrong in others, then damaged as bytes now and then."""
    names = ["parts", "", "nothing", "../parts", "parts\0", "x" * 5000]
    sizes = [0, 1, 63, 64, 65, 240, 320, 4096, 4097, 2**31 - 1, -1]
    segments = [frame_name, "/" + frame_name, "", ".", "..", "/", "a/b", "../etc/passwd", "none", "x" * 300]
    request = pb.DetectAnomaliesRequest(model_component=chance.choices(names, [8, 1, 1, 1, 1, 1])[0])
    request.bitmap.width, request.bitmap.height = chance.choice([64, chance.choice(sizes)]), chance.choice([64, chance.choice(sizes)])
    kind = chance.randrange(4)
    if kind == 0:
        request.bitmap.byte_data = chance.randbytes(chance.choice([0, 1, 64 * 64 * 3, 64 * 64 * 3 + 1, 1000]))
    elif kind < 3:
        handle = request.bitmap.shared_memory_handle
        handle.name, handle.size, handle.offset = chance.choice(segments), chance.choice([12288, 0, 2**64 - 1]), chance.choice([0, 1, 2**63])
    if chance.random() < 0.4:
        for field in ("shared_memory_handle", "shared_memory_handle_of_samples"):
            if chance.random() < 0.6:
                handle = getattr(request.anomaly_mask_params, field)
                handle.name, handle.size, handle.offset = chance.choice(segments), chance.choice([12288, 5]), chance.choice([0, 12288])
    data = bytearray(request.SerializeToString())
    if chance.random() < 0.3:
        for _ in range(chance.randrange(1, 5)):
            change = chance.randrange(3)
            at = chance.randrange(len(data) + 1) if data else 0
            if change == 0 and data:
                data[at - 1] = chance.randrange(256)
            elif change == 1:
                data[at:at] = chance.randbytes(chance.randrange(1, 9))
            else:
                del data[at : at + chance.randrange(1, 9)]
    return bytes(data)


def test_random_and_mutated_requests(models: Path) -> None:
    chance = random.Random(6)
    seen: set[str] = set()
    with running_agent(models) as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start("parts")
        client.detect(BLANK, "parts")
        expected = client.detect(BLANK, "parts")[0].anomaly_score
        small = SharedFrame()
        small.write(np.zeros((64, 64, 3), np.uint8))
        agent, workers = agent_pid(address), worker_pids(address)
        before = descriptors(agent)
        method = client._channel.unary_unary("/AWS.LookoutVision.EdgeAgent/DetectAnomalies")
        import grpc

        for _ in range(REQUESTS):
            try:
                method(random_request(chance, small.name), timeout=20)
                seen.add("OK")
            except grpc.RpcError as error:
                seen.add(error.code().name)
        small.close()
        assert seen <= ALLOWED
        assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= seen
        assert worker_pids(address) == workers, "no worker died of it"
        assert descriptors(agent) <= before + 2
        assert client.detect(BLANK, "parts")[0].anomaly_score == expected


def test_rubbish_on_the_socket_ends_its_own_connection(models: Path) -> None:
    chance = random.Random(7)
    with running_agent(models) as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start("parts")
        agent = agent_pid(address)
        client.detect(BLANK, "parts")
        before = descriptors(agent)
        good = hello() + frame(PING, 0, 0, bytes(8))
        for i in range(300):
            data = bytearray(good if i % 2 else good[:24]) + chance.randbytes(chance.randrange(1, 400))
            if i % 3 == 0:
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            with socket.socket(socket.AF_UNIX) as raw, contextlib.suppress(OSError):
                raw.settimeout(5)
                raw.connect(address.removeprefix("unix://"))
                raw.sendall(bytes(data))
                raw.shutdown(socket.SHUT_WR)
                while raw.recv(65536):
                    pass
        client.detect(BLANK, "parts")
        deadline = time.monotonic() + 10
        while descriptors(agent) > before + 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert descriptors(agent) <= before + 2


@pytest.fixture(scope="module")
def flooded(models: Path) -> Iterator[str]:
    with running_agent_with(models, LINEWATCH_AGENT_LOG_CALLS="0") as address:
        with AgentClient(address) as client:
            client.wait_until_listening(30)
            client.start("parts")
            client.detect(BLANK, "parts")
        yield address


@pytest.mark.parametrize("name", sorted(FLOODS))
def test_floods_harm_nobody_else(flooded: str, name: str) -> None:
    agent = agent_pid(flooded)
    log = Path(flooded.removeprefix("unix://")).with_name("agent.log")
    with AgentClient(flooded, timeout_s=10) as client:
        expected = client.detect(BLANK, "parts")[0].anomaly_score
        before, lines = resident_mib(agent), log.read_bytes().count(b"\n")
        flood = threading.Thread(target=pour, args=(FLOODS[name], connector(flooded), 1.0))
        flood.start()
        answers = []
        while flood.is_alive():
            answers.append(client.detect(BLANK, "parts")[0].anomaly_score)
        flood.join()
        assert len(answers) >= 1
        assert set(answers) == {expected}, "every call of another client is answered, and rightly"
        assert resident_mib(agent) < before + 200
        assert log.read_bytes().count(b"\n") - lines < 300


HOLDER = """
import os, sys, time
from linewatch.edge_agent.client import SharedFrame
import numpy as np
frame = SharedFrame(); frame.write(np.zeros((240, 320, 3), np.uint8)); print(frame.name, flush=True); time.sleep(60)
"""


def test_a_client_that_dies_holding_a_segment_holds_up_nobody(models: Path) -> None:
    with running_agent(models) as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start("parts")
        holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE)
        assert holder.stdout is not None
        name = holder.stdout.readline().decode().strip()
        size = BLANK.nbytes
        handle = pb.SharedMemoryHandle(name=name, size=size)
        request = pb.DetectAnomaliesRequest(model_component="parts", bitmap=pb.Bitmap(width=320, height=240, shared_memory_handle=handle))
        first = client.call("DetectAnomalies", request).detect_anomaly_result
        holder.kill()
        holder.wait(10)
        holder.stdout.close()
        path = Path("/dev/shm") / name
        assert client.call("DetectAnomalies", request).detect_anomaly_result == first, "its segment outlives it, as POSIX has it"
        path.unlink()
        with pytest.raises(AgentCallError, match="does not exist"):
            client.call("DetectAnomalies", request)
        for pid in (agent_pid(address), *worker_pids(address)):
            held = [os.readlink(p) for p in Path(f"/proc/{pid}/fd").iterdir() if p.exists()]  # noqa: PTH115
            assert not [target for target in held if name in target], "nothing of it is kept open"


def test_a_client_that_changes_or_shrinks_its_picture_harms_only_itself(models: Path) -> None:
    with running_agent(models) as address, AgentClient(address) as client, AgentClient(address) as other:
        client.wait_until_listening(30)
        client.start("parts")
        workers = worker_pids(address)
        expected = other.detect(BLANK, "parts", "bytes")[0].anomaly_score
        path = Path("/dev/shm") / f"linewatch-test-{secrets.token_hex(6)}"
        size = 2000 * 2000 * 3
        path.write_bytes(bytes(size))
        ended = threading.Event()

        def change() -> None:
            while not ended.is_set():
                os.truncate(path, random.randrange(size))
                os.truncate(path, size)

        changing = threading.Thread(target=change)
        changing.start()
        outcomes = set()
        try:
            handle = pb.SharedMemoryHandle(name=path.name, size=size)
            request = pb.DetectAnomaliesRequest(model_component="parts", bitmap=pb.Bitmap(width=2000, height=2000, shared_memory_handle=handle))
            for _ in range(60):
                try:
                    client.call("DetectAnomalies", request)
                    outcomes.add("OK")
                except AgentCallError as error:
                    outcomes.add(error.code)
                assert other.detect(BLANK, "parts", "bytes")[0].anomaly_score == expected
        finally:
            ended.set()
            changing.join(10)
            path.unlink()
        assert outcomes <= {"OK", "INVALID_ARGUMENT"}
        assert worker_pids(address) == workers, "no SIGBUS"


def test_large_pictures_at_load(models: Path) -> None:
    large = np.random.default_rng(1).integers(0, 256, (4096, 4096, 3), np.uint8)
    wrong: list[str] = []
    with running_agent_with(models, LINEWATCH_AGENT_QUEUE="16") as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start("parts")
        score = client.detect(large, "parts")[0].anomaly_score

        def call(transport: str) -> None:
            with AgentClient(address) as mine:
                for _ in range(4):
                    try:
                        result, mask = mine.detect(large, "parts", transport)  # type: ignore[arg-type]
                        if abs(result.anomaly_score - score) > 1e-6 or mask is None or mask.shape != large.shape:
                            wrong.append("another answer")
                    except AgentCallError as error:
                        if error.code != "RESOURCE_EXHAUSTED":
                            wrong.append(str(error))

        threads = [threading.Thread(target=call, args=(t,)) for t in ("bytes", "bytes", "shared-memory", "shared-memory")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert wrong == []
        resident = resident_mib(agent_pid(address))
        assert resident < 700, "memory is bounded by what may arrive at once"


def test_sigterm_under_load_answers_every_call_that_was_accepted(models: Path) -> None:
    with running_agent(models) as address:
        with AgentClient(address) as client:
            client.wait_until_listening(30)
            client.start("parts")
        answers: list[str] = []
        ended = threading.Event()

        def call() -> None:
            with AgentClient(address) as mine:
                while not ended.is_set():
                    try:
                        mine.detect(BLANK, "parts")
                        answers.append("OK")
                    except AgentCallError as error:
                        answers.append(error.code)
                        if error.code == "UNAVAILABLE":
                            return

        threads = [threading.Thread(target=call) for _ in range(4)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        while answers.count("OK") < 40 and time.monotonic() < deadline:
            time.sleep(0.01)
        agent, workers = agent_pid(address), worker_pids(address)
        os.kill(agent, signal.SIGTERM)
        for thread in threads:
            thread.join(30)
        ended.set()
        # UNAVAILABLE is for calls that were not accepted any more; everything else was answered.
        assert set(answers) <= {"OK", "UNAVAILABLE", "RESOURCE_EXHAUSTED"}
        assert answers.count("UNAVAILABLE") <= 4
        deadline = time.monotonic() + 20
        while Path(f"/proc/{agent}").exists() and "Z" not in Path(f"/proc/{agent}/stat").read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


def test_a_clock_that_jumps_changes_no_answer_and_no_order(models: Path, tmp_path: Path) -> None:
    jump, environment = jumping_clock(tmp_path)
    settings = {**environment, "LINEWATCH_AGENT_RESULTS": "all",
                "LINEWATCH_AGENT_SPOOL": str(tmp_path / "spool"), "LINEWATCH_AGENT_MQTT": "mqtt://127.0.0.1:1",
                "LINEWATCH_AGENT_CALL_TIMEOUT_S": "5"}  # fmt: skip
    with running_agent_with(models, **settings) as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start("parts")
        expected = client.detect(BLANK, "parts")[0].anomaly_score
        for seconds in (86_400, -86_400 * 400, 0, -3600):
            jump.write_text(str(seconds))
            for _ in range(5):
                assert client.detect(BLANK, "parts")[0].anomaly_score == expected
            client.stop("parts")
            client.start("parts")
        assert client.describe("parts").status == State.RUNNING
        time.sleep(0.5)
    from linewatch.edge_agent.results.spool import Spool

    kept = Spool(tmp_path / "spool", 1000).after("test", 100)
    assert [result.number for result in kept] == list(range(1, 22))
    years = {result.body[9:13] for result in kept}
    assert len(years) == 2, "the results say what the clock said, and keep their order"


SMALL = """
import os, sys
from pathlib import Path
import numpy as np
from benchmarks.floods import FLOODS, connector, pour
from benchmarks.http2_frames import PING, frame, hello
from benchmarks.processes import resident_mib
from linewatch.edge_agent.client import AgentCallError, AgentClient, SharedFrame
from linewatch.edge_agent.protos import edge_agent_pb2 as pb
from linewatch.commands.demo import running_agent

blank = np.zeros((240, 320, 3), np.uint8)
with running_agent(Path(sys.argv[1])) as address, AgentClient(address) as client:
    client.wait_until_listening(30)
    client.start("parts")
    client.detect(blank, "parts")
    name = "sparse"
    with open(f"/dev/shm/{name}", "wb") as segment:
        segment.truncate(2 * blank.nbytes)
    with open("/dev/shm/filler", "wb", buffering=0) as filler:
        try:
            while filler.write(bytes(4096)):
                pass
        except OSError as error:
            assert error.errno == 28
    handle = pb.SharedMemoryHandle(name=name, size=blank.nbytes)
    request = pb.DetectAnomaliesRequest(model_component="parts", bitmap=pb.Bitmap(width=320, height=240, shared_memory_handle=handle))
    request.anomaly_mask_params.shared_memory_handle.CopyFrom(pb.SharedMemoryHandle(name=name, size=blank.nbytes, offset=blank.nbytes))
    try:
        client.call("DetectAnomalies", request)
        raise SystemExit("a mask was written where there is no room")
    except AgentCallError as error:
        assert error.code == "INVALID_ARGUMENT" and "No space left" in str(error), error
    os.unlink("/dev/shm/filler")
    client.call("DetectAnomalies", request)
    print("served on")
"""


def test_a_full_dev_shm_fails_the_call_and_nothing_else(models: Path) -> None:
    mount = 'mount -t tmpfs -o size=1200k none /dev/shm || exit 77; exec "$0" -c "$1" "$2"'
    command = ["unshare", "-m", "sh", "-c", mount, sys.executable, SMALL, str(models)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode in (1, 77) and not os.environ.get("CI") and "ermi" in done.stderr:
        pytest.skip(f"this user may not mount: {done.stderr.strip()[:200]}")
    assert done.stdout.endswith("served on\n"), done.stdout[-2000:] + done.stderr[-2000:]
