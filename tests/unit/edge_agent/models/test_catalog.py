import json
import random
import shutil
from pathlib import Path

from linewatch.anomaly_model.bundle import write_bundle
from linewatch.edge_agent.models.catalog import Catalog, precedence
from tests.unit.anomaly_model.test_manifest import SMALL


def test_bundles_below_the_folder(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a" / "b", SMALL, {"model.onnx": b""})
    found = Catalog(tmp_path).scan()
    assert list(found) == ["m"]
    assert found["m"].manifest is not None


def test_a_registration_counts_before_what_is_merely_found(tmp_path: Path) -> None:
    for version in ("1", "2"):
        write_bundle(tmp_path / version, SMALL, {"model.onnx": version.encode()})
    (tmp_path / "model-m.json").write_text(
        json.dumps({"component": "model-m", "version": "2.0.0", "folder": str(tmp_path / "2")})
    )
    found = Catalog(tmp_path).scan()
    assert found["model-m"].folder == tmp_path / "2"
    assert found["m"].folder == tmp_path / "1"


def test_removed_models_disappear_and_changes_are_seen(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path)
    write_bundle(tmp_path / "x", SMALL, {"model.onnx": b""})
    assert list(catalog.scan()) == ["m"]
    (tmp_path / "x" / "bundle.json").write_text("{")
    broken = catalog.scan()["x"]
    assert broken.manifest is None
    assert "not a valid bundle" in broken.problem
    shutil.rmtree(tmp_path / "x")
    assert catalog.scan() == {}


def test_foreign_files_and_a_missing_folder(tmp_path: Path) -> None:
    (tmp_path / "note.json").write_text("[1]")
    (tmp_path / "half.json").write_text('{"component": "x"')
    assert Catalog(tmp_path).scan() == {}
    assert Catalog(tmp_path / "nowhere").scan() == {}


def test_what_a_core_unpacked_counts_by_its_highest_version_until_one_is_registered(tmp_path: Path) -> None:
    models, artifacts = tmp_path / "models", tmp_path / "artifacts"
    for version in ("1.9.0", "1.10.0", "1.10.0-rc.1"):
        write_bundle(artifacts / "model-m" / version / "model-m", SMALL, {"model.onnx": version.encode()})
    (artifacts / "other.Component" / "1.0.0" / "stuff").mkdir(parents=True)
    models.mkdir()
    catalog = Catalog(models, artifacts)
    assert {name: entry.folder for name, entry in catalog.scan().items()} == {"model-m": artifacts / "model-m" / "1.10.0" / "model-m"}
    registered = artifacts / "model-m" / "1.9.0" / "model-m"
    (models / "model-m.json").write_text(json.dumps({"component": "model-m", "version": "1.9.0", "folder": str(registered)}))
    assert {name: entry.folder for name, entry in catalog.scan().items()} == {"model-m": registered}
    assert Catalog(models, tmp_path / "nowhere").scan().keys() == {"model-m"}


def test_versions_are_ordered_as_semantic_versioning_says() -> None:
    ordered = [
        "1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0", "1.2.0", "1.10.0",
    ]  # fmt: skip
    mixed = random.Random(0).sample(ordered, len(ordered))
    assert sorted(mixed, key=precedence) == ordered
    assert precedence("1.0.0+a") == precedence("1.0.0+b")
