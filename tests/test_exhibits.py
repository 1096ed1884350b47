"""Tables 1 to 4 have the paper's rows, columns and order, and our numbers; the sentences say what the numbers say."""

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from xbuslib.analyses.performance import exhibits, paper_tables, printed, sentences, small
from xbuslib.display import tables


def header(frame: pd.DataFrame, **options) -> list[str]:
    lines = tables.markdown(frame, "c", **options).splitlines()
    return [cell.strip() for cell in lines[2].strip("|").split("|")]


def test_table_1_has_the_papers_columns_and_order(smoke_study):
    table = exhibits.table_1(smoke_study)
    assert "seen_before" not in table and not smoke_study.seen_before  # no run started from another
    assert header(table) == ["system", "Dice", "IoU", "FPR ↓", "FNR ↓", "printed Dice"]
    assert list(table["paper_name"]) == ["UNet", "U-ResNet", "BUSSAM", "XBusNet"]  # those of the smoke study
    row = table.set_index("system").loc["xbusnet"]
    own = smoke_study.default[smoke_study.default["system"] == "xbusnet"]
    folds = own.groupby("fold")["dice"].mean()
    assert row["dice"] == pytest.approx(folds.mean()) and row["dice_sd"] == pytest.approx(folds.std())
    two_class = own.groupby("fold")["dice_two_class"].mean().mean()
    assert row["printed"] == f"0.877, two-class (ours {two_class:.3f})"
    assert table.set_index("system").loc["unet", "printed"] == "0.604"


def test_table_2_pairs_dice_and_iou_in_each_bin(smoke_study):
    table = exhibits.table_2(smoke_study)
    assert header(table) == ["system", "Dice ≤ 110 px", "IoU ≤ 110 px", "Dice 111–250 px", "IoU 111–250 px",
                             "Dice > 250 px", "IoU > 250 px"]
    sized = smoke_study.default.merge(smoke_study.cases[["case_id", "long_side_px"]], on="case_id")
    middle = sized[(sized["system"] == "unet") & sized["long_side_px"].between(111, 250)]
    if len(middle):
        assert table.set_index("system").loc["unet", "iou 111–250 px"] == pytest.approx(middle["iou"].mean())


def test_table_3_is_xbusnet_by_fold_and_its_mean(smoke_study):
    table = exhibits.table_3(smoke_study)
    assert header(table, bold=False) == ["fold", "Dice", "IoU", "FPR ↓", "FNR ↓"]
    assert list(table["fold"]) == ["0", "1", "Mean"]
    assert table["dice"].iloc[-1] == pytest.approx(table["dice"].iloc[:2].mean())


def test_table_4_is_in_the_papers_order(smoke_study):
    """Yes Yes Yes; No Yes No; Yes No Yes; Yes Yes No: of these the smoke study lacks the second."""
    table = exhibits.table_4(smoke_study)
    assert header(table) == ["LFE", "GFE", "SFA", "Dice", "IoU"]
    assert table[["LFE", "GFE", "SFA"]].to_numpy().tolist() == [["Yes", "Yes", "Yes"], ["Yes", "No", "Yes"],
                                                              ["Yes", "Yes", "No"]]
    printed_order = [tuple(row) for row in printed.table_4()[["lfe", "gfe", "sfa"]].to_numpy().tolist()]
    assert [tuple(cell == "Yes" for cell in row) for row in table[["LFE", "GFE", "SFA"]].to_numpy()] == \
        [row for row in printed_order if row != (False, True, False)]


def test_the_smallest_lesions_are_shown(smoke_study):
    figure = small.smallest_lesions(smoke_study, n=3)
    first = figure.axes[0].get_title()
    assert str(int(smoke_study.cases["long_side_px"].min())) in first and len(figure.axes) == 4 * 3
    assert [axis.get_ylabel() for axis in figure.axes[::3]] == ["image", "UNet", "U-ResNet", "XBusNet"]


def test_of_a_partial_study_lesions_that_all_shown_systems_have(smoke_study):
    cases, runs = smoke_study.cases, smoke_study.runs
    fold = cases.nsmallest(1, "long_side_px")["fold"].iloc[0]
    partial = replace(smoke_study, runs=runs[(runs["system"] != "uresnet") | (runs["fold"] != fold)])
    figure = small.smallest_lesions(partial, n=3)
    shown = [axis.get_title().split("\n")[0] for axis in figure.axes[:3]]
    expected = cases[cases["fold"] != fold].nsmallest(3, "long_side_px")["case_id"]
    assert shown == list(expected)


def test_pictures_of_several_seeds_name_the_first(smoke_study):
    seeds = replace(smoke_study, runs=pd.concat([smoke_study.runs, smoke_study.runs.assign(seed=1)]))
    assert seeds.label.endswith("seeds 0, 1") and seeds.label_of_maps.endswith("seed 0")
    assert smoke_study.label == smoke_study.label_of_maps
    footer = small.smallest_lesions(seeds, n=2).texts[-1].get_text()
    assert footer.endswith("seed 0")


def made(differences: dict[str, list[float]], sizes: list[float]) -> pd.DataFrame:
    """Rows of systems whose Dice is 0.5 plus differences."""
    rows = [{"system": name, "paper_name": name.upper(), "policy": "none", "attributes": "none", "fold": i % 2,
             "seed": 0, "case_id": str(i), "patient_id": str(i), "dice": 0.5 + value, "size": size}
            for name, values in differences.items() for i, (value, size) in enumerate(zip(values, sizes, strict=True))]
    table = pd.DataFrame(rows)
    codes = np.searchsorted((110, 250), table["size"])
    return table.assign(bin=pd.Categorical.from_codes(codes, list(printed.BINS), ordered=True))


def test_the_sentence_on_small_lesions():
    rows = made({"xbusnet": [0.2, 0.1, 0, 0], "uresnet": [0.1, 0, 0.3, 0.3]}, [50, 100, 200, 300])
    text = sentences.smallest(rows)
    assert "On the 2 smallest lesions (up to 110 pixels), **XBUSNET has the highest mean Dice, 0.650**" in text
    assert "XBusNet (0.650) minus URESNET (0.550) is +0.100" in text
    assert "no lesion" in sentences.smallest(made({"unet": [0.1]}, [300]))


def test_sentences_on_tests_name_each_group():
    tests = pd.DataFrame([
        {"against_name": "A", "metric": "dice", "mean_difference": 0.1, "low": 0.05, "high": 0.15, "p_holm": 0.0004},
        {"against_name": "B", "metric": "dice", "mean_difference": 0.01, "low": -0.02, "high": 0.04, "p_holm": 0.304},
        {"against_name": "C", "metric": "dice", "mean_difference": -0.1, "low": -0.2, "high": -0.01, "p_holm": 0.0049},
    ]).assign(rank_biserial=[0.5, 0.1, -0.3])
    text = sentences.tested(tests)
    assert "significantly better than A (+0.100, 95 % +0.050 to +0.150, adjusted p < 0.001)" in text
    assert "significantly worse than C (−0.100, 95 % −0.200 to −0.010, adjusted p = 0.005)" in text
    assert "not significantly different from B (+0.010, 95 % −0.020 to +0.040, adjusted p = 0.30)" in text
    assert "significantly better than 1 of 3 other systems, with a median |r| of 0.30" in sentences.against_paper(tests)
    assert "**A −0.100 (p < 0.001); B −0.010 (p = 0.30); C +0.100 (p = 0.005)**. 2 of 3" in sentences.drops(tests)


def test_the_ranking_names_first_second_and_last():
    table = pd.DataFrame({"paper_name": list("ABC"), "dice": [0.5, 0.7, 0.6], "dice_two_class": [0.7, 0.8, 0.75],
                          "folds": 5})
    assert sentences.ranking(table) == (
        "**B has the highest mean lesion Dice, 0.700**, followed by C (0.600); the lowest is that of A (0.500). As a "
        "mean over lesion and background, the same masks of B score 0.800.")
    lists = ["0, 1", "0", "0, 1"]  # a part of the folds is not comparable
    assert sentences.ranking(table.assign(fold_list=lists)).startswith("**C has the highest")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here (Debian: texlive-latex-recommended)")
def test_the_latex_of_every_table_compiles(smoke_study, tmp_path):
    frames = {"table_1": exhibits.table_1, "table_2": exhibits.table_2, "table_3": exhibits.table_3,
              "table_4": exhibits.table_4, "all_policies": paper_tables.table_1, "all_rows": paper_tables.table_4}
    body = "\n".join(tables.latex(make(smoke_study), f"Caption of {name}, 95 % & more ± SD", name)
                     for name, make in frames.items())
    packages = r"\usepackage{booktabs,graphicx,amsmath,textcomp}"
    (tmp_path / "a.tex").write_text(rf"\documentclass{{article}}{packages}\begin{{document}}{body}\end{{document}}")
    done = subprocess.run(["pdflatex", "-halt-on-error", "a.tex"], cwd=tmp_path, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0 and (tmp_path / "a.pdf").is_file(), done.stdout[-2000:]


def test_the_paper_tables_stay_complete(smoke_study):
    """The second tables hold what the first leave out: policies, the two-class family, further systems."""
    assert {"dice_two_class", "policy", "uses_reference"} <= set(paper_tables.table_1(smoke_study))
    assert "xbusnet-no-sfa" in set(paper_tables.table_4(smoke_study)["system"])
