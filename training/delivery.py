"""What is written beside a bundle: the evaluation files and the report."""

from pathlib import Path

from linewatch.anomaly_model.progress import ProgressCallback, no_progress
from linewatch.training.evaluation.results import write_results
from linewatch.training.report.write import write_report
from linewatch.training.suggestion.suggest import Suggestions, write_suggestions
from linewatch.training.train import Trained


def write_deliverables(
    folder: Path,
    trained: Trained,
    source: str,
    progress: ProgressCallback = no_progress,
    masks_at: str = "masks/",
    suggestions: Suggestions | None = None,
) -> tuple[Path, Path] | None:
    """Write report.html, where the model was evaluated EvaluationResult and EvaluationManifest, and suggestions.csv where there are some.

    Args:
        folder: where to write.
        trained: what to tell of.
        source: what the report calls the training data.
        progress: told of each picture.
        masks_at: how the EvaluationManifest calls the folder of the masks: where the files will lie in the end.
        suggestions: which pictures to label next; None when nobody asked.

    Returns:
        Paths of EvaluationResult and EvaluationManifest.
    """
    manifest, written = trained.bundle.manifest, None
    if trained.evaluation is not None:
        written = write_results(folder, manifest, trained.evaluation, trained.pictures, progress, masks_at)
    if suggestions is not None:
        write_suggestions(folder, suggestions)
    write_report(folder / "report.html", manifest, trained.evaluation, trained.choice, source, progress, suggestions)
    return written
