"""What Figures 2 and 3 show, in sentences whose numbers are computed: the short answers of notebooks 08 and 09."""

import pandas as pd

from xbuslib.analyses.cases.selection import UNCHANGED
from xbuslib.display.tables import ranged

MEASURES = {"gcnr": "gCNR", "long_side_px": "longest side in pixels",
            "lesion_sd": "standard deviation of the lesion's grey levels"}


def hardest(panels: pd.DataFrame) -> str:
    """Which of the chosen cases is the hardest, and which the easiest, by the median Dice over systems."""
    median = panels.groupby("rule", sort=False)["dice"].median()
    low, high = median.idxmin(), median.idxmax()
    missed = (panels.loc[panels["rule"] == low, "dice"] < 1e-6).sum()
    tail = (f"; {missed} of {(panels['rule'] == low).sum()} systems miss it" if missed else "")
    return (f"Of the cases chosen by rule, the one for *{low}* is the hardest (median Dice over systems "
            f"{median[low]:.2f}{tail}) and the one for *{high}* the easiest ({median[high]:.2f}).")


def near_the_contour(errors: pd.DataFrame, n: int) -> str:
    """Which share of all wrong pixels lies near the contour; errors: selection.error_composition with paper_name."""
    contour = errors["missed_near"] + errors["added_near"]
    share = (contour / (contour + errors["missed_inside"] + errors["added_elsewhere"])).set_axis(errors["paper_name"])
    worst = errors.loc[errors["added_elsewhere"].idxmax()]
    return (f"Over all {n} cases, pixels near the reference contour make up {ranged(share, '.0%')} of the "
            "wrong pixels; the others lie further inside the lesion or further outside it. "
            f"{worst.paper_name} has the largest area of false positives further outside, "
            f"{worst.added_elsewhere:.0f}% of the lesions' area.")


def rules(chosen: pd.DataFrame) -> str:
    """A line for each chosen case: its rule, its group, its measure; chosen: selection.choose."""
    return "\n".join(
        f"- **{row.rule}**: {row.case_id}, the middle case by {MEASURES[row.by]} ({row.value:.3g}) among the "
        f"{row.group} of {row.cases} cases with {row.text}"
        f"{f' (the image alone, because {row.because})' if row.because else ''}."
        for row in chosen.itertuples())


def by_case(panels: pd.DataFrame) -> str:
    """A line for each chosen case: the range of Dice over systems, and how many missed it."""
    return "\n".join(
        f"- **{rule}**: Dice {ranged(some.set_index('paper_name').dice, '.2f')}, median {some.dice.median():.2f}; "
        f"missed by {(some.dice < 1e-6).sum()} of {len(some)} system{'s' * (len(some) > 1)}."
        for rule, some in panels.groupby("rule", sort=False))


def on_the_lesion(summary: pd.DataFrame, table: pd.DataFrame) -> str:
    """How much of the activation lies on the lesion or its boundary; gradcam.summary and the table it was made of."""
    half = summary["cases"] - summary["without_activation"] >= summary["cases"] / 2  # fewer maps are no mean
    known = summary[half].dropna(subset=["inside"])
    if known.empty:
        return "Most maps have no activation."
    on = (known["inside"] + known["near"]).set_axis(known["paper_name"])
    even = table.drop_duplicates("case_id")[["inside_area", "near_area"]].mean().sum()
    return (f"Of the activation, {ranged(on, '.0%')} lies on the lesion or near its boundary, which take up {even:.0%} "
            "of the image.")


def sanity(summary: pd.DataFrame) -> str:
    """How many systems' maps stay alike when the weights after the layer, or all trained weights, are random."""
    parts = []
    for column in ("spearman_after", "spearman_all"):
        known = summary.dropna(subset=[column])
        alike = known[known[column] >= UNCHANGED]
        names = f" ({', '.join(f'{row.paper_name} {getattr(row, column):.2f}' for row in alike.itertuples())})"
        parts.append(f"{len(alike)} of {len(known)} systems" + (names if len(alike) else ""))
    empty = summary[["empty_after", "empty_all"]].max(axis=None)
    last = ", ".join(summary.loc[summary["spearman_after"].isna() & summary["spearman_all"].notna(), "paper_name"])
    return (f"A map that stays alike without training (mean rank correlation of at least {UNCHANGED:g} over "
            f"{summary['cases'].max()} cases) says little about what was learned. The maps of {parts[0]} stay alike "
            "when only the weights after the layer are replaced by random ones, and those of "
            f"{parts[1]} when all trained weights are."
            + (" A map without any activation under random weights counts as correlation 0 (up to "
               f"{empty:.0%} of a system's maps)." if empty > 0 else "")
            + (f" No trained weight follows the layer in {last}." if last else ""))
