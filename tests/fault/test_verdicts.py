"""Random faults in workers, channels, connections and the clock, with calls all the while: each answer belongs to its picture.

LINEWATCH_FAULT_CALLS says how many calls; what became of them is printed.
"""

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
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.processes import children
from linewatch.anomaly_model.picture import Rgb, read_picture
from linewatch.edge_agent.client import AgentCallError, AgentClient
from tests.clock import jumping_clock

pytestmark = pytest.mark.fault
CALLS = int(os.environ.get("LINEWATCH_FAULT_CALLS", "400"))
CALLERS = 4
CODES = {"INTERNAL", "DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "FAILED_PRECONDITION"}
"""A call broke off or its worker died; it had no time, or its caller none; its caller left; the queue was full; its connection was cut;
workers were killed while they were being started again."""
HUNG_S = 60.0

AGENT = """
import os, random, sys
from pathlib import Path
from linewatch.edge_agent.workers import channel as channel_module
from linewatch.commands.cli import main

chance, switch = random.Random(), Path(os.environ["FAULTS_FILE"])
real_send, real_receive = channel_module.send, channel_module.receive_reply

def at_times():
    if chance.random() < 0.0007 and switch.exists():
        raise chance.choice([RuntimeError("can't start new thread"), MemoryError(), OSError(105, "No buffer space"), ConnectionResetError()])

def send(*arguments):
    at_times()
    real_send(*arguments)
    at_times()

def receive_reply(connection):
    at_times()
    reply = real_receive(connection)
    at_times()
    return reply

channel_module.send, channel_module.receive_reply = send, receive_reply
sys.argv = ["linewatch", "agent"]
main()
"""


@contextlib.contextmanager
def sabotaged_agent(models: Path, folder: Path) -> Iterator[tuple[int, str, Path, Path]]:
    """An agent that raises at times in the middle of its exchange with a worker, once a file is there, and whose clock jumps."""
    address = f"unix:///tmp/linewatch-{secrets.token_hex(4)}.sock"
    switch = folder / "faults"
    jump, environment = jumping_clock(folder)
    settings = {"MODELS": models, "SOCKET": address, "CONCURRENCY": 2, "RESTARTS": 10**6, "CALL_TIMEOUT_S": 3, "START_TIMEOUT_S": 20,
                "QUEUE": 2 * CALLERS}  # fmt: skip
    environment |= {f"LINEWATCH_AGENT_{name}": str(value) for name, value in settings.items()} | {"FAULTS_FILE": str(switch)}
    with (folder / "agent.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-c", AGENT], stdout=log, stderr=log, env={**os.environ, **environment})
        try:
            yield process.pid, address, switch, jump
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def distinct_pictures(folder: Path) -> list[Rgb]:
    found = [read_picture(p) for kind in ("normal", "anomaly") for p in sorted((folder / "test" / kind).iterdir())]
    return found + [np.ascontiguousarray(p[::-1]) for p in found]


class Caller:
    """One camera program among several, and what becomes of its calls."""

    def __init__(self, number: int, agent: int, address: str, jump: Path) -> None:
        self._chance, self._agent, self._address, self._jump = random.Random(number), agent, address, jump
        self.outcomes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.longest = 0.0

    def run(self, calls: int, pictures: list[Rgb], expected: list[tuple[float, bytes]]) -> None:
        client = AgentClient(self._address)
        for _ in range(calls):
            i = self._chance.randrange(len(pictures))
            fault = self._harm()
            client._timeout = self._chance.uniform(0.0005, 0.01) if fault == "short deadline" else HUNG_S
            cutting = threading.Timer(self._chance.uniform(0, 0.01), client._channel.close)
            if fault == "connection cut":
                cutting.start()
            begun = time.monotonic()
            try:
                result, mask = client.detect(pictures[i], "parts", self._chance.choice(["bytes", "shared-memory"]))
                self.outcomes["OK"] += 1
                if mask is None or (result.anomaly_score, mask.tobytes()) != expected[i]:
                    self.wrong.append(f"picture {i}: {result.anomaly_score} instead of {expected[i][0]}")
            except AgentCallError as error:
                self.outcomes[error.code] += 1
                if error.code == "FAILED_PRECONDITION":
                    with contextlib.suppress(AgentCallError):  # another caller was faster, or it fails again
                        client._timeout = HUNG_S
                        client.start("parts")
            except ValueError:
                self.outcomes["CANCELLED"] += 1  # the connection was cut before the call was begun
            self.longest = max(self.longest, time.monotonic() - begun)
            if fault == "connection cut":
                cutting.join()
                client.close()
                client = AgentClient(self._address)
        client.close()

    def _harm(self) -> str:
        fault = self._chance.choices(
            ["none", "worker killed", "worker stopped", "short deadline", "connection cut", "rubbish", "clock"], [9800, 40, 4, 60, 40, 40, 16]
        )[0]
        self.faults[fault] += 1
        if fault in ("worker killed", "worker stopped") and (workers := children(self._agent, "linewatch.edge_agent.workers.worker")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._chance.choice(workers), signal.SIGKILL if fault == "worker killed" else signal.SIGSTOP)
        elif fault == "rubbish":
            with socket.socket(socket.AF_UNIX) as raw, contextlib.suppress(OSError):
                raw.settimeout(5)
                raw.connect(self._address.removeprefix("unix://"))
                raw.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + self._chance.randbytes(100))
        elif fault == "clock":
            self._jump.write_text(str(self._chance.choice([0, 86_400, -86_400 * 400, 3600])))
        return fault


def test_whatever_fails_each_answer_belongs_to_its_picture(models: Path, parts: Path, tmp_path: Path) -> None:
    pictures = distinct_pictures(parts)
    with sabotaged_agent(models, tmp_path) as (agent, address, switch, jump):
        with AgentClient(address) as client:
            client.wait_until_listening(60)
            client.start("parts")
            answers = [client.detect(p, "parts", "bytes") for p in pictures]
        expected = [(result.anomaly_score, b"" if mask is None else mask.tobytes()) for result, mask in answers]
        assert len({score for score, _ in expected}) == len(expected), "each picture is known by its score"
        switch.touch()
        callers = [Caller(number, agent, address, jump) for number in range(CALLERS)]
        threads = [threading.Thread(target=c.run, args=(CALLS // CALLERS, pictures, expected), daemon=True) for c in callers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(CALLS)  # a second for each call is more than they take, faults included
        hung = [thread for thread in threads if thread.is_alive()]
        outcomes = sum((c.outcomes for c in callers), Counter[str]())
        print(f"{outcomes.total()} calls {dict(outcomes)}, faults {dict(sum((c.faults for c in callers), Counter[str]()))}, "
              f"longest {max(c.longest for c in callers):.1f} s")  # fmt: skip
        assert [w for c in callers for w in c.wrong] == []
        assert hung == []
        assert max(c.longest for c in callers) < HUNG_S
        assert set(outcomes) <= {"OK", *CODES}
        assert outcomes["OK"] > CALLS // 2
        switch.unlink()
        with AgentClient(address) as client:
            client.start("parts")
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:  # the last fault may not be over
                with contextlib.suppress(AgentCallError):
                    assert client.detect(pictures[0], "parts")[0].anomaly_score == expected[0][0]
                    break
            else:
                raise AssertionError("nothing is answered any more")
