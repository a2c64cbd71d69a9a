"""One name in an installation: what it exports, and what importing it costs."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import linewatch

ROOT = Path(__file__).parents[2]
ROOMS = ("anomaly_model", "commands", "control_plane", "edge_agent", "packager", "training")


def test_every_public_name_is_there_and_documented() -> None:
    page = (ROOT / "docs" / "how-to" / "use-from-python.md").read_text()
    for name in linewatch.__all__:
        assert getattr(linewatch, name).__doc__, name
        assert f"`{name}" in page or f", {name}(" in page, name
    assert set(linewatch.__all__) <= set(dir(linewatch))


def test_other_names_are_refused_with_the_public_ones() -> None:
    with pytest.raises(AttributeError, match="'worker'; public are: AgentCallError, "):
        linewatch.worker  # noqa: B018


@pytest.mark.parametrize(("names", "absent"), [
    ("", ("numpy", "grpc", "torch", "tvm", "click")), ("AgentClient", ("torch", "tvm", "sklearn", "click")),
    ("Bundle, detect, read_picture, open_runtime", ("grpc", "torch", "tvm", "sklearn", "click")), ("TrainingOptions", ("torch", "grpc", "tvm")),
    ("train", ("torch", "grpc", "tvm", "click")),  # torch comes with a U-Net or a pretrained net
])  # fmt: skip
def test_a_name_imports_no_more_than_it_needs(names: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, linewatch\n{f'from linewatch import {names}' if names else ''}\nprint(sorted(set({absent!r}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_wheel_holds_one_name(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-P", "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names} == {"linewatch", f"linewatch-{wheel.name.split('-')[1]}.dist-info"}
    assert {n.split("/")[1] for n in names if n.count("/") > 1 and "dist-info" not in n} >= {*ROOMS, "recipes", "client_models", "protos"}
    assert {f"linewatch/{name}" for name in ("py.typed", "recipes/model.json", "protos/edge-agent.proto", "packager/device/run.sh")} <= set(names)
    assert not [n for n in names if "tests" in n or "__pycache__" in n]


def test_links_are_relative_and_complete() -> None:
    links = {path.name: path.readlink() for path in (ROOT / "src" / "linewatch").iterdir() if path.is_symlink()}
    assert links == {name: Path("..", "..", name) for name in (*ROOMS, "recipes", "client_models", "protos")}
