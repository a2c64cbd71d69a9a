"""The agent's component, deployed as a core does it: recipe read, artifact unpacked, install and run as a user without rights."""

import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from linewatch.edge_agent.client import AgentClient
from linewatch.edge_agent.configuration import KEYS
from linewatch.packager.agent_component import agent_requirements, component_version_of, write_agent_component
from linewatch.packager.component import AGENT, Component
from linewatch.packager.package import Package
from tests.greengrass_core import Core as Ipc
from tests.nuclei import lite_script

pytestmark = pytest.mark.e2e
SYSTEM_PYTHON = Path("/usr/bin/python3.11")
BLANK = np.zeros((240, 320, 3), np.uint8)


@dataclass
class Core:
    """What a Greengrass core does with a component, on this machine; folders and scripts are written as nucleus lite does it."""

    root: Path
    recipe: dict[str, object]
    unpacked: Path
    configuration: dict[str, str]
    user: str | None
    ipc: Ipc

    @property
    def work(self) -> Path:
        """The component's own folder."""
        return self.root / "work" / AGENT

    def script(self, phase: str) -> str:
        """A phase's script with its variables filled in."""
        [text] = [m["Lifecycle"][phase]["Script"] for m in self.recipe["Manifests"]  # type: ignore[attr-defined]
                  if m["Platform"]["architecture"] == "amd64"]  # fmt: skip
        texts = {k: v for k, v in self.configuration.items() if isinstance(v, str)}
        return lite_script(text, root=str(self.root), component=AGENT, version=component_version_of(version("linewatch")), configuration=texts)

    def start(self, phase: str) -> subprocess.Popen[bytes]:
        """Begin a phase in the component's work folder."""
        extra = {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid, "extra_groups": []} if self.user else {}
        return subprocess.Popen(
            ["sh", "-c", self.script(phase)], cwd=self.work, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.work), "PIP_CONFIG_FILE": os.devnull, **self.ipc.environment()},
            start_new_session=True, **extra,
        )  # fmt: skip

    def run(self, phase: str) -> tuple[int, str]:
        """A phase to its end."""
        process = self.start(phase)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output.decode(errors="replace")


def let_others_in(folder: Path) -> None:
    """Let any user reach a folder of pytest's; what lies above them, such as /tmp, is not ours to change."""
    for part in [folder, *folder.parents]:
        mode = stat.S_IMODE(part.stat().st_mode)
        if mode & 0o055 != 0o055:
            part.chmod(mode | 0o055)


@pytest.fixture(scope="module")
def component(tmp_path_factory: pytest.TempPathFactory) -> Component:
    return write_agent_component(["x86_64", "aarch64"], tmp_path_factory.mktemp("component"))


@pytest.fixture
def core(component: Component, tmp_path: Path) -> Iterator[Core]:
    recipe = json.loads(component.recipe.read_bytes())
    [artifact] = [a.path for a in component.artifacts if a.architecture == "amd64"]
    place = Path(AGENT) / component.version
    unpacked, kept = (tmp_path / "packages" / folder / place for folder in ("artifacts-unarchived", "artifacts"))
    work = tmp_path / "work" / AGENT
    for folder in (unpacked, kept, work):
        folder.mkdir(parents=True)
    shutil.copy(artifact, kept)
    with zipfile.ZipFile(artifact) as archive:
        archive.extractall(unpacked / artifact.stem)
    rootless = os.getuid() == 0 and SYSTEM_PYTHON.exists()
    user = "nobody" if rootless else None
    if user:
        shutil.chown(work, user)
        let_others_in(work)
        let_others_in(kept)
        let_others_in(unpacked)
    configuration = {**recipe["ComponentConfiguration"]["DefaultConfiguration"], "Socket": f"unix://{work}/a.sock"}
    configuration["Python"] = str(SYSTEM_PYTHON if rootless else sys.executable)
    ipc = Ipc(tmp_path / "ipc.sock", configuration=configuration)
    yield Core(tmp_path, recipe, unpacked, configuration, user, ipc)
    ipc.close()
    shutil.rmtree(tmp_path / "work", ignore_errors=True)


def test_recipe_keeps_the_rules_of_both_cores(component: Component) -> None:
    text = component.recipe.read_bytes()
    assert len(text) <= 8000
    recipe = json.loads(text)
    assert (recipe["ComponentName"], "ComponentDependencies" in recipe) == ("linewatch.EdgeAgent", False)
    assert [m["Platform"]["architecture"] for m in recipe["Manifests"]] == ["aarch64", "amd64"]
    for manifest in recipe["Manifests"]:
        assert set(manifest["Lifecycle"]) == {"install", "startup"}
        assert manifest["Lifecycle"]["startup"]["Timeout"] == 120
        assert manifest["Lifecycle"]["install"]["Timeout"] == 900
        assert manifest["Artifacts"][0]["Permission"]["Read"] == "ALL"
    defaults = recipe["ComponentConfiguration"]["DefaultConfiguration"]
    assert defaults["Socket"] == "unix:///tmp/aws.iot.lookoutvision.EdgeAgent.sock"
    assert set(defaults) - {"Python", "accessControl"} <= set(KEYS), "the agent knows each of them"
    allowed = {o for service in defaults["accessControl"].values() for policy in service.values() for o in policy["operations"]}
    assert allowed == {"aws.greengrass#PublishToTopic", "aws.greengrass#PublishToIoTCore"}
    assert all(len(policy["resources"]) == 1 for service in defaults["accessControl"].values() for policy in service.values())


def test_installed_without_a_network_and_without_rights(core: Core, packaged: Package) -> None:
    shutil.rmtree(core.unpacked)  # as in a local deployment on nucleus lite, which leaves the zip as it is
    code, output = core.run("install")
    assert code == 0, output
    assert "ok    grpc" in output or "ok  " in output
    assert "is ready" in output
    again, output = core.run("install")
    assert (again, "installed already" in output) == (0, True)
    installed = (core.work / "current").resolve()
    assert f"{installed}/bin/python" in (installed / "bin" / "linewatch").read_text(), "programs of the environment name it where it is"
    models = core.work / "models.d"
    agent = core.start("startup")
    try:
        with AgentClient(core.configuration["Socket"]) as client:
            client.wait_until_listening(60)
            entry = {"component": "model-parts", "version": "3.0.0", "folder": str(packaged.bundle.folder)}
            (models / "model-parts.json").write_text(json.dumps(entry))
            let_others_in(packaged.bundle.folder)
            client.start("model-parts")
            assert core.ipc.states == ["RUNNING"]
            assert client.detect(BLANK, "model-parts", "bytes")[0].confidence > 0
            core.ipc.configure(Results="all")
            deadline = time.monotonic() + 20
            while not core.ipc.local and time.monotonic() < deadline:
                client.detect(BLANK, "model-parts", "bytes")
                time.sleep(0.1)
            assert core.ipc.local[0][0] == "linewatch/model-parts/results"
            assert core.ipc.local[0][1]["model"] == "model-parts"
    finally:
        agent.send_signal(signal.SIGTERM)
        output = agent.communicate(timeout=30)[0].decode()
        print(output)  # pytest shows it when anything above failed
    assert agent.returncode == 0, output
    assert "agent listening" in output  # the log, which a core files


def test_an_interrupted_installation_leaves_what_was_there(core: Core) -> None:
    work = core.work
    for seconds in (0.3, 2.0, 4.0):
        process = core.start("install")
        time.sleep(seconds)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not (work / "current").exists() or (work / "current" / "bin" / "linewatch").exists()
    code, output = core.run("install")
    assert code == 0, output
    assert [p.name for p in sorted(work.glob("agent-*"))] == [str((work / "current").readlink())]
    assert not list(work.glob(".*part"))


@pytest.mark.parametrize(("python", "message"), [
    ("/usr/bin/false", "Python 3.11 was not found (looked at: /usr/bin/false)"), ("/nowhere/python3.11", "configuration key Python"),
])  # fmt: skip
def test_a_missing_python_is_named_with_the_remedy(core: Core, python: str, message: str) -> None:
    core.configuration["Python"] = python
    code, output = core.run("install")
    assert code == 1
    assert message in output
    assert not (core.work / "current").exists()


def test_a_missing_library_stops_the_installation(core: Core) -> None:
    [wheel] = core.unpacked.rglob("grpcio-[0-9]*.whl")
    wheel.unlink()
    code, output = core.run("install")
    assert code != 0
    assert "grpcio" in output
    assert not (core.work / "current").exists()


def test_wheels_for_arm64_fit_jetpack_4(component: Component) -> None:
    [artifact] = [a.path for a in component.artifacts if a.architecture == "aarch64"]
    with zipfile.ZipFile(artifact) as archive:
        names = archive.namelist()
        assert "lookoutvision_edge_agent/protos/edge-agent.proto" in names
        requirements = archive.read("requirements.txt").decode()
    wheels = [n for n in names if n.endswith(".whl")]
    assert len(requirements.splitlines()) == len(wheels)
    assert {w.split("/")[1].split("-")[0].lower() for w in wheels} >= {n.replace("-", "_") for n in agent_requirements()} | {"linewatch"}
    for wheel in wheels:
        assert wheel.endswith("none-any.whl") or any(
            tag in wheel for tag in ("manylinux2014_aarch64", "manylinux_2_17_aarch64", "manylinux_2_24_aarch64", "manylinux_2_27_aarch64")
        ), wheel
