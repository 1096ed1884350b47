"""How often the first pass names the right size and location, and what a wrong size costs."""

from pathlib import Path

import numpy as np
import pandas as pd

from xbuslib.analyses.transfer.steps import Step
from xbuslib.prompts.words import QUADRANTS, SIZES

COLUMNS = ["paper_name", "system", "step", "n", "size_right", "size_larger", "size_smaller", "none", "location_right",
           "dice_right", "dice_wrong", "dice_wrong_silent"]


def table(steps: list[Step]) -> pd.DataFrame:
    """A row per step and system whose prompt has a text on size and location, of runs that are kept here: COLUMNS.

    Shares, over seeds, of the n images whose first pass names the size class of the reference mask, a larger or a
    smaller one, or finds no lesion (none: the prompt then says neither), and its quadrant; mean Dice where the size is
    right and where it is not, and there with a prompt that says neither size nor location.
    """
    rows = []
    for step in steps:
        for system, own in _prompts(step).groupby("system", sort=False):
            estimated, true = (own[column].map(SIZES.index, na_action="ignore") for column in ("size", "size_true"))
            wrong = estimated != true
            rows.append({"paper_name": own["paper_name"].iloc[0], "system": system, "step": step.label,
                         "n": own["case_id"].nunique(),
                         "size_right": (estimated == true).mean(), "size_larger": (estimated > true).mean(),
                         "size_smaller": (estimated < true).mean(), "none": estimated.isna().mean(),
                         "location_right": (own["location"] == own["location_true"]).mean(),
                         "dice_right": own.loc[~wrong, "dice"].mean(), "dice_wrong": own.loc[wrong, "dice"].mean(),
                         "dice_wrong_silent": own.loc[wrong, "dice_silent"].mean()})
    return pd.DataFrame(rows, columns=COLUMNS)


def sentence(found: pd.DataFrame, last: str) -> str:
    """The first pass at the step of this label in words; found: `table`'s, without rows for a step of an export."""
    return " ".join(
        f"The first pass of {row.paper_name} at the last step names the right size class in {row.size_right:.0%} of "
        f"{row.n} images (a larger one in {row.size_larger:.0%}, a smaller one in {row.size_smaller:.0%}"
        + (f", none in {row.none:.0%}" if row.none else "")
        + f") and the right quadrant in {row.location_right:.0%}. {_dice(row)}."
        for row in found[found["step"] == last].itertuples())


def _dice(row) -> str:
    parts = [] if pd.isna(row.dice_right) else [f"Where the size is right, the mean Dice is {row.dice_right:.3f}"]
    if not pd.isna(row.dice_wrong):
        parts.append(f"{'where' if parts else 'Where'} it is not, the mean Dice is {row.dice_wrong:.3f}, and "
                     f"{row.dice_wrong_silent:.3f} with a prompt that leaves size and location out")
    return "; ".join(parts)


def _prompts(step: Step) -> pd.DataFrame:
    """A row for each image and run.

    Columns system, paper_name, case_id, dice, dice_silent, size, location, size_true, location_true.
    """
    parts, runs = [], step.compared.runs.itertuples() if step.study else ()
    names = step.rows.drop_duplicates("system").set_index("system")["paper_name"]
    for run in runs:
        rows = pd.read_csv(Path(run.folder) / "per_image.csv", keep_default_na=False)
        if "global_text" not in rows or "reference" not in set(rows["policy"]):
            continue
        full = rows["attributes"].iloc[0]  # that of the default scoring, which comes first
        by = {policy: part.set_index("case_id") for policy, part in rows[rows["attributes"] == full].groupby("policy")}
        estimated, true = by["first_pass"]["global_text"], by["reference"]["global_text"]
        parts.append(pd.DataFrame({
            "system": run.system, "paper_name": names[run.system], "case_id": estimated.index,
            "dice": by["first_pass"]["dice"], "dice_silent": by["none"]["dice"],
            "size": estimated.map(_size), "location": estimated.map(_location),
            "size_true": true.map(_size), "location_true": true.map(_location)}).dropna(subset=["size_true"]))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["system"])


def _size(text: str) -> str | float:
    return next((size for size in SIZES if size in text.split()), np.nan)


def _location(text: str) -> str | float:
    return next((name for name in QUADRANTS if name in text), np.nan)
