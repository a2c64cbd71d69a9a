"""A camera program in Node: gRPC in JavaScript over Node's own HTTP/2 (nghttp2)."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from linewatch.edge_agent.client import AgentClient
from tests.conftest import need_tool

PACKAGES = ("@grpc/grpc-js@1.14.7", "@grpc/proto-loader@0.8.1")
PROTO = Path(__file__).parents[2] / "protos" / "edge-agent.proto"


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages, fetched where pip's are fetched from: the machine's configuration says."""
    npm = need_tool("npm")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text("{}")
    subprocess.run([npm, "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES], cwd=folder, check=True, timeout=180)
    return folder


def test_node_gets_the_same_answers(agent_address: str, client: AgentClient, picture: np.ndarray, modules: Path, tmp_path: Path) -> None:
    height, width = picture.shape[:2]
    (tmp_path / "picture.rgb").write_bytes(picture.tobytes())
    program = shutil.copy(Path(__file__).with_name("client.js"), modules)
    command = [need_tool("node"), program, agent_address, str(PROTO), "parts", str(width), str(height), str(tmp_path / "picture.rgb")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    result, mask = client.detect(picture, "parts", "bytes")
    assert said["is_anomalous"] == result.is_anomalous
    assert said["confidence"] == pytest.approx(result.confidence, abs=1e-5)
    assert said["anomalies"] == [a.name for a in result.anomalies]
    assert mask is not None
    assert said["mask_sum"] == int(mask.astype(np.int64).sum())
    assert said["many"] == [0] * 8
    assert (said["late"], said["cancelled"]) == (4, 1)
    assert said["wrong"][0] == 5
    assert "no model 'none' is installed" in said["wrong"][1]
    assert "RUNNING" in said["models"]
