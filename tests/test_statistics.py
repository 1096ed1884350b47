"""Paired statistics: against scipy, and against cases worked out by hand."""

from fractions import Fraction
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from xbuslib.analyses.performance.comparisons import COLUMNS, compare_all
from xbuslib.errors import StudyError
from xbuslib.evaluation import statistics


def scores(**systems):
    """Per-image rows of one fold: name=list of Dice."""
    return pd.DataFrame([{"system": name, "paper_name": name.upper(), "policy": "none", "attributes": "none",
                          "fold": 0, "seed": 0, "case_id": f"case{i:03}", "dice": value, "iou": value / 2}
                         for name, values in systems.items() for i, value in enumerate(values)])


def test_untied_differences_by_hand_and_exactly():
    # differences .1 -.2 .3 .4: ranks 1 2 3 4, W+ = 8, W- = 2; of the 16 sign patterns 6 have min(W+, W-) <= 2
    row = statistics.compare(scores(a=[0.5, 0.3, 0.8, 0.9], b=[0.4, 0.5, 0.5, 0.5]), "a", "b", "dice")
    assert row["n"] == 4 and row["statistic"] == 2
    assert row["mean_difference"] == pytest.approx(0.15)
    assert row["rank_biserial"] == pytest.approx((8 - 2) / 10)
    assert row["p"] == pytest.approx(6 / 16)


def test_sign_turns_with_the_order_of_the_systems():
    rows = scores(a=[0.5, 0.3, 0.8, 0.9], b=[0.4, 0.5, 0.5, 0.5])
    one, other = statistics.compare(rows, "a", "b", "dice"), statistics.compare(rows, "b", "a", "dice")
    assert other["rank_biserial"] == pytest.approx(-one["rank_biserial"]) and one["rank_biserial"] > 0
    assert other["p"] == one["p"] and other["mean_difference"] == pytest.approx(-one["mean_difference"])
    assert (other["low"], other["high"]) == pytest.approx((-one["high"], -one["low"]), abs=1e-9)


def test_ties_and_zeros_by_hand():
    # 0 0 .2 .2 -.2 .4 : |d| ranks 1.5 1.5 4 4 4 6, zeros dropped: W+ = 4 + 4 + 6, W- = 4
    found = statistics.signed_rank([0, 0, 0.2, 0.2, -0.2, 0.4])
    assert found["rank_biserial"] == pytest.approx((14 - 4) / 18)
    assert found["statistic"] == 4
    # the zeros stay zeros, the other four change sign at random: 16 patterns, by counting
    sums = [sum(rank for rank, sign in zip((4, 4, 4, 6), signs, strict=True) if sign > 0)
            for signs in product((1, -1), repeat=4)]
    exact = Fraction(sum(min(total, 18 - total) <= 4 for total in sums), 16)
    assert found["p"] == pytest.approx(float(exact))


def test_zeros_have_ranks_but_not_a_side():
    """Pratt's rule: dropping the zeros beforehand would give ranks 1 2 and r = 1/3; here they are 3 and 4."""
    assert statistics.signed_rank([0, 0, -0.1, 0.2])["rank_biserial"] == pytest.approx((4 - 3) / 7)


def test_all_differences_zero():
    row = statistics.compare(scores(a=[0, 0.5, 0], b=[0, 0.5, 0]), "a", "b", "dice")
    assert (row["p"], row["statistic"], row["rank_biserial"]) == (1, 0, 0)
    assert (row["mean_difference"], row["low"], row["high"]) == (0, 0, 0)


def test_one_sided_advantage_is_one():
    assert statistics.signed_rank([0.1, 0.2, 0])["rank_biserial"] == 1
    assert statistics.signed_rank([-0.1, -0.2])["rank_biserial"] == -1


def test_large_samples_against_the_normal_approximation():
    """Pratt's mean and variance (Cureton 1967) written out, with ties."""
    rng = np.random.default_rng(3)
    d = rng.integers(-6, 9, 120) / 100
    ranks, zeros = stats.rankdata(abs(d)), (d == 0).sum()
    n = len(d)
    mean = n * (n + 1) / 4 - zeros * (zeros + 1) / 4
    variance = (n * (n + 1) * (2 * n + 1) - zeros * (zeros + 1) * (2 * zeros + 1)) / 24
    _, ties = np.unique(ranks[d != 0], return_counts=True)
    variance -= (ties**3 - ties).sum() / 48
    smaller = min(ranks[d > 0].sum(), ranks[d < 0].sum())
    p = 2 * stats.norm.cdf((smaller - mean) / variance**0.5)
    assert statistics.signed_rank(d)["p"] == pytest.approx(p)


def test_joined_on_case_id_not_on_position():
    rows = scores(a=[0.1, 0.4, 0.9], b=[0.0, 0.2, 0.6])
    shuffled = rows.sample(frac=1, random_state=1)
    assert list(shuffled["case_id"]) != list(rows["case_id"])
    assert statistics.compare(shuffled, "a", "b", "dice") == statistics.compare(rows, "a", "b", "dice")


def test_seeds_are_averaged_first():
    rows = scores(a=[0.1, 0.4], b=[0.2, 0.2])
    second = rows[rows["system"] == "a"].assign(seed=1, dice=[0.5, 0.8])
    row = statistics.compare(pd.concat([rows, second]), "a", "b", "dice")
    assert row["n"] == 2 and row["mean_difference"] == pytest.approx((0.3 + 0.6 - 0.4) / 2)


def test_holm_by_hand():
    # sorted .01 .02 .04: 3 × .01, 2 × .02, 1 × .04, never falling
    assert statistics.holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert statistics.holm([0.5, 0.9]) == pytest.approx([1, 1])


def test_interval_of_a_constant_difference_is_the_constant():
    row = statistics.compare(scores(a=[0.5, 0.75, 1.0], b=[0.25, 0.5, 0.75]), "a", "b", "dice")
    assert (row["low"], row["mean_difference"], row["high"]) == (0.25, 0.25, 0.25)


def test_interval_of_many_is_that_of_the_normal_law():
    difference = np.random.default_rng(1).normal(0.05, 0.2, 400)
    low, high = statistics.interval(difference)
    half = 1.96 * difference.std() / 20
    assert (low, high) == pytest.approx((difference.mean() - half, difference.mean() + half), abs=0.1 * half)
    assert (low, high) == statistics.interval(difference)  # seeded


def test_a_fold_that_only_one_has_is_left_out():
    rows = scores(a=[0.5, 0.6], b=[0.4, 0.3])
    extra = rows[rows["system"] == "a"].assign(fold=1, case_id=["case100", "case101"])
    assert statistics.compare(pd.concat([rows, extra]), "a", "b", "dice")["n"] == 2


@pytest.mark.parametrize("change, said", [
    (lambda rows: rows.assign(policy=["none", "paper", "none", "none"]), "several prompt policies"),
    (lambda rows: rows.assign(attributes=["metadata", "none", "none", "none"]), "several prompt policies"),
    (lambda rows: rows.assign(dice=[0.1, np.nan, 0.2, 0.3]), r"undefined \(nan\) for 1 image"),
    (lambda rows: rows.assign(case_id=["x", "y", "x", "z"]), "different images: 2 are without a partner"),
    (lambda rows: rows.assign(case_id=["x", "x", "x", "y"]), "more than one score of case x"),
    (lambda rows: rows.assign(fold=[0, 0, 1, 1]), "no fold in common"),
    (lambda rows: rows.assign(patient_id=["p", None] * 2), "patient_id is missing for 1 .* of a, such as case001"),
    (lambda rows: rows[rows["system"] == "a"], "no scores of b"),
])
def test_what_cannot_be_paired_is_refused(change, said):
    with pytest.raises(StudyError, match=said):
        statistics.compare(change(scores(a=[0.1, 0.2], b=[0.3, 0.4])), "a", "b", "dice")


def test_unknown_metrics_are_refused():
    with pytest.raises(StudyError, match="no metric 'seed'"):
        statistics.compare(scores(a=[0.1], b=[0.2]), "a", "b", "seed")


def test_a_study_against_scipy_and_statsmodels(smoke_study):
    table = compare_all(smoke_study)
    assert list(table.columns) == COLUMNS
    assert list(table["metric"].unique()) == ["dice", "iou"] and len(table) == 2 * 5
    wide = smoke_study.default.pivot(index="case_id", columns="system", values="iou")
    for row in table[table["metric"] == "iou"].itertuples():
        d = wide["xbusnet"] - wide[row.against]
        assert row.n == len(wide) and row.mean_difference == pytest.approx(d.mean())
        assert row.low <= row.mean_difference <= row.high
        if d.any():
            assert row.p == pytest.approx(stats.wilcoxon(d, zero_method="pratt").pvalue)
    p = np.sort(table.loc[table["metric"] == "dice", "p"])
    expected = np.minimum(1, np.maximum.accumulate(p * np.arange(len(p), 0, -1)))
    assert np.sort(table.loc[table["metric"] == "dice", "p_holm"]) == pytest.approx(expected)
    assert dict(zip(table["against"], table["policy"], strict=True))["bussam"] == "first_pass"


def test_holm_counts_only_the_comparisons_made(smoke_study):
    one = compare_all(smoke_study, metrics=("dice",), others=["unet"])
    assert list(one["against"]) == ["unet"] and one["p_holm"].equals(one["p"])
    assert compare_all(smoke_study, system="ukan").empty


def test_fold_spread_by_hand():
    rows = pd.DataFrame({"system": list("aabb"), "fold": [0, 1, 0, 1], "seed": 0, "case_id": list("wxyz"),
                         "dice": [0.2, 0.4, 0.6, 1.0]})
    # means: a .3, b .8; fold 0 .4, fold 1 .7; grand .55; residuals ±.05 in every cell, one degree of freedom
    found = statistics.fold_spread(rows)
    assert found["between_systems"] == pytest.approx(0.5 / 2**0.5)
    assert found["between_folds"] == pytest.approx(0.3 / 2**0.5)
    assert found["rest"] == pytest.approx((4 * 0.05**2) ** 0.5)
    assert statistics.fold_spread(rows[rows["fold"] == 0])[["between_folds", "rest"]].isna().all()


def test_interaction_by_hand():
    rows = scores(**{"xbusnet": [0.8, 0.9], "xbusnet-no-sfa": [0.5, 0.7], "xbusnet-no-lfe": [0.6, 0.6],
                     "xbusnet-no-lfe-no-sfa": [0.5, 0.5]})
    found = statistics.interaction(rows).set_index("effect")
    assert found.loc["SFA, with LFE", "mean"] == pytest.approx(0.25)
    assert found.loc["SFA, without LFE", "mean"] == pytest.approx(0.1)
    assert found.loc["interaction", "mean"] == pytest.approx(0.15)
    assert found.loc["interaction", "low"] == pytest.approx(0.1)  # of two images .2 and .1
    assert list(statistics.interaction(rows[rows["system"] != "xbusnet"])["effect"]) == ["SFA, without LFE"]
    pair = rows[rows["system"].isin(["xbusnet", "xbusnet-no-sfa"])]  # nothing but the two
    assert list(statistics.interaction(pair)["effect"]) == ["SFA, with LFE"]


def test_refusals_word_for_word():
    """What is wrong, and what to do."""
    rows = pd.DataFrame({"system": ["a", "a", "b", "b"], "policy": ["first_pass", "none", "none", "none"],
                         "attributes": ["metadata", "none", "none", "none"], "fold": 0, "seed": 0,
                         "case_id": ["1", "1", "1", "2"], "dice": 0.5})
    faults = {
        ("c", "a", "dice"): "there are no scores of c; there are a, b",
        ("a", "b", "dice"): "the scores of a are of several prompt policies (first_pass, metadata; none, none) and "
                            "cannot be pooled; choose one, such as the rows of study.default",
        ("b", "b", "area"): "there is no metric 'area'; the metrics are dice, iou, fpr, fnr, dice_two_class, "
                            "iou_two_class, fpr_released, fnr_two_class"}
    for arguments, message in faults.items():
        with pytest.raises(StudyError) as raised:
            statistics.compare(rows, *arguments)
        assert str(raised.value) == message


def test_interval_of_a_single_value_and_of_equal_ones():
    assert statistics.interval(np.array([0.3, 0.3])) == (0.3, 0.3)
    for values, patients in (([], None), ([0.3], None), ([0.3, 0.3], ["a", "a"]), ([0.3, 0.4], ["a", "a"])):
        assert np.isnan(statistics.interval(np.array(values), patients)).all()  # fewer than two patients
    twice = np.repeat(np.arange(6), 2)  # six patients with two images each, all of them hits
    assert statistics.share_interval(np.ones(12), twice) == pytest.approx((0.6097, 1.0), abs=1e-4)
    assert statistics.share_interval(np.array([1, 0, 1, 1]), np.arange(4)) == pytest.approx((0.3006, 0.9544), abs=1e-3)
