"""What happens at other hospitals, in sentences whose numbers are computed: the short answer of notebook 14."""

import pandas as pd

from xbuslib.display.tables import signed


def verdict(row) -> str:
    """One system at one target; row of drop.drops."""
    sure = "lower" if row.high < 0 else "higher" if row.low > 0 else "not significantly different"
    return (f"**{row.paper_name}** {row.at_target:.3f} there, {row.in_domain:.3f} in its own study: "
            f"{signed(row.difference)} (95 % interval {signed(row.low)} to {signed(row.high)}), {sure}")


def verdicts(drops: pd.DataFrame) -> str:
    """A line per target; drops: default rows of drop.drops."""
    return "\n".join(f"- {target}: " + "; ".join(verdict(row) for row in rows.itertuples()) + "."
                     for target, rows in drops.groupby("target", sort=False))


def largest(groups: pd.DataFrame) -> str:
    """The largest drop of any group with an interval, by target; groups: drop.by_group."""
    worst = groups.dropna(subset="low").sort_values("difference").groupby("target", sort=False).head(1)
    named = "; ".join(f"{row.target}: {row.paper_name} on {row.by} {row.group} ({signed(row.difference)}, 95 % "
                      f"interval {signed(row.low)} to {signed(row.high)}, n = {row.n_target})"
                      for row in worst.itertuples())
    return (f"The largest drop of any group with an interval, by target: {named or 'no group is large enough'}. Of "
            f"{len(groups)} groups the largest is partly chance.")
