"""The case table: one row per image, one schema for every dataset, validated on load."""

from pathlib import Path

import pandas as pd
import pandera.pandas as pa

from xbuslib.errors import StudyError

SHAPES = ("oval", "round", "irregular")
MARGINS = ("circumscribed", "indistinct", "angular", "microlobulated", "spiculated", "not circumscribed")
ATTRIBUTES = {"shape": "shape", "margin": "margin", "birads": "BI-RADS category"}  # column: name in sentences
BIRADS = ("0", "1", "2", "3", "4", "4a", "4b", "4c", "5", "6")
PIXEL_MM = (0.005, 1.0)  # that are accepted, of breast ultrasound
USUAL_MM = (0.03, 0.3)  # that breast probes have, about
PATHOLOGIES = ("benign", "malignant", "normal")

WORDS = {  # of pandera's checks, by how their names begin; {0}: the value, {1}: the check's argument
    "not_nullable": "is empty", "field_uniqueness": "{0!r} is there twice", "isin": "{0!r} must be one of {1}",
    "in_range": f"{{0!r}} must be from {PIXEL_MM[0]} to {PIXEL_MM[1]} mm", "no such file": "{0!r} – no such file",
    "words must": "{0!r} – words must be among " + ", ".join(MARGINS)}

# Attributes that a dataset does not give are missing (None), never invented.
SCHEMA = pa.DataFrameSchema(
    {
        "case_id": pa.Column(str, unique=True),
        "patient_id": pa.Column(str),  # folds keep a patient's images together
        "image": pa.Column(str, pa.Check(lambda p: Path(p).is_file(), element_wise=True, error="no such file")),
        "mask": pa.Column(str, pa.Check(lambda p: Path(p).is_file(), element_wise=True, error="no such file"),
                          nullable=True),  # missing in normal images
        "pixel_mm": pa.Column(float, pa.Check.in_range(*PIXEL_MM), nullable=True),
        "shape": pa.Column(str, pa.Check.isin(SHAPES), nullable=True),
        "margin": pa.Column(str, pa.Check(lambda m: set(margin_words(m)) <= set(MARGINS), element_wise=True,
                                          error=f"words must be among {', '.join(MARGINS)}"), nullable=True),
        "birads": pa.Column(str, pa.Check.isin(BIRADS), nullable=True),
        "pathology": pa.Column(str, pa.Check.isin(PATHOLOGIES)),
    },
    checks=pa.Check(lambda t: t["mask"].notna() | (t["pathology"] == "normal"), error="lesion without a mask"),
    index=pa.Index(int), strict=False,
)


def attributes_given(table: pd.DataFrame) -> list[str]:
    """The names of those attributes (ATTRIBUTES) that the table gives for at least one case."""
    return [name for column, name in ATTRIBUTES.items() if table[column].notna().any()]


def margin_words(margin: str) -> list[str]:
    """["spiculated", "indistinct"] from BLU's "not circumscribed - spiculated&indistinct"."""
    _, _, details = margin.partition(" - ")
    return [word.strip() for word in (details or margin).split("&")]


def validate(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """The table itself if it fits the schema.

    Raises StudyError that lists every fault with its case and column; `source` names the file.
    """
    if table.empty:
        raise StudyError(f"{source}: the table has no rows")
    try:
        checked = SCHEMA.validate(table.reset_index(drop=True), lazy=True)
    except pa.errors.SchemaErrors as error:
        faults = list(dict.fromkeys(_fault(row, table) for row in error.failure_cases.itertuples()))
        shown = "\n".join(f"  {fault}" for fault in faults[:20])
        more = f"\n  … and {len(faults) - 20} more" if len(faults) > 20 else ""
        raise StudyError(f"{source}: {len(faults)} fault(s) in the case table:\n{shown}{more}") from None
    text = checked.select_dtypes(exclude="number").columns
    checked[text] = checked[text].astype(object).where(checked[text].notna(), None)  # missing text is None
    return checked


def _fault(row, table: pd.DataFrame) -> str:
    if row.check == "column_in_dataframe":
        return f"column {row.failure_case} is missing"
    where = table["case_id"].iloc[int(row.index)] if pd.notna(row.index) else "table"
    where = where if pd.notna(where) else f"row {int(row.index) + 1} of the cases"
    if row.schema_context == "DataFrameSchema":  # of the whole row, listed once for each of its columns
        return f"{where}: {row.check}"
    message = next((words for start, words in WORDS.items() if row.check.startswith(start)), row.check)
    return f"{where}, {row.column}: {message.format(row.failure_case, row.check.partition('(')[2].strip('()'))}"


def lesions(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that enter the folds: normal images are negative controls and stay out."""
    return table[table["pathology"] != "normal"].reset_index(drop=True)
