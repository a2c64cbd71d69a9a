"""Draws machined parts with three kinds of defects and exact masks, from a seed.

A brushed metal plate with six holes lies in a fixture (small shifts and turns) on a belt that varies; light varies
more than any defect changes the mean brightness. Defects, possibly two on one part: `scratch` (one to three pixels wide,
lighter or darker), `dent` (a smooth hollow: one side lit, the other in shadow), `missing hole` (spot-drilled, not
drilled through). Normal parts carry harmless variation: oil stains and belt dirt, which are not labelled.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from linewatch.anomaly_model.files import replace_file
from linewatch.anomaly_model.progress import ProgressCallback, no_progress

WIDTH, HEIGHT = 320, 240
LABELS = {"scratch": "#D62728", "dent": "#1F77B4", "missing hole": "#FF7F0E"}
_OVER = 2  # drawn larger and averaged down, so that edges are smooth
_PLATE = (210, 150)
_HOLES = [(-78, -48), (0, -48), (78, -48), (-78, 48), (0, 48), (78, 48)]
_HOLE_RADIUS = 11

Array = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Part:
    """One drawn picture.

    Attributes:
        name: file name without ending.
        picture: 240 x 320 x 3 uint8 RGB.
        labels: 240 x 320 uint8, 0 background, i + 1 the i-th entry of LABELS.
        split: `train` or `test`.
    """

    name: str
    picture: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    split: str

    @property
    def is_anomaly(self) -> bool:
        """Whether any defect was drawn."""
        return bool(self.labels.any())


@dataclass(frozen=True, slots=True)
class PartSet:
    """A set of parts, drawn as they are iterated; the same numbers give the same pixels."""

    train_normal: int = 60
    train_anomaly: int = 60
    test_normal: int = 40
    test_anomaly: int = 30
    seed: int = 0

    def __len__(self) -> int:
        return self.train_normal + self.train_anomaly + self.test_normal + self.test_anomaly

    def __iter__(self) -> Iterator[Part]:
        plan = [("train", False, self.train_normal), ("train", True, self.train_anomaly),
                ("test", False, self.test_normal), ("test", True, self.test_anomaly)]  # fmt: skip
        kinds = list(LABELS)
        for group, (split, defective, count) in enumerate(plan):
            for i in range(count):
                chosen: list[str] = []
                if defective:
                    chosen = [kinds[i % 3]]
                    if i % 10 == 9:
                        chosen.append(kinds[(i + 1) % 3])
                picture, labels = draw_part(np.random.default_rng([self.seed, group, i]), chosen)
                yield Part(f"{'anomaly' if defective else 'normal'}-{i:03d}", picture, labels, split)


def draw_part(rng: np.random.Generator, defects: list[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw one part with the named defects; returns the picture and its label map."""
    w, h = WIDTH * _OVER, HEIGHT * _OVER
    angle = np.deg2rad(rng.uniform(-2.5, 2.5))
    shift = rng.uniform(-4, 4, 2)

    def place(x: float, y: float) -> tuple[float, float]:
        c, s = np.cos(angle), np.sin(angle)
        return ((x * c - y * s + WIDTH / 2 + shift[0]) * _OVER, (x * s + y * c + HEIGHT / 2 + shift[1]) * _OVER)

    def area(draw: Callable[[ImageDraw.ImageDraw], None], blur: float = 0.0) -> Array:
        image = Image.new("L", (w, h))
        draw(ImageDraw.Draw(image))
        if blur:
            image = image.filter(ImageFilter.GaussianBlur(blur * _OVER))
        return np.asarray(np.asarray(image, np.float32) / 255, np.float32)

    def disc(center: tuple[float, float], radius: float) -> Callable[[ImageDraw.ImageDraw], None]:
        (x, y), r = place(*center), radius * _OVER
        return lambda d: d.ellipse((x - r, y - r, x + r, y + r), fill=255)

    scene: Array = _belt(rng, w, h)
    half_w, half_h = _PLATE[0] / 2, _PLATE[1] / 2
    corners = [place(*c) for c in [(-half_w, -half_h), (half_w, -half_h), (half_w, half_h), (-half_w, half_h)]]
    plate = area(lambda d: d.polygon(corners, fill=255), 0.5)
    metal = _metal(rng, w, h)
    scene = scene * (1 - 0.5 * area(lambda d: d.polygon([(x + 8, y + 10) for x, y in corners], fill=255), 4)[..., None])
    masks: dict[str, Array] = {}
    missing = int(rng.integers(len(_HOLES))) if "missing hole" in defects else -1
    through = np.zeros((h, w), np.float32)
    for i, hole in enumerate(_HOLES):
        metal += 14 * (area(disc(hole, _HOLE_RADIUS + 2.5)) - area(disc(hole, _HOLE_RADIUS)))[..., None] * (i != missing)
        if i == missing:
            metal -= 60 * area(disc(hole, 2.2), 0.6)[..., None]
            masks["missing hole"] = area(disc(hole, _HOLE_RADIUS))
        else:
            through = np.maximum(through, area(disc(hole, _HOLE_RADIUS), 0.4))
    if "scratch" in defects:
        metal, masks["scratch"] = _scratch(rng, metal, place, area)
    if "dent" in defects:
        metal, masks["dent"] = _dent(rng, metal, place)
    if rng.random() < 0.35:  # an oil stain: harmless
        x, y = rng.uniform(-80, 80), rng.uniform(-20, 20)
        metal *= 1 - rng.uniform(0.04, 0.1) * area(disc((x, y), rng.uniform(10, 22)), 5)[..., None]
    alpha = (plate * (1 - 0.92 * through))[..., None]
    scene = scene * (1 - alpha) + metal * alpha
    gradient = np.linspace(-1, 1, w)[None, :, None] * rng.uniform(-0.1, 0.1)
    scene = scene * (rng.uniform(0.8, 1.15) + gradient)
    small = scene.reshape(HEIGHT, _OVER, WIDTH, _OVER, 3).mean(axis=(1, 3))
    small = small + rng.normal(0, 2.5, small.shape)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for i, name in enumerate(LABELS):
        if name in masks:  # what a hole or the belt hides is not part of the defect
            visible = masks[name] * plate * (1 - through)
            covered = visible.reshape(HEIGHT, _OVER, WIDTH, _OVER).mean(axis=(1, 3)) >= 0.4
            labels[covered] = i + 1
    return np.clip(small, 0, 255).astype(np.uint8), labels


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


def _scratch(
    rng: np.random.Generator, metal: Array, place: Callable[..., tuple[float, float]], area: Callable[..., Array]
) -> tuple[Array, Array]:
    x, y = rng.uniform(-70, 70), rng.uniform(-26, 26)
    heading, length = rng.uniform(0, np.pi), rng.uniform(28, 70)
    bend = rng.uniform(-0.5, 0.5)
    points = []
    for t in np.linspace(-0.5, 0.5, 12):
        direction = heading + bend * t
        px = np.clip(x + t * length * np.cos(direction), -100, 100)
        py = np.clip(y + t * length * np.sin(direction), -70, 70)
        points.append(place(px, py))
    line = area(lambda d: d.line(points, fill=255, width=round(rng.uniform(1.2, 3) * _OVER), joint="curve"))
    strength = rng.uniform(28, 60) * (1 if rng.random() < 0.5 else -1)
    return metal + strength * line[..., None], line


def _dent(rng: np.random.Generator, metal: Array, place: Callable[..., tuple[float, float]]) -> tuple[Array, Array]:
    cx, cy = place(rng.uniform(-85, 85), rng.uniform(-26, 26))
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


def write_set(
    folder: Path, parts: PartSet, progress: ProgressCallback = no_progress
) -> int:
    """Write the set as folders, with a manifest beside each split; returns the number of pictures.

    FOLDER/train and FOLDER/test each hold normal/, anomaly/, masks/, labels.json and data.manifest.
    """
    from io import BytesIO

    colors = np.array([[255, 255, 255], *(list(bytes.fromhex(c[1:])) for c in LABELS.values())], np.uint8)
    lines: dict[str, list[bytes]] = {"train": [], "test": []}
    count = 0
    for part in parts:
        kind = "anomaly" if part.is_anomaly else "normal"
        files = {f"{kind}/{part.name}.png": Image.fromarray(part.picture)}
        if part.is_anomaly:
            files[f"masks/{part.name}.png"] = Image.fromarray(colors[part.labels])
        for name, image in files.items():
            buffer = BytesIO()
            image.save(buffer, "PNG", optimize=False, compress_level=6)
            target = folder / part.split / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(buffer.getvalue())
        lines[part.split].append(msgspec.json.encode(_manifest_line(part, kind)))
        count += 1
        progress("drawing parts", count, len(parts))
    for split, entries in lines.items():
        if entries:
            replace_file(folder / split / "labels.json", msgspec.json.format(msgspec.json.encode(LABELS)) + b"\n")
            replace_file(folder / split / "data.manifest", b"\n".join(entries) + b"\n")
    return count


def _manifest_line(part: Part, kind: str) -> dict[str, object]:
    line: dict[str, object] = {
        "source-ref": f"{kind}/{part.name}.png",
        "anomaly-label": int(part.is_anomaly),
        "anomaly-label-metadata": {
            "class-name": kind, "human-annotated": "no", "type": "groundtruth/image-classification", "confidence": 1,
        },
    }  # fmt: skip
    if part.is_anomaly:
        present = [name for i, name in enumerate(LABELS) if (part.labels == i + 1).any()]
        colors = {"0": {"class-name": "BACKGROUND", "hex-color": "#ffffff", "confidence": 0.0}}
        for i, name in enumerate(present):
            colors[str(i + 1)] = {"class-name": name, "hex-color": LABELS[name], "confidence": 1.0}
        line["anomaly-mask-ref"] = f"masks/{part.name}.png"
        line["anomaly-mask-ref-metadata"] = {
            "internal-color-map": colors, "human-annotated": "no", "type": "groundtruth/semantic-segmentation",
        }  # fmt: skip
    return line
