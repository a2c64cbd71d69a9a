"""From pictures without labels to a list of which to label first, and its file."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np

from linewatch.anomaly_model.bundle import Bundle
from linewatch.anomaly_model.detection import check_finite, probability
from linewatch.anomaly_model.errors import PictureError
from linewatch.anomaly_model.files import replace_file
from linewatch.anomaly_model.manifest import MODEL_NAME, InputSpec, Json
from linewatch.anomaly_model.picture import Rgb
from linewatch.anomaly_model.progress import ProgressCallback, no_progress
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.training.arrays import F32
from linewatch.training.data.dataset import Sample, read_sample
from linewatch.training.families.encoder import AUTO, load_encoder
from linewatch.training.families.extractor import BANK, Extractor
from linewatch.training.graph.color import write_color
from linewatch.training.graph.writer import GraphWriter
from linewatch.training.suggestion.ranking import rank
from linewatch.training.suggestion.reduction import reduce

FILE_NAME = "suggestions.csv"
COLUMNS = ("rank", "picture", "probability", "uncertainty", "distance", "reason")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""A cell that begins with one of them is a formula to spreadsheets."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One picture, and why to label it.

    Attributes:
        rank: 1 is the first to label.
        sample: the picture.
        probability: of an anomaly, 0 to 1, as the model is calibrated.
        uncertainty, distance, reason: see `Ranked`.
    """

    rank: int
    sample: Sample
    probability: float
    uncertainty: float
    distance: float
    reason: str

    def as_json(self) -> Json:
        """By the file's columns."""
        return {
            "rank": self.rank, "picture": self.sample.name, "probability": round(self.probability, 4),
            "uncertainty": round(self.uncertainty, 4), "distance": round(self.distance, 4), "reason": self.reason,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Suggestions:
    """Pictures in the order in which they should be labelled.

    Attributes:
        pictures: every picture that can be read, the first to label first.
        skipped: why each of the others was left out.
        described_by: whose numbers distances are measured in: the encoder's name, or `bank`.
    """

    pictures: tuple[Suggestion, ...]
    skipped: tuple[str, ...]
    described_by: str

    def as_json(self) -> Json:
        """For `--json`."""
        return {
            "described_by": self.described_by,
            "pictures": [s.as_json() for s in self.pictures],
            "skipped": list(self.skipped),
        }


def suggest(
    bundle: Bundle, unlabelled: Sequence[Sample], labelled: Sequence[Sample] = (), encoder: str = AUTO,
    progress: ProgressCallback = no_progress,
) -> Suggestions:  # fmt: skip
    """Order pictures by what a label would teach the next training; the rule is told in `linewatch.training.suggestion.ranking`.

    Pictures are read one at a time, and brought to the model's input from whatever size they have. While they are read memory holds at
    most 2 KB a picture, labelled or not; afterwards 64 numbers.

    Args:
        bundle: the model that is unsure, or not.
        unlabelled: the pictures.
        labelled: what it was trained on, from which new pictures should differ. Those that can no longer be read are left out.
        encoder: whose numbers describe a picture, see `load_encoder`; without one, the filter bank's.
        progress: told of each picture.

    Raises:
        EncoderError: the encoder was asked for by name, and is not there.
        BundleError: the model is not what the bundle says.
        NotFiniteError: the model answered with NaN or infinity.
    """
    found, _ = load_encoder(encoder)
    extractor = BANK if found is None else found.extractor()
    manifest = bundle.manifest
    model = OnnxRuntime(bundle.read(MODEL_NAME))
    describe = _Describer(extractor, manifest.input)
    statistics = np.empty((len(labelled) + len(unlabelled), describe.numbers), np.float32)
    count = 0
    for i, sample in enumerate(labelled):
        progress("looking at labelled pictures again", i, len(labelled))
        try:
            picture = read_sample(sample)
        except PictureError:  # training has told of it
            continue
        statistics[count] = describe(model.prepare(picture))
        count += 1
    number_labelled = count
    kept: list[tuple[Sample, float]] = []
    skipped: list[str] = []
    for i, sample in enumerate(unlabelled):
        progress("looking at unlabelled pictures", i, len(unlabelled))
        try:
            picture = read_sample(sample)
        except PictureError as error:
            skipped.append(str(error))
            continue
        model_input = model.prepare(picture)
        outputs = model.run(model_input)
        check_finite(outputs)
        kept.append((sample, probability(outputs.score, manifest.decision)))
        statistics[count] = describe(model_input)
        count += 1
    progress("looking at unlabelled pictures", len(unlabelled), len(unlabelled))
    features = reduce(statistics[:count]) if kept else np.zeros((count, 0), np.float32)
    ranked = rank(np.array([p for _, p in kept]), features[number_labelled:], features[:number_labelled], progress)
    return Suggestions(
        tuple(Suggestion(n + 1, *kept[r.index], r.uncertainty, r.distance, r.reason) for n, r in enumerate(ranked)),
        tuple(skipped), extractor.name,
    )  # fmt: skip


class _Describer:
    """The numbers that describe a picture as a whole.

    Attributes:
        numbers: how many.
    """

    def __init__(self, extractor: Extractor, spec: InputSpec) -> None:
        g = GraphWriter(spec.height, spec.width)
        self._runtime = OnnxRuntime(g.build([extractor.write(g, write_color(g)).statistics]), threads=2)
        self.numbers = self(np.zeros((1, spec.height, spec.width, 3), np.uint8)).size

    def __call__(self, model_input: Rgb) -> F32:
        """Of a picture at the model's input, 1 x H x W x 3."""
        return self._runtime.run_arrays(model_input)[0].reshape(-1)


def write_suggestions(folder: Path, suggestions: Suggestions) -> Path:
    """Write `suggestions.csv` into a folder, atomically; returns its path.

    UTF-8. Text is quoted; a name that a spreadsheet would take for a formula begins with an apostrophe.
    """
    lines = StringIO(newline="")
    rows = csv.writer(lines, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    rows.writerow(COLUMNS)
    for suggestion in suggestions.pictures:
        rows.writerow([_plain(value) for value in suggestion.as_json().values()])
    path = folder / FILE_NAME
    replace_file(path, lines.getvalue().encode())
    return path


def _plain(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
