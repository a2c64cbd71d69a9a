import numpy as np
import pytest

from training.choice import choose

TRUTH = np.arange(120) % 2 == 0
FOLDS = np.arange(120) // 2 % 6
RNG = np.random.default_rng(0)


def scores(**strength: float) -> dict[str, np.ndarray]:
    return {name: TRUTH * s + RNG.normal(0, 1, 120) for name, s in strength.items()}


def flat(_columns: tuple[str, ...]) -> float:
    return 5.0


def test_the_best_one_wins_and_noise_is_dropped() -> None:
    found = scores(good=4, noise=0)
    choice = choose({"everything": ("good", "noise")}, found, TRUTH, FOLDS, flat, 25)
    assert "good" in choice.columns
    assert choice.chosen.roc_auc >= 0.98
    assert [c.name for c in choice.candidates][-1] == "noise"


def test_two_views_are_better_than_one() -> None:
    found = scores(left=1.5, right=1.5)
    choice = choose({"both": ("left", "right")}, found, TRUTH, FOLDS, flat, 25)
    assert choice.chosen.name == "both"
    assert set(choice.columns) == {"left", "right"}


def test_the_budget_is_kept_and_the_reason_says_what_it_cost() -> None:
    found = scores(fast=1, slow=6)
    choice = choose({}, found, TRUTH, FOLDS, lambda c: 90.0 if "slow" in c else 4.0, 25)
    assert choice.columns == ("fast",)
    assert "slow would reach" in choice.reason
    assert "90.0 ms (budget 25 ms)" in choice.reason


def test_nothing_fits_the_budget() -> None:
    choice = choose({}, scores(a=3), TRUTH, FOLDS, lambda _: 90.0, 25)
    assert choice.columns == ("a",)
    assert "Nothing fits into 25 ms" in choice.reason


def test_out_of_fold_scores_are_those_of_the_choice() -> None:
    found = scores(a=3)
    choice = choose({}, found, TRUTH, FOLDS, flat, 25)
    assert np.corrcoef(choice.out_of_fold, found["a"])[0, 1] == pytest.approx(1, abs=0.05)
