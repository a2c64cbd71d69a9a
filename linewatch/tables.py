"""What commands print for people."""

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from anomaly_model.bundle import Bundle

if TYPE_CHECKING:
    from linewatch.demo import DemoResult
    from packager.package import Package


def _console() -> Console:
    console = Console()
    # Into a file or pipe, lines must not be cut at 80 columns.
    return console if console.is_terminal else Console(width=120)


def print_demo(result: "DemoResult", output: Path) -> None:
    """The demo's table and figures."""
    console = _console()
    table = Table("file", "truth", "answer", "confidence", "ms", "found")
    for row in result.rows:
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
    console.print(f"latency over gRPC and shared memory: p50 {s.p50_ms} ms, p99 {s.p99_ms} ms, {s.pictures} pictures")
    console.print(
        f"compiled code takes {s.tvm_over_onnxruntime} of ONNX Runtime's time; trained in {s.train_seconds} s, packaged in {s.package_seconds} s"
    )
    console.print(f"report: {output / 'report.html'}   component: {output / 'package'}")


def print_training(bundle: Bundle, output: Path) -> None:
    """What training found."""
    console = _console()
    training, evaluation = bundle.manifest.training, bundle.manifest.evaluation
    table = Table("branch", "ROC AUC alone", "weight", title="chosen by out-of-fold scores")
    for name, weight in training["branch_weights"].items():
        table.add_row(name, f"{training['branch_roc_auc'][name]:.3f}", f"{weight:.3f}" if weight else "dropped")
    console.print(table)
    for title, metrics in (("out of fold", training["out_of_fold"]), ("test", evaluation)):
        if metrics:
            console.print(
                f"{title}: F1 {metrics['f1']:.3f} (calling all anomalous: {metrics['f1_all_anomalous']:.3f}), precision "
                f"{metrics['precision']:.3f}, recall {metrics['recall']:.3f}, ROC AUC {metrics['roc_auc']:.3f}, "
                f"{metrics['pictures']} pictures"
            )
    for name, iou in evaluation.get("average_iou", {}).items():
        console.print(f"test: Average IoU of {name} {iou:.3f}")
    console.print(
        f"{training['pictures']} pictures, {training['seconds']} s; bundle: {output}; next: linewatch package {output} -o component"
    )


def print_package(done: "Package") -> None:
    """What packaging made and proved."""
    console = _console()
    table = Table("variant", "TVM p50 ms", "ONNX Runtime p50 ms", "ratio", "score differs by", "changed verdicts")
    for c in done.comparisons:
        table.add_row(
            c.variant, f"{c.tvm.p50_ms}", f"{c.onnxruntime.p50_ms}", f"{c.tvm_over_onnxruntime}",
            f"{c.score_difference:.1e} of its range", f"{c.changed_answers} of {c.pictures}",
        )  # fmt: skip
    console.print(table)
    for variant in done.skipped:
        console.print(f"{variant}: compiled, but this CPU cannot run it, so nothing is proven for it")
    console.print(
        f"component {done.component.name} {done.component.version}, {done.component.artifact_bytes / 1e6:.1f} MB, in {done.seconds} s"
    )
    console.print(f"recipe: {done.component.recipe}")
    console.print(f"artifact: {done.component.artifact}")
    console.print(f"next: linewatch agent --models {done.component.recipe.parent.parent}")
