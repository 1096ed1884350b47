"""One fold end to end on the phantom: determinism, a first pass without the mask, run folders."""

import dataclasses
import io
import json
import platform
import shutil
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from xbuslib import files
from xbuslib.config import resolve
from xbuslib.data import images
from xbuslib.errors import StudyError
from xbuslib.evaluation.metrics import PAPER, RELEASED, per_image
from xbuslib.inference.predict import images_of
from xbuslib.prompts import words
from xbuslib.runs import ancestors, environment, record
from xbuslib.runs.fold import run_fold
from xbuslib.runs.source import open_source
from xbuslib.runs.trained import Trained
from xbuslib.training import loop
from xbuslib.workflow import study as workflow_study
from xbuslib.workflow.request import request


@pytest.fixture
def source(phantom_root, outputs):
    return open_source("phantom", phantom_root, None, resolve("smoke"), "s")


def run(source, **given):
    return run_fold("xbusnet", 0, resolve("smoke", given.pop("overrides", None)), source,
                          **({"study": "s", "seed": 0} | given))


def test_run_folder(source):
    path = run(source)
    facts, rows = record.read(path), pd.read_csv(path / "per_image.csv", keep_default_na=False)
    assert {file.name for file in path.iterdir()} == {*record.FILES, ancestors.SEEN}
    assert {"config", "identity", "protocol", "dataset_fingerprint", "folds_checksum", "scorings", "weights", "seed",
            "commit", "dirty", "versions", "device", "seconds", "peak_memory_gb"} <= facts.keys()
    assert [w["weights"] for w in facts["weights"]] == ["random", "random"]
    pairs = [tuple(pair) for pair in facts["scorings"]]
    assert pairs == words.scorings(("global_text", "local_text"))
    for pair in pairs:
        mine = rows[(rows["policy"] == pair[0]) & (rows["attributes"] == pair[1])]
        assert sorted(mine["case_id"]) == sorted(source.split(0)[1]["case_id"])
    assert set(PAPER + RELEASED) <= set(rows.columns)
    assert {file.name for file in path.parent.iterdir()} == {path.name, f".{path.name}.lock"}  # nothing unfinished


AMD = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n"
ARM = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"


@pytest.mark.parametrize("cpuinfo, name", [
    (AMD + "\n" + AMD.replace("EPYC", "other"), "AMD EPYC, family 25, model 17"),
    ("model name\t: Intel(R)  Xeon(R) CPU\n", "Intel(R) Xeon(R) CPU"),
    (ARM, platform.machine()),
    (None, platform.machine()),  # not Linux
])
def test_a_run_names_its_processor(tmp_path, cpuinfo, name):
    file = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        file.write_text(cpuinfo)
    assert environment.processor(file) == name
    assert environment.device().endswith(f"({environment.processor()})") or torch.cuda.is_available()


def test_a_run_names_the_commit_that_it_began_with(source, monkeypatch):
    commits = iter(["a" * 40, "b" * 40])  # at the start and, after a commit meanwhile, at the end
    monkeypatch.setattr(environment, "_git", lambda *arguments: next(commits) if "HEAD" in arguments else "")
    assert record.read(run(source))["commit"] == "a" * 40


def test_scores_follow_from_the_maps(source):
    """Per-image metrics recomputed from the probability maps of the run folder."""
    path = run(source)
    rows = pd.read_csv(path / "per_image.csv", keep_default_na=False)
    rows = rows.query("policy == 'first_pass' and attributes == 'metadata'")
    maps = record.probabilities(path)
    index = source.prepared.rows(rows["case_id"])
    again = per_image([maps[case] >= 0.5 for case in rows["case_id"]], source.prepared.masks[index])
    np.testing.assert_allclose(rows[PAPER].to_numpy(float), again[PAPER].to_numpy(), atol=1e-12)


@pytest.mark.parametrize("threshold", [0.5, 0.33, 0.4, 0.7, 0.001, 0.999])
def test_half_precision_keeps_each_side_of_the_threshold(threshold):
    """0.33 is rounded up in half precision, 0.4 and 0.7 down."""
    near = np.float32(threshold) + np.float32(1e-5) * np.arange(-3, 4, dtype=np.float32)
    maps = np.concatenate([near, np.array([0.2, 0.9999], np.float32)])
    half = record.halved(maps, threshold)
    assert half.dtype == np.float16
    assert ((half.astype(np.float32) >= threshold) == (maps >= threshold)).all()  # as analyses read them
    np.testing.assert_allclose(half, maps, atol=5e-4)


def test_two_runs_are_identical(source):
    first, second = run(source), run(source, study="again")
    assert (first / "per_image.csv").read_bytes() == (second / "per_image.csv").read_bytes()
    other = run(source, study="other", seed=1)
    assert (first / "per_image.csv").read_bytes() != (other / "per_image.csv").read_bytes()


def test_finished_run_is_kept_and_not_overwritten(source):
    path = run(source)
    before = {file.name: file.stat().st_mtime_ns for file in path.iterdir()}
    assert run(source) == path
    with pytest.raises(StudyError, match=r"(?s)holds a run with other settings.*iterations: 6 there, 5 asked for"):
        run(source, overrides=["iterations=5"])
    assert before == {file.name: file.stat().st_mtime_ns for file in path.iterdir()}


def test_a_fold_that_another_process_trains_is_waited_for_and_not_trained_twice(source, monkeypatch, capfd):
    """The other one holds the lock of the run, and writes its result after this one has looked for it in vain."""
    there, asked, looked = run(source), record.folder("two", "xbusnet", 0, 0), threading.Event()

    def other():
        with files.lock(asked):
            held.set()
            assert looked.wait(60)
            shutil.copytree(there, asked)

    def look(*given, finished=record.finished):
        found = finished(*given)
        looked.set()
        return found

    held, process = threading.Event(), threading.Thread(target=other)
    process.start()
    assert held.wait(60)
    monkeypatch.setattr(record, "finished", look)
    monkeypatch.setattr(loop, "fit", None)  # nothing is trained
    assert run(source, study="two") == asked
    process.join()
    assert "another process trains xbusnet, fold 0, seed 0 of study two; waiting for it" in capfd.readouterr().err


def test_trained_system_comes_back(source):
    path = run(source)
    trained, (_, val) = Trained.load(path), source.split(0)
    maps = trained.predict(val, source.prepared, "first_pass", "metadata")
    kept = record.probabilities(path)
    np.testing.assert_allclose(maps, np.stack([kept[case] for case in val["case_id"]]), atol=1e-3)
    others = trained.predict(val, source.prepared, "none", "none")
    assert not np.array_equal(maps, others)
    assert np.array_equal(trained.predict(val, source.prepared, "first_pass", "metadata"), maps)  # whatever came before


def test_no_validation_mask_reaches_a_first_pass_prompt(source):
    """Other validation masks: the same prompts and predictions under first_pass and none, others under reference."""
    predictor, (_, val) = Trained.load(run(source)).predictor, source.split(0)
    rows = source.prepared.rows(val["case_id"])
    forged = {name: getattr(source.prepared, name).copy() for name in ("masks", "boxes", "centroids", "long_sides")}
    forged["masks"][rows] = np.roll(~forged["masks"][rows], 7, axis=1)
    forged["boxes"][rows], forged["centroids"][rows], forged["long_sides"][rows] = 3, 1.0, 3
    forged = dataclasses.replace(source.prepared, **forged)
    views = predictor.views(images_of(val, source.prepared))

    def predict(prepared, policy):
        return predictor.predict(views, val, prepared, policy, "metadata")

    for policy in ("first_pass", "none"):
        maps, prompts = predict(source.prepared, policy)
        other_maps, other_prompts = predict(forged, policy)
        assert prompts.equals(other_prompts) and np.array_equal(maps, other_maps)
    assert not predict(source.prepared, "reference")[1].equals(predict(forged, "reference")[1])
    assert not predict(source.prepared, "paper")[1]["size"].equals(predict(forged, "paper")[1]["size"])
    assert predict(source.prepared, "paper")[1]["quadrant"].equals(predict(forged, "paper")[1]["quadrant"])


def test_faulty_requests(source, tmp_path, monkeypatch):
    with pytest.raises(StudyError, match="unknown system 'unet9'; did you mean 'unet'. the systems are"):
        run_fold("unet9", 0, resolve("smoke"), source, study="s")
    with pytest.raises(StudyError, match="there is no fold 7; the folds are 0 … 4"):
        run_fold("xbusnet", 7, resolve("smoke"), source, study="s")
    with pytest.raises(StudyError, match="dataset blu needs its folder: --data DIR"):
        open_source("blu", None, None, resolve("smoke"), "s")
    (tmp_path / "blu").symlink_to(source.root)
    monkeypatch.setenv("XBUS_DATA", str(tmp_path))
    assert open_source("blu", None, None, resolve("smoke"), "s").root == tmp_path / "blu"
    with pytest.raises(StudyError, match="no folder .*nowhere"):
        open_source("blu", tmp_path / "nowhere", None, resolve("smoke"), "s")


def test_damaged_weights_and_run_file(source):
    path = run(source)
    (path / "weights.safetensors").write_bytes(b"no")
    with pytest.raises(StudyError, match="cannot read .*weights.safetensors.*run the fold again"):
        Trained.load(path)
    (path / "run.json").write_text("{")
    with pytest.raises(StudyError, match="run.json is damaged .*delete its folder"):
        record.read(path)
    with pytest.raises(StudyError, match="ends in fold_K/seed_S; xbuslib runs lists them$"):
        record.read(path.parent.parent)  # the folder of a system, whose runs are whole


def test_output_folder_that_cannot_be_written(source, tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("XBUS_OUTPUTS", str(blocked))
    with pytest.raises(StudyError, match="cannot write to .*XBUS_OUTPUTS"):
        run(source)
    assert blocked.read_text() == "in the way"


def test_full_disk_keeps_the_checkpoint(source, monkeypatch):
    """No space left while results are written, then a file in the way: a message, no half-written run folder, and the
    next attempt goes on from step 3 of 6, where the smoke profile saves a checkpoint."""
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    def train_step(*given, step=loop.train_step):
        steps.append(1)
        return step(*given)

    def unet(*overrides):
        steps.clear()
        return run_fold("unet", 0, resolve("smoke", overrides), source, study="s")

    steps, path = [], record.folder("s", "unet", 0, 0)
    monkeypatch.setattr(loop, "train_step", train_step)
    with monkeypatch.context() as patch:
        patch.setattr(record.np, "savez_compressed", full)
        with pytest.raises(StudyError, match=r"No space left on device.*free space and memory\.$"):
            unet("checkpoint_every=100")  # there is no checkpoint to keep
        with pytest.raises(StudyError, match=r"No space left on device.*memory; the training checkpoint is kept\.$"):
            unet()
    assert not path.exists() and len(steps) == 6
    checkpoint, = path.parent.glob(".seed_0.*.partial/checkpoint.pt")
    path.write_text("in the way")
    with pytest.raises(StudyError, match=r"Not a directory.*the training checkpoint is kept\.$"):
        unet()
    assert checkpoint.is_file() and path.read_text() == "in the way" and len(steps) == 3
    path.unlink()
    assert unet() == path and len(steps) == 3 and record.read(path)["fold"] == 0
    assert not checkpoint.exists() and not (path / "checkpoint.pt").exists()


@pytest.mark.parametrize("content", [b"{", b"\xff", b"{}", b"[]", b"3"])
def test_a_listing_names_the_damaged_run_file(outputs, content):
    path = record.folder("s", "unet", 0, 0)
    path.mkdir(parents=True)
    (path / "run.json").write_bytes(content)
    with pytest.raises(StudyError, match=r"unet/fold_0/seed_0/run\.json is damaged .*delete its folder and run"):
        record.listing()


def test_a_run_file_is_utf_8_whatever_the_locale(outputs, monkeypatch):
    path = record.folder("s", "unet", 0, 0)
    path.mkdir(parents=True)
    (path / "run.json").write_bytes(json.dumps(dict.fromkeys(record.NEEDED, "größe"), ensure_ascii=False).encode())
    monkeypatch.setattr(io, "text_encoding", lambda encoding, stacklevel=2: encoding or "ascii")  # as under LANG=C
    assert record.read(path)["study"] == "größe"


@pytest.mark.parametrize("name", ["/x", "a/b", "../a", "outputs/phantom-quick", "phantom-quick/"])
def test_a_path_is_no_name_of_a_study(outputs, name):
    with pytest.raises(StudyError, match="give the study's name, such as phantom-quick"):
        record.scored(name)


def test_images_of_finished_runs_are_not_replaced(source, tmp_path):
    """A refused command with another data folder leaves what was decoded for the runs as it was."""
    config, path = resolve("smoke"), record.folder("s", "unet", 0, 0)
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(dict.fromkeys(record.NEEDED) | source.identity() | {
        "config": config.model_dump()}))
    other = shutil.copytree(source.root, tmp_path / "other")
    image = other / Path(source.cases["image"].iloc[0]).relative_to(source.root)
    with Image.open(image) as picture:
        Image.eval(picture.convert("L"), lambda value: 255 - value).save(image)
    asked = request({"data": str(other), "profile": "smoke", "study": "s", "systems": "unet"})
    for refused in (lambda: open_source("phantom", other, None, config, "s"), lambda: workflow_study.settle(asked)):
        with pytest.raises(StudyError, match="other holds other images or masks than the runs of study s were made"):
            refused()
    kept = images.read(tmp_path / "outputs" / "s" / "prepared" / "phantom_64")
    assert kept.fingerprint == source.prepared.fingerprint
    assert open_source("phantom", other, None, config, "t").prepared.fingerprint != kept.fingerprint
