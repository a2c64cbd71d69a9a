import numpy as np
import pytest

from linewatch.training.metrics import roc_auc
from linewatch.training.selection.stack import balanced_log_loss, fit_normals_stack, fit_stack, stacked_out_of_fold


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
