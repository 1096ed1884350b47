"""Kinds of input that a user can give, drawn by hypothesis or made by changing bytes of good files, and what must hold.

A check gets what was drawn and a folder of its own. It returns for a result, raises StudyError for a refusal, and
fails by AssertionError where a case was dropped in silence; any other exception is a defect of the library.
"""

import io
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage

from xbuslib import config
from xbuslib.data import busbra, folds, images, masks, pictures, tables
from xbuslib.errors import StudyError
from xbuslib.evaluation.scoring import score_folders
from xbuslib.lesion import predict, reading
from xbuslib.workflow import notebooks, request

SIDE = 36  # pixels of the pictures: small, so that many can be read
LESION = np.zeros((SIDE, SIDE), bool)
LESION[10:25, 8:20] = True
SPECKLE = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE)).astype(np.uint8)

TEXT = st.text(st.characters(blacklist_categories=("Cs",)), max_size=12)
NASTY = st.sampled_from(
    [
        "",
        " ",
        "nan",
        "NaN",
        "inf",
        "-1",
        "1e999",
        "0,08",
        "1,234.5",
        "=1+1",
        "'",
        '"',
        '""',
        "\x00",
        "\t",
        "\n",
        "\r",
        "é",
        "\ufeff",
        "٣",
        "½",
        "None",
        "null",
        "true",
        "[]",
        "{}",
        "../a",
        "<script>",
        "case",
    ]
)
CELL = st.one_of(TEXT, NASTY, st.integers().map(str), st.floats().map(str))


def saved(pixels: np.ndarray, kind: str, mode: str | None = None, **options: object) -> bytes:
    """A picture file in memory."""
    content, image = io.BytesIO(), Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(content, kind, **options)
    return content.getvalue()


def dicom_file() -> bytes:
    """A small grey DICOM ultrasound file with a calibrated region and a window."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    data = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    data.Modality, data.Rows, data.Columns, data.SamplesPerPixel = "US", SIDE, SIDE, 1
    data.PhotometricInterpretation, data.BitsAllocated, data.BitsStored, data.HighBit = "MONOCHROME2", 8, 8, 7
    data.PixelRepresentation, data.NumberOfFrames, data.PixelData = 0, 1, SPECKLE.tobytes()
    data.WindowCenter, data.WindowWidth, data.PixelSpacing, data.PatientName = 120, 200, [0.08, 0.08], "A^B"
    region = Dataset()
    region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
    region.PhysicalDeltaX = region.PhysicalDeltaY = 0.008
    region.RegionLocationMinX0 = region.RegionLocationMinY0 = 0
    region.RegionLocationMaxX1 = region.RegionLocationMaxY1 = SIDE - 1
    data.SequenceOfUltrasoundRegions = [region]
    content = io.BytesIO()
    pydicom.dcmwrite(content, data, enforce_file_format=True)
    return content.getvalue()


GREY = LESION.astype(np.uint8) * 255
FILES = {
    "png": [
        saved(GREY, "PNG"),
        saved(SPECKLE, "PNG"),
        saved(GREY, "PNG", "1"),
        saved(GREY, "PNG", "P"),
        saved(GREY, "PNG", "RGBA"),
        saved(GREY, "PNG", "LA"),
        saved(GREY.astype(np.uint16) * 257, "PNG"),
    ],
    "jpg": [saved(SPECKLE, "JPEG"), saved(GREY, "JPEG", "RGB"), saved(GREY, "JPEG", "CMYK")],
    "bmp": [saved(GREY, "BMP"), saved(SPECKLE, "BMP", "RGB")],
    "gif": [saved(GREY, "GIF"), saved(SPECKLE, "GIF", save_all=True, append_images=[Image.fromarray(GREY)])],
    "tif": [
        saved(GREY, "TIFF"),
        saved(SPECKLE, "TIFF", compression="tiff_lzw"),
        saved(LESION.astype(np.float32), "TIFF"),
        saved(SPECKLE, "TIFF", "RGB", compression="tiff_deflate"),
    ],
}
DICOM = dicom_file()


def mutated(content: bytes, seed: int) -> bytes:
    """The bytes with some of them changed, left out, doubled, swapped, or cut off, as `seed` says."""
    draw, changed = random.Random(seed), bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        at = draw.randrange(min(len(changed), draw.choice((64, 400, 1 << 30))) or 1)
        way = draw.randrange(7)
        if way == 0:
            changed[at : at + 1] = bytes([draw.randrange(256)])
        elif way == 1:
            changed[at : at + 1] = bytes([changed[at] ^ 1 << draw.randrange(8)]) if at < len(changed) else b""
        elif way == 2:
            del changed[at : at + draw.randrange(1, 9)]
        elif way == 3:
            changed[at:at] = changed[at : at + draw.randrange(1, 9)]
        elif way == 4:
            changed[at : at + 4] = draw.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\0\x20\0"))
        elif way == 5:
            other = draw.randrange(len(changed) or 1)
            changed[at : at + 4], changed[other : other + 4] = changed[other : other + 4], changed[at : at + 4]
        elif draw.random() < 0.3:
            del changed[at:]
    return bytes(changed)


SEED = st.integers(0, 2**40)
PICTURE = st.tuples(st.sampled_from(sorted(FILES)), st.integers(0, 9), SEED).map(
    lambda drawn: (drawn[0], mutated(FILES[drawn[0]][drawn[1] % len(FILES[drawn[0]])], drawn[2]))
)


def read_picture(drawn: tuple[str, bytes], folder: Path) -> None:
    """A changed picture is grey values of a size, or refused by name."""
    grey = read_changed(pictures.decode, "picture", drawn, folder).grey
    assert grey.dtype == np.uint8 and grey.ndim == 2


def read_mask(drawn: tuple[str, bytes], folder: Path) -> None:
    """A changed mask is a lesion of its size, or refused by name."""
    lesion = read_changed(masks.read, "mask", drawn, folder).pixels
    assert lesion.dtype == bool and lesion.ndim == 2


def read_changed(reader: Callable[[Path], object], name: str, drawn: tuple[str, bytes], folder: Path) -> object:
    """What `reader` makes of the bytes `drawn`, a file of that suffix; a refusal has to name the file."""
    path = folder / f"{name}.{drawn[0]}"
    path.write_bytes(drawn[1])
    try:
        return reader(path)
    except StudyError as error:
        assert f"{name}." in str(error), "a refusal that does not name the file"
        raise


def read_dicom(seed: int, folder: Path) -> None:
    """A changed DICOM file is a picture, or refused by name."""
    found = read_changed(reading.read, "dicom", ("dcm", mutated(DICOM, seed)), folder)
    assert found.grey.dtype == np.uint8 and found.grey.ndim == 2
    reading.with_lesion(found, np.ones(found.grey.shape, bool))


def predict_pictures(drawn: list[tuple[str, bytes]], folder: Path) -> None:
    """Of several pictures, each is read or named: none is dropped."""
    paths = []
    for number, (suffix, content) in enumerate(drawn):
        paths.append(folder / f"p{number}.{suffix}")
        paths[-1].write_bytes(content)
    read, faults = predict._read(paths, None, None, "", False)
    named = [path for path in paths if any(str(path) in fault for fault in faults)]
    assert len(read) + len(named) == len(paths) and len(faults) == len(named)


def score_masks(drawn: list[tuple[str, bytes]], folder: Path) -> None:
    """Every reference is scored, or every mask that cannot be is named."""
    for kind in ("r", "p"):
        place = folder / kind
        place.mkdir(exist_ok=True)
        for old in place.iterdir():
            old.unlink()
        for number, (suffix, content) in enumerate(drawn):
            good = (number + (kind == "r")) % 2
            (place / f"c{number}.{'png' if good else suffix}").write_bytes(FILES["png"][0] if good else content)
    bad = []
    for number, (suffix, _) in enumerate(drawn):
        name = f"c{number}.{suffix}"
        try:
            if masks.read(folder / ("r" if number % 2 else "p") / name).pixels.shape != LESION.shape:
                bad.append(f"c{number}.")
        except StudyError:
            bad.append(f"c{number}.")
    try:
        found = score_folders(folder / "r", folder / "p", folder / "scores.csv")
    except StudyError as error:
        assert all(name in str(error) for name in bad), "a mask that cannot be scored is not named"
        raise
    assert len(found) == len(drawn) and not bad, "a mask was scored that cannot be read by itself, or none was"


def mostly(good: list[str], other: st.SearchStrategy = CELL) -> st.SearchStrategy:
    """One of `good` nine times in ten, so that whole tables are good often enough."""
    return st.integers(0, 9).flatmap(lambda n: other if n == 9 else st.sampled_from(good))


def table_row(number: int) -> st.SearchStrategy:
    """A row of BUS-BRA's table: ID, patient, pathology, BI-RADS."""
    return st.tuples(
        mostly([f"bus_000{number}-l"]),
        mostly(["1", "2", "3.0"]),
        mostly(["benign", "malignant", "Benign"]),
        mostly(["2", "3", "4a", "4A", "5.0", ""]),
    )


TABLE_ROWS = st.integers(0, 3).flatmap(lambda n: st.tuples(*map(table_row, range(1, n + 1)))).map(list)
SPELLING = st.tuples(
    st.sampled_from([",", ";", "\t", "|"]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    st.booleans(),
    st.none() | st.none() | st.integers(0, 30),
)
HEADER = ["ID", "Case", "Histology", "Pathology", "BIRADS", "Device", "Side"]


def read_table(drawn: tuple[list, tuple], folder: Path) -> None:
    """As many cases as rows, or a refusal; values are those of the cells."""
    rows, (separator, encoding, quoted, cut) = drawn
    for part, prefix in (("Images", "bus"), ("Masks", "mask")):
        if not (folder / part).is_dir():
            (folder / part).mkdir()
            for name in ("0001-l", "0002-l", "0003-l"):
                (folder / part / f"{prefix}_{name}.png").write_bytes(FILES["png"][0])
    lines = [separator.join(HEADER)]
    for case, patient, pathology, birads in rows:
        cells = [case, patient, "x", pathology, birads, "GE", "left"]
        lines.append(separator.join('"' + cell.replace('"', '""') + '"' if quoted else cell for cell in cells))
    content = "\n".join(lines).encode(encoding, "replace")
    (folder / "bus_data.csv").write_bytes(content[:-cut] if cut else content)
    found = busbra.load(folder)
    if quoted and not cut:  # otherwise cells may hold separators, and the rows are others
        assert len(found) == len(rows), f"{len(rows)} rows in, {len(found)} cases out"


def read_cells(drawn: tuple[list, tuple], folder: Path) -> None:
    """Any table of text: its columns are found, and numbers are numbers, or it is refused."""
    rows, (separator, encoding, _, cut) = drawn
    content = ("\n".join(separator.join(row) for row in [("ID", "Size", "C", "BIRADS"), *rows])).encode(
        encoding, "replace"
    )
    path = folder / "t.csv"
    path.write_bytes(content[:-cut] if cut else content)
    table = tables.read(path, ["ID", "Size", "BIRADS"])
    table["BIRADS"].map(tables.birads)
    assert len(tables.number(path, table, "Size")) == len(table)


CASES = st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["benign", "malignant"])), max_size=25)


def split_folds(drawn: tuple[list, int, int], folder: Path) -> None:
    """Every case has one fold, patients are not parted, or a refusal."""
    cases, k, seed = drawn
    table = pd.DataFrame(
        {
            "case_id": [f"c{i}" for i in range(len(cases))],
            "patient_id": [str(p) for p, _ in cases],
            "pathology": [kind for _, kind in cases],
        },
        dtype=object,
    )
    found = folds.split(table, k, seed)
    assert list(found.index) == list(table["case_id"]) and found.between(0, k - 1).all()
    assert (found.groupby(table.set_index("case_id")["patient_id"]).nunique() == 1).all()


def lists_of(partition: list[int]) -> dict[str, list[str]]:
    """The lists that put case number i into fold partition[i]."""
    return {
        f"val_fold{fold}.csv": [f"c{i}.png" for i, own in enumerate(partition) if own == fold]
        for fold in sorted(set(partition))
    }


LISTS = st.tuples(
    st.lists(st.integers(0, 1), min_size=4, max_size=4).map(lists_of),
    st.just({})
    | st.dictionaries(
        st.sampled_from(
            ["val_fold0.csv", "val_fold1.csv", "val_fold.csv", "val_foldx.csv", "val_fold01.csv", "train_fold0.csv"]
        ),
        st.lists(st.sampled_from(["c0", "c1.png", "c2", "c3", "c9", ""]) | CELL, max_size=5),
        max_size=2,
    ),
).map(lambda parts: parts[0] | parts[1])


def read_folds(drawn: dict[str, list[str]], folder: Path) -> None:
    """Lists of folds cover every case once, or are refused."""
    for old in folder.glob("*.csv"):
        old.unlink()
    for name, cases in drawn.items():
        (folder / name).write_text("\n".join(["Image Name", *cases]), encoding="utf-8")
    table = pd.DataFrame({"case_id": [f"c{i}" for i in range(4)]})
    found = folds.read(folder, table)
    assert (found >= 0).all() and len(found) == 4


GOOD = st.sampled_from(
    ["iterations=400", "batch_size=4", "amp=false", "threshold=0.4", "learning_rate=1e-3", "folds=3"]
)
SETTING = st.sampled_from([*config.Config.model_fields, "iteration", "__class__", "profile ", ""]) | TEXT
VALUE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    TEXT,
    NASTY,
    st.lists(st.integers(), max_size=2),
    st.dictionaries(TEXT, st.integers(), max_size=1),
)


def resolve_config(drawn: tuple[str, object], folder: Path) -> None:
    """Settings as flags (text) or as a dict: a configuration within its ranges, or a refusal."""
    profile, given = drawn
    found = config.resolve(profile, given)
    assert (
        32 <= found.image_size <= 2048 and found.image_size % 32 == 0 and 0 < found.threshold < 1 and found.folds >= 2
    )


SETTINGS = st.tuples(
    mostly(list(config.PROFILES), TEXT),
    GOOD.map(lambda one: [one])
    | st.one_of(
        st.dictionaries(SETTING, VALUE, max_size=3), st.lists(st.tuples(SETTING, CELL).map("=".join) | TEXT, max_size=3)
    ),
)
KEY = st.sampled_from([*request.Request.model_fields, "datset"]) | TEXT
ENTRY = st.one_of(
    VALUE,
    st.sampled_from(["phantom", "blu", "busi", "smoke", "quick", "xbusnet", "all", "0-2", "1-0", "0-999999999"]),
    st.dictionaries(SETTING, VALUE, max_size=2),
    st.lists(TEXT | st.sampled_from(["unet"]), max_size=2),
)
FAIR = st.fixed_dictionaries(
    {},
    optional={
        "dataset": st.sampled_from(["phantom", "busi"]),
        "profile": st.sampled_from(list(config.PROFILES)),
        "study": TEXT,
        "systems": st.sampled_from(["all", "unet", "unet, xbusnet"]),
        "seeds": st.sampled_from([0, "0-2", [1, 2], [], "2-0"]),
        "folds": st.sampled_from(["0,1", 0, [1], [], "1-0"]),
        "jobs": st.integers(0, 4),
        "set": st.just({"iterations": 4}),
    },
)
STUDY_FILE = st.one_of(
    FAIR.map(json.dumps),
    st.dictionaries(KEY, ENTRY, max_size=4).map(lambda d: json.dumps(d)),
    st.dictionaries(KEY, CELL, max_size=4).map(lambda d: "\n".join(f"{k}: {v}" for k, v in d.items())),
    st.text(max_size=60),
)


def read_study_file(text: str, folder: Path) -> None:
    """A study file is a request of known systems and a known dataset, or refused by its name."""
    path = folder / "study.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    found = request.request({}, path)
    assert found.systems and all(isinstance(seed, int) for seed in found.seeds)
    request.write(found, path)
    assert request.request({}, path) == found.model_copy(update={"study": found.name})


PARAMETERS = st.just(["system=unet", "fold=1"]) | st.lists(
    st.tuples(st.sampled_from(["system", "fold", "sytem", "study"]) | TEXT, CELL).map("=".join) | TEXT, max_size=4
)
KNOWN = {"system": {"help": "a name"}, "fold": {"help": None}, "study": {}}


def notebook_parameters(drawn: list[str], folder: Path) -> None:
    """Parameters of a notebook are those that it has, or refused."""
    given = config.parse_overrides(drawn)
    notebooks.check_parameters("04_train_fold", given, KNOWN)
    assert set(given) <= set(KNOWN)


NOTEBOOK = json.dumps(
    {
        "cells": [
            {
                "cell_type": "code",
                "metadata": {"tags": ["parameters"]},
                "source": ["study: str = 'a'  # name\n", "fold: int = 0"],
            }
        ]
    }
).encode()


def parameters_cell(seed: int, folder: Path) -> None:
    """The parameters cell of a changed notebook is read, or refused."""
    path = folder / "05_mine.ipynb"
    path.write_bytes(mutated(NOTEBOOK, seed))
    names, tags = notebooks._parameters_cell(path)
    assert all(isinstance(name, str) for name in names) and isinstance(tags, list)


def prepare_images(drawn: list[tuple[str, bytes]], folder: Path) -> None:
    """Of a dataset's images, all are decoded, or those that cannot be are named, each of them."""
    rows, bad = [], []
    for number, (suffix, content) in enumerate(drawn):
        place = folder / f"i{number}.{suffix}"
        place.write_bytes(content)
        (folder / "mask.png").write_bytes(FILES["png"][0])
        rows.append(
            {"case_id": f"case{number}", "image": str(place), "mask": str(folder / "mask.png"), "pathology": "benign"}
        )
        try:
            if pictures.decode(place).grey.shape != LESION.shape:
                bad.append(f"case{number}")
        except StudyError:
            bad.append(f"case{number}")
    try:
        found = images.prepare(pd.DataFrame(rows), 32, folder / f"prepared_{random.random()}")
    except StudyError as error:
        assert all(name in str(error) for name in bad), f"{bad} not all named: {error}"
        raise
    assert list(found.case_ids) == [row["case_id"] for row in rows] and not bad


KINDS = {  # what is given: how it is drawn, what must hold, its share of a long run
    "pictures": (PICTURE, read_picture, 8),
    "masks": (PICTURE, read_mask, 8),
    "DICOM files": (SEED, read_dicom, 8),
    "pictures for predict": (st.lists(PICTURE, min_size=1, max_size=4), predict_pictures, 2),
    "folders of masks": (st.lists(PICTURE, min_size=1, max_size=4), score_masks, 2),
    "images of a dataset": (st.lists(PICTURE, min_size=1, max_size=3), prepare_images, 1),
    "tables of a dataset": (st.tuples(TABLE_ROWS, SPELLING), read_table, 4),
    "tables of text": (st.tuples(st.lists(st.tuples(CELL, CELL, CELL, CELL), max_size=6), SPELLING), read_cells, 4),
    "folds": (st.tuples(CASES, st.integers(2, 6), st.integers(0, 3)), split_folds, 1),
    "lists of folds": (LISTS, read_folds, 2),
    "settings": (SETTINGS, resolve_config, 4),
    "study files": (STUDY_FILE, read_study_file, 4),
    "notebook parameters": (PARAMETERS, notebook_parameters, 2),
    "parameters cells": (SEED, parameters_cell, 2),
}
