"""Layers that may be computed together, without ever holding all of what is between them."""

from collections import Counter

from linewatch.packager.plan.values import Plan, Step


def fused_layers(plan: Plan) -> Plan:
    """A plan with each convolution, depthwise one and one of 1 x 1 that only feed each other as one step of kind `fused`.

    How it is computed is for a schedule to say: together by strips of rows, or one after another.
    """
    uses = Counter(id(t) for step in plan.steps for t in step.inputs) + Counter(id(o.view.tensor) for o in plan.outputs)
    makers = {id(step.output): step for step in plan.steps}
    joined: dict[int, Step] = {}
    inside: set[int] = set()
    for last in plan.steps:
        middle = makers.get(id(last.inputs[0])) if last.inputs else None
        first = makers.get(id(middle.inputs[0])) if middle and middle.inputs else None
        if not first or not middle or (first.kind, middle.kind, last.kind) != ("conv", "depthwise", "conv"):
            continue
        if first.residual or not _is_pointwise(last) or uses[id(first.output)] > 1 or uses[id(middle.output)] > 1:
            continue
        joined[id(last)] = Step(
            "fused", [first.inputs[0], *last.inputs[1:]], last.output, residual=last.residual, parts=(first, middle, last),
        )  # fmt: skip
        inside |= {id(first), id(middle)}
    return Plan(plan.source, [joined.get(id(s), s) for s in plan.steps if id(s) not in inside], plan.outputs)


def _is_pointwise(step: Step) -> bool:
    ones = all(step.number(name) == 1 for name in ("ky", "kx", "sy", "sx"))
    # A product with a constant matrix may see places as channels.
    same = (step.inputs[0].height, step.inputs[0].width) == (step.output.height, step.output.width)
    return ones and same and step.number("top") == step.number("left") == 0
