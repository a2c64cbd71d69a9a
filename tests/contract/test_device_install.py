"""What a device needs: the `agent` extra, and nothing of the trainer, the compiler or the packager."""

import os
import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

import numpy as np

from benchmarks.processes import children
from linewatch.commands.demo import running_agent
from linewatch.edge_agent.client import AgentClient
from tests.processes import worker_pids

ROOT = Path(__file__).parents[2]
BLOCKER = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(name + " is not part of the agent extra")

sys.meta_path.insert(0, Refuse())
"""
MODULES = {
    "apache-tvm": "tvm", "scikit-learn": "sklearn", "grpcio-tools": "grpc_tools", "pyyaml": "yaml",
    "cyclonedx-python-lib": "cyclonedx", "pyelftools": "elftools",
}  # fmt: skip


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9-]", r)[0].lower() for r in requirements}


def test_an_agent_runs_with_the_agent_extra_only(models: Path, tmp_path: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {extra: names(r) for extra, r in project["optional-dependencies"].items()}
    wanted = names(project["dependencies"]) | extras["agent"]
    others = set().union(*(extras[e] for e in ("train", "packager", "cuda", "bench", "server", "cluster", "build", "docs", "dev")))
    foreign = (others | {"torch"}) - wanted - {"linewatch"}
    assert "apache-tvm" in foreign
    blocked = {MODULES.get(n, n.replace("-", "_")) for n in foreign}
    (tmp_path / "sitecustomize.py").write_text(BLOCKER.format(blocked=blocked))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(tmp_path)
    try:
        with running_agent(models) as address, AgentClient(address) as client:
            client.wait_until_listening(30)
            old = set(worker_pids())
            client.start("parts")
            client.detect(np.zeros((240, 320, 3), np.uint8), "parts")
            assert "tvm" in client.describe("parts").status_message
            [worker] = set(worker_pids()) - old
            [agent] = [p for p in children(os.getpid()) if worker in children(p)]
            loaded = Path(f"/proc/{worker}/maps").read_text() + Path(f"/proc/{agent}/maps").read_text()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
    assert "libtvm_runtime.so" in loaded
    assert "libtvm_compiler" not in loaded
    assert "libtorch" not in loaded


def test_the_extras_are_declared() -> None:
    declared = {m[1] for r in requires("linewatch") or [] if (m := re.search(r"extra == ['\"](\w+)", r))}
    assert declared == {"agent", "packager", "cuda", "train", "server", "cluster", "bench", "build", "docs", "dev", "all"}
