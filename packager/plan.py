"""From an ONNX graph to a plan: a list of fused steps on channels-last tensors. Pure Python; TVM is not needed here.

Layout: every 4-D tensor is kept as H x W x C with C padded to whole vectors (`Tensor.stored`), so that no transpose is
left between convolutions. One-channel maps are kept unpadded. Only the picture (uint8, 3 channels) and the outputs
(NCHW, as the graph says) are different, and are converted once.

Fusion: bias, a residual add and any chain of unary operators are computed while a convolution's tile is in registers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper, shape_inference

from anomaly_model.errors import LinewatchError

F32 = npt.NDArray[np.float32]


class UnsupportedGraphError(LinewatchError):
    """The graph has an operator, attribute or shape that the schedules do not cover."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value of the plan: 1 x C x H x W in the graph's terms.

    Attributes:
        stored: channels as laid out in memory: C, or C rounded up to whole vectors.
    """

    name: str
    channels: int
    height: int
    width: int
    stored: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As stored: 1 x H x W x stored."""
        return (1, self.height, self.width, self.stored)


@dataclass(frozen=True, slots=True)
class Unary:
    """An elementwise operator with constants: `relu`, `abs`, `sqrt`, `sigmoid`, or `affine` (x * a + b)."""

    kind: str
    a: float = 1.0
    b: float = 0.0


@dataclass(slots=True)
class Step:
    """One kernel call.

    Attributes:
        kind: `picture`, `conv`, `pool`, `global_pool`, `channel_reduce`, `resize`, `concat`, `elementwise`.
        inputs: tensors read; a fused residual comes last.
        output: tensor written.
        attributes: static parameters.
        weight, bias: of convolutions: O x I x K x K and O. Of elementwise steps: a constant second operand, as stored.
        residual: whether the last input is added before the epilogue.
        epilogue: applied to each value before it is stored.
    """

    kind: str
    inputs: list[Tensor]
    output: Tensor
    attributes: dict[str, int | str] = field(default_factory=dict)
    weight: F32 | None = None
    bias: F32 | None = None
    residual: bool = False
    epilogue: tuple[Unary, ...] = ()


@dataclass(frozen=True, slots=True)
class Output:
    """A graph output and its shape there (NCHW, or flattened)."""

    name: str
    tensor: Tensor
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is compiled."""

    picture: tuple[int, int, int, int]
    steps: list[Step]
    outputs: list[Output]


FUSABLE = {"conv", "elementwise"}
_ARITHMETIC = {"Add": "add", "Sub": "sub", "Mul": "mul"}
_UNARY = {"Relu": "relu", "Abs": "abs", "Sqrt": "sqrt", "Sigmoid": "sigmoid"}


def make_plan(model: bytes, lanes: int) -> Plan:
    """Plan a graph for vectors of `lanes` values.

    Raises:
        UnsupportedGraphError: names the operator and what about it is not covered.
    """
    return _Planner(model, lanes).run()


class _Planner:
    def __init__(self, model: bytes, lanes: int) -> None:
        self.graph = shape_inference.infer_shapes(onnx.load_from_string(model), strict_mode=True).graph
        self.lanes = lanes
        self.constants = {c.name: numpy_helper.to_array(c) for c in self.graph.initializer}
        self.shapes = {
            v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim)
            for v in [*self.graph.input, *self.graph.value_info, *self.graph.output]
        }
        self.values: dict[str, Tensor] = {}
        self.steps: list[Step] = []
        self.uses: dict[str, int] = {}
        for name in [i for node in self.graph.node for i in node.input] + [o.name for o in self.graph.output]:
            self.uses[name] = self.uses.get(name, 0) + 1

    def run(self) -> Plan:
        handlers: dict[str, Callable[[onnx.NodeProto], None]] = {
            "Conv": self._conv, "AveragePool": self._pool, "MaxPool": self._pool, "Resize": self._resize,
            "GlobalAveragePool": self._global_pool, "GlobalMaxPool": self._global_pool, "ReduceMax": self._channel_max,
            "Concat": self._concat, "Add": self._binary, "Sub": self._binary, "Mul": self._binary,
            "Cast": self._cast, "Transpose": self._transpose, "Flatten": self._flatten,
        }  # fmt: skip
        for node in self.graph.node:
            if node.op_type in _UNARY:
                self._unary(node, Unary(_UNARY[node.op_type]))
            elif node.op_type in handlers:
                handlers[node.op_type](node)
            else:
                raise UnsupportedGraphError(
                    f"operator {node.op_type} ({node.name}) has no schedule; covered are "
                    f"{', '.join(sorted([*handlers, *_UNARY]))}"
                )
        outputs = [Output(o.name, self.values[o.name], self.shapes[o.name]) for o in self.graph.output]
        height, width = self.shapes[self.graph.input[0].name][1:3]
        return Plan((1, height, width, 3), self.steps, outputs)

    # --- helpers

    def _attributes(self, node: onnx.NodeProto) -> dict[str, object]:
        return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def _require(self, ok: bool, node: onnx.NodeProto, what: str) -> None:
        if not ok:
            raise UnsupportedGraphError(f"{node.op_type} ({node.name}): {what}")

    def _tensor(self, name: str, *, like: Tensor | None = None, single: bool = False) -> Tensor:
        """Declare an output. `like`: laid out as this input; `single`: a one-channel map is stored unpadded."""
        shape = self.shapes[name]
        if len(shape) != 4 or shape[0] != 1 or min(shape) < 1:
            raise UnsupportedGraphError(f"{name} has shape {shape}; covered are static shapes 1 x C x H x W")
        _, channels, height, width = shape
        whole_vectors = -(-channels // self.lanes) * self.lanes
        stored = 1 if single and channels == 1 else whole_vectors
        if like is not None:
            stored = like.stored
        self.values[name] = Tensor(name, channels, height, width, stored)
        return self.values[name]

    def _square(self, node: onnx.NodeProto, name: str, default: Sequence[int]) -> int:
        values = self._attributes(node).get(name, list(default))
        assert isinstance(values, list)
        self._require(len(set(values)) == 1, node, f"{name} {values} are not all equal")
        return int(values[0])

    # --- operators

    def _cast(self, node: onnx.NodeProto) -> None:
        self._require(node.input[0] == self.graph.input[0].name, node, "only the picture is cast")
        _, height, width, _ = self.shapes[node.output[0]]
        self.values[node.output[0]] = Tensor(node.output[0], 3, height, width, 3)

    def _transpose(self, node: onnx.NodeProto) -> None:
        source = self.values.get(node.input[0])
        self._require(self._attributes(node)["perm"] == [0, 3, 1, 2] and source is not None, node,
                      "only the picture, from NHWC to NCHW")  # fmt: skip
        assert source is not None
        output = Tensor(node.output[0], 3, source.height, source.width, 3)
        self.values[node.output[0]] = output
        self.steps.append(Step("picture", [source], output))

    def _conv(self, node: onnx.NodeProto) -> None:
        weight = self.constants.get(node.input[1])
        self._require(weight is not None and weight.shape[2] == weight.shape[3], node, "weights are not constant and square")
        assert weight is not None
        attributes = self._attributes(node)
        self._require(attributes.get("group", 1) == 1, node, "grouped")
        self._require(self._square(node, "dilations", [1, 1]) == 1, node, "dilated")
        bias = self.constants[node.input[2]] if len(node.input) > 2 else np.zeros(weight.shape[0], np.float32)
        source = self.values[node.input[0]]
        kernel, stride, pad = weight.shape[2], self._square(node, "strides", [1, 1]), self._square(node, "pads", [0] * 4)
        if weight.shape[0] == 1 and kernel == 1 and stride == 1 and pad == 0:
            # One output channel would waste all lanes but one: a dot product over channels instead.
            output = self._tensor(node.output[0], single=True)
            self.steps.append(Step("channel_reduce", [source], output, {"op": "dot"}, weight, bias))
            return
        output = self._tensor(node.output[0])
        self.steps.append(Step("conv", [source], output, {"kernel": kernel, "stride": stride, "pad": pad}, weight, bias))

    def _pool(self, node: onnx.NodeProto) -> None:
        attributes = self._attributes(node)
        self._require(not attributes.get("ceil_mode"), node, "ceil_mode")
        source = self.values[node.input[0]]
        output = self._tensor(node.output[0], like=source)
        self.steps.append(Step("pool", [source], output, {
            "op": "max" if node.op_type == "MaxPool" else "mean",
            "kernel": self._square(node, "kernel_shape", []),
            "stride": self._square(node, "strides", [1, 1]),
            "pad": self._square(node, "pads", [0] * 4),
            "count_pad": int(str(attributes.get("count_include_pad", 0))),
        }))  # fmt: skip

    def _global_pool(self, node: onnx.NodeProto) -> None:
        source = self.values[node.input[0]]
        output = self._tensor(node.output[0], like=source)
        op = "max" if node.op_type == "GlobalMaxPool" else "mean"
        self.steps.append(Step("global_pool", [source], output, {"op": op}))

    def _channel_max(self, node: onnx.NodeProto) -> None:
        attributes = self._attributes(node)
        self._require(attributes.get("axes") == [1] and attributes.get("keepdims", 1) == 1, node, "only over channels")
        source = self.values[node.input[0]]
        if source.stored == 1:
            self.values[node.output[0]] = source
            return
        self.steps.append(Step("channel_reduce", [source], self._tensor(node.output[0], single=True), {"op": "max"}))

    def _resize(self, node: onnx.NodeProto) -> None:
        attributes = self._attributes(node)
        mode, centres = attributes.get("mode"), attributes.get("coordinate_transformation_mode", b"half_pixel")
        self._require(mode == b"linear" and centres == b"half_pixel", node, f"mode {mode!r} with {centres!r}")
        source = self.values[node.input[0]]
        self.steps.append(Step("resize", [source], self._tensor(node.output[0], like=source)))

    def _concat(self, node: onnx.NodeProto) -> None:
        self._require(self._attributes(node)["axis"] == 1, node, "only along channels")
        self.steps.append(Step("concat", [self.values[i] for i in node.input], self._tensor(node.output[0])))

    def _flatten(self, node: onnx.NodeProto) -> None:
        source = self.values[node.input[0]]
        self._require(source.channels * source.height * source.width == 1, node, "only of a single value")
        self.values[node.output[0]] = source

    def _last_step(self, name: str) -> Step | None:
        """The step that can take over work on `name`: it made it, nobody else reads it, and it has an epilogue."""
        step = self.steps[-1] if self.steps else None
        for step in reversed(self.steps):
            if step.output is self.values[name]:
                return step if step.kind in FUSABLE and self.uses[name] == 1 else None
        return None

    def _unary(self, node: onnx.NodeProto, unary: Unary, source_name: str | None = None) -> None:
        name = source_name or node.input[0]
        source, step = self.values[name], self._last_step(name)
        output = self._tensor(node.output[0], like=source)
        if step is not None:
            step.output, step.epilogue = output, (*step.epilogue, unary)
        else:
            self.steps.append(Step("elementwise", [source], output, {"op": "none"}, epilogue=(unary,)))

    def _binary(self, node: onnx.NodeProto) -> None:
        left, right = node.input
        if left in self.constants or right in self.constants:
            constant = self.constants[left] if left in self.constants else self.constants[right]
            if constant.size != 1:
                self._with_constant_map(node, constant, right if left in self.constants else left)
                return
            value, other = float(constant.reshape(-1)[0]), right if left in self.constants else left
            self._require(node.op_type != "Sub" or right in self.constants, node, "constant - x")
            unary = {"Mul": Unary("affine", value, 0.0), "Add": Unary("affine", 1.0, value),
                     "Sub": Unary("affine", 1.0, -value)}[node.op_type]  # fmt: skip
            self._unary(node, unary, other)
            return
        a, b = self.values[left], self.values[right]
        self._require(a.shape == b.shape, node, f"shapes {a.shape} and {b.shape} differ")
        if node.op_type == "Add" and left != right:
            for mine, residual in ((right, a), (left, b)):
                step = self._last_step(mine)
                # The residual must exist before the step runs, and a second one does not fit.
                if (
                    step
                    and step.kind == "conv"
                    and not step.residual
                    and not step.epilogue
                    and self._made_before(residual, step)
                ):
                    step.inputs.append(residual)
                    step.residual, step.output = True, self._tensor(node.output[0])
                    return
        output = self._tensor(node.output[0], like=a)
        self.steps.append(Step("elementwise", [a, b], output, {"op": _ARITHMETIC[node.op_type]}))

    def _with_constant_map(self, node: onnx.NodeProto, constant: npt.NDArray[np.generic], other: str) -> None:
        """A constant with a value of its own for each channel and place, stored as the tensor that it meets is."""
        source = self.values[other]
        expected = (1, source.channels, source.height, source.width)
        self._require(constant.shape == expected, node, f"constant of shape {constant.shape} beside {expected}")
        self._require(node.op_type != "Sub" or node.input[1] in self.constants, node, "constant - x")
        stored = np.zeros(source.shape, np.float32)
        stored[..., : source.channels] = constant.transpose(0, 2, 3, 1)
        output = self._tensor(node.output[0], like=source)
        self.steps.append(Step("elementwise", [source], output, {"op": _ARITHMETIC[node.op_type]}, stored))

    def _made_before(self, tensor: Tensor, step: Step) -> bool:
        for earlier in self.steps:
            if earlier is step:
                return False
            if earlier.output is tensor:
                return True
        return False
