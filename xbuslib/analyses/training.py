"""Pictures and tables of one run: its plan, its learning curve, its errors, and one case under every prompt policy."""

import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xbuslib.data.cases import attributes_given
from xbuslib.data.images import Prepared
from xbuslib.display import style
from xbuslib.display.masks import error_legend, error_overlay
from xbuslib.evaluation import metrics
from xbuslib.inference.predict import images_of
from xbuslib.prompts import words
from xbuslib.runs import record
from xbuslib.runs.caveats import NAMES, PLAN
from xbuslib.runs.trained import Trained

# Settings in Section 2.3 of the paper (of the schedule, its form), and the recipe, whose name is ours for all of them.
STATED = {"recipe", "iterations", "batch_size", "rates", "optimiser", "schedule", "amp"}
POLICIES = {"first_pass": "first pass", "paper": "size from the reference", "reference": "size and location from the "
            "reference", "none": "neither size nor location"}
HEAT = "cividis"


def scoring(policy: str, attributes: str, scorings: list[list[str]]) -> str:
    """One of a system's `scorings` (run.json) in words: where size and location are from, and whether attributes are
    given, if the system reads any."""
    if len(scorings) == 1:  # of a system that reads no prompt
        return "no prompt"
    described = "metadata" in (each for _, each in scorings)
    return POLICIES[policy] + (f", with{'out' * (attributes == 'none')} attributes" if described else "")


def prompt_source(policy: str, attributes: str, point: bool, given: bool) -> str:
    """What the prompt of a default scoring holds, and from where.

    point: whether the prompt is a point; given: whether the dataset gives any attribute.
    """
    if (policy, attributes) == ("none", "none"):
        return "No prompt was given."
    if point:
        return "The prompt is a point from the model's own first pass."
    spatial = {"first_pass": "Size and location in the prompt are from the model's own first pass",
               "none": "The prompt has neither size nor location"}[policy]
    described = "the attributes are those of the metadata" if given else "the dataset gives no attributes"
    return f"{spatial}; {described}." if attributes == "metadata" else f"{spatial}."


def plan_table(plan: dict) -> pd.DataFrame:
    """setting, this run, the paper's protocol (run.json's plan); ‡ marks our choice where the paper states nothing."""
    wanted = PLAN | {"iterations": 1000, "recipe": "uniform"}
    plan = plan | {"schedule": plan["schedule"].replace(f", length={plan['iterations']}", "")}
    first = ["recipe", "iterations", "batch_size", "rates"]
    rows = [(NAMES.get(key, key.replace("_", " ")), _word(plan[key]),
             _word(wanted[key]) + ("" if key in STATED else " ‡"))
            for key in (*first, *(key for key in plan if key not in first)) if key in wanted]
    return pd.DataFrame(rows, columns=["setting", "this run", "the paper's protocol"])


def _word(value) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{number:g}" if key == "other" else f"{key} {number:g}" for key, number in value.items())
    if isinstance(value, bool) or value is None:  # not by ==, by which 0 iterations are False
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value).replace("_", " ")


def learning_curve(history: pd.DataFrame, title: str, others: dict[str, pd.DataFrame] | None = None) -> Figure:
    """Training loss by iteration with a running mean over a twentieth of the run, and the learning rate.

    others: {system: history} of the study's other systems on this fold, whose running means are drawn in grey.
    """
    window = max(1, len(history) // 20)
    figure, (top, bottom) = style.subplots(2, 1, size=(7.2, 4.4), sharex=True, height_ratios=(3, 1))
    for i, other in enumerate((others or {}).values()):
        top.plot(other["iteration"], _running(other), color="0.8", linewidth=1, label=None if i else "other systems")
    top.plot(history["iteration"], history["loss"], color=style.PALETTE[5], linewidth=0.7, label="every iteration")
    top.plot(history["iteration"], _running(history), color=style.PALETTE[0], linewidth=1.8,
             label=f"running mean of {window}")
    top.set(title=title, ylabel="training loss", ylim=(0, max(1.0, history["loss"].max())))
    top.legend(loc="upper right", ncols=3)
    bottom.plot(history["iteration"], history["learning_rate"], color=style.PALETTE[1])
    bottom.set(xlabel="iteration", ylabel="learning rate", ylim=(0, None))
    return figure


def _running(history: pd.DataFrame) -> pd.Series:
    return history["loss"].rolling(max(1, len(history) // 20), min_periods=1).mean()


def other_histories(study: str, system: str, fold: int, seed: int) -> dict[str, pd.DataFrame]:
    """{system: history.csv} of the study's other finished runs on this fold and seed."""
    rows = record.listing(study)
    if rows.empty:
        return {}
    rows = rows[(rows["fold"] == fold) & (rows["seed"] == seed) & (rows["system"] != system)]
    rows = rows[rows["weights"] != record.ADOPTED]  # those have no history
    return {row.system: pd.read_csv(Path(row.folder) / "history.csv") for row in rows.itertuples()}


def error_panels(prepared: Prepared, chosen: pd.DataFrame, maps: dict[str, np.ndarray], threshold: float,
                 label: str) -> Figure:
    """A row per case of `chosen` (case_id, dice): the image, the probability map, the errors with the reference."""
    names = ["image", "probability of lesion", "errors"]
    figure, axes = style.subplots(len(chosen), 3, size=(7.2, 2.3 * len(chosen) + 0.9), squeeze=False)
    for line, case in zip(axes, chosen.itertuples(), strict=True):
        row = prepared.rows([case.case_id])[0]
        image, mask = prepared.images[row], prepared.masks[row]
        line[0].imshow(image, cmap="gray", vmin=0, vmax=255)
        drawn = line[1].imshow(maps[case.case_id], cmap=HEAT, vmin=0, vmax=1)
        line[2].imshow(error_overlay(image, maps[case.case_id] >= threshold, mask))
        for axis in line[1:]:
            axis.contour(mask, levels=[0.5], colors="white", linewidths=0.8)
        line[0].set_ylabel(f"{case.case_id}\nDice {case.dice:.2f}")
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.colorbar(drawn, ax=axes[:, 1], location="bottom", shrink=0.8, aspect=25, pad=0.02)
    error_legend(figure)
    figure.suptitle(label, fontsize=10)
    return figure


def under_every_policy(folder: Path, case: pd.DataFrame, prepared: Prepared) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """One validated case (a row of the case table) under every scoring of its run: a table and the (S, S) maps.

    Columns: location and size come from, global prompt, local prompt, as the system reads them, and Dice.
    """
    trained = Trained.load(folder)
    predictor, rows, maps = trained.predictor, [], []
    views = predictor.views(images_of(case, prepared))
    mask, threshold = prepared.masks[prepared.rows(case["case_id"])], trained.run["config"]["threshold"]
    for policy, attributes in trained.run["scorings"]:
        found, prompts = predictor.predict(views, case, prepared, policy, attributes)
        read = {name: prompts[name].iloc[0] for name in words.columns_read(predictor.system.prompts)}
        named = {"global_text": "global prompt", "local_text": "local prompt", "x": "point x", "y": "point y"}
        rows.append({"prompt from": scoring(policy, attributes, trained.run["scorings"])}
                    | {named[key]: value for key, value in read.items()}
                    | {"Dice": float(metrics.per_image(found >= threshold, mask)["dice"].iloc[0])})
        maps.append(found[0])
    return pd.DataFrame(rows), maps


def policy_panels(prepared: Prepared, case_id: str, table: pd.DataFrame, maps: list[np.ndarray], threshold: float,
                  title: str) -> Figure:
    """The masks of one case under each scoring (`under_every_policy`), four in a row."""
    columns, lines = min(4, 1 + len(maps)), -(-(1 + len(maps)) // 4)
    figure, axes = style.subplots(lines, columns, size=(2.0 * columns, 2.45 * lines + 0.7), squeeze=False)
    row = prepared.rows([case_id])[0]
    image, mask = prepared.images[row], prepared.masks[row]
    for axis in axes.flat:
        axis.set_axis_off()
    axes.flat[0].imshow(image, cmap="gray", vmin=0, vmax=255)
    axes.flat[0].set_title(case_id, fontsize=8.5)
    for axis, found, scored in zip(axes.flat[1:], maps, table.to_dict("records"), strict=False):
        axis.imshow(error_overlay(image, found >= threshold, mask))
        axis.contour(mask, levels=[0.5], colors="white", linewidths=0.8)
        axis.set_title(f"{textwrap.fill(scored['prompt from'], 26)}\nDice {scored['Dice']:.2f}", fontsize=8)
    error_legend(figure)
    figure.suptitle(title, fontsize=10)
    return figure


def answer(run: dict, main: pd.DataFrame, cases: pd.DataFrame) -> str:
    """What the run scores under its default policy; main: those rows of per_image.csv, cases: the case table."""
    missed = int((main["dice"] == 0).sum())
    return (f"**{run['paper_name']} reaches a mean lesion Dice of {main['dice'].mean():.3f}** (median "
            f"{main['dice'].median():.3f}) on the {len(main)} images of fold {run['fold']}, after "
            + (f"{run['plan']['iterations']} iterations on {run['train_cases']} other images; "
               if run["plan"]["iterations"] else "no training on this dataset; ")
            + {0: "no lesion was missed. ", 1: "one lesion was missed. "}.get(missed, f"{missed} lesions were missed. ")
            + f"As a mean over lesion and background the same masks score {main['dice_two_class'].mean():.3f}. "
            + prompt_source(*run["scorings"][0], "x" in main, bool(attributes_given(cases))))
