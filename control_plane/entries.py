"""One line of a dataset: a JSON object in the form that SageMaker Ground Truth writes, with addresses that can be stored. Pure.

On output the value of a label is 1 for an anomaly and 0 for a normal picture. Keys that are not ours are kept.
"""

import re
import unicodedata
from dataclasses import dataclass

import msgspec

from linewatch.anomaly_model.errors import LinewatchError
from linewatch.anomaly_model.ground_truth import GroundTruthError, decode_line, parse_date, read_line, require_complete
from linewatch.control_plane.limits import ENTRY_CHARS, KEY_BYTES, NAME_BYTES
from linewatch.control_plane.objects import InvalidNameError, split_address

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


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
        line = read_line(decode_line(raw))
        _check_address(line.source, "source-ref")
        require_complete(line)
    except GroundTruthError as error:
        raise EntryError(str(error)) from None
    for mask in line.masks:
        _check_address(mask.address, mask.attribute)
    classes = {label.attribute: label.is_anomaly for label in line.labels if label.is_anomaly is not None}
    text = msgspec.json.encode({**line.content, **{name: int(value) for name, value in classes.items()}}).decode()
    if len(text) > ENTRY_CHARS:
        raise EntryError(f"has {len(text)} characters; at most {ENTRY_CHARS} are allowed")
    anomaly_class = None if not classes else "anomaly" if any(classes.values()) else "normal"
    dates = (parse_date(label.metadata.get("creation-date")) for label in line.labels)
    created = next((date for date in dates if date is not None), None)
    return Entry(line.source, text, anomaly_class, tuple(mask.address for mask in line.masks), created)


def _check_address(address: str, attribute: str) -> None:
    """Refuse what no store and no file system could hold, so that it is not found out by a training.

    Raises:
        EntryError: the address is not s3://BUCKET/KEY, or its bucket or key could not be stored or would be a folder.
    """
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
        if part in (".", "..") or len(part.encode()) > NAME_BYTES:
            raise EntryError(f"{shown}, which cannot be a file: parts of a key are not '.' or '..', and have at most {NAME_BYTES} bytes")
    if key.endswith("/"):
        raise EntryError(f"{shown}, which ends in a slash and so is a folder; expected a picture")
