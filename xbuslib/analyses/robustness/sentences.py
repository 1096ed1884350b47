"""What varied prompts change, in sentences whose numbers are computed: the short answer of notebook 11."""

import pandas as pd

from xbuslib.analyses.robustness.robustness import FLIP
from xbuslib.display.tables import between, signed

BASELINES = {"first_pass": "Starting from the model's own first pass",
             "reference": "Starting from size and location of the reference mask",
             "none": "Starting from the attributes alone"}

EMPTIEST = ("nothing given", "no attributes", "policy none")  # the first that the system's prompts can have


def worth(table: pd.DataFrame, who: str) -> str:
    """Mean Dice of `who` with the whole prompt and an empty one, by baseline, first that of the study's tables, without
    the reference mask; table: robustness.summary.

    A prompt of attributes alone, or of size and location alone, is empty without these.
    """
    there = set(table["variation"])
    silent = table[table["variation"] == next(name for name in EMPTIEST if name in there)]
    silent = silent.sort_values("baseline", key=lambda names: names.map(list(BASELINES).index))
    return " ".join(
        f"{BASELINES[row.baseline]}, the mean Dice of {who} is **{row.dice - row.change:.3f} with the whole "
        f"prompt and {row.dice:.3f} with an empty prompt** ({signed(row.change)}, {between(row.low, row.high)})."
        for row in silent.itertuples())


def least_and_most(table: pd.DataFrame) -> str:
    """A line per baseline: the lowest and the highest mean change, and how many intervals exclude zero."""
    return "\n".join(_ends(part) for _, part in table.groupby("baseline", sort=False))


def _ends(part: pd.DataFrame) -> str:
    clear, low, high = part[(part["low"] > 0) | (part["high"] < 0)], part["change"].idxmin(), part["change"].idxmax()
    ends = [f"*{part['variation'][i]}* ({signed(part['change'][i])})" for i in (low, high)]
    named = f": {', '.join(clear['variation'])}" if len(clear) else ""
    return (f"- {BASELINES[part['baseline'].iloc[0]]}, the mean change of Dice runs from {ends[0]} to {ends[1]}; "
            f"{len(clear)} of {len(part)} intervals exclude zero{named}.")


def turned(decisions: pd.DataFrame) -> str:
    """How many images some wrong prompt changes; decisions: robustness.decisions."""
    return " ".join(
        f"{BASELINES[row.baseline]}, at least one of {row.wrong_prompts} wrong prompts changes Dice by over {FLIP} "
        f"for **{row.any:.0%}** of the {row.n} images (95 % interval {row.low:.0%} to {row.high:.0%}); the mean change "
        f"over these prompts and images is {signed(row.change)}." for row in decisions.itertuples())


def by_size(table: pd.DataFrame) -> str:
    """A line per baseline: the mean change under wrong prompts by size class; robustness.summary by ("size",)."""
    wrong = table[table["wrong"]]
    return "\n".join(
        f"- {BASELINES[baseline]}, mean over the wrong prompts: " + "; ".join(
            f"{size} lesions {signed(some['change'].mean())} (n = {some['n'].max()})"
            for size, some in part.groupby("size", sort=False)) + "."
        for baseline, part in wrong.groupby("baseline", sort=False))


def first_pass(shares: pd.DataFrame | None) -> str:
    """How often the first pass is right; shares: robustness.hits, or None for a system without one."""
    if shares is None:
        return "This system reads neither size nor location, so it has no first pass."
    return "\n".join(
        f"- {row.what}: {row.hits} of {row.n} ({row.share:.0%}, 95 % interval {row.low:.0%} to {row.high:.0%})"
        + (f"; always naming the most frequent class would be right in {row.constant:.0%}"
           if row.constant == row.constant else "") + "."
        for row in shares[shares["n"] > 0].itertuples())
