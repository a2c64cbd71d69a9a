"""Elementwise operators of one and two operands."""

from functools import partial

import numpy as np
import numpy.typing as npt
import onnx

from linewatch.packager.plan.planner import Handler, Planner
from linewatch.packager.plan.values import Step, Unary, View

OPERATORS = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Max": "max", "Min": "min"}
UNARY = {"Relu": "relu", "Abs": "abs", "Sqrt": "sqrt", "Sigmoid": "sigmoid", "Silu": "silu", "Tanh": "tanh", "Exp": "exp",
         "Erf": "erf"}  # fmt: skip


def _unary(kind: str, p: Planner, node: onnx.NodeProto) -> None:
    p.unary(node, Unary(kind))


def _negative(p: Planner, node: onnx.NodeProto) -> None:
    p.unary(node, Unary("affine", -1.0, 0.0))


def _reciprocal(p: Planner, node: onnx.NodeProto) -> None:
    p.unary(node, Unary("reciprocal"))


def _leaky(p: Planner, node: onnx.NodeProto) -> None:
    p.unary(node, Unary("leaky", float(p.attributes(node).get("alpha", 0.01))))


def _hard_sigmoid(kind: str, p: Planner, node: onnx.NodeProto) -> None:
    attributes = p.attributes(node)
    p.unary(node, Unary(kind, float(attributes.get("alpha", 0.2)), float(attributes.get("beta", 0.5))))


def _hard_swish(p: Planner, node: onnx.NodeProto) -> None:
    p.unary(node, Unary("hard_silu", 1 / 6, 0.5))


def _clip(p: Planner, node: onnx.NodeProto) -> None:
    attributes = p.attributes(node)
    low, high = p.optional(node, 1), p.optional(node, 2)
    least = attributes.get("min", -np.inf) if low is None else low
    most = attributes.get("max", np.inf) if high is None else high
    p.unary(node, Unary("clip", float(np.asarray(least).reshape(())), float(np.asarray(most).reshape(()))))


def _power(p: Planner, node: onnx.NodeProto) -> None:
    exponent = p.optional(node, 1)
    p.require(exponent is not None and exponent.size == 1 and float(exponent.reshape(-1)[0]) in (0.5, 2.0), node,
              "the exponent is not 2 or 0.5")  # fmt: skip
    assert exponent is not None
    p.unary(node, Unary("square" if float(exponent.reshape(-1)[0]) == 2 else "sqrt"))


def _binary(p: Planner, node: onnx.NodeProto) -> None:
    p.require(len(node.input) == 2, node, f"{len(node.input)} operands")
    left, right = node.input
    if right in p.constants:
        _with_constant(p, node, left, p.constants[right], reverse=False)
    elif left in p.constants:
        _with_constant(p, node, right, p.constants[left], reverse=True)
    elif node.op_type == "Mul" and left == right:
        p.unary(node, Unary("square"), left)
    else:
        _of_two(p, node, p.views[left], p.views[right])


def _with_constant(p: Planner, node: onnx.NodeProto, name: str, constant: npt.NDArray[np.generic], *, reverse: bool) -> None:
    view = p.views[name]
    p.require(np.broadcast_shapes(constant.shape, view.shape) == view.shape, node,
              f"a constant of shape {constant.shape} beside {view.shape}")  # fmt: skip
    if (constant == constant.reshape(-1)[0]).all():
        p.unary(node, _scalar(p, node, float(constant.reshape(-1)[0]), reverse), name)
        return
    op = OPERATORS[node.op_type]
    value = p.laid_out(constant, view)
    if reverse and op == "sub":
        step_op = "rsub"
    elif reverse and op == "div":
        p.require(False, node, "a constant divided by a value")
        return
    elif op == "div":
        step_op, value = "mul", np.divide(1, value, out=np.zeros_like(value), where=value != 0)
    else:
        step_op = op
    p.add(Step("elementwise", [view.tensor], p.same(node, view), {"op": step_op}, value))


def _scalar(p: Planner, node: onnx.NodeProto, value: float, reverse: bool) -> Unary:
    match node.op_type:
        case "Add":
            return Unary("affine", 1.0, value)
        case "Sub":
            return Unary("affine", -1.0, value) if reverse else Unary("affine", 1.0, -value)
        case "Mul":
            return Unary("affine", value, 0.0)
        case "Max":
            return Unary("clip", value, np.inf)
        case "Min":
            return Unary("clip", -np.inf, value)
    p.require(not reverse, node, "a constant divided by a value")
    return Unary("affine", 1 / value, 0.0)


def _of_two(p: Planner, node: onnx.NodeProto, a: View, b: View) -> None:
    left, right = node.input
    if a.axes == b.axes and a.tensor.size == b.tensor.size and a.shape == b.shape and a.tensor.stored == b.tensor.stored:
        if node.op_type == "Add":
            for mine, residual in ((right, a.tensor), (left, b.tensor)):
                step = p.maker(mine)
                # The residual must exist before the step runs, and a second one does not fit.
                if step and step.kind == "conv" and not step.residual and not step.epilogue and p.made_before(residual, step):
                    step.inputs.append(residual)
                    step.residual = True
                    p.retarget(step, p.same(node, a))
                    return
        p.add(Step("elementwise", [a.tensor, b.tensor], p.same(node, a), {"op": OPERATORS[node.op_type], "second": "all"}))
        return
    op = OPERATORS[node.op_type]
    if a.tensor.size < b.tensor.size:
        a, b, op = b, a, {"sub": "rsub"}.get(op, op)
        p.require(op != "div", node, "a smaller value divided by a larger one")
    p.require(len(a.axes) == len(b.axes), node, f"shapes {a.shape} and {b.shape}")
    if b.tensor.channels == a.tensor.channels and b.tensor.stored == a.tensor.stored and b.tensor.height == b.tensor.width == 1:
        second = "channels"
    elif b.tensor.stored == 1 and (b.tensor.height, b.tensor.width) == (a.tensor.height, a.tensor.width):
        second = "places"
    else:
        p.require(False, node, f"shapes {a.shape} and {b.shape} differ in another way than by channels or places alone")
        return
    p.add(Step("elementwise", [a.tensor, b.tensor], p.same(node, a), {"op": op, "second": second}))


HANDLERS: dict[str, Handler] = {
    **{name: partial(_unary, kind) for name, kind in UNARY.items()},
    **dict.fromkeys(OPERATORS, _binary),
    "Neg": _negative, "Reciprocal": _reciprocal, "LeakyRelu": _leaky, "Clip": _clip, "Pow": _power,
    "HardSigmoid": partial(_hard_sigmoid, "hard_sigmoid"), "HardSilu": partial(_hard_sigmoid, "hard_silu"),
    "HardSwish": _hard_swish,
}  # fmt: skip
