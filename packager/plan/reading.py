"""An ONNX graph, made plain: constants folded, normalisations folded into convolutions, every shape known.

ONNX Runtime's basic optimisations do most of it; they only rewrite standard operators to standard operators.
"""

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import numpy_helper, shape_inference

from linewatch.packager.plan.values import UnsupportedGraphError

Array = npt.NDArray[Any]
DTYPES = {onnx.TensorProto.UINT8: "uint8", onnx.TensorProto.FLOAT: "float32"}


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in order, constants, the shape of every value, and how often each is read."""

    nodes: list[onnx.NodeProto]
    constants: dict[str, Array]
    shapes: dict[str, tuple[int, ...]]
    uses: Counter[str]
    input: str
    input_dtype: str
    outputs: list[str]


def read_graph(model: bytes) -> Graph:
    """Simplify and read a graph.

    Raises:
        UnsupportedGraphError: it is no valid graph, has not exactly one input, or a shape is not static.
    """
    try:
        plain = onnx.load_from_string(_optimised(of_one_picture(model)))
        graph = shape_inference.infer_shapes(plain, strict_mode=True, data_prop=True).graph
    except UnsupportedGraphError:
        raise
    except Exception as error:  # what onnx raises depends on what is wrong
        raise UnsupportedGraphError(f"the graph cannot be read: {str(error).splitlines()[0]}") from error
    constants = {c.name: numpy_helper.to_array(c) for c in graph.initializer}
    inputs = [i for i in graph.input if i.name not in constants]
    if len(inputs) != 1:
        raise UnsupportedGraphError(f"the graph has {len(inputs)} inputs ({', '.join(i.name for i in inputs)}); expected one picture")
    dtype = inputs[0].type.tensor_type.elem_type
    if dtype not in DTYPES:
        raise UnsupportedGraphError(
            f"the graph's input {inputs[0].name} is of type {onnx.TensorProto.DataType.Name(dtype)}; expected uint8 or float"
        )
    shapes = {
        v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in [*graph.input, *graph.value_info, *graph.output]
    }
    nodes = _combined([n for n in graph.node if n.op_type != "Constant"])
    names = [i for node in nodes for i in node.input if i] + [o.name for o in graph.output]
    return Graph(nodes, constants, shapes, Counter(names), inputs[0].name, DTYPES[dtype], [o.name for o in graph.output])


def of_one_picture(model: bytes) -> bytes:
    """A graph whose number of pictures was left open takes one; other graphs come back as they are.

    Raises:
        UnsupportedGraphError: not an ONNX graph.
    """
    try:
        parsed = onnx.load_from_string(model)
    except Exception as error:  # protobuf's errors depend on its implementation
        raise UnsupportedGraphError(f"not an ONNX graph: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error
    graph = parsed.graph
    constants = {c.name for c in graph.initializer}
    opened = [
        value.type.tensor_type.shape.dim[0] for value in graph.input
        if value.name not in constants and value.type.tensor_type.shape.dim and not value.type.tensor_type.shape.dim[0].HasField("dim_value")
    ]  # fmt: skip
    if not opened:
        return model
    for dimension in opened:
        dimension.dim_value = 1
    for value in graph.output:  # said of any number of pictures; inferred again
        value.type.tensor_type.ClearField("shape")
    del graph.value_info[:]
    fixed: bytes = parsed.SerializeToString()
    return fixed


def _optimised(model: bytes) -> bytes:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory(prefix="linewatch-graph-") as folder:
        path = Path(folder) / "model.onnx"
        options.optimized_model_filepath = str(path)
        try:
            onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no base but this
            raise UnsupportedGraphError(f"ONNX Runtime cannot load the graph: {str(error).splitlines()[0]}") from error
        return path.read_bytes()


def _combined(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """`x * sigmoid(x)` and `x * hard_sigmoid(x)` as one operator each, so that they can be fused into a convolution."""
    gates = {n.output[0]: n for n in nodes if n.op_type in ("Sigmoid", "HardSigmoid")}
    uses = Counter(i for n in nodes for i in n.input)
    swishes: dict[str, onnx.NodeProto] = {}
    for node in nodes:
        if node.op_type == "Mul":
            for x, gate in (node.input, reversed(node.input)):
                if gate in gates and gates[gate].input[0] == x and uses[gate] == 1:
                    new = onnx.NodeProto()
                    new.CopyFrom(gates[gate])
                    new.op_type = {"Sigmoid": "Silu", "HardSigmoid": "HardSilu"}[gates[gate].op_type]
                    new.name, new.output[0] = node.name, node.output[0]
                    swishes[node.output[0]] = new
                    swishes[gate] = onnx.NodeProto()
    replaced = [swishes.get(n.output[0], n) for n in nodes]
    return [n for n in replaced if n.op_type]


def pair(values: object, default: int) -> tuple[int, int]:
    """A two-dimensional attribute such as strides."""
    if values is None:
        return default, default
    first, second = np.asarray(values).tolist()
    return int(first), int(second)
