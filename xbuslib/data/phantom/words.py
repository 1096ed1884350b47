"""The clinical row of a simulated phantom case, in BLU's columns and vocabulary.

Every word is drawn with the odds it has in BLU (252 lesions, odds.yaml), given the words already drawn, so that class,
morphology and BI-RADS hang together as they do there: malignant lesions are mostly irregular and not
circumscribed, a circumscribed oval is mostly category 2 or 3. Only iso- and hyperechoic lesions are rarer than in BLU:
a set of sixty has too few of them to learn from.
"""

from pathlib import Path

import numpy as np
import yaml

COLUMNS = [
    "CaseID", "Image_filename", "Mask_tumor_filename", "Mask_other_filename", "Pixel_size", "Age",
    "Tissue_composition", "Signs", "Symptoms", "Shape", "Margin", "Echogenicity", "Posterior_features",
    "Halo", "Calcifications", "Skin_thickening", "Interpretation", "BIRADS", "Verification", "Diagnosis",
    "Classification",
]  # fmt: skip

ODDS = yaml.safe_load(Path(__file__).with_name("odds.yaml").read_text(encoding="utf-8"))


def draw(rng: np.random.Generator, odds: dict):
    """One key, with odds in proportion to the values."""
    return list(odds)[_index(rng, odds.values())]


def _index(rng, weights) -> int:
    total = np.cumsum(list(weights))
    return int(np.searchsorted(total, rng.random() * total[-1], side="right"))


def row(rng: np.random.Generator, case_number: int, group: str, pixel: float) -> dict:
    """The clinical row of one case of this class (benign, malignant or normal), without file names."""
    age = int(np.clip(np.rint(rng.normal(*ODDS["age"][group])), 18, 87))
    words = dict.fromkeys(COLUMNS)
    words |= {
        "CaseID": case_number,
        "Pixel_size": pixel,
        "Age": age if rng.random() < 0.84 else "not available",  # 42 of 256 ages are missing in BLU
        "Tissue_composition": draw(rng, ODDS["composition"][group]),
        "Signs": draw(rng, ODDS["signs"][group]),
        "Symptoms": draw(rng, ODDS["symptoms"][group]),
        "Skin_thickening": "yes" if group != "normal" and rng.random() < 15 / 252 else "no",
        "Classification": group,
    }
    return words | (_no_lesion() if group == "normal" else _lesion(rng, group))


def _no_lesion() -> dict:
    columns = ["Shape", "Margin", "Echogenicity", "Posterior_features", "Halo", "Calcifications",
               "Interpretation", "Verification", "Diagnosis"]  # fmt: skip
    return dict.fromkeys(columns, "not applicable") | {"BIRADS": 1}


def _lesion(rng, group: str) -> dict:
    shape = draw(rng, ODDS["shape"][group])
    circumscribed = _index(rng, ODDS["circumscribed"][group][shape]) == 0
    margin = "circumscribed" if circumscribed else "not circumscribed - " + draw(rng, ODDS["margin"][group])
    edge = "circumscribed" if circumscribed else "not circumscribed"
    echogenicity = draw(rng, ODDS["echogenicity"][group][edge])
    fluid = echogenicity in ("anechoic", "complex cystic/solid")
    odds = ODDS["posterior"]["fluid" if fluid else group]
    posterior = ("combined", "enhancement", "no", "shadowing")[_index(rng, odds)]
    kind = "circumscribed" if circumscribed else "spiculated" if "spiculated" in margin else "ragged"
    birads = ODDS["birads_categories"][_index(rng, ODDS["birads"][group][kind])]
    biopsy = birads not in (2, 3) or (birads == 3 and rng.random() < 12 / 37)
    with_halo, lesions = ODDS["halo"][group][edge]
    suspicion = "Suspicion of malignancy" if group == "malignant" else "Suspicion of malignancy&Fibroadenoma"
    return {
        "Shape": shape,
        "Margin": margin,
        "Echogenicity": echogenicity,
        "Posterior_features": posterior,
        "Halo": "yes" if rng.random() < with_halo / lesions else "no",
        "Calcifications": draw(rng, ODDS["calcifications"][group]),
        "Interpretation": ODDS["impression"][echogenicity] if birads in (2, 3) else suspicion,
        "BIRADS": birads,
        "Verification": "confirmed by biopsy" if biopsy else "confirmed by follow-up care",
        "Diagnosis": draw(rng, ODDS["diagnosis"][group]) if biopsy else "not applicable",
    }
