"""The command line around components."""

import json
from pathlib import Path

from click.testing import CliRunner

from linewatch.commands.cli import main

CLIENT = Path(__file__).parents[3] / "recipes" / "camera-client.json"


def test_recipes_are_checked(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text(CLIENT.read_text().replace("exec sh", "exec ${SHELL:-sh}").replace(">=0.1.0 <2.0.0", "^1.0.0"))
    good = CliRunner().invoke(main, ["recipe", "check", str(CLIENT)])
    assert (good.exit_code, good.output) == (0, f"{CLIENT}: fits both nuclei\n")
    bad = CliRunner().invoke(main, ["recipe", "check", str(wrong), str(CLIENT)])
    assert bad.exit_code == 1
    assert "Lifecycle.run.Script has a brace that opens no variable both nuclei know: 'exec ${SHELL:-sh}" in bad.output
    assert "'^1.0.0'; nucleus lite reads comparators only" in bad.output
    listed = json.loads(CliRunner().invoke(main, ["recipe", "check", "--json", str(wrong), str(CLIENT)]).output)
    assert [len(entry["faults"]) for entry in listed] == [2, 0]


def test_options_belong_to_one_target(tmp_path: Path) -> None:
    arguments = ["package", str(tmp_path), "--target", "x86_64-cpu", "--target", "aarch64-cpu", "--compiler-options", "{}", "-o", "x"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert "--compiler-options belong to one --target" in done.output
