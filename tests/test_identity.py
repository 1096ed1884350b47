"""Runs that differ in anything that changes their numbers never pass as one; what differs is said in every caption."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from xbuslib.cli import app
from xbuslib.config import Config, resolve
from xbuslib.data import catalogue
from xbuslib.errors import StudyError
from xbuslib.inference import predict
from xbuslib.lesion import ensemble
from xbuslib.models import encoders, precision
from xbuslib.runs import caveats, identity, nnunet, record
from xbuslib.runs.fold import run_fold, score
from xbuslib.runs.source import open_source
from xbuslib.runs.study import open_study
from xbuslib.runs.trained import Trained
from xbuslib.training import recipes


@pytest.fixture
def study(smoke_study, tmp_path, monkeypatch):
    """A copy of the smoke study that a test may add to."""
    shutil.copytree(smoke_study.folder.parent, tmp_path / "outputs")
    monkeypatch.setenv("XBUS_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs" / smoke_study.name


def again(study, phantom_root, system, overrides=(), fold=1, seed=0):
    """Fold 1 of a system of the smoke study trained once more, in its place, with other settings."""
    config = resolve("smoke", ["iterations=2", "folds=2", *overrides])
    source = open_source("phantom", phantom_root, None, config, study.name)
    shutil.rmtree(study / "runs" / system / f"fold_{fold}" / f"seed_{seed}", ignore_errors=True)
    return run_fold(system, fold, config, source, study=study.name, seed=seed)


def edit(run: Path, change) -> None:
    facts = json.loads((run / "run.json").read_text())
    change(facts)
    (run / "run.json").write_text(json.dumps(facts))


# ---- runs of different protocols are no study ----------------------------------------------------------------


@pytest.mark.parametrize("override, word", [
    ("learning_rate=0.01", "rates"), ("batch_size=2", "batch_size"), ("recipe=strong", "loss"), ("amp=false", "amp"),
    ("weight_decay=0.3", "weight_decay"), ("final_learning_rate=1e-5", "schedule"), ("threshold=0.4", "threshold"),
    ("drop_spatial=0", "drop_spatial"), ("folds_seed=5", "folds_checksum"),
])
def test_one_fold_with_another_setting_is_refused(study, phantom_root, override, word):
    again(study, phantom_root, "unet", [override])
    with pytest.raises(StudyError, match=rf"(?s)mixes runs.*{word}.*unet"):
        open_study(study.name)


def test_one_strong_fold_of_an_earlier_version_is_refused(study, phantom_root):
    """Which was not scored over enlarged views, and whose record does not name them. Of other recipes it makes no
    difference, and no other identity."""
    for fold in (0, 1):
        again(study, phantom_root, "unet", ["recipe=strong"], fold=fold)
    for path in (study / "runs").iterdir():
        if path.name != "unet":
            shutil.rmtree(path)
    assert open_study(study.name, partial=True).facts["plan"]["zoom_average"] == 1.25
    edit(study / "runs" / "unet" / "fold_1" / "seed_0", lambda run: run["plan"].pop("zoom_average"))
    with pytest.raises(StudyError, match="mixes runs(?s:.*)zoom_average null: 1 run"):
        open_study(study.name, partial=True)
    run = record.read(study / "runs" / "unet" / "fold_0" / "seed_0")
    uniform = {"recipe": "uniform"}
    now, earlier = ({**run, "plan": plan} for plan in (uniform | {"zoom_average": None}, uniform))
    assert identity.digest(now) == identity.digest(earlier) != identity.digest(run)


def test_scored_in_parts_as_at_once(study, monkeypatch):
    """The images of a fold, eight at a time, which is a batch of the profile; the last part is smaller."""
    folder = study / "runs" / "xbusnet" / "fold_0" / "seed_0"
    trained, whole = Trained.load(folder), open_study(study.name)
    cases = whole.cases[whole.cases["fold"] == 0].reset_index(drop=True)
    table, maps = score(trained.predictor, cases, whole.prepared)
    monkeypatch.setattr(predict, "CHUNK", 8)
    parts, other = score(trained.predictor, cases, whole.prepared)
    assert len(cases) > trained.predictor.plan.config.prediction_batch == 8 and len(cases) % 8
    pd.testing.assert_frame_equal(table, parts, atol=1e-6)
    np.testing.assert_allclose(maps, other, atol=1e-6)


def test_one_fold_with_other_weights_is_refused(study, phantom_root, monkeypatch):
    """As if a file had been found for one fold and none for the others, under the same setting."""
    def resnet(size, weights, real=encoders.resnet):
        encoder, found = real(size, weights)
        return encoder, found | {"sha256": "f00d", "file": "resnet18.safetensors", "weights": "pretrained"}

    monkeypatch.setattr("xbuslib.models.uresnet.resnet", resnet)
    again(study, phantom_root, "uresnet")
    with pytest.raises(StudyError, match=r"(?s)weights of resnet18 random numbers.*weights of resnet18 sha256 f00d"):
        open_study(study.name)


def test_one_fold_in_another_precision_is_refused(study, phantom_root, monkeypatch):
    usual = precision.has_bfloat16("cpu")
    monkeypatch.setattr(precision, "has_bfloat16", lambda kind: not usual)
    again(study, phantom_root, "unet")
    with pytest.raises(StudyError, match=r"(?s)precision of plans with amp True (bfloat16|float32): 1 run"):
        open_study(study.name)


@pytest.mark.parametrize("change, word", [
    (lambda run: run.update(protocol=1), "protocol 1: 1 run"),
    (lambda run: run.update(frozen_checksum="0"), "frozen_checksum of xbusnet of seed 0"),
    (lambda run: run["plan"].update(loss="ukan_loss"), "plan: loss ukan_loss: 1 run"),
    (lambda run: run.update(dataset_fingerprint="0"), "dataset_fingerprint 0: 1 run"),
    (lambda run: run.update(trainable=7), "trainable of xbusnet 7: 1 run"),
])
def test_what_a_run_records_of_itself_is_compared(study, change, word):
    edit(study / "runs" / "xbusnet" / "fold_0" / "seed_0", change)
    with pytest.raises(StudyError, match=word):
        open_study(study.name)
    with pytest.raises(StudyError, match=word):
        ensemble.find_runs(study / "runs" / "xbusnet")


def test_a_second_seed_draws_other_frozen_encoders_and_belongs_to_the_study(study, phantom_root):
    paths = [again(study, phantom_root, "xbusnet", fold=fold, seed=1) for fold in (0, 1)]
    checksums = {record.read(path)["frozen_checksum"] for path in [*paths, study / "runs/xbusnet/fold_0/seed_0"]}
    assert len(checksums) == 2
    assert set(open_study(study.name, partial=True).runs["seed"]) == {0, 1}


def test_settings_that_cost_time_alone_make_no_difference(study, phantom_root):
    again(study, phantom_root, "unet", ["prediction_batch=3", "checkpoint_every=1"])
    assert len(open_study(study.name).runs) == 12


# ---- the very run --------------------------------------------------------------------------------------------


def test_a_default_said_aloud_is_the_same_run(phantom_root, outputs):
    source = open_source("phantom", phantom_root, None, resolve("smoke"), "s")
    path = run_fold("unet", 0, resolve("smoke", ["iterations=1"]), source, study="s")
    before = (path / "run.json").stat().st_mtime_ns
    assert run_fold("unet", 0, resolve("smoke", ["iterations=1", "amp=true", "weight_decay=0.01"]), source, study="s")
    assert (path / "run.json").stat().st_mtime_ns == before
    with pytest.raises(StudyError, match="plan: weight_decay: 0.01 there, 0.02 asked for"):
        run_fold("unet", 0, resolve("smoke", ["iterations=1", "weight_decay=0.02"]), source, study="s")


def test_one_word_of_the_case_table_makes_another_run(phantom_root, outputs, monkeypatch):
    """Prompts are made of it, so a run with the old word is neither taken for the new one nor joined with it."""
    config = resolve("smoke", ["iterations=1", "folds=2"])
    source = open_source("phantom", phantom_root, None, config, "s")
    path = run_fold("unet", 0, config, source, study="s")
    table = source.all_cases.copy()
    row = table.index[table["shape"] == "oval"][0]
    table.loc[row, "shape"] = "irregular"
    monkeypatch.setattr(catalogue, "load", lambda name, root: table)
    other = open_source("phantom", phantom_root, None, config, "s")
    assert other.prepared.fingerprint == source.prepared.fingerprint
    with pytest.raises(StudyError, match="(?s)holds a run with other settings:\n  metadata_fingerprint: [0-9a-f]{64} "):
        run_fold("unet", 0, config, other, study="s")
    there = record.read(path)
    assert identity.digest(there) != identity.digest(there | other.identity())  # nor is a checkpoint gone on from
    for made_with in (lambda: open_study("s").case_table(str(phantom_root)),
                      lambda: nnunet.export("s", outputs / "nnunet", 7, str(phantom_root))):
        with pytest.raises(StudyError, match="holds other images, masks or metadata than study s was made with"):
            made_with()
    run_fold("unet", 1, config, other, study="s")
    with pytest.raises(StudyError, match="(?s)mixes runs.*metadata_fingerprint [0-9a-f]{64}: 1 run"):
        open_study("s")
    edit(path, lambda run: run.pop("metadata_fingerprint"))  # as a run of an earlier version
    assert len(open_study("s").runs) == 2 and run_fold("unet", 0, config, other, study="s") == path
    assert identity.same_data(record.read(path), other.identity())


def test_a_run_of_another_protocol_does_not_predict(study):
    run = study / "runs" / "unet" / "fold_0" / "seed_0"
    assert Trained.load(run).run["protocol"] == identity.PROTOCOL
    edit(run, lambda facts: facts.update(protocol=identity.PROTOCOL - 1))
    with pytest.raises(StudyError, match=rf"protocol {identity.PROTOCOL - 1} .*run the fold again"):
        Trained.load(run)


def test_compare_names_what_differs_and_nothing_else(study, phantom_root):
    runs = [study / "runs" / "unet" / f"fold_{fold}" / "seed_0" for fold in (0, 1)]
    again(study, phantom_root, "unet", ["learning_rate=0.01"])
    done = CliRunner().invoke(app, ["runs", "--json", "--compare", *map(str, runs)])
    told = {row["what"]: (row["A"], row["B"]) for row in json.loads(done.stdout)}
    assert told == {"plan: rates": ({"other": 1e-3}, {"other": 1e-2}), "fold": (0, 1), "train_cases": (9, 10)}
    done = CliRunner().invoke(app, ["runs", "--compare", str(runs[0]), str(runs[0])])
    assert done.exit_code == 0 and done.stdout.strip() == "what differs: none"


# ---- captions and caveats ------------------------------------------------------------------------------------


def facts(system="unet", profile="paper", *overrides):
    """run.json of a run as far as its caveats read it."""
    config = resolve(profile, list(overrides))
    return {"system": system, "paper_name": system.upper(), "fold": 0, "val_cases": 50,
            "config": Config(**config.model_dump()).model_dump(),
            "plan": recipes.plan(system, config, 200).record()}


def test_the_paper_s_protocol_has_no_caveat():
    runs = [facts("unet"), facts("xbusnet"), facts("ukan", "paper", "prediction_batch=1")]
    assert caveats.caveats(runs, "CLIP pretrained") == []
    assert caveats.short(runs) == "1000 iterations"


@pytest.mark.parametrize("override, shown, sentence", [
    ("iterations=400", "400 iterations", "400 iterations (1000 in the paper)"),
    ("image_size=160", "1000 iterations", "160 pixels (352 in the paper)"),
    ("learning_rate=0.002", "learning rate 0.002", "learning rate 0.002 instead of 0.0001"),
    ("final_learning_rate=1e-5", "schedule cosine(floor=1e-05)", "cosine(floor=1e-05) instead of cosine(floor=1e-06)"),
    ("batch_size=8", "batch size 8", "batch size 8 instead of 4"),
    ("weight_decay=0", "weight decay 0", "weight decay 0 instead of 0.01"),
    ("amp=false", "mixed precision off", "mixed precision off instead of on"),
    ("drop_spatial=0", "dropout probability of size and of location 0", "location 0 instead of 0.3"),
    ("threshold=0.33", "threshold 0.33", "threshold 0.33 instead of 0.5"),
    ("first_pass_threshold=0.4", "threshold of the first pass 0.4", "of the first pass 0.4 instead of 0.3"),
    ("train_images=50", "50 training images", "trained on 50 of its training images, not on all"),
    ("size=quick", "small networks", "the small ones (size quick)"),
    ("fold_by=dataset", "a fold per dataset", "Each fold is one dataset"),
    ("recipe=strong", "recipe strong", "(recipe strong): loss cross entropy dice loss instead of soft dice loss"),
])
def test_every_departure_stands_in_caption_and_caveats(override, shown, sentence):
    runs = [facts("unet", "paper", override), facts("xbusnet", "paper", override)]
    assert shown in caveats.short(runs)
    text = caveats.caveats(runs, "CLIP pretrained")
    assert len(text) == 1 and sentence in text[0]


def test_a_setting_over_a_recipe_stands_in_the_caption():
    assert caveats.short([facts("unet", "paper", "recipe=strong", "learning_rate=0.01")]) == \
        "1000 iterations, recipe strong, learning rate 0.01"
    assert caveats.short([facts("unet", "paper", "recipe=strong", "amp=false")]) == \
        "1000 iterations, recipe strong, mixed precision off"


def test_official_recipes_are_told_system_by_system():
    runs = [facts("ukan", "paper", "recipe=official"), facts("xbusnet-released", "paper", "recipe=official")]
    assert caveats.short(runs) == "1000 to 10000 iterations, recipe official"  # U-KAN: 400 epochs of 200 // 8
    text = " ".join(caveats.caveats(runs, "CLIP pretrained"))
    assert "UKAN: 10000 iterations, batch size 8 instead of 4, learning rate 0.01 (kan), 0.0001" in text
    assert "XBUSNET-RELEASED: 1000 iterations, schedule cosine(floor=1e-06, length=20000)" in text


def test_the_label_of_a_study_tells_its_training(study, phantom_root):
    assert "2 iterations, batch size" not in open_study(study.name).label
    for fold in (0, 1):
        again(study, phantom_root, "unet", ["batch_size=3"], fold)
    opened = open_study(study.name, systems=["unet"])
    assert "2 iterations, batch size 3, learning rate 0.001, no pretrained encoder" in opened.label
    assert any("batch size 3 instead of 4" in sentence for sentence in opened.caveats)
