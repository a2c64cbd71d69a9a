import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linewatch.anomaly_model.detection import draw_mask, interpret, mask_rows, probability
from linewatch.anomaly_model.errors import NotFiniteError
from linewatch.anomaly_model.manifest import Decision, Label
from linewatch.anomaly_model.runtime import ModelOutputs
from tests.unit.anomaly_model.test_manifest import SMALL

LABELS = [Label(name="scratch", hex_color="#D62728"), Label(name="dent", hex_color="#1F77B4")]
MAP = np.zeros((4, 5), np.float32)


@given(st.floats(-1e6, 1e6), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3))
def test_probability_is_monotonic_and_bounded(score: float, threshold: float, slope: float) -> None:
    decision = Decision(threshold=threshold, slope=slope)
    p = probability(score, decision)
    assert 0 <= p <= 1
    assert probability(score + 1, decision) >= p


@given(
    st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.floats(0, 0.5), st.floats(0.5, 1)
)
def test_verdict_and_probability_never_disagree(
    score: float, threshold: float, midpoint: float, slope: float, floor: float, ceiling: float
) -> None:
    decision = Decision(threshold=threshold, slope=slope, midpoint=midpoint, floor=floor, ceiling=ceiling)
    found = interpret(ModelOutputs(score, MAP, None), msgspec.structs.replace(SMALL, decision=decision))
    p = probability(score, decision)
    assert found.is_anomalous == (score > threshold)
    assert found.confidence == (p if found.is_anomalous else 1 - p)
    assert 0.5 <= found.confidence <= 1
    assert (min(floor, 0.5) if score <= threshold else 0.5) <= p <= (ceiling if score > threshold else 0.5)
    assert probability(score + 1, decision) >= p


def test_a_decision_of_an_earlier_version_says_what_it_said() -> None:
    old = msgspec.json.decode(b'{"threshold": 0.5, "slope": 2.0}', type=Decision)
    for score in (-3.0, 0.5, 0.7, 4.0):
        assert probability(score, old) == pytest.approx(1 / (1 + math.exp(-2 * (score - 0.5))))
    assert msgspec.json.encode(old) == b'{"threshold":0.5,"slope":2.0}'


@given(st.floats(-100, 100))
def test_confidence_goes_with_the_verdict(score: float) -> None:
    detection = interpret(ModelOutputs(score, MAP, None), SMALL)
    assert detection.is_anomalous == (score > SMALL.decision.threshold)
    assert 0.5 <= detection.confidence <= 1


def test_probability_is_the_logistic_function() -> None:
    assert probability(1.5, Decision(threshold=0.5, slope=2)) == pytest.approx(1 / (1 + math.exp(-2)))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("output", ["score", "anomaly map", "labels"])
def test_what_is_not_finite_is_no_answer(value: float, output: str) -> None:
    anomaly_map, logits = MAP.copy(), np.zeros((2, 4, 5), np.float32)
    score = value if output == "score" else 0.0
    if output == "anomaly map":
        anomaly_map[2, 3] = value
    if output == "labels":
        logits[1, 2, 3] = value
    with pytest.raises(NotFiniteError, match=rf"{output} is {value}" if output == "score" else rf"1 of \d+ values of the model's {output} are NaN"):
        interpret(ModelOutputs(score, anomaly_map, logits), SMALL)


def test_classification_has_neither_mask_nor_areas() -> None:
    detection = interpret(ModelOutputs(0.0, MAP, None), SMALL)
    assert detection.label_map is None
    assert detection.areas == ()


def test_areas_list_the_background_first_and_only_what_is_there() -> None:
    logits = np.zeros((3, 2, 4), np.float32)
    logits[2, 0, 0] = logits[2, 1, 3] = 1  # two places, one entry
    manifest = msgspec.structs.replace(SMALL, labels=LABELS)
    areas = interpret(ModelOutputs(0.0, MAP, logits), manifest).areas
    assert [(a.name, a.hex_color, a.area) for a in areas] == [("background", "#FFFFFF", 0.75), ("dent", "#1F77B4", 0.25)]
    assert {type(a.area) for a in areas} == {float}  # what messages can carry


@pytest.mark.parametrize(("score", "anomalous"), [(-50.0, False), (50.0, True)])
@pytest.mark.parametrize("found", [False, True])
def test_the_verdict_and_the_mask_do_not_depend_on_each_other(score: float, anomalous: bool, found: bool) -> None:
    logits = np.zeros((3, 2, 4), np.float32)
    logits[1, 0, 0] = found
    detection = interpret(ModelOutputs(score, MAP, logits), msgspec.structs.replace(SMALL, labels=LABELS))
    assert detection.is_anomalous is anomalous
    assert [a.name for a in detection.areas] == ["background", *["scratch"] * found]


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_areas_are_those_of_the_mask(h: int, w: int, height: int, width: int, seed: int) -> None:
    logits = np.random.default_rng(seed).integers(0, 3, (3, h, w)).astype(np.float32)
    found = interpret(ModelOutputs(0.0, MAP, logits), msgspec.structs.replace(SMALL, labels=LABELS), (height, width))
    assert found.label_map is not None
    mask = draw_mask(found.label_map, LABELS, height, width)
    for area in found.areas:
        shown = (mask == list(bytes.fromhex(area.hex_color[1:]))).all(axis=2)
        assert area.area == shown.sum() / (height * width)
    assert sum(a.area for a in found.areas) == pytest.approx(1)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_mask_is_nearest_neighbour(h: int, w: int, height: int, width: int, seed: int) -> None:
    label_map = np.random.default_rng(seed).integers(0, 3, (h, w)).astype(np.uint8)
    colors = np.array([[255, 255, 255], [0xD6, 0x27, 0x28], [0x1F, 0x77, 0xB4]], np.uint8)
    expected = colors[label_map[(np.arange(height) * h // height)[:, None], np.arange(width) * w // width]]
    assert (draw_mask(label_map, LABELS, height, width) == expected).all()


def test_an_empty_mask_has_no_parts() -> None:
    mask = mask_rows(np.zeros((9, 9), np.uint8), LABELS, 480, 640)
    assert mask.parts.size == 0
    assert len(mask.index) == 480
    assert not mask.index.any()


@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_parts_lie_where_they_should_and_are_no_wider_than_what_they_show(side: int, height: int, width: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    label_map = np.where(chance.random((side, side)) < 0.02, 1, 0).astype(np.uint8)
    room = bytearray(side * width * 3)
    mask = mask_rows(label_map, LABELS, height, width, memoryview(room))
    assert bytes(room[: mask.parts.size]) == mask.parts.tobytes()
    white = (draw_mask(label_map, LABELS, height, width) == 255).all(axis=2)
    shown = np.flatnonzero(~white.all(axis=0)) * 3
    if len(shown) and min(height, width) >= side:  # else what is in a column may not be shown
        assert (mask.left, mask.left + mask.parts.shape[1]) == (shown[0], shown[-1] + 3)


@given(st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_strongest_label_equals_argmax(labels: int, seed: int) -> None:
    logits = np.random.default_rng(seed).integers(-2, 3, (labels, 3, 4)).astype(np.float32)
    names = [Label(name=f"l{i}", hex_color=f"#00000{i}") for i in range(labels - 1)]
    manifest = msgspec.structs.replace(SMALL, labels=names)
    assert (interpret(ModelOutputs(0.0, MAP, logits), manifest).label_map == logits.argmax(axis=0)).all()
