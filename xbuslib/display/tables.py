"""Tables: one frame of numbers, written as CSV (raw), Markdown and LaTeX (booktabs, mean ± SD, best in bold).

Conventions of a frame: `<column>_sd` is shown in the cell of `<column>`; the first word of a column says which metric
it holds ("dice", "dice fold 0"); `uses_reference`, where there is one, marks rows whose prompt policy may use the
reference mask. These rows carry † and no bold: they answer another question. `fold_list`, where there is one, says
which folds a row is over, and is shown in place of their number (`folds`).
"""

import re
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import pandas as pd

from xbuslib.files import write_whole

HIGHER = {"dice", "iou", "dice_two_class", "iou_two_class", "nsd", "sensitivity"}  # is better
LOWER = {"fpr", "fnr", "fnr_two_class", "missed", "ece", "brier", "nll", "hd95", "assd", "false_positives",
         "false_percent", "false_mm2"}  # not fpr_released: 1/6 … 1/5 for any error, good or bad
HEADERS = {
    "paper_name": "system", "against_name": "compared with", "fold_list": "folds",
    "dice": "Dice", "iou": "IoU", "fpr": "FPR", "fnr": "FNR",
    "dice_two_class": "Dice, two-class", "iou_two_class": "IoU, two-class", "fpr_released": "FPR, released",
    "fnr_two_class": "FNR, two-class", "dice_printed": "printed Dice", "iou_printed": "printed IoU",
    "fpr_printed": "printed FPR", "fnr_printed": "printed FNR", "dice_two_class_printed": "printed Dice, two-class",
    "iou_two_class_printed": "printed IoU, two-class", "fnr_two_class_printed": "printed FNR, two-class",
    "ours_dice": "our Dice", "ours_iou": "our IoU", "ours_fpr": "our FPR", "ours_fnr": "our FNR",
    "printed": "printed Dice", "dice_median": "Dice, median", "dice_found": "Dice, lesions found",
    "n_in_domain": "images in the study",
    "n_target": "images there", "in_domain": "in the study",
    "at_target": "there", "scanner_a": "scanner A", "scanner_b": "scanner B",
    "missed_in_domain": "share missed in the study", "missed_target": "share missed there",
    "images_before": "images before",
    "own_images": "share of the fold's images",
    "long_side_px": "longest side (px)",
    "inside": "highest probability inside", "outside": "outside", "marked": "% of the frame marked",
    "train_images": "training images", "size_right": "size right", "size_larger": "larger", "size_smaller": "smaller",
    "none": "no lesion found",
    "location_right": "quadrant right", "dice_right": "Dice, size right", "dice_wrong": "Dice, size wrong",
    "dice_wrong_silent": "Dice, size wrong, prompt without size and location",
    "dice_drop": "drop in Dice", "iou_drop": "drop in IoU", "lfe": "LFE", "gfe": "GFE", "sfa": "SFA",
    "mean_difference": "mean difference", "low": "95 % from", "high": "to",
    "low_folds": "with folds, from", "high_folds": "to", "statistic": "W", "p_holm": "p (Holm)",
    "rank_biserial": "rank-biserial r", "ece": "ECE", "brier": "Brier", "nll": "NLL", "hd95": "HD95 (mm)",
    "assd": "ASSD (mm)", "nsd": "NSD at 1 mm", "empty": "nothing predicted", "hd95_found": "HD95 where predicted",
    "assd_found": "ASSD where predicted", "hd95_median": "HD95, median", "assd_median": "ASSD, median",
    "false_positives": "false positives per image,", "false_percent": "% of the frame", "false_mm2": "mm²",
    "any_prediction": "share with any prediction", "dice_from_rates": "Dice from FPR and FNR",
    "implied_iou": "implied lesion IoU", "least_iou": "lowest possible IoU", "in_sd": "distance in SD",
    "log_dice": "log: Dice", "log_lesion_dice": "log: implied lesion Dice", "log_one_minus_loss": "log: 1 − loss",
}
APART = "No two systems have the same folds, so their {} is not compared."  # what a sentence then says of a score
NOTE = "† The policy may take size or location from the reference mask: no candidate for bold."
LATEX = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"$<$", ">": r"$>$", "±": r"$\pm$", "−": r"$-$",
    "↓": r"$\downarrow$", "≤": r"$\le$", "≥": r"$\ge$", "×": r"$\times$", "†": r"\textdagger{}", "–": "--",
    "…": r"\ldots{}", "·": r"$\cdot$", "τ": r"$\tau$", "²": r"\textsuperscript{2}",
})


def save(frame: pd.DataFrame, folder: Path, name: str, caption: str, within: str | None = None,
         bold: bool = True, label: str = "") -> list[Path]:
    """Write <name>.csv (every column, unrounded), <name>.md and <name>.tex into `folder`; returns their paths.

    `label`, of the study, ends the caption: a file is read without the page around it.
    """
    caption = f"{caption} Study: {label}." if label else caption
    paths = [save_table(frame, folder, name)]
    for suffix, text in (("md", markdown(frame, caption, within, bold)),
                         ("tex", latex(frame, caption, name, within, bold))):
        paths.append(folder / f"{name}.{suffix}")
        with write_whole(paths[-1]) as partial:
            partial.write_text(text, encoding="utf-8")
    return paths


def save_table(data: pd.DataFrame, folder: Path, name: str) -> Path:
    """Write <name>.csv alone into `folder`, with the index where it has a name; returns its path."""
    path = folder / f"{name}.csv"
    with write_whole(path) as partial:
        data.to_csv(partial, index=any(data.index.names))
    return path


def markdown(frame: pd.DataFrame, caption: str, within: str | None = None, bold: bool = True) -> str:
    """The table as Markdown below its caption.

    The best value of a metric's column is bold, among all rows or among those of one value of `within`; equal as
    printed is equally good, and there is no best of one. Rows over other folds (`comparable`), or over fewer folds or
    images (`folds`, `n`), than others of their group, as in a partial study, take no part. ↓ marks columns in which
    lower is better.
    """
    columns, rows = _shown(frame), _cells(frame, within, bold)
    lines = ["| " + " | ".join(_header(column).replace("|", r"\|") for column in columns) + " |",
             "|" + "|".join("--:" if _numeric(frame, column) else ":--" for column in columns) + "|"]
    for row in rows:
        texts = [_literal(text) for text, _ in row]
        lines.append("| " + " | ".join(f"**{text}**" if best else text
                                       for text, (_, best) in zip(texts, row, strict=True)) + " |")
    notes = ["", NOTE] if _marked(frame).any() else []
    return "\n".join([caption, "", *(lines if rows else ["(no rows)"]), *notes]) + "\n"


def _literal(text: str) -> str:
    """A cell's text for Markdown: no bar ends it, and a name such as <script> stays a name."""
    return re.sub(r"<(?=[a-zA-Z/!?])", r"\\<", text.replace("|", r"\|"))


def folded(summary: str, *texts: str) -> str:
    """Markdown tables behind a line that opens them."""
    return "\n\n".join([f"<details><summary>{summary}</summary>", *texts, "</details>"]) + "\n"


def latex(frame: pd.DataFrame, caption: str, name: str, within: str | None = None, bold: bool = True) -> str:
    """The same as a LaTeX table labelled tab:<name>, shrunk to the line if wider; needs booktabs and graphicx."""
    columns = _shown(frame)
    groups = [None] * len(frame) if within is None else frame[within].tolist()
    body = []
    for i, row in enumerate(_cells(frame, within, bold)):
        if i and groups[i] != groups[i - 1]:
            body.append(r"\midrule")
        cells = ((text.translate(LATEX), best) for text, best in row)
        body.append(" & ".join(rf"\textbf{{{text}}}" if best else text for text, best in cells) + r" \\")
    alignment = "".join("r" if _numeric(frame, column) else "l" for column in columns)
    return "\n".join([
        r"\begin{table}", r"\centering", rf"\caption{{{caption.translate(LATEX)}}}", rf"\label{{tab:{name}}}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{{alignment}}}", r"\toprule",
        " & ".join(_header(column).translate(LATEX) for column in columns) + r" \\", r"\midrule",
        *body, r"\bottomrule", r"\end{tabular}}",
        *([rf"\par\footnotesize {NOTE.translate(LATEX)}"] if _marked(frame).any() else []), r"\end{table}"]) + "\n"


def comparable(frame: pd.DataFrame) -> np.ndarray:
    """(n,) bool: the rows over the same folds, which without a `fold_list` are all.

    Of several lists it is the longest that two rows share, or the longest if no two share one.
    """
    if "fold_list" not in frame:
        return np.ones(len(frame), bool)
    times = frame["fold_list"].value_counts()
    chosen = max(frame["fold_list"], key=lambda folds: (times[folds] > 1, folds.count(","), times[folds]), default="")
    return (frame["fold_list"] == chosen).to_numpy()


def signed(value: float, digits: int = 3) -> str:
    """ "+0.012" or "−0.012", with a minus sign; "0.000" without one."""
    rounded = round(value, digits)
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


def between(low: float, high: float) -> str:
    """ "95 % +0.010 to +0.071"; where there is no interval, that there is none."""
    return "no interval: too few patients" if pd.isna(low) else f"95 % {signed(low)} to {signed(high)}"


def ranged(values: pd.Series, form: str) -> str:
    """ "67% (UNet) to 82% (XBusNet)", of values by name (index); "67% (UNet)" of one, and where all print alike.

    form: of a number, such as ".0%". Every name that prints like the lowest or the highest is listed.
    """
    texts = values.map(lambda value: format(value, form))
    ends = dict.fromkeys(format(value, form) for value in (values.min(), values.max()))
    return " to ".join(f"{end} ({', '.join(values.index[texts == end])})" for end in ends)


def _shown(frame: pd.DataFrame) -> list[str]:
    """Columns with a place of their own: a registry name gives way to the paper's, an SD goes into its mean's cell."""
    hidden = {"uses_reference", "default", *(["system"] if "paper_name" in frame or "against_name" in frame else []),
              *(["against"] if "against_name" in frame else []), *(["folds"] if "fold_list" in frame else [])}
    return [c for c in frame.columns if c not in hidden and not (c.endswith("_sd") and c[:-3] in frame)]


def _header(column: str) -> str:
    metric, _, rest = column.partition(" ")
    text = HEADERS.get(metric, metric.replace("_", " ")) + (f" {rest}" if rest else "")
    return f"{text} ↓" if metric in LOWER else text


def _cells(frame: pd.DataFrame, within: str | None, bold: bool) -> list[list[tuple[str, bool]]]:
    """(text, is best) of every shown cell."""
    columns = {}
    for column in _shown(frame):
        spread = frame[f"{column}_sd"] if f"{column}_sd" in frame else [np.nan] * len(frame)
        texts = [_text(value, column, sd) for value, sd in zip(frame[column], spread, strict=True)]
        if not columns:
            texts = [f"{text} †" if marked else text for text, marked in zip(texts, _marked(frame), strict=True)]
        columns[column] = list(zip(texts, _best(frame, column, within) if bold else [False] * len(frame), strict=True))
    return [list(row) for row in zip(*columns.values(), strict=True)]


def _best(frame: pd.DataFrame, column: str, within: str | None) -> np.ndarray:
    """(n,) bool: the best of each group of rows that may be compared."""
    metric, best = column.partition(" ")[0], np.zeros(len(frame), bool)
    if metric not in HIGHER | LOWER:
        return best
    values = frame[column].astype(float).round(3).to_numpy()  # as printed
    groups = frame[within].to_numpy() if within else np.zeros(len(frame))
    for group in pd.unique(groups):
        inside = groups == group
        inside[inside] = comparable(frame[inside])
        whole = np.logical_and.reduce([frame[c] == frame.loc[inside, c].max() for c in ("folds", "n") if c in frame])
        candidates = np.flatnonzero(inside & ~_marked(frame) & whole & ~np.isnan(values))
        if len(candidates) > 1:
            top = values[candidates].max() if metric in HIGHER else values[candidates].min()
            best[candidates] = values[candidates] == top
    return best


def _text(value, column: str, sd: float) -> str:
    """One cell: words as they are, counts whole, p and other numbers to three places; – where there is none."""
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return str(value)
    if value is None or pd.isna(value):
        return "–"
    if not isinstance(value, Real):
        return HEADERS.get(value, value) if column == "metric" else str(value)
    if column in ("p", "p_holm"):
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    if column == "statistic":  # a multiple of 0.5, which may be large
        return f"{value:.1f}".removesuffix(".0")
    if column.partition(" ")[0] in ("missed", "empty"):
        return f"{value:g}"
    text = f"{value:.3f}".replace("-", "−") if round(value, 3) else "0.000"
    return text if pd.isna(sd) else f"{text} ± {sd:.3f}"


def _numeric(frame: pd.DataFrame, column: str) -> bool:
    return pd.api.types.is_numeric_dtype(frame[column]) and not pd.api.types.is_bool_dtype(frame[column])


def _marked(frame: pd.DataFrame) -> np.ndarray:
    """(n,) bool: rows whose prompt policy may use the reference mask."""
    return frame["uses_reference"].to_numpy(bool) if "uses_reference" in frame else np.zeros(len(frame), bool)
