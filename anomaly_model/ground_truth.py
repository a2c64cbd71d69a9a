"""One line of a manifest as SageMaker Ground Truth writes it: a JSON object that names a picture, its class and its masks. Pure.

    {"source-ref": "s3://BUCKET/KEY", "LABEL": 1, "LABEL-metadata": {"type": "groundtruth/image-classification", "class-name": "anomaly",
     "human-annotated": "yes", ...}, "MASK-ref": "s3://...", "MASK-ref-metadata": {"type": "groundtruth/semantic-segmentation",
     "internal-color-map": {"1": {"class-name": "scratch", "hex-color": "#D62728"}}, ...}}

The class comes from `class-name`, never from the label's value: published files hold 0 and 1 both ways round. Colours go by
name, never by index: a published set numbers its only anomaly type "0" and lists no background.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from linewatch.anomaly_model.errors import LinewatchError

SOURCE = "source-ref"
CLASSIFICATION = "groundtruth/image-classification"
SEGMENTATION = "groundtruth/semantic-segmentation"
BACKGROUND = "background"
_METADATA = "-metadata"
_CLASSES = {"anomaly": True, "normal": False}
_COLOR = re.compile(r"#[0-9A-Fa-f]{6}")
_JAVASCRIPT_DATE = re.compile(r"\w{3} (\w{3} \d{2} \d{4} \d{2}:\d{2}:\d{2}) GMT([+-]\d{4})")


class GroundTruthError(LinewatchError):
    """A line is not one of Ground Truth's. The message goes on where the line was named: "has no source-ref ..."."""


@dataclass(frozen=True, slots=True)
class ClassLabel:
    """A label of the picture's class.

    Attributes:
        attribute: its name in the line.
        class_name: in lower case; None where there is none.
        metadata: of the label, as it was read.
    """

    attribute: str
    class_name: str | None
    metadata: dict[str, Any]

    @property
    def is_anomaly(self) -> bool | None:
        """Whether the picture is anomalous; None for a class that is neither normal nor anomaly."""
        return _CLASSES.get(self.class_name or "")


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask of the picture.

    Attributes:
        attribute: its name in the line; ends in -ref.
        address: of the file.
        colors: colour ("#RRGGBB", upper case) to the name of its label, without the background.
        metadata: of the mask, as it was read.
    """

    attribute: str
    address: str
    colors: dict[str, str]
    metadata: dict[str, Any]


@dataclass(frozen=True, slots=True)
class GroundTruthLine:
    """A line.

    Attributes:
        source: address of the picture.
        labels: of its class, in the line's order.
        masks: likewise.
        content: the JSON object, with the keys that are not ours.
    """

    source: str
    labels: tuple[ClassLabel, ...]
    masks: tuple[Mask, ...]
    content: dict[str, Any]


def decode_line(raw: bytes) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
        GroundTruthError: it is something else.
    """
    try:
        return msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise GroundTruthError(f"is not a JSON object: {error}") from None


def read_line(content: dict[str, Any]) -> GroundTruthLine:
    """Read what a line says of its picture, as far as training needs it; `require_complete` asks for the rest.

    Raises:
        GroundTruthError: no picture; a mask without address or with a malformed colour map.
    """
    source = content.get(SOURCE)
    if not isinstance(source, str) or not source:
        raise GroundTruthError(f"has no {SOURCE}; each line names its picture there, such as s3://BUCKET/KEY")
    labels: list[ClassLabel] = []
    masks: list[Mask] = []
    for key, about in content.items():
        if not key.endswith(_METADATA) or not isinstance(about, dict):
            continue
        kind, attribute = about.get("type"), key.removesuffix(_METADATA)
        if kind == CLASSIFICATION:
            name = about.get("class-name")
            labels.append(ClassLabel(attribute, (name.strip().lower() or None) if isinstance(name, str) else None, about))
        elif kind == SEGMENTATION and attribute.endswith("-ref"):
            address = content.get(attribute)
            if not isinstance(address, str):
                raise GroundTruthError(f"has {key} but no {attribute} with the mask's address")
            masks.append(Mask(attribute, address, _read_colors(about.get("internal-color-map"), key), about))
    return GroundTruthLine(source, tuple(labels), tuple(masks), content)


def _read_colors(value: object, key: str) -> dict[str, str]:
    if not isinstance(value, dict) or not value:
        raise GroundTruthError(f"has no internal-color-map in {key}")
    colors = {}
    for index, entry in value.items():
        where = f"entry {index!r} of the internal-color-map in {key}"
        if not isinstance(entry, dict):
            raise GroundTruthError(f"has an {where} that is not an object")
        name = entry.get("class-name")
        if not isinstance(name, str) or not name.strip():
            raise GroundTruthError(f"has no class-name in {where}")
        color = parse_color(entry.get("hex-color"))
        if color is None:
            raise GroundTruthError(f"has the hex-color {entry.get('hex-color')!r:.80} in {where}; expected the form #RRGGBB")
        if name.strip().lower() != BACKGROUND:
            colors[color] = name.strip()
    return colors


def require_complete(line: GroundTruthLine) -> None:
    """Refuse a line without what the cloud service's API asked for, though a picture can be trained on without it.

    Raises:
        GroundTruthError: a label without type, value or class name; human-annotated is neither yes nor no; two classes.
    """
    for key, about in line.content.items():
        if key.endswith(_METADATA) and isinstance(about, dict) and "class-name" in about and "type" not in about:
            raise GroundTruthError(f"has {key} without type; expected {CLASSIFICATION}")
    for label in line.labels:
        key = f"{label.attribute}{_METADATA}"
        if line.content.get(label.attribute) is None:
            raise GroundTruthError(f"has {key} but no {label.attribute}: a label has a value, though it is ignored")
        if label.class_name is None:
            raise GroundTruthError(f"has {key} without class-name")
    parts: tuple[ClassLabel | Mask, ...] = (*line.labels, *line.masks)
    for part in parts:
        stated = part.metadata.get("human-annotated")
        if stated not in ("yes", "no"):
            raise GroundTruthError(f"has {part.attribute}{_METADATA} whose human-annotated is {stated!r}; expected yes or no")
    if len({label.is_anomaly for label in line.labels} - {None}) > 1:
        raise GroundTruthError("has two labels that contradict each other")


def parse_color(value: object) -> str | None:
    """A colour as "#RRGGBB" in upper case; None for anything else."""
    text = value.strip() if isinstance(value, str) else ""
    return text.upper() if _COLOR.fullmatch(text) else None


def parse_date(value: object) -> float | None:
    """Epoch seconds of a creation date; None when it cannot be read, which is no error.

    Ground Truth writes ISO 8601 with and without fraction and zone; published masks have JavaScript's
    `Mon Aug 22 2022 13:52:52 GMT-0700 (Pacific Daylight Time)`.
    """
    if not isinstance(value, str):
        return None
    try:
        match = _JAVASCRIPT_DATE.match(value)
        if match:
            return datetime.strptime(f"{match[1]} {match[2]}", "%b %d %Y %H:%M:%S %z").timestamp()
        when = datetime.fromisoformat(value.strip())
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
