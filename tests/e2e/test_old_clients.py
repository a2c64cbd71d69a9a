"""Clients that nobody here wrote go through the whole life of a model, unmodified."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from linewatch.control_plane.client_files import install
from tests.clients.plant import write_cookies, write_plant
from tests.conftest import old_client
from tests.processes import listeners
from tests.server import REGION, ROOT, Server
from tests.toolchain import require_arm64

pytestmark = pytest.mark.e2e
OPERATIONS = 22


@pytest.fixture(scope="module")
def plant(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures and a manifest."""
    folder = tmp_path_factory.mktemp("plant") / "plant"
    write_plant(parts, folder)
    return folder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server with small demands on the number of pictures."""
    running = Server(tmp_path / "data", {
        "training_effort": "quick", "training_encoder": "none", "least_normal": 10, "least_anomaly": 10, "least_label": 2,
        "hosting_start_s": 60, "least_normal_each": 2, "least_test_anomaly": 2, "least_label_each": 0,
    }).start()  # fmt: skip
    try:
        yield running
        running.stop()
        assert "Traceback" not in running.log
    finally:
        running.kill()


def environment(server: Server, home: Path) -> dict[str, str]:
    """Of a client: keys and region, and nothing of this machine's own configuration."""
    key = {k.upper(): v for k, v in server.credential().items()}
    return {**os.environ, **key, "AWS_DEFAULT_REGION": REGION, "HOME": str(home), "AWS_PAGER": "", "AWS_EC2_METADATA_DISABLED": "true"}


def check(found: dict[str, object]) -> None:
    assert len(found["checked"]) == OPERATIONS  # type: ignore[arg-type]
    assert found["performance"]["F1Score"] >= 0.8  # type: ignore[index]
    answers = found["answers"]
    assert isinstance(answers, dict)
    right = sum(name.startswith("anomaly") == said for name, said in answers.items())
    assert right >= len(answers) - 1
    assert found["component_files"][-1] == "recipe.json"  # type: ignore[index]
    details = found["EvaluationResult"]["EvaluationDetails"]  # type: ignore[index]
    assert details["NumberOfTestingImages"] == found["EvaluationManifest"]
    assert details["NumberOfTrainingImages"] + details["NumberOfTestingImages"] == found["stats"]["Labeled"]  # type: ignore[index]


def run_lifecycle(python: Path | str, server: Server, plant: Path, env: dict[str, str], *device: str) -> dict[str, object]:
    script = ROOT / "tests" / "clients" / "lifecycle.py"
    done = subprocess.run([python, script, server.url, plant, REGION, *device], env=env, capture_output=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def test_boto3_1_40_60(server: Server, plant: Path, tmp_path: Path) -> None:
    require_arm64()
    found = run_lifecycle(old_client(), server, plant, environment(server, tmp_path), "jetson_xavier")
    [store] = (server.data / "components").glob("*/*")
    assert sorted(p.name for p in (store / "recipes").iterdir()) == ["com.example.device-1.0.0.json", "com.example.parts-1.0.0.json"]
    assert found["boto3"] == "1.40.60"
    assert server.process is not None
    assert listeners(server.process.pid) == {("0100007F", int(server.url.rpartition(":")[2]))}, "what runs its jobs opens no port"
    check(found)


def test_the_newest_boto3_with_what_client_install_gives(server: Server, plant: Path, tmp_path: Path) -> None:
    install(tmp_path / ".aws" / "models")
    found = run_lifecycle(sys.executable, server, plant, environment(server, tmp_path))
    assert found["boto3"] != "1.40.60"
    check(found)


def test_the_cookies_by_boto3_alone(tmp_path: Path, cookies: Path) -> None:
    """The service's own getting-started data, with its own demands on numbers."""
    write_cookies(cookies, tmp_path / "plant")
    server = Server(tmp_path / "data", {"training_effort": "quick", "training_encoder": "none", "hosting_start_s": 60}).start()
    try:
        found = run_lifecycle(old_client(), server, tmp_path / "plant", environment(server, tmp_path))
        server.stop()
    finally:
        server.kill()
    answers = found["answers"]
    assert isinstance(answers, dict)
    right = sum(("anomaly" in name) == said for name, said in answers.items())
    assert (len(answers), right) >= (22, 18)
    assert found["stats"] == {"Total": 63, "Labeled": 63, "Normal": 31, "Anomaly": 32}


def test_the_aws_cli(server: Server, plant: Path, tmp_path: Path) -> None:
    aws = old_client().with_name("aws")
    script = ROOT / "tests" / "clients" / "lifecycle.sh"
    done = subprocess.run(["sh", script, aws, server.url, plant, tmp_path], env=environment(server, tmp_path), capture_output=True,
                          timeout=900, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    lines = done.stdout.decode().split()
    # A page of entries; labelled ones that were moved to the test dataset, and as many that the model was tested on.
    assert lines[:3] == ["12", "4", "4"]
    pictures = sorted((plant / "test").iterdir())
    right = sum((p.name.startswith("anomaly")) == (said == "True") for p, said in zip(pictures, lines[3:], strict=False))
    assert right >= len(pictures) - 2
    assert lines[3 + len(pictures) :] == ["7", "0"]
    assert len(list((tmp_path / "components").rglob("*_greengrass_model_component.zip"))) == 1


def test_new_clients_have_no_service_without_the_files(tmp_path: Path) -> None:
    code = "import boto3; boto3.client('lookoutvision', region_name='us-east-1')"
    bare = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=bare, capture_output=True, check=False)
    assert b"UnknownServiceError" in done.stderr
    install(tmp_path / ".aws" / "models")
    code += ".list_projects()"
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    done = subprocess.run([sys.executable, "-c", code], env={**bare, **keys}, capture_output=True, check=False)
    assert b"Name your Linewatch server" in done.stderr


def test_the_files_do_not_disturb_a_client_that_has_the_service(server: Server, tmp_path: Path) -> None:
    install(tmp_path / ".aws" / "models")
    code = ("import boto3; c = boto3.client('lookoutvision'); c.create_project(ProjectName='p'); "
            "print(boto3.__version__, c.can_paginate('list_models'), c.list_projects()['Projects'][0]['ProjectName'])")  # fmt: skip
    env = {**environment(server, tmp_path), "AWS_ENDPOINT_URL_LOOKOUTVISION": server.url}
    done = subprocess.run([old_client(), "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["1.40.60", "True", "p"], done.stderr
