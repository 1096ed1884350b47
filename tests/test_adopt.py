"""Adopted predictions: read in every form, scored as by hand, refused when wrong, and in the tables of the study."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.test_cli import refused
from xbuslib.analyses.calibration import detection, reliability
from xbuslib.analyses.performance import exhibits
from xbuslib.analyses.performance.comparisons import compare_all
from xbuslib.errors import StudyError
from xbuslib.runs import adopted, ancestors, record
from xbuslib.runs.study import facts, open_study
from xbuslib.runs.trained import Trained


@pytest.fixture
def study(smoke_study, tmp_path, monkeypatch):
    """A copy of the smoke study that a test may add to; its name."""
    shutil.copytree(smoke_study.folder.parent, tmp_path / "outputs", ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setenv("XBUS_OUTPUTS", str(tmp_path / "outputs"))
    return smoke_study.name


def cases(smoke_study, fold=None):
    """(case_id, (S, S) bool reference, (width, height) of the image) of the validated cases."""
    table = smoke_study.cases if fold is None else smoke_study.cases[smoke_study.cases["fold"] == fold]
    for case in table["case_id"]:
        row = smoke_study.prepared.rows([case])[0]
        yield case, smoke_study.prepared.masks[row], tuple(map(int, smoke_study.prepared.original_sizes[row]))


def shifted(mask):
    """A mask that misses the lesion's first quarter of rows and adds as many rows below."""
    return np.roll(mask, mask.any(axis=1).sum() // 4 + 1, axis=0)


def write_masks(folder, smoke_study, fold=None, change=shifted):
    """0 and 1 as PNG of the study's size."""
    folder.mkdir(exist_ok=True)
    for case, mask, _ in cases(smoke_study, fold):
        Image.fromarray(change(mask).astype(np.uint8)).save(folder / f"{case}.png")
    return folder


def dice_by_hand(predicted, mask):
    return 2 * (predicted & mask).sum() / (predicted.sum() + mask.sum())


def test_masks_are_scored_as_by_hand_under_no_policy(study, smoke_study, tmp_path, run_command):
    folder = write_masks(tmp_path / "theirs", smoke_study, 0)
    done = run_command("adopt", "--name", "theirs", "--study", study, "--fold", "0", "--predictions", folder)
    assert done.returncode == 0, done.stderr
    path = record.folder(study, "theirs", 0, 0)
    rows = pd.read_csv(path / "per_image.csv", dtype={"case_id": str}, keep_default_na=False).set_index("case_id")
    assert set(rows["policy"]) == set(rows["attributes"]) == {"none"}
    expected = {case: dice_by_hand(shifted(mask), mask) for case, mask, _ in cases(smoke_study, 0)}
    assert rows["dice"].astype(float).to_dict() == pytest.approx(expected, abs=1e-6)
    assert min(expected.values()) > 0 and max(expected.values()) < 1  # a swap of the two would show
    assert "reference masks" not in done.stdout + done.stderr
    assert record.read(path)["adopted"]["kind"] == "masks" and not (path / "weights.safetensors").exists()


def test_each_takes_the_folds_of_all_systems(study, smoke_study, tmp_path, run_command):
    """Of one system fold 0 alone is there, of the others fold 1 alone."""
    for path in (tmp_path / "outputs" / study / "runs").glob("*/fold_*"):
        if (path.parent.name == "unet") != (path.name == "fold_0"):
            shutil.rmtree(path)
    folder = write_masks(tmp_path / "theirs", smoke_study)
    done = run_command("adopt", "--name", "theirs", "--study", study, "--fold", "each", "--predictions", folder)
    assert done.returncode == 0, done.stderr
    read = [record.read(record.folder(study, "theirs", fold, 0)) for fold in (0, 1)]
    assert [run["fold"] for run in read] == [0, 1]


def test_maps_are_scored_at_a_threshold_that_half_precision_rounds(tmp_path, monkeypatch):
    """0.4 is 0.3999 in half precision, and so is what lies just below it."""
    mask = np.zeros((1, 32, 32), bool)
    mask[0, 8:16, 8:16] = True
    maps = np.where(mask, np.float32(0.9), np.float32(0.39995))
    beside = dict.fromkeys(adopted.SHARED) | {"config": {"threshold": 0.4, "image_size": 32}, "seed": 0}
    monkeypatch.setattr(adopted.record, "read", lambda _: beside)
    monkeypatch.setattr(adopted.predictions, "read",
                        lambda *_: SimpleNamespace(maps=maps, notes=[], kind="maps", sha256=""))
    (tmp_path / "cases.csv").write_text("case_id\na\n")
    trained = SimpleNamespace(prepared=SimpleNamespace(rows=lambda ids: [0], original_sizes=np.array([[32, 32]]),
                                                       masks=mask))
    _, files = adopted._adopted(trained, tmp_path, "theirs", tmp_path, "", False, ())
    assert files["per_image"][["dice", "fpr"]].to_numpy().tolist() == [[pytest.approx(1), 0]]


@pytest.mark.parametrize("form", ["npy", "npz", "softmax", "softmax without a key", "png16", "mask of the image",
                                  "npz beside masks", "uint8 array"])
def test_every_form_gives_the_same_map(study, smoke_study, tmp_path, form):
    folder = tmp_path / "theirs"
    folder.mkdir()
    for case, mask, frame in cases(smoke_study, 0):
        p = np.where(shifted(mask), 0.75, 0.25).astype(np.float32)
        softmax = np.stack([1 - p, p])[:, None]  # (2, 1, S, S): background first
        if form == "npy":
            np.save(folder / f"{case}.npy", p)
        elif form == "npz":
            np.savez(folder / f"{case}.npz", anything=p)
        elif form == "softmax":
            np.savez(folder / f"{case}.npz", probabilities=softmax, other=p * 0)
        elif form == "softmax without a key":
            np.save(folder / f"{case}.npy", softmax)
        elif form == "png16":
            Image.fromarray((p * 65535).round().astype(np.uint16)).save(folder / f"{case}.png")
            values = np.asarray(Image.open(folder / f"{case}.png"))
            values = np.where(np.arange(values.shape[1]) == 0, 100, values)  # more than two values: no mask
            Image.fromarray(values.astype(np.uint16)).save(folder / f"{case}.png")
        elif form == "mask of the image":
            Image.fromarray((255 * shifted(mask)).astype(np.uint8)).resize(frame, 0).save(folder / f"{case}.png")
        elif form == "npz beside masks":
            np.savez(folder / f"{case}.npz", probabilities=p)
            Image.fromarray(mask.astype(np.uint8)).save(folder / f"{case}.png")
            (folder / f"{case}.pkl").write_bytes(b"nnU-Net's own")
        elif form == "uint8 array":
            np.save(folder / f"{case}.npy", (255 * shifted(mask)).astype(np.uint8))
    paths, _ = adopted.adopt("theirs", study, 0, folder)
    maps = record.probabilities(paths[0])
    hard = form in ("mask of the image", "uint8 array")
    for case, mask, _ in cases(smoke_study, 0):
        inner = np.s_[:, 1:] if form == "png16" else np.s_[:]
        assert np.allclose(maps[case][inner], np.where(shifted(mask), 1 if hard else 0.75, 0 if hard else 0.25)[inner],
                           atol=1e-3)


def test_a_map_of_the_images_size_is_averaged_down(study, smoke_study, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    for case, _, (width, height) in cases(smoke_study, 0):  # a ramp from left to right stays one
        np.save(folder / f"{case}.npy", np.tile((np.arange(width) + 0.5) / width, (height, 1)))
    paths, _ = adopted.adopt("ramp", study, 0, folder)
    side = smoke_study.facts["config"]["image_size"]
    for found in record.probabilities(paths[0]).values():
        assert found[:, 2:-2] == pytest.approx(np.tile((np.arange(side) + 0.5) / side, (side, 1))[:, 2:-2], abs=2e-3)


def test_each_fold_from_one_folder_and_again(study, smoke_study, tmp_path):
    folder = write_masks(tmp_path / "theirs", smoke_study)
    paths, notes = adopted.adopt("theirs", study, "each", folder)
    assert [path.parent.name for path in paths] == ["fold_0", "fold_1"] and not any("other cases" in n for n in notes)
    before = [(path / "run.json").stat().st_mtime_ns for path in paths]
    assert adopted.adopt("theirs", study, "each", folder)[0] == paths
    assert [(path / "run.json").stat().st_mtime_ns for path in paths] == before


def drop(folder, first, _):
    (folder / f"{first}.png").unlink()


def double(folder, first, _):
    shutil.copy(folder / f"{first}.png", folder / f"{first}.tif")


def save(make):
    def change(folder, first, mask):
        (folder / f"{first}.png").unlink()
        for path in folder.glob("*.png"):
            np.save(path.with_suffix(".npy"), np.asarray(Image.open(path)))
        np.save(folder / f"{first}.npy", make(mask))
    return change


def grey(folder, first, mask):
    soft = np.zeros(mask.shape, np.uint8)
    soft[:20, :20] = np.arange(400).reshape(20, 20) // 2  # an 8-bit probability map whose lesion is never sure
    Image.fromarray(soft).save(folder / f"{first}.png")


def faint(suffix):
    def change(folder, first, mask):
        for path in list(folder.glob("*.png")):
            path.unlink()
            values = np.arange(mask.size, dtype=np.uint16).reshape(mask.shape) % 256
            Image.fromarray(values).save(path.with_suffix(suffix))
    return change


@pytest.mark.parametrize("change, message", [
    (drop, "no file"), (double, "predicted twice"), (grey, "grey values between background and lesion"),
    (faint(".png"), "another scale"), (faint(".PNG"), "another scale"), (faint(".tif"), "another scale"),
    (save(lambda mask: mask[:, :-1].astype(float)), "Nothing is stretched"),
    (save(lambda mask: mask * 3.5 - 1), "not probabilities in [0, 1]"),
    (save(lambda mask: np.where(mask, np.nan, 0)), "not finite"),
    (save(lambda mask: np.stack([mask, mask]).astype(float)), "do not add up to 1"),
    (save(lambda mask: np.stack([mask] * 3).astype(float)), "an array of shape (3, 64, 64)"),
    (save(lambda mask: mask.astype(int) * 7), "whole numbers up to 7"),
])
def test_wrong_predictions_are_refused_and_nothing_is_written(study, smoke_study, tmp_path, change, message):
    folder = write_masks(tmp_path / "theirs", smoke_study, 0)
    first, mask, _ = next(cases(smoke_study, 0))
    change(folder, first, mask)
    with pytest.raises(StudyError) as error:
        adopted.adopt("theirs", study, 0, folder)
    assert message in str(error.value) and (first in str(error.value) or message == "another scale")
    assert not record.folder(study, "theirs", 0, 0).exists()


def test_exchanged_sides_are_named(study, smoke_study, tmp_path):
    folder = write_masks(tmp_path / "theirs", smoke_study, 0)
    first, _, (width, height) = next((case, mask, frame) for case, mask, frame in cases(smoke_study, 0)
                                     if frame[0] != frame[1])
    Image.fromarray(np.zeros((width, height), np.uint8)).save(folder / f"{first}.png")
    with pytest.raises(StudyError, match="transpose it"):
        adopted.adopt("theirs", study, 0, folder)


@pytest.mark.parametrize("name, study_name, fold, message", [
    ("unet", None, "0", "is a system of this library"), ("smp-Unet-resnet18", None, "0", "is a system of this library"),
    ("a/b", None, "0", "is no name"), ("theirs", "nowhere", "0", "has no finished run"),
    ("theirs", None, "7", "no trained run on fold 7; give one of 0, 1"), ("theirs", None, "first", "fold first"),
])
def test_wrong_requests_are_refused(study, smoke_study, tmp_path, name, study_name, fold, message):
    folder = write_masks(tmp_path / "theirs", smoke_study, 0)
    with pytest.raises(StudyError) as error:
        adopted.adopt(name, study_name or study, fold, folder)
    assert message in str(error.value)


@pytest.mark.parametrize("label", ["xbusnet", "Their net", "their NET"])
def test_a_label_that_another_system_has_is_refused(study, smoke_study, tmp_path, label):
    """Two rows of one name could not be told apart, and sentences would count them together."""
    folder = write_masks(tmp_path / "theirs", smoke_study, 0)
    adopted.adopt("theirs", study, 0, folder, label="Their net")
    with pytest.raises(StudyError, match="is what tables call .*give these predictions another --label"):
        adopted.adopt("theirs2", study, 0, folder, label=label)
    assert not record.folder(study, "theirs2", 0, 0).exists()
    assert adopted.adopt("theirs", study, 0, folder, label="Their net")[0]  # its own label, as it is there


def test_other_predictions_of_a_name_are_not_overwritten(study, smoke_study, tmp_path, run_command):
    adopted.adopt("theirs", study, 0, write_masks(tmp_path / "one", smoke_study, 0))
    with pytest.raises(StudyError, match="other predictions of that name"):
        adopted.adopt("theirs", study, 0, write_masks(tmp_path / "two", smoke_study, 0, np.asarray))
    refused(run_command("adopt", "--name", "x", "--study", study, "--fold", "0", "--predictions", tmp_path / "three"),
            "no folder")


@pytest.fixture
def held(study, smoke_study, tmp_path):
    """The study with two adopted systems: masks, and maps."""
    adopted.adopt("a-mask", study, "each", write_masks(tmp_path / "masks", smoke_study))
    folder = tmp_path / "maps"
    folder.mkdir()
    for case, mask, _ in cases(smoke_study):
        np.save(folder / f"{case}.npy", np.where(shifted(mask), 0.9, 0.1))
    adopted.adopt("nnunet", study, "each", folder, label="nnU-Net")
    return open_study(study)


def test_it_is_in_table_1_with_its_paired_tests_and_said_to_be_adopted(held, smoke_study):
    assert held.systems[-2:] == ["a-mask", "nnunet"] and held.facts["system"] == smoke_study.facts["system"]
    table = exhibits.table_1(held).set_index("system")
    assert table.loc["nnunet", "paper_name"] == "nnU-Net (adopted)"
    by_fold = [np.mean([dice_by_hand(shifted(mask), mask) for _, mask, _ in cases(smoke_study, fold)])
               for fold in (0, 1)]
    assert table.loc["nnunet", "dice"] == pytest.approx(np.mean(by_fold), abs=1e-6)
    assert set(exhibits.table_2(held)["system"]) >= {"a-mask", "nnunet"}
    assert {"a-mask", "nnunet"} <= set(compare_all(held)["against"])
    assert "- Adopted, not trained here: a-mask (masks), nnU-Net (probability maps)." in facts(held)
    assert ", adopted, not trained here: a-mask (masks), nnU-Net (probability maps)" in held.label


def test_a_fold_that_was_not_adopted_is_missing(study, smoke_study, tmp_path):
    adopted.adopt("theirs", study, 0, write_masks(tmp_path / "theirs", smoke_study))
    with pytest.raises(StudyError, match="theirs, fold 1: adopt its predictions too"):
        open_study(study)
    assert open_study(study, ["unet", "xbusnet"]).missing == []


def test_masks_are_left_out_of_calibration_and_maps_have_no_temperature(held, capsys):
    known = pd.DataFrame([{"system": run.system, "fold": run.fold, "seed": run.seed, "temperature": 1.5}
                          for run in held.runs.itertuples() if run.system not in held.adopted])
    table = reliability.summary(reliability.score(held, known), "whole image").set_index("system")
    assert "a-mask" not in table.index and "a-mask: adopted as masks, left out" in capsys.readouterr().err
    assert np.isnan(table.loc["nnunet", "ece after"]) and np.isnan(table.loc["nnunet", "temperature"])
    assert table.loc["nnunet", "brier before"] > 0.01 and np.isfinite(table.loc["unet", "ece after"])


def test_without_normal_images_there_is_no_rate_over_all_images(held):
    rates = detection.summary(detection.detect(held, [])).set_index("system")  # nobody predicted normal images
    assert np.isfinite(rates.loc["nnunet", "false_positives all"])
    found = detection.detect(held, [])
    extra = found.images[found.images["system"] == "unet"].head(1).assign(case_id="normal", normal=True, lesions=0)
    partly = detection.Detections(pd.concat([found.images, extra]), found.components)
    assert set(detection.curves(partly)["system"]) == {"unet"}


def test_what_needs_weights_says_that_there_are_none(held):
    with pytest.raises(StudyError, match="adopted predictions of nnU-Net: they were made elsewhere"):
        Trained.load(held.run_folder("nnunet", 0))
    with pytest.raises(StudyError, match="Give a run that was trained here"):
        ancestors.find(held.run_folder("nnunet", 0), "unet", 0)


def test_changed_data_refuse_the_mixture(held, study):
    file = held.run_folder("nnunet", 0) / "run.json"
    run = json.loads(file.read_text())
    file.write_text(json.dumps(run | {"dataset_fingerprint": "of other images"}))
    with pytest.raises(StudyError, match="mixes runs that cannot stand together"):
        open_study(study)
