"""Draws printed labels with smears, missing strokes and spots of ink.

A paper label on a carton has a title, lines with other numbers on each label, a bar code, and a box for inspection. Defects: `smear`
(ink drawn sideways over a word), `missing stroke` (part of a letter is not printed) and `ink spot` (a dot where no print belongs). Good
labels have a pencil tick or scribble, which is allowed in the inspection box, full stops that look like spots, and denser or paler ink.
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import ImageDraw

from linewatch.commands.drawn.canvas import (
    COLORS,
    HEIGHT,
    WIDTH,
    Array,
    Canvas,
    Point,
    Shape,
    bent_line,
    expose,
    label_map,
    noise,
    relief,
    spot,
)  # fmt: skip
from linewatch.commands.drawn.glyphs import Stroke, strokes

LABELS = {"smear": COLORS[0], "missing stroke": COLORS[1], "ink spot": COLORS[2]}
_PAPER = [(232, 230, 222), (236, 228, 196), (220, 226, 232)]
_CARTON = [(150, 118, 84), (128, 104, 82), (92, 96, 104)]
_TITLES = ("DRIVE UNIT", "PUMP 24 V", "SENSOR KIT")


def draw(rng: np.random.Generator, defects: list[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw one label with the named defects; returns the picture and its label map."""
    canvas = Canvas.drawn(rng, 2.5, 5)
    paper = canvas.coverage(canvas.rounded_box(256, 178, 9), blur=0.4)
    title, text = _text(rng)
    masks: dict[str, Array] = {}
    printed = [_stroke(canvas, s, 3.6) for s in title] + [_stroke(canvas, s, 2.1) for s in text]
    if "missing stroke" in defects:
        printed, masks["missing stroke"] = _leave_out(rng, canvas, title, text, printed)
    words = canvas.coverage(*printed, blur=0.35)
    ink = np.maximum(words, canvas.coverage(*_frame(rng, canvas), blur=0.35))
    if "ink spot" in defects:
        ink, masks["ink spot"] = _ink_spot(rng, canvas, paper, ink)
    if "smear" in defects:
        ink, masks["smear"] = _smear(rng, words, ink)
    ink = ink * (1 + 0.06 * noise(rng, 1.2, 1.2)) * rng.uniform(0.72, 0.92)
    carton = (1 + 0.03 * noise(rng, 30, 1.5) + 0.02 * noise(rng, 1, 1))[..., None] * np.array(
        _CARTON[int(rng.integers(3))], np.float32
    )
    sheet = (1 + 0.012 * noise(rng, 2, 2))[..., None] * np.array(_PAPER[int(rng.integers(3))], np.float32)
    sheet = sheet * (1 - ink.clip(0, 1)[..., None] * np.array([0.9, 0.88, 0.84], np.float32))
    sheet = sheet * (1 - rng.uniform(0.35, 0.7) * _pencil(rng, canvas)[..., None])
    shadow = 0.35 * np.roll(canvas.coverage(canvas.rounded_box(256, 178, 9), blur=2.5), (2, 2), (0, 1))
    scene = (
        carton * (1 - shadow[..., None]) * (1 - paper[..., None]) + sheet * paper[..., None] + 14 * relief(paper)[..., None]
    )
    return expose(rng, 0.9 * scene), label_map(LABELS, masks)


def _digits(rng: np.random.Generator, count: int) -> str:
    return "".join(map(str, rng.integers(0, 10, count)))


def _text(rng: np.random.Generator) -> tuple[list[Stroke], list[Stroke]]:
    """Strokes of the title, and of the lines below it."""
    x, y = -114 + rng.uniform(-3, 3), -76 + rng.uniform(-3, 3)
    title = strokes(_TITLES[int(rng.integers(len(_TITLES)))], (x, y), 22)
    letters = "ABCDEFHKLMNPRSTUVXYZ"
    lot = "".join(rng.choice(list(letters), 2)) + _digits(rng, 3)
    date = f"{rng.integers(1, 29):02}/{rng.integers(1, 13):02}/20{rng.integers(24, 30)}"
    lines = [f"SN {_digits(rng, 4)}-{_digits(rng, 5)}", f"LOT {lot}  {_digits(rng, 1)}.{_digits(rng, 2)} A", date]
    text = [s for i, line in enumerate(lines) for s in strokes(line, (x, y + 38 + 21 * i + rng.uniform(-1.5, 1.5)), 12)]
    return title, text


def _stroke(canvas: Canvas, stroke: Stroke, width: float) -> Shape:
    """A line with round ends."""
    shapes = [canvas.line(stroke, width), *(canvas.disc(p, width / 2) for p in stroke)]

    def draw_all(picture: ImageDraw.ImageDraw) -> None:
        for shape in shapes:
            shape(picture)

    return draw_all


def _frame(rng: np.random.Generator, canvas: Canvas) -> list[Shape]:
    """What is printed beside text: a rule, the bar code, and the box for inspection."""
    shapes = [canvas.line([(-114, -46), (114, -46)], 1.6)]
    x = -112.0
    while x < 36:
        width = float(rng.choice([1.5, 3.0, 4.5]))
        shapes.append(canvas.box((x + width / 2, 62), width, 32))
        x += width + float(rng.choice([1.7, 3.2, 4.7]))
    corners = [(66, 38), (112, 38), (112, 78), (66, 78), (66, 38)]
    shapes += [canvas.line(side, 1.6) for side in pairwise(corners)]
    return shapes


def _pencil(rng: np.random.Generator, canvas: Canvas) -> Array:
    """A tick, a scribble or a smudged tick in the box for inspection."""
    x, y = 89 + rng.uniform(-5, 5), 58 + rng.uniform(-4, 4)
    size = rng.uniform(7, 13)
    tick: list[Point] = [(x - size, y), (x - 0.3 * size, y + 0.8 * size), (x + size, y - size)]
    if rng.random() < 0.4:
        tick = [(x - size + 2 * size * i / 9, y + size * float(rng.uniform(-1, 1))) for i in range(10)]
    mark = canvas.coverage(canvas.line(tick, rng.uniform(1.4, 3)), blur=0.5)
    if rng.random() < 0.5:  # smudged, as a smear is
        mark = np.maximum(
            mark, 0.8 * canvas.coverage(canvas.line(bent_line((x, y), rng.uniform(-0.5, 0.5), 16, 0.3), 9), blur=2.5)
        )
    return np.asarray(mark * (1 + 0.2 * noise(rng, 1, 1)).clip(0, 1), np.float32)


def _leave_out(
    rng: np.random.Generator, canvas: Canvas, title: list[Stroke], text: list[Stroke], printed: list[Shape]
) -> tuple[list[Shape], Array]:
    """What is printed without a stroke of the title or a few neighbouring ones of the text, and the mask of what is absent."""
    in_title = rng.random() < 0.6
    choice = title if in_title else text
    long = [i for i, ((ax, ay), (bx, by)) in enumerate(choice) if np.hypot(ax - bx, ay - by) > (9 if in_title else 5)]
    first = int(rng.choice(long))
    left_out = {first}
    if not in_title:  # one stroke less makes another digit; half a letter does not
        (ax, ay), (bx, by) = choice[first]
        cx, cy = (ax + bx) / 2, (ay + by) / 2
        left_out |= {
            i for i, ((px, py), (qx, qy)) in enumerate(choice) if np.hypot((px + qx) / 2 - cx, (py + qy) / 2 - cy) < 6.5
        }
    offset, width = (0, 3.6) if in_title else (len(title), 2.1)
    kept = [shape for i, shape in enumerate(printed) if i - offset not in left_out]
    absent = canvas.coverage(*(_stroke(canvas, choice[i], width + 1.4) for i in left_out))
    return kept, np.asarray(absent * (canvas.coverage(*kept) < 0.5), np.float32)


def _ink_spot(rng: np.random.Generator, canvas: Canvas, paper: Array, ink: Array) -> tuple[Array, Array]:
    free = paper * (1 - (ink > 0.1))
    free = free * (1 - canvas.coverage(canvas.box((89, 58), 48, 42)))
    x, y = canvas.locate(*spot(rng, free, 6))
    dots = [
        canvas.disc((x + dx, y + dy), r)
        for dx, dy, r in zip(*rng.uniform(-2.4, 2.4, (2, 3)), rng.uniform(1.6, 3.2, 3), strict=True)
    ]
    mask = canvas.coverage(*dots, blur=0.4)
    return np.maximum(ink, mask * rng.uniform(0.5, 0.9)), mask


def _smear(rng: np.random.Generator, words: Array, ink: Array) -> tuple[Array, Array]:
    """Ink that is drawn sideways from what is printed in a small place."""
    inside = np.zeros_like(words)
    inside[30:-30, 40:-40] = words[30:-30, 40:-40]
    row, column = divmod(int(rng.choice(np.flatnonzero(inside > 0.6))), WIDTH)
    yy, xx = np.arange(HEIGHT, dtype=np.float32)[:, None], np.arange(WIDTH, dtype=np.float32)[None]
    place = ((xx - column) / rng.uniform(13, 24)) ** 2 + ((yy - row) / rng.uniform(7, 12)) ** 2
    source = words * np.exp(-(place**2))
    length, slope = int(rng.integers(10, 24)), rng.uniform(-0.35, 0.35)
    side = 1 if rng.random() < 0.5 else -1
    dragged = np.zeros_like(words)
    for step in range(1, length):
        dragged += (1 - step / length) * np.roll(source, (round(slope * step), side * step), (0, 1))
    dragged = dragged / (0.28 * length) * rng.uniform(0.3, 0.5)
    return np.maximum(ink, ink * 0.9 + dragged.clip(0, 0.65)), np.asarray((dragged > 0.09).astype(np.float32))
