"""Dividing loaded pictures into those to train on and those to test on, and into groups that stay together."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from linewatch.anomaly_model.errors import DatasetError, Remedy
from linewatch.training.arrays import Ints
from linewatch.training.data.dataset import Dataset
from linewatch.training.data.folds import FOLDS, NORMALS_FOLDS
from linewatch.training.data.groups import LEAST_LEFT, NOT_NAMED, Groups, classes_in_one_group, keep_classes, renumber
from linewatch.training.data.holdout import hold_out
from linewatch.training.data.near_duplicates import near_duplicates
from linewatch.training.data.pictures import PictureStore

CLASS_NAMES = {False: "normal", True: "anomalous"}


@dataclass(frozen=True, slots=True)
class Split:
    """What is trained on, and what is tested on.

    Attributes:
        store: the training pictures.
        groups: their group numbers, 0 to G - 1: pictures that must stay together share one.
        train: the dataset that they are of.
        test: None when nothing is evaluated.
        warnings: for people.
    """

    store: PictureStore
    groups: Ints
    train: Dataset
    test: Dataset | None
    warnings: tuple[str, ...]


def split(dataset: Dataset, store: PictureStore, test: Dataset | None, test_share: float, seed: int) -> Split:
    """Hold a part of the pictures out where there is no test set; near-duplicates stay together.

    Args:
        dataset: all labelled pictures.
        store: the same pictures, decoded.
        test: a test set of its own; None holds a part out.
        test_share: of the pictures, that is held out; 0 for none.
        seed: of the order among groups of equal size.

    Raises:
        DatasetError: a class has too few pictures, or all of them in one group.
    """
    groups = find_groups(dataset, store)
    warnings: list[str] = []
    if test is None and test_share > 0:
        held = hold_out(store.strata(), groups, test_share, seed)
        if held is None:
            raise DatasetError(_too_few(dataset, store, groups), Remedy.HOLD_OUT_NONE)
        warnings += _given_up(store, held.groups)
        store, groups = store.subset(held.kept), held.groups.subset(held.kept)
        test = dataclasses.replace(dataset, samples=tuple(dataset.samples[i] for i in held.out))
        dataset = dataclasses.replace(dataset, samples=tuple(dataset.samples[i] for i in held.kept))
    groups = keep_classes(groups, store.is_anomaly, FOLDS if store.is_anomaly.any() else NORMALS_FOLDS)
    warnings += _given_up(store, groups)
    for value in classes_in_one_group(groups.merged(), store.is_anomaly):
        raise DatasetError(
            f"all {int((store.is_anomaly == value).sum())} {CLASS_NAMES[value]} training pictures of {dataset.source} are of one "
            f"group, which is never divided: nothing would be left to learn from when they are held out. Add {CLASS_NAMES[value]} "
            "pictures of another group"
        )
    return Split(store, groups.merged(), dataset, test, tuple(warnings))


def find_groups(dataset: Dataset, store: PictureStore) -> Groups:
    """The groups that the user named, and near-duplicates among pictures without one."""
    names = {name: i for i, name in enumerate(sorted({s.group for s in dataset.samples if s.group is not None}))}
    named = np.array([NOT_NAMED if s.group is None else names[s.group] for s in dataset.samples], np.int64)
    free = np.flatnonzero(named == NOT_NAMED)
    alike = len(named) + np.arange(len(named))
    alike[free] = near_duplicates(store.thumbnails[free], store.is_anomaly[free])
    return Groups(named, renumber(alike))


def _too_few(dataset: Dataset, store: PictureStore, groups: Groups) -> str:
    counts = []
    for value in (False, True) if dataset.anomalies else (False,):
        mine = store.is_anomaly == value
        several = len(np.unique(groups.indivisible()[mine]))
        of = f" (of {several} group{'s' if several > 1 else ''})" if several < mine.sum() else ""
        counts.append(f"{int(mine.sum())} {CLASS_NAMES[value]}{of}")
    return (
        f"{dataset.source} has {' and '.join(counts)} pictures: too few to hold some out for a test and train on the others, which "
        f"takes {LEAST_LEFT} of each class from two groups or more"
    )


def _given_up(store: PictureStore, groups: Groups) -> list[str]:
    """What near-duplicates gave way for."""
    return [
        f"{len(members)} {CLASS_NAMES[bool(store.is_anomaly[members[0]])]} pictures look alike "
        f"({', '.join(store.names[i] for i in members[:3])}{', ...' if len(members) > 3 else ''}) and were divided all the same, since "
        "too few of their class, or too few folds with it, would be left; if they show one part, the figures flatter"
        for members in groups.given_up
    ]
