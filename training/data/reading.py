"""Reading labelled pictures: a folder, or a manifest of JSON Lines as Ground Truth and the cloud service wrote them.

A folder holds `normal/` and `anomaly/`, and where defects are drawn `masks/` with a PNG of each anomaly's name.
`labels.json` ({"scratch": "#D62728", ...}) names the colours in masks; without it, masks are black with a defect that
is not black, and the only label is `anomaly`.
"""

import csv
import dataclasses
import os
from pathlib import Path

import msgspec

from linewatch.anomaly_model.errors import DatasetError, PictureError
from linewatch.anomaly_model.ground_truth import parse_color
from linewatch.anomaly_model.limits import LIMITS, Limits
from linewatch.anomaly_model.manifest import Label
from linewatch.training.data.dataset import Dataset, Sample, read_sample
from linewatch.training.data.manifest import read_manifest

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg"}
DEFAULT_LABEL = Label(name="anomaly", hex_color="#23A436")


def read_dataset(path: Path, root: Path | None = None, *, display_name: str = "", leave_out: bool = False) -> Dataset:
    """Read a folder or a manifest.

    Args:
        path: a folder with `normal/` and `anomaly/`, or a manifest file.
        root: where the pictures of a manifest lie; s3://BUCKET/KEY is looked for as KEY and BUCKET/KEY below it.
            By default the manifest's own folder and the one above it.
        display_name: how messages call a manifest that is a copy: its path and lines tell its user nothing. Empty: by its path.
        leave_out: leave lines out whose picture or mask is not there.

    Raises:
        DatasetError: what was found is not a dataset; the message names file, line and reason.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.is_file():
        return read_manifest(path, [root] if root else [path.parent, path.parent.parent], display_name, leave_out)
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


def read_unlabelled(folder: Path, limits: Limits = LIMITS) -> tuple[Sample, ...]:
    """The pictures without labels that lie directly in a folder, by name; at least one of them can be read.

    Raises:
        DatasetError: there are none, too many, or none that can be read.
    """
    # A file's name may be no Unicode; what is written of it must be.
    samples = tuple(Sample(os.fsencode(p.name).decode(errors="replace"), p, None) for p in list_pictures(folder))
    if not samples:
        raise DatasetError(
            f"{folder} has no pictures (PNG or JPEG) directly in it; expected a folder with pictures that have no labels yet"
        )
    if len(samples) > limits.unlabelled_pictures:
        raise DatasetError(
            f"{folder} has {len(samples)} pictures; at most {limits.unlabelled_pictures} are put in order at once. Name a folder with a part of them"
        )
    error: PictureError | None = None
    for sample in samples:
        try:
            read_sample(sample)
        except PictureError as found:
            error = error or found
        else:
            return samples
    raise DatasetError(f"none of the {len(samples)} pictures in {folder} can be read. The first: {error}") from error


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
