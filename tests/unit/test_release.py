"""A release: the same bytes from the same commit, its version, its bill of materials, the images' recipe."""

import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import linewatch
from linewatch.packager.agent_component import component_version_of
from scripts import release

ROOT = Path(__file__).parents[2]
LOCKS = tuple((ROOT / name).read_text() for name in ("constraints.txt", "constraints-dev.txt", "constraints-cuda.txt"))


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-P", str(ROOT / "scripts" / "release.py"), str(folder)], check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_the_same_commit_gives_the_same_bytes(dist: Path, tmp_path: Path) -> None:
    """Once more, at another time, in another time zone, by a user with another mask, from another folder."""
    environment = {**os.environ, "TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-P", str(ROOT / "scripts" / "release.py"), str(tmp_path)], check=True, capture_output=True,
                   env=environment, umask=0o077, cwd=tmp_path)  # fmt: skip
    assert (tmp_path / "SHA256SUMS").read_text() == (dist / "SHA256SUMS").read_text()
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {p.name: p.read_bytes() for p in dist.iterdir()}


@pytest.mark.slow
def test_an_sdist_is_whole_and_needs_no_git(dist: Path, tmp_path: Path) -> None:
    """The wheel was made from the sdist, unpacked outside a working copy: what the sdist lacks would be missing in the wheel."""
    [sdist], [wheel] = dist.glob("*.tar.gz"), dist.glob("*.whl")
    number = wheel.name.split("-")[1]
    assert sdist.name == f"linewatch-{number}.tar.gz"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"README.md", "LICENSE", "NOTICE", "Makefile", "constraints.txt", "docs/README.md", "tests/conftest.py"} <= names
    subprocess.run([sys.executable, "-P", "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(wheel) as ours, zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as direct:
        assert ours.namelist() == direct.namelist()
        assert len(ours.namelist()) > 250
    assert not [n for n in names if "__pycache__" in n or n.startswith((".venv", ".clients", "demo-output"))]


def test_the_version_is_that_of_the_installation() -> None:
    assert linewatch.__version__ == version("linewatch")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert "version" in project["dynamic"]


@pytest.mark.parametrize(("own", "component"), [("0.1.0", "0.1.0"), ("1.4.2.dev17", "1.4.2"), ("2.0", "2.0.0"), ("0.1.1.dev3+gabc", "0.1.1")])
def test_a_component_has_three_numbers(own: str, component: str) -> None:
    assert component_version_of(own) == component


def test_the_bill_of_materials(dist: Path) -> None:
    [path] = dist.glob("*.cdx.json")
    bill = json.loads(path.read_text())
    assert bill["specVersion"] == "1.6"
    assert bill["metadata"]["component"]["name"] == "linewatch"
    parts = {c["name"]: c for c in bill["components"]}
    assert {"numpy", "torch", "grpcio", "apache-tvm", "uvicorn"} <= set(parts)
    assert not {"pytest", "mypy", "sphinx", "openvino"} & set(parts)
    assert parts["numpy"]["purl"].startswith("pkg:pypi/numpy@")
    files = {n: c["hashes"][0]["content"] for n, c in parts.items() if c["type"] == "file"}
    sums = dict(reversed(line.split("  ")) for line in (dist / "SHA256SUMS").read_text().splitlines())
    assert files == {n: sums[n] for n in files}
    assert len(files) == 2


def test_who_needs_what_is_read_from_the_locks() -> None:
    locks = release.read_locks(*LOCKS)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = release.needed(project, locks)
    assert "scikit-learn" in locks["joblib"].wanted_by
    assert {"joblib", "sympy", "botocore"} <= wanted
    assert "pluggy" not in wanted


def test_fragments_of_the_changelog_are_read() -> None:
    command = [sys.executable, "-P", "-m", "towncrier", "build", "--draft", "--version", "9.9.9", "--date", "2026-01-01"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    kinds = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"]["type"]
    for path in (ROOT / "changelog.d").glob("*.md"):
        if path.name != "README.md":
            assert path.name.split(".")[-2] in {k["directory"] for k in kinds}, path.name
            assert path.read_text().split()[0] in done.stdout, path.name


def instructions() -> list[tuple[str, str]]:
    """(keyword, rest) of the Containerfile, with continued lines joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Containerfile").read_text(), flags=re.MULTILINE)
    return [(m[1], m[2]) for m in re.finditer(r"^([A-Z]+) (.*)$", text.replace("\\\n", " "), re.MULTILINE)]


def test_images_copy_what_is_there() -> None:
    stages = [re.search(r" AS (\S+)$", rest)[1] for keyword, rest in instructions() if keyword == "FROM"]  # type: ignore[index]
    assert stages == ["build", "agent-files", "server-files", "agent", "server"]
    for keyword, rest in instructions():
        if keyword == "COPY":
            words = shlex.split(rest)
            if words[0].startswith("--from="):
                assert words[0].removeprefix("--from=") in stages
            else:
                assert [w for w in words[:-1] if not (ROOT / w).exists()] == []
    packages = {p.name for p in (ROOT / "src" / "linewatch").iterdir() if p.is_symlink()}
    copied = {w for keyword, rest in instructions() if keyword == "COPY" for w in rest.split()}
    assert packages <= copied


def test_images_run_as_a_user_and_say_whether_they_are_well() -> None:
    text = (ROOT / "Containerfile").read_text()
    for stage in text.split("\nFROM ")[-2:]:
        assert re.search(r"^USER 10001:10001$", stage, re.MULTILINE)
        assert stage.rindex("\nUSER") > stage.rindex("\nRUN")
        assert "HEALTHCHECK" in stage
        assert "pip install" not in stage


def test_commands_of_images_parse() -> None:
    for keyword, rest in instructions():
        if keyword == "RUN":
            subprocess.run(["bash", "-n", "-c", rest], check=True)
        elif keyword in ("ENTRYPOINT", "SHELL", "VOLUME") or (keyword == "CMD" and rest.startswith("[")):
            assert all(isinstance(word, str) for word in json.loads(rest))
    entries = [json.loads(rest) for keyword, rest in instructions() if keyword == "ENTRYPOINT"]
    defaults = [json.loads(rest) for keyword, rest in instructions() if keyword == "CMD"]
    for entry, arguments in zip(entries, defaults, strict=True):
        command = ["linewatch", entry[1], "--help"]
        said = subprocess.run([sys.executable, "-P", "-m", *command], capture_output=True, text=True, check=True).stdout
        assert [a for a in arguments if a.startswith("--") and a not in said] == []
