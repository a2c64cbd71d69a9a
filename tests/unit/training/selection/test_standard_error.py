import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from linewatch.training.selection.standard_error import auc_influence, standard_error


def roc_auc(scores: np.ndarray, truth: np.ndarray) -> float:
    """By rank sums: scikit-learn's checks take longer than all else here."""
    positive, negative = truth.sum(), (~truth).sum()
    return float((rankdata(scores)[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=4, max_size=40).filter(lambda p: 0 < sum(t for _, t in p) < len(p)))
def test_influences_sum_to_nothing_and_say_what_leaving_a_picture_out_does(pairs: list[tuple[int, bool]]) -> None:
    scores, truth = np.array([s for s, _ in pairs], float), np.array([t for _, t in pairs])
    influence = auc_influence(scores, truth)
    assert influence.sum() == pytest.approx(0, abs=1e-9)
    for i in range(len(scores)):
        rest = np.arange(len(scores)) != i
        count = int((truth == truth[i]).sum())
        if count > 1:
            moved = roc_auc(scores[rest], truth[rest]) - roc_auc(scores, truth)
            assert moved == pytest.approx(-influence[i] * count / (count - 1))


@pytest.mark.parametrize(("parts", "each"), [(120, 1), (30, 4), (12, 10)])
def test_the_error_is_what_other_pictures_would_give(parts: int, each: int) -> None:
    """Also where pictures of a part resemble each other, and for the difference of two scores that do."""
    rng = np.random.default_rng(0)
    truth = np.arange(parts * each) % 2 == 0 if each > 1 else np.arange(parts) % 2 == 0
    groups = np.repeat(np.arange(parts), each)
    areas, differences, said, said_of_difference = [], [], [], []
    for _ in range(150):
        common = rng.normal(0, 0.8, parts)[groups] * np.where(truth, 1, 0.3) + rng.normal(0, 0.6, len(truth))
        left, right = (1.3 * truth + common + rng.normal(0, 0.5, len(truth)) for _ in range(2))
        a, b = (auc_influence(s, truth) for s in (left, right))
        areas.append(roc_auc(left, truth))
        differences.append(roc_auc(left, truth) - roc_auc(right, truth))
        said.append(standard_error(a, groups))
        said_of_difference.append(standard_error(a - b, groups))
    assert np.sqrt(np.mean(np.square(said))) == pytest.approx(np.std(areas), rel=0.2)
    assert np.sqrt(np.mean(np.square(said_of_difference))) == pytest.approx(np.std(differences), rel=0.2)
    assert np.mean(said_of_difference) < 0.9 * np.mean(said)


def test_one_group_tells_nothing() -> None:
    assert standard_error(np.array([0.1, -0.1]), np.array([3, 3])) == 0
