"""The documents are under test: every command, setting, limit and dependency appears, and what they show can be run."""

import ast
import re
import shlex
import tomllib
from collections import Counter
from dataclasses import fields
from pathlib import Path

import click
import msgspec
import pytest

import linewatch
from linewatch.anomaly_model.limits import Limits
from linewatch.anomaly_model.manifest import Manifest
from linewatch.commands.cli import main
from linewatch.control_plane.settings import Settings as ServerSettings
from linewatch.edge_agent.settings import Settings
from linewatch.packager.targets import CPUS, GPUS

ROOT = Path(__file__).parents[2]
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("[a-z]*/README.md")})


def text(name: str) -> str:
    return (ROOT / name).read_text()


def shown_commands() -> list[tuple[str, str]]:
    """(page, line) of every linewatch command shown as code."""
    found = []
    for page in PAGES:
        lines = re.findall(r"^ {4}(linewatch \S.*)", page.read_text(), re.MULTILINE)
        found += [(page.relative_to(ROOT).as_posix(), line) for line in lines]
    return found


def test_commands_are_shown_somewhere() -> None:
    assert len(shown_commands()) >= 12


@pytest.mark.parametrize(("page", "line"), shown_commands())
def test_shown_commands_parse(page: str, line: str) -> None:
    name, *arguments = shlex.split(line)[1:]
    command = main.commands[name]  # type: ignore[attr-defined]
    if isinstance(command, click.Group):
        name, *arguments = arguments
        command = command.commands[name]
    options = {o for p in command.params if isinstance(p, click.Option) for o in [*p.opts, *p.secondary_opts]}
    used = [a.split("=")[0] for a in arguments if a.startswith("-")]
    assert set(used) <= options, f"{page}: {line}"


def test_shown_programs_are_python_and_use_public_names() -> None:
    blocks = [(page, block) for page in PAGES for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)]
    assert any(page.name == "README.md" for page, _ in blocks)
    for page, block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "linewatch":
                assert node.module == "linewatch", page
                assert {a.name for a in node.names} <= set(linewatch.__all__), page


def test_every_make_target_that_is_named_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE))
    for page in PAGES:
        named = re.findall(r"(?:^ {4}|`)make ([a-z-]+)", page.read_text(), re.MULTILINE)
        assert set(named) <= targets, page


def test_paths_in_the_guide_to_changes_are_there() -> None:
    named = set(re.findall(r"`([a-z_0-9]+/[\w/.-]*)`", text("docs/how-to/extend.md")))
    assert len(named) > 40
    assert sorted(path for path in named if not (ROOT / path).exists()) == []


def test_every_command_is_documented() -> None:
    page = text("docs/reference/commands.md")
    for name in main.commands:  # type: ignore[attr-defined]
        assert f"`linewatch {name}`" in page


def test_every_setting_is_documented_with_its_default() -> None:
    page = text("docs/reference/agent-settings.md")
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]*?)`? \|", page, re.MULTILINE))
    assert list(rows) == list(Settings.__struct_fields__)
    for name, default in rows.items():
        assert str(getattr(Settings(), name)).replace("True", "true").replace("False", "false") == default.replace("empty", "")


def test_every_server_setting_is_documented_with_its_default() -> None:
    page = text("docs/reference/server-settings.md")
    rows = dict(re.findall(r"^\| `(\w+)` \| `?([^|`]*?)`? \|", page, re.MULTILINE))
    assert list(rows) == list(ServerSettings.__struct_fields__)
    for name, default in rows.items():
        assert str(getattr(ServerSettings(), name)).replace("False", "false") == default.replace("empty", "")


@pytest.mark.parametrize(("command", "settings"), [("agent", Settings), ("serve", ServerSettings)])
def test_every_flag_is_a_setting(command: str, settings: type[msgspec.Struct]) -> None:
    names = {p.name for p in main.commands[command].params} - {"settings_file"}  # type: ignore[attr-defined]
    assert names <= set(settings.__struct_fields__)


FEATURES = {"API": 18, "PRJ": 9, "DS": 32, "MF": 20, "RKG": 9, "TRN": 23, "MET": 12, "HST": 12, "DET": 15, "PKG": 20, "EDG": 30,
            "TAG": 6, "OPS": 13, "SEC": 8, "CMP": 11}  # fmt: skip
"""How many features the old service had, by group."""


def known_tests() -> dict[str, set[str]]:
    """File below tests/ to the tests in it: what pytest collects, and the cases that a table's test runs."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        names = found.setdefault(path.relative_to(ROOT / "tests").as_posix(), set())
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                is_case = any(isinstance(d, ast.Call) and isinstance(d.func, ast.Name) and d.func.id == "case" for d in node.decorator_list)
                if node.name.startswith("test_") or is_case:
                    names.add(node.name)
            elif isinstance(node, ast.Assign):  # a state machine's test
                names |= {t.id for t in node.targets if isinstance(t, ast.Name) and t.id.startswith("Test")}
    return found


def test_every_feature_has_its_state_and_the_tests_that_show_it() -> None:
    page = text("docs/features.md")
    rows = re.findall(r"^\| F-([A-Z]+)-(\d+) \| .* \| (done|part|open) \| (.*?) \| (.*?) \|$", page, re.MULTILINE)
    assert [(g, int(n)) for g, n, *_ in rows] == [(g, n) for g, count in FEATURES.items() for n in range(1, count + 1)]
    counts = Counter(state for _, _, state, _, _ in rows)
    assert f"\n{counts['done']} done, {counts['part']} in part, {counts['open']} open.\n" in page
    known = known_tests()
    for group, number, state, shown, limit in rows:
        where = f"F-{group}-{number}: {shown}"
        assert bool(shown) == (state != "open"), where
        assert bool(limit) == (state != "done"), where
        for part in shown.split("; ") if shown else ():
            file, tests = re.fullmatch(r"`(.+?)`: ((?:`\w+`(?:, )?)+)", part).groups()  # type: ignore[union-attr]
            [path] = [name for name in known if f"/{name}".endswith(f"/{file}")]  # one file only
            assert set(re.findall(r"\w+", tests)) <= known[path], where


def leaves(command: click.Command, path: str) -> list[tuple[str, click.Command]]:
    """Every command that does something, with how it is called."""
    if isinstance(command, click.Group):
        return [leaf for name, inner in command.commands.items() for leaf in leaves(inner, f"{path} {name}")]
    return [(path, command)]


@pytest.mark.parametrize(("path", "command"), leaves(main, "linewatch"))
def test_help_has_examples(path: str, command: click.Command) -> None:
    assert command.epilog is not None
    assert f"Examples:\n  {path}" in command.epilog


def test_exit_codes_are_documented() -> None:
    codes = re.findall(r"^\| (\d+) \|", text("docs/reference/commands.md"), re.MULTILINE)
    assert codes == ["0", "1", "2", "3", "4", "5", "130", "141"]


def test_every_limit_is_documented() -> None:
    page = text("docs/reference/limits.md")
    units = {"": 1, "pixels": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", page, re.MULTILINE))
    assert set(rows) == {f.name for f in fields(Limits)}
    for name, value in rows.items():
        number, _, unit = value.partition(" ")
        assert int(number) * units[unit] == getattr(Limits(), name)


def test_every_processor_that_can_be_asked_for_is_documented() -> None:
    rows = dict(re.findall(r"^\| (`mcpu` \| CPU, \w+|`gpu-code` \| NVIDIA) \| (.*) \|$", text("docs/reference/targets.md"), re.MULTILINE))
    for machine, cpus in CPUS.items():
        assert set(re.findall(r"`([^`]+)`", rows[f"`mcpu` | CPU, {machine}"])) == set(cpus)
    assert set(re.findall(r"`([^`]+)`", rows["`gpu-code` | NVIDIA"])) == set(GPUS)


def test_every_field_of_a_bundle_is_documented() -> None:
    page = text("docs/reference/bundle.md")
    assert re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)[-len(Manifest.__struct_fields__) :] == list(
        Manifest.__struct_fields__
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text()):
        assert (page.parent / link).exists(), link


def test_every_dependency_has_its_licence_listed() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    wanted = [*project["dependencies"], *(r for rs in project["optional-dependencies"].values() for r in rs)]
    names = {re.split(r"[^A-Za-z0-9-]", r)[0] for r in wanted} - {"linewatch"}
    listed = set(re.findall(r"^  (\S+)  +\S", text("NOTICE"), re.MULTILINE))
    assert names == listed


@pytest.mark.parametrize(
    ("name", "least"),
    [("constraints.txt", 40), ("constraints-dev.txt", 40), ("constraints-bench.txt", 0), ("constraints-cpu.txt", 0), ("constraints-cuda.txt", 10),
     ("tests/clients/constraints.txt", 10)],
)
def test_the_lock_has_hashes_and_no_addresses(name: str, least: int) -> None:
    lock = text(name)
    assert "://" not in lock
    assert "--index-url" not in lock
    entries = re.findall(r"^[a-zA-Z0-9_.\-]+==\S+.* \\\n    --hash=sha256:", lock, re.MULTILINE)
    assert len(entries) == len(re.findall(r"^[a-zA-Z0-9_.\-]+(\[.*\])?==", lock, re.MULTILINE)) > least


def test_torch_is_locked_as_two_builds_of_one_version() -> None:
    for name in ("constraints-cpu.txt", "constraints-cuda.txt"):
        assert re.search(r"^torch==2\.13\.0 \\$", text(name), re.MULTILINE)
    assert not re.search(r"^(nvidia(?!-cuda-nvrtc-cu1[12]==)|cuda|triton|torch)", text("constraints.txt"), re.MULTILINE)
    assert not re.search(r"^(nvidia|cuda|triton)", text("constraints-cpu.txt"), re.MULTILINE)


def test_every_option_of_train_is_documented() -> None:
    page = text("docs/reference/commands.md")
    for parameter in main.commands["train"].params:  # type: ignore[attr-defined]
        if isinstance(parameter, click.Option):
            assert f"`{max(parameter.opts, key=len)}`" in page
