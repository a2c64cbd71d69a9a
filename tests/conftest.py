"""Shared fixtures: a small real model, packaged once for all processes of a run; an agent on a Unix socket; and a guard on the network.

What is imported here every process of a run pays for: torch, TVM and grpcio come with the fixtures that need them.
"""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tests.once import Once

if TYPE_CHECKING:
    from linewatch import AgentClient, Bundle, Package

pytest_plugins = ["tests.durations"]

# What tests fetch and measure is kept from run to run, but not among the user's own.
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parents[1] / ".pytest_cache" / "linewatch")
# A busy machine draws examples slowly; that is no fault of ours.
settings.register_profile("linewatch", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("linewatch")
COOKIES = Path(__file__).parents[1] / ".." / "shared" / "data" / "cookies"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs drawn parts, or a model that was trained on them, is slow, wherever it stands."""
    for item in items:
        if "parts" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections to anything but loopback and Unix sockets."""
    real = socket.socket.connect

    def connect(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = address[0] if isinstance(address, tuple) else ""
            if host not in ("127.0.0.1", "::1", "localhost"):
                raise AssertionError(f"a test tried to reach {host}")
        real(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", connect)


def need_tool(name: str) -> str:
    """Path of an external program; servers lie where not everybody looks. Missing: a skip here, a failure in CI, where it must be installed."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name} is missing; .ci/run must install it")
        pytest.skip(f"{name} is not installed")
    return path


def old_client() -> Path:
    """The Python that has the last boto3 and AWS CLI with the service's model. Missing: as `need_tool`."""
    path = Path(__file__).parents[1] / ".clients" / "bin" / "python"
    if not path.exists():
        if os.environ.get("CI") == "true":
            pytest.fail(f"{path} is missing; make test makes it")
        pytest.skip(f"{path} is missing; run: make .clients/.ready")
    return path


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Makes folders that all processes of this run share."""
    base = tmp_path_factory.getbasetemp()
    return Once((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared")


@pytest.fixture(scope="session")
def parts(once: Once) -> Path:
    """A small drawn set: 18 + 18 training and 8 + 8 test pictures with masks."""
    from linewatch.commands.drawn.part_set import PartSet
    from linewatch.commands.drawn.writing import write_set

    return once.folder("parts", lambda folder: write_set(folder, PartSet(18, 18, 8, 8, seed=3)))


@pytest.fixture(scope="session")
def bundle(parts: Path, once: Once) -> "Bundle":
    """A segmentation model trained on it."""
    from linewatch import TrainingOptions, open_bundle, read_dataset, train

    options = TrainingOptions(name="parts", model_version="3", side=128, net_steps=0, encoder="none")
    folder = once.folder("bundle", lambda made: train(read_dataset(parts / "train"), made / "bundle", options, read_dataset(parts / "test")))
    return open_bundle(folder / "bundle")


@pytest.fixture(scope="session")
def packaged(bundle: "Bundle", once: Once) -> "Package":
    """It, compiled and packed."""
    from linewatch import Package, PackageOptions, find_target, package

    return once.value("package", Package, lambda folder: package(bundle, find_target("x86_64-cpu"), folder, PackageOptions(name="parts", rounds=20)))


@pytest.fixture(scope="session")
def models(packaged: "Package", once: Once) -> Path:
    """A models folder: the packaged model as `parts`, and `broken` with one flipped byte."""

    def make(folder: Path) -> None:
        shutil.copytree(packaged.bundle.folder, folder / "parts")
        shutil.copytree(packaged.bundle.folder, folder / "broken")
        manifest = folder / "broken" / "bundle.json"
        text = manifest.read_text().replace('"name": "parts"', '"name": "broken"').replace('"component": "parts"', '"component": "broken"')
        manifest.write_text(text)
        model = folder / "broken" / "model.onnx"
        data = bytearray(model.read_bytes())
        data[len(data) // 2] ^= 1
        model.write_bytes(data)

    return once.folder("models", make)


@pytest.fixture(scope="session")
def agent_address(models: Path) -> Iterator[str]:
    """An agent process that serves `models`."""
    from linewatch import AgentClient
    from linewatch.commands.demo import running_agent

    with running_agent(models) as address:
        with AgentClient(address) as client:
            client.wait_until_listening(30)
        yield address


@pytest.fixture
def client(agent_address: str) -> "Iterator[AgentClient]":
    """A client with `parts` running."""
    from linewatch import AgentClient

    with AgentClient(agent_address) as connected:
        connected.start("parts")
        yield connected


@pytest.fixture
def picture() -> np.ndarray:
    """A picture of random pixels, 240 x 320."""
    return np.random.default_rng(1).integers(0, 256, (240, 320, 3), np.uint8)


@pytest.fixture
def cookies() -> Path:
    """Real pictures, where they are."""
    if not COOKIES.is_dir():
        pytest.skip(f"{COOKIES} is absent: real pictures are not part of this repository")
    return COOKIES


@pytest.fixture
def copied_bundle(packaged: "Package", tmp_path: Path) -> Path:
    """A copy of the packaged bundle to damage."""
    from linewatch import open_bundle

    shutil.copytree(packaged.bundle.folder, tmp_path / "copy")
    assert open_bundle(tmp_path / "copy").manifest.model.name == "parts"
    return tmp_path / "copy"
