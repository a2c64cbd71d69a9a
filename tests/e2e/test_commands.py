"""The command line as a person uses it: every command, its errors and exit codes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from linewatch.packager.package import Package
from tests.unit.training.data.test_dataset import save

pytestmark = pytest.mark.e2e


def linewatch(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "linewatch", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.mark.parametrize("command", ["demo", "demo-data", "train", "recalibrate", "package", "agent", "detect", "doctor"])
def test_help_has_examples(command: str) -> None:
    text = linewatch(command, "--help").stdout
    assert "Examples:" in text
    assert f"linewatch {command}" in text


def test_demo_on_a_small_set(parts: Path, tmp_path: Path) -> None:
    done = linewatch("demo", "--data", parts, "--output", tmp_path, "--side", "128", "--effort", "quick", "--encoder", "none")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert set(summary) == {"f1", "precision", "recall", "p50_ms", "p99_ms", "tvm_over_onnxruntime", "train_seconds",
                            "package_seconds", "pictures"}  # fmt: skip
    assert summary["pictures"] == 16
    assert 0 < summary["p50_ms"] <= summary["p99_ms"]
    assert "normal/normal-007.png" in done.stdout
    assert "cross-validating" in done.stderr
    report = (tmp_path / "report.html").read_text()
    assert report.count("<article") == 16
    assert report.count('src="data:image/') == 48
    assert "http" not in report


def test_train_package_detect(parts: Path, tmp_path: Path, agent_address: str) -> None:
    trained = linewatch(
        "train",
        parts / "train" / "data.manifest",
        "-o",
        tmp_path / "b",
        "--side",
        "64",
        "--effort",
        "quick",
        "--encoder",
        "none",
        "--name",
        "m",
        "--test",
        parts / "test",
        "--json",
    )
    assert json.loads(trained.stdout)["training"]["pictures"] == 36
    assert trained.stderr == ""
    made = sorted(p.name for p in (tmp_path / "b-results").iterdir())
    assert made == ["EvaluationManifest-m-1.json", "EvaluationResult-m-1.json", "masks", "report.html"]
    again = json.loads(linewatch("recalibrate", tmp_path / "b", parts / "test", "-o", tmp_path / "r", "--json").stdout)
    assert again["evaluation"]["pictures"] == 16
    assert again["threshold_before"] != again["threshold"]
    packed = json.loads(linewatch("package", tmp_path / "b", "-o", tmp_path / "c", "--no-tune", "--json").stdout)
    assert packed["component"] == "model-m"
    assert [(a["architecture"], Path(a["path"]).is_file()) for a in packed["artifacts"]] == [("amd64", True)]
    image = parts / "test" / "anomaly" / "anomaly-000.png"
    mask = tmp_path / "mask.png"
    answer = json.loads(
        linewatch("detect", image, "--model", "parts", "--socket", agent_address, "--mask", mask, "--json").stdout
    )
    assert answer["file"] == str(image)
    assert answer["is_anomalous"] == (answer["score"] > answer["threshold"])
    with Image.open(mask) as drawn:
        assert drawn.size == (320, 240)
    code = 4 if answer["is_anomalous"] else 0
    said = linewatch(
        "detect", image, "--model", "parts", "--socket", agent_address, "--bytes", "--fail-on-anomaly", code=code
    )
    assert ("ANOMALY" in said.stdout) == answer["is_anomalous"]


def test_errors_are_messages_with_exit_codes(tmp_path: Path, copied_bundle: Path) -> None:
    for i in range(4):
        save(tmp_path / "one" / "normal" / f"{i}.png")
    assert "4 normal and 0 anomalous" in linewatch("train", tmp_path / "one", "-o", tmp_path / "b", code=1).stderr
    without = linewatch("train", tmp_path / "one", "-o", tmp_path / "b", "--backbone", "timm:resnet18", "--backbone-weights",
                        tmp_path / "none.safetensors", code=1)  # fmt: skip
    assert "none.safetensors do not exist. On a machine with internet" in without.stderr
    linewatch("train", tmp_path / "one", "-o", tmp_path / "b", "--backbone-weights", "w.pth", code=2)
    model = copied_bundle / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    assert "changed or damaged" in linewatch("package", copied_bundle, "-o", tmp_path / "c", code=1).stderr
    nobody = f"unix://{tmp_path}/none.sock"
    asked = linewatch("detect", tmp_path / "one" / "normal" / "0.png", "--model", "m", "--socket", nobody, code=3)
    assert "no agent answers" in asked.stderr
    assert "Traceback" not in asked.stderr
    linewatch("detect", code=2)
    assert "Unix socket" in linewatch("agent", "--models", tmp_path, "--socket", "0.0.0.0:50051", code=1).stderr


def test_groups_keep_the_pictures_of_a_part_together(parts: Path, tmp_path: Path) -> None:
    rows = [f"{p.name},{i // 3}" for i, p in enumerate(sorted((parts / "train" / "normal").iterdir()))]
    (tmp_path / "groups.csv").write_text("picture,group\n" + "\n".join(rows) + "\n")
    arguments = ("train", parts / "train", "-o", tmp_path / "b", "--side", "64", "--effort", "quick", "--encoder", "none", "--json")
    done = json.loads(linewatch(*arguments, "--groups", tmp_path / "groups.csv").stdout)
    assert len(done["training"]["near_duplicates"]) >= 4
    assert all(len(group) == 3 for group in done["training"]["near_duplicates"])
    (tmp_path / "groups.csv").write_text("file,part\na,1\n")
    wrong = linewatch(*arguments, "--groups", tmp_path / "groups.csv", code=1)
    assert "expected picture and group" in wrong.stderr


def test_doctor(packaged: Package, copied_bundle: Path) -> None:
    healthy = json.loads(linewatch("doctor", packaged.bundle.folder, "--json").stdout)
    assert all(f["ok"] for f in healthy)
    assert any("tvm" in f["check"] for f in healthy)
    (copied_bundle / "golden" / "0.png").unlink()
    sick = linewatch("doctor", copied_bundle, code=1)
    assert f"FAIL  bundle: {copied_bundle}: golden/0.png is listed" in sick.stdout


def test_demo_data(tmp_path: Path) -> None:
    drawn = json.loads(linewatch("demo-data", tmp_path / "d", "--train", "2", "--test", "1", "--json").stdout)
    assert drawn["pictures"] == 6
    assert len(list((tmp_path / "d" / "train" / "masks").iterdir())) == 2


def test_real_pictures(cookies: Path, tmp_path: Path) -> None:
    summary = json.loads(linewatch("demo", "--data", cookies, "--output", tmp_path, "--effort", "quick", "--json").stdout)
    assert summary["pictures"] == 22
    assert summary["f1"] >= 0.95
