"""How each convolution is computed: the choices, a model of what they cost, and logs of what was measured. No TVM here."""

import msgspec

from linewatch.packager.plan import Step
from linewatch.packager.targets import Isa


class Tile(msgspec.Struct, frozen=True, tag="direct"):
    """Directly, in register tiles of `pixels` of a row x `blocks` vectors of output channels."""

    pixels: int
    blocks: int


class Winograd(msgspec.Struct, frozen=True, tag="winograd"):
    """By transformed tiles of m x m outputs, `tiles` of them at a time, in register tiles of `pixels` x `blocks`."""

    m: int
    pixels: int
    blocks: int
    tiles: int


class Fused(msgspec.Struct, frozen=True, tag="fused"):
    """A convolution, a depthwise one and one of 1 x 1 together, `rows` of the output at a time: see `kernels.fused`."""

    rows: int
    first: Tile
    last: Tile


class Apart(msgspec.Struct, frozen=True, tag="apart"):
    """Layers that could be computed together one after another, each by its own choice."""


Choice = Tile | Winograd | Fused | Apart
_LARGEST_TRANSFORM = 6
"""Input tiles of 7 x 7 and more lose too many digits in single precision."""
_CACHE = 1 << 20
"""Bytes that stay in a core's own cache between blocks: most of today's level-2 caches hold 1 to 2 MiB."""


_ARRIVING, _NEAR = 2, 8
"""Bytes from beyond that cache, and from inside, that arrive in the time of a vector multiply-add."""
_THREADS = 4
"""What a device is taken to have: between threads rows of layers that are computed together are computed twice."""
_STRIPS = (2, 1)
"""Output rows at a time that layers are computed together for."""


def tiles(isa: Isa, vectors: int, width: int) -> list[Tile]:
    """Register tiles, the best modelled throughput first."""
    fitting = [
        Tile(pixels, blocks) for blocks in range(1, 8) if vectors % blocks == 0 for pixels in range(1, min(width, 28) + 1)
        if pixels * blocks + blocks + 1 <= isa.registers
    ]  # fmt: skip
    return sorted(fitting, key=lambda tile: -_efficiency(tile.pixels, tile.blocks, width))


def best_tile(isa: Isa, step: Step) -> Tile:
    """The best tile of a direct convolution."""
    return tiles(isa, step.output.stored // isa.lanes, row_width(step))[0]


def row_width(step: Step) -> int:
    """Output pixels that a register tile can be taken from in one go: a row, or all of a 1 x 1 convolution."""
    if step.kind == "transposed":
        return -(-step.output.width // step.number("sx"))
    plain = all(step.number(n) == 1 for n in ("ky", "kx", "sy", "sx")) and step.number("top") == step.number("left") == 0
    return step.output.width * step.output.height if plain else step.output.width


def winograds(isa: Isa, step: Step) -> list[Winograd]:
    """Transformed schedules that a convolution allows, the largest output tile first."""
    square = step.number("ky") == step.number("kx")
    plain = all(step.number(n) == 1 for n in ("sy", "sx", "dy", "dx"))
    source, target, r = step.inputs[0], step.output, step.number("ky")
    if step.kind != "conv" or not square or not plain or not 3 <= r <= 5 or source.stored % isa.lanes:
        return []
    found = []
    for a in range(_LARGEST_TRANSFORM, r, -1):
        m = a - r + 1
        if m > max(target.height, target.width):
            continue
        count = tile_count(step, m)
        tile = tiles(isa, target.stored // isa.lanes, min(count, 28))[0]
        # Weights that stay in a level-2 cache are read again for every block; others want large blocks.
        wanted = 28 if _weight_bytes(step, a) <= _CACHE else 112
        block = -(-min(wanted, count) // tile.pixels) * tile.pixels
        found.append(Winograd(m, tile.pixels, tile.blocks, block))
    return found


def rows_between(middle: Step, rows: int) -> int:
    """Rows of a depthwise convolution's input that `rows` of its output read."""
    return (rows - 1) * middle.number("sy") + (middle.number("ky") - 1) * middle.number("dy") + 1


def fusions(isa: Isa, step: Step) -> list[Fused]:
    """Schedules by strips of rows, whose rows between the layers stay in the cache."""
    first, middle = step.parts[:2]
    target = step.output
    found = []
    for rows in _STRIPS:
        strip = rows * target.width * middle.output.stored
        between = 4 * (rows_between(middle, rows) * middle.inputs[0].width * first.output.stored + strip)
        if target.height % rows == 0 and between <= _CACHE:
            widen = tiles(isa, first.output.stored // isa.lanes, first.output.width)[0]
            found.append(Fused(rows, widen, tiles(isa, target.stored // isa.lanes, rows * target.width)[0]))
    return found


def tile_count(step: Step, m: int) -> int:
    """Output tiles of m x m."""
    return -(-step.output.height // m) * -(-step.output.width // m)


def candidates(isa: Isa, step: Step) -> list[Choice]:
    """What is worth measuring."""
    if step.kind == "fused":
        return [Apart(), *fusions(isa, step)]
    direct = tiles(isa, step.output.stored // isa.lanes, row_width(step))
    return [*direct[:3], *winograds(isa, step)]


def choose(isa: Isa, step: Step) -> Choice:
    """The cheapest by the model."""
    return min(candidates(isa, step), key=lambda choice: cost(isa, step, choice))


def cost(isa: Isa, step: Step, choice: Choice) -> float:
    """What a choice costs, in vector multiply-adds at full speed."""
    if isinstance(choice, Apart | Fused):
        return _cost_of_layers(isa, step, choice)
    source, target = step.inputs[0], step.output
    vectors = target.stored / isa.lanes
    if isinstance(choice, Tile):
        work = target.height * target.width * step.number("ky") * step.number("kx") * source.channels * vectors
        return work / _efficiency(choice.pixels, choice.blocks, row_width(step))
    a = choice.m + step.number("ky") - 1
    count = tile_count(step, choice.m)
    blocks = -(-count // choice.tiles)
    products = blocks * choice.tiles * a * a * source.channels * vectors
    transforms = count * (2 * a**3 * source.stored / isa.lanes + (choice.m * a * a + choice.m**2 * a) * vectors)
    # Measured: a transform's operation takes 1.3 times as long as a multiply-add in a register tile; weights that do not
    # stay in the cache arrive at 2 bytes in the time of one.
    weights = blocks * _weight_bytes(step, a) / _ARRIVING if _weight_bytes(step, a) > _CACHE else 0
    return products / _efficiency(choice.pixels, choice.blocks, choice.pixels) + 1.3 * transforms + weights


def _cost_of_layers(isa: Isa, step: Step, choice: Apart | Fused) -> float:
    first, middle, last = step.parts
    filtered = middle.output.size * middle.number("ky") * middle.number("kx") / isa.lanes
    if isinstance(choice, Apart):
        moved = sum(8 * t.size / (_ARRIVING if 4 * t.size > _CACHE else _NEAR) for t in (first.output, middle.output))
        return cost(isa, first, choose(isa, first)) + filtered + cost(isa, last, choose(isa, last)) + moved
    rows = first.output.height
    repeated = (rows_between(middle, 1) - middle.number("sy")) * (_THREADS - 1)
    work = [part.output.size * part.number("ky") * part.number("kx") * part.inputs[0].channels / isa.lanes for part in (first, last)]
    widen = work[0] * (1 + max(0, repeated) / rows) / _efficiency(choice.first.pixels, choice.first.blocks, first.output.width)
    return widen + filtered + work[1] / _efficiency(choice.last.pixels, choice.last.blocks, choice.rows * last.output.width)


def _weight_bytes(step: Step, a: int) -> int:
    return 4 * a * a * step.inputs[0].channels * step.output.stored


def _efficiency(pixels: int, blocks: int, width: int) -> float:
    """Share of full speed.

    Loads per multiply-add are (pixels + blocks) / (pixels * blocks); below ten accumulators the units wait for each
    other; a row's last, narrower tile wastes what it does not fill.
    """
    size = pixels * blocks
    filled = width / (-(-width // pixels) * pixels)
    return filled * min(1.0, size / 10) / (1 + 0.6 * (pixels + blocks) / size)
