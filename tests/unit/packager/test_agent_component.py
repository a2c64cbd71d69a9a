"""The agent's component, with wheels that are there already: versions, kinds of devices, Pythons."""

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from linewatch.packager import agent_component
from linewatch.packager.agent_component import AgentComponentError, write_agent_component


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of linewatch; what it needs is not fetched."""

    def fetch(_: Mapping[str, str], machine: str, folder: Path) -> None:
        (folder / f"numpy-2.0-cp311-cp311-manylinux_2_27_{machine}.whl").write_bytes(machine.encode())

    monkeypatch.setattr(agent_component, "_fetch", fetch)
    path = tmp_path / "linewatch-0.1.0-py3-none-any.whl"
    path.write_bytes(b"wheel")
    return path


def python_archive(path: Path, machine: int) -> Path:
    """What a relocatable Python looks like from outside."""
    program = b"\x7fELF\x02\x01" + bytes(12) + machine.to_bytes(2, "little") + bytes(100)
    with tarfile.open(path, "w:gz") as archive:
        entry = tarfile.TarInfo("python/bin/python3.11")
        entry.size = len(program)
        archive.addfile(entry, io.BytesIO(program))
    return path


def test_one_component_for_a_mixed_fleet(wheel: Path, tmp_path: Path) -> None:
    pythons = [python_archive(tmp_path / "arm.tar.gz", 183)]
    done = write_agent_component(["x86_64", "aarch64"], tmp_path / "c", component_version="1.4.2", wheel=wheel, pythons=pythons)
    assert (done.name, done.version) == ("linewatch.EdgeAgent", "1.4.2")
    recipe = json.loads(done.recipe.read_bytes())
    assert recipe["ComponentVersion"] == "1.4.2"
    files = {m["Platform"]["architecture"]: Path(m["Artifacts"][0]["Uri"]).name for m in recipe["Manifests"]}
    assert files == {a.architecture: a.path.name for a in done.artifacts}
    assert set(files) == {"amd64", "aarch64"}
    versions = set()
    for artifact in done.artifacts:
        with zipfile.ZipFile(artifact.path) as archive:
            machine = {"amd64": "x86_64", "aarch64": "aarch64"}[artifact.architecture]
            assert archive.read(f"wheels/numpy-2.0-cp311-cp311-manylinux_2_27_{machine}.whl") == machine.encode()
            assert ("python.tar.gz" in archive.namelist()) == (machine == "aarch64")
            versions.add(archive.read("VERSION"))
    assert len(versions) == 2
    again = write_agent_component(["aarch64", "x86_64"], tmp_path / "d", component_version="1.4.2", wheel=wheel, pythons=pythons)
    assert again.recipe.read_bytes() == done.recipe.read_bytes()
    assert [a.path.read_bytes() for a in again.artifacts] == [a.path.read_bytes() for a in done.artifacts]


def test_another_content_is_another_installation(wheel: Path, tmp_path: Path) -> None:
    def installed_as(folder: str) -> bytes:
        [artifact] = write_agent_component(["x86_64"], tmp_path / folder, wheel=wheel).artifacts
        with zipfile.ZipFile(artifact.path) as archive:
            return archive.read("VERSION")

    before = installed_as("a")
    wheel.write_bytes(b"mended, under the same version")
    assert installed_as("b") != before


@pytest.mark.parametrize("component_version", ["0.0.9", "2.0.0", "7.1.0"])
def test_versions_that_no_model_depends_on(wheel: Path, tmp_path: Path, component_version: str) -> None:
    with pytest.raises(AgentComponentError, match=r"0\.1\.0 or newer, below 2\.0\.0"):
        write_agent_component(["x86_64"], tmp_path / "c", component_version=component_version, wheel=wheel)
    assert write_agent_component(["x86_64"], tmp_path / "c", name="other.Agent", component_version=component_version, wheel=wheel)


def test_pythons_for_other_machines(wheel: Path, tmp_path: Path) -> None:
    for pythons, message in (
        ([python_archive(tmp_path / "pc.tar.gz", 62)], "pc.tar.gz is a Python for x86_64; the component is for aarch64"),
        ([python_archive(tmp_path / n, 183) for n in ("a.tar.gz", "b.tar.gz")], "are both for aarch64"),
        ([python_archive(tmp_path / "odd.tar.gz", 243)], "ELF's architecture 243"),
        ([wheel], "is not a .tar.gz with a Python"),
    ):
        with pytest.raises(AgentComponentError, match=message):
            write_agent_component(["aarch64"], tmp_path / "c", wheel=wheel, pythons=pythons)


def test_an_unknown_machine(tmp_path: Path) -> None:
    with pytest.raises(AgentComponentError, match="expected x86_64 or aarch64"):
        write_agent_component(["riscv64"], tmp_path)
