"""Who calls a function of four or more parameters finds each of them in its docstring; ruff sees to the errors (DOC501)."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("anomaly_model", "commands", "control_plane", "edge_agent", "packager", "training")
WRITTEN_BY_TOOLS = {"protos", "migrations"}
LEAST = 4

Function = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(
    body: list[ast.stmt], owner: ast.ClassDef | None = None
) -> Iterator[tuple[Function, ast.ClassDef | None]]:
    """Functions and methods that others may call, with their class; what stands in a function is its own affair."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from public_functions(node.body, node)
        elif (
            isinstance(node, Function)
            and (node.name == "__init__" or not node.name.startswith("_"))
            and not is_command(node)
        ):
            yield node, owner
        elif isinstance(node, ast.If | ast.Try | ast.With):
            yield from public_functions(node.body, owner)


def is_command(function: Function) -> bool:
    """Whether click calls it: its options say what its parameters are."""
    called = [d.func for d in function.decorator_list if isinstance(d, ast.Call)]
    return any(isinstance(c, ast.Attribute) and c.attr in ("command", "group") for c in called)


def parameters(function: Function, owner: ast.ClassDef | None) -> list[str]:
    given = function.args
    plain = [a.arg for a in (*given.posonlyargs, *given.args)]
    static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in function.decorator_list)
    rest = [a.arg for a in (given.vararg, *given.kwonlyargs, given.kwarg) if a]
    return plain[1 if owner and not static else 0 :] + rest


def documented(docstring: str) -> list[str]:
    """Names in the section Args."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n?|\n)*)", docstring, re.MULTILINE)
    lines = section[1].splitlines() if section else []
    return [
        name.strip("* ")
        for line in lines
        if (entry := re.match(r" {4}(\*{0,2}\w[\w, *]*):", line))
        for name in entry[1].split(",")
    ]


def wrong(source: str) -> list[str]:
    """What is wrong with the docstrings of a module's public functions."""
    found = []
    for function, owner in public_functions(ast.parse(source).body):
        names = parameters(function, owner)
        docstring = (
            ast.get_docstring(function) or (ast.get_docstring(owner) if owner and function.name == "__init__" else "") or ""
        )
        told = documented(docstring)
        where = f"{function.lineno} {function.name}"
        if len(names) >= LEAST and set(names) - set(told):
            found.append(f"{where} does not say what {', '.join(n for n in names if n not in told)} is")
        if set(told) - set(names):
            found.append(f"{where} has no {', '.join(n for n in told if n not in names)}")
    return found


def modules() -> list[Path]:
    found = [path.relative_to(ROOT) for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [path for path in found if not WRITTEN_BY_TOOLS & set(path.parts)]


@pytest.mark.parametrize("package", PACKAGES)
def test_each_parameter_is_explained(package: str) -> None:
    told = [f"{path}:{line}" for path in modules() if path.parts[0] == package for line in wrong((ROOT / path).read_text())]
    assert told == []


@pytest.mark.parametrize(("signature", "entries", "expected"), [
    ("f(a, b, c, d)", ["a: one.", "b: two.", "c, d: others, over", "    two: lines."], []),
    ("f(a, b, c, *, d)", ["a: one.", "b: two.", "c: three."], ["1 f does not say what d is"]),
    ("f(a, b, c, d)", [], ["1 f does not say what a, b, c, d is"]),
    ("f(a, b, c)", [], []),
    ("f(a, b)", ["a: one.", "c: gone."], ["1 f has no c"]),
    ("f(a, *b, c=1, **d)", ["a: one.", "*b: two.", "c: three.", "**d: others."], []),
    ("_f(a, b, c, d)", [], []),
])  # fmt: skip
def test_what_is_missing_is_seen(signature: str, entries: list[str], expected: list[str]) -> None:
    section = "\n        ".join(["\n    Args:", *entries]) if entries else ""
    assert wrong(f'def {signature}:\n    """What it does.\n{section}\n    """\n') == expected


def test_methods_are_looked_at_and_commands_are_not() -> None:
    method = 'class A:\n    def f(self, a, b, c, d):\n        """What it does."""\n'
    assert wrong(method) == ["2 f does not say what a, b, c, d is"]
    assert wrong(method.replace("class A", "class _A")) == []
    assert wrong('@main.command("f")\ndef f(a, b, c, d):\n    """What it does."""\n') == []
