from pathlib import Path

import numpy as np
import pytest

from linewatch.commands.drawn.canvas import HEIGHT, WIDTH
from linewatch.commands.drawn.kinds import DEFAULT_KIND, KINDS
from linewatch.commands.drawn.part_set import PartSet
from linewatch.commands.drawn.writing import write_set
from linewatch.training.data.masks import read_mask
from linewatch.training.data.reading import read_dataset

DEFECTS = [(kind, defect) for kind, about in KINDS.items() for defect in about.labels]


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_pixels(kind: str) -> None:
    first, second = (list(PartSet(1, 2, 1, 1, seed=5, kind=kind)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert (a.picture == b.picture).all()
        assert (a.labels == b.labels).all()
    other = next(iter(PartSet(1, 0, 0, 0, seed=6, kind=kind)))
    assert (other.picture != first[0].picture).any()


def test_the_default_kind_is_drawn_as_ever() -> None:
    """Bundles and figures of earlier releases come from these pixels: means of 60 x 80 pixels of the first bad part, and its scratch."""
    [part] = PartSet(0, 1, 0, 0)
    assert PartSet().kind == DEFAULT_KIND == "machined"
    means = part.picture.reshape(4, 60, 4, 80, 3).mean((1, 3, 4))
    was = [
        [73.39, 82.91, 77.74, 68.28],
        [85.96, 131.8, 131.31, 83.38],
        [86.73, 132.31, 131.7, 83.04],
        [70.73, 83.87, 85.33, 69.52],
    ]
    assert means == pytest.approx(np.array(was), abs=0.02)
    assert np.bincount(part.labels.ravel()).tolist() == [76704, 96]


@pytest.mark.parametrize(("kind", "defect"), DEFECTS)
def test_each_defect_is_drawn_where_its_mask_is(kind: str, defect: str) -> None:
    """Mostly 0.05 to 3 % of the picture; good parts have an empty mask."""
    about = KINDS[kind]
    index = list(about.labels).index(defect) + 1
    shares = []
    for seed in range(4):
        clean, nothing = about.draw(np.random.default_rng(seed), [])
        assert not nothing.any()
        picture, labels = about.draw(np.random.default_rng(seed), [defect])
        assert picture.shape == clean.shape == (HEIGHT, WIDTH, 3)
        assert picture.dtype == labels.dtype == np.uint8
        assert set(np.unique(labels)) == {0, index}
        shares.append((labels > 0).mean())
    assert min(shares) > 0.0002
    assert np.median(shares) > 0.0005
    assert max(shares) < 0.03


@pytest.mark.parametrize("kind", KINDS)
def test_written_set_reads_back(kind: str, tmp_path: Path) -> None:
    labels = KINDS[kind].labels
    assert 2 <= len(labels) <= 3
    assert write_set(tmp_path, PartSet(3, 4, 2, 2, kind=kind)) == 11
    for split, counts in (("train", (3, 4)), ("test", (2, 2))):
        folder, manifest = read_dataset(tmp_path / split), read_dataset(tmp_path / split / "data.manifest")
        assert (folder.normals, folder.anomalies) == (manifest.normals, manifest.anomalies) == counts
    drawn = {p.name: p.labels for p in PartSet(3, 4, 0, 0, kind=kind)}
    for dataset in (read_dataset(tmp_path / "train"), read_dataset(tmp_path / "train" / "data.manifest")):
        for sample in dataset.samples:
            found = read_mask(sample, dataset.labels, HEIGHT, WIDTH)
            names = [None, *(label.name for label in dataset.labels)]
            right = [None, *labels]
            assert [[names[v] for v in row] for row in found[::7]] == [
                [right[v] for v in row] for row in drawn[sample.path.stem][::7]
            ]
