"""Metrics, means over folds and tests, counted a second time: paper Sections 2.4 and 3.1, docs/protocol.md.

Pixels are counted one by one, sign patterns are enumerated, and means are taken in plain loops.
"""

import itertools
import math
import statistics as plain

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from xbuslib.errors import StudyError
from xbuslib.evaluation import aggregation, metrics, statistics

PAPER = ("dice", "iou", "fpr", "fnr")
RELEASED = ("dice_two_class", "iou_two_class", "fpr_released", "fnr_two_class")

# ---- metrics ----------------------------------------------------------------------------------------------------


def confusion(prediction, reference):
    tp = fp = fn = tn = 0
    for p, m in zip(prediction.ravel().tolist(), reference.ravel().tolist(), strict=True):
        tp, fp, fn, tn = tp + (p and m), fp + (p and not m), fn + (m and not p), tn + (not p and not m)
    return tp, fp, fn, tn


def paper_metrics(tp, fp, fn, tn):
    """Section 2.4, lesion only; ε keeps a ratio of zeros at zero."""
    e = 1e-8
    return {"dice": 2 * tp / (2 * tp + fp + fn + e), "iou": tp / (tp + fp + fn + e),
            "fpr": fp / (fp + tn + e), "fnr": fn / (fn + tp + e)}


def released_metrics(tp, fp, fn, tn):
    """paper_vs_code 1.1: means over lesion and background; errors, 2(FP + FN), stand for true negatives in FPR."""
    def share(part, whole):
        return part / whole if whole else 0.0

    errors = 2 * (fp + fn)
    return {"dice_two_class": (share(2 * tp, 2 * tp + fp + fn) + share(2 * tn, 2 * tn + fp + fn)) / 2,
            "iou_two_class": (share(tp, tp + fp + fn) + share(tn, tn + fp + fn)) / 2,
            "fpr_released": (share(fp, fp + errors) + share(fn, fn + errors)) / 2,
            "fnr_two_class": (share(fn, fn + tp) + share(fp, fp + tn)) / 2}


def masks(n=12, side=7):
    """Random pairs, and an empty prediction, a full one, a perfect one, an inverted one, a miss."""
    rng = np.random.default_rng(1)
    references = rng.random((n, side, side)) < rng.uniform(0.1, 0.6, (n, 1, 1))
    predictions = rng.random((n, side, side)) < rng.uniform(0.1, 0.6, (n, 1, 1))
    predictions[0], predictions[1], predictions[2], predictions[3] = False, True, references[2], ~references[3]
    references[4], predictions[4] = False, False
    references[4, 1, 1] = predictions[4, 5, 5] = True
    return predictions, references


def test_both_families_by_counting():
    predictions, references = masks()
    table = metrics.per_image(predictions, references)
    assert tuple(metrics.PAPER) == PAPER and tuple(metrics.RELEASED) == RELEASED and len(table) == 12
    for row, prediction, reference in zip(table.itertuples(), predictions, references, strict=True):
        counted = confusion(prediction, reference)
        for name, value in (paper_metrics(*counted) | released_metrics(*counted)).items():
            assert getattr(row, name) == pytest.approx(value, abs=1e-7), (row.Index, name)
    assert table.loc[0, "dice"] == table.loc[0, "iou"] == table.loc[0, "fpr"] == 0
    assert table.loc[0, "fnr"] == pytest.approx(1, abs=1e-7), "an empty prediction misses everything"
    assert table.loc[0, "fpr_released"] == pytest.approx(1 / 6) and table.loc[2, "fpr_released"] == 0


def test_without_a_reference_lesion_only_the_false_positive_rate_is_defined():
    prediction = np.zeros((2, 4, 5), bool)
    prediction[1, :2, :3] = True
    table = metrics.per_image(prediction, np.zeros((2, 4, 5), bool))
    assert table[["dice", "iou", "fnr"]].isna().all().all()
    assert table["fpr"].tolist() == pytest.approx([0, 6 / 20], abs=1e-7)
    for row, counted in zip(table.itertuples(), [(0, 0, 0, 20), (0, 6, 0, 14)], strict=True):
        for name, value in released_metrics(*counted).items():
            assert getattr(row, name) == pytest.approx(value, abs=1e-7), name


# ---- means over folds -------------------------------------------------------------------------------------------


def scores(systems=("a", "b"), folds=3, seeds=(0, 1), column="dice", offset=0.0, seed=4):
    """Per-image scores; fold f has 4 + f images."""
    rng, rows = np.random.default_rng(seed), []
    for number, system in enumerate(systems):
        for fold in range(folds):
            for one in seeds:
                for image in range(4 + fold):
                    rows.append({"system": system, "paper_name": system.upper(), "policy": "none", "attributes": "none",
                                 "default": True, "fold": fold, "seed": one, "case_id": f"case{fold}{image}",
                                 column: round(float(rng.random()) + offset * number, 6)})
    return pd.DataFrame(rows)


def test_means_are_taken_over_images_then_folds():
    """Section 2.4: mean over a fold's images, then mean ± SD over folds; the SD is the sample's."""
    rows = scores().sample(frac=1, random_state=0)
    rows.loc[(rows["system"] == "b") & (rows["case_id"] == "case10"), "dice"] = np.nan
    table = aggregation.over_folds(rows, metrics=["dice"]).set_index("system")
    per_fold = aggregation.fold_means(rows, metrics=["dice"]).set_index(["system", "fold"])
    for system in "ab":
        means = []
        for fold in range(3):
            per_seed = [plain.mean(value for value in rows.loc[
                (rows["system"] == system) & (rows["fold"] == fold) & (rows["seed"] == seed), "dice"]
                if not math.isnan(value)) for seed in (0, 1)]
            means.append(plain.mean(per_seed))
            assert per_fold.loc[(system, fold), "dice"] == pytest.approx(means[-1], abs=1e-9)
        assert table.loc[system, "dice"] == pytest.approx(plain.mean(means), abs=1e-9)
        assert table.loc[system, "dice_sd"] == pytest.approx(plain.stdev(means), abs=1e-9)
        assert table.loc[system, "folds"] == 3
    assert math.isnan(aggregation.over_folds(rows[rows["fold"] == 0], metrics=["dice"])["dice_sd"].iloc[0])


def test_policies_are_never_averaged():
    rows = scores(("a",))
    both = pd.concat([rows, rows.assign(policy="reference", dice=rows["dice"] + 1)])
    table = aggregation.over_folds(both, metrics=["dice"]).set_index("policy")["dice"]
    assert len(table) == 2 and table["reference"] - table["none"] == pytest.approx(1)


def test_spread_of_folds_by_hand():
    """Two-way table of systems × folds: SD of either's means, and of what is left beyond both."""
    rows = scores(("a", "b", "c"), folds=4, seeds=(0,))
    cell = [[plain.mean(rows.loc[(rows["system"] == s) & (rows["fold"] == f), "dice"]) for f in range(4)]
            for s in "abc"]
    grand = plain.mean(itertools.chain(*cell))
    by_system, by_fold = [plain.mean(line) for line in cell], [plain.mean(line) for line in zip(*cell, strict=True)]
    rest = sum((cell[s][f] - by_system[s] - by_fold[f] + grand) ** 2 for s in range(3) for f in range(4)) / (2 * 3)
    found = statistics.fold_spread(rows)
    assert found["between_systems"] == pytest.approx(plain.stdev(by_system), abs=1e-9)
    assert found["between_folds"] == pytest.approx(plain.stdev(by_fold), abs=1e-9)
    assert found["rest"] == pytest.approx(math.sqrt(rest), abs=1e-9)


# ---- Wilcoxon's test --------------------------------------------------------------------------------------------


def signed_ranks(differences):
    """Rank of |d| with its sign, ties sharing their mean rank; zeros are ranked and then get rank 0 (Pratt 1959)."""
    sizes = [abs(d) for d in differences]
    ranks = [1 + sum(b < a for b in sizes) + (sum(b == a for b in sizes) - 1) / 2 for a in sizes]
    return [rank * ((d > 0) - (d < 0)) for rank, d in zip(ranks, differences, strict=True)]


def exact(differences):
    """All patterns of signs, each as likely: the share at least as far out, on both sides."""
    signed = signed_ranks(differences)
    ranks = [abs(rank) for rank in signed if rank]
    observed = sum(rank for rank in signed if rank > 0)
    sums = [sum(itertools.compress(ranks, signs)) for signs in itertools.product((0, 1), repeat=len(ranks))]
    below = sum(total <= observed + 1e-9 for total in sums) / len(sums)
    above = sum(total >= observed - 1e-9 for total in sums) / len(sums)
    return min(1.0, 2 * min(below, above))


def approximate(differences):
    """Normal approximation with Pratt's zeros and ties: each rank r that is kept adds r/2 and r²/4."""
    signed = signed_ranks(differences)
    expected, variance = sum(abs(r) for r in signed) / 2, sum(r * r for r in signed) / 4
    return 2 * norm.sf(abs(sum(r for r in signed if r > 0) - expected) / math.sqrt(variance))


def agrees(differences, p):
    signed = signed_ranks(differences)
    up, down = sum(r for r in signed if r > 0), -sum(r for r in signed if r < 0)
    found = statistics.signed_rank(np.array(differences))
    assert found["statistic"] == pytest.approx(min(up, down))
    assert found["rank_biserial"] == pytest.approx((up - down) / (up + down), abs=1e-9)
    assert found["p"] == pytest.approx(p(differences), rel=1e-6)
    return found


@pytest.mark.parametrize("n", [5, 9, 12])
def test_exact_without_ties_and_zeros(n):
    rng = np.random.default_rng(n)
    agrees(rng.normal(0.3, 1, n).tolist(), exact)
    agrees((-np.arange(1, n + 1)).tolist(), exact)


@pytest.mark.parametrize("differences", [
    [0, 0, 0.1, 0.2, 0.2, -0.3, 0.4, 0.5], [0, 0.5, 0.5, 0.5, -0.5, 0.25],
    [0, 0, 0, 0, 0.1, 0.2, -0.3, 0.4, 0.6, 0.7, 1],
    [0.1, 0.1, -0.1, 0.2, 0.3, 0.4, 0.4, -0.6, 0.9]])
def test_exact_with_ties_and_zeros(differences):
    agrees(differences, exact)


def test_exact_up_to_fifty_by_counting_the_sums():
    """The number of sign patterns with each rank sum, built up rank by rank."""
    differences = np.random.default_rng(50).normal(0.25, 1, 50)
    ways = np.zeros(50 * 51 // 2 + 1)
    ways[0] = 1
    for rank in range(1, 51):
        ways[rank:] = ways[rank:] + ways[:-rank]
    found = statistics.signed_rank(differences)
    assert found["p"] == pytest.approx(2 * ways[:int(found["statistic"]) + 1].sum() / 2.0**50, rel=1e-6)


def test_normal_approximation_with_pratts_zeros():
    rng = np.random.default_rng(3)
    many = np.round(rng.normal(0.05, 0.2, 120), 2)
    many[:25] = 0
    found = agrees(many.tolist(), approximate)
    without = agrees(many[many != 0].tolist(), approximate)
    assert found["p"] != pytest.approx(without["p"], rel=1e-3), "zeros must stay in the ranking"


def test_no_difference_at_all():
    found = statistics.signed_rank(np.zeros(7))
    assert (found["p"], found["statistic"], found["rank_biserial"]) == (1, 0, 0)


# ---- Holm, interval, comparison ---------------------------------------------------------------------------------


def test_holm_by_hand():
    """The smallest p times m, the next times m − 1, …; never below the one before, never over 1."""
    p = pd.Series([0.01, 0.04, 0.03, 0.005, 0.6])
    assert statistics.holm(p) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.6])
    assert statistics.holm(pd.Series([0.5, 0.4, 0.6])) == pytest.approx([1, 1, 1])


def test_bootstrap_interval():
    """2.5th and 97.5th percentile of the mean of images drawn with replacement."""
    low, high = statistics.interval(np.array([0.0, 1.0]))
    assert (low, high) == (0, 1), "a quarter of the means lies at either end"
    differences = np.random.default_rng(8).gamma(2, 0.1, 60)
    rng = np.random.default_rng(9)
    means = [differences[rng.integers(0, 60, 60)].mean() for _ in range(20_000)]
    wanted = np.percentile(means, [2.5, 97.5])
    assert statistics.interval(differences) == pytest.approx(wanted, abs=0.05 * (wanted[1] - wanted[0]))
    assert statistics.interval(differences) == statistics.interval(differences)


def test_comparison_is_paired_by_image_with_seeds_averaged():
    rows = scores(offset=0.2).sample(frac=1, random_state=1)
    rows = rows[~((rows["system"] == "b") & (rows["fold"] == 2))]  # a fold that only one has is left out
    mean = {(s, c): plain.mean(rows.loc[(rows["system"] == s) & (rows["case_id"] == c), "dice"])
            for s in "ab" for c in rows.loc[rows["fold"] < 2, "case_id"].unique()}
    differences = [mean["b", c] - mean["a", c] for s, c in mean if s == "a"]
    found = statistics.compare(rows, "b", "a", "dice")
    assert found["n"] == len(differences) == 9
    assert found["mean_difference"] == pytest.approx(plain.mean(differences), abs=1e-9)
    assert found["low"] < found["mean_difference"] < found["high"]
    assert found["p"] == pytest.approx(exact(differences), rel=1e-6)
    signed = signed_ranks(differences)
    assert found["rank_biserial"] == pytest.approx(sum(signed) / sum(map(abs, signed)), abs=1e-9)
    turned = statistics.compare(rows, "a", "b", "dice")
    assert turned["mean_difference"] == pytest.approx(-found["mean_difference"])
    assert turned["rank_biserial"] == pytest.approx(-found["rank_biserial"])


def test_comparisons_of_two_definitions_are_refused():
    rows = scores()
    with pytest.raises(StudyError):
        statistics.compare(pd.concat([rows, rows.assign(policy="reference")]), "a", "b", "dice")
    with pytest.raises(StudyError):
        statistics.compare(rows[~((rows["system"] == "b") & (rows["case_id"] == "case11"))], "a", "b", "dice")
    with pytest.raises(StudyError):
        statistics.compare(rows.assign(dice=rows["dice"].where(rows["case_id"] != "case11")), "a", "b", "dice")


def test_interaction_of_sfa_and_lfe_by_hand():
    """SFA's gain with LFE, without it, and the difference of the two, image by image."""
    names = ("xbusnet", "xbusnet-no-sfa", "xbusnet-no-lfe", "xbusnet-no-lfe-no-sfa")
    rows = scores(names)
    by = rows.groupby(["system", "case_id"])["dice"].mean()
    cases = sorted(rows["case_id"].unique())
    with_lfe = [by[names[0], c] - by[names[1], c] for c in cases]
    without = [by[names[2], c] - by[names[3], c] for c in cases]
    wanted = [plain.mean(with_lfe), plain.mean(without),
              plain.mean(a - b for a, b in zip(with_lfe, without, strict=True))]
    found = statistics.interaction(rows)
    assert found["mean"].tolist() == pytest.approx(wanted, abs=1e-9) and found["n"].tolist() == [len(cases)] * 3
    assert found["effect"].iloc[-1] == "interaction"
    assert ((found["low"] < found["mean"]) & (found["mean"] < found["high"])).all()
