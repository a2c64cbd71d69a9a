from pathlib import Path

import numpy as np
import pytest

from linewatch.commands.drawn_parts import HEIGHT, LABELS, WIDTH, PartSet, draw_part, write_set
from linewatch.training.data.masks import read_mask
from linewatch.training.data.reading import read_dataset
from linewatch.training.metrics import image_metrics


def test_same_seed_same_pixels() -> None:
    first, second = (list(PartSet(2, 3, 1, 1, seed=5)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert (a.picture == b.picture).all()
        assert (a.labels == b.labels).all()
    other = next(iter(PartSet(2, 3, 1, 1, seed=6)))
    assert (other.picture != first[0].picture).any()


@pytest.mark.slow
def test_a_brightness_rule_fails() -> None:
    """Even the best threshold on the mean, in either direction, chosen with the answers in hand."""
    drawn = list(PartSet(30, 30, 0, 0, seed=1))
    means = np.array([p.picture.mean() for p in drawn])
    truth = np.array([p.is_anomaly for p in drawn])
    fair = image_metrics(means, truth, float(np.median(means)))
    best = max(image_metrics(s * means, truth, s * t).f1 for s in (1, -1) for t in means)
    assert fair.roc_auc == pytest.approx(0.5, abs=0.2)
    assert best < 0.7


@pytest.mark.parametrize("kind", LABELS)
def test_each_defect_is_drawn_where_its_mask_is(kind: str) -> None:
    index = list(LABELS).index(kind) + 1
    for seed in range(4):
        clean, nothing = draw_part(np.random.default_rng(seed), [])
        assert not nothing.any()
        picture, labels = draw_part(np.random.default_rng(seed), [kind])
        assert picture.shape == clean.shape == (HEIGHT, WIDTH, 3)
        assert set(np.unique(labels)) == {0, index}
        share = (labels > 0).mean()
        assert 0.0002 < share < 0.02


def test_written_set_reads_back(tmp_path: Path) -> None:
    assert write_set(tmp_path, PartSet(3, 4, 2, 2)) == 11
    for split, counts in (("train", (3, 4)), ("test", (2, 2))):
        folder, manifest = read_dataset(tmp_path / split), read_dataset(tmp_path / split / "data.manifest")
        assert (folder.normals, folder.anomalies) == (manifest.normals, manifest.anomalies) == counts
    drawn = {p.name: p.labels for p in PartSet(3, 4, 0, 0)}
    for dataset in (read_dataset(tmp_path / "train"), read_dataset(tmp_path / "train" / "data.manifest")):
        for sample in dataset.samples:
            found = read_mask(sample, dataset.labels, HEIGHT, WIDTH)
            names = [None, *(label.name for label in dataset.labels)]
            right = [None, *LABELS]
            assert [[names[v] for v in row] for row in found[::7]] == [
                [right[v] for v in row] for row in drawn[sample.path.stem][::7]
            ]
