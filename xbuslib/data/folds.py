"""Cross-validation folds: five, stratified by class, or the authors' released lists.

Cases of one patient, and repeated pictures, share a fold where the folds are made here.
"""

import hashlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from xbuslib.data import tables
from xbuslib.errors import StudyError


def split(cases: pd.DataFrame, folds: int = 5, seed: int = 0, groups: pd.Series | None = None) -> pd.Series:
    """Validation fold (0 … folds-1) of every case, indexed by case_id (Section 2.3).

    Cases of one patient, or of one of `groups` (repeats.groups), share a fold; benign and malignant are spread evenly.
    """
    together = cases["patient_id"] if groups is None else groups
    if together.nunique() < folds:
        raise StudyError(f"{together.nunique()} patients cannot fill {folds} folds")
    if (largest := cases["pathology"].value_counts().max()) < folds:
        raise StudyError(f"{largest} cases of the more frequent class cannot fill {folds} folds; ask for fewer")
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    assigned = pd.Series(-1, index=cases["case_id"], name="fold")
    for fold, (_, val) in enumerate(splitter.split(cases, cases["pathology"], together)):
        assigned.iloc[val] = fold
    return assigned


def read(folder: Path, cases: pd.DataFrame) -> pd.Series:
    """The same from lists val_fold0.csv … of a folder, with a column "Image Name", as the authors released them.

    Raises StudyError unless the lists partition the cases and each training list is the rest.
    """
    numbers = {path: path.stem.removeprefix("val_fold") for path in Path(folder).glob("val_fold*.csv")}
    if strange := sorted(path.name for path, number in numbers.items() if not re.fullmatch(r"[0-9]{1,4}", number)):
        raise StudyError(f"{folder}: {strange[0]} has no fold's number; the lists are val_fold0.csv, val_fold1.csv …")
    lists = sorted(numbers, key=lambda path: int(numbers[path]))
    if not lists:
        raise StudyError(f"{folder}: no val_fold0.csv … to read the folds from")
    if [int(numbers[path]) for path in lists] != list(range(len(lists))):
        raise StudyError(f"{folder}: the lists are numbered {', '.join(numbers[path] for path in lists)}; folds are "
                         "counted from 0, without a gap: val_fold0.csv, val_fold1.csv …")
    assigned = pd.Series(-1, index=cases["case_id"], name="fold")
    for fold, path in enumerate(lists):
        names = _names(path)
        unknown, twice = names.difference(assigned.index), names[assigned.reindex(names).fillna(-1) >= 0]
        if len(unknown) or len(twice):
            raise StudyError(f"{path}: " + "; ".join(
                [f"case {name} is not in the dataset" for name in unknown[:3]]
                + [f"case {name} is in two folds" for name in twice[:3]]))
        assigned[names] = fold
        train = path.with_name(path.name.replace("val_", "train_"))
        if train.is_file() and set(_names(train)) != set(assigned.index) - set(names):
            raise StudyError(f"{train} is not the rest of {path.name}")
    if (assigned < 0).any():
        raise StudyError(f"{folder}: {(assigned < 0).sum()} case(s) are in no fold "
                         f"(first: {assigned.index[assigned < 0][0]})")
    return assigned


def subset(cases: pd.DataFrame, n: int | None) -> pd.DataFrame:
    """`n` of the cases by one fixed order, so that fewer are a subset of more; all for None.

    Raises StudyError if there are fewer.
    """
    if n is None:
        return cases
    if n > len(cases):
        raise StudyError(f"train_images={n}, but there are {len(cases)} training images")
    drawn = np.random.default_rng(0).permutation(len(cases))[:n]
    return cases.iloc[np.sort(drawn)].reset_index(drop=True)


def across(assigned: pd.Series, pairs: pd.DataFrame) -> pd.DataFrame:
    """The pairs of repeated pictures (repeats.pairs) whose two cases are in different folds."""
    return pairs[assigned[pairs["one"]].to_numpy() != assigned[pairs["other"]].to_numpy()]


def checksum(assigned: pd.Series) -> str:
    """First 12 hex digits of SHA-256 over "case fold" lines: equal checksums, equal folds."""
    lines = "\n".join(f"{case} {fold}" for case, fold in sorted(assigned.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:12]


def _names(path: Path) -> pd.Index:
    names = tables.read(path, ["Image Name"])["Image Name"]
    return pd.Index(names.str.replace(r"\.png$", "", case=False, regex=True))
