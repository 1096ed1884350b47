"""A study's trained runs at another hospital: each fold's model on every lesion of another dataset.

In its own dataset an image is scored by the one model that was not trained on it. In another dataset no model was, so
each image has one score per fold; their mean is what to expect of one such model, and the mean of their probability
maps is the *fold ensemble*. Prompts are built as in training from what the other dataset has: no reference mask is read
for them, and attributes that it does not give are not said.
"""

import hashlib
import os
import re
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.ndimage import binary_dilation

from xbuslib.config import Config
from xbuslib.data import catalogue, images
from xbuslib.data.cases import lesions, margin_words
from xbuslib.data.catalogue import data_root, phantom_root
from xbuslib.errors import StudyError
from xbuslib.evaluation import metrics
from xbuslib.inference.predict import predict_policy, views
from xbuslib.models import registry
from xbuslib.progress import track
from xbuslib.prompts import words
from xbuslib.prompts.conditioning import TextTable
from xbuslib.runs import record
from xbuslib.runs.study import Study
from xbuslib.runs.trained import load_system
from xbuslib.training import recipes

POLICIES = ("first_pass", "none")  # those that need no reference mask
ATTRIBUTES = ("shape", "margin", "birads")
DESCRIBED = ["case_id", "patient_id", "pathology", "birads", "device"]  # what scores are grouped by, where it is known
PHANTOM_SEED = 1  # of the phantom's other patients: the study's own are drawn from seed 0
CHUNK = 128  # images whose frozen features are held at once; memory only


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

    @property
    def given(self) -> list[str]:
        """The attributes that at least one case has."""
        return [name for name in ATTRIBUTES if self.cases[name].notna().any()]

    @cached_property
    def rescaled(self) -> images.Prepared:
        """`prepared` with its original geometry told in the study's pixels, which the size classes are defined in."""
        held, scale = self.prepared, self.scale or 1.0
        return replace(held, original_sizes=np.rint(held.original_sizes * scale).astype(int), boxes=held.boxes * scale,
                       centroids=(held.centroids + 0.5) * scale - 0.5, long_sides=held.long_sides * scale)

    @cached_property
    def table(self) -> pd.DataFrame:
        """`images.case_table`: cases with measures of frame and lesion, in this dataset's own pixels."""
        return images.case_table(self.cases, self.prepared)


# ---- the other datasets ---------------------------------------------------------------------------------------


def at_hand(study: Study) -> list[str]:
    """What to test on where nothing is named.

    For a phantom study both simulated scanners, with other patients: the study's own is then a control. For any other
    the datasets beside it in the folder XBUS_DATA, or scanner B if there are none.
    """
    own, folder = study.facts["dataset"], os.environ.get("XBUS_DATA")
    if own == "phantom":
        return ["phantom-A", "phantom-B"]
    others = [name for name in ("blu", "busi", "busbra") if name != own]
    return [name for name in others if folder and (Path(folder) / name).is_dir()] or ["phantom-B"]


def open_targets(study: Study, names: str = "", folders: str = "") -> list[Target]:
    """The datasets `names`, by commas, in `folders`, by commas in the same order; by default `at_hand`.

    phantom-A and phantom-B are the phantom's scanners, made on first use with half the cases of the profile's phantom.
    Where both give pixel sizes, lengths are told in the study's pixels, by the ratio of the two medians, so that
    "small" is as many millimetres at both; one ratio for all, since the classes were trained in pixels of all images.
    Where either gives none, lengths stay in the pixels of the other dataset.
    Raises StudyError for unknown names, folders that do not fit, or images that the study has itself.
    """
    asked, places = ([part.strip() for part in text.split(",") if part.strip()] for text in (names, folders))
    asked = asked or at_hand(study)
    if places and len(places) != len(asked):
        raise StudyError(f"{len(asked)} target(s) ({', '.join(asked)}) and {len(places)} folder(s) in target_data; "
                         "give one folder for each, in the same order")
    targets = [_open(study, *pair) for pair in zip(asked, places or [""] * len(asked), strict=True)]
    if len({target.label for target in targets}) < len(targets):
        raise StudyError(f"the targets {', '.join(t.label for t in targets)} are not told apart; name each once, "
                         "from folders of different names")
    return targets


def _open(study: Study, name: str, folder: str) -> Target:
    config = Config(**study.facts["config"])
    dataset, _, scanner = name.partition("-")
    if dataset not in catalogue.DATASETS or (scanner and (dataset != "phantom" or folder)):
        raise StudyError(f"there is no target {name!r}; there are phantom-A, phantom-B, blu, busi and busbra, and "
                         "phantom with a folder in target_data")
    if dataset == "phantom" and not folder:
        root = phantom_root(max(10, config.phantom_cases // 2), PHANTOM_SEED, scanner or "B")
        label = f"{catalogue.label(dataset)}, scanner {scanner or 'B'}"
    else:
        root = data_root(dataset, folder, config.phantom_cases)
        label = catalogue.label(dataset) + ("" if root.name.lower() == dataset else f" ({root.name})")
    cases = lesions(catalogue.load(dataset, root))
    file = study.folder / "prepared" / f"target_{_slug(label)}_{config.image_size}.npz"
    prepared = images.prepare(cases, config.image_size, file)
    _refuse_known_images(study, prepared, label)
    ratio = float(cases["pixel_mm"].astype(float).median() / study.cases["pixel_mm"].astype(float).median())
    return Target(label, dataset, cases, prepared, ratio if np.isfinite(ratio) else None)


def _slug(label: str) -> str:
    return re.sub(r"\W+", "_", label).strip("_")


def _refuse_known_images(study: Study, prepared: images.Prepared, label: str) -> None:
    own = {hashlib.sha256(image.tobytes()).digest() for image in study.prepared.images}
    known = [case for case, image in zip(prepared.case_ids, prepared.images, strict=True)
             if hashlib.sha256(image.tobytes()).digest() in own]
    if known:
        raise StudyError(f"{len(known)} of {len(prepared.case_ids)} images of {label} are in study {study.name} itself "
                         f"(such as {known[0]}): a model is not tested on what it was trained on. "
                         "Take them out, or choose another target.")


def datasets_side_by_side(study: Study, targets: list[Target]) -> pd.DataFrame:
    """One row per dataset: numbers, medians of frame, pixel and lesion, and the grey values that gain and range set."""
    held = study.prepared
    sides = [(f"{catalogue.label(study.facts['dataset'])} (the study's own)", study.cases, held)]
    sides += [(target.label, target.table, target.prepared) for target in targets]
    rows = []
    for label, table, prepared in sides:
        at = prepared.rows(table["case_id"])
        grey, contrast = _grey(prepared.images[at], prepared.masks[at])
        rows.append({
            "dataset": label, "lesions": len(table), "patients": table["patient_id"].nunique(),
            "malignant": (table["pathology"] == "malignant").mean(),
            "frame, px": f"{table['width_px'].median():.0f} × {table['height_px'].median():.0f}",
            "pixel, mm": table["pixel_mm"].median(), "lesion, px": table["long_side_px"].median(),
            "lesion, mm": table["long_side_mm"].median(), "share of the frame": table["lesion_fraction"].median(),
            "mean grey": grey, "lesion minus surround, grey": contrast,
        })
    return pd.DataFrame(rows)


def _grey(pictures: np.ndarray, masks: np.ndarray) -> tuple[float, float]:
    """Mean grey of (n, S, S) uint8 images, and the lesions' mean minus that of a rim of a sixteenth of the frame."""
    rim = max(1, pictures.shape[-1] // 16)
    differences = []
    for picture, mask in zip(pictures, masks, strict=True):
        around = binary_dilation(mask, iterations=rim) & ~mask
        if around.any():
            differences.append(picture[mask].mean() - picture[around].mean())
    return float(pictures.mean()), float(np.mean(differences))


# ---- what a prompt can say there ------------------------------------------------------------------------------


def attributes(study: Study, targets: list[Target]) -> pd.DataFrame:
    """Which attributes a prompt says at each target: numbers of cases that have them, and words new to the models."""
    rows = []
    for target in targets:
        for name in ATTRIBUTES:
            trained = {word for value in study.cases[name].dropna() for word in _words(name, value)}
            there = target.cases[name].dropna()
            new = there.map(lambda value, name=name, trained=trained: set(_words(name, value)) - trained)
            rows.append({"target": target.label, "attribute": "BI-RADS" if name == "birads" else name,
                         "trained with": int(study.cases[name].notna().sum()), "given": len(there),
                         "of": len(target.cases), "said": len(there) > 0,
                         "never heard in training": ", ".join(sorted(set().union(*new))) or None,
                         "in cases": int(new.map(bool).sum())})
    return pd.DataFrame(rows)


def _words(attribute: str, value: str) -> list[str]:
    return margin_words(value) if attribute == "margin" else [value]


def size_classes(study: Study, targets: list[Target]) -> pd.DataFrame:
    """Shares of small, medium and large lesions, by reference masks, in the study and at each target.

    Edges are the mean of the training folds'. A prompt's own word comes from a first pass, not from this.
    """
    edges = np.mean([record.read(Path(folder))["size_edges_px"] for folder in study.runs["folder"]], axis=0)
    counted = [(f"{catalogue.label(study.facts['dataset'])} (the study's own)", "pixels", True,
                study.cases["long_side_px"].to_numpy())]
    for target in targets:
        own = target.table["long_side_px"].to_numpy()
        counted.append((target.label, "its own pixels", target.scale is None, own))
        if target.scale is not None:
            counted.append((target.label, f"the study's pixels (× {target.scale:.2f})", True, own * target.scale))
    rows = []
    for label, unit, used, sides in counted:
        classes = pd.Series([words.size_word((side, side), tuple(edges)) for side in sides])
        rows.append({"dataset": label, "lengths compared in": unit, "used": used, "n": len(sides)}
                    | {word: float((classes == word).mean()) for word in words.SIZES})
    return pd.DataFrame(rows)


# ---- predictions ----------------------------------------------------------------------------------------------


def choose_systems(study: Study, names: str) -> list[str]:
    """Those of `names`, by commas, that the study has, in the registry's order; "all" for every one.

    Raises StudyError for names of no system, or if the study has none of them.
    """
    asked = [part.strip() for part in names.split(",") if part.strip()]
    unknown = sorted(set(asked) - set(registry.names()) - set(study.systems) - {"all"})
    found = [name for name in study.systems if name in asked or "all" in asked]
    if unknown or not found:
        raise StudyError(f"{'unknown system ' + ', '.join(unknown) if unknown else 'no run of ' + names}; "
                         f"study {study.name} has {', '.join(study.systems)}")
    return found


def predict(study: Study, target: Target, systems: list[str]) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Every run of `systems` on every case of `target`.

    Returns rows of system, policy, attributes, paper_name, default, fold, seed, case_id and both metric families; and
    {system: (n, S, S)} fold ensembles, the mean probability of all its runs in the default scoring.
    """
    parts, ensembles = [], {}
    for system in systems:
        own = study.runs[study.runs["system"] == system]
        total = 0.0
        for row in track(own.itertuples(), f"{system} on {target.label}", len(own)):
            scores, maps = apply_run(Path(row.folder), target.cases, target.rescaled)
            parts.append(scores.assign(system=system, paper_name=registry.REGISTRY[system].paper, fold=row.fold,
                                       seed=row.seed))
            total = total + maps
        ensembles[system] = record.halved(total / len(own), study.facts["config"]["threshold"])  # half the memory
    return pd.concat(parts, ignore_index=True), ensembles


def apply_run(folder: Path, cases: pd.DataFrame, prepared: images.Prepared) -> tuple[pd.DataFrame, np.ndarray]:
    """The model of a run folder on `cases`, under every scoring that needs no reference mask.

    Returns rows of policy, attributes, default, case_id and both metric families, and the (n, S, S) float32 probability
    maps of the default scoring.
    """
    model, run = load_system(folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device, memory_format=torch.channels_last)  # as training left it, else bfloat16 rounds differently
    plan = recipes.plan(run["system"], Config(**run["config"]), run["train_cases"])
    texts, edges = TextTable(model, device), tuple(run["size_edges_px"])
    wanted = [scoring for scoring in words.scorings(model.prompts) if scoring[0] in POLICIES]
    parts, default = [], []
    for start in range(0, len(cases), CHUNK):
        some = cases.iloc[start:start + CHUNK]
        at = prepared.rows(some["case_id"])
        seen = views(model, torch.from_numpy(prepared.images[at])[:, None], plan, device)  # (n, 1, S, S)
        for policy, said in wanted:
            maps, _ = predict_policy(model, some, prepared, policy, said, edges, seen, texts, plan, device)
            if (policy, said) == wanted[0]:
                default.append(maps)
            parts.append(_score(maps, prepared.masks[at], some, plan.config.threshold).assign(
                policy=policy, attributes=said, default=(policy, said) == wanted[0]))
    return pd.concat(parts, ignore_index=True), np.concatenate(default)


def score_ensembles(study: Study, target: Target, ensembles: dict[str, np.ndarray]) -> pd.DataFrame:
    """system, paper_name, case_id and both metric families of the fold ensembles."""
    masks = target.prepared.masks[target.prepared.rows(target.cases["case_id"])]
    threshold = study.facts["config"]["threshold"]
    return pd.concat([_score(maps, masks, target.cases, threshold).assign(
        system=system, paper_name=registry.REGISTRY[system].paper) for system, maps in ensembles.items()],
        ignore_index=True)


def in_domain(study: Study, systems: list[str]) -> pd.DataFrame:
    """The study's own validation scores under the policies that `predict` uses, same columns, with DESCRIBED."""
    rows = study.per_image[study.per_image["system"].isin(systems) & study.per_image["policy"].isin(POLICIES)]
    return rows.merge(_described(study.cases), on="case_id", validate="many_to_one")


def at_target(target: Target, scores: pd.DataFrame) -> pd.DataFrame:
    """`scores` of `predict` with the target's label in the column `target`, and DESCRIBED."""
    described = _described(target.cases)
    return scores.merge(described, on="case_id", validate="many_to_one").assign(target=target.label)


def _described(cases: pd.DataFrame) -> pd.DataFrame:
    return cases[[column for column in DESCRIBED if column in cases]]


def _score(maps: np.ndarray, masks: np.ndarray, cases: pd.DataFrame, threshold: float) -> pd.DataFrame:
    values = metrics.per_image(maps >= threshold, masks)
    values.insert(0, "case_id", cases["case_id"].to_numpy())
    return values
