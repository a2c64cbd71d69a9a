"""A thin, typed way to write an ONNX graph by hand.

Why by hand: the trained parts are a few small matrices, so an exporter would add a framework without adding anything.
The same graph that is shipped computes the training features, so training and serving cannot disagree.
"""

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from linewatch.training.arrays import F32

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
        """Add one operator with one output.

        Args:
            op: the ONNX operator.
            *inputs: names of its inputs, in order; an empty name leaves an optional one out.
            name: of the node and its output; None for one that is not taken.
            **attributes: the operator's own.
        """
        self._count += 1
        output = name or f"{op.lower()}{self._count}"
        self._nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output

    def conv(
        self, x: str, weight: F32, bias: F32 | None = None, *, stride: int = 1, groups: int = 1, pads: tuple[int, int] | None = None
    ) -> str:
        """Convolution.

        Args:
            x: the input's name, 1 x I x H x W.
            weight: O x I / groups x K x K, K odd.
            bias: O; None for none.
            stride: in both directions.
            groups: parts of the channels that are convolved apart.
            pads: zeros before and behind, in both directions; None keeps the size at stride 1.
        """
        k = weight.shape[2]
        before, behind = pads or (k // 2, k // 2)
        inputs = [x, self.constant(weight.astype(np.float32))]
        if bias is not None:
            inputs.append(self.constant(bias.astype(np.float32)))
        return self.node(
            "Conv", *inputs, kernel_shape=[k, k], strides=[stride] * 2, pads=[before] * 2 + [behind] * 2, group=groups
        )

    def pool(self, kind: str, x: str, kernel: int, stride: int) -> str:
        """Pooling; padded to keep the size at stride 1, unpadded otherwise.

        Args:
            kind: `AveragePool` or `MaxPool`.
            x: the input's name, 1 x C x H x W.
            kernel: side of the window in cells.
            stride: in both directions.
        """
        pad = kernel // 2 if stride == 1 else 0
        return self.node(kind, x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def upsample(self, x: str, factor: int, name: str | None = None) -> str:
        """Bilinear, half-pixel centres."""
        scales = self.constant(np.array([1, 1, factor, factor], np.float32))
        return self.node("Resize", x, "", scales, name=name, mode="linear", coordinate_transformation_mode="half_pixel")

    def concat(self, *values: str) -> str:
        """Along channels."""
        return self.node("Concat", *values, axis=1)

    def scale(self, x: str, factor: float, offset: float = 0.0, name: str | None = None) -> str:
        """X * factor + offset.

        Args:
            x: the input's name, 1 x C x H x W.
            factor: a scalar.
            offset: a scalar.
            name: of the output; None makes one up.
        """
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
