"""Component stores, local and AWS's."""

import json
import shutil
from pathlib import Path

import boto3
import pytest
from botocore.stub import ANY, Stubber

from packager.package import Package
from packager.publish import ComponentExistsError, PublishError, publish_to_aws, publish_to_store


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
    assert (done.name, done.version) == ("model-parts", "3.0.0")
    recipe = json.loads((store / "recipes" / "model-parts-3.0.0.json").read_bytes())
    name = Path(recipe["Manifests"][0]["Artifacts"][0]["Uri"]).name
    assert (store / "artifacts" / "model-parts" / "3.0.0" / name).is_file()
    assert publish_to_store(component, store) == done, "the very same component again"


def test_a_name_and_version_are_used_once(component: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    publish_to_store(component, store)
    recipe = store / "recipes" / "model-parts-3.0.0.json"
    recipe.write_bytes(recipe.read_bytes().replace(b"Linewatch", b"Another"))
    with pytest.raises(ComponentExistsError, match=r"model-parts version 3\.0\.0 already"):
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


def clients() -> tuple[object, Stubber, object, Stubber]:
    keys = {"region_name": "eu-central-1", "aws_access_key_id": "a", "aws_secret_access_key": "b"}
    s3, greengrass = boto3.client("s3", **keys), boto3.client("greengrassv2", **keys)
    return s3, Stubber(s3), greengrass, Stubber(greengrass)


def test_a_component_version_in_aws(component: Path) -> None:
    s3, s3_stub, greengrass, greengrass_stub = clients()
    [artifact] = component.glob("artifacts/*/*/*.zip")
    key = f"models/model-parts/3.0.0/{artifact.name}"
    s3_stub.add_response("put_object", {}, {"Bucket": "b", "Key": key, "Body": artifact.read_bytes(), "ContentType": "application/zip"})
    arn = "arn:aws:greengrass:eu-central-1:000000000000:components:model-parts:versions:3.0.0"
    answer = {"arn": arn, "componentName": "model-parts", "componentVersion": "3.0.0", "creationTimestamp": 0,
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
