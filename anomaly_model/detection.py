"""From a graph's raw outputs to an answer. The only postprocessing code: gRPC, command line and reports all use it."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from linewatch.anomaly_model.errors import NotFiniteError
from linewatch.anomaly_model.manifest import Decision, Label, Manifest
from linewatch.anomaly_model.picture import Rgb
from linewatch.anomaly_model.runtime import ModelOutputs, Runtime

BACKGROUND = Label(name="background", hex_color="#FFFFFF")


@dataclass(frozen=True, slots=True)
class LabelArea:
    """A label, its mask colour, and its share of the picture's pixels (0 to 1)."""

    name: str
    hex_color: str
    area: float


@dataclass(frozen=True, slots=True)
class Detection:
    """The answer for one picture.

    Attributes:
        is_anomalous: score > threshold.
        confidence: calibrated probability that `is_anomalous` is right, 0.5 to 1.
        score: the graph's raw score (a log-odds, unbounded); larger is more anomalous.
        threshold: on the same scale.
        areas: background first, then each label that was found, in the model's order. Empty for classification models.
        label_map: h x w uint8, 0 background, i + 1 the model's label i, at the graph's own resolution.
            None for classification models.
        anomaly_map: h x w float32, 0 to 1, where the graph saw something unusual, at the graph's own resolution.
    """

    is_anomalous: bool
    confidence: float
    score: float
    threshold: float
    areas: tuple[LabelArea, ...]
    label_map: npt.NDArray[np.uint8] | None
    anomaly_map: npt.NDArray[np.float32]


def probability(score: float, decision: Decision) -> float:
    """How probable an anomaly is, by the formula of `Decision`, computed without overflow: 0.5 or more above the threshold, 0.5 or less up to it."""
    z = decision.slope * (score - (decision.threshold if decision.midpoint is None else decision.midpoint))
    share = 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))
    p = decision.floor + (decision.ceiling - decision.floor) * share
    return max(p, 0.5) if score > decision.threshold else min(p, 0.5)


def check_finite(outputs: ModelOutputs) -> None:
    """Refuse what no verdict can be made of: every comparison with NaN says "normal".

    Raises:
        NotFiniteError: names the output, and how much of it is NaN or infinite.
    """
    for name, values in (("score", outputs.score), ("anomaly map", outputs.anomaly_map), ("labels", outputs.label_logits)):
        if values is not None and not np.isfinite(values).all():
            array = np.asarray(values)
            wrong = int(np.count_nonzero(~np.isfinite(array)))
            raise NotFiniteError(
                f"the model's {name} is {array.item()}; expected a finite number" if array.ndim == 0 else
                f"{wrong} of {array.size} values of the model's {name} are NaN or infinite; expected finite numbers"
            )  # fmt: skip


def interpret(outputs: ModelOutputs, manifest: Manifest, size: tuple[int, int] | None = None) -> Detection:
    """Turn raw outputs into an answer.

    Args:
        outputs: of the graph; a label map among them may be written to.
        manifest: of the model.
        size: height and width of the picture whose pixels the areas are shares of; None counts those of the label map.

    Raises:
        NotFiniteError: see `check_finite`.
    """
    check_finite(outputs)
    score = outputs.score
    p = probability(score, manifest.decision)
    label_map = None
    areas: tuple[LabelArea, ...] = ()
    if outputs.label_logits is not None:
        label_map = strongest_label(outputs.label_logits) if outputs.label_map is None else outputs.label_map
        shares = _label_shares(label_map, manifest.labels, *(size or label_map.shape))
        areas = tuple(
            LabelArea(label.name, label.hex_color, share)
            for i, (label, share) in enumerate(zip([BACKGROUND, *manifest.labels], shares, strict=True))
            if i == 0 or share > 0
        )
    anomalous = score > manifest.decision.threshold
    return Detection(anomalous, p if anomalous else 1 - p, score, manifest.decision.threshold, areas, label_map, outputs.anomaly_map)


def _label_shares(label_map: npt.NDArray[np.uint8], labels: list[Label], height: int, width: int) -> list[float]:
    """Shares of the mask of a height x width picture: the background's, and each label's.

    Labels below their minimum area are wiped from the map.
    """
    busy = label_map.any(axis=1)  # a few rows of most pictures
    part = label_map[busy]
    rows, columns = _repeats(label_map.shape[0], height)[busy], _repeats(label_map.shape[1], width)
    counts = []
    for i, label in enumerate(labels):
        found = part == i + 1
        count = int(np.count_nonzero(found))
        if 0 < count < label.minimum_area * label_map.size:
            label_map[label_map == i + 1] = 0
            count = 0
        counts.append(int(rows @ (found @ columns)) if count else 0)
    total = height * width
    return [(total - sum(counts)) / total, *(count / total for count in counts)]


def detect(picture: Rgb, runtime: Runtime, manifest: Manifest) -> Detection:
    """Predict for one picture: preprocess, run, interpret."""
    return interpret(runtime.run(runtime.prepare(picture)), manifest, picture.shape[:2])


def palette(labels: list[Label]) -> Rgb:
    """(labels + 1) x 3: white for the background, then each label's colour."""
    return _colors(tuple(label.hex_color for label in (BACKGROUND, *labels)))


@lru_cache(maxsize=32)
def _colors(codes: tuple[str, ...]) -> Rgb:
    colors = np.array([list(bytes.fromhex(code[1:])) for code in codes], np.uint8)
    colors.flags.writeable = False
    return colors


@lru_cache(maxsize=32)
def _nearest(size_in: int, size_out: int) -> npt.NDArray[np.intp]:
    """For each output position the input position that it shows. Cached: cameras send one size."""
    positions = (np.arange(size_out) * size_in) // size_out
    positions.flags.writeable = False
    return positions


@lru_cache(maxsize=32)
def _repeats(size_in: int, size_out: int) -> npt.NDArray[np.float64]:
    """For each input position how many output positions show it."""
    counts = np.bincount(_nearest(size_in, size_out), minlength=size_in).astype(np.float64)
    counts.flags.writeable = False
    return counts


@lru_cache(maxsize=32)
def _nearest_rgb(size_in: int, size_out: int) -> npt.NDArray[np.intp]:
    """`_nearest` for the bytes of RGB rows."""
    positions = (_nearest(size_in, size_out)[:, np.newaxis] * 3 + np.arange(3)).ravel()
    positions.flags.writeable = False
    return positions


@dataclass(frozen=True, slots=True)
class MaskRows:
    """A mask as its distinct rows: a few hundred at most, mostly white. Whoever writes it copies rows; the large picture is not built.

    Attributes:
        parts: n x some bytes, uint8, RGB: what the rows with something on them have between two columns; besides they are white.
        left: bytes from the start of a row to these parts.
        index: for each of the mask's rows which one it is: 0 is white, i + 1 has part i.
    """

    parts: npt.NDArray[np.uint8]
    left: int
    index: npt.NDArray[np.intp]


def mask_rows(label_map: npt.NDArray[np.uint8], labels: list[Label], height: int, width: int, room: memoryview | None = None) -> MaskRows:
    """The mask of a height x width picture, nearest neighbour. The parts lie at the start of `room` where that is given.

    Args:
        label_map: h x w uint8, 0 background, i + 1 the i-th label.
        labels: of the model, with the colours.
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        room: memory for the parts; None takes new memory.
    """
    h, w = label_map.shape
    busy = np.flatnonzero(label_map.any(axis=1))
    slot = np.zeros(h, np.intp)
    slot[busy] = np.arange(1, len(busy) + 1)
    index = slot[_nearest(h, height)]
    if not len(busy):
        return MaskRows(np.empty((0, 0), np.uint8), 0, index)
    # Coloured while small, then expanded byte by byte, which is four times faster than expanding pixels; and only from the
    # first column with something on it to the last.
    columns = np.flatnonzero(label_map.any(axis=0))
    left, right = int(columns[0]), int(columns[-1]) + 1
    first, last = (np.searchsorted(_nearest(w, width), [left, right]) * 3).tolist()
    colored = palette(labels)[label_map[busy, left:right]].reshape(len(busy), (right - left) * 3)
    shape = (len(busy), last - first)
    parts = np.empty(shape, np.uint8) if room is None else np.frombuffer(room, np.uint8, shape[0] * shape[1]).reshape(shape)
    np.take(colored, _nearest_rgb(w, width)[first:last] - left * 3, axis=1, out=parts, mode="clip")
    return MaskRows(parts, first, index)


def draw_mask(label_map: npt.NDArray[np.uint8], labels: list[Label], height: int, width: int) -> Rgb:
    """The mask as a picture, height x width x 3.

    Args:
        label_map: h x w uint8, 0 background, i + 1 the i-th label.
        labels: of the model, with the colours.
        height: of the picture, in pixels.
        width: of the picture, in pixels.
    """
    mask = mask_rows(label_map, labels, height, width)
    distinct = np.full((len(mask.parts) + 1, width * 3), 255, np.uint8)
    distinct[1:, mask.left : mask.left + mask.parts.shape[1]] = mask.parts
    return distinct[mask.index].reshape(height, width, 3)


def strongest_label(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Argmax over the first axis; numpy's own is several times slower over a short, far-strided axis."""
    best, label_map = logits[0], np.zeros(logits.shape[1:], np.uint8)
    for k in range(1, len(logits)):
        np.copyto(label_map, k, where=logits[k] > best)
        best = np.maximum(best, logits[k])
    return label_map
