"""What `linewatch train` makes of a model that should not be relied on: files, warning, exit code."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

import linewatch.training.train
from linewatch.anomaly_model.bundle import Bundle
from linewatch.commands.cli import main
from linewatch.commands.tables import print_metrics
from linewatch.training.data.dataset import Dataset
from linewatch.training.metrics import image_metrics
from linewatch.training.options import TrainingOptions
from linewatch.training.train import Trained

WEAK = "The model is not better than calling everything anomalous: ROC AUC out of fold is 0.503"


@pytest.fixture
def asked(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Training that is over at once; what it was asked for."""
    seen: dict[str, Any] = {"weak": WEAK}

    def train(
        _data: Dataset, _output: Path, options: TrainingOptions, _test: object, _progress: object, deliver: Callable[[Trained], object]
    ) -> Trained:
        seen["budget"] = options.budget
        manifest = msgspec.structs.replace(
            bundle.manifest, training={**bundle.manifest.training, "warnings": [seen["weak"]] if seen["weak"] else []}
        )
        trained = Trained(Bundle(bundle.folder, manifest), None, None, {}, 36, seen["weak"], (seen["weak"],))
        deliver(trained)
        return trained

    monkeypatch.setattr(linewatch.training.train, "train", train)
    return seen


def test_a_model_at_chance_is_written_with_a_loud_warning_and_an_exit_code(
    asked: dict[str, Any], parts: Path, tmp_path: Path
) -> None:
    command = ["train", str(parts / "train"), "-o", str(tmp_path / "b")]
    for more, code in (([], 5), (["--json"], 5), (["--accept-weak"], 0)):
        done = CliRunner().invoke(main, [*command, *more])
        assert done.exit_code == code, done.output
        assert f"linewatch: WARNING: {WEAK}" in done.stderr
    assert "not better than calling everything anomalous" in (tmp_path / "b-results" / "report.html").read_text()
    asked["weak"] = ""
    done = CliRunner().invoke(main, command)
    assert (done.exit_code, "WARNING" in done.stderr) == (0, False)


def test_a_budget_is_a_limit_only_when_it_is_named(asked: dict[str, Any], parts: Path, tmp_path: Path) -> None:
    command = ["train", str(parts / "train"), "-o", str(tmp_path / "b"), "--accept-weak"]
    CliRunner().invoke(main, command)
    assert dataclasses.astuple(asked["budget"]) == (25.0, False)
    CliRunner().invoke(main, [*command, "--budget-ms", "25"])
    assert dataclasses.astuple(asked["budget"]) == (25.0, True)


@pytest.mark.parametrize(("truth", "said"), [
    ([False] * 4, "test: 1 false alarms on 4 normal pictures"), ([True] * 4, "test: 3 missed of 4 anomalous pictures"),
    ([False, False, False, True], "test: F1 1.000 (calling all anomalous: 0.400)"),
])  # fmt: skip
def test_figures_that_need_both_classes_are_not_printed_of_one(
    truth: list[bool], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    print_metrics("test", image_metrics(np.arange(4.0), np.array(truth), 2.5).as_json())
    assert capsys.readouterr().out.startswith(said)
