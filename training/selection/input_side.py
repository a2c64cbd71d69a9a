"""The size of the model's input for this data: as large as thin defects ask for, as far as the budget goes."""

from dataclasses import dataclass

from linewatch.anomaly_model.manifest import InputSpec, PictureSize
from linewatch.training.data.dataset import Dataset
from linewatch.training.data.input_size import DEFAULT_SIDE, choose_input, choose_side
from linewatch.training.data.survey import count_sizes
from linewatch.training.families.encoder import Encoder
from linewatch.training.graph.color import write_color
from linewatch.training.graph.cost import cost_model
from linewatch.training.graph.outputs import FittedFamily
from linewatch.training.graph.writer import GraphWriter
from linewatch.training.options import TrainingOptions

SIDE_STEP = 64


@dataclass(frozen=True, slots=True)
class InputSide:
    """The shorter side of the model's input.

    Attributes:
        pixels: how long it is.
        defect_width: of thin defects, in pixels of the model's input; None without masks.
        reason: for people.
    """

    pixels: int
    defect_width: float | None
    reason: str


def choose_input_side(dataset: Dataset, options: TrainingOptions, encoder: Encoder | None = None) -> InputSide:
    """The side that the user wants, or else the one that a surveyed dataset asks for and the budget allows."""
    wanted, width = choose_side(dataset)
    [(picture, _)] = count_sizes(dataset).most_common(1)
    side = options.side or wanted
    if options.side is None and wanted > DEFAULT_SIDE:
        side = affordable_side(picture, wanted, len(dataset.labels), options, encoder)
    at_input = None if width is None else width * choose_input(picture, side).height / picture.height
    return InputSide(side, at_input, _reason(options, side, wanted, at_input))


def _reason(options: TrainingOptions, side: int, wanted: int, defect_width: float | None) -> str:
    if options.side:
        return "as asked for"
    if defect_width is None:
        return f"{DEFAULT_SIDE}, as there are no masks to measure"
    lowered = f"; {wanted} would show more, but a net costs more than {options.budget.ms:g} ms there" if side < wanted else ""
    return f"thin defects are {defect_width:.1f} pixels wide there{lowered}"


def affordable_side(
    picture: PictureSize, side: int, labels: int, options: TrainingOptions, encoder: Encoder | None = None
) -> int:
    """The largest side up to `side` at which the segmentation net (without an encoder: the U-Net) alone keeps within the budget; at least 256.

    Args:
        picture: size of most of the pictures.
        side: the shorter side that is wanted, in pixels.
        labels: how many there are.
        options: what the user chose.
        encoder: pretrained; None without one.
    """
    from linewatch.training.families.segmentation import placeholder as segmentation_placeholder
    from linewatch.training.families.unet import placeholder as unet_placeholder

    fitted: FittedFamily = unet_placeholder(max(1, labels) + 1) if encoder is None else segmentation_placeholder(encoder, labels)
    while side > DEFAULT_SIDE:
        spec = choose_input(picture, side)
        if _milliseconds(spec, fitted) <= options.budget.ms:
            break
        side = max(DEFAULT_SIDE, side - SIDE_STEP)
    return side


def _milliseconds(spec: InputSpec, fitted: FittedFamily) -> float:
    g = GraphWriter(spec.height, spec.width)
    written = fitted.write(g, write_color(g))
    assert written.segmentation is not None
    labels_at_input = g.upsample(written.segmentation.logits, written.segmentation.stride)
    return cost_model().milliseconds(g.build([*written.score_values, labels_at_input]))
