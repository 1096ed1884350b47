"""Components, matches and FROC on masks drawn by hand; predictions made anew against those of run folders."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from xbuslib.analyses.calibration import detection
from xbuslib.analyses.calibration.detection import Detections, match
from xbuslib.errors import StudyError
from xbuslib.prompts import words
from xbuslib.runs import record
from xbuslib.runs.trained import NewPredictions, Trained, every_run


def scene(*boxes):
    """(20, 30) probabilities: each box (rows, columns, probability)."""
    found = np.zeros((20, 30), np.float32)
    for rows, columns, probability in boxes:
        found[slice(*rows), slice(*columns)] = probability
    return found


ONE = scene(((2, 8), (2, 8), 1)) > 0  # a lesion of 36 pixels
TWO = ONE | (scene(((12, 18), (20, 26), 1)) > 0)


def hits(probabilities, reference=TWO):
    found, lesions = match(probabilities, reference, 0.5)
    rows = zip(found["score"].astype(float).round(4), found["hit"].astype(bool), strict=True)
    return sorted(rows, reverse=True), lesions


def test_one_lesion_found_one_missed_one_false_positive():
    found, lesions = hits(scene(((2, 8), (2, 8), 0.9), ((12, 14), (2, 4), 0.6), ((0, 1), (20, 21), 0.4)))
    assert lesions == 2 and found == [(0.9, True), (0.6, False)]  # what is under the threshold is nothing


def test_the_score_is_the_mean_of_a_component():
    assert hits(scene(((2, 8), (2, 5), 0.6), ((2, 8), (5, 8), 1.0)))[0] == [(0.8, True)]


@pytest.mark.parametrize(("rows", "hit"), [(12, True), (13, False)])
def test_the_least_overlap(rows, hit):
    """A box over the frame's upper rows, 30 wide, holds the lesion: IoU 36/360, the least, and 36/390."""
    assert hits(scene(((0, rows), (0, 30), 0.9)), ONE)[0] == [(0.9, hit)]


def test_of_two_fragments_the_nearer_one_finds_the_lesion():
    """3 and 2 of the lesion's 6 columns: IoU 1/2 and 1/3. The other fragment is a false positive, however sure."""
    assert hits(scene(((2, 8), (2, 5), 0.7), ((2, 8), (6, 8), 0.9)), ONE)[0] == [(0.9, False), (0.7, True)]


def test_one_component_finds_one_of_two_lesions():
    both = scene(((2, 8), (2, 8), 1), ((2, 8), (10, 16), 1)) > 0
    found, lesions = hits(scene(((2, 8), (2, 16), 0.8)), both)
    assert lesions == 2 and found == [(0.8, True)]


def test_what_touches_by_a_corner_is_one_component():
    assert len(hits(scene(((0, 2), (0, 2), 0.8), ((2, 4), (2, 4), 0.8)))[0]) == 1
    assert len(hits(scene(((0, 2), (0, 2), 0.8), ((3, 4), (2, 4), 0.8)))[0]) == 2


def test_nothing_and_no_lesion():
    assert hits(scene()) == ([], 2)
    assert hits(scene(((3, 4), (3, 4), 0.7)), TWO & False) == ([(0.7, False)], 0)
    assert hits(scene(((0, 20), (0, 30), 0.9)), TWO)[0] == [(0.9, False)]  # the whole frame finds nothing


# ---- FROC -----------------------------------------------------------------------------------------------------


@pytest.fixture
def found():
    """Two lesions in two images (folds 0 and 1), and a normal image that both folds predicted.

    Components: a hit at 0.9 and a false positive at 0.6 in the first image; nothing in the second; in the normal image
    a false positive at 0.7 by fold 0 and none by fold 1.
    """
    who = {"system": "unet", "paper_name": "U-Net", "seed": 0}
    images = pd.DataFrame([
        who | {"fold": 0, "case_id": "a", "normal": False, "lesions": 1, "found": 1, "false_positives": 1},
        who | {"fold": 1, "case_id": "b", "normal": False, "lesions": 1, "found": 0, "false_positives": 0},
        who | {"fold": 0, "case_id": "n", "normal": True, "lesions": 0, "found": 0, "false_positives": 1},
        who | {"fold": 1, "case_id": "n", "normal": True, "lesions": 0, "found": 0, "false_positives": 0}])
    components = pd.DataFrame([
        who | {"fold": 0, "case_id": "a", "normal": False, "score": 0.9, "hit": True},
        who | {"fold": 0, "case_id": "a", "normal": False, "score": 0.6, "hit": False},
        who | {"fold": 0, "case_id": "n", "normal": True, "score": 0.7, "hit": False}])
    return Detections(images, components)


def test_froc_by_hand(found):
    """Three images, each counted once: the normal one's alarm, of one of its two predictions, is half an alarm."""
    curve = detection.froc(found, "unet")
    assert curve["score"].tolist() == [np.inf, 0.9, 0.7, 0.6]
    assert curve["sensitivity"].tolist() == [0, 0.5, 0.5, 0.5]
    assert curve["false_positives"].tolist() == pytest.approx([0, 0, 0.5 / 3, 1.5 / 3])


def test_equal_scores_are_one_point(found):
    tied = Detections(found.images, found.components.assign(score=1.0))
    curve = detection.froc(tied, "unet")
    assert len(curve) == 2 and curve["false_positives"].iloc[-1] == pytest.approx(0.5)


def test_a_system_without_a_component(found):
    curve = detection.curves(Detections(found.images, found.components.iloc[:0]))
    assert curve[["sensitivity", "false_positives"]].to_numpy().tolist() == [[0, 0]]


def test_systems_that_lack_different_folds_have_curves(found):
    """As in a study opened with partial=True. Each predicted one image with a lesion, and the normal one."""
    kept = [pd.concat([table[table["fold"] == fold].assign(system=name) for fold, name in enumerate(["unet", "ukan"])])
            for table in found]
    last = detection.curves(Detections(*kept)).groupby("system").last()
    assert last.loc["unet", ["sensitivity", "false_positives"]].tolist() == [1, pytest.approx(1)]  # 2 in 2 images
    assert last.loc["ukan", ["sensitivity", "false_positives"]].tolist() == [0, 0]


def test_rates_at_the_threshold_by_hand(found):
    row = detection.summary(found).iloc[0]
    assert row["lesions"] == 2 and row["sensitivity"] == 0.5 and row["sensitivity_sd"] == pytest.approx(np.sqrt(0.5))
    assert row["false_positives with lesion"] == 0.5 and row["false_positives normal"] == 0.5
    assert row["false_positives all"] == pytest.approx(0.5)


# ---- on a study -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(smoke_study, phantom_root):
    return smoke_study.case_table(str(phantom_root))


def only(study, system, fold):
    rows = study.runs[study.runs["system"].eq(system) & study.runs["fold"].eq(fold)]
    return dataclasses.replace(study, runs=rows)


@pytest.mark.parametrize("system", ["unet", "xbusnet"])
def test_a_system_predicts_again_what_its_run_folder_holds(smoke_study, table, system):
    """The validation images under the default policy, from the weights: the maps of probabilities.npz."""
    trained = Trained.load(smoke_study.run_folder(system, 1))
    kept = record.probabilities(trained.folder)
    cases = table.set_index("case_id").loc[list(kept)].reset_index()
    maps = trained.predict(cases, smoke_study.prepared, *trained.run["scorings"][0])
    assert maps.dtype == np.float16
    assert np.abs(maps.astype(np.float32) - np.stack(list(kept.values()))).max() < 2e-3


def test_training_images_are_those_that_the_run_did_not_validate(smoke_study, table, monkeypatch):
    study, built = only(smoke_study, "xbusnet", 0), []
    build = words.build
    monkeypatch.setattr(words, "build", lambda *args, **options: built.append(build(*args, **options)) or built[-1])
    (predicted,) = every_run(study, table)
    validated = set(record.probabilities(Path(study.runs["folder"].iloc[0])))
    kinds = table.set_index("case_id")["pathology"]
    assert set(predicted.training_ids) == set(kinds[kinds != "normal"].index) - validated
    assert predicted.normal_ids == list(kinds[kinds == "normal"].index)
    assert len(predicted.normals) == len(predicted.normal_ids)
    assert len(predicted.training) == len(predicted.training_ids)
    texts = pd.concat(built).groupby("case_id")["local_text"].unique()
    assert all(list(texts[case]) == ["a lesion"] for case in predicted.normal_ids)  # no reading of what is not there
    assert any(text != "a lesion" for case in predicted.training_ids for text in texts[case])


def test_other_training_images_are_refused(smoke_study, table):
    study = only(smoke_study, "unet", 0)
    trained_on = next(iter(record.probabilities(smoke_study.run_folder("unet", 1))))
    with pytest.raises(StudyError, match=r"trained on \d+ images, but \d+ lesions"):
        list(every_run(study, table[table["case_id"] != trained_on]))


def test_false_area_of_normal_images(smoke_study, table):
    case = table.loc[table["pathology"] == "normal", "case_id"].iloc[0]
    maps = np.zeros((1, 64, 64), np.float16)
    maps[0, :16, :32] = 0.5  # an eighth of the frame, at the threshold
    predicted = NewPredictions("unet", "U-Net", 0, 0, [], maps[:0], [case], maps)
    rows = detection.false_area(smoke_study, [predicted], table)
    width, height = smoke_study.prepared.original_sizes[smoke_study.prepared.rows([case])[0]]
    pixel = table.set_index("case_id").loc[case, "pixel_mm"]
    assert rows.loc[0, "false_percent"] == pytest.approx(12.5)
    assert rows.loc[0, "false_mm2"] == pytest.approx(width * pixel * height * pixel / 8)
    unknown = detection.false_area(smoke_study, [predicted], table.assign(pixel_mm=np.nan))
    assert unknown["false_mm2"].isna().all() and unknown["false_percent"].notna().all()
    row = detection.false_area_summary(rows).iloc[0]
    assert (row["normals"], row["any_prediction"], row["false_percent"]) == (1, 1.0, pytest.approx(12.5))


def test_false_area_at_a_threshold_that_half_precision_rounds():
    """0.4 is 0.3999 in half precision, and so is what lies just below it."""
    maps = np.full((1, 8, 8), 0.39995, np.float32)
    maps[0, :2] = 0.4  # a quarter
    predicted = NewPredictions("unet", "UNet", 0, 0, [], maps[:0], ["n"], record.halved(maps, 0.4))
    study = SimpleNamespace(facts={"config": {"threshold": 0.4}}, prepared=SimpleNamespace(
        original_sizes=np.array([[100, 100]]), rows=lambda ids: [0]))
    rows = detection.false_area(study, [predicted], pd.DataFrame({"case_id": ["n"], "pixel_mm": [0.1]}))
    assert rows[["false_percent", "false_mm2"]].to_numpy().tolist() == [[25, pytest.approx(25)]]


def test_a_dataset_without_normal_images(smoke_study):
    rows = detection.false_area(smoke_study, [], pd.DataFrame({"case_id": [], "pixel_mm": []}))
    assert rows.empty and detection.false_area_summary(rows).empty
    found = detection.detect(smoke_study, [])
    summary = detection.summary(found)
    assert len(summary) == 6 and summary["false_positives normal"].isna().all()
    assert (summary["lesions"] == smoke_study.cases["case_id"].nunique()).all()  # one region each, in the phantom
