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


Choice = Tile | Winograd
_LARGEST_TRANSFORM = 6
"""Input tiles of 7 x 7 and more lose too many digits in single precision."""
_CACHE = 1 << 20
"""Bytes that stay in a core's own cache between blocks: most of today's level-2 caches hold 1 to 2 MiB."""


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


def tile_count(step: Step, m: int) -> int:
    """Output tiles of m x m."""
    return -(-step.output.height // m) * -(-step.output.width // m)


def candidates(isa: Isa, step: Step) -> list[Choice]:
    """What is worth measuring."""
    direct = tiles(isa, step.output.stored // isa.lanes, row_width(step))
    return [*direct[:3], *winograds(isa, step)]


def choose(isa: Isa, step: Step) -> Choice:
    """The cheapest by the model."""
    return min(candidates(isa, step), key=lambda choice: cost(isa, step, choice))


def cost(isa: Isa, step: Step, choice: Choice) -> float:
    """What a choice costs, in vector multiply-adds at full speed."""
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
    weights = blocks * _weight_bytes(step, a) / 2 if _weight_bytes(step, a) > _CACHE else 0
    return products / _efficiency(choice.pixels, choice.blocks, choice.pixels) + 1.3 * transforms + weights


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
