"""Where results lie in a bucket: the names below the prefix that a call gives. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Keys of what a training writes.

    Attributes:
        manifest: a line for each test picture.
        result: metrics.
        report: for people.
        masks: prefix of the predicted masks.
    """

    manifest: str
    result: str
    report: str
    masks: str

    @property
    def files(self) -> tuple[str, ...]:
        """All but the masks."""
        return self.manifest, self.result, self.report


def evaluation(prefix: str, project: str, version: int | str) -> Evaluation:
    """Keys of a model's evaluation. The prefix is put before the names as it is."""
    name = f"{project}-{version}"
    return Evaluation(
        f"{prefix}EvaluationManifest-{name}.json", f"{prefix}EvaluationResult-{name}.json", f"{prefix}EvaluationReport-{name}.html",
        f"{prefix}EvaluationMasks-{name}/",
    )  # fmt: skip


def component(prefix: str, name: str, version: str) -> str:
    """Prefix of what a packaging writes."""
    return f"{prefix}{name}/{version}/"
