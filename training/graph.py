"""A thin, typed way to write an ONNX graph by hand, and the filter bank written with it.

Why by hand: the trained parts are a few small matrices, so an exporter would add a framework without adding anything.
The same graph that is shipped computes the training features, so training and serving cannot disagree.
"""

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

F32 = npt.NDArray[np.float32]
OPSET = 17
IR_VERSION = 9


class GraphWriter:
    """Collects nodes and constants. Values are referred to by name; every method returns its output's name."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._count = 0

    def constant(self, value: npt.NDArray[np.generic]) -> str:
        """Store an array in the graph."""
        self._count += 1
        name = f"c{self._count}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, op: str, *inputs: str, name: str | None = None, **attributes: object) -> str:
        """Add one operator with one output."""
        self._count += 1
        output = name or f"{op.lower()}{self._count}"
        self._nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def conv(self, x: str, weight: F32, bias: F32 | None = None, *, stride: int = 1) -> str:
        """Convolution, zero-padded to keep the size at stride 1. weight: O x I x K x K."""
        k = weight.shape[2]
        inputs = [x, self.constant(weight.astype(np.float32))]
        if bias is not None:
            inputs.append(self.constant(bias.astype(np.float32)))
        return self.node("Conv", *inputs, kernel_shape=[k, k], strides=[stride] * 2, pads=[k // 2] * 4)

    def pool(self, kind: str, x: str, kernel: int, stride: int) -> str:
        """`AveragePool` or `MaxPool`; padded to keep the size at stride 1, unpadded otherwise."""
        pad = kernel // 2 if stride == 1 else 0
        return self.node(kind, x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def upsample(self, x: str, factor: int) -> str:
        """Bilinear, half-pixel centres."""
        scales = self.constant(np.array([1, 1, factor, factor], np.float32))
        return self.node("Resize", x, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")

    def concat(self, *values: str) -> str:
        """Along channels."""
        return self.node("Concat", *values, axis=1)

    def scale(self, x: str, factor: float, offset: float = 0.0, name: str | None = None) -> str:
        """X * factor + offset, with scalars."""
        y = self.node("Mul", x, self.constant(np.float32(factor).reshape(1, 1, 1, 1)))
        return self.node("Add", y, self.constant(np.float32(offset).reshape(1, 1, 1, 1)), name=name)

    def build(self, outputs: list[str]) -> bytes:
        """Check the graph, infer its static shapes and serialise it; what no output needs is left out."""
        needed, nodes = set(outputs), []
        for node in reversed(self._nodes):
            if node.output[0] in needed:
                nodes.append(node)
                needed.update(node.input)
        constants = [c for c in self._constants if c.name in needed]
        picture = helper.make_tensor_value_info("picture", TensorProto.UINT8, [1, self.height, self.width, 3])
        # Shapes of outputs are left to inference: onnx fills them in below.
        unknown = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(nodes[::-1], "linewatch", [picture], unknown, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="linewatch")
        model.ir_version = IR_VERSION
        model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        onnx.checker.check_model(model, full_check=True)
        data: bytes = model.SerializeToString()
        return data


# Opponent colours: luminance, red against green, blue against yellow. Rows sum to 1, 0, 0.
OPPONENT = np.array([[0.299, 0.587, 0.114], [0.5, -0.5, 0.0], [-0.25, -0.25, 0.5]], np.float32)
KERNEL = 7
ORIENTATIONS = 4
GRID = 4
"""Features have one cell for GRID x GRID input pixels."""
COARSE = 2
"""The nearest-neighbour branch works on cells of GRID * COARSE pixels."""
MULTIPLE = 16
"""Input sides must be multiples of this, so that every pooling step divides evenly."""


def filters() -> F32:
    """The bank's 16 filters over (luminance, red-green, blue-yellow), 16 x 3 x 7 x 7.

    Gabor pairs (even: lines, odd: edges; Daugman 1985) at 4 orientations, wavelength 5 pixels; differences of Gaussians
    (Marr and Hildreth 1980) of two widths on luminance and one on each colour; four local derivatives of colour.
    Each filter has zero mean, so flat areas answer 0, and absolute sum 2.
    """
    r = KERNEL // 2
    y, x = np.mgrid[-r : r + 1, -r : r + 1].astype(np.float64)
    bank = np.zeros((16, 3, KERNEL, KERNEL))

    def gaussian(sigma: float) -> npt.NDArray[np.float64]:
        g = np.exp(-(x * x + y * y) / (2 * sigma * sigma))
        return np.asarray(g / g.sum())

    for i in range(ORIENTATIONS):
        angle = np.pi * i / ORIENTATIONS
        along = x * np.cos(angle) + y * np.sin(angle)
        window = gaussian(1.8)
        bank[2 * i, 0] = window * np.cos(2 * np.pi * along / 5)
        bank[2 * i + 1, 0] = window * np.sin(2 * np.pi * along / 5)
    bank[8, 0] = gaussian(0.7) - gaussian(1.4)
    bank[9, 0] = gaussian(1.2) - gaussian(2.4)
    bank[10, 1] = gaussian(0.9) - gaussian(1.8)
    bank[11, 2] = gaussian(0.9) - gaussian(1.8)
    for i, channel in enumerate((1, 2)):
        bank[12 + 2 * i, channel] = gaussian(1.5) * x
        bank[13 + 2 * i, channel] = gaussian(1.5) * y
    bank -= bank.mean(axis=(2, 3), keepdims=True) * (np.abs(bank).sum(axis=(2, 3), keepdims=True) > 0)
    bank *= 2 / np.abs(bank).sum(axis=(1, 2, 3), keepdims=True)
    return bank.astype(np.float32)


def write_bank(g: GraphWriter) -> str:
    """Write the filter bank; returns the features' name: 1 x 83 x H/4 x W/4.

    Filter energies (|response|) of the picture at four scales (1, 1/2, 1/4, 1/8), averaged per cell, and at the finest
    scale also the largest per cell, so that lines thinner than a cell are not averaged away; then the mean colour.
    """
    cast = g.node("Cast", "picture", to=TensorProto.FLOAT)
    planar = g.node("Transpose", cast, perm=[0, 3, 1, 2])
    # Picture values become about -1 to 1, so that zero padding is mid-grey rather than black.
    color = g.conv(planar, (OPPONENT / 127.5)[:, :, None, None], np.array([-1, 0, 0], np.float32))
    bank = filters()
    features = []
    for level in range(4):
        energy = g.node("Abs", g.conv(color, bank))
        if level < 2:
            cell = GRID >> level
            features.append(g.pool("AveragePool", energy, cell, cell))
            if level == 0:
                features.append(g.pool("MaxPool", energy, cell, cell))
        elif level == 2:
            features.append(energy)
            features.append(color)
        else:
            features.append(g.upsample(energy, 2))
        color = g.pool("AveragePool", color, 2, 2)
    return g.concat(*features)


FEATURES = 16 * 5 + 3
