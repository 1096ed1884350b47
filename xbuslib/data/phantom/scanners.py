"""The scanners that the simulated phantom is seen through: one setting each, drawn anew for every picture.

A imitates the machines of BLU and is the default; its pictures are published, so its figures never change. B stands for
another hospital's machine: an older linear probe, of lower frequency and without compounding, its gain turned up, its
frames exported with fewer and larger pixels. Breasts and lesions are drawn alike under both, in centimetres; what
differs is the picture made of them.
"""

from typing import NamedTuple

import numpy as np

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


SCANNERS = {
    "A": Scanner(
        # 3 to 4.6 cm deep, like the frames in BLU
        linear=[(537, 485, 0.0078125), (470, 433, 0.00924), (532, 545, 0.00694), (470, 503, 0.00646),
                (541, 437, 0.00727), (400, 560, 0.00781), (362, 520, 0.00868), (440, 470, 0.0105)],
        sector=[(362, 559, 0.0116), (380, 552, 0.0108)],
        sector_share=31 / 256,  # of BLU's pictures
        frequency=(8, 12),  # a breast probe's range today
        focus=(1.0, 2.2),  # at the lesion
        looks=(2, 3, 4),  # angles
        dynamic_range=(54, 62),
        gain=(64, 15, 38, 100),  # BLU's medians: 59 +- 19
        lesion_scale=1.0,
    ),
    "B": Scanner(
        # Pixels half as large again as A's, so about 300 columns: the size of BUS-BRA's images. The depth and breadth
        # shown, 3.7 to 4.8 by 3.5 to 4 cm, are A's: another zoom would change the lesions' share of the picture too.
        linear=[(340, 300, 0.012), (375, 330, 0.0108), (360, 288, 0.0133), (330, 352, 0.0114)],
        sector=[],
        sector_share=0.0,
        frequency=(5, 7.5),  # the lower end of linear probes: speckle 1.6 times as large as A's, losses 0.6 of A's
        focus=(1.0, 2.2),
        looks=(1, 1, 1),  # no compounding: the full contrast of Rayleigh speckle
        dynamic_range=(66, 76),  # 15 dB more on the same grey scale: softer contrast between tissues
        gain=(96, 12, 70, 120),  # two of A's deviations brighter
        lesion_scale=0.66,  # 0.0079 / 0.0119, the mean pixels: the same centimetres
    ),
}  # fmt: skip


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
