"""Component stores, local and AWS's."""

import hashlib
import json
import shutil
from pathlib import Path

import boto3
import pytest
from botocore.stub import ANY, Stubber

from linewatch.anomaly_model.bundle import write_bundle
from linewatch.packager.component import write_component
from linewatch.packager.package import Package
from linewatch.packager.publish import ComponentExistsError, PublishError, publish_to_aws, publish_to_store, with_location
from tests.unit.anomaly_model.test_manifest import SMALL


@pytest.fixture
def component(packaged: Package, tmp_path: Path) -> Path:
    folder = packaged.component.recipe.parents[1]
    for name in ("recipes", "artifacts"):
        shutil.copytree(folder / name, tmp_path / "component" / name)
    shutil.copy(folder / "component.json", tmp_path / "component")
    return tmp_path / "component"


def test_a_store_is_what_a_local_deployment_takes(component: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = publish_to_store(component, store)
    assert (done.name, done.version) == ("parts", "3.0.0")
    recipe = json.loads((store / "recipes" / "parts-3.0.0.json").read_bytes())
    name = Path(recipe["Manifests"][0]["Artifacts"][0]["Uri"]).name
    assert (store / "artifacts" / "parts" / "3.0.0" / name).is_file()
    assert publish_to_store(component, store) == done, "the very same component again"


def test_a_name_and_version_are_used_once(component: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    publish_to_store(component, store)
    recipe = store / "recipes" / "parts-3.0.0.json"
    recipe.write_bytes(recipe.read_bytes().replace(b"Linewatch", b"Another"))
    with pytest.raises(ComponentExistsError, match=r"parts version 3\.0\.0 already"):
        publish_to_store(component, store)
    assert b"Another" in recipe.read_bytes()


def test_what_was_changed_since_packaging_is_not_published(component: Path, tmp_path: Path) -> None:
    [artifact] = component.glob("artifacts/*/*/*.zip")
    data = bytearray(artifact.read_bytes())
    data[100] ^= 1
    artifact.write_bytes(data)
    with pytest.raises(PublishError, match=r"\.zip in .* is not what was packaged"):
        publish_to_store(component, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    with pytest.raises(PublishError, match="holds no component"):
        publish_to_store(tmp_path, tmp_path / "store")


@pytest.mark.parametrize("place", ["../outside.zip", "artifacts/parts/3.0.0/../../../../outside.zip", "/etc/hostname"])
def test_files_outside_a_component_are_neither_read_nor_written(component: Path, tmp_path: Path, place: str) -> None:
    facts = json.loads((component / "component.json").read_bytes())
    (tmp_path / "outside.zip").write_bytes(b"x")
    facts["artifacts"][0].update(path=place, sha256=hashlib.sha256(b"x").hexdigest())
    (component / "component.json").write_text(json.dumps(facts))
    with pytest.raises(PublishError, match="do not lie where a component's do"):
        publish_to_store(component, tmp_path / "deeper" / "store")


@pytest.fixture
def of_two(tmp_path: Path) -> Path:
    """A component for two kinds of devices."""
    bundles = {a: write_bundle(tmp_path / a, SMALL, {"model.onnx": a.encode()}) for a in ("amd64", "aarch64")}
    write_component(bundles, tmp_path / "two", "model-m", "1.0.0")
    return tmp_path / "two"


def test_artifacts_for_several_kinds_of_devices_go_together(of_two: Path, tmp_path: Path) -> None:
    publish_to_store(of_two, tmp_path / "store")
    recipe = json.loads((tmp_path / "store" / "recipes" / "model-m-1.0.0.json").read_bytes())
    names = {Path(m["Artifacts"][0]["Uri"]).name for m in recipe["Manifests"]}
    assert {p.name for p in (tmp_path / "store" / "artifacts" / "model-m" / "1.0.0").iterdir()} == names
    assert len(names) == 2
    s3, s3_stub, greengrass, greengrass_stub = clients()
    keys = [f"models/model-m/1.0.0/{Path(m['Artifacts'][0]['Uri']).name}" for m in recipe["Manifests"]]
    for key in keys:
        s3_stub.add_response("put_object", {}, {"Bucket": "b", "Key": key, "Body": ANY, "ContentType": "application/zip"})
    published = with_location((of_two / "recipes" / "model-m-1.0.0.json").read_bytes(), "s3://b/models/model-m/1.0.0")
    assert [m["Artifacts"][0]["Uri"] for m in json.loads(published)["Manifests"]] == [f"s3://b/{key}" for key in keys]
    answer = {"arn": "arn:x", "componentName": "model-m", "componentVersion": "1.0.0", "creationTimestamp": 0, "status": {}}
    greengrass_stub.add_response("create_component_version", answer, {"inlineRecipe": published, "tags": {}})
    with s3_stub, greengrass_stub:
        publish_to_aws(of_two, "b", "models/", s3, greengrass)
    s3_stub.assert_no_pending_responses()


def clients() -> tuple[object, Stubber, object, Stubber]:
    keys = {"region_name": "eu-central-1", "aws_access_key_id": "a", "aws_secret_access_key": "b"}
    s3, greengrass = boto3.client("s3", **keys), boto3.client("greengrassv2", **keys)
    return s3, Stubber(s3), greengrass, Stubber(greengrass)


def test_a_component_version_in_aws(component: Path) -> None:
    s3, s3_stub, greengrass, greengrass_stub = clients()
    [artifact] = component.glob("artifacts/*/*/*.zip")
    key = f"models/parts/3.0.0/{artifact.name}"
    s3_stub.add_response("put_object", {}, {"Bucket": "b", "Key": key, "Body": artifact.read_bytes(), "ContentType": "application/zip"})
    arn = "arn:aws:greengrass:eu-central-1:000000000000:components:parts:versions:3.0.0"
    answer = {"arn": arn, "componentName": "parts", "componentVersion": "3.0.0", "creationTimestamp": 0,
              "status": {"componentState": "REQUESTED"}}  # fmt: skip
    greengrass_stub.add_response("create_component_version", answer, {"inlineRecipe": ANY, "tags": {}})
    with s3_stub, greengrass_stub:
        assert publish_to_aws(component, "b", "models/", s3, greengrass).where == arn
    greengrass_stub.assert_no_pending_responses()


def test_a_conflict_in_aws(component: Path) -> None:
    s3, s3_stub, greengrass, greengrass_stub = clients()
    s3_stub.add_response("put_object", {})
    greengrass_stub.add_client_error("create_component_version", "ConflictException", "exists", 409)
    with s3_stub, greengrass_stub, pytest.raises(ComponentExistsError, match="already"):
        publish_to_aws(component, "b", "", s3, greengrass)
    s3_stub.add_client_error("put_object", "AccessDenied", "no", 403)
    with s3_stub, pytest.raises(PublishError, match=r"AWS refused.*AccessDenied"):
        publish_to_aws(component, "b", "", s3, greengrass)
