"""What nnU-Net is given: names, numbers of labels, sizes, and the very folds of the study."""

import json
import re
import shlex
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.test_cli import refused
from xbuslib.data import catalogue, images
from xbuslib.data.phantom import phantom
from xbuslib.runs import adopted, nnunet, record
from xbuslib.runs.study import open_study


@pytest.fixture
def exported(smoke_study, phantom_root, tmp_path, monkeypatch):
    """(folder, what export returned) of the smoke study, whose runs were made one by one."""
    shutil.copytree(smoke_study.folder.parent, tmp_path / "outputs", ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setenv("XBUS_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "nn", nnunet.export(smoke_study.name, tmp_path / "nn", 7, str(phantom_root))


def test_folds_are_those_of_the_runs(exported, smoke_study):
    folder, facts = exported
    file, = (folder / "nnUNet_preprocessed").glob("Dataset007_*/splits_final.json")
    splits = json.loads(file.read_text())
    assert facts["folds"] == len(splits) == 2
    for fold, split in enumerate(splits):
        scored = set(smoke_study.per_image.loc[smoke_study.per_image["fold"] == fold, "case_id"])
        assert set(split["val"]) == scored and len(split["val"]) == len(scored)
        assert not scored & set(split["train"])
        assert scored | set(split["train"]) == set(smoke_study.cases["case_id"])


def test_pictures_and_labels_are_the_datasets_at_their_own_size(exported, phantom_root):
    folder, facts = exported
    raw, = (folder / "nnUNet_raw").glob("Dataset007_*")
    described = json.loads((raw / "dataset.json").read_text())
    table = catalogue.load("phantom", phantom_root)
    lesions = table[table["pathology"] != "normal"]
    assert described["numTraining"] == facts["cases"] == len(lesions) == len(list((raw / "imagesTr").iterdir()))
    assert described["labels"] == {"background": 0, "lesion": 1} and described["file_ending"] == ".png"
    assert described["channel_names"] == {"0": "ultrasound"} and described["licence"] == "MIT"
    assert re.fullmatch(r"Dataset007_[A-Za-z0-9]+", raw.name)
    for case in lesions.itertuples():
        image = Image.open(raw / "imagesTr" / f"{case.case_id}_0000.png")
        label = np.asarray(Image.open(raw / "labelsTr" / f"{case.case_id}.png"))
        assert image.mode == "L" and np.array_equal(np.asarray(image), images.read_grey(case.image))
        assert set(np.unique(label)) == {0, 1} and np.array_equal(label == 1, images.read_mask(case.mask))


def test_labels_handed_back_as_predictions_are_perfect(exported, smoke_study):
    folder, _ = exported
    labels, = (folder / "nnUNet_raw").glob("*/labelsTr")
    paths, notes = adopted.adopt("copies", smoke_study.name, "each", labels)
    assert [float(record.summary(path)["dice"].iloc[0]) for path in paths] == pytest.approx([1, 1], abs=1e-6)
    assert any("two values other than 0 and 255" in note for note in notes)
    assert sum("are these the reference masks themselves?" in note for note in notes) == 1
    assert "copies" in open_study(smoke_study.name).systems


def test_what_nnunet_writes_beside_its_maps_is_read_as_its_maps(exported, smoke_study):
    folder, _ = exported
    labels, = (folder / "nnUNet_raw").glob("*/labelsTr")
    validation = folder / "validation"
    validation.mkdir()
    (validation / "summary.json").write_text("{}")
    for label in labels.iterdir():
        lesion = np.asarray(Image.open(label)).astype(np.float16) * 0.8 + 0.1
        np.savez_compressed(validation / f"{label.stem}.npz", probabilities=np.stack([1 - lesion, lesion])[:, None])
        shutil.copy(label, validation / label.name)
        (validation / f"{label.stem}.pkl").write_bytes(b"")
    path, = adopted.adopt("nnunet", smoke_study.name, 0, validation)[0]
    assert record.read(path)["adopted"]["kind"] == "probability maps"
    assert record.summary(path)["dice"].iloc[0] > 0.97  # resizing may move the outline by part of a pixel
    assert {round(float(found.max()), 1) for found in record.probabilities(path).values()} == {0.9}


def test_own_data_have_neither_blus_name_nor_its_licence(outputs, tmp_path, run_command):
    """And what is printed can be pasted into a shell: the folder's name has a space."""
    root = phantom.write(tmp_path / "mine", n=10)
    (outputs / "own").mkdir(parents=True)
    (outputs / "own" / "study.json").write_text(json.dumps({
        "profile": "smoke", "overrides": ["folds=2"], "dataset": "own", "data": str(root), "fold_lists": ""}))
    done = run_command("data", "export-nnunet", "--study", "own", "--out", tmp_path / "my study")
    described = json.loads((tmp_path / "my study" / "nnUNet_raw" / "Dataset501_Own" / "dataset.json").read_text())
    assert (described["name"], described["licence"]) == ("own data", "not stated"), done.stderr
    assert shlex.split(done.stdout.splitlines()[-1]) == ["export"] + [
        f"nnUNet_{part}={tmp_path / 'my study' / f'nnUNet_{part}'}" for part in ("raw", "preprocessed", "results")]


def test_wrong_requests_are_refused(exported, smoke_study, phantom_root, tmp_path, run_command):
    folder, _ = exported
    refused(run_command("data", "export-nnunet", "--study", smoke_study.name, "--out", folder, "--number", 7, "--data",
                        phantom_root), "Dataset007_SmokeStudy is there; give another --number")
    refused(run_command("data", "export-nnunet", "--study", "nowhere", "--out", tmp_path / "x"), "no finished run")


def test_other_data_are_not_exported_as_the_studys(exported, smoke_study, tmp_path, run_command):
    other = phantom.write(tmp_path / "other", n=20, seed=4)
    refused(run_command("data", "export-nnunet", "--study", smoke_study.name, "--out", tmp_path / "x", "--data", other),
            "holds other images, masks or metadata than study")
    assert open_study(smoke_study.name).prepared.fingerprint == smoke_study.prepared.fingerprint  # nor were the study's
    assert not (tmp_path / "x").exists()
