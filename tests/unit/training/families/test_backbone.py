from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from linewatch.anomaly_model.runtime_onnx import OnnxRuntime
from linewatch.training.families.backbone import DEVIATION, MEAN, Backbone, BackboneError, load_backbone
from linewatch.training.graph.color import write_color
from linewatch.training.graph.writer import GraphWriter


class Block(nn.Module):
    """A residual block with the names that timm and torchvision use."""

    def __init__(self, inputs: int, width: int, stride: int, *, bottleneck: bool) -> None:
        super().__init__()
        outputs = width * 4 if bottleneck else width
        kernels = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)] if bottleneck else [
            (inputs, width, 3, stride), (width, width, 3, 1)]  # fmt: skip
        self.depth = len(kernels)
        for n, (i, o, k, s) in enumerate(kernels, 1):
            setattr(self, f"conv{n}", nn.Conv2d(i, o, k, s, k // 2, bias=False))
            setattr(self, f"bn{n}", nn.BatchNorm2d(o))
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        for n in range(1, self.depth + 1):
            x = getattr(self, f"bn{n}")(getattr(self, f"conv{n}")(x))
            x = functional.relu(x) if n < self.depth else x
        return functional.relu(x + shortcut)


class SmallNet(nn.Module):
    """A residual net of three stages, 8 channels wide."""

    def __init__(self, *, bottleneck: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False), nn.BatchNorm2d(8)
        inputs = 8
        for stage, (width, blocks) in enumerate([(8, 1), (12, 2), (16, 1)], 1):
            layers = []
            for b in range(blocks):
                layers.append(Block(inputs, width, 2 if stage > 1 and b == 0 else 1, bottleneck=bottleneck))
                inputs = width * 4 if bottleneck else width
            setattr(self, f"layer{stage}", nn.Sequential(*layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        second = self.layer2(self.layer1(x))
        third = functional.interpolate(self.layer3(second), scale_factor=2, mode="bilinear")
        return functional.avg_pool2d(torch.cat([second, third], 1), 3, 1, 1, count_include_pad=False)


@pytest.fixture(params=[False, True], ids=["basic", "bottleneck"])
def net(request: pytest.FixtureRequest) -> SmallNet:
    torch.manual_seed(0)
    net = SmallNet(bottleneck=request.param)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
    return net.eval()


def run(backbone: Backbone, picture: np.ndarray) -> np.ndarray:
    g = GraphWriter(*picture.shape[1:3])
    extractor = backbone.extractor()
    [found] = OnnxRuntime(g.build([extractor.write(g, write_color(g)).cells])).run_arrays(picture)
    assert found.shape[1] == extractor.channels
    assert found.shape[2] * extractor.stride == picture.shape[1]
    return found


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_the_graph_gives_what_the_net_gives(net: SmallNet, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    if suffix == ".pth":
        torch.save(net.state_dict(), path)
    else:
        save_file(net.state_dict(), path, {"license": "CC0-1.0"})
    backbone = load_backbone("timm:small", path)
    assert backbone.licence == ("CC0-1.0" if suffix == ".safetensors" else "not stated by the file; ask its publisher")
    assert len(backbone.record()["sha256"]) == 64
    picture = np.random.default_rng(0).integers(0, 256, (1, 64, 96, 3), np.uint8)
    plain = (picture.astype(np.float32) / 255 - MEAN) / DEVIATION
    with torch.no_grad():
        expected = net(torch.from_numpy(plain.astype(np.float32)).permute(0, 3, 1, 2)).numpy()
    found = run(backbone, picture)
    # The graph's average takes in the padding at the very border.
    np.testing.assert_allclose(found[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], rtol=1e-3, atol=1e-3)


def test_offline_and_without_a_file_the_error_names_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINEWATCH_CACHE", str(tmp_path))
    with pytest.raises(BackboneError) as caught:
        load_backbone("timm:resnet18", None)
    message = str(caught.value)
    assert str(tmp_path / "backbones" / "timm-resnet18.safetensors") in message
    assert "timm.create_model('resnet18', pretrained=True)" in message
    assert "--backbone-weights resnet18.safetensors" in message


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("resnet18", b"", "of the form timm:NAME"),
        ("timm:x", b"not tensors", "is not a safetensors file"),
        ("timm:../../etc/passwd", b"", "of the form timm:NAME"),
    ],
)
def test_bad_names_and_files(name: str, content: bytes, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(BackboneError, match=complaint):
        load_backbone(name, tmp_path / "w.safetensors")


def test_other_nets_are_refused_by_name_of_what_is_missing(tmp_path: Path) -> None:
    save_file({"features.0.weight": torch.zeros(4, 3, 3, 3)}, tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match=r"no tensor 'conv1.weight'; expected a plain residual net"):
        load_backbone("timm:vgg11", tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match="do not exist"):
        load_backbone("timm:vgg11", tmp_path / "none.pth")


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (Path(tmp_path / "ran"),)  # type: ignore[return-value]

    torch.save({"conv1.weight": Evil()}, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match="not a file of tensors"):
        load_backbone("timm:resnet18", tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()
