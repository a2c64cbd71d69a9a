"""A compiled bundle as a Greengrass V2 component: the artifact zip and the recipe, laid out for a local deployment.

    DIR/recipes/NAME-VERSION.json
    DIR/artifacts/NAME/VERSION/<12 hex>_greengrass_model_component.zip
    DIR/component.json                name, version, tags, and the SHA-256 of both files above
    DIR/bundle/                       the same bundle, unpacked: for `linewatch agent --models DIR`

The rules that the recipe keeps (both nuclei read it): JSON with exact key case; at most 8,000 bytes; `os`,
`architecture` and `runtime: "*"`; comparator version ranges; exactly one of run and startup; only variables that both
know; no privilege.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from anomaly_model.bundle import Bundle, replace_file, zip_bundle
from anomaly_model.errors import LinewatchError
from anomaly_model.manifest import dump_manifest
from anomaly_model.targets import Target

RECIPE_BYTES = 8000
_NAME = re.compile(r"[a-zA-Z0-9\-_.]{1,128}")
_VERSION = re.compile(r"[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}")
_DESCRIPTION = re.compile(r"[a-zA-Z0-9\-_. ()':,;?]{1,256}")
_MARKER = re.compile(r"@([A-Z_]+)@")


class ComponentError(LinewatchError):
    """A component's name, version or recipe breaks Greengrass's rules."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a component is."""

    name: str
    version: str
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Component:
    """What was written."""

    name: str
    version: str
    recipe: Path
    artifact: Path
    artifact_bytes: int


def default_name(bundle: Bundle) -> str:
    """`model-NAME`: Defect Detection App lists components that begin with `model`."""
    return f"model-{bundle.manifest.model.name}"


def default_version(bundle: Bundle) -> str:
    """MODELVERSION.0.0, as the cloud service had it."""
    return f"{int(bundle.manifest.model.version)}.0.0"


def check_identity(name: str, version: str, description: str = "") -> None:
    """Refuse names, versions and descriptions that Greengrass would refuse."""
    if not _NAME.fullmatch(name):
        raise ComponentError(f"component name {name!r} is not allowed: 1 to 128 letters, digits, '-', '_' and '.'")
    if not _VERSION.fullmatch(version):
        raise ComponentError(f"component version {version!r} is not of the form major.minor.patch, such as 1.0.0")
    if description and not _DESCRIPTION.fullmatch(description):
        raise ComponentError(f"component description {description[:80]!r} is not allowed: 1 to 256 letters, digits, spaces and - _ . ( ) ' : , ; ?")


def write_component(
    bundle: Bundle, target: Target, folder: Path, name: str, version: str, *, description: str = "",
    tags: Mapping[str, str] | None = None, location: str = "",
) -> Component:  # fmt: skip
    """Write recipe, artifact and component.json below `folder`.

    Args:
        bundle: the compiled one.
        target: what it is for.
        folder: see above.
        name: of the component.
        version: of the component.
        description: of the component; empty for one that names the model.
        tags: given to Greengrass when the component is published; a recipe has no room for them.
        location: address of the folder that the artifact will lie in.

    Raises:
        ComponentError: see `check_identity`; also a recipe over the size limit.
    """
    check_identity(name, version, description)
    model = bundle.manifest.model
    stem = f"{hashlib.sha256(dump_manifest(bundle.manifest)).hexdigest()[:12]}_greengrass_model_component"
    values = {
        "MODEL_NAME": model.name, "MODEL_VERSION": model.version, "MODEL_ARN": model.arn,
        "DESCRIPTION": description or f"Anomaly model {model.name} version {model.version}, packaged by Linewatch",
    }  # fmt: skip
    return finish_component(
        folder, Identity(name, version, tags or {}), target.architecture, stem, lambda path: zip_bundle(bundle, path),
        recipe="model", values=values, location=location,
    )  # fmt: skip


def finish_component(
    folder: Path, identity: Identity, architecture: str, stem: str, write_artifact: Callable[[Path], None], *, recipe: str,
    values: Mapping[str, str] | None = None, location: str = "",
) -> Component:  # fmt: skip
    """Write artifact, recipe and component.json: the same for models and for the agent.

    Args:
        folder: laid out as said above.
        identity: who the component is.
        architecture: of the devices that it is for.
        stem: of the artifact's name.
        write_artifact: called with the artifact's path, once the recipe is known to be within the limit.
        recipe: which template, `model` or `agent`.
        values: of the template's own markers; those that all templates have are filled in here.
        location: address of the folder that the artifact will lie in; empty for a place to be filled in.

    Raises:
        ComponentError: the recipe is over the size limit.
    """
    name, version = identity.name, identity.version
    artifact = folder / "artifacts" / name / version / f"{stem}.zip"
    text = render_recipe(recipe, {
        **(values or {}), "COMPONENT_NAME": name, "COMPONENT_VERSION": version, "ARCHITECTURE": architecture,
        "ARTIFACT": artifact.name, "ARTIFACT_STEM": stem, "LOCATION": location.rstrip("/") or f"s3://BUCKET/artifacts/{name}/{version}",
    })  # fmt: skip
    write_artifact(artifact)
    path = folder / "recipes" / f"{name}-{version}.json"
    replace_file(path, text)
    with artifact.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    facts = {
        "name": name, "version": version, "platform": f"linux/{architecture}", "tags": dict(identity.tags),
        "artifact": str(artifact.relative_to(folder)), "artifact_sha256": digest,
        "recipe": str(path.relative_to(folder)), "recipe_sha256": hashlib.sha256(text).hexdigest(),
    }  # fmt: skip
    replace_file(folder / "component.json", msgspec.json.format(msgspec.json.encode(facts)) + b"\n")
    return Component(name, version, path, artifact, artifact.stat().st_size)


def recipe_template(kind: str) -> Path:
    """Where a recipe's template lies: beside this package in an installation, in recipes/ in the source tree."""
    here = Path(__file__).parent
    for folder in (here / "recipes", here.parent / "recipes"):
        if (folder / f"{kind}.json").is_file():
            return folder / f"{kind}.json"
    raise ComponentError(f"recipes/{kind}.json was not found beside {here}; install linewatch again")


def render_recipe(kind: str, values: Mapping[str, str]) -> bytes:
    """Fill the `model` or `agent` template's @MARKERS@, inside parsed strings, so that no value can break the JSON."""

    def fill(node: object) -> object:
        match node:
            case str():
                return _MARKER.sub(lambda m: values[m[1]], node)
            case list():
                return [fill(item) for item in node]
            case dict():
                return {key: fill(value) for key, value in node.items()}
            case _:
                return node

    recipe = msgspec.json.encode(fill(msgspec.json.decode(recipe_template(kind).read_bytes())))
    recipe = msgspec.json.format(recipe, indent=2) + b"\n"
    if len(recipe) > RECIPE_BYTES:
        raise ComponentError(f"the recipe has {len(recipe)} bytes; Greengrass nucleus lite reads at most {RECIPE_BYTES}")
    return recipe
