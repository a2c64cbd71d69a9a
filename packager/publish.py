"""Brings a packaged component to where cores take it from: a local component store, or AWS.

A store is a folder that both local deployments take as it is (`greengrass-cli deployment create --recipeDir
STORE/recipes --artifactDir STORE/artifacts`, `ggl-cli deploy --recipe-dir ... --artifacts-dir ...`).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from anomaly_model.bundle import replace_file
from anomaly_model.errors import LinewatchError


class PublishError(LinewatchError):
    """A component cannot be published."""


class ComponentExistsError(PublishError):
    """The name and version are taken."""


class _Packed(msgspec.Struct, frozen=True):
    name: str
    version: str
    tags: dict[str, str]
    artifact: str
    artifact_sha256: str
    recipe: str
    recipe_sha256: str


@dataclass(frozen=True, slots=True)
class Published:
    """Where a component is now: its ARN, or its recipe's path in a store."""

    name: str
    version: str
    where: str


@dataclass(frozen=True, slots=True)
class _Content:
    facts: _Packed
    artifact: bytes
    recipe: bytes


def publish_to_store(folder: Path, store: Path, *, replace: bool = False) -> Published:
    """Copy a component into a store; the artifact first, so that a recipe never names one that is not there.

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
    artifact, recipe = store / facts.artifact, store / facts.recipe
    same = (
        recipe.is_file() and recipe.read_bytes() == content.recipe
        and artifact.is_file() and _digest(artifact.read_bytes()) == facts.artifact_sha256
    )  # fmt: skip
    if recipe.is_file() and not same and not replace:
        raise ComponentExistsError(
            f"{store} has a component {facts.name} version {facts.version} already, with another content; package it with another --component-version"
        )
    replace_file(artifact, content.artifact)
    replace_file(recipe, content.recipe)
    return Published(facts.name, facts.version, str(recipe))


def publish_to_aws(
    folder: Path, bucket: str, prefix: str, s3: Any, greengrass: Any
) -> Published:  # fmt: skip
    """Upload the artifact, and create the component version.

    Args:
        folder: what `linewatch package` wrote.
        bucket: for the artifact.
        prefix: of its key.
        s3: boto3's client for S3.
        greengrass: boto3's client for greengrassv2.

    Raises:
        ComponentExistsError: Greengrass has this name and version.
        PublishError: see `publish_to_store`; also what AWS refused.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    content = _read(folder)
    facts = content.facts
    key = f"{prefix}{facts.name}/{facts.version}/{Path(facts.artifact).name}"
    try:
        s3.put_object(Bucket=bucket, Key=key, Body=content.artifact, ContentType="application/zip")
        answer = greengrass.create_component_version(
            inlineRecipe=with_location(content.recipe, f"s3://{bucket}/{key}"), tags=facts.tags
        )
    except ClientError as error:
        if error.response["Error"]["Code"] == "ConflictException":
            raise ComponentExistsError(
                f"AWS IoT Greengrass has a component {facts.name} version {facts.version} already; package it with another --component-version"
            ) from error
        raise PublishError(f"AWS refused: {error}") from error
    except BotoCoreError as error:
        raise PublishError(f"AWS cannot be reached: {error}") from error
    return Published(facts.name, facts.version, answer["arn"])


def with_location(recipe: bytes, uri: str) -> bytes:
    """A recipe whose artifact lies at `uri`."""
    value: dict[str, Any] = msgspec.json.decode(recipe)
    for manifest in value["Manifests"]:
        for artifact in manifest["Artifacts"]:
            artifact["Uri"] = uri
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _read(folder: Path) -> _Content:
    try:
        facts = msgspec.json.decode((folder / "component.json").read_bytes(), type=_Packed)
        artifact, recipe = (folder / facts.artifact).read_bytes(), (folder / facts.recipe).read_bytes()
    except (OSError, msgspec.DecodeError) as error:
        raise PublishError(
            f"{folder} holds no component: {error}; make one with: linewatch package BUNDLE -o {folder}"
        ) from error
    for name, data, expected in (
        (facts.artifact, artifact, facts.artifact_sha256),
        (facts.recipe, recipe, facts.recipe_sha256),
    ):
        if _digest(data) != expected:
            raise PublishError(
                f"{name} in {folder} is not what was packaged: its SHA-256 differs from component.json; package it again"
            )
    return _Content(facts, artifact, recipe)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
