import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from linewatch.training.data.folds import assign_folds
from linewatch.training.data.groups import Groups, classes_in_one_group, keep_classes, merge_groups
from linewatch.training.data.holdout import hold_out
from linewatch.training.data.near_duplicates import leaks, near_duplicates


def thumbnails(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, (count, 16, 16, 3)).astype(np.float32)


def test_near_duplicates_are_found_and_others_are_not() -> None:
    pictures = thumbnails(30)
    pictures[7] = pictures[3]
    pictures[9] = pictures[3] + np.random.default_rng(1).normal(0, 0.4, pictures[3].shape)
    groups = near_duplicates(pictures, np.zeros(30, bool))
    assert groups[3] == groups[7] == groups[9]
    assert len(np.unique(groups)) == 28


def test_parts_that_all_look_alike_are_not_one_group() -> None:
    # A fixed camera: the same scene, told apart by a little noise only.
    scene = thumbnails(1)[0]
    pictures = scene + np.random.default_rng(2).normal(0, 1.0, (25, 16, 16, 3)).astype(np.float32)
    assert len(np.unique(near_duplicates(pictures, np.zeros(25, bool)))) == 25


def test_clean_parts_of_one_kind_or_two_are_not_joined_however_far_the_bad_ones_are() -> None:
    scene, other, spots = thumbnails(2)[0], thumbnails(2)[1], thumbnails(26, seed=5)
    rng = np.random.default_rng(2)
    good = np.stack([(scene, other)[i % 2] + rng.normal(0, 0.05, scene.shape) for i in range(26)])
    pictures, truth = np.concatenate([good, spots]).astype(np.float32), np.arange(52) >= 26
    assert len(np.unique(near_duplicates(pictures, truth))) == 52
    same = near_duplicates(np.concatenate([spots[:3], spots[:3]]), np.arange(6) >= 3)
    assert len(np.unique(same)) == 6, "a good and a bad picture that look alike tell nothing of each other"


def test_a_chain_of_near_duplicates_is_one_group_and_thousands_are_no_trouble() -> None:
    pictures = thumbnails(2000)
    first, step = pictures[0] * 0.5, np.full(pictures.shape[1:], 1.5, np.float32)
    for i in range(40):  # each is near its neighbours only: the ends are 60 grey levels apart
        pictures[i * 31] = first + i * step
    pictures[1500:1900] = pictures[1499]
    groups = near_duplicates(pictures, np.zeros(2000, bool))
    assert len(np.unique(groups[np.arange(40) * 31])) == 1
    assert len(np.unique(groups[1499:1900])) == 1
    assert len(np.unique(groups)) == 2000 - 39 - 400


def test_leaks_name_the_pairs() -> None:
    train, test = thumbnails(20), thumbnails(5, seed=1)
    test[2] = train[11]
    known, asked = np.arange(20) % 2 == 0, np.zeros(5, bool)
    assert leaks(train, known, test, asked) == [(2, 11)]
    assert leaks(train, known, test, ~asked) == []
    assert leaks(train, known, thumbnails(5, seed=3), asked) == []


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
    part = assign_folds(strata, groups, parts, seed)
    assert ((part >= 0) & (part < parts)).all()
    for group in np.unique(groups):
        assert len(np.unique(part[groups == group])) == 1


@given(st.lists(st.integers(4, 40), min_size=1, max_size=4), st.integers(2, 6), st.integers(0, 5))
def test_every_kind_is_spread_evenly(counts: list[int], parts: int, seed: int) -> None:
    strata = np.repeat(np.arange(len(counts)), counts)
    part = assign_folds(strata, np.arange(len(strata)), parts, seed)
    for kind, count in enumerate(counts):
        members = np.bincount(part[strata == kind], minlength=parts)
        assert members.max() - members.min() <= 1, (kind, count)


LAYOUTS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 9)), min_size=5, max_size=70)
"""Kind, part that the user named (0 to 4 stand for none), group of look-alikes."""


def layout(pictures: list[tuple[int, int, int]]) -> tuple[np.ndarray, Groups]:
    strata = np.array([s for s, _, _ in pictures])
    named = [100 + i if g < 5 else g for i, (_, g, _) in enumerate(pictures)]
    # Look-alikes are of one class.
    alike = [2 * a + (s > 0) for s, _, a in pictures]
    return strata, Groups(*(np.unique(g, return_inverse=True)[1].astype(np.int64) for g in (named, alike)))


@given(LAYOUTS, st.sampled_from([2, 3, 6, 20]), st.integers(0, 3))
def test_whatever_part_is_left_out_both_classes_are_left_to_learn_from(
    pictures: list[tuple[int, int, int]], parts: int, seed: int
) -> None:
    strata, groups = layout(pictures)
    kept = keep_classes(groups, strata > 0)
    confined = classes_in_one_group(kept.merged(), strata > 0)
    part = assign_folds(strata, kept.merged(), parts, seed)
    for value in (False, True):
        mine = (strata > 0) == value
        if value in confined:  # the user's own groups say so, or there is only one picture
            assert mine.sum() == 1 or len(np.unique(groups.named[mine])) < mine.sum()
        elif mine.any():
            assert all((mine & (part != p)).any() for p in range(parts))
    for given_up in kept.given_up:
        assert len(given_up) > 1
        assert len(np.unique(groups.alike[given_up])) == 1
    for group in np.unique(groups.named):
        assert len(np.unique(part[groups.named == group])) == 1


def test_look_alikes_of_the_other_class_that_tie_named_parts_give_way_too() -> None:
    # Two parts, each with a good and a bad picture; their good sides look alike.
    groups = Groups(np.array([0, 1, 2, 1, 2]), np.array([0, 1, 1, 2, 3]))
    kept = keep_classes(groups, np.array([False, False, False, True, True]))
    assert [given_up.tolist() for given_up in kept.given_up] == [[1, 2]]
    assert len(np.unique(kept.merged()[3:])) == 2


@given(LAYOUTS, st.floats(0.05, 0.5), st.integers(0, 3))
def test_a_part_held_out_leaves_enough_and_has_both_classes(
    pictures: list[tuple[int, int, int]], share: float, seed: int
) -> None:
    strata, groups = layout(pictures)
    split = hold_out(strata, groups, share, seed)
    classes = [strata == 0, strata > 0] if (strata > 0).any() else [strata == 0]
    alone = all(len(np.unique(groups.named[mine])) == mine.sum() for mine in classes)
    enough = all(mine.sum() >= 10 for mine in classes)
    if split is None:
        assert not (alone and enough)
        return
    assert sorted([*split.kept, *split.out]) == list(range(len(strata)))
    left, merged = split.groups.subset(split.kept), split.groups.merged()
    assert not set(merged[split.kept]) & set(merged[split.out])
    assert not classes_in_one_group(keep_classes(left, strata[split.kept] > 0).merged(), strata[split.kept] > 0)
    for mine in classes:
        assert mine[split.kept].sum() >= 5
        assert mine[split.out].any() or not (alone and enough)


def test_what_looks_alike_stays_together_where_enough_is_left() -> None:
    strata = np.repeat([0, 1], 30)
    alike = np.concatenate([np.repeat(np.arange(10), 3), 10 + np.arange(30)])
    groups = Groups(np.arange(60), alike)
    split = hold_out(strata, groups, 0.2, 0)
    assert split is not None
    assert split.groups.given_up == ()
    assert 10 <= len(split.out) <= 14
    one = Groups(np.arange(60), np.concatenate([np.zeros(30, int), 1 + np.arange(30)]))
    split = hold_out(strata, one, 0.2, 0)
    assert split is not None
    assert [len(g) for g in split.groups.given_up] == [30]
    assert (strata[split.out] == 0).sum() == 6
