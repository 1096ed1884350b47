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


@pytest.mark.parametrize("numbers", [(1, 2), (0, 2)])
def test_lists_are_numbered_from_0_without_a_gap(tmp_path, numbers):
    write_lists(tmp_path, [["c000", "c001"], ["c002", "c003"]])
    for old, new in zip((1, 0), reversed(numbers), strict=True):
        (tmp_path / f"val_fold{old}.csv").rename(tmp_path / f"val_fold{new}.csv")
    with pytest.raises(StudyError, match=f"are numbered {numbers[0]}, {numbers[1]}; folds are counted from 0"):
        folds.read(tmp_path, cases(4, 1))


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


def test_twelve_lists_are_read_in_the_order_of_their_numbers(tmp_path):
    table = cases(12, 1)
    write_lists(tmp_path, [[f"c{i:03d}"] for i in range(12)])
    found = folds.read(tmp_path, table)
    assert found.tolist() == list(range(12)) and found.name == "fold" and list(found.index) == list(table["case_id"])


def test_a_training_list_must_be_the_rest(tmp_path):
    table = cases(4, 1)
    write_lists(tmp_path, [["c000", "c001"], ["c002", "c003"]])
    train = tmp_path / "train_fold1.csv"
    pd.DataFrame({"Image Name": ["c001.png", "c000.png"]}).to_csv(train, index=False)
    assert folds.read(tmp_path, table).tolist() == [0, 0, 1, 1]
    for names in (["c000.png"], ["c000.png", "c001.png", "c002.png"], ["c002.png", "c003.png"]):
        pd.DataFrame({"Image Name": names}).to_csv(train, index=False)
        with pytest.raises(StudyError, match=r"train_fold1\.csv is not the rest of val_fold1\.csv$"):
            folds.read(tmp_path, table)


def test_what_is_wrong_with_a_list_is_named_three_cases_of_each(tmp_path):
    table = cases(6, 1)
    write_lists(tmp_path, [["c000", "c001", "c002", "c003"], ["c000", "c001", "c002", "c003", "x1", "x2", "x3", "x4"]])
    with pytest.raises(StudyError) as raised:
        folds.read(tmp_path, table)
    assert str(raised.value) == f"{tmp_path / 'val_fold1.csv'}: " + "; ".join(
        [f"case x{i} is not in the dataset" for i in (1, 2, 3)] + [f"case c00{i} is in two folds" for i in range(3)])


def test_a_list_without_its_column(tmp_path):
    (tmp_path / "val_fold0.csv").write_text("name\nc000.png\n")
    with pytest.raises(StudyError, match="Image Name"):
        folds.read(tmp_path, cases(4, 1))


def test_the_checksum_is_that_of_lines_of_case_and_fold():
    import hashlib

    assigned = pd.Series([1, 0], index=["b", "a"])
    assert folds.checksum(assigned) == hashlib.sha256(b"a 0\nb 1").hexdigest()[:12]


def test_pairs_across_folds():
    assigned = pd.Series([0, 0, 1], index=["a", "b", "c"])
    pairs = pd.DataFrame({"one": ["a", "a"], "other": ["b", "c"], "bits": [-1, 3]})
    assert folds.across(assigned, pairs).to_dict("records") == [{"one": "a", "other": "c", "bits": 3}]


def test_groups_stay_together_in_place_of_patients():
    table = cases(40, 1)
    groups = pd.Series([f"g{i // 4}" for i in range(40)])
    fold = folds.split(table, 5, 0, groups)
    assert fold.to_numpy().reshape(10, 4).std(axis=1).max() == 0 and fold.name == "fold"
    with pytest.raises(StudyError, match="^10 patients cannot fill 11 folds$"):
        folds.split(table, 11, 0, groups)
