import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from training.folds import divide, leaks, merge_groups, near_duplicates


def thumbnails(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, (count, 16, 16, 3)).astype(np.float32)


def test_near_duplicates_are_found_and_others_are_not() -> None:
    pictures = thumbnails(30)
    pictures[7] = pictures[3]
    pictures[9] = pictures[3] + np.random.default_rng(1).normal(0, 0.4, pictures[3].shape)
    groups = near_duplicates(pictures)
    assert groups[3] == groups[7] == groups[9]
    assert len(np.unique(groups)) == 28


def test_parts_that_all_look_alike_are_not_one_group() -> None:
    # A fixed camera: the same scene, told apart by a little noise only.
    scene = thumbnails(1)[0]
    pictures = scene + np.random.default_rng(2).normal(0, 1.0, (25, 16, 16, 3)).astype(np.float32)
    assert len(np.unique(near_duplicates(pictures))) == 25


def test_a_chain_of_near_duplicates_is_one_group_and_thousands_are_no_trouble() -> None:
    pictures = thumbnails(2000)
    first, step = pictures[0] * 0.5, np.full(pictures.shape[1:], 1.5, np.float32)
    for i in range(40):  # each is near its neighbours only: the ends are 60 grey levels apart
        pictures[i * 31] = first + i * step
    pictures[1500:1900] = pictures[1499]
    groups = near_duplicates(pictures)
    assert len(np.unique(groups[np.arange(40) * 31])) == 1
    assert len(np.unique(groups[1499:1900])) == 1
    assert len(np.unique(groups)) == 2000 - 39 - 400


def test_leaks_name_the_pairs() -> None:
    train, test = thumbnails(20), thumbnails(5, seed=1)
    test[2] = train[11]
    assert leaks(train, test) == [(2, 11)]
    assert leaks(train, thumbnails(5, seed=3)) == []


def test_groups_merge_transitively() -> None:
    merged = merge_groups(np.array([0, 0, 1, 2, 3]), np.array([0, 1, 1, 2, 3]))
    assert merged[0] == merged[1] == merged[2]
    assert len(np.unique(merged)) == 3


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 12)), min_size=6, max_size=120),
    st.integers(2, 6),
    st.integers(0, 5),
)
def test_no_group_is_divided(pictures: list[tuple[int, int]], parts: int, seed: int) -> None:
    strata = np.array([s for s, _ in pictures])
    groups = np.unique([g for _, g in pictures], return_inverse=True)[1]
    part = divide(strata, groups, parts, seed)
    assert ((part >= 0) & (part < parts)).all()
    for group in np.unique(groups):
        assert len(np.unique(part[groups == group])) == 1


@given(st.lists(st.integers(4, 40), min_size=1, max_size=4), st.integers(2, 6), st.integers(0, 5))
def test_every_kind_is_spread_evenly(counts: list[int], parts: int, seed: int) -> None:
    strata = np.repeat(np.arange(len(counts)), counts)
    part = divide(strata, np.arange(len(strata)), parts, seed)
    for kind, count in enumerate(counts):
        members = np.bincount(part[strata == kind], minlength=parts)
        assert members.max() - members.min() <= 1, (kind, count)
