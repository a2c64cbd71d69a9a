"""What a graph costs, counted from its nodes: the same graph costs the same on a busy machine as on an idle one. Pure.

Nodes are counted by kind: multiplications of convolutions, values that are pooled, resized or reduced, bytes that are moved.
Each kind has a price in nanoseconds, fitted once by `benchmarks/cost.py` on the processor that `cost_model.json` names.
"""

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from math import prod
from pathlib import Path

import msgspec
import onnx

from linewatch.anomaly_model.manifest import Json

_LANES = 16
"""Kernels compute this many output channels at once, used or not."""
_ACTIVATIONS = {"Relu", "Clip", "LeakyRelu"}
"""Computed with the convolution before them, if there is one."""
_MOVES = {"Cast", "Transpose", "Concat", "Reshape", "Flatten"}
_REDUCTIONS = {"GlobalAveragePool", "GlobalMaxPool", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum"}
_EXPONENTIALS = {"Sigmoid", "Exp", "Softmax", "Tanh", "Erf"}
WORK = (
    "nodes", "dense multiplications", "pointwise multiplications", "depthwise multiplications", "convolution bytes",
    "pooled values", "resized values", "reduced values", "exponentials", "elementwise bytes", "moved bytes",
)  # fmt: skip
"""The kinds of work."""


class CostModel(msgspec.Struct, frozen=True):
    """Prices of the kinds of work.

    Attributes:
        version: of these prices.
        processor: on which they were fitted, on one core.
        runtime: that ran the graphs.
        nanoseconds: price of one unit of each kind of `WORK`.
        graphs: number of graphs that they were fitted on.
        r_squared: share of the measured times' variance that they explain on graphs left out of the fit.
        typical_error, worst_error: median and largest relative error on graphs left out of the fit.
    """

    version: str
    processor: str
    runtime: str
    nanoseconds: dict[str, float]
    graphs: int
    r_squared: float
    typical_error: float
    worst_error: float

    def milliseconds(self, model: bytes) -> float:
        """What a graph with static shapes costs on the named processor, one picture on one core."""
        return sum(self.nanoseconds[kind] * amount for kind, amount in count_work(model).items()) / 1e6

    def record(self) -> Json:
        """What the bundle says of it."""
        return {"model": self.version, "processor": self.processor, "runtime": self.runtime, "nanoseconds": self.nanoseconds}


@lru_cache(maxsize=1)
def cost_model() -> CostModel:
    """The prices that this version of the program decides by."""
    return msgspec.json.decode(Path(__file__).with_name("cost_model.json").read_bytes(), type=CostModel)


def count_work(model: bytes) -> dict[str, float]:
    """Units of each kind of `WORK` in a graph with static shapes, as `GraphWriter.build` makes them."""
    graph = onnx.load_from_string(model).graph
    shapes = {v.name: _shape(v) for v in [*graph.input, *graph.value_info, *graph.output]}
    shapes |= {constant.name: tuple(constant.dims) for constant in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}
    work: Counter[str] = Counter()
    for node in graph.node:
        first = makers.get(node.input[0])
        if node.op_type in _ACTIVATIONS and first is not None and first.op_type == "Conv":
            continue
        work["nodes"] += 1
        work.update(_work_of(node, shapes))
    return {kind: float(work[kind]) for kind in WORK}


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)


def _work_of(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    kind = node.op_type
    output = shapes[node.output[0]]
    inputs = sum(prod(shapes[name]) for name in node.input if name)
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    if kind == "Conv":
        return {**_convolution(shapes[node.input[1]], output, attributes.get("group", 1)), "convolution bytes": 4 * (inputs + prod(output))}
    if kind in ("AveragePool", "MaxPool"):
        return {"pooled values": prod(output) * prod(attributes["kernel_shape"])}
    if kind == "Resize":
        return {"resized values": prod(output)}
    if kind in _REDUCTIONS:
        return {"reduced values": inputs}
    if kind in _EXPONENTIALS:
        return {"exponentials": prod(output)}
    moved = 4 * (inputs + prod(output))
    return {"moved bytes" if kind in _MOVES else "elementwise bytes": moved}


def _convolution(weight: tuple[int, ...], output: tuple[int, ...], groups: int) -> dict[str, int]:
    places, channels, taps = prod(output[2:]), weight[0], prod(weight[1:])
    if groups > 1:
        return {"depthwise multiplications": places * channels * taps}
    padded = -(-channels // _LANES) * _LANES
    kind = "pointwise" if prod(weight[2:]) == 1 else "dense"
    return {f"{kind} multiplications": places * padded * taps}
