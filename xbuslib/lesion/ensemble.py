"""Trained runs on any image: one run, or all folds of a system as an ensemble; prompts without a mask.

Each run takes size and place from its own first pass (policy `first_pass`), unless they are given, and shape, margin
and BI-RADS as they are given. The ensemble's probability is the mean over runs, their disagreement the SD.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from xbuslib.data import originals
from xbuslib.data.cases import BIRADS, MARGINS, SHAPES, margin_words
from xbuslib.data.images import resize_image
from xbuslib.errors import StudyError
from xbuslib.files import outputs_root
from xbuslib.inference.predict import View, at_native_size, probability_maps
from xbuslib.lesion.reading import Picture
from xbuslib.models.features import frozen_features
from xbuslib.models.system import System
from xbuslib.progress import track
from xbuslib.prompts import words
from xbuslib.prompts.conditioning import TextTable, to_tensors
from xbuslib.prompts.words import Finding
from xbuslib.runs import record
from xbuslib.runs.trained import load_system
from xbuslib.training import recipes

ONE_MODEL = ("system", "config_digest", "dataset", "dataset_fingerprint", "folds_checksum")  # equal in an ensemble


@dataclass(frozen=True)
class Given:
    """What a user says of the lesion. None: shape, margin and BI-RADS are not said, size and place are found."""

    shape: str | None = None
    margin: str | None = None
    birads: str | None = None
    size: str | None = None
    quadrant: str | None = None


def given(shape: str = "", margin: str = "", birads: str = "", size: str = "", quadrant: str = "") -> Given:
    """Words as a user writes them, checked against the vocabulary that the systems know (data/cases.py).

    A margin may have several words, joined by "&" or commas. Raises StudyError for unknown words, naming the known.
    """
    typed = {"shape": (shape, SHAPES), "birads": (birads.lower().replace("bi-rads", ""), BIRADS),
             "size": (size, words.SIZES), "quadrant": (quadrant, words.QUADRANTS)}
    cleaned = {name: (" ".join(text.lower().split()), known) for name, (text, known) in typed.items()}
    wrong = [_unknown(name, text, known) for name, (text, known) in cleaned.items() if text and text not in known]
    edge = re.sub(r" ?[,&] ?", "&", " ".join(margin.lower().split()))
    wrong += [_unknown("margin", word, MARGINS) for word in margin_words(edge) if edge and word not in MARGINS]
    if wrong:
        raise StudyError("\n".join(wrong))
    return Given(margin=edge or None, **{name: text or None for name, (text, _) in cleaned.items()})


def _unknown(name: str, word: str, known: tuple[str, ...]) -> str:
    return f"unknown {name} {word!r}; the models know {', '.join(known)}"


# ---- trained runs ---------------------------------------------------------------------------------------------


class Member(NamedTuple):
    """One trained run, ready to predict."""

    system: System
    run: dict  # run.json
    plan: recipes.Plan
    texts: TextTable
    device: torch.device


def find_runs(folder: Path) -> list[Path]:
    """The run folders that `folder` stands for: itself, or those of all folds and seeds of the one system in it.

    Raises StudyError if there is none, or if they are of several systems or protocols.
    """
    levels = ("", "seed_*/", "fold_*/seed_*/", "*/fold_*/seed_*/", "runs/*/fold_*/seed_*/")
    found = next((paths for level in levels if (paths := sorted(folder.glob(f"{level}run.json")))), [])
    if not found:
        raise StudyError(f"{folder} holds no finished run; give a folder such as "
                         "outputs/STUDY/runs/xbusnet, or one fold's run in it (xbuslib runs lists them)")
    folders = [path.parent for path in found]
    read = [record.read(path) for path in folders]
    for key in ONE_MODEL:
        values = sorted({str(run[key]) for run in read})
        if len(values) > 1:
            raise StudyError(f"{folder} holds runs that are no one ensemble, their {key} differs: {', '.join(values)}. "
                             f"Give the folder of one of them, such as {folders[0].parents[1]}")
    return folders


def of_study(study: str, system: str) -> list[Path]:
    """The run folders of one system of a study. Raises StudyError, with the commands that make them, if there are none.
    """
    folder = outputs_root() / study / "runs" / system
    if not folder.is_dir():
        there = sorted(path.name for path in folder.parent.glob("[!.]*"))
        raise StudyError(f"study {study!r} has no trained run of {system} under {outputs_root()}"
                         + (f"; it has {', '.join(there)}" if there else "")
                         + f". Train one fold with\n  xbuslib fold --system {system} --study {study}\n"
                         f"or all systems and folds with\n  ./run_all.sh --study {study}")
    return find_runs(folder)


def load(folder: Path) -> Member:
    """The trained system of a run folder on the GPU if there is one. Raises StudyError as load_system does."""
    system, run = load_system(folder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Member(system.to(device), run, recipes.of_run(run), TextTable(system, device), device)


# ---- one run on one image -------------------------------------------------------------------------------------


def look(member: Member, picture: Picture) -> list[View]:
    """What the run sees of an image, its frozen features included: all that does not depend on the prompt."""
    small = torch.tensor(resize_image(picture.grey, member.plan.config.image_size))[None, None]  # (1, 1, S, S) uint8
    images = at_native_size(small, member.plan)
    shown = [(images, False)] + ([(images.flip(-1), True)] if member.plan.flip_average else [])
    return [View(some, _features(member, some), mirrored) for some, mirrored in shown]


def _features(member: Member, images: Tensor) -> Tensor | None:
    return frozen_features(member.system, images.to(member.device).float().div_(255), member.plan.amp)


def ask(member: Member, seen: list[View], frame: tuple[int, int], said: Given) -> tuple[np.ndarray, pd.Series]:
    """(S, S) float32 lesion probabilities under a prompt, and the row of words.build that was said.

    `frame` is the image's original (width, height), in whose pixels size classes are defined.
    """
    edges = tuple(member.run["size_edges_px"])
    finding = Finding(None, None, frame)
    if member.run["scorings"][0][0] == "first_pass":  # others read neither size nor place
        first, _ = _pass(member, seen, finding, said, edges)
        finding = words.from_first_pass(first, frame, member.plan.config.first_pass_threshold)
    return _pass(member, seen, _told(finding, said, edges), said, edges)


def _pass(member: Member, seen: list[View], finding: Finding, said: Given,
          edges: tuple[float, float]) -> tuple[np.ndarray, pd.Series]:
    """One pass over the views under the prompt for `finding`, as predict_policy does it for many images."""
    case = pd.DataFrame([{"case_id": "image", "shape": said.shape, "margin": said.margin, "birads": said.birads}])
    style = getattr(member.system, "prompt_style", "paper")
    maps, rows = [], []
    for view in seen:
        shown = words.mirror(finding) if view.mirrored else finding
        table = words.build(case, [shown], edges, style=style)
        tensors = to_tensors(member.system, table, member.texts)
        found = probability_maps(member.system, view.images, view.features, tensors, member.plan, member.device)[0]
        maps.append(found[:, ::-1] if view.mirrored else found)
        rows.append(table.iloc[0])
    return np.mean(maps, axis=0), rows[0]


def _told(finding: Finding, said: Given, edges: tuple[float, float]) -> Finding:
    """The finding with the size class and the quadrant that a user has fixed."""
    if said.size:
        longest = {"small": edges[0], "medium": edges[1], "large": 1.5 * edges[1]}[said.size]  # see words.size_word
        box = finding.box or (1.0, 1.0)
        finding = replace(finding, box=tuple(side * longest / max(box) for side in box))
    if said.quadrant and said.quadrant != words.quadrant(finding.centre, finding.frame):
        row, column = said.quadrant.split()
        x, y = 0.25 if column == "left" else 0.75, 0.25 if row == "upper" else 0.75  # the quadrant's middle
        finding = replace(finding, centre=(x * finding.frame[0] - 0.5, y * finding.frame[1] - 0.5), inside=(x, y))
    return finding


# ---- all runs on one image ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Segmentation:
    """What one or several runs make of one image, (H, W) at its original size."""

    probability: np.ndarray  # float32, the mean over runs
    disagreement: np.ndarray | None  # float32, sample SD over runs; None for one run
    members: np.ndarray  # (M, S, S) float32, each run's own probabilities at the systems' size
    said: pd.DataFrame  # one row per run: fold, seed and the prompts that its system reads
    runs: list[dict]  # run.json of each
    reads: tuple[str, ...]  # the prompts that the system reads (models.Prompts)

    @property
    def threshold(self) -> float:
        """Probability from which on a pixel is lesion (Section 2.4)."""
        return self.runs[0]["config"]["threshold"]

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool: probability at or above the threshold."""
        return self.probability >= self.threshold


def segment(members: list[Member], picture: Picture, said: Given, seen: list[list[View]] | None = None) -> Segmentation:
    """One image under one prompt by runs that are all loaded; `seen` (`look` of each) saves looking again."""
    seen = seen or [look(member, picture) for member in members]
    answers = [ask(member, views, picture.frame, said) for member, views in zip(members, seen, strict=True)]
    return _combine(answers, [member.run for member in members], members[0].system.prompts, picture.frame)


def segment_all(folders: list[Path], pictures: list[Picture], said: Given) -> Iterator[Segmentation]:
    """Many images, one run loaded at a time, so that an ensemble needs no more memory than its largest member."""
    answers, read, reads = [[] for _ in pictures], [], ()
    for folder in track(folders, "predicting", len(folders)):
        member = load(folder)
        read, reads = [*read, member.run], member.system.prompts
        for kept, picture in zip(answers, pictures, strict=True):
            kept.append(ask(member, look(member, picture), picture.frame, said))
        del member  # before the next is loaded
    for kept, picture in zip(answers, pictures, strict=True):
        yield _combine(kept, read, reads, picture.frame)


def _combine(answers: list[tuple[np.ndarray, pd.Series]], read: list[dict], reads: tuple[str, ...],
             frame: tuple[int, int]) -> Segmentation:
    maps = np.stack([found for found, _ in answers])  # (M, S, S)
    columns = {"global_text": ["size", "quadrant", "global_text"], "local_text": ["local_text"], "point": ["x", "y"]}
    kept = [column for field in reads for column in columns[field]]
    said = pd.DataFrame([{"fold": run["fold"], "seed": run["seed"]} | {name: row[name] for name in kept}
                         for run, (_, row) in zip(read, answers, strict=True)])
    spread = originals.at_size(maps.std(axis=0, ddof=1), *frame) if len(maps) > 1 else None
    return Segmentation(originals.at_size(maps.mean(axis=0), *frame), spread, maps, said, read, reads)
