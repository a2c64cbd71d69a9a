"""Labelled pictures as they were read: a dataset and its samples."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from linewatch.anomaly_model.manifest import Label, PictureSize
from linewatch.anomaly_model.picture import Rgb, read_picture


@dataclass(frozen=True, slots=True)
class Sample:
    """One picture of a dataset.

    Attributes:
        name: how reports call it: the path as the dataset gives it.
        path: where the file lies.
        is_anomaly: its class; None when it is unlabelled (ignored in training).
        mask: where its mask lies; None without one.
        colors: colour in the mask ("#RRGGBB", upper case) to label name; empty: any visible, non-black pixel is
            the only label.
        group: pictures of the same part share it and are never divided between training and test.
        line: the manifest's line, as it was read; None for folders.
        number: of that line, as its user counts; None for folders, and for a copy of which nobody knows the lines.
        size: of the picture; None until it was surveyed.
        defect_width: of the mask, see `masks.defect_width`; None without one, without a defect in it, and until it was surveyed.
    """

    name: str
    path: Path
    is_anomaly: bool | None
    mask: Path | None = None
    colors: dict[str, str] = field(default_factory=dict)
    group: str | None = None
    line: dict[str, Any] | None = None
    number: int | None = None
    size: PictureSize | None = None
    defect_width: float | None = None

    @property
    def display_name(self) -> str:
        """How messages call it."""
        return self.name if self.number is None else f"{self.name} (line {self.number})"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset as it was read.

    Attributes:
        samples: labelled pictures only.
        labels: anomaly types with their colours; empty when there are no masks (a classification set).
        unlabelled: how many pictures had no label and were left out.
        source: what was read, as messages and reports call it.
        skipped: pictures that could not be read and were left out, as messages call them.
    """

    samples: tuple[Sample, ...]
    labels: tuple[Label, ...]
    unlabelled: int
    source: str
    skipped: tuple[str, ...] = ()

    @property
    def normals(self) -> int:
        """Number of normal pictures."""
        return sum(s.is_anomaly is False for s in self.samples)

    @property
    def anomalies(self) -> int:
        """Number of anomalous pictures."""
        return sum(s.is_anomaly is True for s in self.samples)


def read_sample(sample: Sample) -> Rgb:
    """Read a sample's picture.

    Raises:
        PictureError: it cannot be read.
    """
    return read_picture(sample.path, sample.display_name)
