"""Ultrasound physics of the simulated phantom: from tissue maps to grey values.

Everything works on the image's own pixel grid, rows down the beam (axial, z), columns across it (lateral, x).
Lengths are centimetres, frequencies MHz, levels decibels. The chain is that of a B-mode scanner:

    scatterers x amplitude map + specular reflectors -> depth-varying point spread -> envelope
    -> mean of a few looks + electronic noise -> log compression -> 8-bit grey

Speckle: many scatterers per resolution cell give a circular complex Gaussian field, whose envelope is
Rayleigh distributed (Goodman 1975; Wagner et al. 1983). Attenuation of breast tissue: about 0.5 to 1
dB/cm/MHz (Duck 1990), lived through twice, on the way in and on the way out.
"""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter1d

SOUND_SPEED = 0.154  # cm per microsecond, the 1540 m/s every scanner assumes
FWHM = 2.3548  # full width at half maximum of a Gaussian, in standard deviations
TGC_SLOPE = 0.65  # dB/cm/MHz the scanner makes up for: between fat and gland, so neither is corrected exactly


class Frame(NamedTuple):
    """How one picture was taken: its pixel grid and the scanner's settings."""

    height: int  # pixels, axial
    width: int  # pixels, lateral
    pixel: float  # cm, square
    enlarged: float  # width against that of the scanner's own grid, 1 unless a size is given
    sector: bool  # trapezoid scan with a transparent surround
    frequency: float  # MHz
    focus: float  # cm
    looks: int  # frames averaged by spatial compounding
    dynamic_range: float  # dB shown between black and white
    median_grey: float  # where the operator's gain knob put the picture

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def depths(self) -> np.ndarray:
        """(H, 1) depth of each row's centre, cm."""
        return ((np.arange(self.height) + 0.5) * self.pixel)[:, None]

    @property
    def across(self) -> np.ndarray:
        """(1, W) lateral position of each column's centre, cm from the left edge."""
        return ((np.arange(self.width) + 0.5) * self.pixel)[None, :]


def scatterers(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) circular complex Gaussian field of unit power: the limit of many scatterers per cell."""
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)) * np.sqrt(0.5)


def point_spread(frame: Frame) -> tuple[float, np.ndarray]:
    """Axial standard deviation (a number) and lateral standard deviation per row (H,), in pixels.

    A pulse of about two cycles resolves about 1.2 wavelengths. Across the beam the width is wavelength x
    f-number at the focus (f-number 2.2, usual for a breast probe) and grows hyperbolically away from it; the
    1.6 cm in the formula is the depth of field that dynamic receive focusing leaves.
    """
    wavelength = SOUND_SPEED / frame.frequency
    axial = 1.2 * wavelength / FWHM / frame.pixel
    away = (frame.depths[:, 0] - frame.focus) / 1.6
    lateral = 2.2 * wavelength * np.sqrt(1 + away**2) / FWHM / frame.pixel
    return axial, lateral


def blur(field: np.ndarray, frame: Frame) -> np.ndarray:
    """(H, W) complex field seen through the point spread, scaled so that white noise keeps its power."""
    axial, lateral = point_spread(frame)
    field = gaussian_filter1d(field, axial, axis=0, mode="nearest", truncate=3)
    cycles = np.fft.fftfreq(frame.width)[None, :]  # per pixel
    # A Gaussian's transform is a Gaussian; one width per row makes the lateral filter depth-varying.
    transfer = np.exp(-2 * (np.pi * cycles * lateral[:, None]) ** 2)
    field = np.fft.ifft(np.fft.fft(field, axis=1) * transfer, axis=1)
    # Power that white noise keeps through a Gaussian of width s, per axis: 1 / (2 sqrt(pi) s).
    return field * np.sqrt(4 * np.pi * axial * lateral[:, None])


def echo(rng: np.random.Generator, amplitude: np.ndarray, reflectors: np.ndarray, frame: Frame) -> np.ndarray:
    """(H, W) envelope of one look: speckle of this amplitude (1 = gland) plus coherent reflectors."""
    return np.abs(blur(scatterers(rng, frame.shape) * amplitude + reflectors, frame))


def two_way_loss(attenuation: np.ndarray, frame: Frame) -> np.ndarray:
    """(H, W) change of level in dB that attenuation (dB/cm/MHz) and the TGC leave at each pixel.

    The beam is an aperture wide, so what lies above is averaged over 0.06 cm sideways: shadows have soft
    edges.
    """
    excess = gaussian_filter1d(attenuation - TGC_SLOPE, 0.06 / frame.pixel, axis=1, mode="nearest", truncate=3)
    return -2 * frame.frequency * np.cumsum(excess, axis=0) * frame.pixel


def noise_level(frame: Frame) -> np.ndarray:
    """(H, 1) electronic noise, dB below gland: the TGC lifts it with depth until it fills deep shadows."""
    return -46 + 4.0 * frame.depths


def compound(
    rng: np.random.Generator, level: np.ndarray, loss: np.ndarray, reflectors: np.ndarray, frame: Frame
) -> np.ndarray:
    """(H, W) envelope averaged over the frame's looks; level and loss in dB, reflectors as amplitudes."""
    gain = 10 ** (loss / 20)
    amplitude = 10 ** (level / 20) * gain
    total = np.zeros(frame.shape)
    for _ in range(frame.looks):
        total += echo(rng, amplitude, reflectors * gain, frame)
    noise = 10 ** (noise_level(frame) / 20) * np.abs(scatterers(rng, frame.shape))
    return np.hypot(total / frame.looks, noise)


def log_compress(envelope: np.ndarray, frame: Frame, visible: np.ndarray) -> np.ndarray:
    """(H, W) uint8: the dynamic range from black to white, the gain set by the median of what is visible."""
    level = 20 * np.log10(np.maximum(envelope, 1e-6))
    # Scanners smooth the picture lightly after compression; two thirds of a pixel keep the speckle's grain.
    level = gaussian_filter1d(gaussian_filter1d(level, 0.65, axis=0), 0.65, axis=1)
    grey = frame.median_grey + (level - np.median(level[visible])) * 255 / frame.dynamic_range
    # A soft shoulder: bright reflectors approach white instead of clipping in flat patches.
    grey = np.where(grey > 150, 150 + 105 * np.tanh((grey - 150) / 105), grey)
    grey = np.where(
        grey < 30, 30 * np.exp(np.minimum(grey - 30, 0) / 30), grey
    )  # and a soft toe, as in their grey maps
    return np.rint(np.clip(grey, 0, 255)).astype(np.uint8)


def texture(rng: np.random.Generator, frame: Frame, down: float, across: float) -> np.ndarray:
    """(H, W) smooth Gaussian field of about unit variance, with these correlation lengths in cm.

    Random weights on a grid of Gaussian bumps; the bumps separate, so two small matrix products make it.
    """
    rows = _bumps(frame.depths[:, 0], down)
    columns = _bumps(frame.across[0], across)
    return rows @ rng.standard_normal((rows.shape[1], columns.shape[1])) @ columns.T


def wave(rng: np.random.Generator, frame: Frame, length: float) -> np.ndarray:
    """(W,) smooth Gaussian curve of about unit variance along x, with this correlation length in cm."""
    bumps = _bumps(frame.across[0], length)
    return bumps @ rng.standard_normal(bumps.shape[1])


def shifted(field: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """(H, W) field moved down by shift pixels (broadcast to (H, W)), linear between rows, edges repeated."""
    rows = np.arange(field.shape[0])[:, None] - shift
    rows = np.clip(rows, 0, field.shape[0] - 1)
    low = np.minimum(rows.astype(int), field.shape[0] - 2)
    part = rows - low
    return (1 - part) * np.take_along_axis(field, low, 0) + part * np.take_along_axis(field, low + 1, 0)


def _bumps(positions: np.ndarray, length: float) -> np.ndarray:
    """(N, K) Gaussian bumps of this width on a grid of the same pitch, each row of unit energy."""
    centres = np.arange(positions[0] - 2 * length, positions[-1] + 2 * length, length)
    bumps = np.exp(-0.5 * ((positions[:, None] - centres) / length) ** 2)
    return bumps / np.sqrt((bumps**2).sum(axis=1, keepdims=True))
