"""Trained runs on any image: one run, or all folds of a system as an ensemble; prompts without a mask.

Each run takes size and location from its own first pass (policy `first_pass`), unless the user fixes them, and shape,
margin and BI-RADS from the user. The ensemble's probability is the mean over runs, their disagreement the SD.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from xbuslib.data import originals
from xbuslib.data.cases import BIRADS, MARGINS, SHAPES, margin_words
from xbuslib.data.images import resize_image
from xbuslib.errors import StudyError
from xbuslib.files import outputs_root
from xbuslib.inference.predict import View
from xbuslib.lesion.reading import Picture
from xbuslib.progress import track
from xbuslib.prompts import words
from xbuslib.prompts.words import Finding
from xbuslib.runs import identity, published, record
from xbuslib.runs.trained import Trained


@dataclass(frozen=True)
class UserPrompt:
    """What a user writes of the lesion. None: no shape, margin or BI-RADS; size, location by each run's first pass."""

    shape: str | None = None
    margin: str | None = None
    birads: str | None = None
    size: str | None = None
    quadrant: str | None = None


def user_prompt(shape: str = "", margin: str = "", birads: str = "", size: str = "", quadrant: str = "") -> UserPrompt:
    """Words as a user writes them, checked against the vocabulary that the systems know (data/cases.py).

    A margin may have several words, joined by "&" or commas. Raises StudyError for unknown words, naming the known.
    """
    given = {"shape": shape, "margin": margin, "birads": birads, "size": size, "quadrant": quadrant}
    if listed := [name for name, value in given.items() if not isinstance(value, str | int)]:
        raise StudyError(f"{', '.join(listed)}: one text is needed, such as 'spiculated, indistinct' for a margin")
    shape, margin, birads, size, quadrant = map(str, given.values())
    typed = {"shape": (shape, SHAPES), "birads": (birads.lower().replace("bi-rads", ""), BIRADS),
             "size": (size, words.SIZES), "quadrant": (quadrant, words.QUADRANTS)}
    cleaned = {name: (" ".join(text.lower().split()), known) for name, (text, known) in typed.items()}
    wrong = [_unknown(name, text, known) for name, (text, known) in cleaned.items() if text and text not in known]
    edge = re.sub(r" ?[,&] ?", "&", " ".join(margin.lower().split()))
    wrong += [_unknown("margin", word, MARGINS) for word in margin_words(edge) if edge and word not in MARGINS]
    if wrong:
        raise StudyError("\n".join(wrong))
    return UserPrompt(margin=edge or None, **{name: text or None for name, (text, _) in cleaned.items()})


def _unknown(name: str, word: str, known: tuple[str, ...]) -> str:
    return f"unknown {name} {word!r}; the models know {', '.join(known)}"


def find_runs(folder: Path) -> list[Path]:
    """The run folders that `folder` stands for: itself, or those of all folds and seeds of the one system in it.

    Raises StudyError if there is none, or if they are of several systems or protocols.
    """
    folder = published.local(folder)
    levels = ("", "seed_*/", "fold_*/seed_*/", "*/fold_*/seed_*/", "runs/*/fold_*/seed_*/")
    found = next((paths for level in levels if (paths := sorted(folder.glob(f"{level}run.json")))), [])
    if not found:
        raise StudyError(f"{folder} holds no finished run; give a folder such as "
                         "outputs/STUDY/runs/xbusnet, or one fold's run in it (xbuslib runs lists them)")
    folders = [path.parent for path in found]
    read = [record.read(path) for path in folders]
    systems = sorted({run["system"] for run in read})
    if len(systems) > 1:
        raise StudyError(f"{folder} holds runs of several systems: {', '.join(systems)}. Give the folder of one of "
                         f"them, such as {folders[0].parents[1]}")
    identity.refuse_mixture(f"the ensemble of {folder}", zip(folders, read, strict=True))
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


def views_of(trained: Trained, picture: Picture) -> list[View]:
    """The image as the run sees it, with its frozen features: all that does not depend on the prompt."""
    small = resize_image(picture.grey, trained.run["config"]["image_size"])  # (S, S) uint8
    return trained.predictor.views(torch.tensor(small)[None, None])


def _predict(trained: Trained, views: list[View], frame: tuple[int, int],
             prompt: UserPrompt) -> tuple[np.ndarray, pd.Series]:
    """(S, S) float32 lesion probabilities under a prompt, and the row of words.build that it led to.

    `frame` is the image's original (width, height), in whose pixels size classes are defined.
    """
    predictor = trained.predictor
    case = pd.DataFrame([{"case_id": "image", "shape": prompt.shape, "margin": prompt.margin, "birads": prompt.birads}])
    finding = Finding(None, None, frame)
    if trained.run["scorings"][0][0] == "first_pass":  # others read neither size nor location
        finding, = predictor.first_pass(views, case, [frame])
    tables = predictor.prompt_tables(views, case, [_fixed(finding, prompt, predictor.edges)])
    return predictor.mean_maps(views, tables)[0], tables[0].iloc[0]


def _fixed(finding: Finding, prompt: UserPrompt, edges: tuple[float, float]) -> Finding:
    """The finding with the size class and the quadrant that a user has fixed."""
    if prompt.size:
        finding = words.resized(finding, prompt.size, edges)
    if prompt.quadrant and prompt.quadrant != words.quadrant(finding.centre, finding.frame):
        row, column = prompt.quadrant.split()
        x, y = 0.25 if column == "left" else 0.75, 0.25 if row == "upper" else 0.75  # the quadrant's middle
        finding = replace(finding, centre=(x * finding.frame[0] - 0.5, y * finding.frame[1] - 0.5), inside=(x, y),
                          contour_centre=None)
    return finding


@dataclass(frozen=True)
class Segmentation:
    """What one or several runs make of one image, (H, W) at its original size."""

    probability: np.ndarray  # float32, the mean over runs
    disagreement: np.ndarray | None  # float32, sample SD over runs; None for one run
    members: np.ndarray  # (M, S, S) float32, each run's own probabilities at the systems' size
    prompts: pd.DataFrame  # one row per run: fold, seed and the prompts that its system reads
    runs: list[dict]  # run.json of each
    reads: tuple[str, ...]  # the prompts that the system reads (models.system.Prompts)

    @property
    def threshold(self) -> float:
        """Probability from which on a pixel is lesion (Section 2.4)."""
        return self.runs[0]["config"]["threshold"]

    @property
    def mask(self) -> np.ndarray:
        """(H, W) bool: probability at or above the threshold."""
        return self.probability >= self.threshold


def segment(runs: list[Trained], picture: Picture, prompt: UserPrompt,
            views: list[list[View]] | None = None) -> Segmentation:
    """One image under one prompt by runs that are all loaded; `views` (`views_of` each) are not made again."""
    views = views or [views_of(trained, picture) for trained in runs]
    results = [_predict(trained, some, picture.frame, prompt) for trained, some in zip(runs, views, strict=True)]
    return _combine(results, [trained.run for trained in runs], runs[0].predictor.system.prompts, picture.frame)


def segment_all(folders: list[Path], pictures: list[Picture], prompt: UserPrompt) -> Iterator[Segmentation]:
    """Many images, one run loaded at a time, so that an ensemble needs no more memory than its largest member."""
    results, records, reads = [[] for _ in pictures], [], ()
    for folder in track(folders, "predicting", len(folders)):
        trained = Trained.load(folder)
        records, reads = [*records, trained.run], trained.predictor.system.prompts
        for own, picture in zip(results, pictures, strict=True):
            own.append(_predict(trained, views_of(trained, picture), picture.frame, prompt))
        del trained  # before the next is loaded
    for own, picture in zip(results, pictures, strict=True):
        yield _combine(own, records, reads, picture.frame)


def _combine(results: list[tuple[np.ndarray, pd.Series]], records: list[dict], reads: tuple[str, ...],
             frame: tuple[int, int]) -> Segmentation:
    maps = np.stack([own for own, _ in results])  # (M, S, S)
    columns = (["size", "quadrant"] if "global_text" in reads else []) + words.columns_read(reads)
    prompts = pd.DataFrame([{"fold": run["fold"], "seed": run["seed"]} | {name: row[name] for name in columns}
                            for run, (_, row) in zip(records, results, strict=True)])
    spread = originals.at_size(maps.std(axis=0, ddof=1), *frame) if len(maps) > 1 else None
    return Segmentation(originals.at_size(maps.mean(axis=0), *frame), spread, maps, prompts, records, reads)
