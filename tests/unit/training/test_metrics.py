import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as reference

from linewatch.training.metrics import (
    PixelCounts,
    average_precision,
    bootstrap,
    calibration,
    curves,
    f1_score,
    image_metrics,
    roc_auc,
)

PAIRS = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=2, max_size=40).filter(
    lambda pairs: 0 < sum(t for _, t in pairs) < len(pairs)
)


def test_metrics_by_hand() -> None:
    metrics = image_metrics(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, True, False, False]), 1.5)
    assert (metrics.true_positives, metrics.false_positives, metrics.false_negatives) == (1, 1, 1)
    assert (metrics.precision, metrics.recall, metrics.f1) == (0.5, 0.5, 0.5)
    assert metrics.roc_auc == 0.75
    assert metrics.f1_all_anomalous == pytest.approx(2 / 3)


def test_published_check_values() -> None:
    """The service's guide: precision, recall and F1, here from the pictures that give them."""
    for found, false, missed, precision, recall, f1 in (
        (9, 1, 0, 0.9, 1, 0.947), (3, 7, 0, 0.3, 1, 0.46), (19, 1, 76, 0.95, 0.2, 0.33), (85, 15, 15, 0.85, 0.85, 0.85),
    ):  # fmt: skip
        truth = np.repeat([True, True, False, False], [found, missed, false, 5])
        scores = np.repeat([1.0, -1.0, 1.0, -1.0], [found, missed, false, 5])
        metrics = image_metrics(scores, truth, 0)
        assert (metrics.precision, metrics.recall) == pytest.approx((precision, recall))
        assert metrics.f1 == pytest.approx(f1, abs=0.005)


def test_empty_denominators_are_zero() -> None:
    metrics = image_metrics(np.array([0.0, 0.0]), np.array([False, False]), 1)
    assert (metrics.precision, metrics.recall, metrics.f1, metrics.roc_auc) == (0, 0, 0, 0)


@given(PAIRS)
def test_areas_and_curves_equal_the_reference(pairs: list[tuple[int, bool]]) -> None:
    scores, truth = np.array([s for s, _ in pairs], float), np.array([t for _, t in pairs])
    assert roc_auc(scores, truth) == pytest.approx(reference.roc_auc_score(truth, scores))
    assert average_precision(scores, truth) == pytest.approx(reference.average_precision_score(truth, scores))
    rate, recall, _ = reference.roc_curve(truth, scores, drop_intermediate=False)
    found = curves(scores, truth)
    assert found.false_alarm_rate == pytest.approx(rate)
    assert found.recall == pytest.approx(recall)


@given(PAIRS)
def test_area_is_the_share_of_pairs_in_the_right_order(pairs: list[tuple[int, bool]]) -> None:
    scores, truth = np.array([s for s, _ in pairs], float), np.array([t for _, t in pairs])
    above = scores[truth][:, None] - scores[~truth]
    assert roc_auc(scores, truth) == pytest.approx(((above > 0) + 0.5 * (above == 0)).mean())


def test_no_anomalies_at_all() -> None:
    assert average_precision(np.zeros(3), np.zeros(3, bool)) == 0


@pytest.mark.parametrize("value", [False, True])
def test_curves_of_one_class(value: bool) -> None:
    found = curves(np.array([3.0, 1.0, 1.0]), np.full(3, value))
    assert found.false_alarm_rate.tolist() == ([0, 0, 0] if value else pytest.approx([0, 1 / 3, 1]))
    assert found.recall.tolist() == (pytest.approx([0, 1 / 3, 1]) if value else [0, 0, 0])
    assert found.precision.tolist() == [1, float(value), float(value)]


def test_bootstrap_covers_and_narrows() -> None:
    rng = np.random.default_rng(0)

    def width(n: int) -> float:
        truth = np.arange(n) % 2 == 0
        scores = truth + rng.normal(0, 1, n)
        low, high = bootstrap(scores, truth, 0.5)["f1"]
        assert low <= f1_score(scores > 0.5, truth) <= high
        return high - low

    assert width(2000) < 0.5 * width(40)


def test_calibration_of_honest_and_boastful_answers() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    truth = rng.random(20_000) < p
    honest = calibration(p, p > 0.5, truth)
    assert honest.ece < 0.02
    boastful = calibration(np.where(p > 0.5, 0.99, 0.01), p > 0.5, truth)
    assert boastful.ece == pytest.approx(0.24, abs=0.03)
    assert boastful.brier > honest.brier
    assert sum(n for _, _, n in boastful.bins) == 20_000


@pytest.mark.parametrize("pictures", [20, 60, 500])
def test_calibration_says_what_honest_answers_would_show_on_so_few_pictures(pictures: int) -> None:
    rng = np.random.default_rng(0)
    p = rng.beta(0.5, 0.5, pictures)
    shown = [calibration(p, p > 0.5, rng.random(pictures) < p).ece for _ in range(100)]
    assert calibration(p, p > 0.5, p > 0.5).ece_if_calibrated == pytest.approx(np.mean(shown), rel=0.15)


def test_an_answer_of_probability_a_half_is_the_one_that_was_given() -> None:
    half, said = np.full(4, 0.5), np.array([True, True, True, False])
    assert calibration(half, said, said).bins == [(0.5, 1.0, 4)]


def test_pixels_by_hand() -> None:
    a, b, none = np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 0], bool), np.zeros(4, bool)
    counts = PixelCounts()
    for truth, found in ((a, a), (a, b), (none, none)):
        counts.add(truth, found)
    assert counts.average_iou == pytest.approx((1 + 1 / 3) / 2)
    assert (counts.precision, counts.recall, counts.f1) == (0.75, 0.75, 0.75)
    assert PixelCounts().average_iou == 0
