import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from linewatch.anomaly_model.progress import no_progress
from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.training.data.dataset import Dataset
from linewatch.training.data.pictures import PictureStore, load_pictures
from linewatch.training.data.reading import read_dataset
from linewatch.training.families import descent, segmentation_training
from linewatch.training.families.encoder import Encoder
from linewatch.training.families.segmentation import SegmentationNet, export, placeholder
from linewatch.training.families.segmentation_training import SegmentationFamily
from linewatch.training.graph.color import to_planes, write_color
from linewatch.training.graph.cost import count_work
from linewatch.training.graph.writer import GraphWriter
from linewatch.training.workspace import Workspace


@pytest.fixture
def store(parts: Path, tmp_path: Path) -> PictureStore:
    return load_pictures(read_dataset(parts / "train"), 64, Workspace(tmp_path), no_progress)


@pytest.fixture
def unmasked(parts: Path, tmp_path: Path) -> PictureStore:
    full = read_dataset(parts / "train")
    plain = Dataset(tuple(dataclasses.replace(s, mask=None) for s in full.samples), (), 0, "plain")
    return load_pictures(plain, 64, Workspace(tmp_path), no_progress)


def family(encoder: Encoder, store: PictureStore, steps: int, folder: Path, progress=no_progress) -> SegmentationFamily:
    folder.mkdir(exist_ok=True)
    return SegmentationFamily(encoder, store, steps, 0, Workspace(folder), progress)


@pytest.mark.parametrize("labels", [0, 1, 3])
def test_the_graph_gives_what_the_trained_net_gives(encoder: Encoder, labels: int) -> None:
    torch.manual_seed(0)
    net = SegmentationNet(encoder, labels)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3), np.uint8)
    net.train()
    for _ in range(3):  # normalisation statistics that are not the initial ones
        net(torch.from_numpy(to_planes(pictures)))
    fitted = export(net)
    with torch.no_grad():
        outlines, anomaly, picture = net(torch.from_numpy(to_planes(pictures[:1])))
    g = GraphWriter(64, 96)
    written = fitted.write(g, write_color(g))
    assert written.segmentation
    assert written.segmentation.stride == 2
    found = OnnxRuntime(
        g.build([written.segmentation.logits, written.segmentation.max_logit, *written.score_values])
    ).run_arrays(pictures[:1])
    area = torch.sigmoid(anomaly).mean().sqrt().item()
    np.testing.assert_allclose([found[3].item(), found[4].item()], [area, picture.item()], atol=1e-3)
    if outlines is None:
        np.testing.assert_allclose(found[0][0], np.stack([np.zeros((32, 48)), anomaly[0, 0].numpy()]), atol=1e-3)
        np.testing.assert_allclose(found[1], anomaly.numpy(), atol=1e-3)
    else:
        defect, classes = outlines[0, :1].numpy(), outlines[0, 1:].numpy()
        relative = defect + classes - classes.max(axis=0)
        np.testing.assert_allclose(found[0][0], np.concatenate([0 * defect, relative]), atol=1e-3)
        np.testing.assert_allclose(found[1][0], defect, atol=1e-3)
        # What is drawn is the likeliest label, where a defect is likelier than none.
        drawn = found[0][0].argmax(axis=0)
        assert np.array_equal(drawn > 0, defect[0] > 0)
        assert np.array_equal(drawn[drawn > 0] - 1, classes.argmax(axis=0)[drawn > 0])
    assert found[2].item() <= anomaly.max().item() + 1e-3


def test_a_placeholder_costs_what_a_fitted_net_costs(encoder: Encoder) -> None:
    g, h = GraphWriter(64, 96), GraphWriter(64, 96)
    graphs = [
        writer.build(fitted.write(writer, write_color(writer)).score_values)
        for writer, fitted in ((g, placeholder(encoder, 3)), (h, export(SegmentationNet(encoder, 3))))
    ]
    assert count_work(graphs[0]) == count_work(graphs[1])


def test_a_frozen_encoder_stays_as_it_is(encoder: Encoder, unmasked: PictureStore, tmp_path: Path) -> None:
    # Without masks it is never fitted.
    fitted = family(encoder, unmasked, 3, tmp_path / "w").fit(np.ones(len(unmasked), bool), "k")
    assert fitted.outlines is None
    for mine, theirs in zip(fitted.encoder.blocks, encoder.blocks, strict=True):
        for a, b in zip(mine.convolutions, theirs.convolutions, strict=True):
            assert np.array_equal(a.weight, b.weight)
            assert np.array_equal(a.bias, b.bias)


def test_with_masks_the_encoder_is_fitted_after_the_decoder(encoder: Encoder, store: PictureStore, tmp_path: Path) -> None:
    fit = segmentation_training._Fit(family(encoder, store, 10, tmp_path / "w"), SegmentationNet(encoder, 3), np.ones(len(store), bool), "k")
    encoder_weights = fit.net.encoder.weights
    first, last = encoder_weights[0].detach().clone(), encoder_weights[-1].detach().clone()
    for step, frozen in ((0, True), (1, True), (2, False), (9, False)):
        loss = fit._loss(step)
        assert fit.net.encoder.frozen == frozen
        loss.backward()
        assert (encoder_weights[-1].grad is None) == frozen
        assert encoder_weights[0].grad is None
    fit.net.zero_grad()
    fit.run()
    assert torch.equal(first, encoder_weights[0])
    assert not torch.equal(last, encoder_weights[-1])


@pytest.mark.slow
def test_training_lowers_the_loss(encoder: Encoder, store: PictureStore, tmp_path: Path) -> None:
    net = SegmentationNet(encoder, 3)
    fit = segmentation_training._Fit(family(encoder, store, 30, tmp_path / "w"), net, np.ones(len(store), bool), "k")
    before = float(fit._loss(5).detach())
    fit.run()
    assert float(fit._loss(5).detach()) < 0.8 * before


def test_a_stopped_fit_goes_on_to_the_same_weights(
    encoder: Encoder, store: PictureStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descent, "CHECKPOINT_SECONDS", 0.0)
    everything = np.ones(len(store), bool)
    expected = family(encoder, store, 4, tmp_path / "whole").fit(everything, "k")

    def stop(_stage: str, done: int, _total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        family(encoder, store, 4, tmp_path / "halves", stop).fit(everything, "k")
    told: list[int] = []
    again = family(encoder, store, 4, tmp_path / "halves", lambda _stage, done, _total: told.append(done)).fit(everything, "k")
    assert told[0] == 3
    np.testing.assert_array_equal(again.anomaly[0], expected.anomaly[0])
    np.testing.assert_array_equal(again.encoder.blocks[3].convolutions[0].weight, expected.encoder.blocks[3].convolutions[0].weight)
    # A finished fit is not done again.
    kept = family(encoder, store, 4, tmp_path / "halves", stop).fit(everything, "k")
    np.testing.assert_array_equal(kept.picture[0], expected.picture[0])


def test_masks_that_show_nothing_at_the_input_are_as_good_as_none(encoder: Encoder, store: PictureStore, tmp_path: Path) -> None:
    class Vanished(PictureStore):
        def label_map(self, index: int) -> np.ndarray:
            return np.zeros_like(super().label_map(index))

    empty = Vanished(**{f.name: getattr(store, f.name) for f in dataclasses.fields(store)})
    everything = np.ones(len(store), bool)
    fit = segmentation_training._Fit(family(encoder, empty, 4, tmp_path / "w"), SegmentationNet(encoder, 3), everything, "k")
    assert np.array_equal(fit.unmasked, np.flatnonzero(store.is_anomaly))
    assert np.isfinite(fit._loss(0).item())


def test_anomalies_without_masks_teach_beside_those_with(encoder: Encoder, parts: Path, tmp_path: Path) -> None:
    full = read_dataset(parts / "train")
    anomalies = [s for s in full.samples if s.is_anomaly]
    bare = {s.name for s in anomalies[::2]}
    mixed = dataclasses.replace(full, samples=tuple(dataclasses.replace(s, mask=None) if s.name in bare else s for s in full.samples))
    store = load_pictures(mixed, 64, Workspace(tmp_path), no_progress)
    fit = segmentation_training._Fit(
        family(encoder, store, 4, tmp_path / "w"), SegmentationNet(encoder, len(store.labels)), np.ones(len(store), bool), "k"
    )
    assert sorted(store.names[i] for i in fit.unmasked) == sorted(bare)
    rng = np.random.default_rng(0)
    crops, pictures = fit._of_large_crops(rng), fit._of_pictures(rng)
    assert float(fit._loss(0).detach()) > 0
    assert np.isfinite([crops.item(), pictures.item()]).all()
