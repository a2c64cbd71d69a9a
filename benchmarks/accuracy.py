"""How good the trainer's choice is: several seeds, grouped splits, every single candidate beside it on the same test pictures.

    python -m benchmarks.accuracy                                  # drawn parts of every kind
    python -m benchmarks.accuracy --kind machined --kind fabric
    python -m benchmarks.accuracy --data DIR train.manifest --json accuracy.json

DIR: normal/, anomaly/, optional masks/ and groups.csv (columns picture, group); or train/ and test/ with these, which are
put together and split anew. All scores come from ONNX graphs.
"""

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.cost import measure_ms
from benchmarks.processes import this_machine
from linewatch.anomaly_model.picture import read_picture, to_model_input
from linewatch.anomaly_model.progress import no_progress
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.commands.drawn.kinds import KINDS
from linewatch.commands.drawn.part_set import PartSet
from linewatch.commands.drawn.writing import write_set
from linewatch.commands.progress import StageProgress
from linewatch.commands.splits import find_splits
from linewatch.training.data.dataset import Dataset
from linewatch.training.data.folds import assign_folds
from linewatch.training.data.pictures import load_pictures
from linewatch.training.data.reading import read_dataset, read_groups
from linewatch.training.data.split import find_groups
from linewatch.training.families.encoder import load_encoder
from linewatch.training.graph.color import write_color
from linewatch.training.graph.writer import GraphWriter
from linewatch.training.metrics import roc_auc
from linewatch.training.options import NET_STEPS, TrainingOptions
from linewatch.training.selection.fitting import Task, net_family
from linewatch.training.train import Trained, train
from linewatch.training.workspace import Workspace

TEST_SHARE = 0.3


class Outcomes(msgspec.Struct, frozen=True):
    """Test pictures by what became of them."""

    found: int
    escapes: int
    false_alarms: int
    passed: int


class Fold(msgspec.Struct, frozen=True):
    """One seed on one set."""

    set: str
    seed: int
    chosen: str
    roc_auc: float
    f1: float
    f1_all_anomalous: float
    ece: float
    average_iou: dict[str, float]
    label_f1: dict[str, float]
    out_of_fold_iou: dict[str, float]
    singles: dict[str, float]
    train_seconds: float
    latency_ms: float
    train_pictures: int
    test_pictures: int
    outcomes: Outcomes | None = None
    ece_if_calibrated: float | None = None
    processor_seconds: float | None = None


def read_any(path: Path) -> Dataset:
    """All labelled pictures below a path as one dataset."""
    if path.is_file() or (path / "normal").is_dir() or (path / "anomaly").is_dir():
        dataset = read_dataset(path)
    else:
        parts = find_splits(path)
        samples = tuple(
            dataclasses.replace(s, name=str(s.path.relative_to(path)) if s.path.is_relative_to(path) else s.name)
            for part in parts
            for s in part.samples
        )
        dataset = Dataset(samples, parts[0].labels or parts[1].labels, sum(p.unlabelled for p in parts), str(path))
    groups = (path if path.is_dir() else path.parent) / "groups.csv"
    return read_groups(groups, dataset) if groups.is_file() else dataset


def split(dataset: Dataset, seed: int) -> tuple[Dataset, Dataset]:
    """Training and test part; groups and near-duplicates stay together."""
    with tempfile.TemporaryDirectory() as folder:
        store = load_pictures(dataset, 64, Workspace(Path(folder)), no_progress)
    part = assign_folds(store.strata(), find_groups(dataset, store).merged(), 10, 1000 + seed)
    test = part < round(10 * TEST_SHARE)
    chosen = [
        tuple(s for s, held_out in zip(dataset.samples, test, strict=True) if held_out == side) for side in (False, True)
    ]
    return dataclasses.replace(dataset, samples=chosen[0]), dataclasses.replace(dataset, samples=chosen[1])


def split_by_group(dataset: Dataset, part: int, parts: int) -> tuple[Dataset, Dataset]:
    """Training and test part, with whole groups in either: over all parts each group is judged once by a model that has seen none of it."""
    names = sorted({s.group for s in dataset.samples if s.group is not None})
    held_out = set(names[part::parts])
    chosen = [tuple(s for s in dataset.samples if (s.group in held_out) == side) for side in (False, True)]
    return dataclasses.replace(dataset, samples=chosen[0]), dataclasses.replace(dataset, samples=chosen[1])


def singles(
    trained: Trained, learn: Dataset, test: Dataset, options: TrainingOptions, progress: StageProgress
) -> dict[str, float]:
    """ROC AUC on the test pictures of every score by itself, each fitted on all training pictures."""
    spec = trained.bundle.manifest.input
    fitted = dict(trained.fitted)
    encoder, _ = load_encoder(options.encoder)
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(Path(folder))
        net = "segmentation net" if encoder else "U-Net"
        if options.net_steps and net not in fitted and net not in trained.bundle.manifest.training.get("dropped", []):
            store = load_pictures(learn, trained.bundle.manifest.training["side"], workspace, progress)
            task = Task(store, np.arange(len(store)), None, options, workspace, progress, encoder)
            fitted[net] = net_family(task).fit(np.ones(len(store), bool), "beside")
    g = GraphWriter(spec.height, spec.width)
    color = write_color(g)
    outputs = {name: score.value for f in fitted.values() for name, score in f.write(g, color).scores.items()}
    runtime = OnnxRuntime(g.build(list(outputs.values())), threads=2)
    rows = [
        [float(v.reshape(-1)[0]) for v in runtime.run_arrays(to_model_input(read_picture(s.path), spec))]
        for s in test.samples
    ]
    truth = np.array([bool(s.is_anomaly) for s in test.samples])
    return {name: round(roc_auc(column, truth), 4) for name, column in zip(outputs, np.array(rows).T, strict=True)}


def run(
    name: str, parts: tuple[Dataset, Dataset], seed: int, steps: int, encoder: str, progress: StageProgress
) -> Fold:
    """One seed on one set."""
    learn, test = parts
    options = TrainingOptions(name="benchmark", seed=seed, net_steps=steps, encoder=encoder)
    with tempfile.TemporaryDirectory() as folder:
        begun, worked = time.monotonic(), time.process_time()
        trained = train(learn, Path(folder) / "bundle", options, test, progress)
        seconds, processor_seconds = time.monotonic() - begun, time.process_time() - worked
        alone = singles(trained, learn, test, options, progress)
        graph_ms = measure_ms(trained.bundle.read("model.onnx"))
    training, found = trained.bundle.manifest.training, trained.bundle.manifest.evaluation
    segmentation = training.get("segmentation")
    chosen = trained.choice.chosen.name if trained.choice else "one-class mean"
    if segmentation:
        chosen += f"; masks by {segmentation['chosen']}"
    return Fold(
        name, seed, chosen, found["roc_auc"], found["f1"], found["f1_all_anomalous"], found["ece"], found["average_iou"],
        found["label_f1"], segmentation["average_iou"][segmentation["chosen"]] if segmentation else {}, alone,
        round(seconds, 1), round(graph_ms, 1), len(learn.samples), len(test.samples),
        Outcomes(found["true_positives"], found["false_negatives"], found["false_positives"],
                 found["pictures"] - found["true_positives"] - found["false_negatives"] - found["false_positives"]),
        found["ece_if_calibrated"], round(processor_seconds, 1),
    )  # fmt: skip


def _mean_sd(values: list[float]) -> str:
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values) if len(values) > 1 else 0:.3f}"


def _processor(folds: list[Fold]) -> str:
    """The processor's time that training took; older runs do not know it."""
    known = [f.processor_seconds for f in folds if f.processor_seconds is not None]
    return f" (of the processor: {statistics.median(known):.0f})" if known else ""


def _if_calibrated(folds: list[Fold]) -> str:
    """What a perfectly calibrated model's error would be on so many pictures; older runs do not know it."""
    known = [f.ece_if_calibrated for f in folds if f.ece_if_calibrated is not None]
    return f" (if calibrated: {statistics.mean(known):.3f})" if known else ""


def table(folds: list[Fold]) -> str:
    """Markdown: a row a set, mean and standard deviation over seeds."""
    sets = list(dict.fromkeys(f.set for f in folds))
    lines = [
        (
            "| set (train + test) | chosen | ROC AUC | F1 | all-anomalous F1 | ECE | Average IoU by label | F1 by label "
            "| training s (median) | graph ms |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in sets:
        mine = [f for f in folds if f.set == name]

        def by_label(field: str, mine: list[Fold] = mine) -> str:
            labels = list(getattr(mine[0], field))
            return ", ".join(f"{lb} {_mean_sd([getattr(f, field)[lb] for f in mine])}" for lb in labels) or "-"

        chosen = ", ".join(
            f"{c} ({n}x)"
            for c, n in sorted(
                {f.chosen: sum(g.chosen == f.chosen for g in mine) for f in mine}.items(), key=lambda x: -x[1]
            )
        )
        lines.append(
            f"| {name} ({mine[0].train_pictures} + {mine[0].test_pictures}) | {chosen} | {_mean_sd([f.roc_auc for f in mine])} "
            f"| {_mean_sd([f.f1 for f in mine])} | {statistics.mean(f.f1_all_anomalous for f in mine):.3f} "
            f"| {_mean_sd([f.ece for f in mine])}{_if_calibrated(mine)} | {by_label('average_iou')} | {by_label('label_f1')} "
            f"| {statistics.median(f.train_seconds for f in mine):.0f}{_processor(mine)} | {statistics.mean(f.latency_ms for f in mine):.1f} |"
        )
    lines += ["", "ROC AUC of the choice beside every single score (mean over seeds, then over sets):", ""]
    everywhere = [s for s in folds[0].singles if all(s in f.singles for f in folds)]
    rows = {"**chosen**": {n: statistics.mean(f.roc_auc for f in folds if f.set == n) for n in sets}}
    rows |= {s: {n: statistics.mean(f.singles[s] for f in folds if f.set == n) for n in sets} for s in everywhere}
    lines += ["| score | " + " | ".join(sets) + " | mean |", "|---|" + "---|" * (len(sets) + 1)]
    means = {s: statistics.mean(r.values()) for s, r in rows.items()}
    for s in sorted(rows, key=lambda s: -means[s]):
        lines.append(f"| {s} | " + " | ".join(f"{v:.3f}" for v in rows[s].values()) + f" | {means[s]:.3f} |")
    best = max(means[s] for s in everywhere)
    lines.append("")
    lines.append(f"Regret (best single score's mean - the choice's): {best - means['**chosen**']:+.4f}; the bar is 0.01.")
    return "\n".join(lines)


def plant_table(folds: list[Fold]) -> str:
    """Markdown: escapes in a thousand bad parts and false alarms in a thousand good ones, over all seeds of a set."""
    lines = ["| set | bad parts judged | escapes in 1000 bad parts | good parts judged | false alarms in 1000 good parts |", "|---|---|---|---|---|"]
    for name in dict.fromkeys(f.set for f in folds):
        mine = [f.outcomes for f in folds if f.set == name and f.outcomes is not None]
        bad, good = sum(o.found + o.escapes for o in mine), sum(o.passed + o.false_alarms for o in mine)
        if bad and good:
            escapes, alarms = (1000 * sum(getattr(o, field) for o in mine) for field in ("escapes", "false_alarms"))
            lines.append(f"| {name} | {bad} | {escapes / bad:.0f} | {good} | {alarms / good:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Parse, run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", default=[], help="folders or manifests; default: drawn parts")
    parser.add_argument("--kind", choices=list(KINDS), action="append", help="what is drawn without --data, once for each; default: every kind")
    parser.add_argument("--json", type=Path, help="write everything that was measured")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--groups-apart", action="store_true", help="as many parts as seeds, of whole groups; each part is the test set once")
    parser.add_argument("--net-steps", type=int, default=NET_STEPS)
    parser.add_argument("--encoder", default="auto", help="see linewatch train; none for what training was without it")
    arguments = parser.parse_args()
    folds: list[Fold] = []
    with tempfile.TemporaryDirectory() as folder, StageProgress() as progress:
        paths = list(arguments.data)
        if not paths:
            for kind in arguments.kind or KINDS:
                paths.append(Path(folder) / f"drawn-{kind}")
                write_set(paths[-1], PartSet(kind=kind), progress)
        for path in paths:
            dataset = read_any(path)
            name = path.stem if path.is_file() else path.resolve().name
            for seed in range(arguments.seeds):
                parts = split_by_group(dataset, seed, arguments.seeds) if arguments.groups_apart else split(dataset, seed)
                folds.append(run(name, parts, seed, arguments.net_steps, arguments.encoder, progress))
                print(msgspec.json.encode(folds[-1]).decode(), file=sys.stderr, flush=True)
    print(table(folds) + "\n\n" + plant_table(folds))
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode({"machine": this_machine(), "folds": folds})) + b"\n")


if __name__ == "__main__":
    main()
