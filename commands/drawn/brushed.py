"""Draws brushed metal panels with faint scratches.

A steel panel with a window and three bores is brushed in one direction, another one on each panel. Defects: `scratch` (about two pixels
wide, hardly brighter than the metal, across the grain), `scuff` (a spot where the grain is rubbed off and lies another way) and `pits`
(a few dark dots). Good panels have grain marks, which are as bright as scratches but run along the grain, and handling marks that are
wide and soft.
"""

import numpy as np
import numpy.typing as npt

from linewatch.commands.drawn.canvas import COLORS, Array, Canvas, bent_line, expose, label_map, noise, relief, spot

LABELS = {"scratch": COLORS[0], "scuff": COLORS[1], "pits": COLORS[2]}
_BORES = [(-92.0, 50.0), (92.0, 50.0), (0.0, -64.0)]


def draw(rng: np.random.Generator, defects: list[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw one panel with the named defects; returns the picture and its label map."""
    canvas = Canvas.drawn(rng, 3, 5)
    heading = rng.uniform(0, np.pi)
    panel = canvas.coverage(canvas.rounded_box(262, 186, 14), blur=0.4)
    holes = canvas.coverage(canvas.box((0, -6), 78, 46), *(canvas.disc(b, 8) for b in _BORES), blur=0.4)
    room = panel * (1 - holes)
    rough = rng.uniform(4, 8)
    grain: Array = rough * (0.8 * noise(rng, 40, 0.6, heading) + 0.5 * noise(rng, 12, 0.8, heading))
    masks: dict[str, Array] = {}
    if "scuff" in defects:
        grain, masks["scuff"] = _scuff(rng, canvas, room, grain, heading)
    metal: Array = rng.uniform(128, 172) + 5 * noise(rng, 60, 26, heading) + grain
    for _ in range(int(rng.integers(4, 9))):
        metal += rng.uniform(9, 22) * _grain_mark(rng, canvas, heading)
    metal += rng.uniform(3, 7) * canvas.coverage(
        canvas.disc((rng.uniform(-110, 110), rng.uniform(-80, 80)), rng.uniform(14, 30)), blur=8
    )
    if "scratch" in defects:
        masks["scratch"] = _scratch(rng, canvas, room, heading)
        metal += rng.uniform(11, 18) * masks["scratch"]
    if "pits" in defects:
        masks["pits"] = _pits(rng, canvas, room)
        metal -= rng.uniform(26, 40) * masks["pits"]
    metal += 16 * relief(panel) + 22 * relief(1 - holes)
    below = rng.uniform(34, 74) + 4 * noise(rng, 14, 14) + 3 * noise(rng, 1, 1)
    tint = np.array([0.985, 1, 1.025], np.float32)
    scene = (metal * room + below * (1 - room))[..., None] * tint
    return expose(rng, scene), label_map(LABELS, {name: mask * room for name, mask in masks.items()})


def _grain_mark(rng: np.random.Generator, canvas: Canvas, heading: float) -> Array:
    center = rng.uniform(-125, 125), rng.uniform(-88, 88)
    along = heading - canvas.angle + rng.uniform(-0.03, 0.03)
    return canvas.coverage(canvas.line(bent_line(center, along, rng.uniform(25, 120), 0.0), rng.uniform(1.2, 2.4)))


def _scratch(rng: np.random.Generator, canvas: Canvas, room: Array, heading: float) -> Array:
    center = canvas.locate(*spot(rng, room, 10))
    across = heading - canvas.angle + rng.uniform(np.pi / 5, 4 * np.pi / 5)
    points = bent_line(center, across, rng.uniform(45, 110), rng.uniform(-0.5, 0.5))
    return canvas.coverage(canvas.line(points, rng.uniform(1.5, 2.6)))


def _scuff(rng: np.random.Generator, canvas: Canvas, room: Array, grain: Array, heading: float) -> tuple[Array, Array]:
    size = rng.uniform(9, 15)
    center = canvas.locate(*spot(rng, room, round(size) + 3))
    turn = rng.uniform(0, np.pi)
    points = [
        (center[0] + r * np.cos(t + turn), center[1] + 0.7 * r * np.sin(t + turn))
        for t, r in zip(np.linspace(0, 2 * np.pi, 14)[:-1], size * rng.uniform(0.8, 1.15, 13), strict=True)
    ]
    spread = canvas.coverage(canvas.polygon(points), blur=1.2)
    rubbed = grain.std() * noise(rng, 8, 0.7, heading + rng.uniform(np.pi / 4, 3 * np.pi / 4))
    return grain * (1 - spread) + rubbed * spread, spread


def _pits(rng: np.random.Generator, canvas: Canvas, room: Array) -> Array:
    x, y = canvas.locate(*spot(rng, room, 9))
    dots = [
        canvas.disc((x + dx, y + dy), rng.uniform(1.1, 2.3)) for dx, dy in rng.uniform(-8, 8, (int(rng.integers(6, 12)), 2))
    ]
    return canvas.coverage(*dots)
