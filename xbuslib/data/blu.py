"""Breast-Lesions-USG (BLU) as published: 256 PNG images, their masks and one clinical table.

Pawłowska et al., Scientific Data 11:148 (2024), doi:10.7937/9WKK-Q141, CC BY 4.0. Facts about the files:
docs/protocol.md, "Data". `root` holds the unpacked archive, or the two files as downloaded.
"""

import zipfile
from pathlib import Path

import pandas as pd

from xbuslib.data import tables
from xbuslib.data.cases import validate
from xbuslib.data.listing import find, hidden
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
LARGEST = 2 << 30  # bytes that the archive may unpack to; the published one unpacks to a tenth of it
TABLES = (".xlsx", ".csv")  # of which one is read, as published or saved as text
NOT_GIVEN = ("not applicable", "not available", "")


def load(root: Path) -> pd.DataFrame:
    """Case table of the archive under `root`, one image per patient, all clinical columns kept.

    Raises StudyError when files or columns are missing or values are out of vocabulary.
    """
    table_file = clinical_table(root)
    raw = tables.read(table_file, list(COLUMNS))
    table = raw[list(COLUMNS)].rename(columns=COLUMNS)
    text = table.columns.difference(["case_number", "pixel_mm", "age", "birads"])
    table[text] = table[text].map(lambda cell: None if cell in NOT_GIVEN else cell)
    if table["image"].isna().any():
        row = raw.loc[table["image"].isna(), "row"].iloc[0]
        raise StudyError(f"{table_file}, row {row}, column Image_filename: it is empty, so no image can be found")
    numbers = tables.number(table_file, raw, "CaseID")
    table["case_number"] = numbers if pd.isna(numbers).any() else numbers.astype(int)
    table.insert(0, "case_id", table["image"].map(lambda name: Path(name).stem))
    table.insert(1, "patient_id", table["case_id"])  # 256 images of 256 patients
    table["age"] = tables.number(table_file, raw, "Age")
    table["pixel_mm"] = tables.number(table_file, raw, "Pixel_size") * 10.0  # published in cm
    table["birads"] = raw["BIRADS"].map(tables.birads)
    images = image_folder(root, table_file, list(table["image"]))
    for column in ("image", "mask"):
        table[column] = table[column].map(lambda name: None if pd.isna(name) else str(find(images, name)))
    masks = table.loc[table["pathology"] != "normal", "mask"].dropna()
    if shared := list(masks[masks.duplicated()]):
        one, other, *_ = raw.loc[masks.index[masks == shared[0]], "row"]
        raise StudyError(f"{table_file}, rows {one} and {other}, column Mask_tumor_filename: both name "
                         f"{Path(shared[0]).name}, but each lesion needs a mask of its own")
    table = validate(table, table_file.name)
    others = [str(find(images, name.strip())) for names in table["other_masks"].dropna() for name in names.split("&")]
    table.attrs["left_out"] = tables.without_row(
        table_file, [*table["image"], *table["mask"].dropna(), *others], images)
    return table


def clinical_table(root: Path) -> Path:
    """The clinical table in `root`. Raises StudyError if there is none, or several."""
    found = [path for path in sorted(root.glob("*linical*")) if path.suffix.lower() in TABLES
             and not hidden(path.name) and not path.name.startswith("~$")]  # by which Excel locks an open table
    if not found:
        raise StudyError(f"{root}: no clinical table: a .xlsx or .csv file with 'clinical' in its name, such as "
                         f"{TABLE}. xbuslib data download blu --root DIR fetches BLU; docs/how_to.md has what own data "
                         "need.")
    return _only(root, found, "clinical tables")


def image_folder(root: Path, table: Path, names: list[str]) -> Path:
    """`root` or the folder in it that holds images of these names; unpacks the downloaded archive if need be.

    Raises StudyError if there is none, or several; `table` is the file that names the images.
    """
    visible = [path for path in sorted(root.iterdir()) if not hidden(path.name)]  # not what a killed `unpack` left
    folders = [place for place in (root, *visible)
               if place.is_dir() and any(find(place, name).is_file() for name in names)]
    archives = [path for path in visible if path.suffix == ".zip"]
    if not folders and archives and not (root / IMAGES).exists():
        folders = [unpack(_only(root, archives, "archives"), root / IMAGES)]
    if not folders:
        raise StudyError(f"{root}: neither this folder nor one directly in it holds the images that {table.name} names "
                         f"(first: {names[0]})")
    return _only(root, folders, f"folders with images that {table.name} names")


def _only(root: Path, found: list[Path], what: str) -> Path:
    if len(found) > 1:
        raise StudyError(f"{root} holds {len(found)} {what}, {found[0]} and {found[1]}{' …' * (len(found) > 2)}; "
                         "which one is meant? Keep one there.")
    return found[0]


def unpack(archive: Path, folder: Path) -> Path:
    """Unpack the PNG files of the published archive into `folder`, whole or not at all.

    Raises StudyError for a damaged archive, one that unpacks to more than LARGEST bytes, and for members that would
    lie outside of the folder or share a name.
    """
    try:
        with write_folder(folder) as partial, zipfile.ZipFile(archive) as packed:
            for member in _pictures(archive, packed):
                (partial / Path(member.filename).name).write_bytes(packed.read(member))
    except (StudyError, OSError):
        raise
    except Exception as error:  # damage makes zipfile and its decompressors raise nearly anything
        raise StudyError(f"cannot unpack {archive}: {error}. Fetch it again.") from None
    return folder


def _pictures(archive: Path, packed: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    members = packed.infolist()
    for member in members:
        place = member.filename.replace("\\", "/")
        if place.startswith("/") or place[1:2] == ":" or ".." in place.split("/"):
            raise StudyError(f"{archive}: its member {member.filename!r} would lie outside of the folder; this is not "
                             "the published archive. Fetch it again.")
    if (size := sum(member.file_size for member in members)) > LARGEST:
        raise StudyError(f"{archive} unpacks to {size >> 20} MB, more than {LARGEST >> 20} MB; this is not the "
                         "published archive. Fetch it again.")
    chosen = [member for member in members
              if member.filename.lower().endswith(".png") and not hidden(Path(member.filename).name)]
    if twice := len(chosen) - len({Path(member.filename).name for member in chosen}):
        raise StudyError(f"{archive}: {twice} file name(s) are there twice; this is not the published archive. "
                         "Fetch it again.")
    return chosen
