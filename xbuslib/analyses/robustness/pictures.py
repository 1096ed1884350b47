"""The masks of a few cases under other prompts: what a change of Dice looks like."""

from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from xbuslib.analyses.robustness.robustness import FoldRun, Prediction
from xbuslib.analyses.robustness.variations import UNVARIED, VARIATIONS
from xbuslib.display import style
from xbuslib.display.masks import error_legend, error_overlay
from xbuslib.runs.study import Study
from xbuslib.runs.trained import Trained

SHOWN = ("no attributes", "synonyms in attributes", "contradictory", "opposite quadrant", "all wrong")


class Shown(NamedTuple):
    """One case under several prompts."""

    case_id: str
    why: str
    under: dict[str, Prediction]  # variation: prediction; the unvaried prompt comes first


def chosen_cases(rows: pd.DataFrame) -> dict[str, str]:
    """{case_id: why}: by the mean absolute change of Dice over the variations of SHOWN, first baseline: the case that
    the prompt moves most, the one in the middle, and the one that it moves least. rows: robustness.evaluate."""
    first = rows[(rows["baseline"] == rows["baseline"].iloc[0]) & rows["variation"].isin(SHOWN) & (rows["draw"] == 0)]
    moved = first.groupby("case_id")["change"].agg(lambda change: change.abs().mean())
    ranked = moved.reset_index().sort_values(["change", "case_id"], ignore_index=True)["case_id"]
    places = {len(ranked) - 1: "moved most", (len(ranked) - 1) // 2: "in the middle", 0: "moved least"}
    return {ranked[place]: why for place, why in places.items()} if len(ranked) else {}


def predict(study: Study, system: str, rows: pd.DataFrame) -> list[Shown]:
    """The `chosen_cases` under each variation of SHOWN that the system's rows hold, by the run that validated them."""
    baseline, found = rows["baseline"].iloc[0], []
    used = [v for v in VARIATIONS if v.name in SHOWN and v.name in set(rows["variation"])]
    for case_id, why in chosen_cases(rows).items():
        fold = study.cases.set_index("case_id").loc[case_id, "fold"]
        run = FoldRun(Trained.load(study.run_folder(system, fold)), study, case_id)
        under = {v.name: run.predict(baseline, v)[0] for v in (UNVARIED, *used)}
        found.append(Shown(case_id, why, under))
    return found


def masks(study: Study, shown: list[Shown], label: str) -> Figure | None:
    """A row for each case: the image, its errors under the unvaried prompt, then under each variation."""
    if not shown:
        return None
    names = list(shown[0].under)
    size = 1.55 * (1 + len(names)) + 0.4, 1.75 * len(shown) + 0.9
    figure, axes = style.subplots(len(shown), 1 + len(names), size=size, squeeze=False)
    for line, case in zip(axes, shown, strict=True):
        row = study.prepared.rows([case.case_id])[0]
        image, mask = study.prepared.images[row], study.prepared.masks[row]
        line[0].imshow(image, cmap="gray", vmin=0, vmax=255)
        line[0].set_ylabel(f"{case.case_id}\n{case.why}", fontsize=8)
        for axis, name in zip(line[1:], names, strict=True):
            axis.imshow(error_overlay(image, case.under[name].mask, mask))
            axis.contour(mask, levels=[0.5], colors="white", linewidths=0.8)
            axis.set_xlabel(f"Dice {case.under[name].dice:.2f}", fontsize=8)
    for axis, name in zip(axes[0], ["image", "prompt as it is", *names[1:]], strict=True):
        axis.set_title(name, fontsize=8.5)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    error_legend(figure)
    return style.titled(figure, "The same image under other prompts", label)


def prompts(shown: list[Shown]) -> pd.DataFrame:
    """case_id, prompt, prompt_text, Dice: a row for each panel of `masks`."""
    return pd.DataFrame([{"case_id": case.case_id, "prompt": name if i else "as it is",
                          "prompt_text": " | ".join(map(str, found.prompt[0])), "Dice": found.dice}
                         for case in shown for i, (name, found) in enumerate(case.under.items())])
