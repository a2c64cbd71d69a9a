import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anomaly_model.bundle import facts_of
from anomaly_model.errors import (
    BundleError,
    HashMismatchError,
    MalformedBundleError,
    MissingFileError,
    OversizeError,
    UnknownVersionError,
    UnlistedFileError,
    UnsafePathError,
)
from anomaly_model.limits import Limits
from anomaly_model.manifest import (
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
