import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from linewatch.anomaly_model.progress import no_progress
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.training.data.crops import CropSource
from linewatch.training.data.dataset import Dataset
from linewatch.training.data.pictures import PictureStore, load_pictures
from linewatch.training.data.reading import read_dataset
from linewatch.training.families import descent, unet_training
from linewatch.training.families.unet import UNet, export, placeholder
from linewatch.training.families.unet_training import UNetFamily
from linewatch.training.graph.color import to_planes, write_color
from linewatch.training.graph.cost import count_work
from linewatch.training.graph.writer import GraphWriter
from linewatch.training.workspace import Workspace


@pytest.fixture
def store(parts: Path, tmp_path: Path) -> PictureStore:
    return load_pictures(read_dataset(parts / "train"), 64, Workspace(tmp_path), no_progress)


def family(store: PictureStore, steps: int, folder: Path, progress=no_progress) -> UNetFamily:
    folder.mkdir(exist_ok=True)
    return UNetFamily(store, steps, 0, Workspace(folder), progress)


def test_planes_are_what_the_graph_computes() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), np.uint8)
    g = GraphWriter(32, 48)
    [found] = OnnxRuntime(g.build([write_color(g)])).run_arrays(pictures)
    np.testing.assert_allclose(found, to_planes(pictures), atol=1e-5)


def test_the_graph_gives_what_the_trained_net_gives() -> None:
    torch.manual_seed(0)
    net = UNet(4)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    net.train()
    for _ in range(3):  # normalisation statistics that are not the initial ones
        net(torch.from_numpy(to_planes(pictures)))
    fitted = export(net)
    with torch.no_grad():
        logits = net(torch.from_numpy(to_planes(pictures[:1])))[0].numpy()
    g = GraphWriter(64, 96)
    written = fitted.write(g, write_color(g))
    assert written.segmentation
    labels, max_logit, peak = OnnxRuntime(
        g.build([written.segmentation.logits, written.segmentation.max_logit, written.scores["U-Net peak"].value])
    ).run_arrays(pictures[:1])
    np.testing.assert_allclose(labels[0], logits - logits[:1], atol=1e-3)
    np.testing.assert_allclose(max_logit[0, 0], (logits - logits[:1])[1:].max(axis=0), atol=1e-3)
    assert peak.item() <= max_logit.max() + 1e-4


def test_a_placeholder_costs_what_a_fitted_net_costs() -> None:
    g, h = GraphWriter(64, 96), GraphWriter(64, 96)
    graphs = [
        writer.build(fitted.write(writer, write_color(writer)).score_values)
        for writer, fitted in ((g, placeholder(4)), (h, export(UNet(4))))
    ]
    assert count_work(graphs[0]) == count_work(graphs[1])


def test_crops_show_every_label_alike_and_masks_follow_their_pictures(store: PictureStore) -> None:
    everything = np.ones(len(store), bool)
    source = CropSource.make(store, everything, 48, 0)
    rng = np.random.default_rng(0)
    seen = np.zeros(4)
    for _ in range(120):
        picture, labels = source.draw(rng)
        assert picture.shape == (48, 48, 3)
        assert labels.shape == (48, 48)
        seen[np.unique(labels)] += 1
    assert seen[1:].min() > 0.4 * seen[1:].max()


def test_crops_of_the_whole_defect_are_brighter_where_it_was_drawn(store: PictureStore) -> None:
    # Marking every defect in white: the mask of a crop must lie where its picture is white, mirrored or not.
    class Marked(PictureStore):
        def input(self, index: int) -> np.ndarray:
            picture = np.full((1, self.spec.height, self.spec.width, 3), 60, np.uint8)
            picture[0][self.label_map(index) > 0] = 200
            return picture

    fields = {f.name: getattr(store, f.name) for f in dataclasses.fields(store)}
    source = CropSource.make(Marked(**fields), np.ones(len(store), bool), 48, 0)
    rng = np.random.default_rng(1)
    for _ in range(60):
        picture, labels = source.draw(rng)
        if labels.any():
            assert picture[labels > 0].mean() > picture[labels == 0].mean() + 60


def test_without_masks_defects_are_made_up(parts: Path, tmp_path: Path) -> None:
    full = read_dataset(parts / "train")
    plain = Dataset(tuple(dataclasses.replace(s, mask=None) for s in full.samples), (), 0, "plain")
    bare = load_pictures(plain, 64, Workspace(tmp_path), no_progress)
    source = CropSource.make(bare, bare.has_pixel_labels(), 48, 0)
    rng = np.random.default_rng(0)
    assert any(source.draw(rng)[1].any() for _ in range(40))
    fitted = family(bare, 2, tmp_path / "w").fit(np.ones(len(bare), bool), "weak")
    assert len(fitted.out[1]) == 2


@pytest.mark.slow
def test_training_lowers_the_loss(store: PictureStore, tmp_path: Path) -> None:
    fit = unet_training._Fit(family(store, 40, tmp_path / "w"), UNet(4), np.ones(len(store), bool), "k")
    before = float(fit._loss(5).detach())
    fit.run()
    assert float(fit._loss(5).detach()) < 0.8 * before


def test_a_stopped_fit_goes_on_to_the_same_weights(
    store: PictureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descent, "CHECKPOINT_SECONDS", 0.0)
    everything = np.ones(len(store), bool)
    whole = family(store, 6, tmp_path / "a").fit(everything, "k")

    def stop(_what: str, done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        family(store, 6, tmp_path / "b", stop).fit(everything, "k")
    assert (tmp_path / "b" / "unet-k-unfinished.npz").is_file()
    resumed = family(store, 6, tmp_path / "b").fit(everything, "k")
    np.testing.assert_array_equal(whole.out[0], resumed.out[0])
    np.testing.assert_array_equal(whole.down[0][0][0], resumed.down[0][0][0])
    assert not (tmp_path / "b" / "unet-k-unfinished.npz").exists()
    kept = family(store, 6, tmp_path / "b", stop).fit(everything, "k")  # finished: no step is done again
    np.testing.assert_array_equal(whole.out[0], kept.out[0])
