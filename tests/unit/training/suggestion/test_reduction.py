import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.distance import cdist

from linewatch.training.suggestion.reduction import MOST_NUMBERS, reduce

statistics = arrays(np.float32, st.tuples(st.integers(1, 20), st.integers(1, 30)), elements=st.integers(-50, 50).map(float))


def standardised(values: np.ndarray) -> np.ndarray:
    deviation = values.std(axis=0, dtype=np.float64)
    return (values - values.mean(axis=0, dtype=np.float64))[:, deviation > 0] / deviation[deviation > 0]


@settings(max_examples=40)
@given(statistics)
def test_few_pictures_keep_their_distances(values: np.ndarray) -> None:
    reduced = reduce(values)
    assert reduced.dtype == np.float32
    assert reduced.shape[1] <= min(MOST_NUMBERS, len(values))
    expected = standardised(values)
    np.testing.assert_allclose(cdist(reduced, reduced), cdist(expected, expected), rtol=1e-4, atol=1e-3)


@settings(max_examples=40)
@given(statistics, st.data())
def test_the_scale_of_a_number_does_not_matter(values: np.ndarray, data: st.DataObject) -> None:
    powers = data.draw(arrays(np.int64, values.shape[1], elements=st.integers(-20, 20)))
    scaled = values * np.exp2(powers).astype(np.float32)
    np.testing.assert_array_equal(reduce(scaled), reduce(values))


def test_pictures_that_do_not_differ_have_no_numbers() -> None:
    assert reduce(np.full((5, 3), 6.0, np.float32)).shape == (5, 0)


def test_one_odd_picture_among_thousands_stays_odd() -> None:
    rng = np.random.default_rng(0)
    # Eighty directions of equal variance, and one in which a single picture is away: it has the least variance of all.
    values = np.concatenate([rng.normal(size=(3000, 80)), rng.normal(size=(3000, 1)) * 1e-3], axis=1).astype(np.float32)
    values[123, 80] = 0.03
    reduced = reduce(values)
    assert reduced.shape == (3000, MOST_NUMBERS)
    expected = standardised(values)
    away = cdist(expected[[123]], expected)[0]
    found = cdist(reduced[[123]].astype(np.float64), reduced.astype(np.float64))[0]
    assert (found <= away + 1e-3).all()
    others = np.arange(3000) != 123
    between = cdist(reduced[others][:100], reduced[others])
    assert np.sort(found[others])[0] > 1.3 * np.median(np.sort(between, axis=1)[:, 1])
