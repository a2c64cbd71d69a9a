from pathlib import Path

import numpy as np
import pytest

from linewatch.anomaly_model.progress import no_progress
from linewatch.training.data.dataset import Dataset
from linewatch.training.data.pictures import PictureStore, load_pictures
from linewatch.training.data.reading import read_dataset
from linewatch.training.families.cells import Cells, collect_cells
from linewatch.training.families.extractor import BANK
from linewatch.training.families.features import FeatureFamily
from linewatch.training.selection.normals import MADE_UP, MOST_COLUMNS, NormalScores, choose_columns, score_normals
from linewatch.training.workspace import Workspace


def drawn(columns: dict[str, float], pictures: int = 200, seed: int = 0, *, shared: float = 0.0) -> NormalScores:
    """Scores whose made-up defects lie so many deviations above clean pictures; `shared` of their variation is common to all."""
    rng = np.random.default_rng(seed)
    sides = []
    for count, apart in ((pictures, 0.0), (pictures * MADE_UP, 1.0)):
        common = rng.standard_normal(count)
        sides.append({
            name: np.sqrt(shared) * common + np.sqrt(1 - shared) * rng.standard_normal(count) + apart * distance
            for name, distance in columns.items()
        })  # fmt: skip
    return NormalScores(*sides, np.arange(pictures) % 5)


def test_a_score_at_chance_does_not_count() -> None:
    chosen, alone = choose_columns(drawn({"good": 2.0, "chance": 0.0}), ("good", "chance"))
    assert chosen == ("good",)
    assert alone["good"] > 0.9
    assert abs(alone["chance"] - 0.5) < 0.06


def test_scores_that_see_different_things_count_together() -> None:
    scores = drawn({"a": 1.2, "b": 1.2, "chance": 0.0})
    chosen, alone = choose_columns(scores, ("a", "b", "chance"))
    assert set(chosen) == {"a", "b"}
    assert scores.roc_auc(chosen) > max(alone.values()) + 0.05


def test_a_score_that_says_the_same_again_does_not_count() -> None:
    scores = drawn({"a": 1.5, "b": 1.45}, shared=0.98)
    assert len(choose_columns(scores, ("a", "b"))[0]) == 1


def test_the_scale_of_a_score_does_not_matter() -> None:
    scores = drawn({"a": 1.2, "b": 1.2})
    scaled = NormalScores(*({**side, "b": 1000 * side["b"] + 7} for side in (scores.clean, scores.made_up)), scores.folds)
    assert choose_columns(scores, ("a", "b"))[0] == choose_columns(scaled, ("a", "b"))[0]
    assert scores.roc_auc(("a", "b")) == pytest.approx(scaled.roc_auc(("a", "b")))


def test_there_is_a_bound_to_their_number() -> None:
    names = tuple("abcdefgh")
    assert len(choose_columns(drawn(dict.fromkeys(names, 0.5), 2000), names)[0]) <= MOST_COLUMNS


@pytest.fixture
def store(parts: Path, tmp_path: Path) -> PictureStore:
    full = read_dataset(parts / "train")
    normals = Dataset(tuple(s for s in full.samples if not s.is_anomaly), (), 0, "normals")
    return load_pictures(normals, 64, Workspace(tmp_path), no_progress)


def test_held_out_pictures_are_scored_clean_and_with_defects(store: PictureStore, tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    workspace = Workspace(tmp_path / "w")
    groups = np.arange(len(store))
    cells = Cells(**collect_cells(store, BANK, 0, no_progress))  # type: ignore[arg-type]
    family = FeatureFamily(BANK, store, cells, groups, 0, 3)
    found = score_normals([family], store, groups, 0, workspace, no_progress)
    assert set(found.clean) == set(found.made_up) >= {"nearest-neighbour peak", "position peak"}
    for name, clean in found.clean.items():
        assert clean.shape == (len(store),)
        assert found.made_up[name].shape == (MADE_UP * len(store),)
        assert np.isfinite(clean).all()
        assert np.isfinite(found.made_up[name]).all()
    # Something strange was pasted: most pictures look stranger than they were.
    name = "nearest-neighbour peak"
    assert (found.made_up[name].reshape(-1, MADE_UP) > found.clean[name][:, None]).mean() > 0.6
    again = score_normals([family], store, groups, 0, workspace, no_progress)
    np.testing.assert_array_equal(found.clean[name], again.clean[name])
