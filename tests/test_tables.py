"""Tables: exact text of hand-made frames; the paper's tables recomputed from per_image.csv with csv and numpy."""

import csv
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from xbuslib.analyses.performance import exhibits, paper_tables, printed, sentences
from xbuslib.data import catalogue, folds
from xbuslib.data.cases import lesions
from xbuslib.display import tables
from xbuslib.errors import StudyError
from xbuslib.runs.study import open_study

FRAME = pd.DataFrame({
    "paper_name": ["UNet", "A_B", "A_B"], "system": ["unet", "ab", "ab"], "policy": ["none", "first_pass", "paper"],
    "uses_reference": [False, False, True], "n": [3, 3, 3], "dice": [0.70049, 0.7001, 0.9],
    "dice_sd": [0.01, np.nan, 0.2], "fpr": [0.02, 0.01, 0.0], "p": [0.00004, 0.04, np.nan]})


@pytest.fixture
def study(smoke_study, tmp_path, monkeypatch):
    """A copy of the smoke study that a test may damage."""
    shutil.copytree(smoke_study.folder.parent, tmp_path / "outputs", ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setenv("XBUS_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs" / smoke_study.name


def column(study, system, fold, name, policy=None):
    """One column of a per_image.csv by case, read with csv alone; the first scoring unless a policy is given."""
    path = study.folder / "runs" / system / f"fold_{fold}" / "seed_0" / "per_image.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    policy = policy or (rows[0]["policy"], rows[0]["attributes"])
    return {row["case_id"]: float(row[name]) for row in rows if (row["policy"], row["attributes"]) == policy}


def sizes(study, name="long_side_px"):
    found = {}
    for path in (study.folder / "runs" / "unet").glob("fold_*/seed_0/cases.csv"):
        with path.open(newline="") as file:
            found |= {row["case_id"]: float(row[name]) for row in csv.DictReader(file)}
    return found


# ---- how a table is written -------------------------------------------------------------------------------------


def test_markdown_of_a_hand_made_frame():
    assert tables.markdown(FRAME, "Caption.") == (
        "Caption.\n\n"
        "| system | policy | n | Dice | FPR ↓ | p |\n"
        "|:--|:--|--:|--:|--:|--:|\n"
        "| UNet | none | 3 | **0.700 ± 0.010** | 0.020 | < 0.001 |\n"
        "| A_B | first_pass | 3 | **0.700** | **0.010** | 0.040 |\n"  # equal as printed, equally good
        "| A_B † | paper | 3 | 0.900 ± 0.200 | 0.000 | – |\n\n"  # higher, but of the reference: no candidate
        f"{tables.NOTE}\n")


def test_latex_of_a_hand_made_frame():
    text = tables.latex(FRAME, "5 % of A_B & more", "t")
    assert text.splitlines() == [
        r"\begin{table}", r"\centering", r"\caption{5 \% of A\_B \& more}", r"\label{tab:t}",
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        r"\begin{tabular}{llrrrr}", r"\toprule", r"system & policy & n & Dice & FPR $\downarrow$ & p \\", r"\midrule",
        r"UNet & none & 3 & \textbf{0.700 $\pm$ 0.010} & 0.020 & $<$ 0.001 \\",
        r"A\_B & first\_pass & 3 & \textbf{0.700} & \textbf{0.010} & 0.040 \\",
        r"A\_B \textdagger{} & paper & 3 & 0.900 $\pm$ 0.200 & 0.000 & -- \\", r"\bottomrule", r"\end{tabular}}",
        r"\par\footnotesize \textdagger{} The policy may take size or location from the reference mask: "
        r"no candidate for bold.", r"\end{table}"]


def test_best_within_groups_and_none_of_one():
    frame = pd.DataFrame({"bin": ["s", "s", "l"], "system": list("aba"), "missed": [0.0, 2.0, 3.0],
                          "iou": [0.1, 0.2, 0.9], "iou_printed": [0.1, 0.2, 0.3]})
    text = tables.markdown(frame, "c", within="bin")
    assert "| s | a | **0** | 0.100 | 0.100 |\n| s | b | 2 | **0.200** | 0.200 |\n| l | a | 3 | 0.900 | 0.300 |" in text
    assert text.splitlines()[2] == "| bin | system | missed ↓ | IoU | printed IoU |"
    assert tables.latex(frame, "c", "n", within="bin").count(r"\midrule") == 2
    assert "**" not in tables.markdown(frame, "c", within="bin", bold=False)


def test_rows_over_fewer_folds_or_images_take_no_part():
    frame = pd.DataFrame({"system": list("abc"), "folds": [5, 5, 4], "dice": [0.1, 0.2, 0.9]})
    assert "| b | 5 | **0.200** |\n| c | 4 | 0.900 |" in tables.markdown(frame, "c")
    frame = pd.DataFrame({"bin": list("ssll"), "system": list("abab"), "n": [3, 3, 9, 8], "dice": [0.1, 0.2, 0.5, 1]})
    assert tables.markdown(frame, "c", within="bin").count("**") == 2


def test_signs_switches_metrics_and_gaps():
    frame = pd.DataFrame({"metric": ["dice"], "lfe": [True], "mean_difference": [-0.0126], "low": [-0.0001],
                          "statistic": [12.5], "dice fold 0": [np.nan], "note": [None]})
    assert tables.markdown(frame, "c").splitlines()[4] == "| Dice | yes | −0.013 | 0.000 | 12.5 | – | – |"
    assert "| Dice fold 0 |" in tables.markdown(frame, "c")
    assert r"& $-$0.013 &" in tables.latex(frame, "c", "n")
    ranks = pd.DataFrame({"statistic": [1234567.5, 40.0]})
    assert tables.markdown(ranks, "c").splitlines()[4:] == ["| 1234567.5 |", "| 40 |"]


def test_a_bar_in_a_name_and_a_table_without_rows():
    assert r"| a\|b |" in tables.markdown(pd.DataFrame({"name": ["a|b"]}), "c")
    assert "(no rows)" in tables.markdown(FRAME.iloc[:0], "c")
    assert r"\toprule" in tables.latex(FRAME.iloc[:0], "c", "n")


def test_save_writes_three_files_and_the_csv_has_every_number(tmp_path):
    written = tables.save(FRAME, tmp_path / "new", "table", "Caption.")
    assert [path.name for path in written] == ["table.csv", "table.md", "table.tex"]
    again = pd.read_csv(written[0], keep_default_na=False, na_values=[""])
    pd.testing.assert_frame_equal(again, FRAME, check_exact=True, check_dtype=False)
    assert written[1].read_text(encoding="utf-8") == tables.markdown(FRAME, "Caption.")


def every_table(study):
    yield paper_tables.table_1(study), None
    yield paper_tables.printed_1(study), None
    yield paper_tables.table_3(study), None
    yield paper_tables.per_fold(study), None
    yield paper_tables.table_4(study), None
    for by in paper_tables.MEASURES:
        yield paper_tables.table_2(study, by), "bin"
        yield paper_tables.by_bin(paper_tables.table_2(study, by)), None


def test_latex_of_every_table_has_its_rules_and_equal_rows(smoke_study):
    for frame, within in every_table(smoke_study):
        lines = tables.latex(frame, smoke_study.label, "n", within).splitlines()
        inside = lines[lines.index(r"\toprule") + 1:lines.index(r"\bottomrule")]
        rows = [line for line in inside if line != r"\midrule"]
        columns = next(line for line in lines if line.startswith(r"\begin{tabular}")).split("{")[2].count
        assert len(rows) == len(frame) + 1 and inside[1] == r"\midrule"
        assert {row.count(" & ") for row in rows} == {columns("l") + columns("r") - 1}
        assert all(row.endswith(r" \\") for row in rows) and "".join(rows).isascii()
        assert not any("_" in row.replace(r"\_", "") for row in rows)


# ---- the paper's tables, recomputed -----------------------------------------------------------------------------


def test_table_1_from_the_files(smoke_study):
    table = paper_tables.table_1(smoke_study)
    assert list(table["system"].unique()) == ["unet", "uresnet", "bussam", "xbusnet"]  # ablations stand in Table 4
    assert len(table) == 1 + 1 + 4 + 6
    for row in table.itertuples():
        for metric in ("dice", "iou", "fpr", "fnr", "dice_two_class", "fnr_two_class"):
            means = [np.mean(list(column(smoke_study, row.system, fold, metric, (row.policy, row.attributes)).values()))
                     for fold in (0, 1)]
            assert getattr(row, metric) == pytest.approx(np.mean(means))
            assert getattr(row, f"{metric}_sd") == pytest.approx(np.std(means, ddof=1))
    assert set(table.loc[table["uses_reference"], "policy"]) == {"paper", "reference"}
    assert table.loc[table["default"], "policy"].tolist() == ["none", "none", "first_pass", "first_pass"]


def test_printed_figures_stand_beside_their_own_family(smoke_study):
    table = paper_tables.table_1(smoke_study).set_index(["system", "policy", "attributes"])
    unet, xbusnet = table.loc[("unet", "none", "none")], table.loc[("xbusnet", "first_pass", "metadata")]
    assert unet["dice_printed"] == 0.604 and np.isnan(unet["dice_two_class_printed"])
    assert xbusnet["iou_two_class_printed"] == 0.815 and np.isnan(xbusnet["iou_printed"])
    assert table["dice_two_class_printed"].count() == 1  # once per system
    columns = list(table.columns)
    assert columns[columns.index("dice"):][:3] == ["dice", "dice_sd", "dice_printed"]

    side = paper_tables.printed_1(smoke_study).set_index("system")
    assert side.loc["bussam", "ours_fnr"] == pytest.approx(table.loc[("bussam", "first_pass", "none"), "fnr"])
    assert side.loc["xbusnet", "ours_dice"] == pytest.approx(xbusnet["dice_two_class"])
    assert side.loc["xbusnet", "fpr_printed"] == 0.099 and np.isnan(side.loc["xbusnet", "ours_fpr"])
    assert "ukan" not in side.index
    assert paper_tables.absent(smoke_study, list(printed.table_1()["system"])) == ["U-KAN", "AnatoSegNet", "CLIP-TNseg"]


def test_table_3_and_the_table_by_fold_from_the_files(smoke_study):
    table = paper_tables.table_3(smoke_study)
    by_fold = paper_tables.per_fold(smoke_study).set_index("system")
    n = [len(column(smoke_study, "xbusnet", fold, "dice")) for fold in (0, 1)]
    assert table["fold"].tolist() == ["0", "1", "all"] and table["n"].tolist() == [*n, sum(n)]
    means = [np.mean(list(column(smoke_study, "xbusnet", fold, "iou_two_class").values())) for fold in (0, 1)]
    assert table["iou_two_class"].tolist() == pytest.approx([*means, np.mean(means)])
    assert table["iou_two_class_sd"].iloc[-1] == pytest.approx(abs(means[0] - means[1]) / 2**0.5)
    assert not any("printed" in name for name in table)  # other folds than the authors'
    assert paper_tables.table_3(smoke_study, "ukan").empty
    for system in smoke_study.systems:
        means = [np.mean(list(column(smoke_study, system, fold, "dice").values())) for fold in (0, 1)]
        assert by_fold.loc[system, ["dice fold 0", "dice fold 1", "dice"]].tolist() == pytest.approx(
            [*means, np.mean(means)])


def test_the_authors_folds_are_known_and_get_their_printed_figures(blu_root, smoke_study):
    cases = lesions(catalogue.load("blu", blu_root))
    assert folds.checksum(folds.read(blu_root / "released_folds", cases)) == paper_tables.RELEASED_FOLDS
    as_released = replace(smoke_study, facts=smoke_study.facts | {"folds_checksum": paper_tables.RELEASED_FOLDS})
    table = paper_tables.table_3(as_released)
    assert table["dice_two_class_printed"].tolist()[:2] == [0.8846, 0.8910]


@pytest.mark.parametrize("by, name, edges", [("pixels", "long_side_px", (110, 250)), ("tertiles", "long_side_px", None),
                                             ("millimetres", "long_side_mm", (10, 20))])
def test_table_2_from_the_files(smoke_study, by, name, edges):
    table, size = paper_tables.table_2(smoke_study, by), sizes(smoke_study, name)
    edges = edges or [int(edge) for edge in np.quantile(list(size.values()), (1 / 3, 2 / 3))]
    assert table.groupby("bin")["n"].first().sum() == len(size) and len(table) == 3 * 6
    for row in table.itertuples():
        low, high = ((0, edges[0]), edges, (edges[1], np.inf))[list(table["bin"].unique()).index(row.bin)]
        inside = [case for case, value in size.items() if low < value <= high]
        dice = column(smoke_study, row.system, 0, "dice") | column(smoke_study, row.system, 1, "dice")
        values = [dice[case] for case in inside]
        assert row.n == len(values) and row.missed == values.count(0)
        if values:
            assert row.dice == pytest.approx(np.mean(values), abs=1e-12)
        if len(values) > 1:
            assert row.dice_sd == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    wide = paper_tables.by_bin(table).set_index("system")
    largest = table[(table["system"] == "unet") & (table["bin"] == table["bin"].iloc[-1])].iloc[0]
    assert wide.loc["unet", f"missed {largest['bin']}"] == largest["missed"]
    assert wide.loc["unet", f"dice {largest['bin']}"] == pytest.approx(largest["dice"], nan_ok=True)


def test_edges_belong_to_the_left_bin_and_empty_bins_are_shown(smoke_study):
    sides = np.where(np.arange(len(smoke_study.cases)) < 8, 110.0, 111.0)
    cases = smoke_study.cases.assign(long_side_px=sides, long_side_mm=np.nan)
    altered = replace(smoke_study, cases=cases)
    table = paper_tables.table_2(altered)
    assert table[table["system"] == "unet"]["n"].tolist() == [8, len(sides) - 8, 0]
    assert table.loc[table["n"] == 0, "dice"].isna().all()
    assert paper_tables.table_2(altered, "millimetres")["n"].eq(0).all()  # no pixel size, no millimetres
    table = table.set_index(["system", "bin"])
    assert table.loc[("unet", "≤ 110"), "dice_printed"] == 0.3668
    assert table.loc[("xbusnet", "≤ 110"), "iou_two_class_printed"] == 0.7925
    with pytest.raises(StudyError, match="cannot be binned by 'inches'"):
        paper_tables.table_2(altered, "inches")


def test_table_2_is_binned_in_millimetres_where_a_pixel_size_is_known():
    cases = pd.DataFrame({"long_side_px": [90.0, 120.0], "long_side_mm": np.nan})
    assert paper_tables.measures(SimpleNamespace(cases=cases)) == ["pixels", "tertiles"]
    some = cases.assign(long_side_mm=[np.nan, 9.0])
    assert paper_tables.measures(SimpleNamespace(cases=some)) == ["pixels", "tertiles", "millimetres"]


def test_equal_tertiles_have_a_bin_of_their_one_length():
    assert paper_tables.size_bins(pd.Series([100.0] * 3), "tertiles") == ((100, 100), ("≤ 100 px", "none", "> 100 px"))
    assert paper_tables.size_bins(pd.Series([10.0, 40.0, 70.0]), "tertiles")[1][1] == "31–50 px"


def test_a_study_of_variants_alone_has_its_tables(smoke_study):
    """Without a system of Tables 1 and 2, the ablations stand in them."""
    own = ["xbusnet-no-gfe", "xbusnet-no-sfa"]
    study = replace(smoke_study, runs=smoke_study.runs.query("system in @own"),
                    per_image=smoke_study.per_image.query("system in @own"))
    assert paper_tables.compared(study) == own
    every = paper_tables.table_1(study)
    assert "highest mean lesion Dice" in sentences.ranking(every[every["default"]])
    assert list(exhibits.table_1(study)["system"]) == own == list(exhibits.table_2(study)["system"])
    bins = paper_tables.table_2(study, "tertiles")
    assert "XBusNet without SFA" in sentences.missed(bins) + sentences.over_binnings({"tertiles": bins})


def test_missed_lesions_are_averaged_over_seeds(smoke_study):
    rows = smoke_study.per_image[smoke_study.per_image["system"] == "unet"]
    both = pd.concat([rows.assign(dice=0.5), rows.assign(seed=1, dice=np.where(rows["case_id"] == "case001", 0, 0.5))])
    altered = replace(smoke_study, per_image=both)
    assert paper_tables.table_2(altered)["missed"].sum() == 0.5 * (rows["case_id"] == "case001").sum() > 0


def test_table_4_from_the_files(smoke_study):
    table = paper_tables.table_4(smoke_study).set_index("system")
    assert list(table.index) == ["xbusnet", "xbusnet-no-gfe", "xbusnet-no-sfa"]
    assert table.loc["xbusnet-no-gfe", ["lfe", "gfe", "sfa"]].tolist() == [True, False, True]
    dice = {system: np.mean([np.mean(list(column(smoke_study, system, fold, "dice").values())) for fold in (0, 1)])
            for system in table.index}
    for system in table.index[1:]:
        assert table.loc[system, "dice_drop"] == pytest.approx(dice["xbusnet"] - dice[system])
    assert np.isnan(table.loc["xbusnet", "dice_drop"]) and np.isnan(table.loc["xbusnet", "p_holm"])
    assert table["p_holm"].iloc[1:].between(0, 1).all()
    assert table["dice_two_class_printed"].tolist() == [0.8765, 0.8453, 0.8600]
    assert "dice_printed" not in table  # Table 4 is on the two-class scale


def test_table_4_without_the_full_model_or_any_ablation(study):
    shutil.rmtree(study / "runs" / "xbusnet")
    assert paper_tables.table_4(open_study(study.name))["dice_drop"].isna().all()
    plain = open_study(study.name, systems=["unet", "uresnet"])
    assert paper_tables.table_4(plain).empty and paper_tables.table_3(plain).empty
    assert "(no rows)" in tables.markdown(paper_tables.table_4(plain), "c")


def test_drops_of_a_partial_study_are_over_the_folds_that_both_have(study):
    shutil.rmtree(study / "runs" / "xbusnet-no-sfa" / "fold_0")
    partial = open_study(study.name, partial=True)
    with_sfa, without = (np.mean(list(column(partial, name, 1, "iou").values()))
                         for name in ("xbusnet", "xbusnet-no-sfa"))
    table = paper_tables.table_4(partial).set_index("system")
    assert table.loc["xbusnet-no-sfa", "iou_drop"] == pytest.approx(with_sfa - without)


def test_rows_over_fewer_folds_are_marked_and_never_bold(study):
    """The values of a system with one fold cannot be compared with means over two."""
    plain = open_study(study.name)
    assert not {"folds", "n"} & {*exhibits.table_1(plain), *exhibits.table_2(plain), *exhibits.table_4(plain),
                                 *paper_tables.per_fold(plain)}
    shutil.rmtree(study / "runs" / "unet" / "fold_1")
    shutil.rmtree(study / "runs" / "xbusnet-no-sfa" / "fold_1")
    partial = open_study(study.name, partial=True)
    best = partial.per_image["system"].isin(["unet", "xbusnet-no-sfa"])
    partial = replace(partial, per_image=partial.per_image.assign(
        dice=np.where(best, 0.9, 0.5), iou=np.where(best, 0.9, 0.5)))
    for table in (exhibits.table_1(partial), exhibits.table_2(partial), exhibits.table_4(partial),
                  paper_tables.per_fold(partial)):
        text = tables.markdown(table, "")
        assert "0.900" in text and "**0.900" not in text and "**0.500" in text


def test_a_partial_study_uses_what_is_there(study):
    shutil.rmtree(study / "runs" / "unet" / "fold_1")
    partial = open_study(study.name, partial=True)
    row = paper_tables.table_1(partial).set_index("system").loc["unet"]
    assert row["folds"] == 1 and np.isnan(row["dice_sd"])
    left = len(column(partial, "unet", 0, "dice"))
    assert paper_tables.table_2(partial).set_index("system").loc["unet", "n"].sum() == left


@pytest.mark.parametrize("value, digits, text", [(0.0126, 3, "+0.013"), (-0.0126, 2, "−0.01"), (-0.0004, 3, "0.000")])
def test_a_signed_number_has_a_minus_sign_and_zero_has_none(value, digits, text):
    assert tables.signed(value, digits) == text


def test_a_range_names_both_ends_and_one_value_none():
    shares = pd.Series({"A": 0.671, "B": 0.802, "C": 0.669, "D": 0.7})
    assert tables.ranged(shares, ".0%") == "67% (A, C) to 80% (B)"  # A and C print alike
    assert tables.ranged(shares[["A", "C"]], ".0%") == "67% (A, C)" and tables.ranged(shares[:1], ".2f") == "0.67 (A)"
