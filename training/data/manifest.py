"""Manifests of JSON Lines, as Ground Truth and the cloud service wrote them."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from linewatch.anomaly_model.errors import DatasetError, Remedy, shorten
from linewatch.anomaly_model.ground_truth import GroundTruthError, decode_line, read_line
from linewatch.anomaly_model.limits import LIMITS
from linewatch.anomaly_model.manifest import Label
from linewatch.training.data.dataset import Dataset, Sample


class _MissingError(DatasetError):
    """A line names a file that is not there."""


def read_manifest(path: Path, roots: Sequence[Path], display_name: str, leave_out: bool) -> Dataset:
    """Read a manifest of JSON Lines.

    Args:
        path: the manifest.
        roots: folders below which pictures and masks are looked for, in this order.
        display_name: how messages call a manifest that is a copy; empty: by its path.
        leave_out: leave lines out whose picture or mask is not there.

    Raises:
        DatasetError: what was found is not a dataset; the message names file, line and reason.
    """
    samples: list[Sample] = []
    labels: dict[str, str] = {}
    missing: list[str] = []
    unlabelled = count = 0
    source = display_name or str(path)
    for number, raw in _lines(path):
        count += 1
        where = f"{path.name} line {number}"
        try:
            line = decode_line(raw)
        except GroundTruthError as error:
            raise DatasetError(f"{where} {error}") from error
        if display_name:
            where = f"{display_name}, {str(line.get('source-ref'))[:200]}"
        try:
            sample, colors = parse_line(line, where, roots, None if display_name else number)
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
            raise DatasetError(f"{display_name or path.name}: labels {owners[color]!r} and {name!r} have the same colour {color}")
    if missing and not leave_out:
        looked = "" if display_name else " below " + " and ".join(str(root) for root in roots)
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


def parse_line(
    line: dict[str, Any], where: str, roots: Sequence[Path], number: int | None = None
) -> tuple[Sample, dict[str, str]]:
    """One line to a sample and its colour map (colour to label, without the background).

    Args:
        line: the line's JSON object.
        where: how messages call the line.
        roots: folders below which the picture and its mask are looked for, in this order.
        number: of the line, from 1; None when its reader does not know the lines.

    Raises:
        DatasetError: a key is missing or has no such form, or a file is not there.
    """
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
