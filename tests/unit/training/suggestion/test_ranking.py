import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from linewatch.training.suggestion import ranking
from linewatch.training.suggestion.ranking import CLEAR, CLEAR_AND_LIKE, LIKE_EARLIER, NEAR_THRESHOLD, UNLIKE, Ranked, rank

WIDTH = 3
values = st.floats(-100, 100, width=32)
chances = st.floats(0, 1)


@st.composite
def pools(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities and features of up to 30 pictures, equal ones among them, and features of up to 10 labelled ones."""
    count = draw(st.integers(0, 30))
    features = draw(arrays(np.float32, (count, WIDTH), elements=values))
    return (
        draw(arrays(np.float64, count, elements=chances)),
        features,
        draw(arrays(np.float32, (draw(st.integers(0, 10)), WIDTH), elements=values)),
    )


def indices(found: list[Ranked]) -> list[int]:
    return [r.index for r in found]


@given(pools())
def test_every_picture_has_one_place(pool: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    probabilities, _, _ = pool
    found = rank(*pool)
    assert sorted(indices(found)) == list(range(len(probabilities)))
    for r in found:
        assert r.uncertainty == pytest.approx(2 * min(probabilities[r.index], 1 - probabilities[r.index]))
        assert 0 <= r.distance < np.inf
        assert r.reason


@given(pools(), st.integers(-10, 10))
def test_the_order_does_not_depend_on_the_unit_of_the_features(
    pool: tuple[np.ndarray, np.ndarray, np.ndarray], power: int
) -> None:
    probabilities, features, labelled = pool
    tiny = np.abs(np.concatenate([features, labelled]))
    if ((tiny > 0) & (tiny < 1e-3)).any():  # their squares would be rounded to 0 in one unit and not in the other
        return
    scale = np.float32(2.0**power)  # exact
    assert rank(probabilities, features * scale, labelled * scale) == rank(probabilities, features, labelled)


@given(st.data())
def test_nearly_equal_pictures_wait_until_all_others_had_their_turn(data: st.DataObject) -> None:
    places = data.draw(st.lists(st.tuples(*[st.integers(-3, 3)] * WIDTH), min_size=1, max_size=12, unique=True))
    seen = data.draw(arrays(np.int64, data.draw(st.integers(len(places), 30)), elements=st.integers(0, len(places) - 1)))
    part = np.concatenate([np.arange(len(places)), seen])  # each at least once, some several times
    noise = data.draw(arrays(np.float32, (len(part), WIDTH), elements=st.floats(-(2**-10), 2**-10, width=32)))
    features = np.array(places, np.float32)[part] + noise
    labelled = data.draw(st.sampled_from([np.zeros((0, WIDTH), np.float32), np.full((2, WIDTH), 50, np.float32)]))
    found = rank(data.draw(arrays(np.float64, len(part), elements=chances)), features, labelled)
    first = [int(part[i]) for i in indices(found)[: len(places)]]
    assert sorted(first) == list(range(len(places)))
    assert all(LIKE_EARLIER in r.reason for r in found[len(places) :] if len(places) > 1)


def test_what_the_model_is_unsure_of_comes_before_what_it_is_sure_of() -> None:
    square = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    found = rank(np.array([0.01, 0.5, 0.99, 0.7]), square * 2 + 10, square)
    assert indices(found)[:2] == [1, 3]
    assert NEAR_THRESHOLD in found[0].reason


def test_what_is_unlike_anything_seen_comes_first_though_the_model_is_sure() -> None:
    rng = np.random.default_rng(0)
    labelled, pool = rng.normal(size=(200, 5)).astype(np.float32), rng.normal(size=(40, 5)).astype(np.float32)
    pool[17] += 40
    found = rank(np.full(40, 0.001), pool, labelled)
    assert found[0].index == 17
    assert found[0].reason == UNLIKE
    assert found[0].distance > 10
    assert sum(UNLIKE in r.reason for r in found) < 6
    assert CLEAR_AND_LIKE in {r.reason for r in found}


def test_a_picture_that_is_labelled_already_comes_last() -> None:
    labelled = np.eye(3, dtype=np.float32)
    found = rank(np.array([0.5, 0.1, 0.2]), np.array([[0, 1, 0], [4, 0, 0], [0, 0, 4]], np.float32), labelled)
    assert indices(found) == [2, 1, 0]
    assert found[-1].distance == 0


def test_without_labelled_pictures_the_model_says_which_is_first() -> None:
    found = rank(np.array([0.0, 0.4, 1.0, 0.0]), np.array([[0.0], [1], [2], [9]], np.float32), np.zeros((0, 1), np.float32))
    assert indices(found)[:2] == [1, 3]
    assert found[1].reason == CLEAR
    assert not any(UNLIKE in r.reason for r in found)


def test_pictures_that_do_not_differ_are_ordered_by_uncertainty() -> None:
    found = rank(np.array([0.1, 0.6, 0.0, 0.3]), np.zeros((4, 0), np.float32), np.zeros((5, 0), np.float32))
    assert indices(found) == [1, 3, 0, 2]


def test_many_pictures_have_their_place_too(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    pool, chance = rng.normal(size=(700, 4)).astype(np.float32), rng.random(700)
    whole = rank(chance, pool, pool[:10] + 5)
    monkeypatch.setattr(ranking, "ONE_BY_ONE", 300)
    told: list[tuple[int, int]] = []
    found = rank(chance, pool, pool[:10] + 5, lambda _what, done, total: told.append((done, total)))
    assert indices(found)[:300] == indices(whole)[:300]
    assert sorted(indices(found)) == list(range(700))
    least = ranking.LEAST_WEIGHT
    rest = [(least + (1 - least) * r.uncertainty) * r.distance for r in found[300:]]
    assert rest == sorted(rest, reverse=True)
    assert told == [(0, 300), (100, 300), (200, 300), (300, 300)]
