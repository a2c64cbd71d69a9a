"""`bundle.json`, format version 1: its fields, and the rules that a bundle must keep, without any I/O.

The rules, each with its own error:
  1. bundle.json is JSON with the fields below (MalformedBundleError) and a format version that we read
     (UnknownVersionError);
  2. file names are relative, stay inside the bundle, and use no odd characters (UnsafePathError);
  3. only plain files (LinkError), within the limits on size and number (OversizeError);
  4. the files that are there are exactly those that are listed (MissingFileError, UnlistedFileError);
  5. each file has the listed length and SHA-256 (HashMismatchError).
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec

from linewatch.anomaly_model.errors import (
    HashMismatchError,
    MalformedBundleError,
    MissingFileError,
    NotFiniteError,
    OversizeError,
    UnknownVersionError,
    UnlistedFileError,
    UnsafePathError,
)
from linewatch.anomaly_model.limits import LIMITS, Limits

FORMAT = 1
MANIFEST_NAME = "bundle.json"
MODEL_NAME = "model.onnx"
GOLDEN_NAME = "golden/expected.npz"

HexColor = Annotated[str, msgspec.Meta(pattern=r"^#[0-9A-F]{6}$")]
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Side = Annotated[int, msgspec.Meta(ge=1, le=LIMITS.picture_side_max)]
Score = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)]
"""On the wire scores have single precision: what is larger would be infinite there."""
Json = dict[str, Any]


class _Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class ModelIdentity(_Struct, frozen=True):
    """Who the model is. `arn` is what gRPC clients see as lookout_vision_model_arn."""

    arn: str
    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}$")]
    version: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,10}$")]


class InputSpec(_Struct, frozen=True):
    """How a picture is brought to the graph: RGB, 8 bits, resized by area averaging to height x width."""

    height: Side
    width: Side


class PictureSize(_Struct, frozen=True):
    """Size of the training pictures, in pixels."""

    height: Side
    width: Side


class Label(_Struct, frozen=True):
    """An anomaly type, its colour in masks, and the share of the picture (0 to 1) below which it is not counted."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    hex_color: HexColor
    minimum_area: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0


class Decision(_Struct, frozen=True, omit_defaults=True):
    """From a raw score s to an answer: anomalous when s > threshold, and how probable an anomaly is.

    p = floor + (ceiling - floor) sigmoid(slope (s - midpoint)), but never on the other side of 0.5 than the verdict: where the two
    disagree, between threshold and the score of probability 0.5, p is 0.5.

    Attributes:
        threshold: on the score's scale.
        slope: how fast the probability rises with the score.
        midpoint: where it rises fastest; None is the threshold, as in bundles of earlier versions and of normal pictures only.
        floor: share of anomalies among pictures that look as normal as can be.
        ceiling: share of anomalies among pictures that look as anomalous as can be.
    """

    threshold: Score
    slope: Annotated[float, msgspec.Meta(gt=0)]
    midpoint: Score | None = None
    floor: Annotated[float, msgspec.Meta(ge=0, le=0.5)] = 0.0
    ceiling: Annotated[float, msgspec.Meta(ge=0.5, le=1)] = 1.0


class ScoreRange(_Struct, frozen=True):
    """Raw scores over the training pictures.

    Attributes:
        low: the smallest; with `high` the scale on which parity is measured.
        high: the largest.
        normal_deciles: the nine bounds between tenths of the normal pictures' scores: what an agent compares its own with. Bundles of
            earlier versions have none.
    """

    low: Score
    high: Score
    normal_deciles: Annotated[list[Score], msgspec.Meta(max_length=9)] = []


class FileFacts(_Struct, frozen=True):
    """Length in bytes and SHA-256 of one file."""

    bytes: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Sha256


class Manifest(_Struct, frozen=True, omit_defaults=True):
    """The whole of bundle.json.

    Attributes:
        component: name of the component that it was packaged as, by which clients ask for it wherever it lies; empty before.
    """

    format: int
    model: ModelIdentity
    input: InputSpec
    picture: PictureSize
    labels: list[Label]
    decision: Decision
    score_range: ScoreRange
    training: Json
    evaluation: Json
    tools: dict[str, str]
    files: dict[str, FileFacts]
    component: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.\-]{0,128}$")] = ""

    @property
    def served_as(self) -> str:
        """The name that clients use where no core says otherwise: the component's, or before packaging the model's."""
        return self.component or self.model.name

    @property
    def is_segmentation(self) -> bool:
        """Whether the graph has a `labels` output and answers carry a mask."""
        return bool(self.labels)


class _FormatOnly(msgspec.Struct):
    format: int


def parse_manifest(data: bytes, limits: Limits = LIMITS) -> Manifest:
    """Parse bundle.json.

    Raises:
        OversizeError: bundle.json, a file that it lists, all of them together or their number is over the limit.
        UnknownVersionError: the format version is not the one that this program reads.
        MalformedBundleError: it is not JSON, or does not have the fields of its format version.
        UnsafePathError: the name of a listed file is not allowed.
        MissingFileError: it lists no model.onnx.
    """
    if len(data) > limits.bundle_json_bytes:
        raise OversizeError(f"{MANIFEST_NAME} has {len(data)} bytes; at most {limits.bundle_json_bytes} are allowed")
    try:
        version = msgspec.json.decode(data, type=_FormatOnly).format
        if version != FORMAT:
            raise UnknownVersionError(
                f"{MANIFEST_NAME} has format {version}; this program reads format {FORMAT}. "
                "Update Linewatch on this machine, or train and package the model again with this version."
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedBundleError(f"{MANIFEST_NAME} is not a valid bundle description: {error}") from error
    for name, facts in manifest.files.items():
        check_name(name, limits)
        check_size(name, facts.bytes, limits)
    check_totals(manifest.files.keys(), (facts.bytes for facts in manifest.files.values()), limits)
    if MODEL_NAME not in manifest.files:
        raise MissingFileError(f"{MANIFEST_NAME} lists no {MODEL_NAME}; every bundle has one")
    return manifest


def check_finite(manifest: Manifest) -> None:
    """Refuse numbers that no verdict can be made with; JSON has no NaN, and would say null.

    Raises:
        NotFiniteError: names the number.
    """
    decision, scores = manifest.decision, manifest.score_range
    numbers = {
        "decision.threshold": decision.threshold, "decision.slope": decision.slope, "score_range.low": scores.low,
        "score_range.high": scores.high, "decision.midpoint": decision.midpoint or 0.0, "decision.floor": decision.floor,
        "decision.ceiling": decision.ceiling, **{f"score_range.normal_deciles[{i}]": value for i, value in enumerate(scores.normal_deciles)},
        **{f"the minimum area of label {label.name!r}": label.minimum_area for label in manifest.labels},
    }  # fmt: skip
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise NotFiniteError(f"{name} of this model is {value}; expected a finite number. Nothing was written; train the model again")


def dump_manifest(manifest: Manifest) -> bytes:
    """bundle.json's bytes: indented, UTF-8, ending in a newline."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]*(/[A-Za-z0-9_][A-Za-z0-9_.\-]*)*")


def check_name(name: str, limits: Limits = LIMITS) -> None:
    """Refuse names that could reach outside the bundle: absolute, `..`, backslashes, drive letters, control characters.

    Raises:
        UnsafePathError: the name is not allowed.
    """
    if len(name) > limits.bundle_name_chars or not _NAME.fullmatch(name):
        raise UnsafePathError(
            f"file name {name[: limits.bundle_name_chars]!r} is not allowed in a bundle: expected a relative path of "
            f"letters, digits, '_', '-', '.' and '/', no part beginning with '.' or '-', at most "
            f"{limits.bundle_name_chars} characters"
        )


def check_size(name: str, size: int, limits: Limits = LIMITS) -> None:
    """Refuse one file over the limit.

    Raises:
        OversizeError: it is over the limit.
    """
    if size > limits.bundle_file_bytes:
        raise OversizeError(f"{name} has {size} bytes; at most {limits.bundle_file_bytes} are allowed in a bundle")


def check_totals(names: Iterable[str], sizes: Iterable[int], limits: Limits = LIMITS) -> None:
    """Refuse too many files or too many bytes together.

    Raises:
        OversizeError: they are over a limit.
    """
    count = sum(1 for _ in names)
    if count > limits.bundle_files:
        raise OversizeError(f"the bundle has {count} files; at most {limits.bundle_files} are allowed")
    total = sum(sizes)
    if total > limits.bundle_total_bytes:
        raise OversizeError(f"the bundle has {total} bytes; at most {limits.bundle_total_bytes} are allowed")


def verify_files(manifest: Manifest, found: Mapping[str, FileFacts]) -> None:
    """Compare what is there with what is listed. `found` holds every file but bundle.json itself.

    Raises:
        MissingFileError: a listed file is not there.
        HashMismatchError: a file is not what the list says.
        UnlistedFileError: a file is there that is not listed.
    """
    for name, listed in manifest.files.items():
        facts = found.get(name)
        if facts is None:
            raise MissingFileError(f"{name} is listed in {MANIFEST_NAME} but is not in the bundle; copy the bundle again")
        if facts != listed:
            raise HashMismatchError(
                f"{name} was changed or damaged: found {facts.bytes} bytes with SHA-256 {facts.sha256[:16]}..., expected "
                f"{listed.bytes} bytes with {listed.sha256[:16]}...; copy the bundle again from where it was made"
            )
    for name in found:
        if name not in manifest.files:
            raise UnlistedFileError(f"{name} is in the bundle but not listed in {MANIFEST_NAME}; remove it")
