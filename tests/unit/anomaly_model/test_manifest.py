import math
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linewatch.anomaly_model.bundle import facts_of, write_bundle
from linewatch.anomaly_model.errors import (
    BundleError,
    HashMismatchError,
    MalformedBundleError,
    MissingFileError,
    NotFiniteError,
    OversizeError,
    UnknownVersionError,
    UnlistedFileError,
    UnsafePathError,
)
from linewatch.anomaly_model.limits import Limits
from linewatch.anomaly_model.manifest import (
    Decision,
    InputSpec,
    Label,
    Manifest,
    ModelIdentity,
    PictureSize,
    ScoreRange,
    check_name,
    dump_manifest,
    parse_manifest,
    verify_files,
)

SMALL = Manifest(
    format=1,
    model=ModelIdentity(arn="arn:aws:lookoutvision:local:000000000000:model/m/1", name="m", version="1"),
    input=InputSpec(height=64, width=80),
    picture=PictureSize(height=240, width=320),
    labels=[Label(name="scratch", hex_color="#D62728")],
    decision=Decision(threshold=0.5, slope=2.0),
    score_range=ScoreRange(low=-3, high=4),
    training={},
    evaluation={},
    tools={},
    files={"model.onnx": facts_of(b"model")},
)


def test_round_trip() -> None:
    assert parse_manifest(dump_manifest(SMALL)) == SMALL


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"format": 2}, UnknownVersionError),
        ({"format": "1"}, MalformedBundleError),
        ({"surprise": 1}, MalformedBundleError),
        ({"decision": {"threshold": 0, "slope": 0}}, MalformedBundleError),
        ({"decision": {"threshold": None, "slope": 1}}, MalformedBundleError),
        ({"decision": {"threshold": 1e39, "slope": 1}}, MalformedBundleError),
        ({"labels": [{"name": "x", "hex_color": "red"}]}, MalformedBundleError),
        ({"files": {"../model.onnx": {"bytes": 1, "sha256": "0" * 64}}}, UnsafePathError),
        ({"files": {"model.onnx": {"bytes": 2**40, "sha256": "0" * 64}}}, OversizeError),
        ({"files": {"other": {"bytes": 1, "sha256": "0" * 64}}}, MissingFileError),
        ({"files": {"model.onnx": {"bytes": 1, "sha256": "zz"}}}, MalformedBundleError),
    ],
)
def test_each_broken_rule_has_its_error(change: dict[str, object], error: type[BundleError]) -> None:
    table = msgspec.json.decode(dump_manifest(SMALL))
    with pytest.raises(error):
        parse_manifest(msgspec.json.encode({**table, **change}))


@given(st.binary(max_size=300))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError):
        parse_manifest(data)


def test_too_long_is_refused_before_parsing() -> None:
    with pytest.raises(OversizeError):
        parse_manifest(dump_manifest(SMALL), Limits(bundle_json_bytes=10))


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../x",
        "a/../b",
        "a//b",
        "a\\b",
        "C:/x",
        "",
        ".",
        ".hidden",
        "a/.b",
        "-x",
        "a\0b",
        "a\nb",
        "x" * 300,
        "a/",
    ],
)
def test_unsafe_names(name: str) -> None:
    with pytest.raises(UnsafePathError):
        check_name(name)


@given(st.text(max_size=40))
def test_accepted_names_stay_inside(name: str) -> None:
    try:
        check_name(name)
    except UnsafePathError:
        return
    parts = name.split("/")
    assert not name.startswith("/")
    assert all(part not in ("", ".", "..") for part in parts)


def test_files_must_match() -> None:
    right = {"model.onnx": facts_of(b"model")}
    verify_files(SMALL, right)
    with pytest.raises(MissingFileError):
        verify_files(SMALL, {})
    with pytest.raises(HashMismatchError):
        verify_files(SMALL, {"model.onnx": facts_of(b"modeL")})
    with pytest.raises(UnlistedFileError):
        verify_files(SMALL, {**right, "extra": facts_of(b"")})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("decision", "decision.threshold"), ("slope", "decision.slope"), ("midpoint", "decision.midpoint"),
        ("low", "score_range.low"), ("high", "score_range.high"),
        ("deciles", r"score_range.normal_deciles\[1\]"), ("labels", "the minimum area of label 'scratch'"),
    ],
)  # fmt: skip
def test_no_bundle_is_written_with_a_number_that_is_none(tmp_path: Path, field: str, name: str, value: float) -> None:
    changes = {
        "decision": {"decision": Decision(threshold=value, slope=1)}, "slope": {"decision": Decision(threshold=0, slope=value)},
        "midpoint": {"decision": Decision(threshold=0, slope=1, midpoint=value)},
        "low": {"score_range": ScoreRange(low=value, high=1)}, "high": {"score_range": ScoreRange(low=0, high=value)},
        "deciles": {"score_range": ScoreRange(low=0, high=1, normal_deciles=[0.1, value])},
        "labels": {"labels": [Label(name="scratch", hex_color="#D62728", minimum_area=value)]},
    }  # fmt: skip
    with pytest.raises(NotFiniteError, match=f"{name} of this model is {value}"):
        write_bundle(tmp_path / "bundle", msgspec.structs.replace(SMALL, **changes[field]), {"model.onnx": b"model"})
    assert list(tmp_path.iterdir()) == []
