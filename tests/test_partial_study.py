"""A partial study: systems over different folds are neither ranked nor compared by their means, and nothing stops."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from xbuslib.analyses.calibration import reliability
from xbuslib.analyses.calibration import sentences as contours
from xbuslib.analyses.performance import exhibits, figures, paper_tables, sentences, small
from xbuslib.analyses.performance.comparisons import compare_all
from xbuslib.display import tables
from xbuslib.evaluation import statistics
from xbuslib.models import registry
from xbuslib.runs.study import Study

LEVEL = [0.4, 0.5, 0.9, 0.2]  # Dice by fold: fold 2 is easy and fold 3 hard for everyone
LEAD = {"unet": 0.0, "uresnet": 0.01, "xbusnet": 0.05, "xbusnet-no-gfe": 0.0, "xbusnet-no-sfa": 0.02}
SOME = {"unet": [0, 1, 2], "uresnet": [0, 1, 3], "xbusnet": [0, 1, 3], "xbusnet-no-gfe": [0, 1, 2],
        "xbusnet-no-sfa": [0, 1, 3]}
APART = {"unet": [0, 1], "xbusnet": [2], "xbusnet-no-sfa": [3]}


def partial_study(folds: dict[str, list[int]]) -> Study:
    """One small and one large lesion in each fold; every score is LEVEL of the fold plus LEAD of the system."""
    rows = pd.DataFrame([{
        "system": name, "paper_name": registry.REGISTRY[name].paper, "policy": "none", "attributes": "none",
        "fold": fold, "seed": 0, "default": True, "case_id": f"{fold}{size}", "patient_id": f"{fold}{size}",
        "fnr": 0.1, "fpr": 0.1, "fpr_released": 0.1, "fnr_two_class": 0.1}
        | dict.fromkeys(("dice", "iou", "dice_two_class", "iou_two_class"), LEVEL[fold] + LEAD[name])
        for name, own in folds.items() for fold in own for size in "sl"])
    cases = pd.DataFrame({"case_id": [f"{fold}{size}" for fold in range(4) for size in "sl"],
                          "fold": np.repeat(range(4), 2), "long_side_px": [50.0, 150.0] * 4, "long_side_mm": np.nan})
    runs = rows[["system", "fold"]].drop_duplicates(ignore_index=True)
    return Study("s", Path(), runs, rows, cases, [], {"folds_checksum": ""}, [])


def bold(frame: pd.DataFrame, within: str | None = None) -> list[str]:
    """The lines of its Markdown in which something is bold."""
    return [line for line in tables.markdown(frame, "c", within).splitlines() if "**" in line]


def test_the_rows_over_the_longest_list_of_folds_that_two_share():
    def chosen(*lists):
        return tables.comparable(pd.DataFrame({"fold_list": lists})).tolist()
    assert chosen("0, 1", "0, 1, 2", "0, 1, 2") == [False, True, True]
    assert chosen("0, 1", "0, 1, 2", "0, 1") == [True, False, True]  # nothing to compare the longest with
    assert chosen("0, 2", "0, 1", "0, 2", "0, 1", "0, 1") == [False, True, False, True, True]
    assert chosen("0", "9, 10", "1, 2, 3") == [False, False, True]
    assert tables.comparable(pd.DataFrame({"folds": [5, 5]})).all() and not len(chosen())


def test_tables_name_the_folds_and_the_best_is_of_equal_ones():
    study = partial_study(SOME)
    one = exhibits.table_1(study)
    assert one["fold_list"].tolist() == ["0, 1, 2", "0, 1, 3", "0, 1, 3"] and "folds" not in one
    assert one["dice"].tolist() == pytest.approx([0.6, 1.1 / 3 + 0.01, 1.1 / 3 + 0.05])
    assert bold(one)[0].startswith("| U-ResNet | 0, 1, 3 | 0.377 ± 0.153 |")  # whose FPR is as low as XBusNet's
    assert bold(one)[1].startswith("| XBusNet | 0, 1, 3 | **0.417 ± 0.153** |") and len(bold(one)) == 2
    for frame, within in ((exhibits.table_2(study), None), (exhibits.table_4(study), None),
                          (paper_tables.table_1(study), None), (paper_tables.table_4(study), None),
                          (paper_tables.table_2(study), "bin"), (paper_tables.per_fold(study), None),
                          (paper_tables.by_bin(paper_tables.table_2(study)), None)):
        lines = bold(frame, within)
        assert lines and all("| 0, 1, 3 |" in line for line in lines), lines
        assert "0, 1, 2" in tables.markdown(frame, "c", within)
        assert tables.markdown(frame, "c").splitlines()[2].count(" folds ") == 1  # not their number too
    assert paper_tables.per_fold(study)["folds"].tolist() == [3] * 5


def test_a_study_whose_systems_have_the_same_folds_has_no_list_of_them():
    study = partial_study({name: [0, 1] for name in SOME})
    frames = [exhibits.table_1(study), exhibits.table_2(study), exhibits.table_4(study), paper_tables.table_1(study),
              paper_tables.table_2(study), paper_tables.per_fold(study)]
    assert not any("fold_list" in frame for frame in frames) and not any("folds" in frame for frame in frames[:3])
    assert paper_tables.table_1(study)["folds"].tolist() == [2, 2, 2]


def test_sentences_are_on_systems_over_the_same_folds():
    study = partial_study(SOME)
    every, sized = paper_tables.table_1(study), paper_tables.sized(study, "pixels")
    assert sentences.ranking(every).startswith(
        "**XBusNet has the highest mean lesion Dice, 0.417**, followed by U-ResNet (0.377). As a mean")
    three = sized[sized["system"].isin(["unet", "uresnet", "xbusnet"])]
    assert sentences.smallest(three).startswith(
        "On the 3 smallest lesions (up to 110 pixels), **XBusNet has the highest mean Dice, 0.417**; XBusNet (0.417) "
        "minus U-ResNet (0.377) is +0.040")
    assert sentences.found(three).endswith(": U-ResNet 3 of 3**, XBusNet 3 of 3.")
    bins = paper_tables.table_2(study)
    bins.loc[(bins["system"] == "xbusnet") & (bins["bin"] == "≤ 110"), "missed"] = 1.0
    bins = bins[bins["system"].isin(["unet", "uresnet", "xbusnet"])]
    assert sentences.missed(bins) == (
        "Lesions missed altogether: of the 3 smallest, U-ResNet 0, XBusNet 1; of all 6 lesions, 0 (U-ResNet) to 1 "
        "(XBusNet). Over these systems, 1 of 1 misses are of the smallest lesions, which are 50% of all.")
    assert "UNet" not in sentences.over_binnings({"pixels": bins, "tertiles": bins})


def test_where_no_two_systems_have_the_same_folds_none_is_called_the_best():
    study = partial_study(APART)
    every, sized = paper_tables.table_1(study), paper_tables.sized(study, "pixels")
    assert sentences.ranking(every) == ("No two systems have the same folds, so their mean lesion Dice is not "
                                        "compared.")
    assert sentences.smallest(sized) == tables.APART.format("Dice on the smallest lesions")
    assert sentences.over_binnings({"pixels": paper_tables.table_2(study)}) == \
        tables.APART.format("mean Dice on the smallest lesions")
    rates = every.assign(found=1.0, lesions=2, hd95=2.0)
    assert contours.found(rates) == tables.APART.format("share of lesions found")
    assert contours.distances(rates) == tables.APART.format("distance to the reference")
    assert not bold(every) and not bold(exhibits.table_1(study))


def test_only_pairs_with_a_fold_in_common_are_tested():
    tests = compare_all(partial_study({"unet": [0, 1, 2], "uresnet": [2], "xbusnet": [0, 1, 3]}))
    assert tests["against"].tolist() == ["unet", "unet"] and tests["n"].tolist() == [4, 4]
    assert tests["mean_difference"].tolist() == pytest.approx([0.05, 0.05])
    apart = partial_study(APART)
    assert compare_all(apart).empty and paper_tables.table_4(apart)["p_holm"].isna().all()
    assert compare_all(partial_study({"unet": [0]})).empty


def test_an_interaction_needs_images_that_all_four_have():
    four = {"xbusnet": [0, 1], "xbusnet-no-sfa": [0, 1], "xbusnet-no-lfe": [2], "xbusnet-no-lfe-no-sfa": [2]}
    rows = pd.DataFrame([{"system": name, "policy": "none", "attributes": "none", "fold": fold, "seed": 0,
                          "case_id": f"{fold}{i}", "dice": 0.5 + 0.1 * (name == "xbusnet")}
                         for name, folds in four.items() for fold in folds for i in range(2)])
    found = statistics.interaction(rows)
    assert found["effect"].tolist() == ["SFA, with LFE", "SFA, without LFE"] and found["n"].tolist() == [4, 2]
    assert sentences.interaction(found).startswith("Whether the components add up is unknown")
    moved = rows.assign(fold=rows["fold"].mask(rows["system"] == "xbusnet", 9))
    assert statistics.interaction(moved)["effect"].tolist() == ["SFA, without LFE"]


def test_dice_by_threshold_names_the_folds():
    rows = pd.DataFrame([{"system": name, "paper_name": name, "fold": fold, "seed": 0, "threshold": threshold,
                          "dice": LEVEL[fold] + 0.1 * (threshold > 0.5)}
                         for name, folds in {"a": [0, 1], "b": [0, 2], "c": [0, 1]}.items() for fold in folds
                         for threshold in (0.5, 0.7)])
    peaks = reliability.sweep_summary(rows, 0.5)
    assert list(peaks)[:5] == ["system", "paper_name", "folds", "fold_list", "dice"]
    assert peaks["fold_list"].tolist() == ["0, 1", "0, 2", "0, 1"]
    assert "for 2 of 2 systems; the largest gain is that of a (0.100 at 0.7)" in contours.thresholds(peaks, 0.5)
    same = reliability.sweep_summary(rows[rows["system"] != "b"], 0.5)
    assert list(same)[:4] == ["system", "paper_name", "folds", "dice"]


def test_a_fold_has_one_colour_and_one_mark_in_both_panels():
    figure = figures.fold_spread(partial_study({"unet": [1, 2], "xbusnet": [0, 1, 2]}).default, "label")
    left, right = ({(line.get_marker(), line.get_color()): list(line.get_xdata()) for line in axis.lines
                    if line.get_marker() not in ("|", "None")} for axis in figure.axes)
    assert list(left) == list(right) and len(left) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()][1:] == ["fold 0", "fold 1", "fold 2"]
    assert [np.round(values, 3).tolist() for values in left.values()][1:] == [[0.5, 0.55], [0.9, 0.95]]
    assert [np.round(values, 3).tolist() for values in right.values()] == [[], [0.05], [0.05]]
    figures.fold_spread(partial_study(APART).default, "label").draw_without_rendering()


def test_what_removing_sfa_does_is_drawn_over_the_folds_of_both():
    """Without SFA 0.03 less on folds 0 and 1; fold 2, where the full model alone is, is the easy one."""
    rows = partial_study({"xbusnet": [0, 1, 2], "xbusnet-no-sfa": [0, 1]}).default
    thick = [line for line in figures.ablations(rows, "label").axes[1].lines if line.get_linewidth() > 2]
    assert thick[0].get_ydata() == pytest.approx([0.5, 0.47])
    figures.ablations(partial_study(APART).default, "label").draw_without_rendering()


def test_the_smallest_lesions_of_systems_without_a_common_fold(monkeypatch):
    study = partial_study({"unet": [0, 1], "uresnet": [2], "xbusnet": [1, 3]})
    frame = np.zeros((1, 16, 16))
    mask = np.pad(np.ones((1, 4, 4), bool), ((0, 0), (6, 6), (6, 6)))
    monkeypatch.setattr(small, "_maps", lambda _, cases, names: {name: dict.fromkeys(cases["case_id"], frame[0])
                                                                 for name in names})
    figure = small.smallest_lesions(SimpleNamespace(
        default=study.default, runs=study.runs, cases=study.cases, label_of_maps="label",
        facts={"config": {"threshold": 0.5}},
        prepared=SimpleNamespace(rows=lambda cases: [0], images=frame.astype(np.uint8), masks=mask)))
    assert [axis.get_title() for axis in figure.axes[:2]] == ["1s\n50 px", "1l\n150 px"]
    assert [axis.get_ylabel() for axis in figure.axes[::2]] == ["image", "UNet", "XBusNet"]
