"""Other hospitals: the datasets that a study's trained runs are taken to, decoded at the study's size."""

import os
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from xbuslib.config import Config
from xbuslib.data import catalogue, images, repeats
from xbuslib.data.cases import lesions
from xbuslib.data.catalogue import data_root, phantom_root
from xbuslib.errors import StudyError
from xbuslib.runs.study import Study

REAL = [name for name, row in catalogue.DATASETS.items() if not row.simulated]
MOST = 20  # pairs of repeated images that a message names
PHANTOM_SEED = 1  # of the phantom's other patients: the study's own are drawn from seed 0


@dataclass(frozen=True)
class Target:
    """Another dataset, its lesions decoded at the study's image_size."""

    label: str  # how tables name it
    dataset: str  # the loader's name
    cases: pd.DataFrame  # case table, lesions only
    prepared: images.Prepared
    scale: float | None  # the study's pixels in one of this dataset's, see `open_targets`; None: not known, taken as 1

    @property
    def slug(self) -> str:
        """The label as part of a file name."""
        return _slug(self.label)

    @cached_property
    def rescaled(self) -> images.Prepared:
        """`prepared` with its original geometry in the study's pixels, which the size classes are defined in."""
        own, scale = self.prepared, self.scale or 1.0
        return replace(own, original_sizes=np.rint(own.original_sizes * scale).astype(int), boxes=own.boxes * scale,
                       centroids=(own.centroids + 0.5) * scale - 0.5, long_sides=own.long_sides * scale,
                       contour_centroids=(own.contour_centroids + 0.5) * scale - 0.5)

    @cached_property
    def table(self) -> pd.DataFrame:
        """`images.case_table`: cases with measures of frame and lesion, in this dataset's own pixels."""
        return images.case_table(self.cases, self.prepared)


def available(study: Study) -> list[str]:
    """Where to test if nothing is named.

    For a phantom study both simulated scanners, with other patients: the study's own is then a control. For any other
    the datasets beside it in the folder XBUS_DATA, or scanner B if there are none.
    """
    own, folder = study.facts["dataset"], os.environ.get("XBUS_DATA")
    if catalogue.dataset(own).simulated:
        return ["phantom-A", "phantom-B"]
    there = [name for name in REAL if folder and (Path(folder) / name).is_dir()]
    return [name for name in there if name not in own.split(catalogue.JOIN)] or ["phantom-B"]


def open_targets(study: Study, names: str = "", folders: str = "") -> list[Target]:
    """The datasets `names`, by commas, in `folders`, by commas in the same order; by default those `available`.

    phantom-A and phantom-B are the phantom's scanners, made on first use with half the cases of the profile's phantom.
    Where both give pixel sizes, lengths are converted to the study's pixels, by the ratio of the two medians, so that
    "small" is as many millimetres at both; one ratio for all, since the classes were trained in pixels of all images.
    Where either gives none, lengths stay in the pixels of the other dataset.
    Raises StudyError for unknown names, folders that do not fit, or images that equal, or look like, one of the study.
    """
    wanted, places = ([part.strip() for part in text.split(",") if part.strip()] for text in (names, folders))
    wanted = wanted or available(study)
    if places and len(places) != len(wanted):
        raise StudyError(f"{len(wanted)} target(s) ({', '.join(wanted)}) and {len(places)} folder(s) in target_data; "
                         "give one folder for each, in the same order")
    own = repeats.hashes(study.prepared.case_ids, study.prepared.images)
    targets = [_open(study, own, *pair) for pair in zip(wanted, places or [""] * len(wanted), strict=True)]
    if len({target.label for target in targets}) < len(targets):
        raise StudyError(f"the targets {', '.join(t.label for t in targets)} share a name; name each once, from "
                         "folders of different names")
    return targets


def _open(study: Study, own: pd.DataFrame, name: str, folder: str) -> Target:
    config = Config(**study.facts["config"])
    dataset, _, scanner = name.partition("-")
    if dataset not in catalogue.DATASETS or (scanner and (dataset != "phantom" or folder)):
        raise StudyError(f"there is no target {name!r}; there are phantom-A, phantom-B, {', '.join(REAL)}, and "
                         "phantom with a folder in target_data")
    if dataset == "phantom" and not folder:
        root = phantom_root(max(10, config.phantom_cases // 2), PHANTOM_SEED, scanner or "B")
        label = f"{catalogue.label(dataset)}, scanner {scanner or 'B'}"
    else:
        root = data_root(dataset, folder, config.phantom_cases)
        label = catalogue.label(dataset) + ("" if root.name.lower() == dataset else f" ({root.name})")
    cases = lesions(catalogue.load(dataset, root))
    file = study.folder / "prepared" / f"target_{_slug(label)}_{config.image_size}"
    prepared = images.prepare(cases, config.image_size, file)
    _refuse_known_images(study.name, own, prepared, label)
    ratio = float(cases["pixel_mm"].astype(float).median() / study.cases["pixel_mm"].astype(float).median())
    return Target(label, dataset, cases, prepared, ratio if np.isfinite(ratio) else None)


def _slug(label: str) -> str:
    return re.sub(r"\W+", "_", label).strip("_")


def _refuse_known_images(study: str, own: pd.DataFrame, prepared: images.Prepared, label: str) -> None:
    """own: hashes of the study's images, at the size of `prepared`."""
    pairs = repeats.with_mirrored(repeats.hashes(prepared.case_ids, prepared.images), own)
    if pairs.empty:
        return
    shown = [f"  {pair.one} and {pair.other} of the study: "
             + ("equal pixels" if pair.bits < 0 else f"{pair.bits} of {repeats.SIDE**2} bits of their hashes differ")
             + (", one of them mirrored" if pair.mirrored else "")
             for pair in pairs.sort_values("bits", kind="stable").head(MOST).itertuples()]
    more = [f"  … and {len(pairs) - MOST} more pairs"] if len(pairs) > MOST else []
    raise StudyError(f"{pairs['one'].nunique()} of {len(prepared.case_ids)} images of {label} are in study {study} "
                     "itself, or look like one of its images: a model is not tested on what it was trained on. "
                     "Take them out, or choose another target.\n" + "\n".join(shown + more))
