"""Lines of Ground Truth: what training needs of them, and what the API asks for beside."""

from typing import Any

import pytest

from linewatch.anomaly_model.ground_truth import GroundTruthError, decode_line, parse_color, read_line, require_complete

LABEL = {"class-name": " Anomaly", "type": "groundtruth/image-classification", "human-annotated": "yes"}
COLORS = {"0": {"class-name": "BACKGROUND", "hex-color": "#ffffff"}, "7": {"class-name": " dent", "hex-color": " #23a436 "}}
MASK = {"type": "groundtruth/semantic-segmentation", "human-annotated": "no", "internal-color-map": COLORS}
LINE: dict[str, Any] = {"source-ref": "a.png", "l": 0, "l-metadata": LABEL, "m-ref": "m.png", "m-ref-metadata": MASK, "camera-metadata": {"id": 7}}


def test_class_and_colours_go_by_name() -> None:
    line = read_line(LINE)
    require_complete(line)
    assert (line.source, line.content) == ("a.png", LINE)
    assert [(label.attribute, label.class_name, label.is_anomaly) for label in line.labels] == [("l", "anomaly", True)]
    assert [(mask.attribute, mask.address, mask.colors) for mask in line.masks] == [("m-ref", "m.png", {"#23A436": "dent"})]


@pytest.mark.parametrize("change", [
    {"l": None}, {"l-metadata": {**LABEL, "class-name": 5}}, {"l-metadata": {"class-name": "normal"}},
    {"l-metadata": {**LABEL, "human-annotated": None}}, {"m-ref-metadata": {**MASK, "human-annotated": "perhaps"}},
    {"k": 1, "k-metadata": {**LABEL, "class-name": "normal"}},
])  # fmt: skip
def test_what_training_does_without_and_the_api_does_not(change: dict[str, Any]) -> None:
    line = read_line({**LINE, **change})
    with pytest.raises(GroundTruthError, match=r"^has "):
        require_complete(line)


def test_a_class_of_another_kind_is_no_class() -> None:
    line = read_line({**LINE, "l-metadata": {**LABEL, "class-name": "dog"}})
    require_complete(line)
    assert line.labels[0].is_anomaly is None


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"[" * 5000, b'{"source-ref": "\xff"}', b'{"source-ref": "\\ud800"}'])
def test_other_bytes(raw: bytes) -> None:
    with pytest.raises(GroundTruthError, match=r"^is not a JSON object"):
        decode_line(raw)


@pytest.mark.parametrize(("value", "color"), [("#23a436", "#23A436"), (" #23A436", "#23A436"), ("#23a43", None), ("23a436", None), (7, None)])
def test_colours(value: object, color: str | None) -> None:
    assert parse_color(value) == color


def test_what_is_no_colour_is_quoted_in_part() -> None:
    colors = {"1": {"class-name": "dent", "hex-color": "f" * 30_000}}
    with pytest.raises(GroundTruthError, match="expected the form #RRGGBB") as told:
        read_line({**LINE, "m-ref-metadata": {**MASK, "internal-color-map": colors}})
    assert len(str(told.value)) < 300
