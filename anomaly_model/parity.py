"""Whether a runtime gives the right answers: golden pictures, differences, limits, and the report that a package carries."""

from collections.abc import Sequence
from io import BytesIO

import msgspec
import numpy as np
import numpy.typing as npt

from linewatch.anomaly_model.bundle import Bundle
from linewatch.anomaly_model.detection import Detection, interpret
from linewatch.anomaly_model.errors import LinewatchError, NotFiniteError
from linewatch.anomaly_model.manifest import GOLDEN_NAME, Manifest
from linewatch.anomaly_model.picture import read_picture
from linewatch.anomaly_model.runtime import split_outputs

TOLERANCE = 1e-3
"""Largest allowed difference of an output, as a share of its range, and of masks, as a share of their pixels."""
Outputs = Sequence[npt.NDArray[np.float32]]


class ParityError(LinewatchError):
    """Compiled code does not give the answers that ONNX Runtime gives, or gives none."""


class DisparityError(ParityError):
    """It gives others."""


class Parity(msgspec.Struct, frozen=True, kw_only=True):
    """One variant against ONNX Runtime.

    Attributes:
        variant: library that ran.
        ran_on: `this machine`, or the emulator's name.
        pictures: how many were compared.
        score_difference, map_difference, labels_difference: largest difference, as a share of the output's range.
        mask_difference: largest share of a mask's pixels that differ.
        changed_answers: pictures whose verdict differs.
        resize_differences: values of resized pictures that differ from the reference; must be 0.
    """

    variant: str
    ran_on: str
    pictures: int
    score_difference: float
    map_difference: float
    labels_difference: float
    mask_difference: float
    changed_answers: int
    resize_differences: int

    def check(self) -> None:
        """Refuse code that does not agree.

        Raises:
            DisparityError: an output differs by more than is allowed, or a verdict is another one; the message says which
                and by how much.
        """
        differences = {"score": self.score_difference, "map": self.map_difference, "labels": self.labels_difference,
                       "mask": self.mask_difference}  # fmt: skip
        # `not <=` and not `>`: a NaN must not pass.
        wrong = [f"{name} differs by {value:.2g}" for name, value in differences.items() if not value <= TOLERANCE]
        if self.changed_answers:
            wrong.append(f"{self.changed_answers} of {self.pictures} pictures get another verdict")
        if self.resize_differences:
            wrong.append(f"{self.resize_differences} values of resized pictures differ")
        if wrong:
            raise DisparityError(
                f"{self.variant} ({self.ran_on}) does not give the right answers: {'; '.join(wrong)}; allowed is {TOLERANCE} of each "
                "output's range and no changed verdict"
            )


def compare(
    manifest: Manifest, variant: str, ran_on: str, found: Sequence[Outputs], references: Sequence[Sequence[Outputs]],
    resize_differences: int,
) -> Parity:  # fmt: skip
    """Compare a variant's outputs with one or more references.

    Args:
        manifest: the model's.
        variant: its name.
        ran_on: where it ran.
        found: outputs for each picture, flat or shaped.
        references: for each picture outputs that must agree, shaped: ONNX Runtime's here and now, and those stored at
            training. Both, as a broken reference must not excuse broken code.
        resize_differences: see `Parity`.

    Raises:
        ParityError: an output, or a reference, is not finite.
    """
    span = max(manifest.score_range.high - manifest.score_range.low, 1e-6)
    worst, mask_difference, changed = [0.0, 0.0, 0.0], 0.0, 0
    for n, (ours, theirs) in enumerate(zip(found, references, strict=True)):
        shaped = [a.reshape(b.shape) for a, b in zip(ours, theirs[0], strict=True)]
        mine = _answer(shaped, manifest, f"{variant} ({ran_on}) gives no answer to picture {n}")
        verdicts = {mine.is_anomalous}
        for other in theirs:
            expected = _answer(other, manifest, f"the reference for picture {n} is no answer, train the model again")
            for i, (a, b) in enumerate(zip(shaped, other, strict=True)):
                scale = (span, 1.0, max(float(np.ptp(b)), 1e-6))[i]
                worst[i] = float(np.maximum(worst[i], np.abs(a - b).max() / scale))
            verdicts.add(expected.is_anomalous)
            if mine.label_map is not None and expected.label_map is not None:
                mask_difference = max(mask_difference, float((mine.label_map != expected.label_map).mean()))
        changed += len(verdicts) > 1
    return Parity(
        variant=variant, ran_on=ran_on, pictures=len(found), score_difference=worst[0], map_difference=worst[1],
        labels_difference=worst[2], mask_difference=mask_difference, changed_answers=changed,
        resize_differences=resize_differences,
    )  # fmt: skip


def _answer(outputs: Outputs, manifest: Manifest, refused: str) -> Detection:
    try:
        return interpret(split_outputs(list(outputs)), manifest)
    except NotFiniteError as error:
        raise ParityError(f"{refused}: {error}") from error


def golden_inputs(bundle: Bundle) -> tuple[list[npt.NDArray[np.uint8]], list[list[npt.NDArray[np.float32]]]]:
    """The bundle's golden pictures (1 x H x W x 3) and their expected raw outputs."""
    inputs, expected = [], []
    with np.load(BytesIO(bundle.read(GOLDEN_NAME)), allow_pickle=False) as archive:
        count = len({name.split(".")[0] for name in archive.files})
        for n in range(count):
            inputs.append(read_picture(bundle.path(f"golden/{n}.png"))[np.newaxis])
            names = [f"{n}.{output}" for output in ("score", "map", "labels")]
            expected.append([archive[name] for name in names if name in archive.files])
    return inputs, expected
