"""Datasets by name: each loader takes a root folder and returns the case table of cases.SCHEMA."""

from pathlib import Path

import pandas as pd

from xbuslib.datasets import blu, busbra, busi
from xbuslib.errors import StudyError

# The phantom is written in BLU's own layout, so one loader reads both.
LOADERS = {"phantom": blu.load, "blu": blu.load, "busi": busi.load, "busbra": busbra.load}


def load(name: str, root: Path | str) -> pd.DataFrame:
    """Case table of dataset `name` found under `root`.

    Raises StudyError for an unknown name, a missing folder or a faulty table.
    """
    if name not in LOADERS:
        raise StudyError(f"unknown dataset {name!r}; the datasets are {', '.join(LOADERS)}")
    if not Path(root).is_dir():
        raise StudyError(f"no folder {root} for dataset {name}; give its place with --data")
    return LOADERS[name](Path(root))
