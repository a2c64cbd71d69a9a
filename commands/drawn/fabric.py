"""Draws woven fabric with stains and missing threads.

A plain or twill weave of threads that differ a little, nearer or farther from the camera. Defects: `stain` (faint, blurred, a little
yellow) and `missing thread` (one weft thread is absent for a few centimetres, and the gap is as wide as the thread). Good fabric has soft
folds as dark as stains but much longer, thick threads, and chalk marks for cutting, which are allowed beside the left edge.
"""

import numpy as np
import numpy.typing as npt

from linewatch.commands.drawn.canvas import COLORS, HEIGHT, WIDTH, Array, Canvas, bent_line, expose, label_map, noise, spot

LABELS = {"stain": COLORS[0], "missing thread": COLORS[1]}
_DYES = [(176, 170, 158), (120, 138, 160), (150, 128, 116), (134, 150, 128), (168, 150, 150), (110, 112, 122)]
_OVER = 2


def draw(rng: np.random.Generator, defects: list[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw one piece with the named defects; returns the picture and its label map."""
    canvas = Canvas.drawn(rng, 4, 8)
    free = np.zeros((HEIGHT, WIDTH), np.float32)
    free[:, 44:] = 1  # beside the edge that is chalked
    masks: dict[str, Array] = {}
    gap = canvas.locate(*spot(rng, free, 24)) if "missing thread" in defects else None
    shade, warmth, absent = _weave(rng, canvas, gap)
    if gap is not None:
        masks["missing thread"] = absent
    shade = shade * (1 + 0.02 * noise(rng, 30, 30))
    for _ in range(int(rng.integers(2, 5))):
        center = rng.uniform(-130, 130), rng.uniform(-90, 90)
        fold = canvas.coverage(
            canvas.line(bent_line(center, rng.uniform(0, np.pi), rng.uniform(180, 420), rng.uniform(-0.6, 0.6)), 7), blur=5
        )
        shade = shade * (1 + (-0.24 if rng.random() < 0.6 else 0.18) * rng.uniform(0.7, 1.3) * fold)
    dye = np.array(_DYES[int(rng.integers(len(_DYES)))], np.float32) + rng.uniform(-8, 8, 3).astype(np.float32)
    scene = shade[..., None] * (dye + warmth[..., None] * np.array([6, 0, -8], np.float32))
    if "stain" in defects:
        masks["stain"], soaked = _stain(rng, canvas, free)
        scene = scene * (1 - soaked[..., None] * rng.uniform(0.09, 0.15) * np.array([0.7, 1, 1.5], np.float32))
    chalk = _chalk(rng, canvas)[..., None]
    scene = scene * (1 - chalk) + np.array([214, 222, 230], np.float32) * chalk
    return expose(rng, scene), label_map(LABELS, masks)


def _weave(rng: np.random.Generator, canvas: Canvas, gap: tuple[float, float] | None) -> tuple[Array, Array, Array]:
    """Shade (about 1), how far the warp is on top (0 to 1), and where a weft thread is absent."""
    period = rng.uniform(4.4, 7.5)
    twill = rng.random() < 0.5
    yy = ((np.arange(HEIGHT * _OVER, dtype=np.float32) + 0.5) / _OVER - HEIGHT / 2 - canvas.shift[1])[:, None]
    xx = ((np.arange(WIDTH * _OVER, dtype=np.float32) + 0.5) / _OVER - WIDTH / 2 - canvas.shift[0])[None]
    c, s = np.float32(np.cos(canvas.angle)), np.float32(np.sin(canvas.angle))
    wave, curl = (0.9 * noise(rng, 18, 18).repeat(_OVER, 0).repeat(_OVER, 1) for _ in range(2))
    u, v = (xx * c + yy * s + wave) / period + 100, (yy * c - xx * s + curl) / period + 100
    i, j = u.astype(np.int16), v.astype(np.int16)
    fu, fv = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    warp_on_top = (i + j) % 4 < 2 if twill else (i + j) % 2 == 0
    absent, light = np.zeros(u.shape, bool), rng.uniform(0.68, 0.84)
    if gap is not None:
        x, y = gap[0] / period + 100, gap[1] / period + 100
        absent = (j == int(y)) & (np.abs(u - x) < rng.uniform(14, 36) / period)
        warp_on_top |= absent
    warp, weft = (1 + 0.05 * rng.standard_normal(200, np.float32) for _ in range(2))
    for threads in (warp, weft):  # thick ones
        threads[rng.integers(75, 125, int(rng.integers(0, 4)))] += rng.uniform(0.06, 0.14)
    # Round threads are dark at their sides, and where they dive below others.
    round_warp = (1 - 1.5 * fu * fu) * (1 - 0.5 * fv * fv)
    round_weft = (1 - 1.5 * fv * fv) * (1 - 0.5 * fu * fu)
    shade = np.where(warp_on_top, round_warp * warp[i], 0.94 * round_weft * weft[j])
    shade = np.where(absent, shade * (light + 0.4 * np.abs(fv)), shade)

    def small(values: Array) -> Array:
        rows = values[::2] + values[1::2]
        return np.asarray((rows[:, ::2] + rows[:, 1::2]) / 4, np.float32)

    return small(shade), small(warp_on_top.astype(np.float32)), small(absent.astype(np.float32))


def _stain(rng: np.random.Generator, canvas: Canvas, free: Array) -> tuple[Array, Array]:
    """Mask, and how much each pixel is soaked."""
    size = rng.uniform(7, 15)
    x, y = canvas.locate(*spot(rng, free, round(1.6 * size) + 2))
    drops = [canvas.disc((x + dx * size, y + dy * size), size * r)
             for dx, dy, r in zip(rng.uniform(-0.6, 0.6, 4), rng.uniform(-0.6, 0.6, 4), rng.uniform(0.4, 0.9, 4), strict=True)]  # fmt: skip
    soaked = canvas.coverage(*drops, blur=rng.uniform(1.5, 3.5))
    return soaked, soaked * (1 + 0.25 * noise(rng, 5, 5)).clip(0.4, 1.6)


def _chalk(rng: np.random.Generator, canvas: Canvas) -> Array:
    edge = -WIDTH / 2 - canvas.shift[0]
    lines = []
    for _ in range(int(rng.integers(1, 4))):
        x, y = edge + rng.uniform(6, 30), rng.uniform(-110, 110)
        lines.append(canvas.line([(x, y), (x + rng.uniform(-8, 8), y + rng.uniform(12, 50))], rng.uniform(2, 4.5)))
    return np.asarray(canvas.coverage(*lines, blur=0.5) * (0.35 + 0.2 * noise(rng, 1, 1)).clip(0, 0.9), np.float32)
