"""BUS-BRA as published: one table, folders Images and Masks; several images of one patient.

Gómez-Flores et al., Medical Physics 51 (2024): 1875 images of 1064 patients (1268 benign, 607 malignant images), from
four devices. BI-RADS is given; shape, margin and pixel size are not.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from xbuslib.data import tables
from xbuslib.data.cases import validate
from xbuslib.data.listing import find
from xbuslib.errors import StudyError

TABLE = "bus_data.csv"
COLUMNS = {"ID": "case_id", "Case": "patient_id", "Histology": "histology", "Pathology": "pathology",
           "BIRADS": "birads", "Device": "device", "Side": "side"}


def load(root: Path) -> pd.DataFrame:
    """Case table of the images under `root` that the published table names.

    Raises StudyError when the table or a column is missing, or an image or mask is not there.
    """
    file = next((place for place in (root / TABLE, *sorted(root.glob(f"*/{TABLE}"))) if place.is_file()), None)
    if file is None:
        raise StudyError(f"{root}: no {TABLE}; unpack the published archive there")
    raw = tables.read(file, list(COLUMNS))
    table = raw[list(COLUMNS)].rename(columns=COLUMNS)
    images, masks = file.parent / "Images", file.parent / "Masks"
    for row, name in zip(raw["row"], table["case_id"], strict=True):
        if name is None:
            raise StudyError(f"{file}, row {row}, column ID: it is empty, so no image can be found for it")
    table["image"] = [str(find(images, f"{name}.png")) for name in table["case_id"]]
    table["mask"] = [str(find(masks, f"{name.replace('bus_', 'mask_', 1)}.png")) for name in table["case_id"]]
    table["patient_id"] = table["patient_id"].map(tables.whole)
    table["pathology"] = table["pathology"].str.lower()
    table["birads"] = raw["BIRADS"].map(tables.birads)
    table = table.assign(pixel_mm=np.nan, shape=None, margin=None)
    table = validate(table, file.name)
    table.attrs["left_out"] = tables.without_row(file, [*table["image"], *table["mask"]], images, masks)
    return table
