"""The runs of every step on images of another hospital, none of which they were trained on."""

import pandas as pd

from xbuslib.analyses.cross_centre import drop, predictions, targets
from xbuslib.analyses.transfer.steps import Step
from xbuslib.data import catalogue

COLUMNS = ["target", "paper_name", "system", "step", "n_target", "in_domain", "at_target", "difference", "low", "high",
           "missed_target"]


def scores(steps: list[Step], names: str = "", folders: str = "") -> pd.DataFrame:
    """Default scorings of the steps whose runs are kept here, on the targets `names` in `folders`: COLUMNS.

    Both as in notebook 14; without names scanner B with other patients for a phantom, no target else. The interval is
    that of the difference to the images of the study. Raises StudyError as they do.
    """
    kept = [step for step in steps if step.study is not None]
    if not kept or not (names or catalogue.dataset(kept[0].study.facts["dataset"]).simulated):
        return pd.DataFrame(columns=COLUMNS)
    parts = []
    for target in targets.open_targets(kept[0].study, names or "phantom-B", folders):
        for step in kept:
            study = step.compared
            systems = [name for name in study.systems if name not in study.adopted]  # adopted ones have no weights
            if not systems:
                continue
            found, _ = predictions.predict_target(study, target, systems, default_alone=True)
            parts.append(drop.drops(predictions.in_domain(study, systems), predictions.at_target(target, found))
                         .query("default").assign(step=step.label))
    if not parts:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(parts, ignore_index=True)[COLUMNS].sort_values(["target", "system"], kind="stable",
                                                                   ignore_index=True)
