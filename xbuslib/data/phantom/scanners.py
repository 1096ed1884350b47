"""The scanners that the simulated phantom is seen through: one setting each, drawn anew for every picture.

A imitates the machines of BLU and is the default; its pictures are published, so its figures never change. B stands for
another hospital's machine: an older linear probe, of lower frequency and without compounding, its gain turned up, its
frames exported with fewer and larger pixels. Breasts and lesions are drawn alike under both, in centimetres; what
differs is the picture made of them.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from xbuslib.data.phantom.acoustics import Frame
from xbuslib.errors import StudyError


class Scanner(NamedTuple):
    """What one machine's pictures have in common. Pairs are the ends of a uniform distribution."""

    linear: list[tuple[int, int, float]]  # frames: height, width in pixels, pixel size in cm
    sector: list[tuple[int, int, float]]  # the same, with a transparent surround
    sector_share: float  # of pictures that are trapezoids
    frequency: tuple[float, float]  # MHz: sets the wavelength, so the speckle's size, and the loss in dB per cm
    focus: tuple[float, float]  # cm
    looks: tuple[int, int, int]  # frames averaged by spatial compounding: one of these
    dynamic_range: tuple[float, float]  # dB between black and white
    gain: tuple[float, float, float, float]  # median grey: mean, SD, lowest, highest
    lesion_scale: float  # pixels of a lesion against those it has on scanner A


SCANNERS = {name: Scanner(**values) for name, values in
            yaml.safe_load(Path(__file__).with_name("scanners.yaml").read_text(encoding="utf-8")).items()}


def scanner(name: str) -> Scanner:
    """A scanner by its name. Raises StudyError for an unknown one."""
    if name not in SCANNERS:
        raise StudyError(f"there is no scanner {name!r} for the phantom; there are {', '.join(SCANNERS)}")
    return SCANNERS[name]


def draw_frame(rng: np.random.Generator, name: str = "A", size: tuple[int, int] | None = None) -> Frame:
    """How one picture of this scanner is taken; size (height, width) in pixels replaces its own frame sizes.

    Every scanner draws equally often, so that what is drawn next, a case's words, is the same under each.
    """
    setting = scanner(name)
    sector = bool(rng.random() < setting.sector_share)
    choices = setting.sector if sector else setting.linear
    height, width, pixel = choices[int(rng.integers(len(choices)))]
    mean, deviation, darkest, brightest = setting.gain
    settings = {
        "sector": sector,
        "frequency": float(rng.uniform(*setting.frequency)),
        "focus": float(rng.uniform(*setting.focus)),
        "looks": setting.looks[int(rng.integers(3))],
        "dynamic_range": float(rng.uniform(*setting.dynamic_range)),
        "median_grey": float(np.clip(rng.normal(mean, deviation), darkest, brightest)),
    }
    enlarged = 1.0
    if size is not None:  # the same breadth of breast on another grid
        enlarged = size[1] / width
        height, width, pixel = size[0], size[1], round(pixel / enlarged, 9)
    return Frame(height, width, pixel, enlarged, **settings)
