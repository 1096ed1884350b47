"""What analysis notebooks are given: complete, unmixed, joined on keys; means against pandas-free arithmetic."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from xbuslib.errors import StudyError
from xbuslib.evaluation.aggregation import over_folds
from xbuslib.runs.study import open_study


@pytest.fixture
def study(smoke_study, tmp_path, monkeypatch):
    """A copy of the smoke study that a test may damage."""
    shutil.copytree(smoke_study.folder.parent, tmp_path / "outputs", ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setenv("XBUS_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs" / smoke_study.name


def edit(file, change):
    run = json.loads(file.read_text())
    change(run)
    file.write_text(json.dumps(run))


def test_every_run_and_image_is_there_once(smoke_study):
    assert smoke_study.systems == ["unet", "uresnet", "bussam", "xbusnet", "xbusnet-no-gfe", "xbusnet-no-sfa"]
    assert len(smoke_study.runs) == 12 and not smoke_study.missing
    assert not smoke_study.per_image.duplicated(["system", "fold", "seed", "case_id", "policy", "attributes"]).any()
    assert set(smoke_study.cases["case_id"]) == set(smoke_study.per_image["case_id"])
    assert smoke_study.cases["long_side_px"].gt(0).all() and smoke_study.cases["case_id"].is_unique


def test_default_scoring_is_first_pass_for_prompted_systems_alone(smoke_study):
    scored = smoke_study.default.groupby("system")[["policy", "attributes"]].first()
    assert tuple(scored.loc["xbusnet"]) == ("first_pass", "metadata")
    assert tuple(scored.loc["unet"]) == ("none", "none")
    assert smoke_study.default.groupby("system")["case_id"].nunique().nunique() == 1


def test_lesion_size_in_cases_is_that_of_the_mask_file(smoke_study, phantom_root):
    from xbuslib.data import catalogue, images

    table = catalogue.load("phantom", phantom_root).set_index("case_id")
    for case in smoke_study.cases.itertuples():
        rows, columns = np.nonzero(images.read_mask(table.loc[case.case_id, "mask"]))
        longest = max(np.ptp(rows), np.ptp(columns)) + 1
        assert case.long_side_px == longest
        assert case.long_side_mm == pytest.approx(longest * table.loc[case.case_id, "pixel_mm"], abs=1e-3)


def test_mean_and_sd_over_folds_by_hand(smoke_study):
    table = over_folds(smoke_study.default).set_index("system")
    for system in smoke_study.systems:
        means = []
        for fold in (0, 1):
            path = smoke_study.run_folder(system, fold) / "per_image.csv"
            lines = [line.split(",") for line in path.read_text().splitlines()]
            dice, policy = lines[0].index("dice"), lines[1][1:3]
            means.append(np.mean([float(line[dice]) for line in lines[1:] if line[1:3] == policy]))
        assert table.loc[system, "dice"] == pytest.approx(np.mean(means))
        assert table.loc[system, "dice_sd"] == pytest.approx(abs(means[0] - means[1]) / 2 ** 0.5)


def test_seeds_are_averaged_within_a_fold():
    rows = pd.DataFrame({"system": "a", "policy": "none", "attributes": "none", "fold": [0, 0, 0, 1],
                         "seed": [0, 0, 1, 0], "dice": [0.2, 0.4, 0.7, 0.9]})
    table = over_folds(rows, metrics=["dice"])
    assert table.loc[0, "dice"] == pytest.approx((0.5 + 0.9) / 2)  # fold 0: mean of seed means 0.3 and 0.7
    assert table.loc[0, "dice_sd"] == pytest.approx(0.4 / 2 ** 0.5)


def test_a_missing_run_stops_with_its_name_and_partial_says_so(study):
    shutil.rmtree(study / "runs" / "uresnet" / "fold_1")
    with pytest.raises(StudyError, match="uresnet, fold 1, seed 0"):
        open_study(study.name)
    opened = open_study(study.name, partial=True)
    assert opened.missing == ["uresnet, fold 1, seed 0"]
    assert any("partial" in sentence for sentence in opened.caveats)
    assert open_study(study.name, systems=["unet", "xbusnet"]).systems == ["unet", "xbusnet"]


def test_mixed_policies_are_refused(study):
    edit(study / "runs" / "xbusnet" / "fold_0" / "seed_0" / "run.json",
         lambda run: run.update(scorings=run["scorings"][1:]))
    with pytest.raises(StudyError, match="scorings of xbusnet"):
        open_study(study.name)


def test_a_study_that_is_not_there(outputs):
    with pytest.raises(StudyError, match=r"no finished run.*run_all\.sh"):
        open_study("nothing")


def test_caveats_name_phantom_profile_and_random_encoders(smoke_study):
    text = " ".join(smoke_study.caveats)
    assert "simulated phantom" in text and "profile is smoke" in text and "ResNet-18 random" in text
    assert "simulated phantom" in smoke_study.label


def test_other_images_than_the_runs_saw_are_refused(study):
    opened = open_study(study.name)
    assert opened.prepared.masks.shape[1:] == (64, 64)
    (study / "prepared" / "phantom_64" / "fingerprint.txt").write_text("other")
    with pytest.raises(StudyError, match="other images"):
        _ = open_study(study.name).prepared
