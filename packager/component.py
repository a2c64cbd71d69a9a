"""Compiled bundles as a Greengrass V2 component: artifact zips and the recipe, laid out for a local deployment.

    DIR/recipes/NAME-VERSION.json                                             with a manifest for each architecture
    DIR/artifacts/NAME/VERSION/<12 hex>_greengrass_model_component.zip        one for each of them
    DIR/component.json                name, version, tags, and the SHA-256 of the files above
    DIR/bundle/                       a bundle, unpacked, for `linewatch agent --models DIR`: of several that for this machine

The rules that a recipe keeps are in `linewatch.packager.recipe`.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from linewatch.anomaly_model.bundle import Bundle, zip_bundle
from linewatch.anomaly_model.errors import LinewatchError
from linewatch.anomaly_model.files import replace_file
from linewatch.anomaly_model.manifest import Manifest, dump_manifest
from linewatch.packager.recipe import DESCRIPTION, NAME, VERSION, check_recipe, format_recipe

AGENT = "linewatch.EdgeAgent"
AGENT_VERSIONS = ((0, 1, 0), (2, 0, 0))
"""The agent's component that models depend on: from the first of these versions on, below the second."""
REGISTER_NAME = "register.sh"
"""The file of a packaged bundle that tells the agent of it; see packager/device."""
_MARKER = re.compile(r"@([A-Z_]+)@")


class ComponentError(LinewatchError):
    """A component's name or version breaks Greengrass's rules, or it cannot be made for what was asked."""


@dataclass(frozen=True, slots=True)
class ComponentIdentity:
    """Who a component is."""

    name: str
    version: str
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Draft:
    """An artifact that is to be written.

    Attributes:
        architecture: of the devices that it is for, as recipes call it.
        stem: of its file name.
        write: called with its path.
    """

    architecture: str
    stem: str
    write: Callable[[Path], None]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One that was written."""

    architecture: str
    path: Path
    bytes: int


@dataclass(frozen=True, slots=True)
class Component:
    """What was written."""

    name: str
    version: str
    recipe: Path
    artifacts: tuple[Artifact, ...]


def default_name(manifest: Manifest) -> str:
    """The name that a bundle was packaged under before, or `model-NAME`: Defect Detection App lists components that begin with `model`."""
    name = manifest.model.name
    return manifest.component or (name if name.startswith("model") else f"model-{name}")


def default_version(manifest: Manifest) -> str:
    """MODELVERSION.0.0, as the cloud service had it."""
    return f"{int(manifest.model.version)}.0.0"


def check_identity(name: str, version: str, description: str = "") -> None:
    """Refuse names, versions and descriptions that Greengrass would refuse.

    Raises:
        ComponentError: names what is not allowed.
    """
    if not NAME.fullmatch(name):
        raise ComponentError(f"component name {name!r} is not allowed: 1 to 128 letters, digits, '-', '_' and '.'")
    if not VERSION.fullmatch(version):
        raise ComponentError(f"component version {version!r} is not of the form major.minor.patch, such as 1.0.0")
    if description and not DESCRIPTION.fullmatch(description):
        raise ComponentError(f"component description {description[:80]!r} is not allowed: 1 to 256 letters, digits, spaces and - _ . ( ) ' : , ; ?")


def write_component(
    bundles: Mapping[str, Bundle], folder: Path, name: str, version: str, *, description: str = "",
    tags: Mapping[str, str] | None = None, location: str = "",
) -> Component:  # fmt: skip
    """Write recipe, artifacts and component.json below `folder`.

    Args:
        bundles: the compiled ones, by the architecture that each is for.
        folder: see above.
        name: of the component.
        version: of the component.
        description: of the component; empty for one that names the model.
        tags: given to Greengrass when the component is published; a recipe has no room for them.
        location: address of the folder that the artifacts will lie in.

    Raises:
        ComponentError: see `check_identity`.
        RecipeError: see `finish_component`.
    """
    check_identity(name, version, description)
    drafts = [
        Draft(architecture, f"{hashlib.sha256(dump_manifest(b.manifest)).hexdigest()[:12]}_greengrass_model_component", partial(zip_bundle, b))
        for architecture, b in bundles.items()
    ]
    model = next(iter(bundles.values())).manifest.model
    above, below = (".".join(map(str, v)) for v in AGENT_VERSIONS)
    values = {
        "MODEL_NAME": model.name, "MODEL_VERSION": model.version, "MODEL_ARN": model.arn, "AGENT": AGENT, "REGISTER": REGISTER_NAME,
        "AGENT_VERSIONS": f">={above} <{below}",
        "DESCRIPTION": description or f"Anomaly model {model.name} version {model.version}, packaged by Linewatch",
    }  # fmt: skip
    return finish_component(folder, ComponentIdentity(name, version, tags or {}), drafts, recipe="model", values=values, location=location)


def finish_component(
    folder: Path, identity: ComponentIdentity, drafts: Sequence[Draft], *, recipe: str, values: Mapping[str, str], location: str = "",
) -> Component:  # fmt: skip
    """Write artifacts, recipe and component.json: the same for models and for the agent.

    Args:
        folder: laid out as said above.
        identity: who the component is.
        drafts: the artifacts; written once the recipe is known to keep the rules.
        recipe: which template, `model` or `agent`.
        values: of the template's own markers; those that all templates have are filled in here.
        location: address of the folder that the artifacts will lie in; empty for a place to be filled in.

    Raises:
        RecipeError: the recipe breaks a rule of `linewatch.packager.recipe`, such as its size.
    """
    name, version = identity.name, identity.version
    drafts = sorted(drafts, key=lambda draft: draft.architecture)
    text = render_recipe(
        recipe, {**values, "COMPONENT_NAME": name, "COMPONENT_VERSION": version},
        [{"ARCHITECTURE": d.architecture, "ARTIFACT_STEM": d.stem} for d in drafts],
        location.rstrip("/") or f"s3://BUCKET/artifacts/{name}/{version}",
    )  # fmt: skip
    artifacts = []
    for draft in drafts:
        artifact = folder / "artifacts" / name / version / f"{draft.stem}.zip"
        draft.write(artifact)
        artifacts.append(Artifact(draft.architecture, artifact, artifact.stat().st_size))
    path = folder / "recipes" / f"{name}-{version}.json"
    replace_file(path, text)
    for left in set((folder / "artifacts" / name / version).glob("*.zip")) - {a.path for a in artifacts}:
        left.unlink()  # of another content under this version: deployments would carry it along
    facts = {
        "name": name, "version": version, "tags": dict(identity.tags),
        "recipe": str(path.relative_to(folder)), "recipe_sha256": hashlib.sha256(text).hexdigest(),
        "artifacts": [
            {"platform": f"linux/{a.architecture}", "path": str(a.path.relative_to(folder)), "sha256": _digest(a.path)} for a in artifacts
        ],
    }  # fmt: skip
    replace_file(folder / "component.json", msgspec.json.format(msgspec.json.encode(facts)) + b"\n")
    return Component(name, version, path, tuple(artifacts))


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def render_recipe(kind: str, values: Mapping[str, str], platforms: Sequence[Mapping[str, str]], location: str) -> bytes:
    """Fill the `model` or `agent` template, its one manifest once for each platform.

    Args:
        kind: of template: model or agent.
        values: of the template's markers.
        platforms: further values, one mapping for each platform.
        location: address of the folder that the artifacts will lie in.

    Raises:
        RecipeError: the recipe breaks a rule.
    """
    recipe = msgspec.json.decode(_template(f"{kind}.json"), type=dict[str, Any])
    unpacked = _template("unpacked.sh").decode()
    [manifest] = recipe.pop("Manifests")
    manifests = [
        _filled(manifest, {**values, **platform, "LOCATION": location, "UNPACKED": _filled(unpacked, platform)}) for platform in platforms
    ]
    text = format_recipe({**_filled(recipe, values), "Manifests": manifests})
    check_recipe(text)
    return text


def _template(name: str) -> bytes:
    """A file of recipes/."""
    return (Path(__file__).parents[1] / "recipes" / name).read_bytes()


def _filled(node: Any, values: Mapping[str, str]) -> Any:
    """@MARKERS@ filled in, inside parsed texts and keys, so that no value can break the JSON."""
    match node:
        case str():
            return _MARKER.sub(lambda match: values[match[1]], node)
        case list():
            return [_filled(item, values) for item in node]
        case dict():
            return {_filled(key, values): _filled(item, values) for key, item in node.items()}
        case _:
            return node
