from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import norm, rankdata

from linewatch.anomaly_model.errors import DatasetError
from linewatch.training.metrics import roc_auc
from linewatch.training.options import Budget
from linewatch.training.selection.choice import Candidate, Choice, Evidence, check_limit, choose, simplest
from linewatch.training.selection.standard_error import auc_influence, standard_error

TRUTH = np.arange(120) % 2 == 0
FOLDS = np.arange(120) // 2 % 6
RNG = np.random.default_rng(0)
WISH, LIMIT = Budget(25, is_limit=False), Budget(25, is_limit=True)


def scores(**strength: float) -> dict[str, np.ndarray]:
    return {name: TRUTH * s + RNG.normal(0, 1, 120) for name, s in strength.items()}


def flat(_columns: tuple[str, ...]) -> float:
    return 5.0


def choose_among(
    combinations: dict[str, tuple[str, ...]],
    found: dict[str, np.ndarray],
    milliseconds: Callable[[tuple[str, ...]], float] = flat,
    budget: Budget = WISH,
    **families: str,
) -> Choice:
    family_of = {name: families.get(name, "bank") for name in found}
    return choose(combinations, Evidence(found, family_of, TRUTH, FOLDS, np.arange(120)), milliseconds, budget)


def test_the_best_one_wins_and_noise_is_dropped() -> None:
    found = scores(good=4, noise=0)
    choice = choose_among({"everything": ("good", "noise")}, found, flat, WISH)
    assert "good" in choice.columns
    assert choice.chosen.roc_auc >= 0.98
    assert [c.name for c in choice.candidates][-1] == "noise"


def test_two_views_are_better_than_one() -> None:
    found = scores(left=1.5, right=1.5)
    choice = choose_among({"both": ("left", "right")}, found, flat, WISH)
    assert choice.chosen.name == "both"
    assert set(choice.columns) == {"left", "right"}


def test_a_limit_is_kept_and_the_reason_says_what_it_cost() -> None:
    found = scores(fast=1, slow=6)
    choice = choose_among({}, found, lambda c: 90.0 if "slow" in c else 4.0, LIMIT)
    assert choice.columns == ("fast",)
    assert "slow would reach" in choice.reason
    assert "90.0 ms (budget 25 ms)" in choice.reason
    assert choice.warning == ""


def test_a_wish_gives_way_to_accuracy_with_a_warning_and_to_the_cheapest_that_has_it() -> None:
    found = scores(fast=0, slow=6, slower=7)
    costs = {"fast": 4.0, "slow": 40.0, "slower": 90.0}
    choice = choose_among({}, found, lambda c: max(costs[n] for n in c), WISH)
    assert choice.columns == ("slow",)
    assert "costs 40.0 ms, more than the 25 ms that are wished for: the best that does, fast, reaches 0." in choice.warning


def test_a_wish_is_kept_where_it_costs_nothing() -> None:
    found = scores(fast=6, slow=7)
    choice = choose_among({}, found, lambda c: 90.0 if "slow" in c else 4.0, WISH)
    assert choice.columns == ("fast",)
    assert choice.warning == ""


def test_nothing_keeps_within_the_budget() -> None:
    with pytest.raises(DatasetError, match=r"budget of 25 ms: the cheapest graph for these pictures costs 90\.0 ms"):
        choose_among({}, scores(a=3), lambda _: 90.0, LIMIT)
    choice = choose_among({}, scores(a=3), lambda _: 90.0, WISH)
    assert choice.columns == ("a",)
    assert "nothing does" in choice.warning
    check_limit(90.0, WISH)


def test_a_single_score_is_judged_as_it_is() -> None:
    # Folds whose scales differ: what a stack of each fold by itself would make of them must not matter.
    found = {"a": 3 * TRUTH + FOLDS * 0.2 + RNG.normal(0, 1, 120), "b": RNG.normal(0, 1, 120)}
    choice = choose_among({}, found)
    assert choice.columns == ("a",)
    assert choice.chosen.roc_auc == roc_auc(found["a"], TRUTH)
    assert np.array_equal(np.argsort(choice.out_of_fold), np.argsort(found["a"]))
    assert choice.out_of_fold == pytest.approx(choice.stack(found["a"][:, None]))


def test_a_combination_that_comes_down_to_one_score_is_that_score() -> None:
    found = scores(good=3)
    choice = choose_among({"both": ("good", "opposite")}, {**found, "opposite": -found["good"]})
    by_name = {c.name: c for c in choice.candidates}
    assert by_name["both"].columns == by_name["good"].columns == ("good",)
    assert by_name["both"].roc_auc == by_name["good"].roc_auc
    assert choice.chosen.name == "good"


def test_the_simplest_within_a_standard_error_of_the_best_is_taken() -> None:
    one = 1.5 * TRUTH + RNG.normal(0, 1, 120)
    found = {"one": one, "two": one + RNG.normal(0, 0.05, 120), "other": 1.45 * TRUTH + RNG.normal(0, 1, 120)}
    choice = choose_among({"nearly the same": ("one", "two"), "families": ("one", "other")}, found, other="U-Net")
    by_name = {c.name: c for c in choice.candidates}
    assert by_name["families"].families == 2
    # Two views are far better than one, so they are taken; what adds nothing is not.
    assert choice.chosen.name == "families"
    assert choice.chosen.difference_error == 0
    assert by_name["one"].difference_error > 0
    assert 0.01 < by_name["one"].standard_error < 0.06
    choice = choose_among({"nearly the same": ("one", "two")}, {"one": one, "two": found["two"]})
    assert choice.chosen.name in {"one", "two"}
    assert "±" in choice.reason


def test_of_what_separates_perfectly_the_furthest_is_taken() -> None:
    noise = RNG.normal(0, 1, 120)
    noise = np.clip(noise, -2, 2)
    choice = choose_among({}, {"just": 4.5 * TRUTH + noise, "far": 40.0 * TRUTH + noise}, lambda c: 9.0 if "far" in c else 4.0)
    assert choice.columns == ("far",)
    assert "separates the classes perfectly" in choice.reason


def test_pictures_of_one_group_count_once() -> None:
    found = scores(good=1)
    alone = choose_among({}, found).chosen.standard_error
    twice = Evidence({"good": np.tile(found["good"], 3)}, {"good": "bank"}, np.tile(TRUTH, 3), np.tile(FOLDS, 3), np.tile(np.arange(120), 3))
    assert choose({}, twice, flat, WISH).chosen.standard_error == pytest.approx(alone)


def rank_area(column: np.ndarray, truth: np.ndarray) -> float:
    positive, negative = truth.sum(), (~truth).sum()
    return float((rankdata(column)[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


@pytest.mark.slow
def test_the_rule_costs_next_to_nothing_beside_the_best_mean() -> None:
    """Drawn score tables: 20 to 300 pictures, 6 to 20 correlated candidates of known ROC AUC, half of them simple."""
    rng = np.random.default_rng(0)
    regret, regret_of_best_mean = [], []
    for _ in range(400):
        pictures, count = int(rng.choice([20, 40, 80, 150, 300])), int(rng.integers(6, 21))
        truth = np.arange(pictures) < max(5, pictures * rng.uniform(0.2, 0.6))
        true_area = np.clip(rng.uniform(0.6, 0.97) - 0.05 * rng.uniform(0.3, 3) * rng.exponential(1, count), 0.5, 0.995)
        common, alike = rng.normal(size=(pictures, 1)), rng.uniform(0.2, 0.95)
        own = rng.normal(size=(pictures, count))
        table = truth[:, None] * np.sqrt(2) * norm.ppf(true_area) + np.sqrt(alike) * common + np.sqrt(1 - alike) * own
        influence = [auc_influence(column, truth) for column in table.T]

        def error(a: str, b: str, influence: list[np.ndarray] = influence, pictures: int = pictures) -> float:
            return standard_error(influence[int(a)] - influence[int(b)], np.arange(pictures))

        candidates = []
        for k, column in enumerate(table.T):
            families = 1 if k < count // 2 else int(rng.integers(1, 4))
            columns = ("a",) if k < count // 2 else tuple("abcdef"[: families + int(rng.integers(0, 3))])
            candidates.append(Candidate(str(k), columns, families, rank_area(column, truth), 0.0, 0.0, 0.0, rng.uniform(5, 25)))
        chosen, _ = simplest(candidates, error)
        regret.append(true_area.max() - true_area[int(chosen.name)])
        regret_of_best_mean.append(true_area.max() - true_area[int(max(candidates, key=lambda c: c.roc_auc).name)])
    assert np.mean(regret) <= np.mean(regret_of_best_mean) + 0.005
    assert np.mean(regret) < 0.02


def test_out_of_fold_scores_are_those_of_the_choice() -> None:
    found = scores(a=3)
    choice = choose_among({}, found, flat, WISH)
    assert np.corrcoef(choice.out_of_fold, found["a"])[0, 1] == pytest.approx(1, abs=0.05)
