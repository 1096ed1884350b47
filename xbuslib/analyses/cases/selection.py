"""Which cases Figures 2 and 3 show, and what is around their lesions: chosen by rule, never by hand.

A rule describes a group of cases and shows its middle one by a stated measure: a typical member, not an extreme one.
Where the metadata it needs are missing, or describe no case, it falls back on the image alone and says so.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage

from xbuslib.analyses.performance.printed import BINS
from xbuslib.data.images import Prepared
from xbuslib.progress import remark
from xbuslib.runs import record
from xbuslib.runs.study import Study

RING = 0.5  # width of the surroundings that a lesion is compared with, in equivalent radii; two pixels at least
BAND = 0.2  # half width of "near the boundary", in equivalent radii; one pixel at least
GREY_BINS = 16  # of 16 grey levels each: finer ones would be empty in a small lesion
INSIDE, NEAR, ELSEWHERE = 0, 1, 2  # the zones of a frame
UNCHANGED = 0.5  # mean rank correlation from which a Grad-CAM map is taken as unchanged: half way to the same map
SMALL = 110  # pixels: upper end of the first bin of Table 2
assert BINS[0] == f"≤ {SMALL}"


class Rule(NamedTuple):
    """A group of cases, and the measure by which its middle case is taken. Both groups see the whole case table."""

    name: str  # row label of the figures
    column: str  # of the case table, without which `text` cannot be followed
    text: str
    group: Callable[[pd.DataFrame], pd.Series]  # bool per case
    instead: str  # the fallback, on the image alone
    instead_group: Callable[[pd.DataFrame], pd.Series]
    by: str


def _highest(values: pd.Series, share: float) -> pd.Series:
    return values >= values.quantile(1 - share)


def _lowest(values: pd.Series, share: float) -> pd.Series:
    return values <= values.quantile(share)


def _faint_in_texture(table: pd.DataFrame) -> pd.Series:
    faint = _lowest(table["gcnr"], 1 / 3)
    return faint & (table["ring_sd"] >= table.loc[faint, "ring_sd"].median())


RULES = (  # the four kinds of image that Section 3.1 describes with Figure 2
    Rule("high contrast", "echogenicity", "echogenicity anechoic or hypoechoic, gCNR in the highest quarter",
         lambda t: t["echogenicity"].isin(["anechoic", "hypoechoic"]) & _highest(t["gcnr"], 1 / 4),
         "gCNR in the highest quarter", lambda t: _highest(t["gcnr"], 1 / 4), "gcnr"),
    Rule("small", "long_side_px", f"longest side of the bounding box at most {SMALL} original pixels",
         lambda t: t["long_side_px"] <= SMALL,
         "longest side of the bounding box in the lowest third", lambda t: _lowest(t["long_side_px"], 1 / 3),
         "long_side_px"),
    Rule("low contrast, heterogeneous", "tissue", "tissue composition heterogeneous, gCNR in the lowest third",
         lambda t: t["tissue"].astype("string").str.startswith("heterogeneous").fillna(False).astype(bool)
         & _lowest(t["gcnr"], 1 / 3),
         "gCNR in the lowest third, and of these a grey-level SD of the ring at or above their median",
         _faint_in_texture, "gcnr"),
    Rule("irregular echotexture", "echogenicity", "echogenicity heterogeneous or complex cystic/solid",
         lambda t: t["echogenicity"].isin(["heterogeneous", "complex cystic/solid"]),
         "grey-level SD of the lesion in the highest quarter", lambda t: _highest(t["lesion_sd"], 1 / 4),
         "lesion_sd"),
)


def choose(table: pd.DataFrame, rules: tuple[Rule, ...] = RULES) -> pd.DataFrame:
    """One case per rule, in the order of the rules, each the middle of its group by the rule's measure.

    `table` is one row per case (`measures`). Ties go by case_id; of an even number the lower middle is taken; a case
    that an earlier rule chose is left out. Columns: rule, case_id, fold, text, source ("metadata and image" or
    "image alone"), because (of a fallback, else ""), group and cases (how many the middle was taken from, and out of
    how many), by, value. A rule for which no case is left has no row, and a remark.
    """
    chosen: list[dict] = []
    for rule in rules:
        free = ~table["case_id"].isin([row["case_id"] for row in chosen])
        because = _cannot_follow(rule, table, free)
        text, group = (rule.instead, rule.instead_group) if because else (rule.text, rule.group)
        members = table[group(table) & free & table[rule.by].notna()].sort_values([rule.by, "case_id"])
        if members.empty:
            remark(f"no case is left for the rule {rule.name!r} ({text}) among {len(table)} case(s): left out")
            continue
        middle = members.iloc[(len(members) - 1) // 2]
        chosen.append({"rule": rule.name, "case_id": middle["case_id"], "fold": middle["fold"], "text": text,
                       "source": "image alone" if because else "metadata and image", "because": because,
                       "group": len(members), "cases": len(table), "by": rule.by, "value": middle[rule.by]})
    return pd.DataFrame(chosen)


def _cannot_follow(rule: Rule, table: pd.DataFrame, free: pd.Series) -> str:
    """Why a rule has to fall back, in words; "" if it need not."""
    if rule.column not in table or table[rule.column].isna().all():
        return f"the case table says nothing about {rule.column}"
    return "" if (rule.group(table) & free).any() else "no case left in the group of the first choice"


def candidates(study: Study) -> pd.DataFrame:
    """The cases of every fold that all systems of the study have finished, with their `measures`.

    Raises StudyError if there is no such fold.
    """
    shown = study.cases[study.cases["fold"].isin(study.shared_folds(study.systems))]
    return measures(study.prepared, shown.reset_index(drop=True))


def measures(prepared: Prepared, cases: pd.DataFrame) -> pd.DataFrame:
    """`cases` with contrast, gcnr, lesion_sd and ring_sd, measured on the prepared images.

    contrast: mean grey level of the ring minus that of the lesion (positive: the lesion is darker); the images are
    log-compressed, so this is a difference in decibels up to a factor. All are nan where a lesion fills its image.
    """
    found = []
    for row in prepared.rows(cases["case_id"]):
        image, mask = prepared.images[row], prepared.masks[row]
        lesion, around = image[mask].astype(float), image[ring(mask)].astype(float)
        known = len(around) > 0
        found.append({"contrast": around.mean() - lesion.mean() if known else np.nan,
                      "gcnr": gcnr(lesion, around) if known else np.nan,
                      "lesion_sd": lesion.std(), "ring_sd": around.std() if known else np.nan})
    return cases.assign(**pd.DataFrame(found, index=cases.index))


def ring(mask: np.ndarray, width: float = RING) -> np.ndarray:
    """(S, S) bool surroundings of a lesion: pixels no further from it than `width` equivalent radii, two at least.

    Raises ValueError for an empty mask.
    """
    return ~mask & (_to_lesion(mask) <= max(2.0, width * equivalent_radius(mask)))


def zones(mask: np.ndarray, band: float = BAND) -> np.ndarray:
    """(S, S) NEAR the boundary on either side of it, INSIDE the lesion further in, ELSEWHERE further out.

    Near: no further from the contour than `band` equivalent radii, and than one pixel at least. The frame's edge is
    no boundary. Raises ValueError for an empty mask.
    """
    to_outside = ndimage.distance_transform_edt(mask) if not mask.all() else np.full(mask.shape, np.inf)
    distance = np.where(mask, to_outside, _to_lesion(mask)) - 0.5  # the contour runs between two pixels
    near = distance <= max(1.0, band * equivalent_radius(mask))
    return np.where(near, NEAR, np.where(mask, INSIDE, ELSEWHERE))


def equivalent_radius(mask: np.ndarray) -> float:
    """Radius in pixels of the disc of a lesion's area."""
    return float(np.sqrt(mask.sum() / np.pi))


def gcnr(lesion: np.ndarray, around: np.ndarray, bins: int = GREY_BINS) -> float:
    """Generalised contrast-to-noise ratio: 1 minus the overlap of two samples' histograms of grey levels 0–255.

    0: the grey levels are alike; 1: no grey level in common. Rodriguez-Molares et al. 2020,
    doi:10.1109/TUFFC.2019.2956855.
    """
    shares = [np.histogram(values, bins=bins, range=(0, 256))[0] / len(values) for values in (lesion, around)]
    return float(1 - np.minimum(*shares).sum())


def _to_lesion(mask: np.ndarray) -> np.ndarray:
    if not mask.any():
        raise ValueError("the mask is empty: there is no lesion to measure from")
    return ndimage.distance_transform_edt(~mask)


def maps(study: Study, system: str, cases: pd.DataFrame) -> dict[str, np.ndarray]:
    """case_id: (S, S) probabilities by the run that validated that case: default policy, first seed."""
    found = {}
    for fold, some in cases.groupby("fold"):
        stored = record.probabilities(study.run_folder(system, fold))
        found |= {case: stored[case] for case in some["case_id"]}
    return found


def panels(study: Study, chosen: pd.DataFrame) -> pd.DataFrame:
    """The numbers of Figure 2, a row per chosen case and system: `chosen`, system, paper_name, policy, attributes,
    seed and Dice as in per_image.csv."""
    first = study.default["seed"] == study.default.groupby(["system", "fold"])["seed"].transform("min")
    columns = ["system", "paper_name", "fold", "case_id", "policy", "attributes", "seed", "dice"]
    table = chosen.merge(study.default.loc[first, columns], on=["case_id", "fold"], validate="one_to_many")
    order = {"rule": list(chosen["rule"]), "system": study.systems}
    return table.sort_values(list(order), key=lambda column: column.map(order[column.name].index), ignore_index=True)


def compared(panels: pd.DataFrame) -> pd.DataFrame:
    """The panels of the systems that Figures 2 and 3 compare: all but the variants of XBusNet, unless there are no
    others."""
    others = panels[~panels["system"].str.startswith("xbusnet-")]
    return (others if len(others) else panels).reset_index(drop=True)


def variants(panels: pd.DataFrame) -> pd.DataFrame:
    """The panels of XBusNet beside its variants (ablations, the code as released); none where there are no variants."""
    own = panels[panels["system"].str.startswith("xbusnet")].reset_index(drop=True)
    return own if own["system"].nunique() > 1 else own.iloc[:0]


def error_composition(study: Study, cases: pd.DataFrame) -> pd.DataFrame:
    """Where the errors of each system lie, over all `cases`, in per cent of their lesions' area.

    missed_inside, missed_near: false negatives; added_near, added_elsewhere: false positives (see `zones`). Areas are
    summed before they are divided, so that large lesions weigh more and a tiny one cannot dominate.
    """
    prepared, threshold = study.prepared, study.facts["config"]["threshold"]
    masks = dict(zip(cases["case_id"], prepared.masks[prepared.rows(cases["case_id"])], strict=True))
    where = {case: zones(mask) for case, mask in masks.items()}
    lesions, rows = sum(mask.sum() for mask in masks.values()), []
    for system in study.systems:
        counts = dict.fromkeys(("missed_inside", "missed_near", "added_near", "added_elsewhere"), 0)
        for case, found in maps(study, system, cases).items():
            missed, added = masks[case] & (found < threshold), ~masks[case] & (found >= threshold)
            for name, errors, zone in zip(counts, (missed, missed, added, added), (INSIDE, NEAR, NEAR, ELSEWHERE),
                                          strict=True):
                counts[name] += int((errors & (where[case] == zone)).sum())
        rows.append({"system": system, "cases": len(masks)} | {k: 100 * v / lesions for k, v in counts.items()})
    return pd.DataFrame(rows)
