"""What a study shows, in sentences whose numbers are computed: the short answers of notebooks 05 to 07."""

import numpy as np
import pandas as pd

from xbuslib.data.catalogue import SIZE_BINS
from xbuslib.display.tables import APART, between, comparable, ranged, signed
from xbuslib.evaluation.aggregation import fold_lists
from xbuslib.evaluation.metrics import LEAST_IOU
from xbuslib.evaluation.statistics import compare

SIGNIFICANT = 0.05  # of p adjusted by Holm


def p_value(p: float) -> str:
    """ "p = 0.30", "p = 0.049", "p < 0.001" """
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.2f}" if p >= 0.1 else f"p = {p:.3f}"


def ranking(overall: pd.DataFrame) -> str:
    """Which system has the highest mean Dice, which the lowest; overall: default rows of paper_tables.table_1."""
    ranked = overall[comparable(overall)].sort_values("dice", ascending=False, ignore_index=True)
    if len(ranked) == 1 < len(overall):
        return APART.format("mean lesion Dice")
    best, low = ranked.iloc[0], ranked.iloc[-1]
    text = f"**{best.paper_name} has the highest mean lesion Dice, {best.dice:.3f}**"
    if len(ranked) > 1:
        text += f", followed by {ranked.paper_name[1]} ({ranked.dice[1]:.3f})"
    if len(ranked) > 2:
        text += f"; the lowest is that of {low.paper_name} ({low.dice:.3f})"
    return (text + f". As a mean over lesion and background, the same masks of {best.paper_name} score "
            f"{best.dice_two_class:.3f}.")


def tested(tests: pd.DataFrame) -> str:
    """How XBusNet stands against each other system in Dice; tests: comparisons.compare_all.

    The test is one of ranks: a system can be lower on most images and higher in the mean. It is called better or worse
    only where both agree.
    """
    dice = tests[tests["metric"] == "dice"]
    if dice.empty:
        return "The study has no XBusNet, or no system to compare it with."
    sure, side = dice["p_holm"] < SIGNIFICANT, _direction(dice)
    parts = [_group(dice[sure & (side > 0)], "significantly better than"),
             _group(dice[sure & (side < 0)], "significantly worse than"),
             _group(dice[sure & (side == 0)], "significantly different, with opposite signs of the mean difference and "
                                              "of the rank-biserial correlation, from"),
             _group(dice[~sure], "not significantly different from")]
    return "In paired tests, XBusNet is " + "; ".join(part for part in parts if part) + "."


def _direction(dice: pd.DataFrame) -> pd.Series:
    """1 or −1 where the mean difference and the ranks have that sign, else 0."""
    mean, ranks = np.sign(dice["mean_difference"].astype(float)), np.sign(dice["rank_biserial"].astype(float))
    return mean.where(mean == ranks, 0)


def _group(rows: pd.DataFrame, verdict: str) -> str:
    """ "significantly better than UNet (+0.040, 95 % +0.010 to +0.071, p = 0.004)" """
    named = [f"{row.against_name} ({signed(row.mean_difference)}, {between(row.low, row.high)}, "
             f"adjusted {p_value(row.p_holm)})" for row in rows.itertuples()]
    return f"{verdict} {', '.join(named)}" if named else ""


def against_paper(tests: pd.DataFrame) -> str:
    """Our tests beside what the paper reports of its own (Section 3.1)."""
    dice = tests[tests["metric"] == "dice"]
    if dice.empty:
        return ""
    sure = ((dice["p_holm"] < SIGNIFICANT) & (_direction(dice) > 0)).sum()
    return ("The paper reports that XBusNet is significantly better than all of its baselines, with a median |r| of "
            f"about 0.82; here it is significantly better than {sure} of {len(dice)} other "
            f"system{'s' * (len(dice) > 1)}, with a median |r| of "
            f"{dice['rank_biserial'].astype(float).abs().median():.2f}.")


def spread(sds: pd.Series) -> str:
    """What the fold means differ by; sds: statistics.fold_spread."""
    if sds.isna().any():
        return "With so few folds or systems, the spread between folds cannot be described."
    return (f"The mean Dice of the systems has a standard deviation of {sds.between_systems:.3f}, that of the folds "
            f"{sds.between_folds:.3f}; the remaining standard deviation of {sds.rest:.3f} is specific to one system on "
            "one fold. Folds share training images, so these figures understate how much the means would change "
            "on a new dataset.")


def smallest(sized: pd.DataFrame) -> str:
    """XBusNet against every other system on the lesions of the smallest bin; sized: paper_tables.sized."""
    small = sized[sized["bin"] == sized["bin"].cat.categories[0]]
    if small.empty:
        return "The study has no lesion in the smallest bin."
    rows = _over_the_same_folds(small)
    if rows["system"].nunique() == 1 < small["system"].nunique():
        return APART.format("Dice on the smallest lesions")
    means = rows.groupby("system")["dice"].mean().sort_values(ascending=False)
    names = rows.drop_duplicates("system").set_index("system")["paper_name"]
    n = rows["case_id"].nunique()
    text = (f"On the {n} smallest lesions (up to {SIZE_BINS[0]} pixels), " if n > 1 else
            f"On the only lesion of up to {SIZE_BINS[0]} pixels, ") + (
            f"**{names[means.index[0]]} has the highest mean Dice, {means.iloc[0]:.3f}**")
    if "xbusnet" not in means or len(means) == 1:
        return text + "."
    other = means.index[1] if means.index[0] == "xbusnet" else means.index[0]
    pair = compare(rows, "xbusnet", other, "dice")
    best = "the highest of the others, " if len(means) > 2 else ""
    return (text + f"; XBusNet ({means['xbusnet']:.3f}) minus {best}{names[other]} ({means[other]:.3f}) is "
            f"{signed(pair['mean_difference'])} ({between(pair['low'], pair['high'])}; one size bin of several, not "
            "adjusted).")


def _over_the_same_folds(rows: pd.DataFrame) -> pd.DataFrame:
    """Of scores per image, those of the systems that can be compared."""
    lists = fold_lists(rows, ["system"]).to_frame()
    return rows[rows["system"].isin(lists.index[comparable(lists)])]


def missed(bins: pd.DataFrame) -> str:
    """Who misses fewest and most lesions, and the share of the smallest bin; bins: paper_tables.table_2."""
    small = bins[bins["bin"] == bins["bin"].iloc[0]]
    small = small[comparable(small)]
    compared = bins[bins["paper_name"].isin(small["paper_name"])]
    total = compared.groupby("paper_name", sort=False)[["missed", "n"]].sum().sort_values("missed")
    of_small = small.sort_values("missed", kind="stable")
    each = ", ".join(f"{row.paper_name} {row.missed:g}" for row in of_small.itertuples())
    return (f"Lesions missed altogether: of the {small['n'].iloc[0]} smallest, {each}; of all {total['n'].iloc[0]} "
            f"lesions, {ranged(total['missed'], 'g')}. Over these systems, {small['missed'].sum():g} of "
            f"{total['missed'].sum():g} misses are of the smallest lesions, which are "
            f"{small['n'].sum() / total['n'].sum():.0%} of all.")


def found(sized: pd.DataFrame) -> str:
    """How many of the smallest lesions are found; mean over seeds. sized: paper_tables.sized."""
    rows = _over_the_same_folds(sized[sized["bin"] == sized["bin"].cat.categories[0]])
    hits = (rows["iou"] >= LEAST_IOU).groupby([rows["paper_name"], rows["case_id"]], sort=False).mean()
    counts = hits.groupby(level=0, sort=False).agg(["sum", "size"]).sort_values("sum", ascending=False, kind="stable")
    each = [f"{name} {row['sum']:g} of {row['size']:g}" for name, row in counts.iterrows()]
    return (f"**Smallest lesions found, with an IoU of at least {LEAST_IOU:g}: {each[0]}**"
            f"{', '.join(['', *each[1:]])}." if each else "")


def over_binnings(binned: dict[str, pd.DataFrame]) -> str:
    """Whose mean Dice is highest in the smallest bin, by each way to bin; binned: measure: paper_tables.table_2."""
    firsts = {by: table[table["bin"] == table["bin"].iloc[0]].dropna(subset="dice") for by, table in binned.items()}
    same = {by: part[comparable(part)] for by, part in firsts.items()}
    if any(len(part) == 1 < len(firsts[by]) for by, part in same.items()):
        return APART.format("mean Dice on the smallest lesions")
    tops = {by: table.loc[table["dice"].idxmax(), "paper_name"] for by, table in same.items() if len(table)}
    *first, last = tops
    if first and len(set(tops.values())) == 1:
        return (f"Whether bins are in {', '.join(first)} or {last}, {tops[last]} has the highest mean Dice on the "
                "smallest lesions.")
    return ("The highest mean Dice on the smallest lesions is that of "
            + ", ".join(f"{name} with bins in {' and '.join(by for by in tops if tops[by] == name)}"
                        for name in dict.fromkeys(tops.values())) + ".")


def drops(tests: pd.DataFrame) -> str:
    """What each ablation costs in Dice; tests: comparisons.compare_all of XBusNet against its ablations."""
    dice = tests[tests["metric"] == "dice"].sort_values("mean_difference", ascending=False)
    if dice.empty:
        return "Without the full model and at least one ablation there is nothing to compare."
    sure = dice["p_holm"] < SIGNIFICANT
    listed = [f"{row.against_name.removeprefix('XBusNet ')} {signed(-row.mean_difference)} ({p_value(row.p_holm)})"
              for row in dice.itertuples()]
    return (f"Change of lesion Dice when a component is taken away: **{'; '.join(listed)}**. {sure.sum()} of "
            f"{len(dice)} changes are significant after adjustment.")


def interaction(brings: pd.DataFrame) -> str:
    """Whether SFA adds more with the local branch than without it; brings: statistics.interaction."""
    found = brings.set_index("effect")
    if "interaction" not in found.index:
        return "Whether the components add up is unknown: the four systems with and without LFE and SFA are needed."
    row = found.loc["interaction"]
    side = "lies above" if row["low"] > 0 else "lies below" if row["high"] < 0 else "includes"
    bounds = between(row["low"], row["high"])
    sure = "" if pd.isna(row["low"]) else f", an interval that {side} zero"
    return (f"SFA adds {signed(found['mean'].iloc[0])} with the local branch and {signed(found['mean'].iloc[1])} "
            f"without it; the difference of the two is {signed(row['mean'])} ({bounds}){sure}.")
