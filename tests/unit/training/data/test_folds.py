import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from linewatch.training.data.folds import FOLDS, assign_folds, count_divisions, count_folds, fewest_folds
from linewatch.training.data.groups import NOT_NAMED, Groups, classes_in_one_group, keep_classes, renumber
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


def test_what_looks_alike_never_ties_parts_that_the_user_named() -> None:
    # Seven boards of forty crops; on each a few nearly white ones that all look the same.
    boards = np.repeat(np.arange(7), 40)
    white = np.arange(280) % 40 < 4
    alike = np.where(white, 0, 1 + np.arange(280))
    groups = Groups(boards, renumber(alike))
    assert np.array_equal(groups.merged(), boards)
    is_anomaly = np.arange(280) % 2 == 0
    assert keep_classes(groups, is_anomaly, FOLDS).given_up == ()
    assert np.bincount(assign_folds(is_anomaly.astype(int), groups.merged(), FOLDS, 0)).tolist() == [80, 40, 40, 40, 40, 40]
    # Pictures without a name are joined with each other, but not with a board.
    mixed = Groups(np.where(np.arange(280) < 240, boards, NOT_NAMED), renumber(alike))
    assert len(np.unique(mixed.merged())) == 6 + 1 + 36
    assert len(np.unique(mixed.merged()[240:][white[240:]])) == 1


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
    named = np.array([NOT_NAMED if g < 5 else g for _, g, _ in pictures])
    # Look-alikes are of one class.
    alike = np.array([2 * a + (s > 0) for s, _, a in pictures])
    return strata, Groups(named, renumber(alike))


@given(LAYOUTS, st.sampled_from([2, 3, 6, 20]), st.integers(0, 3))
def test_whatever_part_is_left_out_both_classes_are_left_to_learn_from(
    pictures: list[tuple[int, int, int]], parts: int, seed: int
) -> None:
    strata, groups = layout(pictures)
    kept = keep_classes(groups, strata > 0, parts)
    confined = classes_in_one_group(kept.merged(), strata > 0)
    part = assign_folds(strata, kept.merged(), parts, seed)
    for value in (False, True):
        mine = (strata > 0) == value
        if value in confined:  # the user's own groups say so, or there is only one picture
            assert mine.sum() == 1 or len(np.unique(groups.indivisible()[mine])) < mine.sum()
        elif mine.any():
            assert all((mine & (part != p)).any() for p in range(parts))
    for given_up in kept.given_up:
        assert len(given_up) > 1
        assert len(np.unique(groups.alike[given_up])) == 1
    for group in set(groups.named) - {NOT_NAMED}:
        assert len(np.unique(part[groups.named == group])) == 1


@given(LAYOUTS, st.sampled_from([2, 3, 6, 20]), st.integers(0, 3))
def test_each_class_is_in_as_many_folds_as_groups_allow(pictures: list[tuple[int, int, int]], wanted: int, seed: int) -> None:
    strata, groups = layout(pictures)
    is_anomaly = strata > 0
    kept = keep_classes(groups, is_anomaly, wanted)
    merged, indivisible = kept.merged(), groups.indivisible()
    folds = count_folds(is_anomaly, merged, wanted)
    part = assign_folds(strata, merged, folds, seed)
    assert 2 <= folds <= wanted
    classes = [mine for mine in (~is_anomaly, is_anomaly) if mine.any()]
    for mine in classes:
        assert len(np.unique(part[mine])) == min(folds, len(np.unique(merged[mine])))
        # Likeness takes no more than half of the folds; what is missing beyond that the user's groups, or few pictures, take.
        assert len(np.unique(part[mine])) >= min(fewest_folds(wanted), len(np.unique(indivisible[mine])))
    if min(len(np.unique(indivisible[mine])) for mine in classes) >= fewest_folds(wanted):
        assert all((mine & (part == p)).any() for mine in classes for p in range(folds)), "a fold without a class"


def test_few_groups_are_left_out_one_by_one() -> None:
    boards = np.repeat([0, 1, 2, 3], [10, 30, 5, 20])
    is_anomaly = np.arange(65) % 2 == 0
    assert count_folds(is_anomaly, boards, FOLDS) == 4
    part = assign_folds(is_anomaly.astype(int), boards, 4, 0)
    assert all(len(np.unique(boards[part == p])) == 1 for p in range(4))
    # Anomalies of two parts only, normal pictures of twenty: three folds, of which one has no anomalies.
    parts = np.concatenate([np.arange(20), np.repeat([20, 21], 5)])
    assert count_folds(np.arange(30) >= 20, parts, FOLDS) == 3
    assert count_folds(np.zeros(30, bool), np.arange(30), 20) == 20


def test_pictures_are_divided_in_several_ways_where_one_is_a_matter_of_luck() -> None:
    boards, is_anomaly = np.repeat([0, 1, 2, 3], 10), np.arange(40) % 2 == 0
    assert count_divisions(is_anomaly, boards, 4, 2) == 1, "each board is a fold: there is no other way"
    assert count_divisions(is_anomaly, np.arange(40), 6, 2) == 2
    assert count_divisions(is_anomaly, np.arange(40), 6, 1) == 1
    assert count_divisions(np.zeros(40, bool), np.arange(40), 20, 2) == 1
    many = np.arange(400)
    assert count_divisions(many % 2 == 0, many, 6, 2) == 1
    assert count_divisions(many < 30, many, 6, 2) == 2, "thirty anomalies are few, however many normal pictures there are"


def test_likeness_gives_way_largest_group_first_until_half_the_folds_can_have_both_classes() -> None:
    # Twenty good parts: one seen eleven times, another nine times.
    alike = np.concatenate([np.repeat([0, 1], [11, 9]), 2 + np.arange(20)])
    kept = keep_classes(Groups(np.full(40, NOT_NAMED), alike), np.arange(40) >= 20, FOLDS)
    assert [given_up.tolist() for given_up in kept.given_up] == [list(range(11))]
    assert len(np.unique(kept.merged()[11:20])) == 1


@given(LAYOUTS, st.floats(0.05, 0.5), st.integers(0, 3))
def test_a_part_held_out_leaves_enough_and_has_both_classes(
    pictures: list[tuple[int, int, int]], share: float, seed: int
) -> None:
    strata, groups = layout(pictures)
    split = hold_out(strata, groups, share, seed)
    classes = [strata == 0, strata > 0] if (strata > 0).any() else [strata == 0]
    alone = all(len(np.unique(groups.indivisible()[mine])) == mine.sum() for mine in classes)
    enough = all(mine.sum() >= 10 for mine in classes)
    if split is None:
        assert not (alone and enough)
        return
    assert sorted([*split.kept, *split.out]) == list(range(len(strata)))
    left, merged = split.groups.subset(split.kept), split.groups.merged()
    assert not set(merged[split.kept]) & set(merged[split.out])
    assert not classes_in_one_group(keep_classes(left, strata[split.kept] > 0, 6).merged(), strata[split.kept] > 0)
    for mine in classes:
        assert mine[split.kept].sum() >= 5
        assert mine[split.out].any() or not (alone and enough)


def test_what_looks_alike_stays_together_where_enough_is_left() -> None:
    strata = np.repeat([0, 1], 30)
    alike = np.concatenate([np.repeat(np.arange(10), 3), 10 + np.arange(30)])
    groups = Groups(np.full(60, NOT_NAMED), alike)
    split = hold_out(strata, groups, 0.2, 0)
    assert split is not None
    assert split.groups.given_up == ()
    assert 10 <= len(split.out) <= 14
    one = Groups(np.full(60, NOT_NAMED), np.concatenate([np.zeros(30, int), 1 + np.arange(30)]))
    split = hold_out(strata, one, 0.2, 0)
    assert split is not None
    assert [len(g) for g in split.groups.given_up] == [30]
    assert (strata[split.out] == 0).sum() == 6
