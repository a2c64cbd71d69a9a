"""The rules of recipes, each by one that breaks it, and against what the nuclei do."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from linewatch.packager.component import AGENT, render_recipe
from linewatch.packager.recipe import RecipeError, check_recipe, find_faults
from tests.nuclei import java_script, lite_script

RECIPES = Path(__file__).parents[3] / "recipes"
CLIENT: dict[str, Any] = json.loads((RECIPES / "camera-client.json").read_bytes())
VALUES = {
    "COMPONENT_NAME": "model-m", "COMPONENT_VERSION": "1.0.0", "MODEL_NAME": "m", "MODEL_VERSION": "1", "MODEL_ARN": "arn:m", "AGENT": AGENT,
    "REGISTER": "register.sh", "AGENT_VERSIONS": ">=0.1.0 <2.0.0", "DESCRIPTION": "A model",
}  # fmt: skip
PLATFORMS = [{"ARCHITECTURE": "aarch64", "ARTIFACT_STEM": "a" * 40}, {"ARCHITECTURE": "amd64", "ARTIFACT_STEM": "b" * 40}]
PLACE = {"root": "/greengrass/v2", "component": "com.example.CameraClient", "version": "1.0.0"}


def faults(change: Callable[[dict[str, Any]], object]) -> list[str]:
    recipe = copy.deepcopy(CLIENT)
    change(recipe)
    return find_faults(json.dumps(recipe).encode())


def scripts(recipe: dict[str, Any]) -> list[str]:
    return [phase["Script"] for manifest in recipe["Manifests"] for phase in manifest["Lifecycle"].values()]


@pytest.mark.parametrize("kind", ["agent", "model"])
def test_templates_give_recipes_that_both_nuclei_run(kind: str) -> None:
    text = render_recipe(kind, VALUES, PLATFORMS, "s3://" + "b" * 63 + "/" + "p" * 100)
    recipe = json.loads(text)
    assert [m["Platform"]["architecture"] for m in recipe["Manifests"]] == ["aarch64", "amd64"]
    assert len(text) <= 8000
    configuration = dict.fromkeys(recipe["ComponentConfiguration"]["DefaultConfiguration"], "x")
    for script in scripts(recipe):
        assert "{" not in lite_script(script, root="/r", component="c", version="1.0.0", configuration=configuration)


def test_two_components_never_share_a_policy() -> None:
    def policies(name: str) -> set[str]:
        recipe = json.loads(render_recipe("agent", {**VALUES, "COMPONENT_NAME": name}, PLATFORMS[:1], "s3://b"))
        control = recipe["ComponentConfiguration"]["DefaultConfiguration"]["accessControl"]
        return {policy for policies in control.values() for policy in policies}

    assert policies("a.Agent") == {"a.Agent:pubsub:1", "a.Agent:mqttproxy:1"}
    assert not policies("a.Agent") & policies("another.Agent")


def test_the_example_for_camera_programs_is_right() -> None:
    check_recipe((RECIPES / "camera-client.json").read_bytes())


def run_script(text: str) -> Callable[[dict[str, Any]], object]:
    return lambda r: r["Manifests"][0]["Lifecycle"]["run"].update(Script=text)


def phase(**lifecycle: Any) -> Callable[[dict[str, Any]], object]:
    return lambda r: r["Manifests"][0].update(Lifecycle=lifecycle)


def platform(**changes: str | None) -> Callable[[dict[str, Any]], object]:
    return lambda r: r["Manifests"][0]["Platform"].update(changes)


def control(policy: str) -> Callable[[dict[str, Any]], object]:
    access = {"aws.greengrass.ipc.pubsub": {policy: {}}}
    return lambda r: r["ComponentConfiguration"]["DefaultConfiguration"].update(accessControl=access)


OK = {"Script": "true"}


@pytest.mark.parametrize(("change", "message"), [
    (run_script("${registry:-{kernel:rootPath}/x}"), "opens no variable"),
    (run_script("printf '{\"component\": 1}'"), "opens no variable"),
    (run_script("echo {dep:artifacts:path}"), "opens no variable"),
    (run_script("echo {unknown:path}"), "opens no variable"),
    (run_script("f() { true; }; f"), "opens no variable"),
    (run_script("echo ${work:path}"), r"a \$ before"),
    (run_script("echo {configuration:/Missing}"), "not in DefaultConfiguration"),
    (run_script("echo {artifacts:path}/other.zip"), "not among the artifacts"),
    (run_script("echo {artifacts:decompressedPath}/camera"), "that are unpacked"),
    (phase(run={"Script": "true", "Setenv": {"A": "${B}"}}), r"run.Setenv.A has a brace"),
    (phase(run="echo {", install=OK), "Lifecycle.run has a brace"),
    (phase(install={"Script": "awk '{print}'"}, run=OK), r"install.Script has a brace"),
    (phase(bootstrap={"Script": "{"}, run=OK), r"bootstrap.Script has a brace"),
    (phase(startup={"Script": "{", "Timeout": 3}), r"startup.Script has a brace"),
    (phase(Setenv={"A": "{"}, run=OK), r"Lifecycle.Setenv.A has a brace"),
    (phase(install=OK), "exactly one of run and startup"),
    (phase(run=OK, startup={"Script": "true", "Timeout": 3}), "exactly one of run and startup"),
    (phase(startup=OK), "no Timeout"),
    (phase(Run=OK), "nucleus lite knows it as 'run' only"),
    (phase(run={"script": "true"}), "knows it as 'Script' only"),
    (phase(run=OK, shutdown=OK), "has shutdown, which nucleus lite skips"),
    (phase(run={**OK, "RequiresPrivilege": "true"}), "wants to run as root"),
    (phase(run={**OK, "Timeout": "120"}), "Timeout is a text; expected a whole number"),
    (phase(run=3), "Lifecycle.run is a whole number"),
    (platform(os="all"), "os 'all'"),
    (platform(runtime="aws_nucleus_lite"), "runtime 'aws_nucleus_lite'"),
    (platform(architecture="/amd64|aarch64/"), "reads no patterns"),
    (lambda r: r["Manifests"].append(r["Manifests"][0]), r"Manifests\[1\] is never reached"),
    (lambda r: r["Manifests"][0]["Artifacts"][0].update(URI="x"), "knows it as 'Uri' only"),
    (lambda r: r["Manifests"][0].pop("Artifacts"), "has no Artifacts"),
    (lambda r: r["Manifests"].clear(), "Manifests is empty"),
    (lambda r: r.update(Lifecycle={"run": "true"}), "unknown key 'Lifecycle'"),
    (lambda r: r.update(Manifests={}), "Manifests is an object; expected a list"),
    (lambda r: r["ComponentDependencies"][AGENT].update(VersionRequirement="^1.0.0"), "comparators only"),
    (lambda r: r["ComponentDependencies"][AGENT].update(DependencyType="hard"), "expected 'HARD' or 'SOFT'"),
    (lambda r: r.update(ComponentVersion="1.0"), "major.minor.patch"),
    (lambda r: r.update(ComponentName="a b"), "ComponentName 'a b'"),
    (lambda r: r.update(RecipeFormatVersion="2021-01-25"), "expected '2020-01-25'"),
    (lambda r: r.update(ComponentPublisher="@PUBLISHER@"), "a marker of the template is left: @PUBLISHER@"),
    (control("@COMPONENT_NAME@:pubsub:1"), "a marker of the template is left: @COMPONENT_NAME@"),
    (control("other:pubsub:1"), "does not begin with 'com.example.CameraClient:'"),
    (lambda r: r.update(ComponentPublisher="x" * 8000), "bytes; nucleus lite reads at most 8000"),
])  # fmt: skip
def test_each_rule(change: Callable[[dict[str, Any]], object], message: str) -> None:
    found = faults(change)
    assert any(re.search(message, fault) for fault in found), found


@pytest.mark.parametrize("text", [b"", b"[1]", b"ComponentName: x", b'{"a": ' * 3000, b"\xff\xfe"])
def test_what_is_no_recipe_is_said_so(text: bytes) -> None:
    with pytest.raises(RecipeError, match=r"not a JSON object|bytes"):
        check_recipe(text)


VALUES_OF_ANY_KIND = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["run", "Script", "Uri", "os", "Setenv", "x"]), inner, max_size=2),
    max_leaves=5,
)


@given(st.data())
def test_a_recipe_of_any_shape_is_judged(data: st.DataObject) -> None:
    recipe = copy.deepcopy(CLIENT)
    node: Any = recipe
    for _ in range(data.draw(st.integers(0, 5))):
        step = data.draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[step], dict | list) or not node[step]:
            break
        node = node[step]
    step = data.draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
    node[step] = data.draw(VALUES_OF_ANY_KIND)
    assert all(isinstance(fault, str) and fault for fault in find_faults(json.dumps(recipe).encode()))


GOOD = [
    "{artifacts:path}/", "{work:path}", "{kernel:rootPath}", "{iot:thingName}", "{configuration:/Model}", "echo \"$HOME\"", " ", "\n", "x/", "$(id)",
]  # fmt: skip
BAD = [
    "{", "}", "${HOME}", "{}", "$", "{dep:work:path}", '{"a": 1}', "{configuration:/Nothing}", "{configuration:Model}", "{work:paths}",
    "{ work:path}",
]  # fmt: skip


@given(st.lists(st.sampled_from(GOOD + BAD), max_size=6), st.sampled_from(["run", "install", "Setenv"]))
def test_what_passes_both_nuclei_read_alike(pieces: list[str], where: str) -> None:
    text = "".join(pieces)
    lifecycle: dict[str, Any] = {"run": OK, where: {"A": text}} if where == "Setenv" else {"run": OK, where: {"Script": text}}
    found = faults(lambda r: r["Manifests"][0].update(Lifecycle=lifecycle, Artifacts=[]))
    if set(pieces) <= set(GOOD) and not any("{artifacts:path}" in p for p in pieces):
        assert not found
    if not found:
        lite, java = (fill(text, **PLACE, configuration={"Model": "m"}) for fill in (lite_script, java_script))
        assert "{" not in lite
        assert lite.replace("/", "") == java.replace("/", ""), "but for the slashes that folders end in"
