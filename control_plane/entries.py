"""One line of a dataset: a JSON object in the form that SageMaker Ground Truth writes. Pure.

The class comes from `class-name`, never from the label's value: published files hold 0 and 1 both ways round. On output
the value is 1 for an anomaly and 0 for a normal picture. Keys that are not ours are kept.
"""

import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.control_plane.objects import InvalidNameError, split_address

LINE_CHARS = 8192
"""The service model's bound on an entry."""
KEY_BYTES = 1024
"""S3's bound on a key."""
PART_BYTES = 255
"""What a file system allows between two slashes: training has its pictures as files."""
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
CLASSIFICATION = "groundtruth/image-classification"
SEGMENTATION = "groundtruth/semantic-segmentation"
_JAVASCRIPT_DATE = re.compile(r"\w{3} (\w{3} \d{2} \d{4} \d{2}:\d{2}:\d{2}) GMT([+-]\d{4})")


class EntryError(LinewatchError):
    """A line cannot be an entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a dataset.

    Attributes:
        source_ref: address of the picture, s3://BUCKET/KEY; two entries of a dataset never share it.
        line: JSON text.
        anomaly_class: normal, anomaly, or None for an unlabelled picture.
        masks: addresses of its masks.
        created: epoch seconds of the label's creation-date; None where there is none that can be read.
    """

    source_ref: str
    line: str
    anomaly_class: str | None
    masks: tuple[str, ...]
    created: float | None

    @property
    def has_mask(self) -> bool:
        """Names a mask."""
        return bool(self.masks)

    @property
    def read_in_training(self) -> tuple[str, ...]:
        """Addresses of what a training reads: masks of anomalous pictures only, as published sets have dummy ones for normal pictures."""
        if self.anomaly_class is None:
            return ()
        return (self.source_ref, *(self.masks if self.anomaly_class == "anomaly" else ()))

    @property
    def bucket(self) -> str:
        """Bucket of the picture."""
        return split_address(self.source_ref)[0]


def parse_entry(raw: bytes) -> Entry:
    """Read a line.

    Raises:
        EntryError: what is wrong with it.
    """
    try:
        line = msgspec.json.decode(raw, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise EntryError(f"is not a JSON object: {error}") from None
    source = line.get("source-ref")
    if not isinstance(source, str):
        raise EntryError("has no source-ref with the picture's address, s3://BUCKET/KEY")
    _check_address(source, "source-ref")
    anomaly_class, created = _classify(line)
    masks = _read_masks(line)
    text = msgspec.json.encode(line).decode()
    if len(text) > LINE_CHARS:
        raise EntryError(f"has {len(text)} characters; at most {LINE_CHARS} are allowed")
    return Entry(source, text, anomaly_class, masks, created)


def _check_address(address: str, attribute: str) -> None:
    """Refuse what no store and no file system could hold, so that it is not found out by a training."""
    shown = f"has the {attribute} {address[:200]!r}"
    try:
        bucket, key = split_address(address)
    except InvalidNameError as error:
        raise EntryError(f"has the {attribute} {error}") from None
    if not _BUCKET.fullmatch(bucket):
        raise EntryError(f"{shown}, whose bucket has characters that no bucket's name has, or over 63")
    control = next((c for c in key if unicodedata.category(c) in ("Cc", "Cs")), None)
    if control is not None:
        raise EntryError(f"{shown}, with the character U+{ord(control):04X} in its key; control characters are not allowed")
    if len(key.encode()) > KEY_BYTES:
        raise EntryError(f"{shown}..., whose key has {len(key.encode())} bytes; at most {KEY_BYTES} are allowed")
    for part in key.split("/"):
        if part in (".", "..") or len(part.encode()) > PART_BYTES:
            raise EntryError(f"{shown}, which cannot be a file: parts of a key are not '.' or '..', and have at most {PART_BYTES} bytes")
    if key.endswith("/"):
        raise EntryError(f"{shown}, which ends in a slash and so is a folder; expected a picture")


def _classify(line: dict[str, Any]) -> tuple[str | None, float | None]:
    """The picture's class and the label's date; sets the label's value."""
    found: str | None = None
    created: float | None = None
    for key, about in list(line.items()):
        if not key.endswith("-metadata") or not isinstance(about, dict):
            continue
        if "class-name" in about and "type" not in about:
            raise EntryError(f"has {key} without type; expected {CLASSIFICATION}")
        if about.get("type") != CLASSIFICATION:
            continue
        label = key.removesuffix("-metadata")
        if line.get(label) is None:
            raise EntryError(f"has {key} but no {label}: a label has a value, though it is ignored")
        name = _required(about, key, "class-name").strip().lower()
        _check_annotated(about, key)
        created = parse_date(about.get("creation-date")) if created is None else created
        if name in ("normal", "anomaly"):
            if found not in (None, name):
                raise EntryError("has two labels that contradict each other")
            found = name
            line[label] = int(name == "anomaly")
    return found, created


def _read_masks(line: dict[str, Any]) -> tuple[str, ...]:
    """Addresses of the masks, whose colour maps are in order."""
    masks = []
    for key, about in line.items():
        if not key.endswith("-ref-metadata") or not isinstance(about, dict) or about.get("type") != SEGMENTATION:
            continue
        address, colors = line.get(key.removesuffix("-metadata")), about.get("internal-color-map")
        if not isinstance(address, str):
            raise EntryError(f"has {key} but no {key.removesuffix('-metadata')} with the mask's address")
        _check_address(address, key.removesuffix("-metadata"))
        _check_annotated(about, key)
        if not isinstance(colors, dict) or not colors:
            raise EntryError(f"has {key} without an internal-color-map")
        for index, color in colors.items():
            if not isinstance(color, dict):
                raise EntryError(f"has {key} whose internal-color-map entry {index!r} is not an object")
            _required(color, f"{key}, internal-color-map entry {index!r},", "class-name")
            if not re.fullmatch(r"\s*#[0-9A-Fa-f]{6}\s*", _required(color, f"{key}, entry {index!r},", "hex-color")):
                raise EntryError(f"has {key} whose entry {index!r} has a hex-color that is not of the form #RRGGBB")
        masks.append(address)
    return tuple(masks)


def _required(about: dict[str, Any], where: str, name: str) -> str:
    value = about.get(name)
    if not isinstance(value, str) or not value.strip():
        raise EntryError(f"has {where} without {name}")
    return value


def _check_annotated(about: dict[str, Any], key: str) -> None:
    if about.get("human-annotated") not in ("yes", "no"):
        raise EntryError(f"has {key} whose human-annotated is {about.get('human-annotated')!r}; expected yes or no")


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
