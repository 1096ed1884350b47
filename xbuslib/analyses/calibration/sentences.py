"""What calibration, contours and detection show, in sentences whose numbers are computed: notebooks 12 and 13."""

import pandas as pd

from xbuslib.display.tables import APART, comparable, ranged
from xbuslib.evaluation.boundary import TOLERANCE_MM
from xbuslib.evaluation.calibration import RANGE

FEWEST = 5  # systems whose order is compared: with two, the rank correlation is 1 or −1 whatever they score


def calibrated(near: pd.DataFrame, wide: pd.DataFrame, temperatures: pd.DataFrame) -> str:
    """Who is best calibrated, and what a temperature brings; near, wide: reliability.summary of both regions."""
    near, wide = (region[comparable(region)].set_index("paper_name") for region in (near, wide))
    before = near["ece before"]
    gain, wide_gain = (region["ece before"] - region["ece after"] for region in (near, wide))
    inside = temperatures["temperature"].between(1.01 / RANGE, RANGE / 1.01)
    text = (f"Around the lesion, the predicted probability differs from the share of lesion pixels by "
            f"**{ranged(before, '.3f')}** on average (expected calibration error, ECE; 0 is perfect); over the whole "
            f"image by {ranged(wide['ece before'], '.3f')}. A temperature is one number per run, fitted to its "
            "training images, by which the logits are divided; its mean is above 1, which means too confident on these "
            f"images, for {(near['temperature'] > 1).sum()} of {gain.count()} systems. The division lowers the ECE on "
            f"the validation images of {(gain > 0).sum()} of {gain.count()} systems around the lesion (by "
            f"{gain.median():.3f} in the median) and of {(wide_gain > 0).sum()} over the whole image.")
    if not inside.all():
        text += (f" In {(~inside).sum()} of {len(inside)} runs the temperature ends at the edge of the range that is "
                 "tried: the training images are not separated at all, or without an error.")
    return text


def thresholds(peaks: pd.DataFrame, threshold: float) -> str:
    """Whether another threshold would have given more Dice; peaks: reliability.sweep_summary."""
    peaks = peaks[comparable(peaks)]
    better, most = (peaks["gain_there"] >= 0.01).sum(), peaks.loc[peaks["gain_there"].idxmax()]
    return (f"Another threshold than {threshold:g} would raise Dice by at least 0.01 for {better or 'none'} of "
            f"{len(peaks)} systems; the largest gain is that of {most['paper_name']} ({most['gain_there']:.3f} at "
            f"{most['highest_at']:g}).")


def distances(millimetres: pd.DataFrame) -> str:
    """Who is closest in millimetres, and how often nothing was predicted; boundaries.summary."""
    if millimetres.empty:
        return "The pixel size of no case is known, so no distance can be given in millimetres."
    everyone, millimetres = len(millimetres), millimetres[comparable(millimetres)]
    if len(millimetres) == 1 < everyone:
        return APART.format("distance to the reference")
    best = millimetres.loc[millimetres["hd95"].idxmin()]
    empty, most = millimetres["empty"].sum(), millimetres["empty"].max()
    return (f"**{best.paper_name} has the lowest mean HD95, {best.hd95:.1f} mm** (median {best.hd95_median:.1f} mm); "
            f"{best.nsd:.0%} of the contour length lies within {TOLERANCE_MM:g} mm of the reference. Nothing was "
            f"predicted in {empty:g} of the {millimetres['n'].sum()} pairs of a system and a lesion"
            + (f", most often by {_all_at(millimetres, 'empty', most)} ({most:g})." if empty else "."))


def found(rates: pd.DataFrame) -> str:
    """Lesions found against false positives; rates: detection.summary."""
    if not rates["found"].any():
        return "No system finds a lesion."
    everyone, rates = len(rates), rates[comparable(rates)]
    if len(rates) == 1 < everyone:
        return APART.format("share of lesions found")
    shares = rates["found"] / rates["lesions"]
    first = rates[shares > shares.max() - 1e-9]
    top, known = first.sort_values("false_positives all").iloc[0], rates.dropna(subset="false_positives all")
    text = (f"**{top.paper_name} finds the most lesions, {top.found:g} of {top.lesions:g}"
            + (f" (as many as {len(first) - 1} other{'s' * (len(first) > 2)})" if len(first) > 1 else "") + "**, with "
            + (f"{top['false_positives all']:.2f} false positives per image" if top["false_positives all"] >= 0 else
               f"{top['false_positives with lesion']:.2f} false positives per image with a lesion (normal images were "
               "not adopted)"))
    if len(rates) == 1 or known.empty:
        return text + "."
    quiet = known.loc[known["false_positives all"].idxmin()]
    if quiet.paper_name == top.paper_name:
        return text + ", the lowest rate of all systems."
    return (f"{text}; {quiet.paper_name} has the fewest false positives, {quiet['false_positives all']:.2f} per image, "
            f"and finds {quiet.found:g} of {quiet.lesions:g}.")


def without_curve(rates: pd.DataFrame) -> str:
    """Names the systems that the FROC figure leaves out, or nothing; rates: detection.summary."""
    lacking = rates.loc[rates["false_positives all"].isna(), "paper_name"]
    return (f"No curve for {', '.join(lacking)}: the adopted predictions do not include the normal images.\n\n"
            if len(lacking) else "")


def _all_at(table: pd.DataFrame, column: str, value: float) -> str:
    """The names of all rows that have the value."""
    return ", ".join(table.loc[table[column] == value, "paper_name"])


def normal_images(areas: pd.DataFrame) -> str:
    """How many systems mark something where there is nothing; areas: detection.false_area_summary."""
    if areas.empty:
        return "This dataset has no normal images."
    normals = areas["normals"].max()
    where = "the normal image" if normals == 1 else f"at least one of the {normals} normal images"
    return f"{areas['any_prediction'].gt(0).sum()} of {len(areas)} systems mark something on {where}."


def other_orders(dice: pd.Series, others: pd.DataFrame) -> str:
    """Rank correlation of other scores (columns, higher is better) with mean Dice over systems (index).

    Not for fewer than FEWEST systems that have both scores: their ranks agree or disagree by chance.
    """
    if len(dice) < FEWEST:
        return f"With {len(dice)} systems, a rank correlation of these scores with Dice says nothing."
    agreement = others.reindex(dice.index).astype(float).apply(
        lambda column: column.corr(dice, method="spearman", min_periods=FEWEST))  # over what both have
    variants = sum(name.startswith("xbusnet") for name in dice.index)
    listed = ", ".join(f"{'–' if pd.isna(r) else format(r, '.2f')} for {name}" for name, r in agreement.items())
    return ("Would another score have ranked the systems otherwise? Spearman's rank correlation with mean Dice over "
            f"the {len(dice)} systems" + (f", {variants} of them forms of XBusNet," if variants > 1 else "")
            + f" (1: the same order; a description of these systems, not a test) is {listed}.")
