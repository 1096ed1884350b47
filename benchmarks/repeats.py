"""What repeated pictures that fall on both sides of a fold do to a score: the phantom with planted repeats.

    python -m benchmarks.repeats --out DIR [--cases 90] [--repeated 45] [--iterations 400] [--folds 3]

Half of the cases are there twice, the second time as a brightened JPEG under another patient. One system is trained on
folds by patient alone, and on folds in which repeated pictures stay together.
"""

import argparse
import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from xbuslib.config import resolve
from xbuslib.data import folds, images, repeats
from xbuslib.data.cases import lesions
from xbuslib.data.catalogue import load, phantom_root
from xbuslib.runs.fold import run_fold
from xbuslib.runs.source import open_source


def plant(root: Path, cases: pd.DataFrame, repeated: int) -> Path:
    """The cases in BUSI's layout, the first `repeated` of them twice."""
    for number, case in enumerate(cases.itertuples(), 1):
        folder = root / case.pathology
        folder.mkdir(parents=True, exist_ok=True)
        image, mask = Image.fromarray(images.read_grey(case.image)), Image.fromarray(images.read_mask(case.mask))
        copies = [(number, image)]
        if number <= repeated:
            file = io.BytesIO()
            image.point(lambda v: min(255, round(1.15 * v))).save(file, "JPEG", quality=80)
            copies.append((number + 1000, Image.open(file)))
        for name, picture in copies:
            picture.save(folder / f"{case.pathology} ({name}).png")
            mask.save(folder / f"{case.pathology} ({name})_mask.png")
    return root


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--system", default="unet")
    for name, value in (("cases", 90), ("repeated", 45), ("iterations", 400), ("folds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    os.environ["XBUS_OUTPUTS"] = str(given.out / "outputs")
    cases = lesions(load("phantom", phantom_root(given.cases)))
    root = given.out / "data"
    if not root.is_dir():
        plant(root, cases, given.repeated)
    config = resolve("quick", [f"iterations={given.iterations}", f"folds={given.folds}"])
    table = lesions(load("busi", root))
    by_patient = folds.split(table, given.folds, config.folds_seed)
    lists = given.out / "by_patient"
    lists.mkdir(exist_ok=True)
    for fold in range(given.folds):
        names = by_patient.index[by_patient == fold] + ".png"
        pd.DataFrame({"Image Name": names}).to_csv(lists / f"val_fold{fold}.csv", index=False)
    pairs = repeats.within(repeats.pictures(table))
    twice = set(pairs["one"]) | set(pairs["other"])
    rows = []
    for name, given_lists in (("by patient", lists), ("repeats together", None)):
        study = name.replace(" ", "-")
        source = open_source("busi", root, given_lists, config, study)
        apart = len(folds.across(source.fold_of, pairs))
        runs = [run_fold(given.system, fold, config, source, study=study) for fold in range(given.folds)]
        parts = [pd.read_csv(run / "per_image.csv") for run in runs]
        scores = pd.concat(parts)
        dice = scores.groupby("case_id")["dice"].mean()
        known = dice.index.isin(list(twice))
        rows.append({"folds": name, "pairs": len(pairs), "pairs across folds": apart, "dice": dice.mean(),
                     "dice, repeated": dice[known].mean(), "dice, others": dice[~known].mean(), "images": len(dice),
                     "sd over folds": np.std([part["dice"].mean() for part in parts], ddof=1)})
    print(pd.DataFrame(rows).round(3).to_string(index=False))


if __name__ == "__main__":
    main()
