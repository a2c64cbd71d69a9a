"""`linewatch demo-data`: every kind that can be drawn can be asked for, and is told of."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from linewatch.commands.cli import main
from linewatch.commands.drawn.kinds import KINDS
from linewatch.training.data.reading import read_dataset

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_are_written(kind: str, tmp_path: Path) -> None:
    command = ["demo-data", str(tmp_path / "d"), "--kind", kind, "--train", "2", "--test", "1", "--json"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    labels = KINDS[kind].labels
    assert json.loads(done.stdout) == {"folder": str(tmp_path / "d"), "kind": kind, "pictures": 6, "labels": labels}
    drawn = read_dataset(tmp_path / "d" / "train")
    assert (drawn.normals, drawn.anomalies) == (2, 2)
    assert {label.name: label.hex_color for label in drawn.labels} == labels


def test_an_unknown_kind_is_wrong_usage(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["demo-data", str(tmp_path / "d"), "--kind", "ceramic"])
    assert done.exit_code == 2
    assert "'ceramic' is not one of" in done.output
    assert not (tmp_path / "d").exists()


def test_every_kind_is_told_of() -> None:
    text = CliRunner().invoke(main, ["demo-data", "--help"]).output
    assert re.findall(r"^    (\w+)  +\S", text.split("Kinds:")[1].split("On good")[0], re.MULTILINE) == list(KINDS)
    section = (ROOT / "docs/reference/commands.md").read_text().split("## Options of demo-data")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*? \| .*?) \|$", section, re.MULTILINE))
    assert list(rows) == list(KINDS)
    for kind, row in rows.items():
        assert all(f"`{label}`" in row for label in KINDS[kind].labels), kind
