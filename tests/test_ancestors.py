"""Runs trained on a whole dataset, on several at once, and runs that start from them: what is kept, what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from xbuslib import cli
from xbuslib.analyses.performance import exhibits, paper_tables
from xbuslib.config import resolve
from xbuslib.data import catalogue, check, repeats
from xbuslib.display.tables import markdown
from xbuslib.errors import StudyError
from xbuslib.models.system import System
from xbuslib.runs import ancestors, caveats, record
from xbuslib.runs.fold import run_fold
from xbuslib.runs.source import open_source
from xbuslib.runs.study import open_study
from xbuslib.workflow import study as workflow
from xbuslib.workflow.request import Request

SETTINGS = {"iterations": 2, "phantom_cases": 16, "folds": 2}
TINY = resolve("smoke", SETTINGS)


def test_trained_on_everything_and_scored_on_nothing(here):
    folder = here / "elsewhere" / "runs" / "unet" / "fold_all" / "seed_0"
    run, cases = record.read(folder), catalogue.load("phantom_b", catalogue.data_root("phantom_b", "", 16))
    assert (run["fold"], run["val_cases"]) == ("all", 0)
    assert run["train_cases"] == (cases["pathology"] != "normal").sum() == len(pd.read_csv(folder / "seen.csv"))
    assert pd.read_csv(folder / "per_image.csv").empty and record.probabilities(folder) == {}
    assert record.listing("elsewhere")["fold"].tolist() == ["all"]
    with pytest.raises(StudyError, match="were trained on every lesion"):
        open_study("elsewhere")


def test_start_from_another_run(here):
    source = open_source("phantom", "", "", TINY, "mine")
    still = TINY.model_copy(update={"learning_rate": 0.0, "final_learning_rate": 0.0, "weight_decay": 0.0})
    path = run_fold("unet", 0, still, source, study="mine", start_from=here / "elsewhere")
    ancestor = here / "elsewhere" / "runs" / "unet" / "fold_all" / "seed_0"
    there, own = (load_file(folder / "weights.safetensors") for folder in (ancestor, path))
    learnt = [key for key in own if "running" not in key and "num_batches" not in key]
    assert all((own[key] == there[key]).all() for key in learnt)  # at a rate of zero nothing else can be there
    run, before = record.read(path), record.read(ancestor)
    assert run["ancestors"] == [{"system": "unet", "study": "elsewhere", "dataset": "phantom_b",
                                 "images": before["train_cases"], "fold": "all", "seed": 0,
                                 "identity": before["identity"], "sha256": run["ancestors"][0]["sha256"]}]
    seen = pd.read_csv(path / "seen.csv")
    assert seen["dataset"].value_counts().to_dict() == {"phantom_b": before["train_cases"],
                                                        "phantom": run["train_cases"]}
    said = f"simulated phantom of scanner B, {before['train_cases']} images"
    run_fold("unet", 1, still, source, study="mine", start_from=here / "elsewhere")
    study = open_study("mine")
    assert f"started from {said}" in study.label and any(said in caveat for caveat in study.caveats)
    assert study.seen_before == {"unet": said}
    for table in (exhibits.table_1(study), paper_tables.table_1(study)):
        assert table["seen_before"].tolist() == [said] * len(table) and "| seen before |" in markdown(table, "a")
    with pytest.raises(StudyError, match="starts from"):  # the same folder, from random weights
        run_fold("unet", 0, still, source, study="mine")
    assert run_fold("unet", 0, still, source, study="mine", start_from=ancestor) == path  # nothing to do
    shutil.rmtree(here / "mine" / "runs" / "unet" / "fold_1")  # and now without: neither by run_all.sh nor by a fold
    with pytest.raises(StudyError, match="was started from another run, and this command names none"):
        workflow.settle(Request(study="mine", profile="smoke", systems=["unet"],
                                set={"iterations": 2, "phantom_cases": 16, "folds": 2}))
    run_fold("unet", 1, still, source, study="mine")
    with pytest.raises(StudyError, match=r"mixes runs(?s:.*)weights at the start of unet another run: 1 run"):
        open_study("mine")


def test_one_limit_to_the_training_images_in_a_study(here):
    for fold, limit in ((0, None), (1, 3)):
        config = TINY.model_copy(update={"train_images": limit})
        run_fold("unet", fold, config, open_source("phantom", "", "", config, "few"), study="few")
    with pytest.raises(StudyError, match=r"mixes runs(?s:.*)train_images 3: 1 run"):
        open_study("few")


def test_a_study_goes_on_with_the_ancestor_and_the_images_that_it_began_with(here):
    """Refused before anything is started, where every fold is finished too."""
    run_fold("unet", 0, TINY, open_source("phantom", "", "", TINY, "mine"), study="mine", start_from=here / "elsewhere")
    other = Path(shutil.copytree(here / "elsewhere", here / "copy"))  # other weights of the same training
    weights = other / "runs" / "unet" / "fold_all" / "seed_0" / "weights.safetensors"
    save_file({key: value + 1 for key, value in load_file(weights).items()}, weights)
    for start, change, message in ((other, {}, "starts from"), (
            here / "elsewhere", {"train_images": 3}, "train_cases: [0-9]+ there, 3 asked for")):
        with pytest.raises(StudyError, match=rf"holds a run with other settings:(?s:.*){message}"):
            workflow.settle(Request(study="mine", profile="smoke", systems=["unet"], start_from=str(start),
                                    set=SETTINGS | change))
    workflow.settle(Request(study="mine", profile="smoke", systems=["unet"], start_from=str(here / "elsewhere"),
                            set=SETTINGS))
    (here / "mine" / "study.json").write_text(json.dumps({"systems": ["unet"], "folds": ["all"], "seeds": [0]}))
    assert open_study("mine").missing == []  # after a training on all images, which is scored on none


def test_a_request_that_no_fold_can_meet_is_refused_at_once(here):
    with pytest.raises(StudyError, match="iterations=0 scores what other images have taught"):
        workflow.settle(Request(study="none", profile="smoke", systems=["unet"], set=SETTINGS | {"iterations": 0}))
    with pytest.raises(StudyError, match="made with weights=random, and this command asks for partial"):
        source = open_source("phantom", "", "", TINY, "random")
        run_fold("uresnet", 0, TINY, source, study="random")
        workflow.settle(Request(study="random", profile="smoke", systems=["uresnet"],
                                set=SETTINGS | {"weights": "partial"}))


def test_what_does_not_fit_is_listed(here):
    source = open_source("phantom", "", "", TINY, "mine")
    ancestor = here / "elsewhere" / "runs" / "unet" / "fold_all" / "seed_0"
    with pytest.raises(StudyError, match=r"uresnet cannot start from .*\n(?s:.*)system: unet there, uresnet here"):
        run_fold("uresnet", 0, TINY, source, study="mine", start_from=ancestor)
    with pytest.raises(StudyError, match="holds no run of uresnet to start from"):
        run_fold("uresnet", 0, TINY, source, study="mine", start_from=here / "elsewhere")
    (ancestor / "seen.csv").unlink()
    with pytest.raises(StudyError, match="does not say which images it was trained on"):
        run_fold("unet", 0, TINY, source, study="mine", start_from=ancestor)
    assert not (here / "mine" / "runs").exists()


def test_frozen_encoders_of_another_size_or_seed_are_told_apart(here):
    folder = here / "elsewhere" / "runs" / "unet" / "fold_all" / "seed_0"
    run = record.read(folder)
    seed = run | {"frozen_checksum": "other", "seed": 1}
    size = seed | {"config": run["config"] | {"image_size": 96}}
    for wanted, told, silent in ((seed, "drawn from the seed: 0 there, 1 here", "image_size"),
                                 (size, "image_size: 64 there, 96 here", "drawn from the seed")):
        with pytest.raises(StudyError, match=told) as error:
            ancestors.load(folder, System(), wanted)
        assert silent not in str(error.value)


@pytest.mark.parametrize("change, told", [
    (lambda image: image, "equal pixels"),
    (lambda image: image.point(lambda value: min(255, value + 6)), "of 256 bits"),
    (lambda image: image.resize((round(image.width * 0.95), round(image.height * 0.95))), "of 256 bits"),
    (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "mirrored"),
])
def test_an_ancestor_that_has_seen_a_validation_image_is_refused(here, tmp_path, change, told):
    """The same picture under another name, brightened, smaller by 5 %, or mirrored."""
    phantom, other = (catalogue.data_root(name, "", 16) for name in ("phantom", "phantom_b"))
    copy = tmp_path / "mixed"
    shutil.copytree(phantom, copy)
    source = open_source("phantom", "", "", TINY, "clean")
    case = source.split(0)[1].iloc[0]
    stolen = next(row for row in open_source("phantom_b", "", "", TINY, "other").cases.itertuples())
    with Image.open(stolen.image) as image:
        new = change(image.convert("L"))
        new.save(copy / Path(case["image"]).relative_to(phantom))
    with Image.open(stolen.mask) as mask:
        mask.convert("L").resize(new.size, Image.NEAREST).save(copy / Path(case["mask"]).relative_to(phantom))
    mixed = open_source("phantom", copy, "", TINY, "mine")
    assert stolen.image.startswith(str(other))
    with pytest.raises(StudyError, match=f"trained on images that this fold is scored on(?s:.*){told}"):
        run_fold("unet", 0, TINY, mixed, study="mine", start_from=here / "elsewhere")
    assert not (here / "mine" / "runs").exists()
    run_fold("unet", 1, TINY, mixed, study="mine", start_from=here / "elsewhere")  # there it is a training image


def test_an_ancestor_of_an_ancestor_counts(here):
    """A study on scanner B may not start from one that started there."""
    source = open_source("phantom", "", "", TINY, "middle")
    middle = run_fold("unet", "all", TINY, source, study="middle", start_from=here / "elsewhere")
    own = open_source("phantom_b", "", "", TINY, "last")
    with pytest.raises(StudyError, match="equal pixels"):
        run_fold("unet", 0, TINY, own, study="last", start_from=middle)
    run = record.read(middle)
    assert caveats.starts([run]) == [f"simulated phantom of scanner B, {run['ancestors'][0]['images']} images"]


def test_several_datasets_as_one(here):
    """Each image knows where it comes from; no patient or case of one is taken for one of the other."""
    root = catalogue.data_root("phantom+phantom_b", "", 16)
    links = {name: (root / name).lstat().st_ino for name in ("phantom", "phantom_b")}
    assert catalogue.data_root("phantom+phantom_b", "", 16) == root  # and others may be reading through its links
    assert links == {name: (root / name).lstat().st_ino for name in links}
    both, one = catalogue.load("phantom+phantom_b", root), catalogue.load("phantom", root / "phantom")
    assert both["dataset"].value_counts().to_dict() == {"phantom": 16, "phantom_b": 16}
    assert both["case_id"].is_unique and both["case_id"].iloc[0] == f"phantom_{one['case_id'].iloc[0]}"
    assert both["shape"].iloc[:16].tolist() == one["shape"].tolist()
    assert not set(both["patient_id"][:16]) & set(both["patient_id"][16:])
    assert catalogue.label("phantom+phantom_b") == "simulated phantom + simulated phantom of scanner B"
    path = run_fold("unet", "all", TINY, open_source("phantom+phantom_b", "", "", TINY, "both"), study="both")
    assert record.read(path)["train_cases"] == (both["pathology"] != "normal").sum()
    for name, message in (("phantom+blue", "blue"), ("phantom+phantom", "twice")):
        with pytest.raises(StudyError, match=message):
            catalogue.data_root(name, "", 16)


def test_further_masks_are_looked_for_beside_their_own_image(here, monkeypatch):
    root = catalogue.data_root("phantom+phantom_b", "", 16)
    table = catalogue.load("phantom+phantom_b", root)
    last = table.index[-1]
    table["other_masks"] = np.nan  # as of a dataset without the column
    table["other_masks"] = table["other_masks"].astype(object)
    table.loc[last, "other_masks"] = f"{Path(table['image'][last]).name}&nowhere.png"
    monkeypatch.setattr(catalogue, "load", lambda *_: table)
    assert check.check("phantom+phantom_b", root)["problems"] == [f"{table['case_id'][last]}: no file nowhere.png"]


def test_what_another_dataset_lacks_is_missing(here, tmp_path):
    """A dataset without attributes and pixel size beside the phantom: missing in its rows, not invented."""
    kind = tmp_path / "data" / "busi" / "benign"
    kind.mkdir(parents=True)
    rng = np.random.default_rng(0)
    mask = np.zeros((80, 100), np.uint8)
    mask[20:50, 30:70] = 255
    for number in (1, 2):
        Image.fromarray(rng.integers(0, 255, (80, 100), np.uint8)).save(kind / f"benign ({number}).png")
        Image.fromarray(mask).save(kind / f"benign ({number})_mask.png")
    root = catalogue.data_root("phantom+busi", tmp_path / "data", 16)
    table = catalogue.load("phantom+busi", root).set_index("dataset")
    busi = table.loc["busi"]
    assert busi["case_id"].tolist() == ["busi_benign (1)", "busi_benign (2)"]
    assert busi[["shape", "margin", "birads"]].isna().all(axis=None) and busi["pixel_mm"].isna().all()
    assert table.loc["phantom", "pixel_mm"].notna().any()


def test_by_the_command(here):
    def call(*words):
        return CliRunner().invoke(cli.app, list(words))

    tiny = ["--profile", "smoke", "--set", "iterations=2", "--set", "phantom_cases=16", "--set", "folds=2"]
    done = call("fold", "--system", "unet", "--fold", "1", *tiny, "--study", "c", "--json",
                "--start-from", str(here / "elsewhere"))
    assert done.exit_code == 0, done.output
    assert json.loads((here / "c" / "runs/unet/fold_1/seed_0/run.json").read_text())["ancestors"][0]["fold"] == "all"
    for words in (["--fold", "every"], ["--fold", "-1"]):
        wrong = call("fold", *words, *tiny, "--study", "d")
        assert wrong.exit_code != 0 and isinstance(wrong.exception, StudyError | SystemExit), wrong.exception


def test_pairs_of_pictures_by_hand():
    table = pd.DataFrame({"case_id": ["a", "b", "c", "d"], "pixels": ["1", "1", "2", "3"],
                          "looks": ["00" * 32, "ff" * 32, "0f" + "00" * 31, "ff" * 3 + "00" * 29]})
    found = repeats.pairs(table)
    assert found.to_dict("list") == {"one": ["a", "a", "c"], "other": ["b", "c", "d"], "bits": [-1, 4, 20]}
    assert repeats.pairs(table.iloc[:1], table).to_dict("list")["other"] == ["a", "b", "c"]
