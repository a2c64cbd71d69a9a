"""The planner's state, and what all operators need of it."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from linewatch.packager.plan.reading import Graph
from linewatch.packager.plan.values import F32, NCHW, Output, Plan, Source, Step, Tensor, Unary, UnsupportedGraphError, View

FUSABLE = {"conv", "depthwise", "transposed", "elementwise"}
"""Steps that can take over an elementwise operator on their output."""
_COLOURS = 4
"""Most channels of a picture."""


class Planner:
    """Walks a graph once. Operators are functions of a planner and a node; they call these methods."""

    def __init__(self, graph: Graph, lanes: int) -> None:
        self.graph = graph
        self.lanes = lanes
        self.constants = graph.constants
        self.shapes = graph.shapes
        self.views: dict[str, View] = {}
        self.steps: list[Step] = []
        self._maker: dict[int, int] = {}
        self._expanded: set[str] = set()

    def run(self, handlers: "Mapping[str, Handler]") -> Plan:
        """Plan every node.

        Raises:
            UnsupportedGraphError: names the node that no schedule covers.
        """
        graph = self.graph
        source = Source(graph.input, self.shapes[graph.input], graph.input_dtype)
        self._read_input(source)
        for node in graph.nodes:
            if node.op_type not in handlers:
                raise UnsupportedGraphError(
                    f"operator {node.op_type} ({node.name}) has no schedule; covered are "
                    f"{', '.join(sorted(n for n in handlers if n not in ('Silu', 'HardSilu')))}"
                )
            handlers[node.op_type](self, node)
        for name in self._expanded.intersection(graph.outputs):
            raise UnsupportedGraphError(f"Expand: its result {name} is an output of the graph; covered are operands of arithmetic")
        return Plan(source, self.steps, [Output(name, self.views[name]) for name in graph.outputs])

    def _read_input(self, source: Source) -> None:
        shape = source.shape
        if len(shape) != 4 or shape[0] != 1 or min(shape) < 1:
            raise UnsupportedGraphError(f"the input {source.name} has shape {shape}; covered are static shapes of one picture")
        if source.dtype == "uint8" and shape[3] <= _COLOURS:
            _, height, width, channels = shape
            view = View(Tensor(source.name, channels, height, width, channels), ("-", "H", "W", "C"))
        else:
            _, channels, height, width = shape
            # Colours are read one by one, by a convolution: padding would be written for nobody.
            stored = channels if channels <= _COLOURS else self.stored(channels)
            view = View(Tensor(source.name, channels, height, width, stored), NCHW)
        self.views[source.name] = view
        self.add(Step("input", [], view.tensor, {"order": "".join(a for a in view.axes if a != "-")}))

    # --- for operators

    def attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        """A node's attributes as Python values."""
        return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def require(self, ok: bool, node: onnx.NodeProto, what: str) -> None:
        """Refuse what no schedule covers.

        Raises:
            UnsupportedGraphError: it is not so.
        """
        if not ok:
            raise UnsupportedGraphError(f"{node.op_type} ({node.name}): {what}")

    def optional(self, node: onnx.NodeProto, index: int) -> npt.NDArray[Any] | None:
        """A constant input that may be left out."""
        if len(node.input) <= index or not node.input[index]:
            return None
        self.require(node.input[index] in self.constants, node, f"input {index} is not constant")
        return self.constants[node.input[index]]

    def picture(self, node: onnx.NodeProto, index: int = 0) -> Tensor:
        """An input that must be 1 x C x H x W."""
        view = self.view(node, index)
        self.require(view.axes == NCHW, node, f"its input is laid out as {view.axes}; covered is 1 x C x H x W")
        return view.tensor

    def view(self, node: onnx.NodeProto, index: int = 0) -> View:
        """An input that must not be constant."""
        name = node.input[index]
        self.require(name in self.views, node, f"input {index} ({name}) is constant")
        self.require(name not in self._expanded, node, f"input {index} ({name}) is the result of an Expand; covered are operands of arithmetic")
        return self.views[name]

    def expand(self, name: str, view: View) -> None:
        """A value that is a smaller one, repeated: only arithmetic, which repeats by itself, may read it."""
        self.views[name] = view
        self._expanded.add(name)

    def stored(self, channels: int) -> int:
        """Channels in whole vectors."""
        return -(-channels // self.lanes) * self.lanes

    def tensor(self, name: str, channels: int, height: int, width: int, stored: int | None = None) -> Tensor:
        """Memory for a value; by default of whole vectors.

        Args:
            name: of the value.
            channels: how many.
            height: in pixels.
            width: in pixels.
            stored: channels that memory is taken for; None for those of whole vectors.
        """
        return Tensor(name, channels, height, width, self.stored(channels) if stored is None else stored)

    def output(self, node: onnx.NodeProto, *, stored: int | None = None) -> Tensor:
        """Declare the node's output 1 x C x H x W, from the graph's shapes."""
        shape = self.shapes.get(node.output[0], ())
        self.require(len(shape) == 4 and shape[0] == 1 and min(shape) >= 1, node,
                     f"its output has shape {shape}; covered are static shapes 1 x C x H x W")  # fmt: skip
        tensor = self.tensor(node.output[0], shape[1], shape[2], shape[3], stored)
        self.views[node.output[0]] = View(tensor, NCHW)
        return tensor

    def same(self, node: onnx.NodeProto, view: View) -> Tensor:
        """Declare the node's output as alike an input."""
        tensor = self.tensor(node.output[0], view.tensor.channels, view.tensor.height, view.tensor.width, view.tensor.stored)
        self.views[node.output[0]] = view.of(tensor)
        return tensor

    def add(self, step: Step) -> None:
        """Append a step."""
        self._maker[id(step.output)] = len(self.steps)
        self.steps.append(step)

    def maker(self, name: str) -> Step | None:
        """The step that can take over work on a value: it made it, nobody else reads it, and it has an epilogue."""
        tensor = self.views[name].tensor
        step = self._step_of(tensor)
        # The same memory may go by several names; each may be read by the next only.
        alone = all(self.graph.uses[other] == 1 for other, view in self.views.items() if view.tensor is tensor)
        return step if step is not None and step.kind in FUSABLE and alone else None

    def made_before(self, tensor: Tensor, step: Step) -> bool:
        """Whether a tensor is there when a step runs."""
        return self._maker[id(tensor)] < self._maker[id(step.output)]

    def retarget(self, step: Step, output: Tensor) -> None:
        """A step now writes another value."""
        self._maker[id(output)] = self._maker[id(step.output)]
        step.output = output

    def unary(self, node: onnx.NodeProto, unary: Unary, name: str | None = None) -> None:
        """Apply an elementwise operator: in the step that made the value, or in one of its own."""
        name = name or node.input[0]
        self.require(name not in self._expanded, node, "of the result of an Expand")
        view = self.views[name]
        step = self.maker(name)
        output = self.same(node, view)
        if step is not None:
            self.retarget(step, output)
            step.epilogue = (*step.epilogue, unary)
        else:
            self.add(Step("elementwise", [view.tensor], output, {"op": "none"}, epilogue=(unary,)))

    def laid_out(self, constant: npt.NDArray[Any], view: View) -> F32:
        """A constant of a value's shape, in its memory's order: H x W x stored, or only stored when places do not matter."""
        letters = "".join(a for axis in view.axes for a in axis if a != "-")
        lengths = [view.length(a) for a in letters]
        flat = np.broadcast_to(constant, view.shape).reshape(lengths).astype(np.float32)
        order = [letters.find(a) for a in "HWC"]
        value = np.expand_dims(flat, [len(lengths) + i for i in range(order.count(-1))])
        spare = iter(range(len(lengths), len(lengths) + order.count(-1)))
        value = value.transpose([o if o >= 0 else next(spare) for o in order])
        tensor = view.tensor
        if (value == value[:1, :1]).all():
            value = value[:1, :1]
        stored = np.zeros((*value.shape[:2], tensor.stored), np.float32)
        stored[..., : tensor.channels] = value
        return stored

    def _step_of(self, tensor: Tensor) -> Step | None:
        index = self._maker.get(id(tensor))
        return None if index is None or self.steps[index].output is not tensor else self.steps[index]


Handler = Callable[[Planner, onnx.NodeProto], None]
