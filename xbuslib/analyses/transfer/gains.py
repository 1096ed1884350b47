"""What each step brings: means, paired differences with intervals, by size, by prompt, and the learning curve."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from xbuslib.analyses.calibration import boundaries
from xbuslib.analyses.performance.paper_tables import size_bins
from xbuslib.analyses.transfer.steps import Step
from xbuslib.errors import StudyError
from xbuslib.evaluation.aggregation import over_folds
from xbuslib.evaluation.metrics import PAPER
from xbuslib.evaluation.statistics import compare, holm
from xbuslib.progress import remark
from xbuslib.runs import record

SCORINGS = {("first_pass", "metadata"): "first pass, attributes", ("first_pass", "none"): "first pass",
            ("none", "metadata"): "attributes", ("none", "none"): "nothing",
            ("reference", "metadata"): "reference mask, attributes"}


def table(steps: list[Step], contours: pd.DataFrame) -> pd.DataFrame:
    """A row per system and step, default scorings: folds, n, mean ± SD over folds; over images median Dice, mean
    Dice of those with any overlap (dice_found, nan without one), missed; HD95.

    contours: `distances`; HD95 in mm is missing where it has not got the step.
    """
    rows = []
    for step in steps:
        means = over_folds(step.default, ["paper_name", "system"], PAPER)
        images = _images(step, ["system", "case_id"])
        by, touched = images.groupby(level="system", sort=False), step.default[step.default["dice"] > 0]
        found = touched.groupby(["system", "case_id"])["dice"].mean()  # by the seeds that do find it
        own = contours[contours["step"] == step.label] if len(contours) else contours
        far = (over_folds(own.dropna(subset="pixel_mm"), ["system"], ["hd95"]).set_index("system") if len(own)
               else pd.DataFrame(columns=["hd95", "hd95_sd"]))
        before = step.runs.groupby("system")["seen_before"].agg(lambda texts: "; ".join(dict.fromkeys(texts.dropna())))
        rows.append(means.assign(
            step=step.label, n=means["system"].map(by.size()), dice_median=means["system"].map(by["dice"].median()),
            dice_found=means["system"].map(found.groupby(level="system").mean()),
            missed=means["system"].map(by["missed"].sum()), hd95=means["system"].map(far["hd95"]).astype(float),
            hd95_sd=means["system"].map(far["hd95_sd"]).astype(float), seen_before=means["system"].map(before)))
    columns = ["paper_name", "system", "step", "folds", "n", *(m + s for m in PAPER for s in ("", "_sd")),
               "dice_median", "dice_found", "missed", "hd95", "hd95_sd", "seen_before"]
    found = pd.concat(rows, ignore_index=True)[columns]
    order = {system: i for i, system in enumerate(steps[0].default["system"].unique())}
    return found.sort_values("system", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def changes(steps: list[Step], metric: str = "dice") -> pd.DataFrame:
    """Each step minus the one before it, and the last minus the first, image by image (statistics.compare).

    Columns paper_name, system, step, compared_with, n, mean_difference, low, high, p, p_holm over all rows of a
    system, rank_biserial.
    """
    rows = []
    for system in _systems(steps):
        own = [step for step in steps if system in set(step.rows["system"])]
        pairs = [*pairwise(own)] + ([(own[0], own[-1])] if len(own) > 2 else [])
        found = [_paired(system, before, after, metric) for before, after in pairs]
        adjusted = holm(pd.Series([row["p"] for row in found])) if found else []
        rows += [row | {"p_holm": p} for row, p in zip(found, adjusted, strict=True)]
    columns = ["paper_name", "system", "step", "compared_with", "n", "mean_difference", "low", "high", "p", "p_holm",
               "rank_biserial"]
    return pd.DataFrame(rows, columns=columns)


def contrasts(steps: list[Step]) -> pd.DataFrame:
    """What each of the two changes brings, among the steps that were trained on the dataset itself, by the last one of
    a kind: images of other hospitals (one recipe, with and without them), and the recipe (the last against the first,
    without such images). The trainings may differ in length.

    Columns paper_name, system, change, step, iterations, compared_with, iterations_before, n, mean_difference, low,
    high, as in `changes`.
    """
    rows = []
    for system in _systems(steps):
        kinds = {}  # recipe, whether its weights had seen other hospitals: the last step
        for step in steps:
            runs = step.runs[(step.runs["system"] == system) & (step.runs["recipe"] != record.ADOPTED)]
            if system in set(step.rows["system"]) and runs["train_images"].any():
                kinds[runs["recipe"].iloc[0], bool(runs["images_before"].any())] = step
        recipes = list(dict.fromkeys(recipe for recipe, _ in kinds))
        pairs = [("images of other hospitals", (recipe, False), (recipe, True)) for recipe in recipes]
        pairs += [(f"the recipe {last} instead of {recipes[0]}", (recipes[0], False), (last, False))
                  for last in recipes[1:][-1:]]
        rows += [_paired(system, kinds[before], kinds[after], "dice")
                 | {"change": change, "iterations": _iterations(kinds[after], system),
                    "iterations_before": _iterations(kinds[before], system)}
                 for change, before, after in pairs if before in kinds and after in kinds]
    return pd.DataFrame(rows, columns=["paper_name", "system", "change", "step", "iterations", "compared_with",
                                       "iterations_before", "n", "mean_difference", "low", "high"])


def _iterations(step: Step, system: str) -> int:
    return int(step.runs.loc[step.runs["system"] == system, "iterations"].max())


def _paired(system: str, before: Step, after: Step, metric: str) -> dict:
    parts = [step.default[step.default["system"] == system].assign(system=step.label) for step in (before, after)]
    found = compare(pd.concat(parts), after.label, before.label, metric)
    return {"paper_name": parts[0]["paper_name"].iloc[0], "system": system, "step": after.label,
            "compared_with": before.label} | found | {"system": system}


def by_size(steps: list[Step]) -> pd.DataFrame:
    """Dice and misses by the size bins of Table 2, in pixels.

    Columns paper_name, system, step, bin, n, dice, dice_sd, missed. Raises StudyError for an image of unknown size.
    """
    sides = pd.concat([step.cases for step in steps]).drop_duplicates("case_id").set_index("case_id")["long_side_px"]
    (edges, labels), rows = size_bins(sides, "pixels"), []
    for step in steps:
        images = _images(step, ["paper_name", "system", "case_id"]).reset_index()
        if len(unknown := images.loc[images["case_id"].map(sides).isna(), "case_id"]):
            raise StudyError(f"no cases.csv has the lesion's size of {unknown.nunique()} image(s) of {step.name}, such "
                             f"as {unknown.iloc[0]}; export the study again")
        codes = np.searchsorted(edges, images["case_id"].map(sides), side="left")  # an edge is of the lower bin
        images["bin"] = pd.Categorical.from_codes(codes, labels, ordered=True)
        by = images.groupby(["paper_name", "system", "bin"], sort=False, observed=True)
        rows.append(by.agg(n=("dice", "size"), dice=("dice", "mean"), dice_sd=("dice", "std"),
                           missed=("missed", "sum")).reset_index().assign(step=step.label))
    found = pd.concat(rows, ignore_index=True)
    return found[["paper_name", "system", "step", "bin", "n", "dice", "dice_sd", "missed"]].sort_values(
        ["system", "bin"], kind="stable", ignore_index=True)


def by_prompt(steps: list[Step]) -> pd.DataFrame:
    """What the prompt adds at each step, for systems that read one: a row per system, step and scoring.

    Columns paper_name, system, step, prompt, uses_reference, dice, dice_sd (over folds), mean_difference to an
    empty prompt, with its 95 % interval low … high.
    """
    rows = []
    for step in steps:
        for system, own in step.rows.groupby("system", sort=False):
            pairs = set(own["policy"] + " " + own["attributes"])
            if "none none" not in pairs or len(pairs) == 1:
                continue
            prompts = [SCORINGS.get(pair) for pair in zip(own["policy"], own["attributes"], strict=True)]
            named = own.assign(system=prompts).dropna(subset="system")
            means = over_folds(named, ["system"], ["dice"]).set_index("system")
            for (policy, _), prompt in SCORINGS.items():
                if prompt in means.index:
                    against = compare(named, prompt, "nothing", "dice") if prompt != "nothing" else {}
                    rows.append({"paper_name": own["paper_name"].iloc[0], "system": system, "step": step.label,
                                 "prompt": prompt, "uses_reference": policy == "reference",
                                 "dice": means.loc[prompt, "dice"], "dice_sd": means.loc[prompt, "dice_sd"],
                                 "mean_difference": against.get("mean_difference", np.nan),
                                 "low": against.get("low", np.nan), "high": against.get("high", np.nan)})
    return pd.DataFrame(rows, columns=["paper_name", "system", "step", "prompt", "uses_reference", "dice", "dice_sd",
                                       "mean_difference", "low", "high"])


def curve(steps: list[Step], recipe: str) -> pd.DataFrame:
    """The learning curve: a point per system and step of this recipe, on the folds that all points share.

    Of steps with the same numbers of images the last one counts: studies that were trained for the curve come last.
    Columns paper_name, system, images_before (of other hospitals), train_images (mean of a fold of the dataset itself),
    own_images (whether that is all, part or none of the fold's), iterations, folds, n, dice, missed, step.
    """
    rows = []
    for step in steps:
        trained = (step.runs["recipe"] == recipe) & (step.runs["recipe"] != record.ADOPTED)
        runs = step.runs[trained].set_index(["system", "fold", "seed"])
        for system, own in step.default.groupby("system", sort=False):
            part = runs.loc[[key for key in runs.index if key[0] == system and key[1] in set(own["fold"])]]
            if part.empty:  # of another recipe, or adopted
                continue
            rows.append({"paper_name": own["paper_name"].iloc[0], "system": system,
                         "images_before": int(part["images_before"].max()),
                         "train_images": round(part["train_images"].mean()),
                         "own_images": ("none" if not part["train_images"].any() else
                                        "all" if step.config.get("train_images") is None else "part"),
                         "iterations": int(part["iterations"].max()), "folds": own["fold"].nunique(),
                         "n": own["case_id"].nunique(), "dice": over_folds(own, ["system"], ["dice"])["dice"].iloc[0],
                         "missed": (own["dice"] == 0).groupby(own["case_id"]).mean().sum(), "step": step.label})
    columns = ["paper_name", "system", "images_before", "train_images", "own_images", "iterations", "folds", "n",
               "dice", "missed", "step"]
    place = ["system", "train_images", "images_before"]
    found = pd.DataFrame(rows, columns=columns).drop_duplicates(place, keep="last")
    found = found.sort_values(place, ignore_index=True)
    return found.groupby("system", sort=False).filter(lambda points: len(points) > 1).reset_index(drop=True)


def distances(steps: list[Step], data: str) -> pd.DataFrame:
    """HD95 in mm of every validated image, of the steps whose runs are there: step, system, fold, seed, case_id, hd95,
    pixel_mm (boundaries.per_image); no rows, and a remark, where the dataset's files are not there."""
    parts = []
    for step in [step for step in steps if step.study is not None]:
        try:
            parts.append(boundaries.per_image(step.compared, step.study.case_table(data)).assign(step=step.label))
        except StudyError as error:
            remark(f"no distances in millimetres for {step.name}: {error}")
    columns = ["step", "system", "pixel_mm", "hd95"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def missed_lesions(step: Step) -> pd.DataFrame:
    """The lesions without any overlap at one step, in any of its runs: is there a trace of them in the map?

    Columns paper_name, system, case_id, long_side_px, inside and outside (highest probability in the reference mask and
    around it), marked (percent of the frame above the threshold); no rows for an export, which has no maps.
    """
    columns = ["paper_name", "system", "case_id", "long_side_px", "inside", "outside", "marked"]
    if step.study is None:
        return pd.DataFrame(columns=columns)
    sides, rows = step.cases.set_index("case_id")["long_side_px"], []
    runs = step.study.runs.set_index(["system", "fold", "seed"])["folder"]
    lost = step.default[step.default["dice"] == 0]
    for (system, fold, seed), part in lost.groupby(["system", "fold", "seed"], sort=False):
        maps = record.probabilities(Path(runs[system, fold, seed]))
        masks = dict(zip(part["case_id"], step.study.prepared.masks[step.study.prepared.rows(part["case_id"])],
                         strict=True))
        rows += [{"paper_name": row.paper_name, "system": system, "case_id": row.case_id,
                  "long_side_px": int(sides[row.case_id]), "inside": maps[row.case_id][masks[row.case_id]].max(),
                  "outside": maps[row.case_id][~masks[row.case_id]].max(),
                  "marked": 100 * (maps[row.case_id] >= step.config["threshold"]).mean()} for row in part.itertuples()]
    return pd.DataFrame(rows, columns=columns)


def _images(step: Step, by: list[str]) -> pd.DataFrame:
    """dice and missed (without any overlap) of each image, means over seeds."""
    rows = step.default.assign(missed=(step.default["dice"] == 0).astype(float))
    return rows.groupby(by, sort=False)[["dice", "missed"]].mean()


def _systems(steps: list[Step]) -> list[str]:
    return list(dict.fromkeys(system for step in steps for system in step.rows["system"].unique()))
