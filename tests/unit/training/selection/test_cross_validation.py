from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from linewatch.anomaly_model.progress import no_progress
from linewatch.training.arrays import Bools
from linewatch.training.data.pictures import PictureStore, load_pictures
from linewatch.training.data.reading import read_dataset
from linewatch.training.graph.outputs import FamilyOutputs, FittedFamily, Score, Supervision
from linewatch.training.graph.writer import GraphWriter
from linewatch.training.selection.cross_validation import _near_chance, cross_validate
from linewatch.training.workspace import Workspace


class Constant:
    """Says the same of every picture."""

    def write(self, g: GraphWriter, color: str) -> FamilyOutputs:
        """See `FittedFamily`."""
        flat = g.scale(g.node("GlobalAveragePool", color), 0.0)
        return FamilyOutputs({"nothing": Score(g.node("ReduceMax", flat, axes=[1], keepdims=1), Supervision.SUPERVISED)})


@dataclass
class ConstantFamily:
    """A family that learns nothing, quick or slow."""

    slow: bool
    fits: list[str] = field(default_factory=list)
    name: str = "constant"
    folds: int = 3
    divisions: int = 1

    def placeholder(self) -> FittedFamily | None:
        """See `Family`."""
        return Constant() if self.slow else None

    def fit(self, _chosen: Bools, key: str) -> FittedFamily:
        """See `Family`."""
        self.fits.append(key)
        return Constant()


@pytest.fixture
def store(parts: Path, tmp_path: Path) -> PictureStore:
    return load_pictures(read_dataset(parts / "train"), 64, Workspace(tmp_path), no_progress)


def test_a_slow_family_near_chance_is_dropped_after_its_first_fold(store: PictureStore, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    family = ConstantFamily(slow=True)
    assert cross_validate(family, store, np.arange(len(store)), 0, Workspace(tmp_path / "w"), no_progress) is None
    assert family.fits == ["fold-1-of-3"]


def test_a_quick_one_is_judged_whole(store: PictureStore, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    family = ConstantFamily(slow=False)
    found = cross_validate(family, store, np.arange(len(store)), 0, Workspace(tmp_path / "w"), no_progress)
    assert found is not None
    assert family.fits == ["fold-1-of-3", "fold-2-of-3", "fold-3-of-3"]
    assert np.array_equal(found.scores["nothing"], np.zeros(len(store)))


@pytest.mark.parametrize(
    ("scores", "overlap", "dropped"),
    [
        ({"a": [0, 1, 0, 1], "b": [1, 0, 0, 1]}, 0.05, True),
        ({"a": [0, 1, 0, 1], "b": [0, 0, 1, 1]}, 0.05, False),  # one of its scores tells the classes apart
        ({"a": [0, 1, 0, 1]}, 0.3, False),  # its masks are good
        ({"a": [0, 1, 0, 1]}, np.nan, True),  # there are no masks
    ],
)
def test_what_is_near_chance(scores: dict[str, list[float]], overlap: float, dropped: bool) -> None:
    fold = {f"score {name}": np.array(values, np.float64) for name, values in scores.items()}
    truth = np.array([False, False, True, True])
    assert _near_chance({**fold, "overlaps": np.full((4, 2), overlap)}, truth) == dropped


def test_a_fold_of_one_class_says_nothing_of_chance() -> None:
    assert not _near_chance({"score a": np.zeros(3), "overlaps": np.full((3, 1), np.nan)}, np.zeros(3, bool))
