"""Training as a job: the rules on numbers, the outcome files, and what a failure leaves."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from linewatch.anomaly_model.child_job import OUTCOME, SPEC, JobProgress, Outcome, ProgressFile, read_outcome, read_progress
from linewatch.anomaly_model.errors import DatasetError, PictureError
from linewatch.anomaly_model.manifest import Label
from linewatch.training.data.dataset import Dataset, Sample
from linewatch.training.job import Rules, Spec, check_rules, run

RULES = Rules(20, 10, 10, 10, 20, 10, 16000, 4000, 8000, 800, 100, 20)
LABELS = (Label(name="dent", hex_color="#FF0000"), Label(name="scratch", hex_color="#00FF00"))


def run_as_process(folder: Path) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-P", "-m", "linewatch.training.job", str(folder)]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)


def dataset(normal: int, anomaly: int, colors: Callable[[int], dict[str, str]] = lambda _: {}, masked: bool = False) -> Dataset:
    samples = [Sample(f"n{i}", Path(f"n{i}"), False) for i in range(normal)]
    samples += [Sample(f"a{i}", Path(f"a{i}"), True, Path("m"), colors(i)) for i in range(anomaly)]
    return Dataset(tuple(samples), LABELS if masked else (), 0, "set")


def one(i: int) -> dict[str, str]:
    return {"#FF0000": "dent"} if i % 2 else {"#00FF00": "scratch"}


@pytest.mark.parametrize(("learn", "test"), [
    (dataset(20, 10), None), (dataset(10, 0), dataset(10, 10)), (dataset(20, 40, one, True), None),
    (dataset(10, 20, one, True), dataset(10, 20, one, True)),
])  # fmt: skip
def test_the_least_that_is_enough(learn: Dataset, test: Dataset | None) -> None:
    check_rules(learn, test, RULES)


@pytest.mark.parametrize(("learn", "test", "message"), [
    (dataset(19, 10), None, "normal pictures: 19, at least 20"), (dataset(20, 9), None, "anomalous pictures: 9, at least 10"),
    (dataset(9, 0), dataset(10, 10), "normal training pictures: 9"), (dataset(10, 0), dataset(9, 9), "normal test pictures: 9.*anomalous test"),
    (dataset(20, 39, one, True), None, "only 'dent': 19, at least 20"),
    (dataset(10, 20, one, True), dataset(10, 19, one, True), "test pictures that show only 'dent': 9"),
    (dataset(20, 8001, one, True), None, "training pictures: 8021, at most 8000"),
    (dataset(10, 0), dataset(2000, 2001), "test pictures: 4001, at most 4000"),
])  # fmt: skip
def test_too_few_or_too_many(learn: Dataset, test: Dataset | None, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        check_rules(learn, test, RULES)


def test_pictures_of_two_labels_do_not_count_for_either(tmp_path: Path) -> None:
    both = {"#FF0000": "dent", "#00FF00": "scratch"}
    samples = []
    for i in range(3):
        picture, mask = tmp_path / f"{i}.png", tmp_path / f"m{i}.png"
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(picture)
        pixels = np.full((64, 64, 3), 255, np.uint8)
        pixels[:8] = (255, 0, 0)
        if i == 0:
            pixels[20:28] = (0, 255, 0)
        Image.fromarray(pixels).save(mask)
        samples.append(Sample(str(i), picture, True, mask, both))
    rules = Rules(0, 0, 0, 0, 3, 0, 10, 10, 10, 10, 2, 2)
    with pytest.raises(DatasetError, match=r"only 'dent': 2, at least 3.*only 'scratch': 0"):
        check_rules(Dataset(tuple(samples), LABELS, 0, "set"), None, rules)
    tight = msgspec.structs.replace(rules, least_label=0, most_labels=1, most_labels_in_mask=1)
    with pytest.raises(DatasetError, match="anomaly labels: 2, at most 1"):
        check_rules(Dataset(tuple(samples), LABELS, 0, "set"), None, tight)
    tight = msgspec.structs.replace(tight, most_labels=2)
    with pytest.raises(DatasetError, match="labels in one mask: 2, at most 1"):
        check_rules(Dataset(tuple(samples), LABELS, 0, "set"), None, tight)


def spec(folder: Path, manifest: Path, **changed: Any) -> Spec:
    rules = Rules(5, 5, 0, 0, 0, 0, 100, 100, 100, 100, 10, 10)
    values: dict[str, Any] = {
        "manifest": str(manifest), "test_manifest": None, "root": str(folder), "output": str(folder / "bundle"),
        "results": str(folder / "results"), "masks_at": "s3://out/masks/", "name": "p", "version": "2",
        "arn": "arn:aws:lookoutvision:r:123456789012:model/p/2", "effort": "quick", "encoder": "none", "rules": rules,
    }  # fmt: skip
    return Spec(**{**values, **changed})


@pytest.mark.slow
def test_a_job_in_a_process_writes_its_outcome(parts: Path, tmp_path: Path) -> None:
    lines = []
    for kind in ("normal", "anomaly"):
        for path in sorted((parts / "train" / kind).iterdir()):
            target = tmp_path / "pictures" / "bkt" / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
            about = {"class-name": kind, "type": "groundtruth/image-classification", "human-annotated": "yes"}
            lines.append(json.dumps({"source-ref": f"s3://bkt/{path.name}", "label": 0, "label-metadata": about}))
    manifest = tmp_path / "train.manifest"
    manifest.write_text("\n".join(lines))
    (tmp_path / SPEC).write_bytes(msgspec.json.encode(spec(tmp_path, manifest, root=str(tmp_path / "pictures"))))
    done = run_as_process(tmp_path)
    assert done.returncode == 0, done.stderr
    outcome = read_outcome(tmp_path)
    assert outcome is not None
    assert outcome.result["evaluation_result"] == "EvaluationResult-p-2.json"
    assert set(outcome.result["performance"]) == {"F1Score", "Recall", "Precision"}
    assert "not better than calling everything anomalous" in outcome.result["warning"]  # 28 pictures without masks teach that little
    result = json.loads((tmp_path / "results" / "EvaluationResult-p-2.json").read_text())
    assert result["EvaluationDetails"]["ModelArn"] == "arn:aws:lookoutvision:r:123456789012:model/p/2"
    assert "PixelAnomalyClassMetrics" not in result["AggregatedEvaluationResults"]["Metrics"]
    assert read_progress(tmp_path) is not None


@pytest.mark.slow
def test_bad_data_is_an_outcome_and_a_fault_of_ours_says_so(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "k").touch()
    (tmp_path / "train.manifest").write_text('{"source-ref": "s3://b/k"}\n')
    with pytest.raises(DatasetError, match="no labelled pictures"):
        run(spec(tmp_path, tmp_path / "train.manifest"), ProgressFile(tmp_path / "progress.json"))
    (tmp_path / SPEC).write_bytes(msgspec.json.encode(spec(tmp_path, tmp_path / "train.manifest")))
    done = run_as_process(tmp_path)
    outcome = read_outcome(tmp_path)
    assert (done.returncode, outcome) == (1, Outcome(error=outcome.error if outcome else ""))
    assert outcome is not None
    assert "no labelled pictures" in outcome.error
    (tmp_path / SPEC).write_bytes(b"{}")
    run_as_process(tmp_path)
    outcome = read_outcome(tmp_path)
    assert outcome is not None
    assert outcome.fault


def test_a_job_ends_with_its_parent(tmp_path: Path) -> None:
    (tmp_path / SPEC).write_bytes(b"{}")
    code = ("import sys, time\nfrom linewatch.anomaly_model.child_job import main\n"
            f"main(lambda s, p: time.sleep(60) or {{}}, dict, [{str(tmp_path)!r}, '--tied'])")  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, start_new_session=True)
    assert process.stdin is not None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(2)
    process.stdin.close()
    assert process.wait(10) == -9
    assert not (tmp_path / OUTCOME).exists()


def test_progress_is_whole_or_absent(tmp_path: Path) -> None:
    assert read_progress(tmp_path) is None
    report = ProgressFile(tmp_path / "progress.json")
    report("reading", 1, 10)
    report("reading", 2, 10)  # sooner than anybody looks
    assert read_progress(tmp_path) == JobProgress("reading", 1, 10)
    report("training", 0, 5)
    assert read_progress(tmp_path) == JobProgress("training", 0, 5)
    (tmp_path / "progress.json").write_text("{")
    assert read_progress(tmp_path) is None


def line_of(name: str, kind: str = "normal", colors: dict[str, str] | None = None) -> dict[str, Any]:
    about = {"class-name": kind, "type": "groundtruth/image-classification", "human-annotated": "yes"}
    line: dict[str, Any] = {"source-ref": f"s3://bkt/{name}", "label": 0, "label-metadata": about}
    if colors is not None:
        table = {str(i): {"class-name": name, "hex-color": color} for i, (color, name) in enumerate(colors.items())}
        line["m-ref"] = f"s3://bkt/mask-{name}"
        line["m-ref-metadata"] = {"type": "groundtruth/semantic-segmentation", "human-annotated": "yes", "internal-color-map": table}
    return line


SCRATCH = {"#FF0000": "scratch"}


@pytest.mark.parametrize(("changed", "found"), [
    ({"n0.png": b"no picture"}, r"1 of 12 pictures or their masks cannot be read: s3://bkt/n0.png is not a PNG or JPEG"),
    ({"n0.png": (80, 64), "n1.png": (90, 64)}, r"2 of 12 pictures are not of the size .*80x64: s3://bkt/n0.png; 90x64: s3://bkt/n1.png"),
    ({"n0.png": (8, 8)}, r"s3://bkt/n0.png: the picture is 8x8 pixels; each side must be 64 to 4096"),
    ({"n0.png": b"x" * (8 * 1024 * 1024 + 1)}, r"s3://bkt/n0.png has 8388609 bytes; at most"),
    ({"mask-a0.png": b"no mask"}, r"the mask of s3://bkt/a0.png is not a readable PNG"),
    ({"mask-a0.png": (80, 64)}, "the mask of s3://bkt/a0.png is 80x64"),
    ({"mask-a0.png": "#123456"}, r"the mask of s3://bkt/a0.png has \d+ pixels of a colour \(#123456\)"),
    ({"n0.png": None, "mask-a1.png": None}, r"2 of 12 lines .* were not found: s3://bkt/n0.png, s3://bkt/mask-a1.png"),
    ({"colors of a1.png": {"#00FF00": "scratch"}}, r"the training dataset of p, s3://bkt/a1.png: label 'scratch' has colour #00FF00"),
    ({"kind of n0.png": "dog", "kind of n1.png": "dog"}, "the training dataset of p has 4 normal"),
    ({f"{kind}{i}.png": "#303030" for kind in "na" for i in range(6)}, "look the same"),
], ids=lambda value: str(value)[:60])  # fmt: skip
def test_what_an_api_user_is_told_knows_neither_our_folders_nor_flags(tmp_path: Path, changed: dict[str, Any], found: str) -> None:
    pictures = tmp_path / "pictures"
    (pictures / "bkt").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = []
    for i in range(12):
        name = f"{'na'[i % 2]}{i // 2}.png"
        kind = changed.get(f"kind of {name}", "anomaly" if i % 2 else "normal")
        lines.append(line_of(name, kind, changed.get(f"colors of {name}", SCRATCH) if i % 2 else None))
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(pictures / "bkt" / name)
        Image.new("RGB", (64, 64), "#FF0000").save(pictures / "bkt" / f"mask-{name}")
    for name, value in changed.items():
        path = pictures / "bkt" / name
        if value is None:
            path.unlink()
        elif isinstance(value, bytes):
            path.write_bytes(value)
        elif isinstance(value, tuple):
            Image.new("RGB", value, "#FF0000").save(path)
        elif isinstance(value, str) and value.startswith("#"):
            Image.new("RGB", (64, 64), value).save(path)
    manifest = tmp_path / "train.manifest"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    rules = Rules(0, 0, 0, 0, 0, 0, 100, 100, 100, 100, 10, 10)
    with pytest.raises((DatasetError, PictureError), match=f"(?s){found}") as caught:
        run(spec(tmp_path, manifest, root=str(pictures), rules=rules), ProgressFile(tmp_path / "progress.json"))
    said = str(caught.value)
    assert str(tmp_path) not in said
    assert "--" not in said
    assert ".manifest" not in said
