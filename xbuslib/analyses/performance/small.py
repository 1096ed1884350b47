"""The smallest lesions of a study as pictures: what each system marks of them."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from xbuslib.display import style
from xbuslib.display.masks import error_legend, error_overlay
from xbuslib.runs import record
from xbuslib.runs.study import Study, system_names

SHOWN = ("unet", "uresnet", "xbusnet")  # the plain network, the encoder of XBusNet's local branch alone, the whole


def smallest_lesions(study: Study, systems: tuple[str, ...] = SHOWN, n: int = 6) -> Figure:
    """The `n` lesions with the shortest longest side, a column each: image, then errors of each system of the study.

    Squares around the lesion, three times its longest side, of the images as the systems see them. Of a partial study
    the lesions are those of the folds that all these systems have; a system without a fold of those before it is left
    out.
    """
    names, folds = system_names(study.default[study.default["system"].isin(systems)]), set(study.cases["fold"])
    for name in list(names):
        own = set(study.runs.loc[study.runs["system"] == name, "fold"])
        if folds & own:
            folds &= own
        else:
            del names[name]
    known = study.cases[study.cases["fold"].isin(folds)]
    cases = known.nsmallest(n, "long_side_px", keep="first")
    maps = _maps(study, cases, list(names))
    size = 1.5 * len(cases) + 0.4, 1.55 * (1 + len(names)) + 0.8
    figure, axes = style.subplots(1 + len(names), len(cases), size=size, squeeze=False)
    for column, case in enumerate(cases.itertuples()):
        row = study.prepared.rows([case.case_id])[0]
        image, mask = study.prepared.images[row], study.prepared.masks[row]
        window = _window(mask)
        axes[0, column].imshow(image[window], cmap="gray", vmin=0, vmax=255)
        axes[0, column].set_title(f"{case.case_id}\n{case.long_side_px:.0f} px", fontsize=8.5)
        for axis, system in zip(axes[1:, column], names, strict=True):
            probabilities = maps[system][case.case_id]
            axis.imshow(error_overlay(image, probabilities >= study.facts["config"]["threshold"], mask)[window])
            if mask[window].any() and not mask[window].all():
                axis.contour(mask[window], levels=[0.5], colors="white", linewidths=0.8)
    for axis, name in zip(axes[:, 0], ["image", *names.values()], strict=True):
        axis.set_ylabel(name, fontsize=9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    error_legend(figure)
    return style.titled(figure, "The smallest lesions and the errors on them", study.label_of_maps)


def _maps(study: Study, cases: pd.DataFrame, systems: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """system: case_id: (S, S) probabilities of the run (first seed) that validated the case."""
    found = {}
    for system in systems:
        folds = {fold: record.probabilities(study.run_folder(system, fold)) for fold in cases["fold"].unique()}
        found[system] = {case.case_id: folds[case.fold][case.case_id] for case in cases.itertuples()}
    return found


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a square three times as wide as the lesion in an (S, S) mask, moved into the frame."""
    where = np.argwhere(mask)  # (pixels, 2)
    low, high = where.min(axis=0), where.max(axis=0) + 1
    side = min(len(mask), max(16, 3 * int((high - low).max())))
    first = np.clip((low + high - side) // 2, 0, len(mask) - side)
    return slice(first[0], first[0] + side), slice(first[1], first[1] + side)
