"""Scores of images to means of folds to mean and SD over folds, by hand."""

import math

import pandas as pd
import pytest

from xbuslib.evaluation.aggregation import fold_lists, fold_means, over_folds

# system b: fold 1 with two seeds, fold 0 with one; system a, whose key `note` is missing, has one fold
ROWS = pd.DataFrame([
    ("b", "x", 1, 0, 0.2), ("b", "x", 1, 0, 0.4), ("b", "x", 1, 1, 0.7), ("b", "x", 0, 0, 0.9),
    ("a", None, 0, 0, 0.6), ("a", None, 0, 0, math.nan),
], columns=["system", "note", "fold", "seed", "dice"])


def test_means_of_folds_in_the_order_of_the_rows():
    found = fold_means(ROWS, ["system", "note"], ["dice"])
    assert list(found.columns) == ["system", "note", "fold", "dice"]
    assert found["system"].tolist() == ["b", "b", "a"] and found["fold"].tolist() == [1, 0, 0]
    assert found["dice"].tolist() == pytest.approx([0.5, 0.9, 0.6])  # (0.3 + 0.7) / 2: seeds, not images, are averaged
    assert pd.isna(found["note"].iloc[2])  # a key that is missing is a key; a score that is missing is left out


def test_mean_and_sample_sd_over_folds():
    found = over_folds(ROWS, ["system", "note"], ["dice"])
    assert list(found.columns) == ["system", "note", "folds", "fold_list", "dice", "dice_sd"]
    assert found["system"].tolist() == ["b", "a"] and found["folds"].tolist() == [2, 1]
    assert found["dice"].tolist() == pytest.approx([0.7, 0.6])
    assert found["dice_sd"].iloc[0] == pytest.approx(math.sqrt(2) * 0.2)  # ± 0.2 around 0.7, n − 1 = 1
    assert math.isnan(found["dice_sd"].iloc[1])


def test_which_folds_are_said_where_rows_differ_in_them():
    """As many folds are not yet the same ones."""
    rows = pd.DataFrame({"system": list("aabb"), "fold": [10, 2, 2, 3], "seed": 0, "dice": 0.5})
    assert fold_lists(rows, ["system"]).to_dict() == {"a": "2, 10", "b": "2, 3"}
    assert over_folds(rows, ["system"], ["dice"])["fold_list"].tolist() == ["2, 10", "2, 3"]
    same = over_folds(rows.assign(fold=[3, 2, 2, 3]), ["system"], ["dice"])
    assert list(same.columns) == ["system", "folds", "dice", "dice_sd"] and same["folds"].tolist() == [2, 2]
    assert over_folds(rows[:0], ["system"], ["dice"]).empty


def test_of_several_metrics_each_stands_before_its_sd():
    found = over_folds(ROWS[ROWS["fold"] == 0].assign(iou=ROWS["dice"] / 2), ["system"], ["dice", "iou"])
    assert list(found.columns) == ["system", "folds", "dice", "dice_sd", "iou", "iou_sd"]
    assert found["iou"].tolist() == pytest.approx([0.45, 0.3])
