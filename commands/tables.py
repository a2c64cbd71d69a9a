"""What commands print for people."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from linewatch.anomaly_model.errors import shorten
from linewatch.training.data.survey import MOST_SKIPPED

if TYPE_CHECKING:
    from linewatch.commands.demo_result import DemoResult
    from linewatch.packager.component import Component
    from linewatch.packager.package import Package
    from linewatch.training.suggestion.suggest import Suggestions
    from linewatch.training.train import Trained


def _console() -> Console:
    console = Console()
    # Into a file or pipe, lines must not be cut at 80 columns.
    return console if console.is_terminal else Console(width=120)


def print_demo(result: "DemoResult", output: Path) -> None:
    """The demo's table and figures."""
    console = _console()
    table = Table("file", "truth", "answer", "confidence", "ms", "found")
    for row in result.pictures:
        wrong = row.answer != row.is_anomaly
        table.add_row(
            row.file, "anomaly" if row.is_anomaly else "normal", "anomaly" if row.answer else "normal",
            f"{row.confidence:.3f}", f"{row.milliseconds:.1f}", row.labels, style="bold red" if wrong else None,
        )  # fmt: skip
    console.print(table)
    m, s = result.metrics, result.summary
    console.print(
        f"precision {m.precision:.3f}   recall {m.recall:.3f}   F1 {m.f1:.3f} (calling all anomalous: {m.f1_all_anomalous:.3f})"
    )
    for warning in result.warnings:
        console.print(f"warning: {warning}", style="yellow")
    console.print(f"latency over gRPC and shared memory: p50 {s.p50_ms} ms, p99 {s.p99_ms} ms, {s.pictures} pictures")
    console.print(
        f"compiled code takes {s.tvm_over_onnxruntime} of ONNX Runtime's time; trained in {s.train_seconds} s, packaged in {s.package_seconds} s"
    )
    console.print(f"report: {output / 'report.html'}   component: {output / 'package'}")


def print_training(trained: "Trained", output: Path, results: Path) -> None:
    """What training found."""
    console = _console()
    training, evaluation = trained.bundle.manifest.training, trained.bundle.manifest.evaluation
    if trained.choice is not None:
        table = Table("candidate", "ROC AUC", "± 1 SE", "log loss", "cost in ms", title="by out-of-fold scores")
        for c in trained.choice.candidates:
            style = "bold green" if c == trained.choice.chosen else None
            table.add_row(c.name, f"{c.roc_auc:.3f}", f"{c.standard_error:.3f}", f"{c.log_loss:.3f}", f"{c.milliseconds:.1f}", style=style)
        console.print(table)
    console.print(f"chosen: {training['why']}")
    if "segmentation" in training:
        found = training["segmentation"]
        ious = ", ".join(f"{name} {iou:.3f}" for name, iou in found["average_iou"][found["chosen"]].items())
        console.print(f"masks by {found['chosen']}; out of fold, Average IoU of {ious}")
    if training["suspected_labels"]:
        names = ", ".join(s["picture"] for s in training["suspected_labels"][:5])
        console.print(f"labels to look at again: {names}", style="yellow")
    if training["anomaly"]:
        print_metrics("out of fold", training["out_of_fold"])
    if evaluation:
        print_metrics("test", evaluation)
    for name, iou in evaluation.get("average_iou", {}).items():
        console.print(f'test: Average IoU of {name} {iou:.3f}, F1 of "shows it" {evaluation["label_f1"][name]:.3f}')
    for warning in [*training["warnings"], *evaluation.get("warnings", [])]:
        console.print(f"warning: {warning}", style="yellow")
    if skipped := training["skipped"]:
        number = f"{len(skipped)}{' or more' if len(skipped) >= MOST_SKIPPED else ''}"
        console.print(f"warning: left out as they cannot be read, {number}: {', '.join(skipped[:3])}", style="yellow")
    console.print(
        f"{training['pictures']} pictures, {training['seconds']} s, {training['cost']['milliseconds']} ms a picture by count; "
        f"bundle: {output}; report: {results / 'report.html'}; next: linewatch package {output} -o component"
    )


def print_suggestions(suggestions: "Suggestions", file: Path) -> None:
    """Which pictures to label next: the first few, and where the others are."""
    console = _console()
    # Names are printed as they are: rich would take brackets for colours.
    if skipped := suggestions.skipped:
        told = shorten(skipped, between="; ")
        said = f"warning: of the pictures without labels left out as they cannot be read, {len(skipped)}: {told}"
        console.print(said, style="yellow", markup=False)
    first = "; ".join(f"{s.sample.name} ({s.reason})" for s in suggestions.pictures[:5])
    console.print(f"to label next: {first or 'nothing'}; all {len(suggestions.pictures)} in {file}", markup=False)


def print_metrics(title: str, metrics: dict[str, Any]) -> None:
    """One line of image metrics; of one class only, the errors are all that there is to tell."""
    pictures, anomalies = metrics["pictures"], metrics["true_positives"] + metrics["false_negatives"]
    if anomalies in (0, pictures):
        errors = f"{metrics['false_negatives']} missed of" if anomalies else f"{metrics['false_positives']} false alarms on"
        _console().print(f"{title}: {errors} {pictures} {'anomalous' if anomalies else 'normal'} pictures")
        return
    interval = metrics.get("intervals_95", {}).get("f1")
    between = f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
    _console().print(
        f"{title}: F1 {metrics['f1']:.3f}{between} (calling all anomalous: {metrics['f1_all_anomalous']:.3f}), precision "
        f"{metrics['precision']:.3f}, recall {metrics['recall']:.3f}, ROC AUC {metrics['roc_auc']:.3f}, "
        f"{pictures} pictures"
    )


def print_package(done: "Package") -> None:
    """What packaging made and verified."""
    from linewatch.anomaly_model.runtime_tvm import host_target

    console = _console()
    table = Table("variant", "TVM p50 ms", "ONNX Runtime p50 ms", "ratio", "compared on", "score differs by", "changed verdicts")
    for v in done.variants:
        timing, parity = v.timing, v.parity
        table.add_row(
            v.isa.name, *((f"{timing.tvm.p50_ms}", f"{timing.onnxruntime.p50_ms}", f"{timing.tvm_over_onnxruntime}") if timing
                          else ("", "", "")),
            *((parity.ran_on, f"{parity.score_difference:.1e} of its range", f"{parity.changed_answers} of {parity.pictures}")
              if parity else ("nothing here", "not verified", "")),
        )  # fmt: skip
    console.print(table)
    for v in done.variants:
        if v.parity is None:
            console.print(f"{v.isa.name}: compiled, but nothing here can run it; on the device: linewatch doctor BUNDLE")
    for arch in done.cubins:
        console.print(f"GPU code for {arch}, not run here; on the device: linewatch doctor BUNDLE")
    print_component(done.component)
    folder = done.component.recipe.parent.parent
    if host_target() in done.bundle.targets():
        click.echo(f"packaged in {done.seconds} s; next: linewatch agent --models {folder}; clients call the model {done.component.name}")
        return
    click.echo(
        f"packaged in {done.seconds} s; next: copy {folder} to the device, and there: linewatch doctor {folder.name}/bundle; "
        f"linewatch agent --models {folder.name}; clients call the model {done.component.name}. "
        f"Or with Greengrass: linewatch publish {folder} --store STORE"
    )


def print_component(component: "Component") -> None:
    """Who a component is, and where its files lie."""
    click.echo(f"component {component.name} {component.version}")
    click.echo(f"recipe: {component.recipe}")
    for artifact in component.artifacts:
        click.echo(f"artifact for {artifact.architecture}, {artifact.bytes / 1e6:.1f} MB: {artifact.path}")
