"""Anatomy of the simulated phantom: skin, fat lobules, gland, pectoral muscle, ribs, as maps for the
acoustics.

Levels are decibels against fibroglandular tissue, lengths centimetres, attenuation dB/cm/MHz (Duck 1990).
Layer depths follow a breast compressed lightly under the probe: skin 0.15 cm, 0.4 to 1.2 cm of fat, 0.8 to 2
cm of gland, a thin retromammary fat layer, then the pectoral muscle on the ribs.
"""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d, zoom
from scipy.spatial import cKDTree
from scipy.special import ndtri

from xbuslib.data.phantom.acoustics import Frame, shifted, texture, wave

# Level in dB and attenuation of each tissue; fat scatters less than gland, muscle between the two.
SKIN, FAT, GLAND, MUSCLE, RIB = range(5)
LEVEL = np.array([1.0, -5.0, 0.0, -5.0, -16.0])
ATTENUATION = np.array([0.8, 0.55, 0.75, 0.8, 9.0])  # rib: bone, some ten times soft tissue

# How much gland the words of BLU's column `Tissue_composition` stand for: gland's share of the space between
# skin and muscle, and the share of it taken up by islands of fat.
COMPOSITION = {
    "homogeneous: fat": (0.12, 0.7),
    "heterogeneous: predominantly fat": (0.4, 0.45),
    "heterogeneous: predominantly fibroglandular": (0.6, 0.25),
    "homogeneous: fibroglandular": (0.75, 0.06),
}


class Tissue(NamedTuple):
    """What the sound meets, one value per pixel."""

    level: np.ndarray  # (H, W) dB against gland
    attenuation: np.ndarray  # (H, W) dB/cm/MHz
    reflectors: np.ndarray  # (H, W) amplitude of coherent reflection, gland speckle = 1
    skin_depth: float  # cm, where the breast proper begins


def breast(rng: np.random.Generator, frame: Frame, composition: str, thick_skin: bool) -> Tissue:
    """A breast without a lesion."""
    gland_share, island_share = COMPOSITION[composition]
    bottom = frame.height * frame.pixel
    skin = rng.uniform(0.30, 0.40) if thick_skin else rng.uniform(0.12, 0.18)  # over 0.2 cm counts as thickened
    wall = bottom * rng.uniform(0.62, 0.95) + 0.12 * wave(rng, frame, 1.2)  # top of the muscle
    wall = wall + rng.uniform(-0.12, 0.12) * (frame.across[0] - frame.across.mean())
    space = wall - skin
    fat_share = (1 - gland_share) * rng.uniform(0.6, 0.9)  # the rest lies behind the gland
    gland_top = skin + space * fat_share + _scallops(rng, frame, 0.16)
    gland_end = gland_top + space * gland_share
    muscle_end = wall + rng.uniform(0.5, 0.9) + 0.05 * wave(rng, frame, 1.0)

    z = frame.depths
    label = np.full(frame.shape, FAT)
    label[(z > gland_top) & (z < gland_end)] = GLAND
    label[_fat_islands(rng, frame, island_share) & (label == GLAND)] = FAT
    label[z > wall] = MUSCLE
    label[np.broadcast_to(z < skin, frame.shape)] = SKIN
    ribs, rib_faces = _ribs(rng, frame, muscle_end)
    label[ribs] = RIB

    level = LEVEL[label] + 1.3 * texture(rng, frame, 0.05, 0.1) + 1.2 * texture(rng, frame, 0.3, 0.5)
    gland_grain = texture(rng, frame, 0.06, 0.14)  # ducts and stroma: coarser and stronger than fat's
    level += np.where(label == GLAND, 2.5 * gland_grain, 0.0)
    level = gaussian_filter1d(gaussian_filter1d(level, 0.012 / frame.pixel, axis=0), 0.02 / frame.pixel, axis=1)
    septa = np.where(label == FAT, _septa(rng, frame), 0.0)
    stroma = np.where(label == GLAND, _strands(rng, frame, 0.12 * wave(rng, frame, 0.7), 0.016, 0.13, 1.0), 0.0)
    fibres = np.where(label == MUSCLE, _strands(rng, frame, wall - wall.mean(), 0.014, 0.4, 0.9), 0.0)
    # Connective tissue both scatters (grainy) and, where it is flat, reflects (sharp).
    level += 6.0 * np.minimum(septa + stroma + 0.7 * fibres, 1.3)
    reflectors = (1.4 * septa + 0.9 * stroma + 0.4 * fibres) * np.exp(0.7 * texture(rng, frame, 0.05, 0.08))
    for depth, strength in ((wall, 3.0), (muscle_end, 2.5)):  # the fascia in front of and behind the muscle
        reflectors += _sheet(rng, frame, depth, strength)
    reflectors += rib_faces + _probe_face(rng, frame, skin)
    attenuation = ATTENUATION[label] + _poor_contact(rng, frame)
    return Tissue(level, attenuation, reflectors, skin)


def _scallops(rng, frame: Frame, height: float) -> np.ndarray:
    """(W,) depth offset of the gland's surface: fat lobules dip into it, ligaments pull peaks up."""
    x = frame.across[0]
    phase = np.pi * x / rng.uniform(0.8, 1.4) + 0.8 * wave(rng, frame, 0.8) + rng.uniform(0, np.pi)
    return height * (np.abs(np.sin(phase)) - 0.6) + 0.08 * wave(rng, frame, 0.9)


def _fat_islands(rng, frame: Frame, share: float) -> np.ndarray:
    """(H, W) bool: flat islands of fat inside the gland, taking about this share of it."""
    return texture(rng, frame, 0.11, 0.24) > ndtri(1 - share)  # the field has a unit normal distribution


def _septa(rng, frame: Frame) -> np.ndarray:
    """(H, W) Cooper ligaments: the walls between fat lobules, cells about 1 cm wide and 0.4 cm high.

    A wall reflects towards the probe in proportion to how squarely it faces it, so only its flat parts shine.
    Distances are taken on a grid of twice the pixel and interpolated: the walls are three pixels thick.
    """
    step_x, step_z = 1.0, 0.42
    seeds = [
        (row * step_z + rng.uniform(-0.2, 0.2), (column + 0.5 * (row % 2)) * step_x + rng.uniform(-0.35, 0.35))
        for row in range(-1, int(frame.depths[-1, 0] / step_z) + 2)
        for column in range(-1, int(frame.across[0, -1] / step_x) + 2)
    ]
    z = frame.depths + 0.06 * texture(rng, frame, 0.25, 0.35)
    x = frame.across + 0.08 * texture(rng, frame, 0.25, 0.35)
    points = np.stack([z[::2, ::2] / step_z, x[::2, ::2] / step_x], axis=-1)
    near, _ = cKDTree(np.array(seeds) / (step_z, step_x)).query(points, k=2)
    gap = (near[..., 1] - near[..., 0]) * step_z
    slope_z, slope_x = np.gradient(gap)
    facing = slope_z**2 / (slope_z**2 + slope_x**2 + 1e-9)
    wall = _enlarged(np.exp(-0.5 * (gap / 0.018) ** 2) * facing**3, frame)
    return wall * np.clip(0.5 + 0.6 * texture(rng, frame, 0.15, 0.25), 0.03, 1.6)  # some walls are hardly there


def _strands(rng, frame: Frame, follow: np.ndarray, thin: float, long: float, cut: float) -> np.ndarray:
    """(H, W) strands of strength about 0 to 2, this thin and long in cm, along the curve `follow` (W,)."""
    level = shifted(texture(rng, frame, thin, long), follow / frame.pixel)
    density = 0.7 * texture(rng, frame, 0.3, 0.5)  # strands come in bundles
    return np.maximum(level + density - cut, 0.0)


def _sheet(rng, frame: Frame, depth: np.ndarray, strength: float) -> np.ndarray:
    """(H, W) one bright interface at this depth (W,), broken where it happens to face away."""
    line = np.exp(-0.5 * ((frame.depths - depth) / 0.01) ** 2)
    return strength * line * np.clip(0.35 + 0.5 * wave(rng, frame, 0.25), 0.02, None)


def _ribs(rng, frame: Frame, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) bool where bone is and (H, W) its bright face, behind the muscle in two pictures of five."""
    inside, face = np.zeros(frame.shape, bool), np.zeros(frame.shape)
    if rng.random() < 0.4:
        centre = rng.uniform(0.05, 0.95) * frame.across[0, -1]
        half = rng.uniform(0.4, 0.7)  # cm
        reach = 1 - ((frame.across - centre) / half) ** 2
        top = depth + 0.1 + 0.35 * (1 - np.sqrt(np.maximum(reach, 0)))
        inside = (reach > 0) & (frame.depths > top) & (frame.depths < top + 0.5)
        face = 9.0 * (reach > 0) * np.exp(-0.5 * ((frame.depths - top) / 0.015) ** 2)
    return inside, face


def _probe_face(rng, frame: Frame, skin: float) -> np.ndarray:
    """(H, W) the lines every picture begins with: probe face, reverberations, the skin's inner surface."""
    face = np.zeros(frame.shape)
    lift = 0.008 * wave(rng, frame, 0.7)
    for depth, strength in ((0.015, 2.0), (0.05, 1.0), (skin * 0.45, 0.7)):
        face += strength * np.exp(-0.5 * ((frame.depths - depth) / 0.01) ** 2)
    return face + 1.8 * np.exp(-0.5 * ((frame.depths - skin - lift) / 0.014) ** 2)


def _poor_contact(rng, frame: Frame) -> np.ndarray:
    """(H, W) extra attenuation where gel or pressure is missing: columns dark from top to bottom."""
    loss = 1.2 * np.abs(wave(rng, frame, 0.5)) + 1.0 * np.maximum(wave(rng, frame, 0.25) - 1.2, 0)
    if rng.random() < 0.35:  # the probe's edge lifts off
        side = frame.across[0] if rng.random() < 0.5 else frame.across[0, -1] - frame.across[0]
        loss = loss + 9.0 * np.exp(-side / rng.uniform(0.15, 0.4))
    first = frame.depths < 0.1  # all of it is lost in the first millimetre
    return first * loss / (2 * frame.frequency * 0.1)


def _enlarged(field: np.ndarray, frame: Frame) -> np.ndarray:
    """(H, W) from a field sampled at every second pixel."""
    wide = zoom(field, 2, order=1, grid_mode=True, mode="nearest")
    return wide[: frame.height, : frame.width]
