import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from linewatch.training.metrics import roc_auc
from linewatch.training.selection.stack import (
    balanced_log_loss,
    fit_normals_stack,
    fit_slope,
    fit_stack,
    stacked_out_of_fold,
)


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


@given(st.lists(st.tuples(st.floats(-1e3, 1e3, width=32), st.booleans(), st.integers(0, 5)), min_size=4, max_size=40))
def test_a_single_score_keeps_its_ranks(pictures: list[tuple[float, bool, int]]) -> None:
    scores, truth, folds = (np.array(v) for v in zip(*pictures, strict=True))
    scores = np.round(scores, 3)
    found = stacked_out_of_fold(scores[:, None], truth, folds)
    assert np.array_equal(rankdata(found), rankdata(scores))


def test_stacks_of_folds_are_on_the_scale_of_the_final_one() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(90) % 2 == 0
    scores = truth[:, None] * [3.0, 2.5] + rng.normal(size=(90, 2))
    scores[:15] = truth[:15, None] * 20.0  # without this fold the others are far less clear, and their stack steeper
    found, final = stacked_out_of_fold(scores, truth, np.arange(90) // 15), fit_stack(scores, truth)(scores)
    assert np.corrcoef(found, final)[0, 1] > 0.95
    assert found.std() == pytest.approx(final.std(), rel=0.25)


def test_normals_stack_counts_every_score_alike() -> None:
    rng = np.random.default_rng(0)
    scores = np.stack([rng.normal(5, 2, 500), rng.normal(-3, 0.1, 500)], axis=1)
    stack = fit_normals_stack(scores)
    assert stack.weights * [2, 0.1] == pytest.approx([0.5, 0.5], rel=0.15)
    assert np.median(stack(scores)) == pytest.approx(0, abs=0.1)


def test_log_loss_counts_both_classes_the_same() -> None:
    truth = np.array([True] * 90 + [False] * 10)
    assert balanced_log_loss(np.zeros(100), truth) == pytest.approx(np.log(2))
    assert balanced_log_loss(np.where(truth, 9.0, 9.0), truth) > 4


def test_slope_grows_with_separation() -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(400) % 2 == 0
    noisy = np.where(truth, 1.0, -1.0) + rng.normal(0, 2, 400)
    clear = np.where(truth, 1.0, -1.0) + rng.normal(0, 0.3, 400)
    assert 0 < fit_slope(noisy, truth) < fit_slope(clear, truth)


def test_slope_recovers_a_logistic_model() -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(0, 2, 20_000)
    truth = rng.random(20_000) < 1 / (1 + np.exp(-1.7 * z))
    assert fit_slope(z, truth) == pytest.approx(1.7, rel=0.08)
