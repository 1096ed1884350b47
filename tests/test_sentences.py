"""Sentences whose numbers are computed: each on a table small enough to check by eye."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from xbuslib.analyses import training
from xbuslib.analyses.calibration import sentences as contours
from xbuslib.analyses.cases import sentences as cases
from xbuslib.analyses.cross_centre import sentences as elsewhere
from xbuslib.analyses.performance import paper_tables
from xbuslib.analyses.performance import sentences as performance
from xbuslib.analyses.robustness import sentences as prompts
from xbuslib.analyses.robustness import variations
from xbuslib.analyses.transfer import sentences as transfer
from xbuslib.evaluation import statistics
from xbuslib.runs import study
from xbuslib.runs.study import facts


def test_variants_of_xbusnet_are_not_ranked_with_the_papers_systems(smoke_study):
    assert paper_tables.compared(smoke_study) == ["unet", "uresnet", "bussam", "xbusnet"]
    assert "xbusnet-no-sfa" not in set(paper_tables.table_1(smoke_study)["system"])


def test_missed_lesions_are_named_by_system():
    bins = pd.DataFrame({"paper_name": list("ABC") * 2, "bin": ["≤ 110"] * 3 + ["> 110"] * 3, "n": [4] * 3 + [6] * 3,
                         "missed": [2, 0, 1, 0, 1, 0]})
    assert performance.missed(bins) == (
        "Lesions missed altogether: of the 4 smallest, B 0, C 1, A 2; of all 10 lesions, 1 (B, C) to 2 (A). Over "
        "these systems, 3 of 4 misses are of the smallest lesions, which are 40% of all.")


def test_the_best_on_small_lesions_by_every_binning():
    def binned(best):
        return pd.DataFrame({"paper_name": list("AB"), "bin": "small", "n": 3,
                             "dice": [0.5, 0.6 if best == "B" else 0.4]})
    text = performance.over_binnings({"pixels": binned("A"), "tertiles": binned("B"), "millimetres": binned("A")})
    assert text == ("The highest mean Dice on the smallest lesions is that of A with bins in pixels and millimetres, B "
                    "with bins in tertiles.")
    assert performance.over_binnings({"pixels": binned("A"), "tertiles": binned("A"), "millimetres": binned("A")}) == (
        "Whether bins are in pixels, tertiles or millimetres, A has the highest mean Dice on the smallest lesions.")


def test_another_hospital_is_judged_by_the_wider_interval():
    row = {"paper_name": "A", "target": "T", "in_domain": 0.7, "at_target": 0.8, "difference": 0.1, "low": 0.02,
           "high": 0.2, "low_folds": -0.01, "high_folds": 0.22}
    drops = pd.DataFrame([row, row | {"paper_name": "B", "low_folds": np.nan, "high_folds": np.nan}])
    text = elsewhere.verdicts(drops)
    assert "**A** 0.800 there, 0.700 in its own study: +0.100 (95 % −0.010 to +0.220), the interval" in text
    assert "**B** 0.800 there, 0.700 in its own study: +0.100 (95 % +0.020 to +0.200), higher." in text
    few = elsewhere.verdicts(pd.DataFrame([row | dict.fromkeys(("low", "high", "low_folds", "high_folds"), np.nan)]))
    assert few.endswith("+0.100 (no interval: too few patients).")


def test_what_scanner_b_costs_and_the_lowest_group():
    paired = pd.DataFrame({"paper_name": ["A"], "difference": [-0.107], "low": [-0.189], "high": [-0.031]})
    assert "(intervals over these cases): A −0.107 (95 % −0.189 to −0.031). The lesions" in elsewhere.scanner(
        paired, "phantom")
    assert elsewhere.scanner(paired, "phantom").startswith("**Scanner B against its control, scanner A**, on cases of")
    assert elsewhere.scanner(paired, "phantom_b").startswith("**Scanner B against scanner A**, on cases of the same")
    assert elsewhere.scanner(paired.iloc[:0], "phantom") == ""
    groups = pd.DataFrame({"target": "T", "paper_name": "A", "by": "class", "group": ["x", "y", "z"], "n_target": 9,
                           "difference": [0.1, -0.2, -0.9], "low": [0, -0.3, np.nan], "high": [0.2, -0.1, np.nan]})
    both = pd.concat([groups, groups.assign(target="U", difference=[-0.1, 0.2, -0.9])])
    assert elsewhere.largest(both) == (
        "The group with the lowest difference at each target: T: A on class y (−0.200, 95 % −0.300 to −0.100, n = 9); "
        "U: A on class x (−0.100, 95 % 0.000 to +0.200, n = 9). Each is the lowest of several differences, so partly "
        "chance.")
    assert elsewhere.largest(groups.iloc[2:]) == "No group is large enough for an interval."


def test_who_finds_most_lesions_with_fewest_false_positives():
    rates = pd.DataFrame({"paper_name": list("ABC"), "folds": 5, "lesions": 10, "found": [9, 9, 8],
                          "false_positives all": [2.0, 0.5, 0.25], "false_positives with lesion": 1.0})
    assert contours.found(rates) == (
        "**B finds the most lesions, 9 of 10 (as many as 1 other)**, with 0.50 false positives per image; C has the "
        "fewest false positives, 0.25 per image, and finds 8 of 10.")
    assert contours.found(rates[:2]).endswith("with 0.50 false positives per image, the lowest rate of all systems.")
    assert contours.found(rates[:1]) == "**A finds the most lesions, 9 of 10**, with 2.00 false positives per image."
    assert contours.found(rates.assign(found=0)) == "No system finds a lesion."
    adopted = rates.assign(**{"false_positives all": np.nan})
    assert contours.found(adopted) == (
        "**A finds the most lesions, 9 of 10 (as many as 1 other)**, with 1.00 false positives per image with a lesion "
        "(normal images were not adopted).")


def scored(system, dice, folds=0):
    """Default rows of one system: a lesion of the smallest bin for each value."""
    cases = [f"c{i}" for i in range(len(dice))]
    return pd.DataFrame({"system": system, "paper_name": {"xbusnet": "XBusNet"}.get(system, system), "dice": dice,
                         "policy": "none", "attributes": "none", "fold": folds, "seed": 0, "case_id": cases,
                         "patient_id": cases, "bin": pd.Categorical(["s"] * len(dice), ["s", "l"])})


def test_better_is_what_is_higher_in_the_mean_and_on_most_images():
    """Lower by 0.01 to 0.02 on 94 of 100 images, higher by 0.8 on the six that the other misses: mean +0.034."""
    ours = np.r_[np.linspace(0.51, 0.52, 94), np.full(6, 0.8)]
    theirs = np.r_[np.full(94, 0.53), np.zeros(6)]
    rows = pd.concat([scored("xbusnet", ours), scored("unet", theirs)])
    test = statistics.compare(rows, "xbusnet", "unet", "dice")
    assert test["mean_difference"] > 0 > test["rank_biserial"] and test["p"] < 0.001
    tests = pd.DataFrame([test | {"against_name": "UNet", "p_holm": test["p"]}])
    assert performance.tested(tests).startswith(
        "In paired tests, XBusNet is significantly different, with opposite signs of the mean difference and of the "
        "rank-biserial correlation, from UNet (+0.03")
    assert "it is significantly better than 0 of 1 other system," in performance.against_paper(tests)
    both = tests.assign(rank_biserial=0.5)
    assert performance.tested(both).startswith("In paired tests, XBusNet is significantly better than UNet")
    assert performance.tested(both.assign(mean_difference=-0.1, rank_biserial=-0.5)).startswith(
        "In paired tests, XBusNet is significantly worse than UNet")
    assert "significantly better than 1 of 1 other system," in performance.against_paper(both)


def test_the_smallest_lesions_are_compared_on_the_same_images():
    """A partial study: one system has the easier half of the lesions alone."""
    ours = scored("xbusnet", [0.7, 0.9, 0.3, 0.5], [0, 0, 1, 1])
    rows = pd.concat([ours, scored("unet", [0.6, 0.8, 0.2, 0.4], [0, 0, 1, 1]), scored("ukan", [0.9, 0.9])])
    text = performance.smallest(rows)
    assert text.startswith("On the 4 smallest lesions (up to 110 pixels), **XBusNet has the highest mean Dice, 0.600**")
    assert "XBusNet (0.600) minus unet (0.500) is +0.100 (95 % +0.100 to +0.100" in text and "ukan" not in text
    one = performance.smallest(pd.concat([scored("xbusnet", [0.7]), scored("unet", [0.6])]))
    assert one.startswith("On the only lesion of up to 110 pixels, **XBusNet has")
    assert "is +0.100 (no interval: too few patients; one size bin" in one


@pytest.mark.parametrize(("p", "text"), [(0.0009, "p < 0.001"), (0.0499, "p = 0.050"), (0.0451, "p = 0.045"),
                                         (0.0514, "p = 0.051"), (0.304, "p = 0.30")])
def test_three_digits_where_they_decide(p, text):
    assert performance.p_value(p) == text


def test_which_systems_find_the_smallest_lesions():
    """IoU of at least 0.1, as in notebook 13; two seeds of C count half each."""
    bins = pd.Categorical(["s"] * 8 + ["l"], categories=["s", "l"], ordered=True)
    sized = pd.DataFrame({"system": list("AABBCCCCA"), "paper_name": list("AABBCCCCA"), "fold": 0,
                          "case_id": list("121211221"), "bin": bins,
                          "iou": [0.1, 0.0999, 0.5, 0.5, 0.2, 0.0, 0.9, 0.9, 0.9]})
    assert performance.found(sized) == \
        "**Smallest lesions found, with an IoU of at least 0.1: B 2 of 2**, C 1.5 of 2, A 1 of 2."
    assert performance.found(sized[8:]) == ""


def test_the_facts_of_a_study_state_what_the_prompts_hold(smoke_study):
    assert facts(smoke_study).endswith(
        "\n- The prompts hold size and location from the system's own first pass (XBusNet, XBusNet without SFA); a "
        "location alone from the system's own first pass (BUSSAM); shape, margin and BI-RADS category from the "
        "metadata (XBusNet, XBusNet without GFE).")
    without = replace(smoke_study, per_image=smoke_study.per_image.query("system == 'unet'"))
    assert "prompts" not in facts(without)


def test_the_prompts_hold_what_the_systems_read_and_the_dataset_gives(tmp_path):
    """BLU gives all attributes, BUS-BRA the BI-RADS category alone, BUSI none; BUSSAM reads a point."""
    scored = pd.DataFrame({"system": ["unet", "bussam", "xbusnet"], "paper_name": ["UNet", "BUSSAM", "XBusNet"],
                           "policy": ["none", "first_pass", "first_pass"], "attributes": ["none", "none", "metadata"],
                           "default": True})
    read = {"unet": "dice", "bussam": "dice,x,y", "xbusnet": "dice,global_text,local_text"}
    for system, columns in read.items():
        (tmp_path / system).mkdir()
        (tmp_path / system / "per_image.csv").write_text(columns + "\n")
    runs = pd.DataFrame({"system": list(read), "folder": [tmp_path / system for system in read]})
    blu = pd.DataFrame({"shape": ["oval", None], "margin": [None, "indistinct"], "birads": ["2", "3"]})

    def stated(cases, scored=scored):
        return study._prompts(study.Study("s", tmp_path, runs, scored, cases, [], {}, []))

    first = ("The prompts hold size and location from the system's own first pass (XBusNet); a location alone from the "
             "system's own first pass (BUSSAM)")
    assert stated(blu) == [f"{first}; shape, margin and BI-RADS category from the metadata (XBusNet)."]
    busbra, busi = blu.assign(shape=None, margin=None), blu.assign(shape=None, margin=None, birads=np.nan)
    assert stated(busbra) == [f"{first}; BI-RADS category from the metadata (XBusNet). This dataset gives no shape "
                              "and no margin."]
    assert stated(busi) == [f"{first}. This dataset gives no shape, no margin and no BI-RADS category."]
    assert stated(busi, scored[:2]) == ["The prompts hold a location alone from the system's own first pass (BUSSAM)."]
    assert stated(busi, scored[:1]) == []


def test_systems_without_a_curve_are_named():
    rates = pd.DataFrame({"paper_name": ["A", "theirs"], "false_positives all": [0.4, float("nan")]})
    assert contours.without_curve(rates) == \
        "No curve for theirs: the adopted predictions do not include the normal images.\n\n"
    assert contours.without_curve(rates[:1]) == ""


def test_every_system_without_a_prediction_is_named():
    table = pd.DataFrame({"paper_name": list("ABC"), "hd95": [3.0, 2.0, 4.0], "hd95_median": 1.5, "nsd": 0.6,
                          "empty": [1, 0, 1], "n": 5, "folds": 5})
    text = contours.distances(table)
    assert "**B has the lowest mean HD95, 2.0 mm**" in text and "60% of the contour length lies within 1 mm" in text
    assert text.endswith("Nothing was predicted in 2 of the 15 pairs of a system and a lesion, most often by A, C (1).")
    lacking = pd.concat([table.assign(fold_list="0, 1"), table[:1].assign(paper_name="D", hd95=1.0, fold_list="0")])
    assert contours.distances(lacking) == text


def test_of_a_partial_study_only_systems_over_the_same_folds_are_compared():
    rates = pd.DataFrame({"paper_name": ["UNet", "XBusNet", "U-ResNet"], "fold_list": ["0", "0, 1", "0, 1"],
                          "found": [50.0, 90.0, 80.0], "lesions": [51, 102, 102],
                          "false_positives all": [0.1, 0.2, 0.3]})
    assert contours.found(rates) == ("**XBusNet finds the most lesions, 90 of 102**, with 0.20 false positives per "
                                     "image, the lowest rate of all systems.")


@pytest.mark.parametrize(("n", "words"), [(4, "With 4 systems, a rank correlation"), (5, "1.00 for ECE")])
def test_a_few_systems_have_no_order_to_compare(n, words):
    dice = pd.Series(np.arange(n) / 10, index=list("ABCDE")[:n])
    assert words in contours.other_orders(dice, pd.DataFrame({"ECE": dice * 2}))


def test_orders_are_compared_where_both_scores_are_known():
    dice = pd.Series(np.arange(6) / 10, index=list("ABCDEF"))
    text = contours.other_orders(dice, pd.DataFrame({"ECE": dice.where(dice != 0.2), "HD95": dice.where(dice < 0.4)}))
    assert "is 1.00 for ECE, – for HD95." in text


def test_what_the_whole_prompt_is_worth():
    assert "nothing given" in {variation.name for variation in variations.VARIATIONS}
    table = pd.DataFrame({"baseline": ["first_pass", "first_pass"], "variation": ["all wrong", "nothing given"],
                          "dice": [0.6, 0.695], "change": [-0.1, -0.028], "low": -0.049, "high": -0.006})
    assert prompts.worth(table, "XBusNet") == (
        "Starting from the model's own first pass, the mean Dice of XBusNet is **0.723 with the whole prompt and "
        "0.695 with an empty prompt** (−0.028, 95 % −0.049 to −0.006).")
    reference = table.assign(baseline="reference", dice=0.5)  # first in the table, last in the text
    assert prompts.worth(pd.concat([reference, table]), "A").startswith("Starting from the model's own first pass")
    for emptiest in ("no attributes", "policy none"):  # of systems that read attributes, or size and location, alone
        assert emptiest in {variation.name for variation in variations.VARIATIONS}
        alone = table.assign(variation=["all wrong", emptiest])
        assert "0.695 with an empty prompt** (−0.028" in prompts.worth(alone, "XBusNet")


def test_the_mean_of_found_lesions_is_over_images():
    overall = pd.DataFrame({"system": "xbusnet", "paper_name": "XBusNet", "n": 100, "missed": [3.0, 10.0],
                            "dice_found": [0.8, 0.9]})
    assert transfer.misses(overall) == ("XBusNet misses 3 of 100 lesions at the first step and 10 at the last; its "
                                        "mean Dice over the lesions that it touches at all is then 0.900.")
    assert transfer.misses(overall.assign(dice_found=np.nan)).endswith("and 10 at the last.")
    alone = pd.concat([overall[:1], overall[1:].assign(system="unet", paper_name="UNet")])
    assert transfer.misses(alone) == "XBusNet misses 3 of 100 lesions. UNet misses 10 of 100 lesions."


def test_what_the_prompt_adds_is_told_of_every_step():
    prompted = pd.DataFrame({"system": "xbusnet", "paper_name": "XBusNet", "step": ["one", "two", "three"],
                             "prompt": "first pass, attributes", "mean_difference": [0.01, -0.04, 0.0],
                             "low": [0.0, -0.05, -0.01], "high": [0.02, -0.03, 0.01]})
    text = transfer.prompt(prompted)
    assert "two −0.040 (95 % −0.050 to −0.030)" in text and "one +0.010" in text and "three 0.000" in text


def test_maps_of_a_system_that_has_few_are_no_mean():
    summary = pd.DataFrame({"paper_name": ["A", "B"], "cases": 4, "without_activation": [0, 3], "inside": [0.5, 1.0],
                            "near": [0.1, 0.0]})
    table = pd.DataFrame({"case_id": ["1"], "inside_area": [0.1], "near_area": [0.05]})
    assert cases.on_the_lesion(summary, table) == (
        "Of the activation, 60% (A) lies on the lesion or near its boundary, which take up 15% of the image.")
    two = cases.on_the_lesion(summary.assign(without_activation=0), table)
    assert two.startswith("Of the activation, 60% (A) to 100% (B) lies on the lesion")


def test_maps_that_stay_alike_without_training():
    summary = pd.DataFrame({"paper_name": list("ABC"), "cases": 4, "spearman_after": [0.53, 0.49, np.nan],
                            "spearman_all": [0.2, 0.1, 0.0], "empty_after": 0.0, "empty_all": [0.0, 0.25, 0.0]})
    assert cases.sanity(summary) == (
        "A map that stays alike without training (mean rank correlation of at least 0.5 over 4 cases) says little "
        "about what was learned. The maps of 1 of 2 systems (A 0.53) stay alike when only the weights after the layer "
        "are replaced by random ones, and those of 0 of 3 systems when all trained weights are. A map without any "
        "activation under random weights counts as correlation 0 (up to 25% of a system's maps). No trained weight "
        "follows the layer in C.")


@pytest.mark.parametrize(("scoring", "point", "given", "text"), [
    (("first_pass", "metadata"), False, True, "Size and location in the prompt are from the model's own first pass; "
     "the attributes are those of the metadata."),
    (("first_pass", "metadata"), False, False, "Size and location in the prompt are from the model's own first pass; "
     "the dataset gives no attributes."),
    (("first_pass", "none"), False, True, "Size and location in the prompt are from the model's own first pass."),
    (("first_pass", "none"), True, True, "The prompt is a point from the model's own first pass."),
    (("none", "metadata"), False, True, "The prompt has neither size nor location; the attributes are those of the "
     "metadata."), (("none", "none"), False, True, "No prompt was given.")])
def test_where_a_prompt_comes_from(scoring, point, given, text):
    assert training.prompt_source(*scoring, point, given) == text


def test_a_scoring_in_words_says_attributes_where_the_system_reads_any():
    both, spatial = [["first_pass", "metadata"], ["first_pass", "none"]], [["first_pass", "none"], ["none", "none"]]
    assert [training.scoring(*each, both) for each in both] == ["first pass, with attributes",
                                                                "first pass, without attributes"]
    assert [training.scoring(*each, spatial) for each in spatial] == ["first pass", "neither size nor location"]
    assert training.scoring("none", "none", [["none", "none"]]) == "no prompt"


def test_of_one_system_there_is_no_range():
    errors = pd.DataFrame({"paper_name": ["A", "B"], "missed_near": [1.0, 4.0], "added_near": [1.0, 0.0],
                           "missed_inside": 1.0, "added_elsewhere": 0.0})
    assert "pixels near the reference contour make up 67% (A) to 80% (B) of the" in cases.near_the_contour(errors, 4)
    assert "pixels near the reference contour make up 67% (A) of the" in cases.near_the_contour(errors[:1], 4)
    panels = pd.DataFrame({"paper_name": ["A", "B"], "rule": "dark", "dice": [0.0, 0.5]})
    assert cases.by_case(panels) == "- **dark**: Dice 0.00 (A) to 0.50 (B), median 0.25; missed by 1 of 2 systems."
    assert cases.by_case(panels[:1]) == "- **dark**: Dice 0.00 (A), median 0.00; missed by 1 of 1 system."
