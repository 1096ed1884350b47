"""A study's dataset as files again: its case table, and masks and maps at the size of the original images.

Run folders hold probabilities at `image_size`. Distances in millimetres belong to the frame that the pixel size was
published for, which is the original image.
"""

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from xbuslib import datasets, images
from xbuslib.analysis import Study
from xbuslib.config import Config
from xbuslib.errors import StudyError
from xbuslib.study import data_root


def case_table(study: Study, data: str = "") -> pd.DataFrame:
    """The case table of the study's dataset with its files, normal images included.

    data: the dataset's folder; "" for its place in XBUS_DATA, or the embedded phantom, made again if it is gone.
    Raises StudyError if the files are not there, or are not those that the runs were made with.
    """
    config, dataset = Config(**study.facts["config"]), study.facts["dataset"]
    try:
        root = data_root(dataset, data, config)
        table = datasets.load(dataset, root)
        same = images.source_fingerprint(table, config.image_size) == study.facts["dataset_fingerprint"]
    except (OSError, StudyError) as error:
        raise StudyError(f"the files of study {study.name}'s dataset ({dataset}) are needed once more, for masks at "
                         f"original resolution and for normal images: {error}") from None
    if not same:
        raise StudyError(f"{root} holds other images or masks than study {study.name} was made with; give the folder "
                         "that it was made with (papermill: -p data DIR), or run the study again on this one")
    return table


def mask(case) -> np.ndarray:
    """(H, W) bool reference mask at original resolution, the union of its files; `case`: a row of itertuples()."""
    return np.logical_or.reduce([images.read_mask(path) for path in images.mask_files(case)])


def at_size(probabilities: np.ndarray, width: int, height: int) -> np.ndarray:
    """(S, S) probabilities of a stretched frame as (height, width), bilinear; averaged where that is smaller."""
    held = torch.from_numpy(np.ascontiguousarray(probabilities, np.float32))[None, None]  # (1, 1, S, S)
    return F.interpolate(held, size=(height, width), mode="bilinear", antialias=True)[0, 0].numpy()
