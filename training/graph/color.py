"""Opponent colours, which every branch of a graph begins with: in the graph, and in numpy for training."""

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from linewatch.training.data.crops import Pixels
from linewatch.training.graph.writer import GraphWriter

# Opponent colours: luminance, red against green, blue against yellow. Rows sum to 1, 0, 0.
OPPONENT = np.array([[0.299, 0.587, 0.114], [0.5, -0.5, 0.0], [-0.25, -0.25, 0.5]], np.float32)
OFFSET = np.array([-1, 0, 0], np.float32)


def write_color(g: GraphWriter) -> str:
    """The picture as opponent colours, 1 x 3 x H x W: what every branch begins with.

    Picture values become about -1 to 1, so that zero padding is mid-grey rather than black.
    """
    cast = g.node("Cast", "picture", to=TensorProto.FLOAT)
    planar = g.node("Transpose", cast, perm=[0, 3, 1, 2])
    return g.conv(planar, (OPPONENT / 127.5)[:, :, None, None], OFFSET)


def to_planes(pictures: npt.NDArray[np.floating] | npt.NDArray[np.uint8]) -> Pixels:
    """N x H x W x 3 pixels to N x 3 x H x W opponent colours: what `write_color` does inside the graph."""
    scaled = pictures.astype(np.float32) @ (OPPONENT.T / np.float32(127.5)) + OFFSET
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))
