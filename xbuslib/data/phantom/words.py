"""The clinical row of a simulated phantom case, in BLU's columns and vocabulary.

Every word is drawn with the odds it has in BLU (252 lesions), given the words already drawn, so that class,
morphology and BI-RADS hang together as they do there: malignant lesions are mostly irregular and not
circumscribed, a circumscribed oval is mostly category 2 or 3. Only iso- and hyperechoic lesions are rarer than in BLU:
a set of sixty has too few of them to learn from.
"""

import numpy as np

COLUMNS = [
    "CaseID", "Image_filename", "Mask_tumor_filename", "Mask_other_filename", "Pixel_size", "Age",
    "Tissue_composition", "Signs", "Symptoms", "Shape", "Margin", "Echogenicity", "Posterior_features",
    "Halo", "Calcifications", "Skin_thickening", "Interpretation", "BIRADS", "Verification", "Diagnosis",
    "Classification",
]  # fmt: skip

# The workbook's second sheet, as in BLU.
DICTIONARY = [
    ["type", "description"],
    ["Case_ID", "unique identifier"],
    ["Image_filename", "filename(s) of ultrasound b-mode image(s)"],
    ["Mask_tumor_filename", "filename(s) of binary mask overlaying a tumor"],
    ["Mask_other_filename",
     "filename(s) of binary mask overlaying other suspicious lesions in the image (e.g. cysts)"],
    ["Pixel_size",
     "pixel size of the image in centimeters (allows calculating the physical size of objects in the image)"],
    ["Age", "age of patient"],
    ["Tissue_composition", "breast tissue composition assessed during examination"],
    ["Signs", "objective observable abnormalities perceived by physician"],
    ["Symptoms", "subjective experiences reported by patient"],
    ["Shape", "BI-RADS descriptor"],
    ["Margin", None],
    ["Echogenicity", None],
    ["Posterior_features", None],
    ["Halo", None],
    ["Calcifications", None],
    ["Skin_thickening", None],
    ["Interpretation", "image interpretation for mass differentiation"],
    ["BIRADS", "BI-RADS category"],
    ["Verification", "confirmed method for mass classification"],
    ["Diagnosis", "histological type of mass"],
    ["Classification", "lesion type (benign or malignant)"],
]  # fmt: skip

# Counts in BLU, per class.
SHAPE = {
    "benign": {"irregular": 48, "oval": 92, "round": 14},
    "malignant": {"irregular": 92, "oval": 5, "round": 1},
}
CIRCUMSCRIBED = {  # (circumscribed, not), per class and shape
    ("benign", "irregular"): (14, 34), ("benign", "oval"): (86, 6), ("benign", "round"): (12, 2),
    ("malignant", "irregular"): (1, 91), ("malignant", "oval"): (2, 3), ("malignant", "round"): (0, 1),
}  # fmt: skip
MARGIN = {  # how a margin is not circumscribed
    "benign": {
        "indistinct": 25, "angular&indistinct": 3, "angular": 2, "angular&microlobulated&indistinct": 1,
        "microlobulated": 4, "microlobulated&indistinct": 2, "spiculated&angular&indistinct": 1,
        "spiculated&indistinct": 2, "spiculated&microlobulated&indistinct": 2,
    },
    "malignant": {
        "indistinct": 27, "angular&indistinct": 20, "angular": 1, "angular&microlobulated": 2,
        "angular&microlobulated&indistinct": 2, "microlobulated": 6, "microlobulated&indistinct": 9,
        "spiculated": 5, "spiculated&angular": 2, "spiculated&angular&indistinct": 4,
        "spiculated&angular&microlobulated&indistinct": 4, "spiculated&indistinct": 9,
        "spiculated&microlobulated&indistinct": 4,
    },
}  # fmt: skip
ECHOGENICITY = {  # per class and whether circumscribed
    ("benign", True): {"anechoic": 13, "complex cystic/solid": 8, "heterogeneous": 24, "hyperechoic": 5,
                       "hypoechoic": 55, "isoechoic": 7},
    ("benign", False): {"anechoic": 1, "heterogeneous": 13, "hyperechoic": 1, "hypoechoic": 25,
                        "isoechoic": 1},
    ("malignant", True): {"heterogeneous": 1, "hypoechoic": 2},
    ("malignant", False): {"complex cystic/solid": 2, "heterogeneous": 19, "hypoechoic": 74},
}  # fmt: skip
POSTERIOR = {  # combined, enhancement, no, shadowing
    "fluid": (0, 11, 14, 0),  # anechoic and complex cystic/solid
    "benign": (2, 16, 96, 17),
    "malignant": (5, 9, 49, 32),
}
HALO = {
    ("benign", True): 4 / 112,
    ("benign", False): 6 / 42,
    ("malignant", True): 0.0,
    ("malignant", False): 45 / 95,
}
CALCIFICATIONS = {
    "benign": {"no": 145, "in a mass": 7, "intraductal": 1, "indefinable": 1},
    "malignant": {"no": 80, "in a mass": 16, "intraductal": 1, "indefinable": 1},
}
BIRADS = {  # categories 2, 3, 4a, 4b, 4c, 5
    ("benign", "circumscribed"): (26, 36, 40, 9, 0, 1), ("benign", "ragged"): (3, 1, 3, 20, 5, 5),
    ("benign", "spiculated"): (0, 0, 0, 1, 3, 1), ("malignant", "circumscribed"): (0, 0, 1, 2, 0, 0),
    ("malignant", "ragged"): (0, 0, 0, 11, 31, 25), ("malignant", "spiculated"): (0, 0, 0, 3, 10, 15),
}  # fmt: skip
CATEGORIES = (2, 3, "4a", "4b", "4c", 5)
COMPOSITION = {
    "benign": {"heterogeneous: predominantly fat": 45, "heterogeneous: predominantly fibroglandular": 36,
               "homogeneous: fibroglandular": 36, "homogeneous: fat": 11, "not available": 21},
    "malignant": {"heterogeneous: predominantly fat": 32, "heterogeneous: predominantly fibroglandular": 19,
                  "homogeneous: fibroglandular": 6, "homogeneous: fat": 13, "not available": 28},
    "normal": {"heterogeneous: predominantly fat": 1, "homogeneous: fibroglandular": 1},
}  # fmt: skip
SIGNS = {
    "benign": {"no": 112, "palpable": 16, "not available": 19, "breast scar": 2},
    "malignant": {"no": 32, "palpable": 31, "not available": 26, "skin retraction&palpable": 3},
    "normal": {"no": 3, "not available": 1},
}
SYMPTOMS = {
    "benign": {"no": 65, "not available": 61, "family history of breast/ovarian cancer": 10,
               "HRT/hormonal contraception": 8, "nipple discharge": 4},
    "malignant": {"no": 48, "not available": 33, "family history of breast/ovarian cancer": 7,
                  "HRT/hormonal contraception": 6, "nipple discharge": 2},
    "normal": {"not available": 1},
}  # fmt: skip
DIAGNOSIS = {  # after a biopsy
    "benign": {"Fibroadenoma": 29, "Benign mammary dysplasia": 26, "Fibrosclerosis": 10,
               "Intraductal papilloma": 7, "Pseudoangiomatous stromal hyperplasia (PASH)": 5},
    "malignant": {"Invasive carcinoma of no special type (NST)": 54, "Invasive lobular carcinoma": 12,
                  "Invasive carcinoma of no special type (NST)&Ductal carcinoma in situ (DCIS)": 7,
                  "Ductal carcinoma in situ (DCIS)": 4, "Mucinous carcinoma": 3},
}  # fmt: skip
IMPRESSION = {  # of a lesion in category 2 or 3; higher ones are read as suspicious
    "anechoic": "Simple cyst", "complex cystic/solid": "Complex cyst / Non-simple cyst",
    "hyperechoic": "Lipoma", "heterogeneous": "Dysplasia", "isoechoic": "Dysplasia&Fibroadenoma",
    "hypoechoic": "Fibroadenoma",
}  # fmt: skip
AGE = {"benign": (48, 15), "malignant": (61, 13), "normal": (48, 14)}  # mean and standard deviation, years


def draw(rng: np.random.Generator, odds: dict):
    """One key, with odds in proportion to the values."""
    return list(odds)[_index(rng, odds.values())]


def _index(rng, weights) -> int:
    total = np.cumsum(list(weights))
    return int(np.searchsorted(total, rng.random() * total[-1], side="right"))


def row(rng: np.random.Generator, case_number: int, group: str, pixel: float) -> dict:
    """The clinical row of one case of this class (benign, malignant or normal), without file names."""
    age = int(np.clip(np.rint(rng.normal(*AGE[group])), 18, 87))
    words = dict.fromkeys(COLUMNS)
    words |= {
        "CaseID": case_number,
        "Pixel_size": pixel,
        "Age": age if rng.random() < 0.84 else "not available",  # 42 of 256 ages are missing in BLU
        "Tissue_composition": draw(rng, COMPOSITION[group]),
        "Signs": draw(rng, SIGNS[group]),
        "Symptoms": draw(rng, SYMPTOMS[group]),
        "Skin_thickening": "yes" if group != "normal" and rng.random() < 15 / 252 else "no",
        "Classification": group,
    }
    return words | (_no_lesion() if group == "normal" else _lesion(rng, group))


def _no_lesion() -> dict:
    columns = ["Shape", "Margin", "Echogenicity", "Posterior_features", "Halo", "Calcifications",
               "Interpretation", "Verification", "Diagnosis"]  # fmt: skip
    return dict.fromkeys(columns, "not applicable") | {"BIRADS": 1}


def _lesion(rng, group: str) -> dict:
    shape = draw(rng, SHAPE[group])
    circumscribed = _index(rng, CIRCUMSCRIBED[group, shape]) == 0
    margin = "circumscribed" if circumscribed else "not circumscribed - " + draw(rng, MARGIN[group])
    echogenicity = draw(rng, ECHOGENICITY[group, circumscribed])
    fluid = echogenicity in ("anechoic", "complex cystic/solid")
    posterior = ("combined", "enhancement", "no", "shadowing")[
        _index(rng, POSTERIOR["fluid" if fluid else group])
    ]
    kind = "circumscribed" if circumscribed else "spiculated" if "spiculated" in margin else "ragged"
    birads = CATEGORIES[_index(rng, BIRADS[group, kind])]
    biopsy = birads not in (2, 3) or (birads == 3 and rng.random() < 12 / 37)
    suspicion = "Suspicion of malignancy" if group == "malignant" else "Suspicion of malignancy&Fibroadenoma"
    return {
        "Shape": shape,
        "Margin": margin,
        "Echogenicity": echogenicity,
        "Posterior_features": posterior,
        "Halo": "yes" if rng.random() < HALO[group, circumscribed] else "no",
        "Calcifications": draw(rng, CALCIFICATIONS[group]),
        "Interpretation": IMPRESSION[echogenicity] if birads in (2, 3) else suspicion,
        "BIRADS": birads,
        "Verification": "confirmed by biopsy" if biopsy else "confirmed by follow-up care",
        "Diagnosis": draw(rng, DIAGNOSIS[group]) if biopsy else "not applicable",
    }
