import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from linewatch.anomaly_model.detection import probability
from linewatch.anomaly_model.manifest import Decision
from linewatch.training.metrics import calibration, image_metrics
from linewatch.training.selection.decision import (
    choose_threshold,
    decide,
    decide_from_normals,
    fit_probability,
    minimum_areas,
    weakness,
)


def test_threshold_in_the_widest_gap() -> None:
    scores = np.array([0.0, 1.0, 5.0, 6.0])
    assert choose_threshold(scores, np.array([False, False, True, True])) == pytest.approx(3.0)


@pytest.mark.slow
@given(st.lists(st.tuples(st.floats(-10, 10), st.booleans()), min_size=2, max_size=30))
def test_no_threshold_between_scores_beats_the_chosen_one(pairs: list[tuple[float, bool]]) -> None:
    scores, truth = np.array([s for s, _ in pairs]), np.array([t for _, t in pairs])
    chosen = image_metrics(scores, truth, choose_threshold(scores, truth)).f1
    distinct = np.unique(scores)
    for middle in (distinct[1:] + distinct[:-1]) / 2:
        assert image_metrics(scores, truth, middle).f1 <= chosen + 1e-9


def drawn(kind: str, count: int, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scores of a line with that share of anomalies, and the truth."""
    truth, noise = rng.random(count) < share, rng.normal(size=count)
    if kind == "hidden":  # one anomaly in six shows nothing
        return np.where(truth & (rng.random(count) < 5 / 6), 4.0, 0.0) + noise, truth
    if kind == "skewed":
        return np.where(truth, rng.gumbel(3, 1.5, count), rng.gumbel(0, 1, count)), truth
    return {"clear": 5.0, "usual": 2.0}[kind] * truth + noise, truth


def calibration_error(decision: Decision, scores: np.ndarray, truth: np.ndarray) -> float:
    p = np.array([probability(float(s), decision) for s in scores])
    return calibration(p, scores > decision.threshold, truth).ece


@pytest.mark.parametrize("share", [0.2, 0.5])
@pytest.mark.parametrize(("kind", "most"), [("clear", 0.02), ("usual", 0.04), ("skewed", 0.04), ("hidden", 0.04)])
def test_what_is_said_is_right_as_often_as_it_says(kind: str, share: float, most: float) -> None:
    rng = np.random.default_rng(0)
    errors, before = [], []
    for _ in range(8):
        decision = decide(*drawn(kind, 200, share, rng))
        line = drawn(kind, 4000, share, rng)
        errors.append(calibration_error(decision, *line))
        before.append(calibration_error(Decision(threshold=decision.threshold, slope=decision.slope), *line))
    assert np.mean(errors) <= most
    assert np.mean(errors) <= np.mean(before) + 0.005


def test_the_probability_follows_the_share_of_anomalies() -> None:
    rng = np.random.default_rng(0)
    for share in (0.05, 0.5):
        scores, truth = drawn("usual", 20_000, share, rng)
        below = fit_probability(scores, truth, threshold=9.0)  # up to the threshold no more than 0.5 is said
        assert probability(0.5, below) == pytest.approx(truth[np.abs(scores - 0.5) < 0.1].mean(), abs=0.03)


def test_scores_far_apart_have_a_finite_slope_and_are_sure() -> None:
    truth = np.arange(60) % 3 == 0
    decision = decide(np.where(truth, 100.0, -100.0), truth)
    assert np.isfinite([decision.slope, decision.midpoint]).all()  # type: ignore[list-item]
    assert probability(-100.0, decision) < 0.05
    assert probability(100.0, decision) > 0.95


@pytest.mark.parametrize("count", [20, 60, 1000])
@pytest.mark.parametrize("target", [0.01, 0.05])
def test_normals_threshold_keeps_the_stated_false_alarm_rate(count: int, target: float) -> None:
    rng = np.random.default_rng(count)
    rates = [
        (rng.normal(3, 2, 2000) > decide_from_normals(rng.normal(3, 2, count), target).threshold).mean() for _ in range(200)
    ]
    assert 0.4 * target < np.mean(rates) < 1.3 * target


def test_normals_threshold_respects_a_long_tail() -> None:
    rng = np.random.default_rng(0)
    scores = rng.lognormal(0, 1, 2000)
    assert (scores > decide_from_normals(scores, 0.01).threshold).mean() <= 0.01


def test_normals_probabilities_are_anchored() -> None:
    scores = np.random.default_rng(0).normal(0, 1, 101)
    decision = decide_from_normals(scores, 0.01)
    assert probability(float(np.median(scores)), decision) == pytest.approx(0.01)
    assert probability(decision.threshold, decision) == pytest.approx(0.5)


def test_equal_scores_of_normals_do_not_divide_by_zero() -> None:
    decision = decide_from_normals(np.full(12, 2.0), 0.01)
    assert decision.threshold >= 2.0
    assert np.isfinite(decision.slope)


def test_small_spurious_areas_do_not_count_but_small_defects_do() -> None:
    found = np.array([[0.001], [0.002], [0.02], [0.03], [0.0]])
    shown = np.array([[0.0], [0.0], [0.025], [0.02], [0.0]])
    [least] = minimum_areas(found, shown)
    assert 0.002 < least <= 0.01
    assert minimum_areas(found, np.zeros((5, 1))) == [0.0]


def test_a_defect_that_was_found_in_part_does_not_let_specks_through() -> None:
    found = np.array([[0.0005], [0.002], [0.002], [0.002], [0.02], [0.0]])
    shown = np.array([[0.02], [0.0], [0.0], [0.0], [0.02], [0.0]])
    assert 0.002 < minimum_areas(found, shown)[0] <= 0.01


@given(st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)), min_size=1, max_size=30))
def test_the_least_area_is_below_every_defect(pairs: list[tuple[float, float]]) -> None:
    found, shown = np.array([[f] for f, _ in pairs]), np.array([[s] for _, s in pairs])
    [least] = minimum_areas(found, shown)
    present = shown[shown > 0]
    assert 0 <= least <= (present.min() / 2 if len(present) else 0)


@pytest.mark.parametrize(("strength", "normals", "anomalies", "said"), [
    (0.0, 26, 26, "ROC AUC"), (0.3, 26, 26, "ROC AUC"), (2.0, 26, 26, ""), (3.0, 5, 5, ""),
    (0.8, 20, 400, "calling everything anomalous gives 0.976"),
])  # fmt: skip
def test_what_is_not_better_than_calling_everything_anomalous_says_so(strength: float, normals: int, anomalies: int, said: str) -> None:
    truth = np.arange(normals + anomalies) >= normals
    z = np.concatenate([np.random.default_rng(4).permutation(norm.ppf((np.arange(n) + 0.5) / n)) for n in (normals, anomalies)])
    found = weakness(z + strength * truth, truth, np.arange(len(truth)) % 6)
    assert found.startswith(said) if said == "ROC AUC" else said in found
    assert bool(found) == bool(said)


def test_scores_that_are_all_equal_have_a_threshold_and_a_finite_slope() -> None:
    for value in (0.0, -1e6, 3e9):
        decision = decide_from_normals(np.full(8, value), 0.01)
        assert np.isfinite([decision.threshold, decision.slope]).all()
        assert probability(value, decision) < 0.5 < probability(value + max(1.0, abs(value)), decision)
    truth = np.arange(8) < 4
    assert weakness(np.zeros(8), truth, np.arange(8) % 3)
    decision = decide(np.zeros(8), truth)
    assert np.isfinite([decision.threshold, decision.slope]).all()
