"""Metrics against hand-counted masks and torchmetrics (Section 2.4; docs/protocol.md, "Metrics")."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_f1_score, binary_jaccard_index

from xbuslib.evaluation.metrics import PAPER, RELEASED, per_image


def masks(tp, fp, fn, tn):
    """One (1, n) prediction and reference with the given counts."""
    prediction = np.array([1] * tp + [1] * fp + [0] * fn + [0] * tn, bool)[None]
    reference = np.array([1] * tp + [0] * fp + [1] * fn + [0] * tn, bool)[None]
    return [prediction], [reference]


def test_counts_by_hand():
    row = per_image(*masks(tp=6, fp=2, fn=4, tn=88)).iloc[0]
    assert row["dice"] == pytest.approx(12 / 18)
    assert row["iou"] == pytest.approx(6 / 12)
    assert row["fpr"] == pytest.approx(2 / 90)
    assert row["fnr"] == pytest.approx(4 / 10)
    # released family: lesion and background, and TN* = 2(FP + FN) = 12
    assert row["dice_two_class"] == pytest.approx((12 / 18 + 176 / 182) / 2)
    assert row["iou_two_class"] == pytest.approx((6 / 12 + 88 / 94) / 2)
    assert row["fpr_released"] == pytest.approx((2 / 14 + 4 / 16) / 2)
    assert row["fnr_two_class"] == pytest.approx((4 / 10 + 2 / 90) / 2)


def test_agrees_with_torchmetrics():
    rng = np.random.default_rng(0)
    predictions, references = rng.random((8, 40, 30)) < 0.4, rng.random((8, 40, 30)) < 0.3
    ours = per_image(predictions, references)
    for i in range(8):
        p, r = torch.tensor(predictions[i]).long(), torch.tensor(references[i]).long()
        assert ours["dice"][i] == pytest.approx(binary_f1_score(p, r).item(), abs=1e-6)
        assert ours["iou"][i] == pytest.approx(binary_jaccard_index(p, r).item(), abs=1e-6)
        assert ours["dice_two_class"][i] == pytest.approx(
            (binary_f1_score(p, r).item() + binary_f1_score(1 - p, 1 - r).item()) / 2, abs=1e-6)


def test_released_fpr_lies_between_a_sixth_and_a_fifth():
    """The bound that identifies the released formula in a printed table."""
    rng = np.random.default_rng(1)
    rows = per_image(rng.random((50, 20, 20)) < 0.3, rng.random((50, 20, 20)) < 0.2)
    assert rows["fpr_released"].between(1 / 6 - 1e-12, 1 / 5 + 1e-12).all()
    assert per_image(*masks(5, 3, 3, 9))["fpr_released"][0] == pytest.approx(1 / 5)
    assert per_image(*masks(5, 3, 0, 9))["fpr_released"][0] == pytest.approx(1 / 6)


def test_nothing_predicted_and_nothing_to_find():
    missed = per_image(*masks(0, 0, 10, 90)).iloc[0]
    assert missed["dice"] == 0 and missed["fnr"] == pytest.approx(1) and missed["fpr"] == 0
    assert missed["fpr_released"] == pytest.approx(1 / 6) and missed["fnr_two_class"] == pytest.approx(0.5)
    normal = per_image(*masks(0, 5, 0, 95)).iloc[0]
    assert normal[["dice", "iou", "fnr"]].isna().all() and normal["fpr"] == pytest.approx(0.05)


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="differ in size"):
        per_image([np.ones((2, 2), bool)], [np.ones((2, 3), bool)])


def test_columns():
    for some in (per_image(*masks(1, 1, 1, 1)), per_image([], [])):
        assert list(some.columns) == PAPER + RELEASED
    assert per_image([], []).empty


def test_predicting_nothing_on_blu(blu_root):
    """Dice .482, IoU .466, FPR .167, FNR .5 for an empty prediction on BLU, in the released family."""
    from xbuslib.data.catalogue import load
    from xbuslib.data.images import read_mask

    references = [read_mask(path) for path in load("blu", blu_root)["mask"].dropna()]
    mean = per_image([np.zeros_like(r) for r in references], references).mean()
    assert len(references) == 252
    assert mean["dice_two_class"] == pytest.approx(0.482, abs=0.001)
    assert mean["iou_two_class"] == pytest.approx(0.466, abs=0.001)
    assert mean["fpr_released"] == pytest.approx(1 / 6, abs=1e-6)
    assert mean["fnr_two_class"] == pytest.approx(0.5)
