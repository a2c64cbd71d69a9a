from pathlib import Path

import numpy as np

from linewatch.anomaly_model.manifest import InputSpec, PictureSize
from linewatch.training.data.dataset import Dataset, Sample
from linewatch.training.data.pictures import PictureStore
from linewatch.training.data.split import split


def pictures(groups: list[str | None], thumbnails: np.ndarray, is_anomaly: np.ndarray) -> tuple[Dataset, PictureStore]:
    names = [f"{i}.png" for i in range(len(groups))]
    samples = tuple(Sample(n, Path(n), bool(a), group=g) for n, a, g in zip(names, is_anomaly, groups, strict=True))
    count = len(names)
    store = PictureStore(
        Path(), np.arange(count), is_anomaly, np.zeros(count, bool), names, np.zeros(count, np.int64), thumbnails, (),
        PictureSize(height=64, width=64), InputSpec(height=64, width=64),
    )  # fmt: skip
    return Dataset(samples, (), 0, "here"), store


def test_what_looks_alike_does_not_tie_named_groups() -> None:
    thumbnails = np.random.default_rng(0).uniform(0, 255, (60, 16, 16, 3)).astype(np.float32)
    thumbnails[::5] = 250  # nearly white ones in every group, and among those without one
    is_anomaly = np.arange(60) % 2 == 0
    names = [f"board {i // 10}" if i < 50 else None for i in range(60)]
    found = split(*pictures(names, thumbnails, is_anomaly), None, 0.0, 0)
    assert [len(np.unique(found.groups[10 * board : 10 * board + 10])) for board in range(5)] == [1] * 5
    assert len(np.unique(found.groups[:50])) == 5
    assert not set(found.groups[:50]) & set(found.groups[50:])
    assert found.groups[50] != found.groups[55], "one is good, the other bad"
    assert found.warnings == ()


def test_look_alikes_that_leave_too_few_folds_are_divided_with_a_warning() -> None:
    thumbnails = np.random.default_rng(0).uniform(0, 255, (40, 16, 16, 3)).astype(np.float32)
    thumbnails[:11], thumbnails[11:20] = 250, 5
    found = split(*pictures([None] * 40, thumbnails, np.arange(40) >= 20), None, 0.0, 0)
    [warning] = found.warnings
    assert warning.startswith("11 normal pictures look alike (0.png, 1.png, 2.png, ...) and were divided all the same")
    assert len(np.unique(found.groups[:11])) == 11
    assert len(np.unique(found.groups[11:20])) == 1
