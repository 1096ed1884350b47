"""Folds: a partition, stratified and grouped; the authors' lists as they are."""

import pandas as pd
import pytest

from xbuslib.data import folds
from xbuslib.errors import StudyError


def cases(n=60, per_patient=2):
    return pd.DataFrame({"case_id": [f"c{i:03d}" for i in range(n)],
                         "patient_id": [f"p{i // per_patient}" for i in range(n)],
                         "pathology": ["malignant" if (i // per_patient) % 3 == 0 else "benign" for i in range(n)]})


def test_patients_stay_together_and_classes_are_spread():
    table = cases()
    fold = folds.split(table, 5, seed=0)
    assert sorted(fold.unique()) == [0, 1, 2, 3, 4] and fold.index.tolist() == table["case_id"].tolist()
    assert table.assign(fold=fold.to_numpy()).groupby("patient_id")["fold"].nunique().eq(1).all()
    malignant = table.assign(fold=fold.to_numpy()).query("pathology == 'malignant'").groupby("fold").size()
    assert malignant.min() == malignant.max() == 4  # 10 malignant patients with two images, over five folds


def test_seed_decides():
    table = cases()
    assert folds.split(table, 5, 0).equals(folds.split(table, 5, 0))
    assert not folds.split(table, 5, 0).equals(folds.split(table, 5, 1))
    assert folds.checksum(folds.split(table, 5, 0)) != folds.checksum(folds.split(table, 5, 1))


def test_too_few_patients():
    with pytest.raises(StudyError, match="3 patients cannot fill 5 folds"):
        folds.split(cases(6), 5)


def write_lists(folder, lists):
    for k, names in enumerate(lists):
        pd.DataFrame({"Image Name": [f"{name}.png" for name in names]}).to_csv(folder / f"val_fold{k}.csv", index=False)


def test_lists_that_do_not_partition_are_refused(tmp_path):
    table = cases(4, 1)
    write_lists(tmp_path, [["c000", "c001"], ["c002"]])
    with pytest.raises(StudyError, match="1 case.*in no fold.*c003"):
        folds.read(tmp_path, table)
    write_lists(tmp_path, [["c000", "c001"], ["c001", "c002", "c003"]])
    with pytest.raises(StudyError, match=r"val_fold1.csv: case c001 is in two folds"):
        folds.read(tmp_path, table)
    write_lists(tmp_path, [["c000", "c001"], ["c002", "c003", "c999"]])
    with pytest.raises(StudyError, match="case c999 is not in the dataset"):
        folds.read(tmp_path, table)
    write_lists(tmp_path, [["c000", "c001"], ["c002", "c003"]])
    assert folds.read(tmp_path, table).tolist() == [0, 0, 1, 1]


def test_no_lists(tmp_path):
    with pytest.raises(StudyError, match="no val_fold0.csv"):
        folds.read(tmp_path, cases())


def test_released_lists_partition_the_252(blu_root):
    from xbuslib.data.cases import lesions
    from xbuslib.data.catalogue import load

    table = lesions(load("blu", blu_root))
    fold = folds.read(blu_root / "released_folds", table)
    assert fold.value_counts().sort_index().tolist() == [51, 51, 50, 50, 50]
    benign = table.assign(fold=fold.to_numpy()).query("pathology == 'benign'").groupby("fold").size()
    assert benign.tolist() == [36, 27, 32, 28, 31]  # paper_vs_code, section 4
