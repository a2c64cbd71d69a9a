"""A component as files: its layout, what its run script does under each nucleus, and the proof inside."""

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from linewatch.anomaly_model.bundle import open_bundle, unzip_bundle, write_bundle
from linewatch.anomaly_model.parity import Parity, ParityError
from linewatch.edge_agent.models.catalog import Catalog
from linewatch.packager.component import (
    REGISTER_NAME,
    Component,
    ComponentError,
    check_identity,
    default_name,
    write_component,
)
from linewatch.packager.package import Package, PackageOptions, package, package_each
from linewatch.packager.targets import find_target
from tests.nuclei import java_script, lite_script
from tests.unit.anomaly_model.test_manifest import SMALL

REGISTER = (Path(__file__).parents[3] / "packager" / "device" / REGISTER_NAME).read_bytes()
TOOLS = ("sh", "cat", "dirname", "id", "mkdir", "mv", "rm", "sed", "sleep")
NUCLEI = pytest.mark.parametrize("fill", [lite_script, java_script])


@pytest.fixture
def component(tmp_path: Path) -> Component:
    """A model for two kinds of devices, with nothing in it that takes time to make."""
    manifest = msgspec.structs.replace(SMALL, component="model-m")
    bundles = {
        architecture: write_bundle(tmp_path / architecture, manifest, {"model.onnx": architecture.encode(), REGISTER_NAME: REGISTER})
        for architecture in ("amd64", "aarch64")
    }
    return write_component(bundles, tmp_path / "component", "model-m", "1.0.0", tags={"line": "7"})


class Deployed:
    """A core's folders with a component in them, and its run script as a nucleus would start it."""

    def __init__(self, root: Path, component: Component, fill: Callable[..., str], *, unpacked: bool = True, **configuration: str) -> None:
        [self.manifest, _] = json.loads(component.recipe.read_bytes())["Manifests"]
        assert self.manifest["Platform"]["architecture"] == component.artifacts[0].architecture
        place = Path(component.name) / component.version
        artifact = component.artifacts[0].path
        self.stem, self.unpacked = artifact.stem, root / "packages" / "artifacts-unarchived" / place
        kept = root / "packages" / "artifacts" / place
        kept.mkdir(parents=True, exist_ok=True)
        (kept / artifact.name).write_bytes(artifact.read_bytes())
        if unpacked:
            with zipfile.ZipFile(artifact) as archive:
                archive.extractall(self.unpacked / self.stem)
        self.work = root / "work" / component.name
        self.work.mkdir(parents=True, exist_ok=True)
        self.script = fill(
            self.manifest["Lifecycle"]["run"]["Script"], root=str(root), component=component.name, version=component.version,
            configuration={"RegistrationFolder": "", "Autostart": "false", **configuration},
        )  # fmt: skip
        self.entry = root / "work" / "linewatch.EdgeAgent" / "models.d" / f"{component.name}.json"

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        command = ["/bin/sh", "-c", self.script]
        return subprocess.Popen(command, cwd=self.work, stderr=subprocess.PIPE, env={**os.environ, **environment})


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    _, message = process.communicate(timeout=20)  # to the end of its output: nothing that it started is left
    assert (process.returncode, message) == (0, b"")


def recipe(packaged: Package) -> dict:  # type: ignore[type-arg]
    return json.loads(packaged.component.recipe.read_text())


def test_layout_for_a_local_deployment(component: Component) -> None:
    root = component.recipe.parents[1]
    assert component.recipe == root / "recipes" / "model-m-1.0.0.json"
    manifests = json.loads(component.recipe.read_bytes())["Manifests"]
    facts = json.loads((root / "component.json").read_bytes())
    assert [m["Platform"] for m in manifests] == [{"os": "linux", "architecture": a, "runtime": "*"} for a in ("aarch64", "amd64")]
    for manifest, artifact, noted in zip(manifests, component.artifacts, facts["artifacts"], strict=True):
        assert artifact.path.parent == root / "artifacts" / "model-m" / "1.0.0"
        assert artifact.path.name.endswith("_greengrass_model_component.zip")
        assert len(artifact.path.name.split("_")[0]) == 12
        assert manifest["Artifacts"][0]["Uri"].endswith(f"/model-m/1.0.0/{artifact.path.name}")
        assert artifact.path.stem in manifest["Lifecycle"]["run"]["Script"]
        assert noted["platform"] == f"linux/{artifact.architecture}"
    assert len({a.path for a in component.artifacts}) == 2


def test_what_an_earlier_packaging_left_is_removed(component: Component, tmp_path: Path) -> None:
    changed = write_bundle(tmp_path / "changed", SMALL, {"model.onnx": b"another", REGISTER_NAME: REGISTER})
    again = write_component({"amd64": changed}, tmp_path / "component", "model-m", "1.0.0")
    assert list(component.artifacts[0].path.parent.iterdir()) == [again.artifacts[0].path]


def test_rules_that_both_nuclei_need(component: Component) -> None:
    text = component.recipe.read_bytes()
    assert len(text) <= 8000
    table = json.loads(text)
    for manifest in table["Manifests"]:
        assert set(manifest["Lifecycle"]) == {"run"}
        assert manifest["Artifacts"][0]["Unarchive"] == "ZIP"
        assert manifest["Artifacts"][0]["Permission"] == {"Read": "ALL", "Execute": "NONE"}
    assert table["ComponentDependencies"] == {"linewatch.EdgeAgent": {"VersionRequirement": ">=0.1.0 <2.0.0", "DependencyType": "HARD"}}


@NUCLEI
@pytest.mark.parametrize("unpacked", [True, False])
def test_run_script_registers_and_removes(component: Component, tmp_path: Path, fill: Callable[..., str], unpacked: bool) -> None:
    deployed = Deployed(tmp_path / "the core's \\ root", component, fill, unpacked=unpacked, Autostart="true")
    process = deployed.start()
    try:
        wait_for(deployed.entry.exists)
        folder = deployed.unpacked / deployed.stem if unpacked else deployed.work / "unpacked" / deployed.stem
        assert json.loads(deployed.entry.read_bytes()) == {"component": "model-m", "version": "1.0.0", "folder": str(folder), "autostart": "true"}
        found = Catalog(deployed.entry.parent).scan()["model-m"]
        assert (found.folder, found.autostart) == (folder, True)
        assert open_bundle(found.folder).manifest.component == "model-m"
    finally:
        end(process)
    assert list(deployed.entry.parent.iterdir()) == []


@NUCLEI
def test_a_folder_of_ones_own_with_odd_characters(component: Component, tmp_path: Path, fill: Callable[..., str]) -> None:
    folder = tmp_path / "a folder (7)"
    deployed = Deployed(tmp_path, component, fill, RegistrationFolder=str(folder))
    process = deployed.start()
    try:
        wait_for((folder / "model-m.json").exists)
    finally:
        end(process)


def test_the_agents_python_unpacks_where_there_is_no_unzip(component: Component, tmp_path: Path) -> None:
    deployed = Deployed(tmp_path, component, lite_script, unpacked=False)
    own, tools = tmp_path / "work" / "linewatch.EdgeAgent" / "current" / "bin", tmp_path / "tools"
    for folder, programs in ((own, {"python3": sys.executable}), (tools, {t: shutil.which(t) for t in TOOLS})):
        folder.mkdir(parents=True)
        for name, program in programs.items():
            (folder / name).symlink_to(str(program))
    process = deployed.start(PATH=str(tools))
    try:
        wait_for(deployed.entry.exists)
    finally:
        end(process)


def test_nothing_in_a_configuration_is_executed_on_lite(component: Component, tmp_path: Path) -> None:
    folder = tmp_path / 'a "$(touch oops)` \\'
    deployed = Deployed(tmp_path, component, lite_script, RegistrationFolder=str(folder))
    process = deployed.start()
    try:
        wait_for((folder / "model-m.json").exists)
    finally:
        end(process)
    assert list(deployed.work.iterdir()) == []


def test_an_older_version_that_ends_leaves_the_newer_ones_registration(component: Component, tmp_path: Path) -> None:
    deployed = Deployed(tmp_path, component, lite_script)
    process = deployed.start()
    try:
        wait_for(deployed.entry.exists)
        newer = deployed.entry.read_text().replace("1.0.0", "2.0.0")
        deployed.entry.write_text(newer)
    finally:
        end(process)
    assert deployed.entry.read_text() == newer


def test_a_folder_that_cannot_be_written_is_named_with_the_remedy(component: Component, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    process = Deployed(tmp_path, component, lite_script, RegistrationFolder=str(tmp_path / "file" / "x")).start()
    _, message = process.communicate(timeout=20)
    assert process.returncode == 1
    assert b"RegistrationFolder" in message


def test_the_artifact_is_the_bundle(packaged: Package, tmp_path: Path) -> None:
    [artifact] = packaged.component.artifacts
    unpacked = unzip_bundle(artifact.path, tmp_path / "out")
    manifest = unpacked.manifest
    assert manifest == packaged.bundle.manifest
    assert manifest.model.arn.endswith(":model/parts/3")
    assert (manifest.picture.width, manifest.picture.height) == (320, 240)
    assert {label.name for label in manifest.labels if label.hex_color.startswith("#")} == {"scratch", "dent", "missing hole"}
    assert unpacked.targets() == ["x86_64-cpu"]
    assert unpacked.read(REGISTER_NAME) == REGISTER


def test_a_bundle_answers_to_its_components_name_wherever_it_lies(component: Component, tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "amd64", tmp_path / "models" / "copied")
    assert list(Catalog(tmp_path / "models").scan()) == [component.name] == ["model-m"]
    write_bundle(tmp_path / "trained", SMALL, {"model.onnx": b""})
    assert list(Catalog(tmp_path / "trained").scan()) == ["m"]


def test_one_name_everywhere(packaged: Package) -> None:
    name = packaged.component.name
    assert recipe(packaged)["ComponentName"] == name == packaged.bundle.manifest.component
    assert list(Catalog(packaged.component.recipe.parents[1]).scan()) == [name]


def test_default_identity_and_wrong_ones(packaged: Package) -> None:
    assert packaged.component.version == "3.0.0"
    for model, name in [("phone", "model-phone"), ("model", "model"), ("model-7", "model-7")]:
        assert default_name(msgspec.structs.replace(SMALL, model=msgspec.structs.replace(SMALL.model, name=model))) == name
    assert default_name(msgspec.structs.replace(SMALL, component="phone")) == "phone", "packaging a package gives it again"
    for name, version in [
        ("a b", "1.0.0"),
        ("", "1.0.0"),
        ("x" * 129, "1.0.0"),
        ("m", "1.0"),
        ("m", "v1.0.0"),
        ("m", "1.0.1234567"),
    ]:
        with pytest.raises(ComponentError):
            check_identity(name, version)


def test_two_targets_that_a_core_cannot_tell_apart(packaged: Package, tmp_path: Path) -> None:
    targets = [find_target("aarch64-cpu"), find_target("jetson_xavier")]
    with pytest.raises(ComponentError, match="aarch64-cpu and jetson_xavier are both for aarch64"):
        package_each(packaged.bundle, targets, tmp_path / "out")
    with pytest.raises(ComponentError, match="x86_64-cpu and x86_64-cpu are both"):
        package_each(packaged.bundle, [find_target("x86_64-cpu")] * 2, tmp_path / "out")


def test_proof_is_in_the_package(packaged: Package) -> None:
    described = json.loads(packaged.bundle.read("compiled/x86_64-cpu/target.json"))
    assert {p["variant"] for p in described["parity"]} | set(described["not_run_here"]) == {"avx512", "avx2"}
    for variant in packaged.variants:
        if variant.parity:
            assert variant.parity.pictures == 6
            assert variant.parity.changed_answers == 0
            assert variant.parity.score_difference <= 1e-4
        if variant.timing:
            assert variant.timing.peak_memory_mib > 0


RIGHT = Parity(variant="v", ran_on="x", pictures=6, score_difference=0.0, map_difference=0.0, labels_difference=0.0,
               mask_difference=0.0, changed_answers=0, resize_differences=0)  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"score_difference": 0.002},
        {"map_difference": 0.5},
        {"labels_difference": float("nan")},
        {"mask_difference": 0.01},
        {"changed_answers": 1},
        {"resize_differences": 1},
    ],
)
def test_disagreement_fails(change: dict[str, float]) -> None:
    RIGHT.check()
    with pytest.raises(ParityError, match=r"^v \(x\) does not give the right answers"):
        msgspec.structs.replace(RIGHT, **change).check()


@pytest.mark.fault
def test_wrong_code_is_not_packaged(packaged: Package, tmp_path: Path) -> None:
    """A model whose golden answers the compiled code does not give: another model's graph under the same golden files."""
    bundle = packaged.bundle
    files = {name: bundle.read(name) for name in bundle.manifest.files if not name.startswith("compiled/")}
    model = bytearray(files["model.onnx"])
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(bytes(model))
    bias = next(c for c in graph.graph.initializer if list(c.dims) == [1])
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 3, bias.name))
    wrong = write_bundle(tmp_path / "wrong", bundle.manifest, {**files, "model.onnx": graph.SerializeToString()})
    with pytest.raises(ParityError, match="score differs"):
        package(open_bundle(wrong.folder), find_target("x86_64-cpu"), tmp_path / "out", PackageOptions(tuning="model", rounds=2))
    assert not (tmp_path / "out").exists()
