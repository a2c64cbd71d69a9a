"""New versions of a model that serves: loaded beside it, switched in between two calls, or refused while it goes on."""

import itertools
import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from linewatch.anomaly_model.bundle import open_bundle, write_bundle
from linewatch.edge_agent.client import AgentClient
from linewatch.edge_agent.models.states import State
from linewatch.packager.package import Package
from tests.contract.test_agent_calls import running_agent_with
from tests.processes import worker_pids

pytestmark = pytest.mark.fault
BLANK = np.zeros((240, 320, 3), np.uint8)


class Site:
    """Versions of one component, told apart by their threshold, and an agent that serves it."""

    def __init__(self, folder: Path, packaged: Package) -> None:
        self.folder, self.bundle, self.address = folder, packaged.bundle, ""
        (folder / "models").mkdir(parents=True)

    def make(self, version: int) -> Path:
        files = {name: self.bundle.read(name) for name in self.bundle.manifest.files}
        manifest = self.bundle.manifest
        decision = msgspec.structs.replace(manifest.decision, threshold=float(version))
        model = msgspec.structs.replace(manifest.model, version=str(version))
        manifest = msgspec.structs.replace(manifest, decision=decision, model=model)
        return write_bundle(self.folder / "versions" / str(version), manifest, files).folder

    def register(self, version: int, **more: object) -> None:
        entry = {"component": "line", "version": f"{version}.0.0", "folder": str(self.folder / "versions" / str(version)), **more}
        part = self.folder / "models" / "line.json.part"
        part.write_text(json.dumps(entry))
        part.rename(self.folder / "models" / "line.json")


@pytest.fixture
def site(packaged: Package, tmp_path: Path) -> Iterator[tuple[Site, AgentClient]]:
    made = Site(tmp_path, packaged)
    made.make(1)
    made.register(1)
    with running_agent_with(tmp_path / "models", LINEWATCH_AGENT_RESCAN_S="1") as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        client.start("line")
        made.address = address
        yield made, client


def threshold(client: AgentClient) -> float:
    return float(client.detect(BLANK, "line")[0].anomaly_threshold)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"not within 30 s: {what}")


def test_not_one_call_fails_while_versions_change(site: tuple[Site, AgentClient]) -> None:
    made, _ = site
    made.make(2)
    made.make(3)
    ended, seen, errors = threading.Event(), [], []

    def call() -> None:
        with AgentClient(made.address) as mine:
            while not ended.is_set():
                try:
                    seen.append(threshold(mine))
                except Exception as error:
                    errors.append(error)

    callers = [threading.Thread(target=call) for _ in range(3)]
    before = set(worker_pids())
    for caller in callers:
        caller.start()
    try:
        for version in (2, 3, 1):
            made.register(version)
            wait_until(lambda v=version: seen[-1:] == [float(v)], f"version {version} answers")  # type: ignore[misc]
    finally:
        ended.set()
        for caller in callers:
            caller.join()
    assert errors == []
    assert set(seen) == {1.0, 2.0, 3.0}
    changes = [b for a, b in itertools.pairwise(seen) if a != b]
    assert len(changes) < 3 + 3 * len(callers), "back and forth"
    wait_until(lambda: len(set(worker_pids())) == len(before), "the old workers are gone")


def test_a_refused_version_changes_nothing_and_the_next_is_tried(site: tuple[Site, AgentClient]) -> None:
    made, client = site
    bad = made.make(2) / "model.onnx"
    bad.write_bytes(b"x" * bad.stat().st_size)
    made.register(2)
    wait_until(lambda: "was refused" in client.describe("line").status_message, "it is refused")
    message = client.describe("line").status_message
    assert "the version before goes on serving" in message
    assert "model.onnx" in message
    assert threshold(client) == 1.0
    made.make(3)
    made.register(3)
    wait_until(lambda: threshold(client) == 3.0, "the next version answers")
    assert "refused" not in client.describe("line").status_message


def test_a_folder_that_is_replaced_is_loaded_again(site: tuple[Site, AgentClient]) -> None:
    made, client = site
    newer = made.make(2)
    assert open_bundle(newer).manifest.model.version == "2"
    old = made.folder / "versions" / "1"
    files = {name: made.bundle.read(name) for name in made.bundle.manifest.files}
    write_bundle(old, open_bundle(newer).manifest, files)
    wait_until(lambda: threshold(client) == 2.0, "the new content answers")


def test_a_version_that_disappears_for_a_moment_goes_on(site: tuple[Site, AgentClient]) -> None:
    """As while a core updates a component: the old run script removes its registration, the new one writes its own."""
    made, client = site
    (made.folder / "models" / "line.json").unlink()
    shutil.rmtree(made.folder / "versions" / "1")
    time.sleep(1.5)
    assert worker_pids(), "the worker goes on"
    made.make(2)
    made.register(2)
    wait_until(lambda: threshold(client) == 2.0, "the new version answers")



@pytest.mark.parametrize("how", ["setting", "registration"])
def test_models_start_by_themselves_once(packaged: Package, tmp_path: Path, how: str) -> None:
    made = Site(tmp_path, packaged)
    made.make(1)
    made.register(1, **({"autostart": "True"} if how == "registration" else {}))
    settings = {"LINEWATCH_AGENT_AUTOSTART": "other, line"} if how == "setting" else {}
    with running_agent_with(tmp_path / "models", LINEWATCH_AGENT_RESCAN_S="1", **settings) as address, AgentClient(address) as client:
        client.wait_until_listening(30)
        wait_until(lambda: client.describe("line").status == State.RUNNING, "it runs")
        assert threshold(client) == 1.0
        client.stop("line")
        time.sleep(1.5)
        assert client.describe("line").status == State.STOPPED
