"""From torch's convolutions to the weights that a graph holds."""

import numpy as np
import torch
from torch import nn

from linewatch.training.arrays import F32

Layer = tuple[F32, F32]
"""Weight (O x I x K x K) and bias (O) of a convolution."""


def plain(conv: nn.Module) -> Layer:
    """A convolution with a bias as it is."""
    assert isinstance(conv, nn.Conv2d)
    assert conv.bias is not None
    return conv.weight.detach().cpu().numpy(), conv.bias.detach().cpu().numpy()


def folded(block: nn.Module) -> Layer:
    """A convolution with the batch norm behind it folded in."""
    assert isinstance(block, nn.Sequential)
    conv, norm = block[0], block[1]
    scale = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach().cpu().numpy()
    weight = conv.weight.detach().cpu().numpy() * scale[:, None, None, None]
    bias = norm.bias.detach().cpu().numpy() - norm.running_mean.cpu().numpy() * scale
    return weight.astype(np.float32), bias.astype(np.float32)
