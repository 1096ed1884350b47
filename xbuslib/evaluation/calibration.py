"""Reliability, ECE, Brier score and one temperature of probabilities, from counts of half-precision values.

Run folders keep probabilities in half precision, of which [0, 1] holds 15 361 values. How many lesion and background
pixels have each of them is all that any score here needs: exact, however many pixels there are. "Calibrated" means that
of the pixels with probability p, a share p is lesion (the probability of the lesion, not of the likelier class).
"""

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit

from xbuslib.errors import StudyError

BINS = 15  # equal-width, as Guo et al. (ICML 2017) and most since
CLIP = 2.0**-12  # half precision has nothing between 1 - 2^-11 and 1: a 1 may stand for anything above 1 - 2^-12
ONE = int(np.float16(1).view(np.uint16))
VALUES = np.clip(np.arange(ONE + 1, dtype=np.uint16).view(np.float16).astype(float), CLIP, 1 - CLIP)  # (15361,)
LOGITS = logit(VALUES)
RANGE = 20.0  # temperatures from 1/20 to 20 are tried; an optimum at an end means that none fits
MARGIN = 0.5  # of a lesion box's own width and height, added on each side


def counts(probabilities: np.ndarray, lesion: np.ndarray, region: np.ndarray | None = None) -> np.ndarray:
    """(2, 15361) pixels of background and of lesion with each half-precision value, in `region` or everywhere.

    probabilities: floats in [0, 1], rounded to half precision; lesion, region: bool; all three of one shape. Raises
    StudyError for a probability that is none.
    """
    halves = np.asarray(probabilities, np.float16) + np.float16(0)  # −0 becomes 0
    bits = halves.view(np.uint16)  # non-negative halves are ordered as their bits
    if bits.size and bits.max() > ONE:
        raise StudyError("probabilities must lie in [0, 1]; a run whose maps hold anything else (nan after a training "
                         "that diverged?) has to be deleted and run again")
    inside = np.ones(bits.shape, bool) if region is None else region
    return np.stack([np.bincount(bits[inside & ~lesion], minlength=ONE + 1),
                     np.bincount(bits[inside & lesion], minlength=ONE + 1)])


def lesion_region(lesion: np.ndarray) -> np.ndarray:
    """(H, W) bool: the bounding box of a lesion with MARGIN of its own sides around it, one pixel at least, cut at the
    frame. Nearly all pixels of an image are background that any system gets right; here lesion and background meet.

    Nowhere if there is no lesion.
    """
    region = np.zeros(lesion.shape, bool)
    if lesion.any():
        spans = []
        for axis in (1, 0):
            ends = np.flatnonzero(lesion.any(axis=axis))[[0, -1]]
            margin = max(1, round(MARGIN * (ends[1] - ends[0] + 1)))
            spans.append(slice(max(0, ends[0] - margin), ends[1] + margin + 1))
        region[tuple(spans)] = True
    return region


def scaled(temperature: float) -> np.ndarray:
    """(15361,) what each value of VALUES becomes when logits are divided by `temperature`."""
    return expit(LOGITS / temperature)


def reliability(counted: np.ndarray, probabilities: np.ndarray = VALUES) -> pd.DataFrame:
    """A row per bin: its ends, pixels, mean probability and share of lesion; the last two are nan in an empty bin.

    counted: of `counts`; probabilities: of each value, `scaled` or as they are.
    """
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    pixels = counted.sum(axis=0)
    total, lesion, sums = (np.bincount(bins, weights=w, minlength=BINS)
                           for w in (pixels, counted[1], pixels * probabilities))
    with np.errstate(invalid="ignore"):
        return pd.DataFrame({"low": np.arange(BINS) / BINS, "high": np.arange(1, BINS + 1) / BINS,
                             "pixels": total.astype(int), "probability": sums / total, "lesion": lesion / total})


def ece(counted: np.ndarray, probabilities: np.ndarray = VALUES) -> float:
    """Expected calibration error: |mean probability − share of lesion|, averaged over bins by their pixels."""
    table = reliability(counted, probabilities).dropna()
    return float(np.average((table["probability"] - table["lesion"]).abs(), weights=table["pixels"]))


def brier(counted: np.ndarray, probabilities: np.ndarray = VALUES) -> float:
    """Mean over pixels of (probability − label)²."""
    return float((counted[0] @ probabilities**2 + counted[1] @ (1 - probabilities)**2) / counted.sum())


def nll(counted: np.ndarray, temperature: float = 1.0) -> float:
    """Mean over pixels of the negative log-likelihood of the label, logits divided by `temperature`; in nats."""
    logits = LOGITS / temperature
    return float((counted[0] @ np.logaddexp(0, logits) + counted[1] @ np.logaddexp(0, -logits)) / counted.sum())


def fit_temperature(counted: np.ndarray) -> float:
    """The temperature in [1/RANGE, RANGE] with the least NLL on `counted` (Guo et al., 2017).

    Over 1 where a system is too sure of itself. No mask at 0.5 changes: a logit keeps its sign.
    """
    found = minimize_scalar(lambda log: nll(counted, np.exp(log)), method="bounded", options={"xatol": 1e-4},
                            bounds=(-np.log(RANGE), np.log(RANGE)))  # nll is convex in 1/temperature: one minimum
    return float(np.exp(found.x))


def scores(counted: np.ndarray, temperature: float = 1.0) -> dict[str, float]:
    """ece, brier and nll at one temperature."""
    probabilities = scaled(temperature)
    return {"ece": ece(counted, probabilities), "brier": brier(counted, probabilities),
            "nll": nll(counted, temperature)}
