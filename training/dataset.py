"""Reading labelled pictures: a folder, or a manifest of JSON Lines as Ground Truth and the cloud service wrote them.

A folder holds `normal/` and `anomaly/`, and where defects are drawn `masks/` with a PNG of each anomaly's name.
`labels.json` ({"scratch": "#D62728", ...}) names the colours in masks; without it, masks are black with a defect that
is not black, and the only label is `anomaly`.
"""

import csv
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from linewatch.anomaly_model.errors import DatasetError, Remedy, shorten
from linewatch.anomaly_model.ground_truth import GroundTruthError, decode_line, parse_color, read_line
from linewatch.anomaly_model.limits import LIMITS
from linewatch.anomaly_model.manifest import Label, PictureSize
from linewatch.anomaly_model.picture import Rgb, read_picture

_PNG = b"\x89PNG\r\n\x1a\n"
PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg"}
DEFAULT_LABEL = Label(name="anomaly", hex_color="#23A436")


class UnreadableMaskError(DatasetError):
    """A mask is missing, damaged, or no PNG."""


class _MissingError(DatasetError):
    """A line names a file that is not there."""


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

    @property
    def called(self) -> str:
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


def read_dataset(path: Path, root: Path | None = None, *, called: str = "", leave_out: bool = False) -> Dataset:
    """Read a folder or a manifest.

    Args:
        path: a folder with `normal/` and `anomaly/`, or a manifest file.
        root: where the pictures of a manifest lie; s3://BUCKET/KEY is looked for as KEY and BUCKET/KEY below it.
            By default the manifest's own folder and the one above it.
        called: how messages call a manifest that is a copy: its path and lines tell its user nothing. Empty: by its path.
        leave_out: leave lines out whose picture or mask is not there.

    Raises:
        DatasetError: what was found is not a dataset; the message names file, line and reason.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.is_file():
        return _read_manifest(path, [root] if root else [path.parent, path.parent.parent], called, leave_out)
    raise DatasetError(f"{path} does not exist. Expected a folder with normal/ and anomaly/, or a manifest file")


def read_groups(path: Path, dataset: Dataset) -> Dataset:
    """Give a dataset's pictures the groups of a CSV file with the columns picture and group.

    A picture is named as the dataset names it, or by its file name where that is the only one of its kind.

    Raises:
        DatasetError: the file has other columns, or names none of the pictures.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            if not {"picture", "group"} <= set(rows.fieldnames or ()):
                raise DatasetError(f"{path} has the columns {str(rows.fieldnames)[:200]}; expected picture and group")
            groups = {str(row["picture"]): str(row["group"]) for row in rows}
    except (UnicodeDecodeError, csv.Error) as error:
        raise DatasetError(f"{path} is not a CSV file in UTF-8: {error}") from None
    samples = []
    left = set(groups)
    for sample in dataset.samples:
        name = sample.name if sample.name in groups else Path(sample.name).name
        left.discard(name)
        samples.append(dataclasses.replace(sample, group=groups.get(name)))
    if len(left) == len(groups):
        raise DatasetError(f"{path} names none of the pictures of {dataset.source}, such as {sorted(left)[:1]}")
    return dataclasses.replace(dataset, samples=tuple(samples))


def list_pictures(folder: Path) -> list[Path]:
    """PNG and JPEG files directly in a folder, by name; none when there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and not p.name.startswith("."))


def _read_folder(folder: Path) -> Dataset:
    normal, anomaly = list_pictures(folder / "normal"), list_pictures(folder / "anomaly")
    if not normal and not anomaly:
        raise DatasetError(
            f"{folder} has no pictures in normal/ or anomaly/ (PNG or JPEG). Put good parts into normal/, bad ones into "
            "anomaly/, or give a manifest file"
        )
    masks = {p.stem: p for p in list_pictures(folder / "masks")}
    labels: tuple[Label, ...] = ()
    colors: dict[str, str] = {}
    if masks:
        labels, colors = _read_label_file(folder / "labels.json")
        unmatched = sorted(set(masks) - {p.stem for p in anomaly})
        if unmatched:
            raise DatasetError(
                f"masks/{masks[unmatched[0]].name} in {folder} has no picture of that name in anomaly/ "
                f"({len(unmatched)} such masks)"
            )
    samples = [Sample(p.relative_to(folder).as_posix(), p, False) for p in normal]
    samples += [Sample(p.relative_to(folder).as_posix(), p, True, masks.get(p.stem), colors) for p in anomaly]
    return Dataset(tuple(samples), labels, len(list_pictures(folder)), str(folder))


def _read_label_file(path: Path) -> tuple[tuple[Label, ...], dict[str, str]]:
    if not path.is_file():
        return (DEFAULT_LABEL,), {}
    try:
        table = msgspec.json.decode(path.read_bytes(), type=dict[str, str])
    except msgspec.DecodeError as error:
        raise DatasetError(
            f'{path} is not a JSON object of label to colour, such as {{"scratch": "#D62728"}}: {error}'
        ) from error
    labels = tuple(Label(name=name, hex_color=_hex(color, f"label {name!r} in {path}")) for name, color in table.items())
    colors = {label.hex_color: label.name for label in labels}
    if len(colors) != len(labels):
        raise DatasetError(f"two labels in {path} have the same colour; give each its own")
    return labels, colors


def _hex(value: object, where: str) -> str:
    color = parse_color(value)
    if color is None:
        raise DatasetError(f"{where}: colour {value!r} is not of the form #RRGGBB")
    return color


def _read_manifest(path: Path, roots: Sequence[Path], called: str, leave_out: bool) -> Dataset:
    samples: list[Sample] = []
    labels: dict[str, str] = {}
    missing: list[str] = []
    unlabelled = count = 0
    source = called or str(path)
    for number, raw in _lines(path):
        count += 1
        where = f"{path.name} line {number}"
        try:
            line = decode_line(raw)
        except GroundTruthError as error:
            raise DatasetError(f"{where} {error}") from error
        if called:
            where = f"{called}, {str(line.get('source-ref'))[:200]}"
        try:
            sample, colors = _parse_line(line, where, roots, None if called else number)
        except _MissingError as error:
            missing.append(str(error))
            continue
        for color, name in colors.items():
            known = labels.setdefault(name, color)
            if known != color:
                raise DatasetError(f"{where}: label {name!r} has colour {color}, an earlier line says {known}; use one")
        if sample.is_anomaly is None:
            unlabelled += 1
        else:
            samples.append(sample)
    owners: dict[str, str] = {}
    for name, color in labels.items():
        if owners.setdefault(color, name) != name:
            raise DatasetError(f"{called or path.name}: labels {owners[color]!r} and {name!r} have the same colour {color}")
    if missing and not leave_out:
        looked = "" if called else " below " + " and ".join(str(root) for root in roots)
        raise DatasetError(
            f"the pictures or masks of {len(missing)} of {count} lines of {source} were not found{looked}: {shorten(missing)}",
            Remedy.NAME_ROOT, Remedy.LEAVE_OUT,
        )  # fmt: skip
    if not samples:
        raise DatasetError(f"{source} has no labelled pictures ({unlabelled} unlabelled, {len(missing)} not found)")
    listed = tuple(Label(name=n, hex_color=c) for n, c in sorted(labels.items()))
    return Dataset(tuple(samples), listed, unlabelled, source, tuple(missing))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    limit = LIMITS.manifest_line_bytes
    if path.stat().st_size > LIMITS.manifest_bytes:
        raise DatasetError(f"{path} is over the limit of {LIMITS.manifest_bytes} bytes")
    with path.open("rb") as stream:
        number = 0
        while raw := stream.readline(limit + 1):
            number += 1
            if len(raw) > limit:
                raise DatasetError(f"{path.name} line {number} has over {limit} bytes")
            raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            if raw.strip():
                yield number, raw


def _parse_line(
    line: dict[str, Any], where: str, roots: Sequence[Path], number: int | None = None
) -> tuple[Sample, dict[str, str]]:
    """One line to a sample and its colour map (colour to label, without the background)."""
    try:
        read = read_line(line)
    except GroundTruthError as error:
        raise DatasetError(f"{where} {error}") from error
    is_anomaly = read.labels[-1].is_anomaly if read.labels else None
    mask: Path | None = None
    colors: dict[str, str] = {}
    for named in read.masks:
        mask, colors = _locate(named.address, number, roots), named.colors
    if is_anomaly is not True:
        # Normal lines of published sets carry small dummy masks: not read, not checked.
        mask, colors = None, {}
    return Sample(read.source, _locate(read.source, number, roots), is_anomaly, mask, colors, line=line, number=number), colors


def _locate(address: str, number: int | None, roots: Sequence[Path]) -> Path:
    bucket, _, key = address.removeprefix("s3://").partition("/")
    names = [key, f"{bucket}/{key}"] if address.startswith("s3://") else [address]
    for root in roots:
        base = root.resolve()
        for name in names:
            try:
                path = (base / name).resolve()
                if path.is_file() and path.is_relative_to(base):
                    return path
            except (OSError, ValueError):  # too long for a file's name, a NUL byte in it, not Unicode
                continue
    shown = address[:200].encode(errors="replace").decode()
    raise _MissingError(shown if number is None else f"{shown} (line {number})")


def read_sample(sample: Sample) -> Rgb:
    """Read a sample's picture.

    Raises:
        PictureError: it cannot be read.
    """
    return read_picture(sample.path, sample.called)


def read_mask(sample: Sample, labels: Sequence[Label], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Read a sample's mask as a label map: height x width uint8, 0 background, i + 1 the i-th of `labels`.

    Transparent pixels (alpha below 128) are background: the published masks have no white at all, only a transparent
    palette colour around the defect. White is background too.

    Raises:
        UnreadableMaskError: not a PNG, damaged, or too large.
        DatasetError: not of the picture's size, or a colour that the colour map does not name.
    """
    result = np.zeros((height, width), np.uint8)
    if sample.mask is None:
        return result
    where = f"the mask of {sample.called}"
    try:
        with sample.mask.open("rb") as stream:
            data = stream.read(LIMITS.mask_file_bytes + 1)
    except OSError as error:
        raise UnreadableMaskError(f"{where} cannot be opened: {error.strerror}") from error
    if len(data) > LIMITS.mask_file_bytes:
        raise UnreadableMaskError(f"{where} has over {LIMITS.mask_file_bytes} bytes")
    try:
        with Image.open(BytesIO(data), formats=("PNG",)) as image:
            if image.size != (width, height):
                raise DatasetError(
                    f"{where} is {image.width}x{image.height} pixels, its picture {width}x{height}; they must be equal"
                )
            rgba = np.asarray(image.convert("RGBA"))
    except DatasetError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds of errors for damaged files
        reason = str(error) if data.startswith(_PNG) else f"its {len(data)} bytes begin with {data[:8]!r}"
        raise UnreadableMaskError(f"{where} is not a readable PNG (renaming another format is not enough): {reason}") from error
    rgb, visible = rgba[..., :3], rgba[..., 3] >= 128
    if not sample.colors:
        result[visible & (rgb.max(axis=2) >= 128)] = 1
        return result
    packed = rgb.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    known = visible & (packed == 0xFFFFFF)
    index = {label.name: i + 1 for i, label in enumerate(labels)}
    for color, name in sample.colors.items():
        if name not in index:
            raise DatasetError(
                f"{sample.called} has a mask of label {name!r}; the model's labels are {sorted(index) or 'none'}"
            )
        match = visible & (packed == int(color[1:], 16))
        result[match] = index[name]
        known |= match
    strange = visible & ~known
    if strange.any():
        found = f"#{int(packed[strange][0]):06X}"
        raise DatasetError(
            f"{where} has {int(strange.sum())} pixels of a colour ({found}) that its colour map does not name; "
            f"expected white, transparent or one of {sorted(sample.colors)}. Save masks without smoothing"
        )
    return result
