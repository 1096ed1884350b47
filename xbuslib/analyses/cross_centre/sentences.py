"""What happens at other hospitals, in sentences whose numbers are computed: the short answer of notebook 14."""

import pandas as pd

from xbuslib.display.tables import between, signed


def verdict(row) -> str:
    """One system at one target, by the wider interval where there are enough folds for it; row of drop.drops."""
    low, high = (row.low, row.high) if pd.isna(row.low_folds) else (row.low_folds, row.high_folds)
    sure = ("" if pd.isna(low) else
            ", lower" if high < 0 else ", higher" if low > 0 else ", the interval includes zero")
    return (f"**{row.paper_name}** {row.at_target:.3f} there, {row.in_domain:.3f} in its own study: "
            f"{signed(row.difference)} ({between(low, high)}){sure}")


def verdicts(drops: pd.DataFrame) -> str:
    """A line per target; drops: default rows of drop.drops."""
    return "\n".join(f"- {target}: " + "; ".join(verdict(row) for row in rows.itertuples()) + "."
                     for target, rows in drops.groupby("target", sort=False))


def scanner(paired: pd.DataFrame, dataset: str) -> str:
    """The phantom's scanner B against scanner A, which is the control of a study on `dataset` phantom alone; paired:
    drop.scanner_alone."""
    named = ", ".join(f"{row.paper_name} {signed(row.difference)} ({between(row.low, row.high)})"
                      for row in paired.itertuples())
    control = "its control, " if dataset == "phantom" else ""
    return (f"**Scanner B against {control}scanner A**, on cases of the same words (intervals over these cases): "
            f"{named}. The lesions drawn for the two differ as well (section 1).") if named else ""


def largest(groups: pd.DataFrame) -> str:
    """The lowest difference of any group with an interval, by target; groups: drop.by_group."""
    compared = groups.dropna(subset="low")
    worst = compared.sort_values("difference").groupby("target", sort=False).head(1)
    named = "; ".join(f"{row.target}: {row.paper_name} on {row.by} {row.group} ({signed(row.difference)}, "
                      f"{between(row.low, row.high)}, n = {row.n_target})"
                      for row in worst.itertuples())
    if not named:
        return "No group is large enough for an interval."
    return (f"The group with the lowest difference at each target: {named}. Each is the lowest of several differences, "
            "so partly chance.")
