"""Models that come, are updated, and are removed."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from linewatch.anomaly_model.manifest import dump_manifest
from linewatch.anomaly_model.settings import SettingsError
from linewatch.edge_agent.errors import UnknownModelError, WrongStateError
from linewatch.edge_agent.models import manager as module
from linewatch.edge_agent.models.catalog import Catalog
from linewatch.edge_agent.models.manager import ModelManager
from linewatch.edge_agent.models.states import State
from linewatch.edge_agent.settings import Settings
from linewatch.edge_agent.workers import worker_link
from linewatch.edge_agent.workers.prediction import PictureRequest
from tests.callers import Patient
from tests.fake_workers import SIDE, FakeWorkers, picture
from tests.unit.anomaly_model.test_manifest import SMALL


class Core:
    """Deploys, updates and removes a component; time goes by when it says so."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.now = folder, time.monotonic()
        (folder / "models.d").mkdir()
        patch.setattr(worker_link.subprocess, "Popen", FakeWorkers())
        patch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.managers: list[ModelManager] = []
        self.manager = self.boot()

    def boot(self) -> ModelManager:
        settings = Settings(models=str(self.folder / "models.d"), state=str(self.folder / "running.json"), free_mib=0, removal_s=60)
        self.managers.append(ModelManager(settings))
        self.manager = self.managers[-1]
        return self.manager

    def deploy(self, version: int, component: str = "line", **more: object) -> None:
        unpacked = self.folder / "unpacked" / f"{component}-{version}"
        unpacked.mkdir(parents=True, exist_ok=True)
        (unpacked / "bundle.json").write_bytes(dump_manifest(SMALL))
        entry = {"component": component, "version": f"{version}.0.0", "folder": str(unpacked), **more}
        (self.folder / "models.d" / f"{component}.json").write_text(json.dumps(entry))

    def remove(self, component: str = "line") -> None:
        (self.folder / "models.d" / f"{component}.json").unlink()

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.002)
        assert condition()

    def until_running(self, component: str = "line") -> None:
        self.until(lambda: self.manager.describe(component).state is State.RUNNING)

    def look_after(self, seconds: float) -> None:
        self.now += seconds
        self.manager.rescan()

    def running(self) -> list[str]:
        return json.loads((self.folder / "running.json").read_text())


@pytest.fixture
def core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Core]:
    made = Core(tmp_path, monkeypatch)
    yield made
    for manager in made.managers:
        manager.shut_down()


def test_a_model_that_was_removed_ends_and_is_not_started_by_itself_when_it_comes_again(core: Core) -> None:
    core.deploy(1)
    core.manager.start("line")
    core.until_running()
    core.look_after(0)
    core.remove()
    core.look_after(1)
    assert core.manager.describe("line").state is State.RUNNING
    core.look_after(61)
    with pytest.raises(UnknownModelError):
        core.manager.describe("line")
    with pytest.raises(UnknownModelError):
        core.manager.host("line")
    assert core.running() == []
    core.deploy(1)
    core.look_after(1)
    assert core.manager.describe("line").state is State.STOPPED
    core.boot().rescan()
    assert core.manager.describe("line").state is State.STOPPED


def test_a_registration_whose_folder_is_gone_is_a_removed_model(core: Core) -> None:
    core.deploy(1)
    core.manager.start("line")
    core.until_running()
    (core.folder / "unpacked" / "line-1" / "bundle.json").unlink()
    (core.folder / "unpacked" / "line-1").rmdir()
    core.look_after(1)
    assert core.manager.describe("line").arn == SMALL.model.arn
    core.look_after(61)
    assert core.manager.describe("line").state is State.FAILED
    with pytest.raises(WrongStateError):
        core.manager.host("line").predict(PictureRequest(SIDE, SIDE, picture(1)), Patient())


def test_an_update_is_no_removal_and_the_model_is_found_all_the_while(core: Core) -> None:
    core.deploy(1)
    core.manager.start("line")
    core.until_running()
    for version in (2, 3):
        core.remove()
        core.look_after(50)
        assert core.manager.describe("line").state is State.RUNNING
        assert [d.component for d in core.manager.descriptions()] == ["line"]
        assert [f.name for f in core.manager.facts()] == ["line"]
        core.deploy(version)
        core.look_after(5)
        core.until_running()
        [worker] = core.manager.host("line").workers
        assert worker.folder.name == f"line-{version}"
    assert core.running() == ["line"]


def test_what_ran_before_a_boot_runs_again_when_its_component_is_started_late(core: Core) -> None:
    core.deploy(1)
    core.manager.start("line")
    core.until_running()
    core.remove()
    core.boot()
    core.look_after(0)
    core.look_after(600)
    assert core.running() == ["line"]
    core.deploy(1)
    core.look_after(1)
    core.until_running()


def test_what_was_removed_while_the_agent_was_away_is_forgotten(core: Core) -> None:
    core.deploy(1)
    core.manager.start("line")
    core.until_running()
    core.remove()
    core.boot()
    core.look_after(0)
    core.look_after(3601)
    assert core.running() == []
    core.deploy(1)
    core.look_after(1)
    assert core.manager.describe("line").state is State.STOPPED


def test_a_stopped_model_that_was_removed_is_gone_at_once(core: Core) -> None:
    core.deploy(1)
    core.manager.start("line")
    core.until_running()
    core.manager.stop("line")
    core.remove()
    with pytest.raises(UnknownModelError):
        core.manager.describe("line")


def test_list_looks_once_and_leaves_out_what_vanishes(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    for component in ("a", "b", "c"):
        core.deploy(1, component)
    looks = []
    real = Catalog.scan

    def scan(self: Catalog) -> object:
        looks.append(1)
        found = real(self)
        (core.folder / "models.d" / "b.json").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(Catalog, "scan", scan)
    assert [d.component for d in core.manager.descriptions()] == ["a", "b", "c"]
    assert len(looks) == 1
    assert [d.component for d in core.manager.descriptions()] == ["a", "c"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name in ("NOSUCH", "file"):
        with pytest.raises(SettingsError, match=f"{name}' is no folder; expected .* mkdir -p"):
            ModelManager(Settings(models=str(tmp_path / name)))
