"""Lesions of the simulated phantom: an outline that follows its words, and what the words mean for the sound.

Outlines are star-shaped: a radius for each of 720 angles about a centre, so a mask is always one piece.

The rule for the mask, after what BLU's experts drew: the outline runs where lesion gives way to tissue, half
way through a soft (indistinct) border; an echogenic halo is outside; a spicule is inside as far out as it is
at least half as wide as at its base, and its thin end is left out.
"""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d

from xbuslib.data.phantom.acoustics import Frame, texture
from xbuslib.data.phantom.tissue import Tissue

ANGLES = np.arange(720) * (2 * np.pi / 720)

# Echo level in dB against the tissue around the lesion. BI-RADS compares with fat, of which most of that
# tissue is made; comparing with what is really beside the lesion makes the word true in every picture.
ECHO = {"anechoic": -35.0, "hypoechoic": -14.0, "isoechoic": -2.0, "hyperechoic": 7.0, "heterogeneous": -12.0}

# What the tallest ray gains or loses behind the lesion, dB, before the case's own variation.
POSTERIOR = {"shadowing": -9.0, "enhancement": 6.0, "no": 0.0}


class Outline(NamedTuple):
    """A lesion's location and shape, in pixels."""

    row: float
    column: float
    reached: np.ndarray  # (720,) radius of what the sound meets, spicules included
    drawn: np.ndarray  # (720,) radius of the expert's outline


def outline(rng: np.random.Generator, shape: str, margin: str, length: float) -> Outline:
    """Outline about (0, 0) whose bounding box is `length` pixels along its longest side."""
    body = _SHAPES[shape](rng, margin)
    if "angular" in margin:
        body = _with_corners(rng, body)
    if "microlobulated" in margin:
        body = _with_lobules(rng, body)
    reached = drawn = body
    if "spiculated" in margin:
        spikes = _spicules(rng)
        reached, drawn = (
            body * (1 + spikes.sum(axis=0)),
            body * (1 + np.minimum(spikes, spikes.max(1, keepdims=True) / 2).sum(axis=0)),
        )
    scale = length / max(np.ptp(drawn * np.cos(ANGLES)), np.ptp(drawn * np.sin(ANGLES)))
    return Outline(0.0, 0.0, reached * scale, drawn * scale)


def box(shape: Outline) -> tuple[float, float, float, float]:
    """Top, bottom, left, right of the drawn outline, in pixels."""
    rows = shape.row + shape.drawn * np.sin(ANGLES)
    columns = shape.column + shape.drawn * np.cos(ANGLES)
    return rows.min(), rows.max(), columns.min(), columns.max()


def distance(shape: Outline, radius: np.ndarray, frame: Frame) -> np.ndarray:
    """(H, W) radial distance from the outline with this radius (720,), in cm, negative inside."""
    rows = np.arange(frame.height)[:, None] + 0.5 - shape.row
    columns = np.arange(frame.width)[None, :] + 0.5 - shape.column
    edge = np.interp(np.arctan2(rows, columns), ANGLES, radius, period=2 * np.pi)
    return (np.hypot(rows, columns) - edge) * frame.pixel


def _ellipse(aspect: float, tilt: float) -> np.ndarray:
    """(720,) radius of an ellipse of this aspect ratio and unit area."""
    angle = ANGLES - tilt
    return 1 / np.sqrt(np.cos(angle) ** 2 / aspect + np.sin(angle) ** 2 * aspect)


def _waves(rng, size: float, orders: range) -> np.ndarray:
    """(720,) sum of harmonics, each smaller than the last."""
    return sum(size / order * rng.normal() * np.cos(order * ANGLES + rng.uniform(0, 2 * np.pi)) for order in orders)


def _round(rng, margin):
    return _ellipse(rng.uniform(1.0, 1.12), rng.uniform(0, np.pi)) * np.exp(_waves(rng, 0.03, range(2, 5)))


def _oval(rng, margin):
    # Parallel to the skin, give or take ten degrees; BLU's ovals are 1.4 to 2.1 times as wide as high.
    return _ellipse(rng.uniform(1.4, 2.2), rng.normal(0, 0.15)) * np.exp(_waves(rng, 0.06, range(2, 5)))


def _irregular(rng, margin):
    # Neither round nor oval: strong low harmonics; a circumscribed border keeps only the lowest, so stays
    # smooth.
    orders = range(2, 5) if margin == "circumscribed" else range(2, 9)
    tilt = rng.normal(0, 0.35) + (np.pi / 2) * (rng.random() < 0.2)  # one in five is taller than wide
    return _ellipse(rng.uniform(1.1, 1.9), tilt) * np.exp(np.clip(_waves(rng, 0.33, orders), -0.5, 0.5))


_SHAPES = {"round": _round, "oval": _oval, "irregular": _irregular}


def _with_corners(rng, body: np.ndarray) -> np.ndarray:
    """The body cut to straight edges between five to eight corners, some of them drawn out to a point."""
    count = int(rng.integers(5, 9))
    corners = (np.arange(count) + rng.uniform(-0.3, 0.3, count)) * (2 * np.pi / count)
    radius = np.interp(corners, ANGLES, body, period=2 * np.pi) * rng.uniform(0.85, 1.4, count)
    points = radius * np.exp(1j * corners)
    part = np.linspace(0, 1, 64, endpoint=False)
    edge = (points[:, None] * (1 - part) + np.roll(points, -1)[:, None] * part).ravel()
    cut = np.interp(ANGLES, np.angle(edge) % (2 * np.pi), np.abs(edge), period=2 * np.pi)
    return (0.7 * cut + 0.3 * body) * np.exp(_waves(rng, 0.12, range(5, 14)))  # no edge in tissue is quite straight


def _with_lobules(rng, body: np.ndarray) -> np.ndarray:
    """The body with 9 to 15 small lobules, round outwards with sharp notches between."""
    turns = ANGLES * rng.integers(9, 16) / 2 + 0.5 * np.sin(ANGLES + rng.uniform(0, 6.3))
    return body * (1 + rng.uniform(0.13, 0.2) * (np.abs(np.sin(turns + rng.uniform(0, np.pi))) - 0.64))


def _spicules(rng) -> np.ndarray:
    """(K, 720) 8 to 14 straight spikes, as shares of the radius, tapering from base to tip."""
    count = int(rng.integers(8, 15))
    centres = (np.arange(count) + rng.uniform(-0.35, 0.35, count)) * (2 * np.pi / count)
    lengths, widths = rng.uniform(0.25, 0.8, count), rng.uniform(0.07, 0.13, count)
    away = np.abs((ANGLES - centres[:, None] + np.pi) % (2 * np.pi) - np.pi)
    return lengths[:, None] * np.maximum(1 - away / widths[:, None], 0)


def insert(rng: np.random.Generator, tissue: Tissue, shape: Outline, words: dict, frame: Frame) -> Tissue:
    """The tissue with this lesion in it; words are the clinical row."""
    margin, echogenicity = words["Margin"], words["Echogenicity"]
    gap = distance(shape, shape.reached, frame)
    indistinct = "indistinct" in margin
    # An indistinct border is a transition of 1 to 2 mm with a ragged middle; the others are sharp to a pixel
    # or two.
    soft = rng.uniform(0.05, 0.09) if indistinct else 0.012
    ragged = gap + (0.5 * soft * texture(rng, frame, 0.08, 0.08) if indistinct else 0.0)
    inside = 1 / (1 + np.exp(np.clip(ragged / (0.45 * soft), -40, 40)))

    ring = (gap > 0.05) & (gap < 0.35) & (frame.depths > tissue.skin_depth + 0.05)
    around = tissue.level[ring].mean() if ring.any() else 0.0
    echo = around + _inner_echo(rng, echogenicity, gap, shape, frame)
    level = tissue.level * (1 - inside) + echo * inside
    reflectors = tissue.reflectors * (1 - inside) ** 2
    if words["Halo"] == "yes":  # tissue reaction: an echogenic rim fading outwards over about 2 mm
        level = level + rng.uniform(7, 10) * (1 - inside) * np.exp(-np.maximum(gap, 0) / rng.uniform(0.1, 0.2))
    wall = 2.0 if margin == "circumscribed" else 1.0  # a smooth thin capsule reflects; a ragged border scatters
    down, across = np.gradient(inside)
    edge = (
        np.abs(down) ** 5 / (down**2 + across**2 + 1e-9) ** 2
    )  # where the border faces the probe; none where it is soft
    reflectors = reflectors + wall * edge * np.exp(0.4 * texture(rng, frame, 0.2, 0.2))
    if words["Calcifications"] != "no":
        reflectors = reflectors + _calcifications(rng, words["Calcifications"], gap, shape, frame)
    attenuation = tissue.attenuation + _posterior(rng, words["Posterior_features"], inside, shape, frame)
    return tissue._replace(level=level, attenuation=attenuation, reflectors=reflectors)


def _inner_echo(rng, word: str, gap: np.ndarray, shape: Outline, frame: Frame) -> np.ndarray:
    """(H, W) echo of the inside against the tissue around, dB."""
    size = shape.drawn.mean() * frame.pixel
    if word == "complex cystic/solid":  # fluid beside a solid part, split along a wavy line through the middle
        angle = rng.uniform(0, 2 * np.pi)
        rows = np.arange(frame.height)[:, None] - shape.row
        columns = np.arange(frame.width)[None, :] - shape.column
        side = (rows * np.sin(angle) + columns * np.cos(angle)) * frame.pixel / size
        solid = side + 0.3 * texture(rng, frame, 0.12, 0.12) > rng.uniform(-0.3, 0.3)
        return np.where(solid, rng.uniform(-8, -3), ECHO["anechoic"])
    level = ECHO[word] + (0.0 if word == "anechoic" else rng.uniform(-2.0, 2.0))
    grain = 1.2 * texture(rng, frame, 0.06, 0.1) + 1.0 * texture(rng, frame, 0.2, 0.3)
    if word == "heterogeneous":  # patches a third of the lesion across
        grain = grain + 3.5 * texture(rng, frame, max(size / 3, 0.06), max(size / 3, 0.06))
    return level + grain


def _posterior(rng, word: str, inside: np.ndarray, shape: Outline, frame: Frame) -> np.ndarray:
    """(H, W) attenuation to add, so that the tallest ray changes by what the word says."""
    height = max(inside.sum(axis=0).max() * frame.pixel, 0.1)  # cm
    effect = rng.uniform(0.8, 1.25)
    if word == "combined":  # enhancement behind one half, shadow behind the other
        half = np.tanh((np.arange(frame.width) - shape.column) / (0.15 * shape.drawn.mean()))
        half = half if rng.random() < 0.5 else -half
        target = np.where(half > 0, half * POSTERIOR["enhancement"], -half * POSTERIOR["shadowing"])
    else:
        target = np.full(frame.width, POSTERIOR[word])
    # Shallow rays near the sides cross little of the lesion; raising them towards the full effect keeps the
    # band behind as wide as the lesion, as sonographers describe it.
    chord = inside.sum(axis=0) * frame.pixel
    ray = np.minimum(1.0, 1.6 * chord / height)
    return -inside * (target * ray * effect / np.maximum(chord, 0.03) / (2 * frame.frequency))


def _calcifications(rng, word: str, gap: np.ndarray, shape: Outline, frame: Frame) -> np.ndarray:
    """(H, W) bright specks under half a millimetre: in the mass, along a duct, or a few faint ones."""
    count, bright = (4, 12.0) if word == "indefinable" else (int(rng.integers(6, 15)), 28.0)
    points = np.zeros(frame.shape)
    reach = shape.drawn.mean()
    for step in range(count):
        if word == "intraductal":  # in line, from the border away
            along, angle = reach * (1.05 + 0.08 * step), 0.2 + 0.03 * rng.normal()
        else:
            along, angle = 0.75 * reach * np.sqrt(rng.random()), rng.uniform(0, 2 * np.pi)
        row = int(shape.row + along * np.sin(angle))
        column = int(shape.column + along * np.cos(angle))
        if 0 <= row < frame.height and 0 <= column < frame.width:
            points[row, column] += bright * rng.uniform(0.6, 1.4)
    return gaussian_filter1d(gaussian_filter1d(points, 0.6, axis=0), 0.9, axis=1)
