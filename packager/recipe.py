"""Greengrass component recipes: the rules that both nuclei need. Pure.

A recipe that breaks one of these is refused, or worse taken and half run, by the Java nucleus or by nucleus lite:

  1. JSON (YAML's numbers become texts on lite) of at most 8,000 bytes (lite reads 8,196);
  2. keys that lite knows, written exactly so (the Java nucleus takes any case), with values of the right kind;
  3. name, version and description as Greengrass takes them;
  4. versions of dependencies by comparators (`>=1.0.0 <2.0.0`): lite knows no `^`, `~`, `*` or `||`;
  5. each manifest for `os: linux`, `runtime: "*"` and at most one plain architecture, and none behind another that takes its devices;
  6. exactly one of run and startup, startup with a Timeout; no phase that lite skips; no privilege;
  7. in scripts and Setenv no `{` but one that opens a variable that both nuclei know, and none behind a `$`: lite takes every `{` for the
     start of a variable, and ends the script there when it knows none of that name;
  8. what a script reads is there: keys in the default configuration, files and unpacked folders among the manifest's own artifacts;
  9. access policies are called COMPONENT:..., so that no other component on the core has the same;
 10. no marker of a template is left, in keys or values.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from linewatch.anomaly_model.errors import LinewatchError

RECIPE_BYTES = 8000
NAME = re.compile(r"[a-zA-Z0-9\-_.]{1,128}")
VERSION = re.compile(r"[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}")
DESCRIPTION = re.compile(r"[a-zA-Z0-9\-_. ()':,;?]{1,256}")
VARIABLE = re.compile(
    r"\{(?:artifacts:path|artifacts:decompressedPath|work:path|kernel:rootPath|iot:thingName|configuration:(/[A-Za-z0-9_\-./]{1,100}))\}"
)
_MARKER = re.compile(r"@([A-Z_]+)@")
_COMPARATOR = r"(?:>=|<=|>|<|=)?[0-9]{1,6}\.[0-9]{1,6}\.[0-9]{1,6}"
_RANGE = re.compile(rf"{_COMPARATOR}(?: {_COMPARATOR})*")
_IN_FOLDER = re.compile(r"\{artifacts:(path|decompressedPath)\}/*([^/\"'\s;)&|]+)")
_ARCHITECTURES = ("amd64", "aarch64", "arm", "x86", "riscv64")

Json = dict[str, Any]
_Keys = Mapping[str, type | tuple[type, ...]]
_RECIPE: _Keys = {
    "RecipeFormatVersion": str, "ComponentName": str, "ComponentVersion": str, "ComponentType": str, "ComponentDescription": str,
    "ComponentPublisher": str, "ComponentConfiguration": dict, "ComponentDependencies": dict, "Manifests": list,
}  # fmt: skip
_CONFIGURATION: _Keys = {"DefaultConfiguration": dict}
_DEPENDENCY: _Keys = {"VersionRequirement": str, "DependencyType": str}
_MANIFEST: _Keys = {"Name": str, "Platform": dict, "Lifecycle": dict, "Artifacts": list}
_PLATFORM: _Keys = {"os": str, "architecture": str, "runtime": str}
_LIFECYCLE: _Keys = {"Setenv": dict, **dict.fromkeys(("install", "run", "startup", "bootstrap"), (str, dict))}
_PHASE: _Keys = {"Script": str, "Timeout": int, "RequiresPrivilege": (bool, str), "Setenv": dict}
_ARTIFACT: _Keys = {"Uri": str, "Unarchive": str, "Permission": dict, "Digest": str, "Algorithm": str}
_PERMISSION: _Keys = {"Read": str, "Execute": str}
_SKIPPED = ("shutdown", "recover", "Skipif")


class RecipeError(LinewatchError):
    """A recipe breaks a rule above."""


def check_recipe(text: bytes) -> None:
    """Refuse a recipe that one of the nuclei would not run.

    Raises:
        RecipeError: names every fault.
    """
    if faults := find_faults(text):
        raise RecipeError("the recipe does not fit both nuclei of Greengrass:\n  " + "\n  ".join(faults))


def find_faults(text: bytes) -> list[str]:
    """What breaks a rule, one sentence each; empty for a recipe that both nuclei run."""
    if len(text) > RECIPE_BYTES:
        return [f"it has {len(text)} bytes; nucleus lite reads at most {RECIPE_BYTES}"]
    try:
        recipe = msgspec.json.decode(text, type=Json)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return [f"it is not a JSON object ({error}); write recipes as JSON, since YAML's numbers become texts on nucleus lite"]
    wrong = list(_shape(recipe))
    # What follows relies on the kinds of values.
    return wrong or [*_identity(recipe), *_dependencies(recipe), *_policies(recipe), *_manifests(recipe), *_markers(recipe)]


def format_recipe(recipe: Json) -> bytes:
    """A recipe's text."""
    return msgspec.json.format(msgspec.json.encode(recipe), indent=2) + b"\n"


def _shape(recipe: Json) -> Iterator[str]:
    """Rule 2, from the outside in: what lies in something of a wrong kind is not looked at."""
    yield from _keys("", recipe, _RECIPE, needed=("RecipeFormatVersion", "ComponentName", "ComponentVersion", "Manifests"))
    yield from _keys("ComponentConfiguration", recipe.get("ComponentConfiguration", {}), _CONFIGURATION)
    for name, dependency in _items(recipe.get("ComponentDependencies")):
        yield from _keys(f"ComponentDependencies.{name}", dependency, _DEPENDENCY, needed=("VersionRequirement",))
    for place, manifest in _listed("Manifests", recipe.get("Manifests")):
        yield from _keys(place, manifest, _MANIFEST, needed=("Platform", "Lifecycle", "Artifacts"))
        if isinstance(manifest, dict):
            yield from _shape_of_manifest(place, manifest)


def _shape_of_manifest(place: str, manifest: Json) -> Iterator[str]:
    yield from _keys(f"{place}.Platform", manifest.get("Platform", {}), _PLATFORM)
    lifecycle = manifest.get("Lifecycle", {})
    yield from _keys(f"{place}.Lifecycle", lifecycle, _LIFECYCLE)
    for phase, node in _items(lifecycle):
        where = f"{place}.Lifecycle.{phase}"
        if phase == "Setenv":
            yield from _texts(where, node)
        elif phase in _LIFECYCLE and isinstance(node, dict):
            yield from _keys(where, node, _PHASE, needed=("Script",))
            yield from _texts(f"{where}.Setenv", node.get("Setenv", {}))
    for where, artifact in _listed(f"{place}.Artifacts", manifest.get("Artifacts")):
        yield from _keys(where, artifact, _ARTIFACT, needed=("Uri",))
        yield from _keys(f"{where}.Permission", artifact.get("Permission", {}) if isinstance(artifact, dict) else {}, _PERMISSION)


def _keys(place: str, node: Any, known: _Keys, needed: Sequence[str] = ()) -> Iterator[str]:
    name = place or "the recipe"
    if not isinstance(node, dict):
        yield f"{name} is {_kind(node)}; expected an object"
        return
    spellings = {key.lower(): key for key in known}
    for key, value in node.items():
        if key in _SKIPPED:
            yield f"{name} has {key}, which nucleus lite skips; let the program end itself on SIGTERM"
        elif key not in known:
            hint = spellings.get(key.lower())
            yield f"{name} has an unknown key {key!r}; " + (f"nucleus lite knows it as {hint!r} only" if hint else f"known: {', '.join(known)}")
        elif not isinstance(value, known[key]) or (isinstance(value, bool) and known[key] is int):
            yield f"{f'{place}.{key}'.lstrip('.')} is {_kind(value)}; expected {_kinds(known[key])}"
    for key in needed:
        if key not in node:
            yield f"{name} has no {key}"


def _texts(place: str, node: Any) -> Iterator[str]:
    for key, value in _items(node):
        if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            yield f"{place}.{key} is not a name of letters, digits and _ with a text as its value"


_KINDS = {str: "a text", dict: "an object", list: "a list", int: "a whole number", bool: "true or false", float: "a number", type(None): "null"}


def _kind(value: Any) -> str:
    return _KINDS[type(value)]


def _kinds(types: type | tuple[type, ...]) -> str:
    return " or ".join(_KINDS[t] for t in (types if isinstance(types, tuple) else (types,)))


def _items(node: Any) -> list[tuple[str, Any]]:
    return list(node.items()) if isinstance(node, dict) else []


def _listed(place: str, node: Any) -> list[tuple[str, Any]]:
    return [(f"{place}[{i}]", item) for i, item in enumerate(node)] if isinstance(node, list) else []


def _identity(recipe: Json) -> Iterator[str]:
    if recipe["RecipeFormatVersion"] != "2020-01-25":
        yield f"RecipeFormatVersion is {recipe['RecipeFormatVersion']!r}; expected '2020-01-25'"
    if not NAME.fullmatch(recipe["ComponentName"]):
        yield f"ComponentName {recipe['ComponentName']!r} is not 1 to 128 letters, digits, '-', '_' and '.'"
    if not VERSION.fullmatch(recipe["ComponentVersion"]):
        yield f"ComponentVersion {recipe['ComponentVersion']!r} is not of the form major.minor.patch, such as 1.0.0"
    description = recipe.get("ComponentDescription", "-")
    if not DESCRIPTION.fullmatch(description):
        yield f"ComponentDescription {description[:80]!r} is not 1 to 256 letters, digits, spaces and - _ . ( ) ' : , ; ?"


def _dependencies(recipe: Json) -> Iterator[str]:
    for name, dependency in _items(recipe.get("ComponentDependencies")):
        if not _RANGE.fullmatch(dependency["VersionRequirement"]):
            yield (
                f"{name} is needed in version {dependency['VersionRequirement']!r}; nucleus lite reads comparators only, such as '>=1.0.0 <2.0.0'"
            )
        if dependency.get("DependencyType", "HARD") not in ("HARD", "SOFT"):
            yield f"the DependencyType of {name} is {dependency['DependencyType']!r}; expected 'HARD' or 'SOFT'"


def _policies(recipe: Json) -> Iterator[str]:
    seen: set[str] = set()
    control = recipe.get("ComponentConfiguration", {}).get("DefaultConfiguration", {}).get("accessControl", {})
    for service, policies in _items(control):
        for policy, _ in _items(policies):
            if not policy.startswith(f"{recipe['ComponentName']}:"):
                yield f"the policy {policy!r} of {service} does not begin with {recipe['ComponentName'] + ':'!r}; another component may have it too"
            if policy in seen:
                yield f"the policy {policy!r} occurs twice"
            seen.add(policy)


def _manifests(recipe: Json) -> Iterator[str]:
    defaults = recipe.get("ComponentConfiguration", {}).get("DefaultConfiguration", {})
    taken: set[str | None] = set()
    if not recipe["Manifests"]:
        yield "Manifests is empty; nucleus lite wants one for its platform"
    for place, manifest in _listed("Manifests", recipe["Manifests"]):
        platform, lifecycle = manifest["Platform"], manifest["Lifecycle"]
        architecture = platform.get("architecture")
        for key, expected in (("os", "linux"), ("runtime", "*")):
            if platform.get(key) != expected:
                yield f"{place}.Platform has {key} {platform.get(key)!r}; expected {expected!r}, or one of the nuclei skips the manifest"
        if architecture is not None and architecture not in _ARCHITECTURES:
            yield f"{place}.Platform has architecture {architecture!r}; expected one of {', '.join(_ARCHITECTURES)}: nucleus lite reads no patterns"
        if architecture in taken or None in taken:
            yield f"{place} is never reached: a manifest before it takes its devices"
        taken.add(architecture)
        if len(lifecycle.keys() & {"run", "startup"}) != 1:
            yield f"{place}.Lifecycle has not exactly one of run and startup; on nucleus lite its deployment fails after 300 s"
        startup = lifecycle.get("startup")
        if startup is not None and not (isinstance(startup, dict) and "Timeout" in startup):
            yield f"{place}.Lifecycle.startup has no Timeout"
        for phase, node in _items(lifecycle):
            if phase == "Setenv" or isinstance(node, str):
                continue
            if node.get("RequiresPrivilege", False) not in (False, "false"):
                yield f"{place}.Lifecycle.{phase} wants to run as root; nothing here needs that"
            if node.get("Timeout", 1) <= 0:
                yield f"{place}.Lifecycle.{phase}.Timeout is {node['Timeout']}; expected seconds"
        for where, script in _scripts(place, lifecycle):
            yield from _variables(where, script, defaults, manifest["Artifacts"])


def _scripts(place: str, lifecycle: Json) -> Iterator[tuple[str, str]]:
    """Every text that a nucleus fills in and a shell reads."""
    for phase, node in _items(lifecycle):
        where = f"{place}.Lifecycle.{phase}"
        if isinstance(node, str):
            yield where, node
        elif phase == "Setenv":
            yield from ((f"{where}.{key}", text) for key, text in node.items())
        else:
            yield from ((f"{where}.Setenv.{key}", text) for key, text in node.get("Setenv", {}).items())
            yield f"{where}.Script", node["Script"]


def _variables(place: str, script: str, defaults: Json, artifacts: Sequence[Json]) -> Iterator[str]:
    """Rules 7 and 8."""
    left = VARIABLE.sub("", script)
    if (at := left.find("{")) >= 0:
        yield (
            f"{place} has a brace that opens no variable both nuclei know: {left[max(at - 20, 0) : at + 30]!r}; known: artifacts:path, "
            "artifacts:decompressedPath, work:path, kernel:rootPath, iot:thingName, configuration:/KEY. Shell's own braces, JSON and awk "
            "belong into a file of the artifact"
        )
    for variable in VARIABLE.finditer(script):
        if script[: variable.start()].endswith("$"):
            yield f"{place} has a $ before {variable[0]}, which the shell would take for a variable of its own"
        if variable[1] and not _configured(defaults, variable[1]):
            yield f"{place} reads {variable[0]}, which is not in DefaultConfiguration; a nucleus without it ends the script or leaves it as it is"
    files = {artifact["Uri"].rsplit("/", 1)[-1]: artifact.get("Unarchive") == "ZIP" for artifact in artifacts}
    folders = {name.rsplit(".", 1)[0] for name, unpacked in files.items() if unpacked}
    for kind, name in _IN_FOLDER.findall(script):
        if name not in (files if kind == "path" else folders):
            yield f"{place} reads {name}, which is not among the artifacts of its manifest" + (" that are unpacked" if kind != "path" else "")


def _configured(defaults: Any, pointer: str) -> bool:
    for key in pointer[1:].split("/"):
        if not isinstance(defaults, dict) or key not in defaults:
            return False
        defaults = defaults[key]
    return defaults is not None


def _markers(node: Any) -> Iterator[str]:
    """Rule 10."""
    match node:
        case str():
            if marker := _MARKER.search(node):
                yield f"a marker of the template is left: {marker[0]}"
        case list():
            for item in node:
                yield from _markers(item)
        case dict():
            for key, item in node.items():
                yield from _markers(key)
                yield from _markers(item)
        case _:
            pass
