"""Breast-Lesions-USG (BLU) as published: 256 PNG images, their masks and one clinical table.

Pawłowska et al., Scientific Data 11:148 (2024), doi:10.7937/9WKK-Q141, CC BY 4.0. Facts about the files:
docs/protocol.md, "Data". `root` holds the unpacked archive, or the two files as downloaded.
"""

import zipfile
from pathlib import Path

import pandas as pd

from xbuslib.data.cases import validate
from xbuslib.errors import StudyError
from xbuslib.files import write_folder

IMAGES = "BrEaST-Lesions_USG-images_and_masks"
TABLE = "BrEaST-Lesions-USG-clinical-data-Dec-15-2023.xlsx"
ADDRESS = "https://www.cancerimagingarchive.net/wp-content/uploads/"
ARCHIVE = "BrEaST-Lesions_USG-images_and_masks-Dec-15-2023.zip"

# Column of the published table: column of the case table.
COLUMNS = {
    "CaseID": "case_number", "Image_filename": "image", "Mask_tumor_filename": "mask",
    "Mask_other_filename": "other_masks", "Pixel_size": "pixel_mm", "Age": "age",
    "Tissue_composition": "tissue", "Signs": "signs", "Symptoms": "symptoms", "Shape": "shape",
    "Margin": "margin", "Echogenicity": "echogenicity", "Posterior_features": "posterior_features",
    "Halo": "halo", "Calcifications": "calcifications", "Skin_thickening": "skin_thickening",
    "Interpretation": "interpretation", "BIRADS": "birads", "Verification": "verification",
    "Diagnosis": "diagnosis", "Classification": "pathology",
}
NOT_GIVEN = ("not applicable", "not available", "")


def load(root: Path) -> pd.DataFrame:
    """Case table of the archive under `root`, one image per patient, all clinical columns kept.

    Raises StudyError when files or columns are missing or values are out of vocabulary.
    """
    images, table_file = locate(root)
    try:
        raw = pd.read_excel(table_file, dtype={"BIRADS": str})
    except Exception as error:
        raise StudyError(f"cannot read the clinical table {table_file}: {error}") from None
    missing = [column for column in COLUMNS if column not in raw.columns]
    if missing:
        raise StudyError(f"{table_file}: missing column(s) {', '.join(missing)}; "
                         f"the published table has {len(COLUMNS)} columns, use it unchanged")
    table = raw[list(COLUMNS)].rename(columns=COLUMNS)
    text = table.columns.difference(["case_number", "pixel_mm", "age"])
    table[text] = table[text].map(lambda v: None if pd.isna(v) or str(v).strip() in NOT_GIVEN else str(v).strip())
    table.insert(0, "case_id", table["image"].map(lambda name: Path(str(name)).stem))
    table.insert(1, "patient_id", table["case_id"])  # 256 images of 256 patients
    table["age"] = pd.to_numeric(table["age"], errors="coerce")
    table["pixel_mm"] = pd.to_numeric(table["pixel_mm"], errors="coerce").astype(float) * 10.0  # published in cm
    for column in ("image", "mask"):
        table[column] = table[column].map(lambda name: None if pd.isna(name) else str(images / name))
    return validate(table, table_file.name)


def locate(root: Path) -> tuple[Path, Path]:
    """(image folder, clinical table) under `root`; unpacks the downloaded archive beside it if need be."""
    tables = sorted(root.glob("*linical*.xlsx"))
    if not tables:
        raise StudyError(f"{root}: no clinical table (expected {TABLE}); "
                         "fetch the dataset with: xbuslib data download blu --root DIR")
    folders = [place for place in (root, *sorted(root.iterdir())) if place.is_dir() and any(place.glob("case*.png"))]
    if not folders and sorted(root.glob("*.zip")):
        folders = [unpack(sorted(root.glob("*.zip"))[0], root / IMAGES)]
    if not folders:
        raise StudyError(f"{root}: no folder with case*.png images (expected {IMAGES})")
    return folders[0], tables[0]


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack the PNG files of the published archive into `folder`, whole or not at all."""
    try:
        with write_folder(folder) as partial, zipfile.ZipFile(archive) as packed:
            for member in packed.namelist():
                if member.endswith(".png"):
                    (partial / Path(member).name).write_bytes(packed.read(member))
    except zipfile.BadZipFile as error:
        raise StudyError(f"cannot unpack {archive}: {error}. Fetch it again.") from None
    return folder
