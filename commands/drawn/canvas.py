"""What every kind of drawn part needs: shapes where a part lies, noise with a grain, light, and masks as a label map.

Brightness is counted in grey levels, 0 to 255; lengths are pixels of the finished picture, x to the right and y down; angles are radians.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 320, 240
COLORS = ("#D62728", "#1F77B4", "#FF7F0E")
"""Of a kind's labels in masks, in this order."""

Array = npt.NDArray[np.floating[Any]]
Point = tuple[float, float]
Shape = Callable[[ImageDraw.ImageDraw], None]
"""Draws itself with 255 on a larger grey picture."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """How a part lies in the picture.

    Attributes:
        angle: by which it is turned.
        shift: of its centre from the picture's.
        over: how much larger shapes are drawn before they are averaged down, so that edges are smooth.
    """

    angle: float
    shift: Point
    over: int = 3

    @classmethod
    def drawn(cls, rng: np.random.Generator, degrees: float, shift: float, over: int = 3) -> "Canvas":
        """A canvas where the part lies by chance.

        Args:
            rng: decides.
            degrees: the most that it is turned to either side.
            shift: the most that it is moved along each axis.
            over: as the attribute.
        """
        angle = np.deg2rad(rng.uniform(-degrees, degrees))
        x, y = rng.uniform(-shift, shift, 2)
        return cls(float(angle), (float(x), float(y)), over)

    def place(self, x: float, y: float) -> Point:
        """Where a point of the part, counted from its centre, is among the enlarged pixels."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        return (
            (x * c - y * s + WIDTH / 2 + self.shift[0]) * self.over,
            (x * s + y * c + HEIGHT / 2 + self.shift[1]) * self.over,
        )

    def locate(self, row: float, column: float) -> Point:
        """The point of the part, counted from its centre, that is at a pixel."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        x, y = column + 0.5 - WIDTH / 2 - self.shift[0], row + 0.5 - HEIGHT / 2 - self.shift[1]
        return float(x * c + y * s), float(y * c - x * s)

    def disc(self, center: Point, radius: float) -> Shape:
        """A disc of the part."""
        (x, y), r = self.place(*center), radius * self.over
        return lambda d: d.ellipse((x - r, y - r, x + r, y + r), fill=255)

    def polygon(self, points: Sequence[Point]) -> Shape:
        """A polygon of the part."""
        placed = [self.place(*p) for p in points]
        return lambda d: d.polygon(placed, fill=255)

    def box(self, center: Point, width: float, height: float) -> Shape:
        """A rectangle of the part."""
        (x, y), w, h = center, width / 2, height / 2
        return self.polygon([(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)])

    def rounded_box(self, width: float, height: float, radius: float) -> Shape:
        """A rectangle around the part's centre with round corners."""
        turns = np.linspace(0, np.pi / 2, 6)
        corners = [(1, 1, 0.0), (-1, 1, np.pi / 2), (-1, -1, np.pi), (1, -1, 1.5 * np.pi)]
        return self.polygon(
            [
                (
                    sx * (width / 2 - radius) + radius * np.cos(start + t),
                    sy * (height / 2 - radius) + radius * np.sin(start + t),
                )
                for sx, sy, start in corners
                for t in turns
            ]
        )

    def line(self, points: Sequence[Point], width: float) -> Shape:
        """A line of the part."""
        placed, thick = [self.place(*p) for p in points], max(1, round(width * self.over))
        return lambda d: d.line(placed, fill=255, width=thick, joint="curve")

    def area(self, *shapes: Shape, blur: float = 0.0) -> Array:
        """How much of each enlarged pixel the shapes cover.

        Args:
            shapes: drawn over each other.
            blur: standard deviation by which edges are made soft.

        Returns:
            HEIGHT * over x WIDTH * over float32, 0 to 1.
        """
        return _shares(self._image(shapes), blur * self.over)

    def coverage(self, *shapes: Shape, blur: float = 0.0) -> Array:
        """How much of each pixel of the picture the shapes cover: as `area`, HEIGHT x WIDTH, and quicker."""
        return _shares(self._image(shapes).reduce(self.over), blur)

    def _image(self, shapes: Sequence[Shape]) -> Image.Image:
        image = Image.new("L", (WIDTH * self.over, HEIGHT * self.over))
        draw = ImageDraw.Draw(image)
        for shape in shapes:
            shape(draw)
        return image


def _shares(image: Image.Image, blur: float) -> Array:
    soft = image.filter(ImageFilter.GaussianBlur(blur)) if blur else image
    return np.asarray(np.asarray(soft, np.float32) / 255, np.float32)


def bent_line(center: Point, heading: float, length: float, bend: float) -> list[Point]:
    """Twelve points of an arc.

    Args:
        center: around which it lies.
        heading: its direction at the centre.
        length: between its ends.
        bend: by how much its direction changes between its ends.
    """
    return [
        (center[0] + t * length * np.cos(heading + bend * t), center[1] + t * length * np.sin(heading + bend * t))
        for t in np.linspace(-0.5, 0.5, 12)
    ]


def noise(rng: np.random.Generator, along: float, across: float, heading: float = 0.0) -> Array:
    """Smooth noise with a grain.

    Args:
        rng: draws it.
        along: standard deviation of the Gaussian that smooths it in the direction `heading`.
        across: the same across it.
        heading: direction of the grain.

    Returns:
        HEIGHT x WIDTH float32 of mean 0 and standard deviation about 1.
    """
    step = 4 if min(along, across) >= 6 else 1  # what is that smooth is drawn smaller
    h, w = HEIGHT // step, WIDTH // step
    white = np.fft.rfft2(rng.standard_normal((h, w), np.float32))
    fy, fx = np.fft.fftfreq(h, step)[:, None], np.fft.rfftfreq(w, step)[None]
    c, s = np.cos(heading), np.sin(heading)
    white *= np.exp(-2 * np.pi**2 * (((fx * c + fy * s) * along) ** 2 + ((fy * c - fx * s) * across) ** 2))
    white[0, 0] = 0
    smooth = np.fft.irfft2(white, (h, w)).astype(np.float32)
    smooth /= smooth.std()
    return smooth if step == 1 else np.asarray(Image.fromarray(smooth).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def spot(rng: np.random.Generator, room: Array, margin: int) -> Point:
    """Row and column of a pixel with room around it.

    Args:
        rng: chooses.
        room: HEIGHT x WIDTH, above 0.5 where there is any.
        margin: how far from the pixel there is room in every direction.

    Raises:
        ValueError: there is none.
    """
    wide = 2 * margin + 1
    inner = np.asarray(Image.fromarray(room > 0.5).convert("L").filter(ImageFilter.BoxBlur(margin)))
    inside = np.zeros(inner.shape, bool)
    inside[margin:-margin, margin:-margin] = inner[margin:-margin, margin:-margin] == 255
    found = np.flatnonzero(inside)
    if not found.size:
        raise ValueError(f"nowhere are {wide} x {wide} pixels free")
    row, column = divmod(int(rng.choice(found)), WIDTH)
    return float(row), float(column)


def relief(shape: Array) -> Array:
    """Edges of something raised, lit from the upper left: positive where light falls, negative in shadow; HEIGHT x WIDTH, -1 to 1."""
    padded = np.pad(shape, 1, mode="edge")
    return np.asarray(padded[2:, 2:] - padded[:-2, :-2], np.float32)


def expose(rng: np.random.Generator, scene: Array, grain: float = 2.5) -> npt.NDArray[np.uint8]:
    """The picture that a camera takes: exposure, light from one side, a colour cast, and the sensor's noise.

    Args:
        rng: decides.
        scene: HEIGHT x WIDTH x 3.
        grain: standard deviation of the sensor's noise.

    Returns:
        HEIGHT x WIDTH x 3 uint8.
    """
    heading, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.18)
    y, x = np.linspace(-0.5, 0.5, HEIGHT, dtype=np.float32)[:, None], np.linspace(-0.5, 0.5, WIDTH, dtype=np.float32)[None]
    light = rng.uniform(0.74, 1.12) * (1 + 2 * slope * (float(np.cos(heading)) * x + float(np.sin(heading)) * y))
    cast = (1 + rng.uniform(-0.05, 0.05, 3)).astype(np.float32)
    lit = scene * (light[..., None] * cast) + grain * rng.standard_normal(scene.shape, np.float32)
    return np.clip(lit, 0, 255).astype(np.uint8)


def label_map(
    labels: Sequence[str] | Mapping[str, str], masks: Mapping[str, Array], least: float = 0.4
) -> npt.NDArray[np.uint8]:
    """Which pixels belong to which defect.

    Args:
        labels: of the kind, in their order.
        masks: label to HEIGHT x WIDTH, how much of each pixel the defect covers.
        least: share of a pixel from which on it counts.

    Returns:
        HEIGHT x WIDTH uint8, 0 background, i + 1 the i-th label.
    """
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    for i, name in enumerate(labels):
        if name in masks:
            found[masks[name] >= least] = i + 1
    return found
