"""No single score of simple filters tells good drawn parts from bad ones, even with its threshold chosen with the answers in hand."""

from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from scipy import ndimage

from linewatch.commands.drawn.canvas import HEIGHT, WIDTH
from linewatch.commands.drawn.kinds import KINDS
from linewatch.commands.drawn.part_set import PartSet
from linewatch.training.metrics import image_metrics

pytestmark = pytest.mark.slow
Array = npt.NDArray[np.float32]
ALL_ANOMALOUS = 2 / 3
"""F1 of calling everything anomalous, with as many bad parts as good ones."""
ORIENTATIONS = 6


@cache
def difference_of_gaussians(sigma: float) -> Array:
    """How much it lets through of each frequency."""
    squared = np.fft.fftfreq(HEIGHT)[:, None] ** 2 + np.fft.rfftfreq(WIDTH)[None] ** 2
    narrow, wide = (np.exp(-2 * np.pi**2 * s**2 * squared) for s in (sigma, 1.6 * sigma))
    return np.asarray(narrow - wide, np.float32)


@cache
def gabor_filter(turn: int, wavelength: int) -> Array:
    """Squared magnitude of what a complex one lets through of each frequency."""
    y, x = np.mgrid[-9:10, -9:10]
    angle = turn * np.pi / ORIENTATIONS
    window = np.exp(-(x**2 + y**2) / (wavelength**2 / 2))
    kernel = window * np.exp(2j * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / wavelength)
    kernel -= window * kernel.sum() / window.sum()  # blind to brightness
    return np.asarray(abs(np.fft.fft2(kernel, (HEIGHT, WIDTH))) ** 2, np.float32)


def spots(grey: Array) -> dict[str, float]:
    """Largest and smallest differences of Gaussians, at four sizes."""
    found, spectrum = {}, np.fft.rfft2(grey)
    for sigma in (1, 2, 4, 8):
        band = np.fft.irfft2(spectrum * difference_of_gaussians(sigma), grey.shape)
        found |= {
            f"brightest spot, {sigma}": band.max(),
            f"darkest spot, {sigma}": band.min(),
            f"strongest spot, {sigma}": abs(band).max(),
        }
    return found


def gabor_energies(grey: Array, wavelength: int) -> list[float]:
    """Mean squared answer of a Gabor filter in each direction; by Parseval's theorem the spectrum is enough."""
    power = abs(np.fft.fft2(grey - grey.mean())) ** 2
    return [float((power * gabor_filter(turn, wavelength)).sum() / power.size**2) for turn in range(ORIENTATIONS)]


def simple_scores(picture: npt.NDArray[np.uint8]) -> dict[str, float]:
    grey = picture.astype(np.float32).mean(axis=2)
    scores = {"mean": float(grey.mean()), "standard deviation": float(grey.std())} | spots(grey)
    for i, color in enumerate(["red", "green", "blue"]):
        scores |= {color: picture[..., i].mean(), f"share of {color}": picture[..., i].mean() / grey.mean()}
    scores["Laplacian energy"] = float((ndimage.laplace(grey) ** 2).mean())
    for wavelength in (4, 8):
        energies = gabor_energies(grey, wavelength)
        scores |= {
            f"largest Gabor energy, {wavelength}": max(energies),
            f"smallest Gabor energy, {wavelength}": min(energies),
        }
        scores[f"largest over smallest Gabor energy, {wavelength}"] = max(energies) / min(energies)
    slope = np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1))
    return scores | {f"edge pixels over {least}": float((slope > least).sum()) for least in (60, 120)}


def best_f1(scores: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_]) -> float:
    """Over every threshold, whichever side of it is called anomalous."""
    found = 0.0
    for signed in (scores, -scores):
        called = truth[np.argsort(-signed, kind="stable")]
        hits, calls = np.cumsum(called), np.arange(1, len(called) + 1)
        found = max(found, float((2 * hits / (calls + truth.sum())).max()))
    return found


def test_the_best_threshold_is_found() -> None:
    rng = np.random.default_rng(0)
    scores, truth = rng.normal(size=30), np.arange(30) % 3 == 0
    scores[truth] += 1
    by_hand = max(image_metrics(s * scores, truth, s * t - 1e-9).f1 for s in (1, -1) for t in scores)
    assert best_f1(scores, truth) == pytest.approx(by_hand)
    assert best_f1(truth.astype(float), truth) == best_f1(-truth.astype(float), truth) == 1


def test_scores_see_what_they_are_for() -> None:
    """A bright spot, stripes and edges on an even picture move the scores that look for them."""
    even = np.full((240, 320, 3), 100, np.uint8)
    even[::2, ::2] += 2
    spot, stripes = even.copy(), even.copy()
    spot[100:104, 100:104] += 60
    stripes[:, ::8] += 40
    plain, spotted, striped = map(simple_scores, (even, spot, stripes))
    assert spotted["brightest spot, 2"] > 5 * plain["brightest spot, 2"]
    assert spotted["edge pixels over 120"] > 0 == plain["edge pixels over 120"]
    assert striped["largest Gabor energy, 8"] > 100 * plain["largest Gabor energy, 8"]
    assert striped["largest over smallest Gabor energy, 8"] > 10


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "machined"])
def test_no_simple_score_finds_the_bad_ones(kind: str) -> None:
    parts = list(PartSet(100, 100, 0, 0, seed=1, kind=kind))
    truth = np.array([p.is_anomaly for p in parts])
    assert truth.sum() == 100  # no bad part's mask is empty
    rows = [simple_scores(p.picture) for p in parts]
    found = {name: best_f1(np.array([row[name] for row in rows], float), truth) for name in rows[0]}
    assert all(f1 >= ALL_ANOMALOUS - 1e-9 for f1 in found.values())
    assert {name: f1 for name, f1 in found.items() if f1 >= 0.7} == {}


def test_a_brightness_rule_fails_on_machined_parts() -> None:
    """Even the best threshold on the mean; their dents and holes are strong enough for other scores."""
    drawn = list(PartSet(30, 30, 0, 0, seed=1))
    means = np.array([float(p.picture.mean()) for p in drawn])
    truth = np.array([p.is_anomaly for p in drawn])
    fair = image_metrics(means, truth, float(np.median(means)))
    assert fair.roc_auc == pytest.approx(0.5, abs=0.2)
    assert best_f1(means, truth) < 0.7
