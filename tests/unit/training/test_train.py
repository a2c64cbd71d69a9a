import dataclasses
import itertools
import json
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from PIL import Image

from linewatch.anomaly_model.bundle import Bundle, open_bundle
from linewatch.anomaly_model.detection import detect, draw_mask
from linewatch.anomaly_model.errors import DatasetError
from linewatch.anomaly_model.manifest import Label, PictureSize
from linewatch.anomaly_model.parity import golden_inputs
from linewatch.anomaly_model.picture import read_picture
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.commands.tables import print_training
from linewatch.training.data.dataset import Dataset
from linewatch.training.data.reading import read_dataset
from linewatch.training.delivery import write_deliverables
from linewatch.training.evaluation.evaluate import evaluate
from linewatch.training.evaluation.results import JOB_NAME, evaluation_line, evaluation_result, write_results
from linewatch.training.families import discriminator
from linewatch.training.families.backbone import load_backbone
from linewatch.training.options import Budget, TrainingOptions
from linewatch.training.recalibrate import recalibrate
from linewatch.training.report.write import write_report
from linewatch.training.selection import cross_validation, input_side
from linewatch.training.selection.cross_validation import OutOfFold
from linewatch.training.selection.segmenter import choose_segmenter
from linewatch.training.train import Trained, train
from tests.unit.training.data.test_dataset import save
from tests.unit.training.families.test_backbone import SmallNet

pytestmark = pytest.mark.slow

QUICK = TrainingOptions(side=64, net_steps=0, encoder="none")
"""Without what takes time: what is tested with it says so."""


def few(dataset: Dataset, each: int = 8) -> Dataset:
    """The first pictures of each class: enough where it does not matter what is learnt."""
    kept = [s for kind in (False, True) for s in [s for s in dataset.samples if s.is_anomaly is kind][:each]]
    return dataclasses.replace(dataset, samples=tuple(kept))


@pytest.fixture(scope="session")
def judged(parts: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A model with a net among its candidates, evaluated on a part held out by us."""
    folder = tmp_path_factory.mktemp("judged")
    return train(read_dataset(parts / "train"), folder / "bundle", TrainingOptions(name="judged", side=96, net_steps=6))


def test_too_few_of_a_class_are_refused(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / "data" / "normal" / f"{i}.png", value=i)
    for i in range(2):
        save(tmp_path / "data" / "anomaly" / f"{i}.png", value=100 + i)
    with pytest.raises(DatasetError, match="12 normal and 2 anomalous"):
        train(read_dataset(tmp_path / "data"), tmp_path / "bundle", QUICK)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_bad_data_leaves_nothing_behind(tmp_path: Path) -> None:
    for i in range(12):
        save(tmp_path / "data" / "normal" / f"{i}.png", value=i)
    (tmp_path / "data" / "normal" / "x.jpg").write_bytes(b"\xff\xd8\xff broken")
    with pytest.raises(DatasetError, match=r"x\.jpg"):
        train(read_dataset(tmp_path / "data"), tmp_path / "bundle", QUICK)
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_a_test_set_that_cannot_be_judged_is_refused_before_training(parts: Path, tmp_path: Path) -> None:
    learn = read_dataset(parts / "train")
    strange = dataclasses.replace(learn, labels=(Label(name="crack", hex_color="#010203"),), source="elsewhere")
    with pytest.raises(DatasetError, match=r"elsewhere has masks of \['crack'\]"):
        train(learn, tmp_path / "b", QUICK, strange)
    with pytest.raises(DatasetError, match="no labelled pictures to evaluate on"):
        train(learn, tmp_path / "b", QUICK, dataclasses.replace(learn, samples=()))
    assert not list(tmp_path.iterdir())


def test_bundle_is_verified_segmentation_with_static_shapes(bundle: Bundle) -> None:
    opened = open_bundle(bundle.folder)
    assert opened.manifest.is_segmentation
    assert {label.name for label in opened.manifest.labels} == {"scratch", "dent", "missing hole"}
    assert (opened.manifest.input.height, opened.manifest.input.width) == (128, 176)
    graph = onnx.load_from_string(opened.read("model.onnx")).graph
    assert [o.name for o in graph.output] == ["score", "map", "labels"]
    for value in [*graph.input, *graph.output]:
        assert all(d.dim_value > 0 for d in value.type.tensor_type.shape.dim)


def test_it_finds_defects_it_has_not_seen(bundle: Bundle) -> None:
    evaluation = bundle.manifest.evaluation
    assert evaluation["pictures"] == 16
    assert evaluation["roc_auc"] >= 0.9
    assert set(evaluation["average_iou"]) == {"scratch", "dent", "missing hole"}
    assert any("too few to tell" in w for w in evaluation["warnings"])


def test_the_choice_is_written_down(judged: Trained) -> None:
    training = judged.bundle.manifest.training
    names = [c["name"] for c in training["candidates"]]
    assert {"net peak", "cell peak", "position peak", "pooled statistics", "EfficientNet-Lite0 pooled statistics", "everything"} <= set(names)
    assert all(0 < c["milliseconds"] < 25 for c in training["candidates"])
    assert all(0 <= c["standard_error"] < 0.3 and c["difference_error"] >= 0 for c in training["candidates"])
    divided = {name: (len(divided["folds"]), divided["ways"]) for name, divided in training["divisions"].items()}
    assert divided == {"bank": (6, 2), "EfficientNet-Lite0": (6, 1), "segmentation net": (3, 1)}
    for divided in training["divisions"].values():
        for kind in ("normal", "anomaly"):
            assert sum(fold[kind]["pictures"] for fold in divided["folds"]) == training[kind]
            assert all(0 < fold[kind]["groups"] <= fold[kind]["pictures"] for fold in divided["folds"])
    assert training["cost"]["milliseconds"] <= max(c["milliseconds"] for c in training["candidates"])
    assert training["cost"]["processor"]
    assert not training["weak"]
    assert training["why"].startswith(judged.choice.chosen.name)  # type: ignore[union-attr]
    assert set(training["segmentation"]["average_iou"]) == {"bank", "segmentation net"}
    assert training["segmentation"]["chosen"] == "bank", "six steps teach a net nothing"
    # 80 / 20, every kind in both parts.
    assert judged.pictures + judged.bundle.manifest.evaluation["pictures"] == 36
    assert 7 <= judged.bundle.manifest.evaluation["pictures"] <= 9
    assert not judged.bundle.folder.with_name("bundle.unfinished").exists()


def test_golden_outputs_repeat(bundle: Bundle) -> None:
    runtime = OnnxRuntime(bundle.read("model.onnx"))
    inputs, expected = golden_inputs(bundle)
    assert len(inputs) == 6
    for picture, outputs in zip(inputs, expected, strict=True):
        for found, stored in zip(runtime.run_arrays(picture), outputs, strict=True):
            np.testing.assert_allclose(found, stored, rtol=1e-4, atol=1e-4)


@pytest.mark.e2e
def test_same_seed_same_model(parts: Path, judged: Trained, tmp_path: Path) -> None:
    again = train(
        read_dataset(parts / "train"), tmp_path / "b", TrainingOptions(name="judged", side=96, net_steps=6)
    ).bundle
    assert again.manifest.files["model.onnx"] == judged.bundle.manifest.files["model.onnx"]
    assert again.manifest.decision == judged.bundle.manifest.decision


@pytest.mark.e2e
def test_without_masks_it_is_a_classification_model(parts: Path, tmp_path: Path) -> None:
    full = read_dataset(parts / "train")
    plain = Dataset(tuple(dataclasses.replace(s, mask=None) for s in full.samples), (), 0, "plain")
    trained = train(plain, tmp_path / "b", TrainingOptions(side=64, net_steps=4))
    made = trained.bundle
    runtime = OnnxRuntime(made.read("model.onnx"))
    detection = detect(read_picture(full.samples[0].path), runtime, made.manifest)
    assert detection.label_map is None
    assert not made.manifest.is_segmentation
    assert 0 <= detection.anomaly_map.min() <= detection.anomaly_map.max() <= 1
    assert trained.evaluation
    document = evaluation_result(made.manifest, trained.evaluation, trained.pictures, datetime.now(UTC))
    assert "PixelAnomalyClassMetrics" not in document["AggregatedEvaluationResults"]["Metrics"]


@pytest.mark.e2e
def test_normal_pictures_only(parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    full = read_dataset(parts / "train")
    normal = dataclasses.replace(full, samples=tuple(s for s in full.samples if not s.is_anomaly), labels=())
    trained = train(normal, tmp_path / "b", dataclasses.replace(QUICK, false_alarms=0.02), read_dataset(parts / "test"))
    training = trained.bundle.manifest.training
    assert training["regime"] == "normal pictures only"
    assert training["folds"] == 18
    assert "2.0%" in training["why"]
    assert trained.bundle.manifest.evaluation["false_positives"] <= 2
    assert training["weak"] is False, "there is no telling"
    write_report(tmp_path / "report.html", trained.bundle.manifest, trained.evaluation, trained.choice, "here")
    print_training(trained, tmp_path / "b", tmp_path)
    said = capsys.readouterr().out
    assert f"test: F1 {trained.bundle.manifest.evaluation['f1']:.3f}" in said
    assert "out of fold: F1" not in said
    good = dataclasses.replace(read_dataset(parts / "test"), samples=read_dataset(parts / "test").samples[:8])
    trained = train(normal, tmp_path / "b", QUICK, good)
    print_training(trained, tmp_path / "b", tmp_path)
    assert "false alarms on 8 normal pictures" in capsys.readouterr().out


@pytest.mark.e2e
def test_a_backbone_joins_the_candidates_and_is_recorded(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from safetensors.torch import save_file

    monkeypatch.setattr(discriminator, "STEPS", 40)  # how good it is does not matter here, and each step costs much on these features
    torch.manual_seed(0)
    save_file(SmallNet(bottleneck=False).state_dict(), tmp_path / "net.safetensors")
    backbone = load_backbone("timm:small", tmp_path / "net.safetensors", "none: random")
    trained = train(few(read_dataset(parts / "train")), tmp_path / "b", dataclasses.replace(QUICK, backbone=backbone))
    training = trained.bundle.manifest.training
    assert training["backbone"] == {"name": "timm:small", "sha256": backbone.sha256, "licence": "none: random"}
    assert "timm:small discriminator peak" in {c["name"] for c in training["candidates"]}


def test_near_duplicates_and_leaks_are_reported(parts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    for kind in ("normal", "anomaly"):
        (folder / kind).mkdir(parents=True)
        for path in sorted((parts / "train" / kind).iterdir())[:8]:
            (folder / kind / path.name).write_bytes(path.read_bytes())
    (folder / "normal" / "again.png").write_bytes((folder / "normal" / "normal-003.png").read_bytes())
    test = tmp_path / "test"
    for kind in ("normal", "anomaly"):
        (test / kind).mkdir(parents=True)
    (test / "normal" / "t.png").write_bytes((folder / "normal" / "normal-005.png").read_bytes())
    (test / "anomaly" / "u.png").write_bytes((parts / "test" / "anomaly" / "anomaly-001.png").read_bytes())
    training = train(read_dataset(folder), tmp_path / "b", QUICK, read_dataset(test)).bundle.manifest.training
    assert ["normal/again.png", "normal/normal-003.png"] in training["near_duplicates"]
    assert training["test_duplicates"] == [["normal/t.png", "normal/normal-005.png"]]


def test_results_have_the_services_keys(judged: Trained, tmp_path: Path) -> None:
    assert judged.evaluation
    manifest = judged.bundle.manifest
    result, listing = write_results(tmp_path, manifest, judged.evaluation, judged.pictures)
    assert (result.name, listing.name) == ("EvaluationResult-judged-1.json", "EvaluationManifest-judged-1.json")
    document = json.loads(result.read_text())
    assert document["Version"] == 1
    assert list(document) == ["Version", "EvaluationDetails", "AggregatedEvaluationResults"]
    assert set(document["EvaluationDetails"]) == {
        "ModelArn",
        "EvaluationEndTimestamp",
        "NumberOfTrainingImages",
        "NumberOfTestingImages",
    }
    metrics = document["AggregatedEvaluationResults"]["Metrics"]
    assert set(metrics) == {"ROCAUC", "AveragePrecision", "Precision", "Recall", "F1Score", "PixelAnomalyClassMetrics"}
    assert {frozenset(m) for m in metrics["PixelAnomalyClassMetrics"]} == {
        frozenset(["Precision", "Recall", "F1Score", "AIOU", "ClassName"])
    }
    lines = [json.loads(line) for line in listing.read_text().splitlines()]
    assert len(lines) == manifest.evaluation["pictures"]
    first = lines[0]
    assert set(first) == {
        "source-ref", "source-ref-metadata", "anomaly-label", "anomaly-label-metadata", "anomaly-label-detected",
        "anomaly-label-detected-metadata", "anomaly-mask-ref-detected", "anomaly-mask-ref-detected-metadata",
    }  # fmt: skip
    assert set(first["source-ref-metadata"]) == {"creation-date"}
    label = {"class-name", "type", "human-annotated", "creation-date", "job-name"}
    assert set(first["anomaly-label-metadata"]) == label
    told = first["anomaly-label-detected-metadata"]
    assert set(told) == label | {"confidence", "model-arn", "project-name", "model-version"}
    assert (told["type"], told["human-annotated"], told["job-name"]) == ("groundtruth/image-classification", "no", JOB_NAME)
    assert first["anomaly-label-detected"] == int(told["class-name"] == "anomaly")
    with Image.open(tmp_path / first["anomaly-mask-ref-detected"]) as mask:
        assert mask.size == (320, 240)


def test_a_manifests_own_line_is_kept(parts: Path, judged: Trained) -> None:
    dataset = read_dataset(parts / "test" / "data.manifest")
    runtime = OnnxRuntime(judged.bundle.read("model.onnx"))
    few = dataclasses.replace(dataset, samples=dataset.samples[:2])
    found = evaluate(runtime, judged.bundle.manifest, few)
    line = evaluation_line(judged.bundle.manifest, found.predictions[0], datetime.now(UTC), None)
    assert dataset.samples[0].line
    assert dataset.samples[0].line.items() <= line.items()


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href")]


def test_the_report_stands_alone(judged: Trained, tmp_path: Path) -> None:
    manifest = judged.bundle.manifest
    write_report(tmp_path / "deep" / "report.html", manifest, judged.evaluation, judged.choice, "<script>alert(1)</script>")
    html = (tmp_path / "deep" / "report.html").read_text()
    tags = _Tags()
    tags.feed(html)
    assert tags.open.count("article") == judged.bundle.manifest.evaluation["pictures"]
    assert tags.open.count("svg") == 4
    assert "script" not in tags.open
    assert all(a.startswith("data:image/") for a in tags.addresses)
    assert "Can the confidence be believed?" in html
    assert "How the pictures were divided to judge by" in html
    assert html.count("<td>bank (the first of 2 divisions)") == 6
    m = judged.bundle.manifest.evaluation
    assert f"{m['false_positives']} false alarms" in html
    assert html.count('class="tag good"') == m["pictures"] - m["false_positives"] - m["false_negatives"]
    write_report(tmp_path / "bare.html", manifest, None, judged.choice, "here")
    assert "how good this model is was not measured" in (tmp_path / "bare.html").read_text()


def test_recalibration_moves_the_threshold_and_nothing_else(parts: Path, judged: Trained, tmp_path: Path) -> None:
    data = read_dataset(parts / "test")
    done = recalibrate(judged.bundle.folder, data, tmp_path / "new")
    assert done.bundle.manifest.files["model.onnx"] == judged.bundle.manifest.files["model.onnx"]
    assert done.before == judged.bundle.manifest.decision
    assert (
        done.evaluation.metrics.f1
        >= evaluate(OnnxRuntime(done.bundle.read("model.onnx")), judged.bundle.manifest, data).metrics.f1
    )
    assert open_bundle(tmp_path / "new").manifest.training["recalibrated"]["pictures"] == 16
    normals = dataclasses.replace(data, samples=tuple(s for s in data.samples if not s.is_anomaly))
    quiet = recalibrate(judged.bundle.folder, normals, tmp_path / "quiet", 0.001)
    loud = recalibrate(judged.bundle.folder, normals, tmp_path / "loud", 0.2)
    assert quiet.bundle.manifest.decision.threshold > loud.bundle.manifest.decision.threshold
    assert quiet.evaluation.metrics.false_positives == 0
    few = dataclasses.replace(data, samples=data.samples[:2])
    with pytest.raises(DatasetError, match="at least 5"):
        recalibrate(judged.bundle.folder, few, tmp_path / "no")


def test_predictions_under_another_decision_are_what_the_graph_would_give(parts: Path, judged: Trained) -> None:
    data, manifest = read_dataset(parts / "test"), judged.bundle.manifest
    runtime = OnnxRuntime(judged.bundle.read("model.onnx"))
    decision = msgspec.structs.replace(manifest.decision, threshold=manifest.decision.threshold + 1, slope=2.0)
    again = evaluate(runtime, msgspec.structs.replace(manifest, decision=decision), data)
    moved = evaluate(runtime, manifest, data).under(decision)
    assert moved.predictions == again.predictions
    assert moved.as_json() == again.as_json()


def test_each_test_picture_is_predicted_once(parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = itertools.count()
    real = OnnxRuntime.prepare
    monkeypatch.setattr(OnnxRuntime, "prepare", lambda self, picture: (next(calls), real(self, picture))[1])
    learn, test = few(read_dataset(parts / "train")), read_dataset(parts / "test")
    trained = train(
        learn, tmp_path / "b", QUICK, test, deliver=lambda done: write_deliverables(tmp_path / "results", done, "here")
    )
    assert next(calls) == len(test.samples)
    assert trained.bundle.manifest.is_segmentation
    masks = sorted((tmp_path / "results" / "masks").iterdir())
    assert len(masks) == len(test.samples)
    runtime = OnnxRuntime(trained.bundle.read("model.onnx"))
    for sample, path in zip(test.samples, masks, strict=True):
        picture = read_picture(sample.path)
        detection = detect(picture, runtime, trained.bundle.manifest)
        assert detection.label_map is not None
        drawn = draw_mask(detection.label_map, trained.bundle.manifest.labels, *picture.shape[:2])
        with Image.open(path) as mask:
            np.testing.assert_array_equal(np.asarray(mask), drawn)


def test_labels_below_their_minimum_area_are_not_reported(judged: Trained, parts: Path) -> None:
    runtime = OnnxRuntime(judged.bundle.read("model.onnx"))
    manifest = judged.bundle.manifest
    picture = read_picture(next((parts / "test" / "anomaly").iterdir()))
    free = msgspec.structs.replace(
        manifest, labels=[msgspec.structs.replace(lb, minimum_area=0.0) for lb in manifest.labels]
    )
    strict = msgspec.structs.replace(
        manifest, labels=[msgspec.structs.replace(lb, minimum_area=0.99) for lb in manifest.labels]
    )
    assert len(detect(picture, runtime, free).areas) > 1
    found = detect(picture, runtime, strict)
    assert [a.name for a in found.areas] == ["background"]
    assert found.areas[0].area == 1.0
    assert found.label_map is not None
    assert not found.label_map.any()


@pytest.mark.e2e
def test_a_label_that_one_picture_shows(parts: Path, tmp_path: Path) -> None:
    full = few(read_dataset(parts / "train"), 9)
    normals = [s for s in full.samples if not s.is_anomaly]
    dents = [s for s in full.samples if s.is_anomaly and "-001" not in s.name]
    with Image.open(dents[0].mask) as image:  # type: ignore[arg-type]
        rare = np.asarray(image.convert("RGB")).copy()
    rare[(rare != 255).any(axis=2)] = (1, 2, 3)
    Image.fromarray(rare).save(tmp_path / "rare.png")
    colors = {**dents[0].colors, "#010203": "rare"}
    samples = [dataclasses.replace(s, colors=colors) for s in dents]
    samples[0] = dataclasses.replace(samples[0], mask=tmp_path / "rare.png")
    samples[1] = dataclasses.replace(samples[1], mask=None)  # a picture whose defect nobody drew
    labels = (*full.labels, Label(name="rare", hex_color="#010203"))
    dataset = Dataset((*normals, *samples), labels, 0, "one of a kind")
    options = TrainingOptions(side=64, net_steps=3, test_share=0)
    trained = train(dataset, tmp_path / "b", options)
    assert [label.name for label in trained.bundle.manifest.labels][-1] == "rare"
    assert trained.bundle.manifest.training["segmentation"]["average_iou"]["bank"]["rare"] == 0
    assert trained.evaluation is None


def test_a_side_that_costs_too_much_is_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_side, "_milliseconds", lambda spec, _fitted: spec.height / 16)
    size = PictureSize(height=2000, width=2000)
    assert input_side.affordable_side(size, 512, 1, TrainingOptions(budget_ms=25)) == 384
    assert input_side.affordable_side(size, 512, 1, TrainingOptions(budget_ms=99)) == 512
    assert input_side.affordable_side(size, 512, 1, TrainingOptions(budget_ms=1)) == 256


def test_masks_come_from_the_best_family_within_the_budget() -> None:
    def family(name: str, iou: float) -> OutOfFold:
        n = 6
        return OutOfFold(name, {f"{name} peak": np.zeros(n)}, np.full((n, 1), 0.1), np.ones((n, 1)), np.full((n, 1), iou), np.arange(n) % 2, 1)

    def chosen(budget: float, *, limit: bool, fast: float = 0.4) -> str | None:
        found = {"good": family("good", 0.8), "fast": family("fast", fast)}
        return choose_segmenter(found, {"good": 40.0, "fast": 9.0}.__getitem__, Budget(budget, limit))

    assert chosen(50, limit=True) == "good"
    assert chosen(25, limit=True) == "fast"
    assert chosen(5, limit=True) == "fast"
    assert chosen(25, limit=False) == "good", "a wish gives way"
    assert chosen(25, limit=False, fast=0.78) == "fast", "but not for little"
    assert choose_segmenter({}, {}.__getitem__, Budget(5, is_limit=False)) is None


def test_a_limit_that_nothing_keeps_is_said_before_anything_slow(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cross_validation, "_score", None)
    options = dataclasses.replace(QUICK, budget_ms=0.01)
    learn = read_dataset(parts / "train")
    with pytest.raises(DatasetError, match=r"budget of 0\.01 ms: the cheapest graph"):
        train(learn, tmp_path / "b", options)
    normal = dataclasses.replace(learn, samples=tuple(s for s in learn.samples if not s.is_anomaly), labels=())
    with pytest.raises(DatasetError, match=r"budget of 0\.01 ms: the cheapest graph"):
        train(normal, tmp_path / "b", options)
    assert not list(tmp_path.iterdir())


def look_alikes(folder: Path, normals: int, anomalies: int, noise: float) -> Dataset:
    """Clean pictures of a part that always looks the same; bad ones have a dark spot."""
    rng = np.random.default_rng(0)
    for kind, count in (("normal", normals), ("anomaly", anomalies)):
        (folder / kind).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((96, 128, 3), 150.0)
            pixels[20:70, 30:90] = (90, 110, 130)
            pixels += rng.normal(0, noise, pixels.shape) if noise else 0
            if kind == "anomaly":
                top, left = rng.integers(5, 75), rng.integers(5, 105)
                pixels[top : top + 14, left : left + 14] = rng.integers(0, 60)
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / kind / f"{i:02d}.png")
    return read_dataset(folder)


def test_a_slow_clock_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine everything takes longer, and nothing costs more."""
    made = []
    for step in (0.0, 0.3):
        ticks = itertools.count()
        for clock in ("perf_counter", "monotonic", "process_time", "thread_time"):
            monkeypatch.setattr(f"time.{clock}", lambda step=step, ticks=ticks: next(ticks) * step)
        data = look_alikes(tmp_path / f"data{step}", 10, 10, 0.6)
        done = train(data, tmp_path / f"b{step}", dataclasses.replace(QUICK, test_share=0, budget_ms=5.0))
        made.append((done.choice and done.choice.chosen, done.bundle.manifest.files["model.onnx"], done.bundle.manifest.decision))
    assert made[0] == made[1]


@pytest.mark.parametrize(("normals", "anomalies", "noise", "share"), [
    (26, 26, 0.6, 0.2), (26, 26, 0.6, 0.0), (12, 12, 0.0, 0.2), (12, 12, 0.0, 0.0), (5, 5, 0.0, 0.0), (7, 0, 0.6, 0.0),
])  # fmt: skip
def test_good_parts_that_look_alike(normals: int, anomalies: int, noise: float, share: float, tmp_path: Path) -> None:
    data = look_alikes(tmp_path / "data", normals, anomalies, noise)
    trained = train(data, tmp_path / "b", dataclasses.replace(QUICK, test_share=share))
    training = trained.bundle.manifest.training
    if anomalies:
        assert trained.choice
        assert trained.choice.chosen.roc_auc > 0.95
    if share:
        assert trained.evaluation
        truth = trained.evaluation.truth
        assert 0 < truth.sum() < len(truth)
    divided = [w for w in training["warnings"] if "normal pictures look alike (normal/00.png, normal/01.png, normal/02.png, ...)" in w]
    assert bool(divided) == (noise == 0), "pictures that are the same to the last bit, and all that there are"


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_all_of_a_class_in_one_named_group_is_a_sentence(share: float, tmp_path: Path) -> None:
    data = look_alikes(tmp_path / "data", 10, 8, 0.6)
    samples = tuple(dataclasses.replace(s, group="a" if s.is_anomaly else None) for s in data.samples)
    with pytest.raises(DatasetError, match=r"8 anomalous training pictures of .* one group|8 anomalous \(of 1 group\)"):
        train(dataclasses.replace(data, samples=samples), tmp_path / "b", dataclasses.replace(QUICK, test_share=share))
    assert [p.name for p in tmp_path.iterdir()] == ["data"]


def test_a_model_at_chance_says_so_loudly(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for i in range(24):
        folder = tmp_path / "data" / ("normal", "anomaly")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / f"{i}.png")
    trained = train(read_dataset(tmp_path / "data"), tmp_path / "b", dataclasses.replace(QUICK, test_share=0))
    assert "not better than calling everything anomalous: " in trained.weak
    assert trained.bundle.manifest.training["weak"] is True
    assert trained.bundle.manifest.training["warnings"][0] == trained.weak
    write_deliverables(tmp_path / "results", trained, "here")
    assert "not better than calling everything anomalous" in (tmp_path / "results" / "report.html").read_text()


def test_a_kill_while_reports_are_written_costs_nothing_that_was_fitted(
    parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn, results = few(read_dataset(parts / "train")), tmp_path / "results"

    def killed(_trained: Trained) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(learn, tmp_path / "b", QUICK, deliver=killed)
    first = open_bundle(tmp_path / "b").manifest
    monkeypatch.setattr(cross_validation, "_score", None)  # what was fitted fold by fold is not fitted again
    again = train(learn, tmp_path / "b", QUICK, deliver=lambda done: write_deliverables(results, done, "here"))
    assert again.bundle.manifest.files["model.onnx"] == first.files["model.onnx"]
    assert {p.suffix for p in results.iterdir()} >= {".html", ".json"}
    assert not (tmp_path / "b.unfinished").exists()
