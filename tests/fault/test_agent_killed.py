"""The agent is killed while it writes what it keeps: which models run, and results."""

import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from linewatch.edge_agent.client import AgentCallError, AgentClient
from linewatch.edge_agent.models.running import RunningModels
from linewatch.edge_agent.models.states import State
from linewatch.edge_agent.results.spool import Spool
from tests.fault.test_processes import wait_for_state

pytestmark = pytest.mark.fault
BLANK = np.zeros((240, 320, 3), np.uint8)
ROUNDS = 4

WRITER = """
import os, signal, sys
from pathlib import Path
from linewatch.edge_agent.models.running import RunningModels

models, function, calls = RunningModels(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
real, counted = getattr(os, function), [0]

def killing(*arguments, **named):
    counted[0] += 1
    if counted[0] == calls:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **named)

setattr(os, function, killing)
models.add("second")
print("not killed")
"""


@pytest.mark.parametrize(
    ("function", "calls", "written"), [("fsync", 1, False), ("chmod", 1, False), ("replace", 1, False), ("fsync", 2, True)],
    ids=["before it is synced", "before it is readable", "before it is renamed", "before the folder is synced"],
)  # fmt: skip
def test_killed_at_each_step_of_writing_which_models_run(tmp_path: Path, function: str, calls: int, written: bool) -> None:
    path = tmp_path / "running.json"
    RunningModels(path).add("first")
    done = subprocess.run([sys.executable, "-c", WRITER, str(path), function, str(calls)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done
    again = RunningModels(path)
    assert again.names == ({"first", "second"} if written else {"first"})
    again.add("third")
    assert RunningModels(path).names == again.names
    assert [p.name for p in tmp_path.iterdir()] == ["running.json"], "nothing half-written is left"


def start_agent(models: Path, folder: Path, address: str) -> "subprocess.Popen[bytes]":
    settings = {"MODELS": models, "SOCKET": address, "STATE": folder / "running.json", "SPOOL": folder / "spool", "RESULTS": "all",
                "MQTT": "mqtt://127.0.0.1:9"}  # fmt: skip
    with (folder / "agent.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "linewatch", "agent"], stdout=log, stderr=log,
            env={**os.environ, **{f"LINEWATCH_AGENT_{name}": str(value) for name, value in settings.items()}},
        )  # fmt: skip


def test_an_agent_that_is_killed_again_and_again_keeps_what_it_said(models: Path, tmp_path: Path) -> None:
    """Models that ran run again; results are there in their order, but for those of the last moments before each kill."""
    chance, address = random.Random(0), f"unix:///tmp/linewatch-{secrets.token_hex(4)}.sock"
    answered = 0
    for round_ in range(ROUNDS):
        process = start_agent(models, tmp_path, address)
        try:
            with AgentClient(address) as client:
                client.wait_until_listening(30)
                if round_ == 0:
                    client.start("parts")
                wait_for_state(client, "parts", State.RUNNING)  # it ran before
                threading.Timer(chance.uniform(0.3, 1.2), process.kill).start()
                with contextlib.suppress(AgentCallError):
                    while True:
                        client.detect(BLANK, "parts")
                        answered += 1
        finally:
            process.kill()
            process.wait(20)
        spool = Spool(tmp_path / "spool", 10**6)
        kept = spool.after("nobody", 10**6)
        spool.close()
        assert [r.number for r in kept] == list(range(1, len(kept) + 1))
        assert all(json.loads(r.body)["model"] == "parts" for r in kept)
        assert not list((tmp_path / "spool").glob("*.damaged-*"))
        # What lies in memory on its way to the disk is lost with the process: a moment's worth, each time.
        assert answered - len(kept) <= 20 * (round_ + 1), (answered, len(kept))
        assert kept
    Path(address.removeprefix("unix://")).unlink(missing_ok=True)
