"""A study's dataset and its targets side by side: their images, the attributes they give, their size classes."""

from pathlib import Path

import numpy as np
import pandas as pd
from scipy.ndimage import binary_dilation

from xbuslib.analyses.cross_centre.targets import Target
from xbuslib.data import catalogue
from xbuslib.data.cases import margin_words
from xbuslib.prompts import words
from xbuslib.runs import record
from xbuslib.runs.study import Study

ATTRIBUTES = ("shape", "margin", "birads")


def side_by_side(study: Study, targets: list[Target]) -> pd.DataFrame:
    """One row per dataset: numbers, medians of frame, pixel and lesion, and the grey values that gain and range set."""
    sides = [(_own_label(study), study.cases, study.prepared)]
    sides += [(target.label, target.table, target.prepared) for target in targets]
    rows = []
    for label, table, prepared in sides:
        at = prepared.rows(table["case_id"])
        grey, contrast = _grey(prepared.images[at], prepared.masks[at])
        rows.append({
            "dataset": label, "lesions": len(table), "patients": table["patient_id"].nunique(),
            "malignant": (table["pathology"] == "malignant").mean(),
            "frame, px": f"{table['width_px'].median():.0f} × {table['height_px'].median():.0f}",
            "pixel, mm": table["pixel_mm"].median(), "lesion, px": table["long_side_px"].median(),
            "lesion, mm": table["long_side_mm"].median(), "share of the frame": table["lesion_fraction"].median(),
            "mean grey": grey, "lesion minus surround, grey": contrast,
        })
    return pd.DataFrame(rows)


def _own_label(study: Study) -> str:
    return f"{catalogue.label(study.facts['dataset'])} (the study's own)"


def _grey(pictures: np.ndarray, masks: np.ndarray) -> tuple[float, float]:
    """Mean grey of (n, S, S) uint8 images, and the lesions' mean minus that of a rim of a sixteenth of the frame."""
    rim = max(1, pictures.shape[-1] // 16)
    differences = []
    for picture, mask in zip(pictures, masks, strict=True):
        around = binary_dilation(mask, iterations=rim) & ~mask
        if around.any():
            differences.append(picture[mask].mean() - picture[around].mean())
    return float(pictures.mean()), float(np.mean(differences))


def attributes(study: Study, targets: list[Target]) -> pd.DataFrame:
    """Which attributes a prompt has at each target: numbers of cases that have them, and words new to the models."""
    rows = []
    for target in targets:
        for name in ATTRIBUTES:
            trained = {word for value in study.cases[name].dropna() for word in _words(name, value)}
            there = target.cases[name].dropna()
            new = there.map(lambda value, name=name, trained=trained: set(_words(name, value)) - trained)
            rows.append({"target": target.label, "attribute": "BI-RADS" if name == "birads" else name,
                         "trained with": int(study.cases[name].notna().sum()), "given": len(there),
                         "of": len(target.cases), "in prompts": len(there) > 0,
                         "words not in training": ", ".join(sorted(set().union(*new))) or None,
                         "in cases": int(new.map(bool).sum())})
    return pd.DataFrame(rows)


def _words(attribute: str, value: str) -> list[str]:
    return margin_words(value) if attribute == "margin" else [value]


def size_classes(study: Study, targets: list[Target]) -> pd.DataFrame:
    """Shares of small, medium and large lesions, by reference masks, in the study and at each target.

    Edges are the mean of the training folds'. A prompt's own word comes from a first pass, not from this.
    """
    edges = np.mean([record.read(Path(folder))["size_edges_px"] for folder in study.runs["folder"]], axis=0)
    counted = [(_own_label(study), "pixels", True, study.cases["long_side_px"].to_numpy())]
    for target in targets:
        own = target.table["long_side_px"].to_numpy()
        counted.append((target.label, "its own pixels", target.scale is None, own))
        if target.scale is not None:
            counted.append((target.label, f"the study's pixels (× {target.scale:.2f})", True, own * target.scale))
    rows = []
    for label, unit, used, sides in counted:
        classes = pd.Series([words.size_word((side, side), tuple(edges)) for side in sides])
        rows.append({"dataset": label, "lengths compared in": unit, "used": used, "n": len(sides)}
                    | {word: float((classes == word).mean()) for word in words.SIZES})
    return pd.DataFrame(rows)
