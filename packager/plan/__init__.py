"""From an ONNX graph to a plan: a list of fused steps on channels-last tensors. Pure Python; TVM is not needed here.

`reading` makes the graph plain, `planner` holds what all operators need, each family of operators has a module, and
`fusion` finds layers that may be computed together.
"""

from linewatch.packager.plan import arithmetic, convolutions, layout, rearranging, reductions
from linewatch.packager.plan.fusion import fused_layers
from linewatch.packager.plan.planner import Planner
from linewatch.packager.plan.reading import read_graph
from linewatch.packager.plan.values import Output, Plan, Source, Step, Tensor, Unary, UnsupportedGraphError, View

HANDLERS = {**convolutions.HANDLERS, **arithmetic.HANDLERS, **reductions.HANDLERS, **rearranging.HANDLERS, **layout.HANDLERS}
"""Every operator that is covered, and what plans it."""


def make_plan(model: bytes, lanes: int) -> Plan:
    """Plan a graph for vectors of `lanes` values.

    Raises:
        UnsupportedGraphError: names the operator and what about it is not covered.
    """
    return fused_layers(Planner(read_graph(model), lanes).run(HANDLERS))


__all__ = ["HANDLERS", "Output", "Plan", "Source", "Step", "Tensor", "Unary", "UnsupportedGraphError", "View", "make_plan"]
