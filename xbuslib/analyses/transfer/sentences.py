"""What the steps bring, in sentences whose numbers are computed: the short answer of notebook 15."""

import pandas as pd

from xbuslib.analyses.transfer.steps import Step
from xbuslib.display.tables import between, signed

FULLEST = ("first pass, attributes", "first pass", "attributes")  # what a prompt says without the reference mask


def brought(contrasts: pd.DataFrame) -> str:
    """A sentence per change, with the length of both trainings; contrasts: gains.contrasts."""
    if contrasts.empty:
        return ("No two of these steps differ in images of other hospitals but not in the recipe, or in the recipe but "
                "not in such images.")
    sentences = []
    pairs = ["change", "step", "iterations", "compared_with", "iterations_before"]
    for (change, step, length, before, length_before), rows in contrasts.groupby(pairs, sort=False):
        each = ", ".join(f"**{signed(row.mean_difference)} for {row.paper_name}** ({between(row.low, row.high)})"
                         for row in rows.itertuples())
        sentences.append(f"With {change}, the mean lesion Dice changes by {each}: *{step}* ({length} iterations) "
                         f"against *{before}* ({length_before}).")
    return " ".join(sentences)


def answer(overall: pd.DataFrame, changed: pd.DataFrame) -> str:
    """A line per system; overall: gains.table, changed: gains.changes."""
    lines = []
    for system, rows in overall.groupby("system", sort=False):
        name, chain = rows["paper_name"].iloc[0], [f"{rows['step'].iloc[0]}: {rows['dice'].iloc[0]:.3f}"]
        for row in rows.iloc[1:].itertuples():
            change = changed[(changed["system"] == system) & (changed["step"] == row.step)].iloc[0]
            chain.append(f"{row.step}: {row.dice:.3f} ({signed(change.mean_difference)}, "
                         f"{between(change.low, change.high)})")
        whole = changed[(changed["system"] == system) & (changed["compared_with"] == rows["step"].iloc[0])]
        if len(rows) > 2:
            chain.append(f"in all {signed(whole['mean_difference'].iloc[-1])} ("
                         f"{between(whole['low'].iloc[-1], whole['high'].iloc[-1])})")
        best = rows.loc[rows["dice"].idxmax()]
        lines.append(f"- **{name} reaches a mean lesion Dice of {best.dice:.3f}** ({best.step}). By step, with the "
                     f"difference to the step before: {'; '.join(chain)}.")
    return "\n".join(lines)


def misses(overall: pd.DataFrame) -> str:
    """Lesions missed altogether at the first step and the last, and what they cost; overall: gains.table."""
    parts = []
    for _, rows in overall.groupby("system", sort=False):
        first, last = rows.iloc[0], rows.iloc[-1]
        parts.append(f"{last.paper_name} misses {first.missed:g} of {first.n} lesions")
        if len(rows) > 1:
            parts[-1] += f" at the first step and {last.missed:g} at the last" + (
                f"; its mean Dice over the lesions that it touches at all is then {last.dice_found:.3f}"
                if pd.notna(last.dice_found) else "")
    return ". ".join(parts) + "."


def lengths(steps: list[Step]) -> str:
    """Where trainings on the dataset itself differ in length, how long each was; else nothing."""
    each = {step.label: sorted({int(n) for n in step.own["iterations"].dropna() if n}) for step in steps}
    if len({tuple(n) for n in each.values() if n}) < 2:
        return ""
    return ("The trainings on this dataset differ in length, so a difference may be of the length: "
            + "; ".join(f"{label} {' and '.join(map(str, n))} iterations" for label, n in each.items() if n) + ".")


def traces(lost: pd.DataFrame, step: Step) -> str:
    """Of the lesions that `step` misses, how many would be touched at half of the threshold; lost:
    gains.missed_lesions."""
    if step.study is None:
        return "The probability maps of the last step are not here, so its misses cannot be looked at."
    if lost.empty:
        return "No lesion is missed at the last step."
    threshold = step.config["threshold"]
    touched = int((lost["inside"] >= threshold / 2).sum())
    nothing = int((lost["marked"] == 0).sum())
    return (f"Of the {len(lost)} misses of the last step, nothing is marked anywhere in {nothing} and something else "
            f"in {len(lost) - nothing}. In {touched} of the {len(lost)} the highest probability inside the lesion is "
            f"at least half of the threshold ({threshold / 2:g}).")


def prompt(prompted: pd.DataFrame) -> str:
    """What the fullest prompt without the reference mask adds at each step; prompted: gains.by_prompt."""
    if prompted.empty:
        return "No system of these steps reads a prompt."
    parts = []
    for _, own in prompted.groupby("system", sort=False):
        prompt_name = next(name for name in FULLEST if name in set(own["prompt"]))
        parts.append(f"{own['paper_name'].iloc[0]} ({prompt_name}): " + "; ".join(
            f"{row.step} {signed(row.mean_difference)} ({between(row.low, row.high)})"
            for row in own[own["prompt"] == prompt_name].itertuples()))
    return ("What the prompt adds to an empty one, in Dice: " + ". ".join(parts) + ".")


def alone(name: str) -> str:
    """For a study with nothing beside it: how to make the steps."""
    return (f"Study {name} has no other study of the same images and folds beside it here. Train the steps, then "
            "execute this notebook again with their names:\n\n"
            "```bash\n"
            "./run_all.sh --dataset OTHER --data DIR --folds all --set recipe=strong --study elsewhere\n"
            "./run_all.sh --dataset … --set recipe=strong --study strong\n"
            "./run_all.sh --dataset … --set recipe=strong --study transfer --start-from outputs/elsewhere\n"
            f"xbuslib notebook 15_transfer --output 15.ipynb -p study={name} -p steps=strong,transfer\n"
            "```")
