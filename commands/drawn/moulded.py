"""Draws moulded housings with short shots and missing features.

A plastic housing, seen from the inside, has a wall, a floor, six bosses, ribs between them and four clips. Defects: `missing feature` (a
boss, rib or clip is absent; floor and wall look as everywhere else) and `short shot` (plastic did not fill a corner, a piece of the wall
or the end of a rib). What good parts may have: one to five vents, sink marks, a weld line, another stand of the date dial, another
colour, and a line of grease pencil on the pad in the middle.
"""

import numpy as np
import numpy.typing as npt

from linewatch.commands.drawn.canvas import COLORS, Array, Canvas, Point, bent_line, expose, label_map, noise, relief

LABELS = {"missing feature": COLORS[0], "short shot": COLORS[1]}
_PLASTICS = [(66, 68, 72), (122, 124, 126), (176, 172, 160), (64, 88, 122), (134, 72, 62)]
_BOSSES = [(x, y) for y in (-52.0, 52.0) for x in (-92.0, 0.0, 92.0)]
_RIBS = [((-92.0, -52.0), (0.0, -52.0)), ((0.0, -52.0), (92.0, -52.0)), ((-92.0, 52.0), (0.0, 52.0)), ((0.0, 52.0), (92.0, 52.0)),
         ((-92.0, -52.0), (-92.0, 52.0)), ((92.0, -52.0), (92.0, 52.0))]  # fmt: skip
_CLIPS = [(-46.0, -86.0), (46.0, -86.0), (-46.0, 86.0), (46.0, 86.0)]
_OUTER, _INNER = (236, 164), (222, 150)
_BOSS = 9.0


def draw(rng: np.random.Generator, defects: list[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw one housing with the named defects; returns the picture and its label map."""
    canvas = Canvas.drawn(rng, 2.5, 5)
    bosses, ribs, clips = list(_BOSSES), [list(r) for r in _RIBS], list(_CLIPS)
    masks: dict[str, Array] = {}
    if "missing feature" in defects:
        masks["missing feature"] = _remove(rng, canvas, bosses, ribs, clips)
    unfilled = canvas.coverage()
    if "short shot" in defects:
        unfilled, masks["short shot"] = _short_shot(rng, canvas, ribs)
    body = canvas.coverage(canvas.rounded_box(*_OUTER, 16), *(canvas.box(c, 15, 12) for c in clips), blur=0.3) * (
        1 - unfilled
    )
    floor = canvas.coverage(canvas.rounded_box(*_INNER, 10), blur=0.3) * (1 - unfilled)
    raised = np.maximum(
        canvas.coverage(*(canvas.line(r, 2.6) for r in ribs), blur=0.3),
        canvas.coverage(*(canvas.disc(b, _BOSS) for b in bosses), blur=0.3),
    )
    bores = canvas.coverage(*(canvas.disc(b, 3.6) for b in bosses), blur=0.3)
    level: Array = rng.uniform(0.9, 1.1) * (1 + 0.02 * noise(rng, 25, 25) + rng.uniform(0.01, 0.03) * noise(rng, 0.7, 0.7))
    level = level * (1 - 0.12 * floor * (1 - raised)) + 0.16 * relief(body) - 0.14 * relief(floor) + 0.2 * relief(raised)
    level = (
        level
        * (1 - 0.5 * bores)
        * (1 - 0.12 * np.roll(canvas.coverage(*(canvas.disc(b, _BOSS) for b in bosses), blur=2), (3, 3), (0, 1)))
    )
    level = _harmless(rng, canvas, level)
    plastic = level[..., None] * np.array(_PLASTICS[int(rng.integers(len(_PLASTICS)))], np.float32)
    pencil = rng.uniform(0.4, 0.8) * _pencil(rng, canvas)[..., None]
    plastic = plastic * (1 - pencil) + np.array([226, 214, 130], np.float32) * pencil
    table = rng.uniform(70, 190) * (1 + 0.03 * noise(rng, 12, 12) + 0.03 * noise(rng, 1, 1))
    shadow = 0.3 * np.roll(canvas.coverage(canvas.rounded_box(*_OUTER, 16), blur=3), (4, 4), (0, 1)) * (1 - unfilled)
    scene = plastic * body[..., None] + (table * (1 - shadow) * (1 - body))[..., None]
    return expose(rng, scene), label_map(LABELS, masks)


def _remove(
    rng: np.random.Generator, canvas: Canvas, bosses: list[Point], ribs: list[list[Point]], clips: list[Point]
) -> Array:
    """Take one feature off its list; returns the mask of where it belongs."""
    kind = rng.integers(3)
    if kind == 0:
        return canvas.coverage(canvas.disc(bosses.pop(int(rng.integers(len(bosses)))), _BOSS))
    if kind == 1:
        gone = ribs.pop(int(rng.integers(len(ribs))))
        return canvas.coverage(canvas.line(gone, 3.4)) * (1 - canvas.coverage(*(canvas.disc(b, _BOSS) for b in bosses)))
    gone_clip = clips.pop(int(rng.integers(len(clips))))
    return canvas.coverage(canvas.box(gone_clip, 15, 12)) * (1 - canvas.coverage(canvas.rounded_box(*_OUTER, 16)))


def _short_shot(rng: np.random.Generator, canvas: Canvas, ribs: list[list[Point]]) -> tuple[Array, Array]:
    """Where there is no plastic at all, and the mask; shortens a rib where that is what is not filled."""
    if rng.random() < 0.4:
        number = int(rng.integers(len(ribs)))
        start, end = ribs[number] if rng.random() < 0.5 else ribs[number][::-1]
        share = rng.uniform(0.35, 0.6)
        stop = (start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1]))
        ribs[number] = [start, stop]
        absent = canvas.coverage(canvas.line([stop, end], 3.4)) * (
            1 - canvas.coverage(canvas.disc(end, _BOSS), canvas.disc(start, _BOSS))
        )
        return np.zeros_like(absent), absent
    sx, sy = rng.choice([-1, 1], 2)
    x, y = sx * (_OUTER[0] / 2 - 3), sy * (_OUTER[1] / 2 - 3)
    if rng.random() < 0.5:  # a piece of the wall, between clip and corner
        x, y = (x + 2 * sx, rng.uniform(-50, 50)) if rng.random() < 0.5 else (rng.uniform(-26, 26), y + 2 * sy)
    radius = rng.uniform(6, 11)
    lobes = [
        canvas.disc((x + dx, y + dy), radius * r)
        for dx, dy, r in zip(*rng.uniform(-4, 4, (2, 3)), rng.uniform(0.7, 1, 3), strict=True)
    ]
    unfilled = canvas.coverage(*lobes, blur=0.6)
    return unfilled, unfilled * canvas.coverage(canvas.rounded_box(*_OUTER, 16))


def _harmless(rng: np.random.Generator, canvas: Canvas, level: Array) -> Array:
    """What differs between good parts."""
    vents = int(rng.integers(1, 6))
    slots = canvas.coverage(*(canvas.box((-56 + 9 * i, 2), 4, 34) for i in range(vents)), blur=0.3)
    level = level * (1 - 0.55 * slots) - 0.1 * relief(slots)
    level = level + 0.05 * relief(canvas.coverage(canvas.box((18, 0), 46, 56), blur=0.5))  # the pad
    dial = canvas.coverage(canvas.disc((58, 4), 11)) - canvas.coverage(canvas.disc((58, 4), 9.6))
    turn = rng.uniform(0, 2 * np.pi)
    hand = canvas.coverage(canvas.line([(58, 4), (58 + 8 * np.cos(turn), 4 + 8 * np.sin(turn))], 1.6))
    level = level - 0.16 * (dial + hand)
    sinks = [
        canvas.disc((rng.uniform(-80, 80), rng.uniform(-36, 36)), rng.uniform(3, 8)) for _ in range(int(rng.integers(0, 4)))
    ]
    level = level * (1 - rng.uniform(0.03, 0.07) * canvas.coverage(*sinks, blur=2.5))
    weld = bent_line(
        (rng.uniform(-80, 80), rng.uniform(-30, 30)), rng.uniform(0, np.pi), rng.uniform(20, 70), rng.uniform(-0.8, 0.8)
    )
    return np.asarray(level * (1 - rng.uniform(0, 0.08) * canvas.coverage(canvas.line(weld, 1.4))), np.float32)


def _pencil(rng: np.random.Generator, canvas: Canvas) -> Array:
    """A stroke of grease pencil on the pad in the middle; two of three parts have one."""
    if rng.random() < 0.35:
        return canvas.coverage()
    line = bent_line(
        (rng.uniform(10, 26), rng.uniform(-14, 14)), rng.uniform(0, np.pi), rng.uniform(10, 26), rng.uniform(-1, 1)
    )
    return np.asarray(
        canvas.coverage(canvas.line(line, rng.uniform(1.6, 3.2)), blur=0.4) * (0.7 + 0.25 * noise(rng, 1, 1)).clip(0, 1),
        np.float32,
    )
