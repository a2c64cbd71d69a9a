"""Transposed convolution, as one convolution for each residue of the output's row and column by the stride."""

import msgspec
import numpy as np

from linewatch.packager.kernels.conv import Arrays, Geometry, loops
from linewatch.packager.kernels.writer import Kernel, sequence
from linewatch.packager.plan import Step
from linewatch.packager.plan.values import F32
from linewatch.packager.schedule import Tile
from linewatch.packager.targets import Isa


def phases(step: Step) -> list[tuple[Geometry, F32]]:
    """A transposed convolution as convolutions: one for each residue of the output's row and column by the stride.

    Output row y takes weight row k from input row (y + top - k) / sy where that divides; for y = sy * i + at the rows k
    are those with (at + top - k) mod sy = 0, walked backwards.
    """
    assert step.weight is not None
    target, found = step.output, []
    sy, sx, top, left = (step.number(n) for n in ("sy", "sx", "top", "left"))
    for at_y in range(min(sy, target.height)):
        for at_x in range(min(sx, target.width)):
            rows = [k for k in range(step.weight.shape[2]) if (at_y + top - k) % sy == 0][::-1]
            columns = [k for k in range(step.weight.shape[3]) if (at_x + left - k) % sx == 0][::-1]
            weight = step.weight[:, :, rows][:, :, :, columns] if rows and columns else np.zeros((*step.weight.shape[:2], 1, 1), np.float32)
            geometry = Geometry(
                ky=weight.shape[2], kx=weight.shape[3],
                top=-((at_y + top - rows[0]) // sy) if rows else 0, left=-((at_x + left - columns[0]) // sx) if columns else 0,
                rows=-(-(target.height - at_y) // sy), columns=-(-(target.width - at_x) // sx),
                every_y=sy, every_x=sx, at_y=at_y, at_x=at_x,
            )  # fmt: skip
            found.append((geometry, np.ascontiguousarray(weight, np.float32)))
    return found


def transposed_convolution(isa: Isa, step: Step, tile: Tile) -> object:
    """Parameters: input, packed weights of each phase, bias, output."""
    source, target = step.inputs[0], step.output
    kernel = Kernel()
    x = kernel.array(source.size)
    parts = [(geometry, kernel.array(weight.shape[2] * weight.shape[3] * source.channels * target.stored))
             for geometry, weight in phases(step)]  # fmt: skip
    b = kernel.array(target.stored)
    y = kernel.array(target.size)
    bodies = []
    for geometry, w in parts:
        mine = msgspec.structs.replace(tile, pixels=min(tile.pixels, geometry.columns))
        bodies.append(loops(isa, step, geometry, mine, Arrays(x, w, b, None, y)))
    return kernel.finish(sequence(bodies))
