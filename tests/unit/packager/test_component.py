import json
import subprocess
import time
from pathlib import Path

import msgspec
import pytest

from anomaly_model.bundle import open_bundle, unzip_bundle, write_bundle
from anomaly_model.parity import Parity, ParityError
from anomaly_model.targets import find_target
from packager.component import ComponentError, check_identity
from packager.package import Package, PackageOptions, package


def recipe(packaged: Package) -> dict:  # type: ignore[type-arg]
    return json.loads(packaged.component.recipe.read_text())


def test_layout_for_a_local_deployment(packaged: Package) -> None:
    root = packaged.component.recipe.parents[1]
    assert packaged.component.recipe == root / "recipes" / "model-parts-3.0.0.json"
    [artifact] = (root / "artifacts" / "model-parts" / "3.0.0").iterdir()
    assert artifact.name.endswith("_greengrass_model_component.zip")
    assert len(artifact.name.split("_")[0]) == 12
    assert recipe(packaged)["Manifests"][0]["Artifacts"][0]["Uri"].endswith(f"/model-parts/3.0.0/{artifact.name}")


def test_the_artifact_is_the_bundle(packaged: Package, tmp_path: Path) -> None:
    unpacked = unzip_bundle(packaged.component.artifact, tmp_path / "out")
    assert unpacked.manifest == packaged.bundle.manifest
    assert unpacked.targets() == ["x86_64-cpu"]


def test_rules_that_both_nuclei_need(packaged: Package) -> None:
    text, table = packaged.component.recipe.read_bytes(), recipe(packaged)
    assert len(text) <= 8000
    [manifest] = table["Manifests"]
    assert manifest["Platform"] == {"os": "linux", "architecture": "amd64", "runtime": "*"}
    assert set(manifest["Lifecycle"]) == {"run"}
    assert set(manifest["Lifecycle"]["run"]) == {"Script"}
    assert manifest["Artifacts"][0]["Unarchive"] == "ZIP"
    assert manifest["Artifacts"][0]["Permission"] == {"Read": "ALL", "Execute": "NONE"}
    [dependency] = table["ComponentDependencies"].values()
    assert dependency["DependencyType"] == "HARD"
    assert "^" not in dependency["VersionRequirement"]
    assert dependency["VersionRequirement"].startswith(">=")
    assert b"@" not in text
    known = ("{configuration:/", "{kernel:rootPath}", "{artifacts:decompressedPath}")
    script = manifest["Lifecycle"]["run"]["Script"]
    for i, character in enumerate(script):
        if character == "{" and ":" in script[i : script.find("}", i)] and script[i - 1] != "$":
            assert script[i:].startswith((*known, '{"component"')), script[i : i + 40]


def test_run_script_registers_and_removes(packaged: Package, tmp_path: Path) -> None:
    script = recipe(packaged)["Manifests"][0]["Lifecycle"]["run"]["Script"]
    for variable, value in {
        "{configuration:/RegistrationFolder}": "",
        "{kernel:rootPath}": str(tmp_path / "root"),
        "{artifacts:decompressedPath}": str(tmp_path / "unpacked"),
        "{configuration:/Autostart}": "true",
    }.items():
        script = script.replace(variable, value)
    entry = tmp_path / "root" / "work" / "linewatch.EdgeAgent" / "models.d" / "model-parts.json"
    process = subprocess.Popen(["sh", "-c", script])
    try:
        deadline = time.monotonic() + 10
        while not entry.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        registration = json.loads(entry.read_text())
        stem = packaged.component.artifact.stem
        assert registration == {
            "component": "model-parts", "version": "3.0.0", "folder": f"{tmp_path}/unpacked/{stem}", "autostart": "true",
        }  # fmt: skip
        process.terminate()
        assert process.wait(10) == 0
        assert not entry.exists()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def test_default_identity_and_wrong_ones(packaged: Package) -> None:
    assert (packaged.component.name, packaged.component.version) == ("model-parts", "3.0.0")
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


def test_proof_is_in_the_package(packaged: Package) -> None:
    described = json.loads(packaged.bundle.read("compiled/x86_64-cpu/target.json"))
    assert [p["variant"] for p in described["parity"]] + described["not_run_here"] == ["avx512", "avx2"]
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
