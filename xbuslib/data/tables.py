"""A table that somebody has saved: separator, encoding and spelling are found out, cells stay text until they are used.

What is beyond doubt is read: commas, semicolons or tabs; UTF-8, UTF-16 or Windows-1252; decimal commas; "3.0" for 3;
"4A" for 4a; empty cells; further columns. Anything else ends in one message with row and column.
"""

import csv
import io
import re
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pandas as pd

from xbuslib.data.cases import BIRADS
from xbuslib.data.listing import hidden
from xbuslib.data.pictures import SUFFIXES
from xbuslib.errors import StudyError

SEPARATORS = (",", ";", "\t", "|")
MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
NOT_GIVEN = ("", "not applicable", "not available", "n/a", "na", "nan", "none", "null", "-", "?", "unknown")
UNSAVED = "a formula whose value was not saved"
FAULTS = ("#NULL!", "#DIV/0!", "#VALUE!", "#REF!", "#NAME?", "#NUM!", "#N/A", UNSAVED)  # Excel's words, and ours


def read(path: Path, columns: list[str]) -> pd.DataFrame:
    """The named columns of a CSV or Excel file as stripped text, None where a cell is empty; `row` is its line there.

    Headers are found whatever their case and the blanks around them. Raises StudyError if the file cannot be read, a
    column is missing or there twice, a row has more cells than the header, or a cell holds one of FAULTS.
    """
    rows = _excel(path) if path.suffix.lower() in (".xlsx", ".xls", ".xlsm") else _csv(path, columns)
    if len(rows) < 2:
        raise StudyError(f"{path} holds no rows below a header")
    (_, header), *body = rows
    places = {}
    for column in columns:
        found = [index for index, name in enumerate(header) if name.casefold() == column.casefold()]
        if len(found) > 1:
            raise StudyError(f"{path}: {len(found)} columns are called {column}")
        if found:
            places[column] = found[0]
    missing = [column for column in columns if column not in places]
    if missing:
        raise StudyError(f"{path}: missing column(s) {', '.join(missing)}; it has {', '.join(header[:30])}. Use the "
                         "published table with its own headers.")
    for line, cells in body:
        if len(cells) > len(header) and any(cells[len(header):]):
            raise StudyError(f"{path}, row {line}: {len(cells)} cells under {len(header)} headers; a cell that holds "
                             "the separator needs quotation marks")
    _refuse(f"{path}: mend or empty these cells in Excel and save the table again",
            [f"row {line}, column {column}: {cells[at]}" for line, cells in body for column, at in places.items()
             if at < len(cells) and cells[at] in FAULTS])
    content = {column: [(cells[at] if at < len(cells) else "") or None for _, cells in body]
               for column, at in places.items()}
    return pd.DataFrame({**content, "row": [line for line, _ in body]}, dtype=object)


def _csv(path: Path, columns: list[str]) -> list[tuple[int, list[str]]]:
    """(line, stripped cells) of every row that is not empty, by the separator that finds most of `columns`."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StudyError(f"cannot read {path}: {error.strerror or error}") from None
    text = _decoded(path, content)
    first = text.lstrip("\r\n").splitlines()[:1]
    stated = re.fullmatch(r"\"?sep=(.)\"?", first[0].strip("\r\n")) if first else None  # as Excel writes it
    wanted = {column.casefold() for column in columns}
    separator = stated[1] if stated else max(SEPARATORS, key=lambda mark: len(wanted & _header(text, mark)))
    rows = _rows(path, text, separator)
    return rows[1:] if stated else rows


def _header(text: str, separator: str) -> set[str]:
    """What the first row that is not empty holds, if this is the separator."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    with suppress(csv.Error):  # _rows names its place
        for cells in rows:
            if any(names := {cell.strip().casefold() for cell in cells}):
                return names
    return set()


def _rows(path: Path, text: str, separator: str) -> list[tuple[int, list[str]]]:
    lines, rows, first = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True), [], 1
    try:
        for cells in lines:
            if any(separator in cell and ("\n" in cell or "\r" in cell) for cell in cells):
                raise csv.Error("one cell holds line breaks and the separator")
            rows.append((lines.line_num, [cell.strip() for cell in cells]))
            first = lines.line_num + 1
    except csv.Error as error:
        raise StudyError(f"{path}, lines {first} to {lines.line_num}: {error}. A quotation mark that begins a cell is "
                         "open until the next one: delete it if it is a mistake, and take line breaks out of the cell "
                         "otherwise.") from None
    return [(line, cells) for line, cells in rows if any(cells)]


def _decoded(path: Path, content: bytes) -> str:
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), None)
    for name in [encoding] if encoding else ["utf-8", "cp1252", "latin-1"]:
        try:
            text = content.decode(name)
        except UnicodeError:
            continue
        if "\0" in text:
            break
        return text
    raise StudyError(f"{path} is no text table, whatever its name says; save it as CSV in UTF-8")


def _excel(path: Path) -> list[tuple[int, list[str]]]:
    try:
        values, formulas = _sheet(path, data_only=True), _sheet(path, data_only=False)
    except Exception as error:  # what a damaged archive makes its readers raise
        raise StudyError(f"cannot read the table {path}: {error}") from None
    rows = [(line, list(map(_text, *cells))) for line, cells in enumerate(zip(values, formulas, strict=True), 1)]
    return [(line, cells) for line, cells in rows if any(cells)]


def _sheet(path: Path, data_only: bool) -> list[tuple]:
    import openpyxl  # takes long, and most tables are text

    with closing(openpyxl.load_workbook(path, read_only=True, data_only=data_only)) as book:
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # those that a file states can be wrong
        return list(sheet.rows)


def _text(cell, formula) -> str:
    """The stripped text of a cell; UNSAVED for a formula without a stored value (an empty text is one)."""
    if cell.value is None:
        return UNSAVED if formula.data_type == "f" and cell.data_type == "n" else ""
    number = isinstance(cell.value, float) and cell.value.is_integer()
    return str(int(cell.value) if number else cell.value).strip()


def given(cell: str | None) -> str | None:
    """The text of a cell; None where it says that there is none."""
    return None if cell is None or cell.casefold() in NOT_GIVEN else cell


def number(path: Path, table: pd.DataFrame, column: str) -> np.ndarray:
    """(n,) float of a column of `read`; nan where nothing is given. "0,08" is 0.08.

    Raises StudyError that names row and column of everything else, such as "1,234.5".
    """
    values, faults = [], []
    for cell, row in zip(table[column], table["row"], strict=True):
        text = given(cell)
        plain = (text or "nan").replace(",", ".") if (text or "").count(",") == 1 and "." not in text else text or "nan"
        if text is None or re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", plain):
            values.append(float(plain))
        else:
            faults.append(f"row {row}, column {column}: {text!r} is no number")
    _refuse(f"{path}: write numbers as 0.08, or leave the cell empty", faults)
    return np.array(values, float)


def _refuse(advice: str, faults: list[str]) -> None:
    if faults:
        shown = faults[:20] + ([f"… and {len(faults) - 20} more"] if len(faults) > 20 else [])
        raise StudyError("\n  ".join([advice, *shown]))


def without_row(file: Path, used: Iterable[str], *folders: Path) -> list[str]:
    """A sentence for attrs["left_out"] on the folders' picture files that are not `used` by the table `file`."""
    known = {name.casefold() for name in used}  # some file systems take capitals for small letters
    left = [path for folder in folders for path in sorted(folder.iterdir())
            if path.suffix.lower() in SUFFIXES and not hidden(path.name) and str(path).casefold() not in known]
    return [f"{len(left)} picture file(s) belong to no row of {file.name} and were left out (first: "
            f"{left[0].parent.name}/{left[0].name})"] if left else []


def whole(cell: str | None) -> str | None:
    """ "3" from "3.0" or "3,0": what a spreadsheet makes of a whole number beside an empty cell."""
    return None if cell is None else re.sub(r"^(\d+)[.,]0+$", r"\1", cell)


def birads(cell: str | None) -> str | None:
    """ "4a" from "4A", "BI-RADS 4a" or " 4 a", "3" from "3.0"; other text is left for cases.validate to name."""
    text = whole(given(cell))
    if text is None:
        return None
    plain = re.sub(r"^bi-?rads:?|\s", "", text.casefold())
    return plain if plain in BIRADS else text
