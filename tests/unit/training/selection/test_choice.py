import numpy as np
import pytest

from linewatch.anomaly_model.errors import DatasetError
from linewatch.training.options import Budget
from linewatch.training.selection.choice import check_limit, choose

TRUTH = np.arange(120) % 2 == 0
FOLDS = np.arange(120) // 2 % 6
RNG = np.random.default_rng(0)
WISH, LIMIT = Budget(25, is_limit=False), Budget(25, is_limit=True)


def scores(**strength: float) -> dict[str, np.ndarray]:
    return {name: TRUTH * s + RNG.normal(0, 1, 120) for name, s in strength.items()}


def flat(_columns: tuple[str, ...]) -> float:
    return 5.0


def test_the_best_one_wins_and_noise_is_dropped() -> None:
    found = scores(good=4, noise=0)
    choice = choose({"everything": ("good", "noise")}, found, TRUTH, FOLDS, flat, WISH)
    assert "good" in choice.columns
    assert choice.chosen.roc_auc >= 0.98
    assert [c.name for c in choice.candidates][-1] == "noise"


def test_two_views_are_better_than_one() -> None:
    found = scores(left=1.5, right=1.5)
    choice = choose({"both": ("left", "right")}, found, TRUTH, FOLDS, flat, WISH)
    assert choice.chosen.name == "both"
    assert set(choice.columns) == {"left", "right"}


def test_a_limit_is_kept_and_the_reason_says_what_it_cost() -> None:
    found = scores(fast=1, slow=6)
    choice = choose({}, found, TRUTH, FOLDS, lambda c: 90.0 if "slow" in c else 4.0, LIMIT)
    assert choice.columns == ("fast",)
    assert "slow would reach" in choice.reason
    assert "90.0 ms (budget 25 ms)" in choice.reason
    assert choice.warning == ""


def test_a_wish_gives_way_to_accuracy_with_a_warning_and_to_the_cheapest_that_has_it() -> None:
    found = scores(fast=0, slow=6, slower=7)
    costs = {"fast": 4.0, "slow": 40.0, "slower": 90.0}
    choice = choose({}, found, TRUTH, FOLDS, lambda c: max(costs[n] for n in c), WISH)
    assert choice.columns == ("slow",)
    assert "costs 40.0 ms, more than the 25 ms that are wished for: the best that does, fast, reaches 0." in choice.warning


def test_a_wish_is_kept_where_it_costs_nothing() -> None:
    found = scores(fast=6, slow=7)
    choice = choose({}, found, TRUTH, FOLDS, lambda c: 90.0 if "slow" in c else 4.0, WISH)
    assert choice.columns == ("fast",)
    assert choice.warning == ""


def test_nothing_keeps_within_the_budget() -> None:
    with pytest.raises(DatasetError, match=r"budget of 25 ms: the cheapest graph for these pictures costs 90\.0 ms"):
        choose({}, scores(a=3), TRUTH, FOLDS, lambda _: 90.0, LIMIT)
    choice = choose({}, scores(a=3), TRUTH, FOLDS, lambda _: 90.0, WISH)
    assert choice.columns == ("a",)
    assert "nothing does" in choice.warning
    check_limit(90.0, WISH)


def test_out_of_fold_scores_are_those_of_the_choice() -> None:
    found = scores(a=3)
    choice = choose({}, found, TRUTH, FOLDS, flat, WISH)
    assert np.corrcoef(choice.out_of_fold, found["a"])[0, 1] == pytest.approx(1, abs=0.05)
