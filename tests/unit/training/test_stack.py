import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.metrics import average_iou, image_metrics, roc_auc
from training.stack import choose_threshold, fit_slope, fit_stack, stacked_out_of_fold


def separable(n: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.arange(n) % 2 == 0
    useful = truth * 2.0 + rng.normal(0, 0.5, n)
    return np.stack([useful, rng.normal(0, 1, n), -useful], axis=1), truth


def test_useless_branches_get_no_weight() -> None:
    scores, truth = separable()
    stack = fit_stack(scores, truth)
    assert stack.weights[0] > 0
    # Pure noise earns little beside the useful branch, and an inverted one cannot help with weights >= 0.
    assert stack.weights[1] < 0.25 * stack.weights[0]
    assert stack.weights[2] == 0


def test_out_of_fold_scores_do_not_use_the_own_label() -> None:
    rng = np.random.default_rng(1)
    scores, truth = rng.normal(size=(200, 4)), rng.random(200) < 0.5
    honest = stacked_out_of_fold(scores, truth, np.arange(200) % 5)
    assert abs(roc_auc(honest, truth) - 0.5) < 0.15


def test_threshold_in_the_widest_gap() -> None:
    scores = np.array([0.0, 1.0, 5.0, 6.0])
    assert choose_threshold(scores, np.array([False, False, True, True])) == pytest.approx(3.0)


@given(st.lists(st.tuples(st.floats(-10, 10), st.booleans()), min_size=2, max_size=30))
def test_no_threshold_between_scores_beats_the_chosen_one(pairs: list[tuple[float, bool]]) -> None:
    scores, truth = np.array([s for s, _ in pairs]), np.array([t for _, t in pairs])
    chosen = image_metrics(scores, truth, choose_threshold(scores, truth)).f1
    distinct = np.unique(scores)
    for middle in (distinct[1:] + distinct[:-1]) / 2:
        assert image_metrics(scores, truth, middle).f1 <= chosen + 1e-9


def test_slope_grows_with_separation() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(400) % 2 == 0
    noisy = np.where(truth, 1.0, -1.0) + rng.normal(0, 2, 400)
    clear = np.where(truth, 1.0, -1.0) + rng.normal(0, 0.3, 400)
    assert 0 < fit_slope(noisy, truth, 0) < fit_slope(clear, truth, 0)


def test_slope_recovers_a_logistic_model() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, 20_000)
    truth = rng.random(20_000) < 1 / (1 + np.exp(-1.7 * z))
    assert fit_slope(z, truth, 0) == pytest.approx(1.7, rel=0.08)


def test_metrics_by_hand() -> None:
    metrics = image_metrics(np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, True, False, False]), 1.5)
    assert (metrics.true_positives, metrics.false_positives, metrics.false_negatives) == (1, 1, 1)
    assert (metrics.precision, metrics.recall, metrics.f1) == (0.5, 0.5, 0.5)
    assert metrics.roc_auc == 0.75
    assert metrics.f1_all_anomalous == pytest.approx(2 / 3)


def test_published_check_values() -> None:
    def f1(precision: float, recall: float) -> float:
        return 2 * precision * recall / (precision + recall)

    truth = np.array([True] * 17 + [False] * 3)
    scores = np.array([1.0] * 17 + [1.0, -1.0, -1.0])
    metrics = image_metrics(scores, truth, 0)
    assert metrics.f1 == pytest.approx(f1(metrics.precision, metrics.recall))


def test_empty_denominators_are_zero() -> None:
    metrics = image_metrics(np.array([0.0, 0.0]), np.array([False, False]), 1)
    assert (metrics.precision, metrics.recall, metrics.f1, metrics.roc_auc) == (0, 0, 0, 0)


def test_average_iou() -> None:
    a, b, none = np.array([1, 1, 0, 0], bool), np.array([0, 1, 1, 0], bool), np.zeros(4, bool)
    assert average_iou([(a, a), (a, b), (none, none)]) == pytest.approx((1 + 1 / 3) / 2)
    assert average_iou([(none, none)]) == 0
