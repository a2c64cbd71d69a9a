"""Draws machined parts with three kinds of defects and exact masks, from a seed.

A brushed metal plate with six holes lies in a fixture (small shifts and turns) on a belt that varies; light varies
more than any defect changes the mean brightness. Defects, possibly two on one part: `scratch` (one to three pixels wide,
lighter or darker), `dent` (a smooth hollow: one side lit, the other in shadow), `missing hole` (spot-drilled, not
drilled through). Normal parts carry harmless variation: oil stains and belt dirt, which are not labelled.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

from linewatch.commands.drawn.canvas import COLORS, HEIGHT, WIDTH, Array, Canvas, label_map

LABELS = {"scratch": COLORS[0], "dent": COLORS[1], "missing hole": COLORS[2]}
_OVER = 2  # drawn larger and averaged down, so that edges are smooth
_PLATE = (210, 150)
_HOLES = [(-78, -48), (0, -48), (78, -48), (-78, 48), (0, 48), (78, 48)]
_HOLE_RADIUS = 11


def draw(rng: np.random.Generator, defects: list[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw one part with the named defects; returns the picture and its label map."""
    w, h = WIDTH * _OVER, HEIGHT * _OVER
    canvas = Canvas.drawn(rng, 2.5, 4, _OVER)
    scene: Array = _belt(rng, w, h)
    half_w, half_h = _PLATE[0] / 2, _PLATE[1] / 2
    corners = [canvas.place(*c) for c in [(-half_w, -half_h), (half_w, -half_h), (half_w, half_h), (-half_w, half_h)]]
    plate = canvas.area(lambda d: d.polygon(corners, fill=255), blur=0.5)
    metal = _metal(rng, w, h)
    scene = scene * (
        1 - 0.5 * canvas.area(lambda d: d.polygon([(x + 8, y + 10) for x, y in corners], fill=255), blur=4)[..., None]
    )
    masks: dict[str, Array] = {}
    missing = int(rng.integers(len(_HOLES))) if "missing hole" in defects else -1
    through = np.zeros((h, w), np.float32)
    for i, hole in enumerate(_HOLES):
        metal += (
            14
            * (canvas.area(canvas.disc(hole, _HOLE_RADIUS + 2.5)) - canvas.area(canvas.disc(hole, _HOLE_RADIUS)))[..., None]
            * (i != missing)
        )
        if i == missing:
            metal -= 60 * canvas.area(canvas.disc(hole, 2.2), blur=0.6)[..., None]
            masks["missing hole"] = canvas.area(canvas.disc(hole, _HOLE_RADIUS))
        else:
            through = np.maximum(through, canvas.area(canvas.disc(hole, _HOLE_RADIUS), blur=0.4))
    if "scratch" in defects:
        metal, masks["scratch"] = _scratch(rng, metal, canvas)
    if "dent" in defects:
        metal, masks["dent"] = _dent(rng, metal, canvas)
    if rng.random() < 0.35:  # an oil stain: harmless
        x, y = rng.uniform(-80, 80), rng.uniform(-20, 20)
        metal *= 1 - rng.uniform(0.04, 0.1) * canvas.area(canvas.disc((x, y), rng.uniform(10, 22)), blur=5)[..., None]
    alpha = (plate * (1 - 0.92 * through))[..., None]
    scene = scene * (1 - alpha) + metal * alpha
    gradient = np.linspace(-1, 1, w)[None, :, None] * rng.uniform(-0.1, 0.1)
    scene = scene * (rng.uniform(0.8, 1.15) + gradient)
    small = scene.reshape(HEIGHT, _OVER, WIDTH, _OVER, 3).mean(axis=(1, 3))
    small = small + rng.normal(0, 2.5, small.shape)
    # What a hole or the belt hides is not part of the defect.
    visible = {
        name: (mask * plate * (1 - through)).reshape(HEIGHT, _OVER, WIDTH, _OVER).mean(axis=(1, 3))
        for name, mask in masks.items()
    }
    return np.clip(small, 0, 255).astype(np.uint8), label_map(LABELS, visible)


def _belt(rng: np.random.Generator, w: int, h: int) -> Array:
    base = np.array(rng.choice([[70, 74, 80], [95, 90, 84], [58, 66, 60], [112, 112, 110]]), np.float32)
    coarse = Image.fromarray(rng.integers(0, 255, (h // 16, w // 16), np.uint8)).resize((w, h), Image.Resampling.BICUBIC)
    weave = 5 * np.sin(np.arange(w) * rng.uniform(0.25, 0.5))[None, :, None]
    grain: Array = rng.normal(0, 7, (h, w, 1)).astype(np.float32)
    cloud = (np.asarray(coarse, np.float32)[..., None] - 128) * 0.12
    return np.asarray(base + cloud + weave + grain, np.float32)


def _metal(rng: np.random.Generator, w: int, h: int) -> Array:
    lines = rng.normal(0, 1, (h, w + 80)).astype(np.float32)
    total = np.cumsum(lines, axis=1)
    brushed = (total[:, 80:] - total[:, :-80]) / 80**0.5  # noise smeared along the brushing direction
    tone = np.array([158, 162, 168], np.float32) + rng.uniform(-10, 10)
    return np.asarray(tone + 5.5 * brushed[..., None], np.float32)


def _scratch(rng: np.random.Generator, metal: Array, canvas: Canvas) -> tuple[Array, Array]:
    x, y = rng.uniform(-70, 70), rng.uniform(-26, 26)
    heading, length = rng.uniform(0, np.pi), rng.uniform(28, 70)
    bend = rng.uniform(-0.5, 0.5)
    points = []
    for t in np.linspace(-0.5, 0.5, 12):
        direction = heading + bend * t
        px = np.clip(x + t * length * np.cos(direction), -100, 100)
        py = np.clip(y + t * length * np.sin(direction), -70, 70)
        points.append((px, py))
    line = canvas.area(canvas.line(points, rng.uniform(1.2, 3)))
    strength = rng.uniform(28, 60) * (1 if rng.random() < 0.5 else -1)
    return metal + strength * line[..., None], line


def _dent(rng: np.random.Generator, metal: Array, canvas: Canvas) -> tuple[Array, Array]:
    cx, cy = canvas.place(rng.uniform(-85, 85), rng.uniform(-26, 26))
    radius = rng.uniform(7, 14) * _OVER
    aspect, turn = rng.uniform(0.7, 1.3), rng.uniform(0, np.pi)
    yy, xx = np.mgrid[: metal.shape[0], : metal.shape[1]].astype(np.float32)
    dx, dy = xx - cx, yy - cy
    u = (dx * np.cos(turn) + dy * np.sin(turn)) / (radius * aspect)
    v = (-dx * np.sin(turn) + dy * np.cos(turn)) / (radius / aspect)
    r2 = u * u + v * v
    # A bowl of depth (1 - r^2)^2: its slope against a light from the upper left makes the shading.
    slope = np.where(r2 < 1, (1 - r2), 0) * (dx + dy) / radius
    return metal + rng.uniform(45, 80) * slope[..., None].astype(np.float32), (r2 < 1).astype(np.float32)
