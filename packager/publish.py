"""Brings a packaged component to where cores take it from: a local component store, or AWS.

A store is a folder that both local deployments take as it is (`greengrass-cli deployment create --recipeDir
STORE/recipes --artifactDir STORE/artifacts`, `ggl-cli deploy --recipe-dir ... --artifacts-dir ...`).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from linewatch.anomaly_model.errors import LinewatchError, Remedy
from linewatch.anomaly_model.files import replace_file
from linewatch.packager.component import ComponentError, check_identity
from linewatch.packager.recipe import check_recipe, format_recipe


class PublishError(LinewatchError):
    """A component cannot be published."""


class RefusedError(PublishError):
    """AWS refuses, or does not answer."""


class ComponentExistsError(PublishError):
    """The name and version are taken."""


class _PackedArtifact(msgspec.Struct, frozen=True):
    path: str
    sha256: str


class _Packed(msgspec.Struct, frozen=True):
    name: str
    version: str
    tags: dict[str, str]
    recipe: str
    recipe_sha256: str
    artifacts: list[_PackedArtifact]


@dataclass(frozen=True, slots=True)
class Published:
    """Where a component is now: its ARN, or its recipe's path in a store."""

    name: str
    version: str
    where: str


@dataclass(frozen=True, slots=True)
class _Content:
    facts: _Packed
    artifacts: dict[str, bytes]
    recipe: bytes


def publish_to_store(folder: Path, store: Path, *, replace: bool = False) -> Published:
    """Copy a component into a store; the artifacts first, so that a recipe never names one that is not there.

    Publishing the very same component again changes nothing.

    Args:
        folder: what `linewatch package` wrote.
        store: see above.
        replace: another content under a name and version that are there takes its place: for callers that keep a list of
            their own of what is taken.

    Raises:
        ComponentExistsError: the store has another component of this name and version.
        PublishError: the folder holds no component, or its files are not those that were packaged.
    """
    content = _read(folder)
    facts = content.facts
    recipe = store / facts.recipe
    same = recipe.is_file() and recipe.read_bytes() == content.recipe and all(
        (store / path).is_file() and (store / path).read_bytes() == data for path, data in content.artifacts.items()
    )  # fmt: skip
    if recipe.is_file() and not same and not replace:
        raise ComponentExistsError(
            f"{store} has a component {facts.name} version {facts.version} already, with another content (several kinds of devices "
            "share one component when they are packaged together)", Remedy.OTHER_VERSION
        )
    for path, data in content.artifacts.items():
        replace_file(store / path, data)
    replace_file(recipe, content.recipe)
    return Published(facts.name, facts.version, str(recipe))


def publish_to_aws(
    folder: Path, bucket: str, prefix: str, s3: Any, greengrass: Any
) -> Published:  # fmt: skip
    """Upload the artifacts, and create the component version.

    Args:
        folder: what `linewatch package` wrote.
        bucket: for the artifacts.
        prefix: of their keys.
        s3: boto3's client for S3.
        greengrass: boto3's client for greengrassv2.

    Raises:
        ComponentExistsError: Greengrass has this name and version.
        PublishError: see `publish_to_store`.
        RefusedError: AWS refuses, or does not answer.
        RecipeError: with these addresses the recipe is too long.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    content = _read(folder)
    facts = content.facts
    folder_key = f"{prefix}{facts.name}/{facts.version}"
    recipe = with_location(content.recipe, f"s3://{bucket}/{folder_key}")
    try:
        for path, data in content.artifacts.items():
            s3.put_object(Bucket=bucket, Key=f"{folder_key}/{Path(path).name}", Body=data, ContentType="application/zip")
        answer = greengrass.create_component_version(inlineRecipe=recipe, tags=facts.tags)
    except ClientError as error:
        if error.response["Error"]["Code"] == "ConflictException":
            raise ComponentExistsError(
                f"AWS IoT Greengrass has a component {facts.name} version {facts.version} already", Remedy.OTHER_VERSION
            ) from error
        raise RefusedError(f"AWS refused: {error}") from error
    except BotoCoreError as error:
        raise RefusedError(f"AWS cannot be reached: {error}") from error
    return Published(facts.name, facts.version, answer["arn"])


def with_location(recipe: bytes, location: str) -> bytes:
    """A recipe whose artifacts lie in the folder `location`."""
    value: dict[str, Any] = msgspec.json.decode(recipe)
    for manifest in value["Manifests"]:
        for artifact in manifest["Artifacts"]:
            artifact["Uri"] = f"{location}/{artifact['Uri'].rsplit('/', 1)[-1]}"
    text = format_recipe(value)
    check_recipe(text)
    return text


def _read(folder: Path) -> _Content:
    try:
        facts = msgspec.json.decode((folder / "component.json").read_bytes(), type=_Packed)
        check_identity(facts.name, facts.version)
        _check_places(facts)
        recipe = (folder / facts.recipe).read_bytes()
        artifacts = {artifact.path: (folder / artifact.path).read_bytes() for artifact in facts.artifacts}
    except (OSError, msgspec.DecodeError, ComponentError) as error:
        raise PublishError(
            f"{folder} holds no component: {error}; make one with: linewatch package BUNDLE -o {folder}"
        ) from error
    digests = {facts.recipe: facts.recipe_sha256, **{artifact.path: artifact.sha256 for artifact in facts.artifacts}}
    for name, data in {facts.recipe: recipe, **artifacts}.items():
        if _digest(data) != digests[name]:
            raise PublishError(
                f"{name} in {folder} is not what was packaged: its SHA-256 differs from component.json; package it again"
            )
    return _Content(facts, artifacts, recipe)


def _check_places(facts: _Packed) -> None:
    """A component.json of others could name files outside its folder, to be read here and written outside the store.

    Raises:
        ComponentError: a file's name is not that of a component's recipe or artifact.
    """
    place = f"artifacts/{facts.name}/{facts.version}/"
    names = [artifact.path.removeprefix(place) for artifact in facts.artifacts if artifact.path.startswith(place)]
    if facts.recipe != f"recipes/{facts.name}-{facts.version}.json" or len(names) != len(facts.artifacts) or any("/" in n for n in names):
        raise ComponentError("component.json names files that do not lie where a component's do")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
