"""Lines of datasets: what is read, what is kept, what is refused."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linewatch.anomaly_model.ground_truth import parse_date
from linewatch.control_plane.entries import EntryError, parse_entry

LABEL = {"class-name": "anomaly", "type": "groundtruth/image-classification", "human-annotated": "yes"}
MASK = {"type": "groundtruth/semantic-segmentation", "human-annotated": "yes",
        "internal-color-map": {"0": {"class-name": "cracked", "hex-color": "#23A436"}}}  # fmt: skip
PLAIN: dict[str, Any] = {"source-ref": "s3://b/k.png", "anomaly-label": 1, "anomaly-label-metadata": LABEL}
FULL = {**PLAIN, "anomaly-mask-ref": "s3://b/m.png", "anomaly-mask-ref-metadata": MASK}


def parse(line: dict[str, Any]) -> Any:
    return parse_entry(json.dumps(line).encode())


@pytest.mark.parametrize("value", [0, 1, "1", "0", 0.5])
@pytest.mark.parametrize(("name", "number"), [("anomaly", 1), ("normal", 0), ("Normal", 0)])
def test_the_class_name_decides_and_the_value_follows_it(value: object, name: str, number: int) -> None:
    entry = parse({**PLAIN, "anomaly-label": value, "anomaly-label-metadata": {**LABEL, "class-name": name}})
    assert entry.anomaly_class == name.lower()
    assert json.loads(entry.line)["anomaly-label"] == number


def test_a_label_may_have_any_name() -> None:
    assert parse({"source-ref": "s3://b/k", "auto-label": 1, "auto-label-metadata": {**LABEL, "class-name": "normal"}}).anomaly_class == "normal"


def test_other_classes_and_no_label_are_unlabelled() -> None:
    assert parse({**PLAIN, "anomaly-label-metadata": {**LABEL, "class-name": "dog"}}).anomaly_class is None
    assert parse({"source-ref": "s3://b/k"}).anomaly_class is None


@pytest.mark.parametrize("name", ["anomaly-mask-ref", "defects-ref"])
def test_a_published_mask_without_background_or_confidence_is_read(name: str) -> None:
    entry = parse({**PLAIN, name: "s3://b/m.png", f"{name}-metadata": MASK})
    assert entry.masks == ("s3://b/m.png",)
    assert entry.bucket == "b"


def test_what_may_be_left_out_and_what_is_tolerated() -> None:
    assert not {"confidence", "job-name", "creation-date"} & {*LABEL, *MASK}
    spaced = {"1": {"class-name": " cracked ", "hex-color": " #23a436 ", "confidence": 0.5}}
    assert parse({**FULL, "anomaly-mask-ref-metadata": {**MASK, "internal-color-map": spaced}}).masks


def test_the_longest_line() -> None:
    room = 8192 - len(parse({**PLAIN, "note": ""}).line)
    assert len(parse({**PLAIN, "note": "x" * room}).line) == 8192
    with pytest.raises(EntryError, match="8193 characters"):
        parse({**PLAIN, "note": "x" * (room + 1)})


def test_foreign_keys_are_kept() -> None:
    line = {**PLAIN, "camera": {"id": 7}, "x-metadata": {"a": 1}, "source-ref-metadata": {"creation-date": "x"}}
    assert json.loads(parse(line).line) == line


@pytest.mark.parametrize(("line", "message"), [
    ({}, "source-ref"), ({"source-ref": 5}, "source-ref"), ({"source-ref": "/local.png"}, "s3://BUCKET/KEY"),
    ({"source-ref": "s3://b"}, "s3://BUCKET/KEY"),
    ({"source-ref": "s3://b/a\0b.png"}, r"source-ref 's3://b/a\\x00b.png', with the character U\+0000"),
    ({"source-ref": "s3://b/a\nb.png"}, "U\\+000A"), ({"source-ref": "s3://b/a\x7fb.png"}, "U\\+007F"),
    ({"source-ref": "s3://b/a\x85b.png"}, "U\\+0085"), ({"source-ref": "s3://b/\ud800.png"}, "not a JSON object"),
    ({"source-ref": "s3://b/" + "d/" * 520 + "k.png"}, "1045 bytes; at most 1024"), ({"source-ref": "s3://b/" + "ä" * 130}, "at most 255 bytes"),
    ({"source-ref": "s3://b/../k.png"}, "cannot be a file"), ({"source-ref": "s3://b/a/./k.png"}, "cannot be a file"),
    ({"source-ref": "s3://b/folder/"}, "ends in a slash"), ({"source-ref": "s3://b c/k.png"}, "no bucket's name has"),
    ({"source-ref": "s3://../k.png"}, "no bucket's name has"), ({**FULL, "anomaly-mask-ref": "s3://b/m\0.png"}, "the anomaly-mask-ref .*U\\+0000"),
    ({**PLAIN, "anomaly-label": None}, "no anomaly-label"),
    ({**PLAIN, "anomaly-label-metadata": {**LABEL, "class-name": ""}}, "class-name"),
    ({**PLAIN, "anomaly-label-metadata": {k: v for k, v in LABEL.items() if k != "type"}}, "without type"),
    ({**PLAIN, "anomaly-label-metadata": {**LABEL, "human-annotated": "perhaps"}}, "yes or no"),
    ({**PLAIN, "two": 0, "two-metadata": {**LABEL, "class-name": "normal"}}, "contradict"),
    ({**FULL, "anomaly-mask-ref": None}, "mask's address"), ({**FULL, "anomaly-mask-ref": "m.png"}, "mask"),
    ({**FULL, "anomaly-mask-ref-metadata": {**MASK, "internal-color-map": {}}}, "internal-color-map"),
    ({**FULL, "anomaly-mask-ref-metadata": {**MASK, "internal-color-map": {"0": {"class-name": "x", "hex-color": "red"}}}}, "#RRGGBB"),
    ({**FULL, "anomaly-mask-ref-metadata": {**MASK, "internal-color-map": {"0": 5}}}, "not an object"),
    ({**PLAIN, "note": "x" * 9000}, "8192"),
])  # fmt: skip
def test_what_is_refused_and_why(line: dict[str, Any], message: str) -> None:
    with pytest.raises(EntryError, match=message):
        parse(line)


@pytest.mark.parametrize(("text", "seconds"), [
    ("2020-11-10T03:37:09.600", 1604979429.6), ("2020-11-10T03:37:09", 1604979429.0), ("2020-11-10T03:37:09.600Z", 1604979429.6),
    ("2020-11-10T03:37:09.600123", 1604979429.600123), (" 2020-11-10T03:37:09Z ", 1604979429.0),
    ("Mon Aug 22 2022 13:52:52 GMT-0700 (Pacific Daylight Time)", 1661201572.0), ("yesterday", None), (5, None), ("", None),
])  # fmt: skip
def test_dates_of_the_field(text: object, seconds: float | None) -> None:
    assert parse_date(text) == seconds


@given(st.binary(max_size=200) | st.recursive(st.none() | st.text(max_size=5), lambda i: st.dictionaries(
    st.sampled_from(["source-ref", "a", "a-metadata", "m-ref", "m-ref-metadata", "type", "class-name", "internal-color-map", "0"]), i,
    max_size=4), max_leaves=10).map(lambda v: json.dumps(v).encode()))  # fmt: skip
@settings(max_examples=300)
def test_anything_is_read_or_refused(raw: bytes) -> None:
    try:
        again = parse_entry(raw)
    except EntryError:
        return
    assert parse_entry(again.line.encode()) == again
