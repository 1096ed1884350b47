"""The command a user calls: results, and one clear message with exit code 1 for every fault."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.conftest import REPOSITORY
from xbuslib import cli
from xbuslib.display import terminal
from xbuslib.models import overview
from xbuslib.runs import record

TINY = ["--profile", "smoke", "--set", "iterations=2"]


def xbuslib(*arguments, **environment):
    """Run the command as a user does, from the repository."""
    import os

    return subprocess.run([sys.executable, "-m", "xbuslib", *map(str, arguments)], capture_output=True, text=True,
                          cwd=REPOSITORY, env=os.environ | environment, check=False)


def refused(done, *words):
    """The command failed with one message that holds `words`, and no traceback."""
    assert done.returncode not in (0, None)
    assert "Traceback" not in done.stderr + done.stdout
    for word in words:
        assert word in done.stderr.replace("\n", " ") or word in done.stderr, done.stderr


def test_after_control_c_the_user_is_told_what_to_do(monkeypatch, capsys, outputs):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["xbuslib", "systems"])
    monkeypatch.setattr(overview, "catalogue", interrupted)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130 and "the same command goes on from here" in capsys.readouterr().err


def test_a_number_that_is_not_there_is_null_in_json(capsys):
    terminal.show([{"dice": 0.5, "dice_sd": float("nan")}], True, "")
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == [{"dice": 0.5, "dice_sd": None}]


def test_a_comparison_shows_every_difference(capsys, monkeypatch):
    """Three decimals of 0.00001 and of 0.0001 are 0.000 both."""
    monkeypatch.setattr(record, "compared", lambda one, other: [
        {"what": "amp", "A": False, "B": True}, {"what": "weight_decay", "A": 1e-5, "B": 1e-4},
        {"what": "learning_rate", "A": 0.0012, "B": 0.001}, {"what": "train_cases", "A": 1500, "B": 200}])
    cli.runs(compare=("one", "other"))
    shown = [[cell.strip() for cell in line.strip("│").split("│")] for line in capsys.readouterr().out.splitlines()
             if "│" in line]
    assert shown == [["amp", "no", "yes"], ["weight_decay", "1e-05", "0.0001"], ["learning_rate", "0.0012", "0.001"],
                     ["train_cases", "1,500", "200"]]


def test_a_score_has_three_decimals(capsys):
    terminal.show([{"dice": 0.7123456}], False, "")
    assert "0.712 " in capsys.readouterr().out


def test_fold_trains_scores_and_is_not_repeated(phantom_root, outputs, run_command):
    arguments = ["fold", "--data", phantom_root, *TINY, "--study", "t"]
    first = xbuslib(*arguments)
    assert first.returncode == 0, first.stderr
    folder = outputs / "t" / "runs" / "xbusnet" / "fold_0" / "seed_0"
    assert str(folder) in first.stdout and "first_pass" in first.stdout
    written = (folder / "run.json").stat().st_mtime_ns
    assert run_command(*arguments).returncode == 0 and (folder / "run.json").stat().st_mtime_ns == written
    other = run_command("fold", "--data", phantom_root, "--profile", "smoke", "--study", "t")
    refused(other, "holds a run with other settings", "iterations: 2 there, 6 asked for", "--study")
    listed = json.loads(run_command("runs", "--json").stdout)
    assert [(run["system"], run["fold"], run["profile"]) for run in listed] == [("xbusnet", 0, "smoke")]


@pytest.mark.parametrize("arguments, words", [
    (["fold", "--system", "unet9"], ["unknown system 'unet9'", "xbusnet"]),
    (["fold", "--set", "iteratons=3"], ["iteratons: no such setting"]),
    (["fold", "--profile", "fast"], ["unknown profile 'fast'"]),
    (["fold", "--dataset", "blu"], ["--data DIR", "Where to get BLU"]),
    (["fold", "--dataset", "blu", "--data", "nowhere"], ["--data nowhere is not a folder"]),
    (["study", "--systems", "xbusnet,unet9"], ["unknown system 'unet9'; did you mean 'unet'?"]),
    (["study", "--profile", "smoke", "--systems", "xbusnet", "--set", "recipe=official"],
     ["xbusnet has no official recipe", "bussam"]),
    (["study", "--folds", "nowhere"], ["--folds 'nowhere' is neither a folder nor numbers"]),
    (["notebook", "04_train_fold", "--output", "x.ipynb", "-p", "sytem=unet"], ["no parameter sytem", "system:"]),
    (["notebook", "99_nothing", "--output", "x.ipynb"], ["unknown notebook '99_nothing'", "04_train_fold"]),
    (["data", "download", "busi", "--root", "x"], ["only blu can be downloaded"]),
    (["runz"], ["No such command", "Did you mean 'runs'"]),
    (["study", "--dataset", "bli"], ["unknown dataset 'bli'; did you mean 'blu'?"]),
    (["study", "--seeds", "a"], ["--seeds 'a' is no list of numbers"]),
    (["study", "--set", "iteration=5"], ["did you mean 'iterations'?"]),
    (["study", "--set", "iterations=-1"], ["iterations: Input should be greater"]),
    (["study", "--set", "iterations"], ["is not of the form key=value"]),
    (["study", "--data", "README.md"], ["--data README.md is not a folder"]),
    (["study", "--config", "nowhere.yaml"], ["cannot read the study file nowhere.yaml"]),
    (["study", "--config", "README.md"], ["README.md is no YAML"]),
    (["fold", "--folds", "3"], ["--folds '3' is no folder of fold lists", "--fold NUMBER"]),
    (["fold", "--dataset", "busi"], ["Where to get BUSI"]),
    (["runs", "--study", "phantom-quik"], ["study 'phantom-quik' has no finished run"]),
    (["report", "nothing"], ["study 'nothing' has no finished run"]),
    (["systems", "--profile", "papr"], ["did you mean 'paper'?"]),
    (["data", "phantom", "--root", "docs"], ["docs is not an empty folder"]),
    (["data", "phantom", "--root", "."], ["is the current folder", "give a folder inside it"]),
])
def test_refusals(arguments, words, outputs, run_command):
    refused(run_command(*arguments), *words)
    assert not list(outputs.glob("*/runs")) and not (REPOSITORY / "x.ipynb").exists()


def test_paper_profile_refuses_to_start_without_weights(phantom_root, outputs, tmp_path, run_command, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("XBUS_WEIGHTS", str(tmp_path))
    done = run_command("study", "--data", phantom_root, "--profile", "paper", "--set", "image_size=64")
    refused(done, "no weights for clip", str(tmp_path), "open_clip_model.safetensors", "weights=random")
    assert not list(outputs.glob("*/runs"))


def test_output_folder_that_cannot_be_written(phantom_root, tmp_path, run_command, monkeypatch):
    blocked = tmp_path / "blocked"
    blocked.write_text("in the way")
    monkeypatch.setenv("XBUS_OUTPUTS", str(blocked))
    refused(run_command("fold", "--data", phantom_root, *TINY), "cannot write", str(blocked), "XBUS_OUTPUTS")


def test_data_phantom_and_check(tmp_path, run_command):
    made = run_command("data", "phantom", "--root", tmp_path / "p", "--n", 3, "--seed", 4)
    assert made.returncode == 0 and "3 simulated phantom cases" in made.stdout
    done = run_command("data", "check", "phantom", "--root", tmp_path / "p", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 0 and report["images"] == 3 and report["problems"] == []
    assert list(report) == ["dataset", "images", "lesions", "normals", "benign", "malignant", "normal_cases",
                            "multi_lesion_cases", "size_bins", "several_regions", "notes", "repeats", "problems"]
    next((tmp_path / "p").glob("*/case001_tumor.png")).write_bytes(b"")
    broken = run_command("data", "check", "phantom", "--root", tmp_path / "p", "--json")
    assert broken.returncode == 1 and "case001" in json.loads(broken.stdout)["problems"][0]
    refused(run_command("data", "phantom", "--root", tmp_path / "p"), "is not an empty folder")


@pytest.fixture
def masks(tmp_path):
    """Two reference and two predicted masks of 4×5 pixels."""
    for folder, columns in (("reference", 2), ("prediction", 3)):
        (tmp_path / folder).mkdir()
        for name in "ab":
            mask = np.zeros((4, 5), np.uint8)
            mask[:, :columns] = 255
            Image.fromarray(mask).save(tmp_path / folder / f"{name}.png")
    return tmp_path


def test_score_by_hand(masks):
    """TP 8, FP 4, FN 0, TN 8: Dice 16/20, IoU 8/12, FPR 4/12, FNR 0; background Dice 16/20."""
    done = xbuslib("score", "--reference", masks / "reference", "--prediction", masks / "prediction",
                   "--out", masks / "o.csv")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(masks / "o.csv")
    assert list(table.columns) == ["case_id", "dice", "iou", "fpr", "fnr", "dice_two_class", "iou_two_class",
                                   "fpr_released", "fnr_two_class"]
    assert table["case_id"].tolist() == ["a", "b"]
    assert table.drop(columns="case_id").iloc[0].tolist() == pytest.approx(
        [0.8, 2 / 3, 1 / 3, 0, 0.8, 2 / 3, (4 / 12 + 0) / 2, (0 + 4 / 12) / 2])


def test_score_refuses_masks_that_do_not_match(masks, run_command):
    arguments = ["score", "--reference", masks / "reference", "--prediction", masks / "prediction", "--out",
                 masks / "o.csv"]
    Image.new("L", (9, 9)).save(masks / "prediction" / "a.png")
    refused(run_command(*arguments), "a.png: prediction is 9×9 pixels, reference 5×4")
    (masks / "prediction" / "b.png").unlink()
    refused(run_command(*arguments), "b.png: no such file")
    assert not (masks / "o.csv").exists()


def test_systems_as_json(run_command):
    rows = json.loads(run_command("systems", "--profile", "quick", "--json").stdout)
    assert {"name", "paper", "trainable", "frozen", "prompts", "weights", "flops_per_image"} == set(rows[0])
    assert "xbusnet" in [row["name"] for row in rows] and all(row["flops_per_image"] > 0 for row in rows)


def test_version():
    done = xbuslib("--version")
    assert done.returncode == 0 and done.stdout.startswith("xbuslib ")


@pytest.mark.parametrize("command", ["study", "fold", "predict"])
def test_help_shows_how_to_name_one_version_of_the_hub(command):
    """Square brackets would be taken for markup and left out."""
    assert "hf://USER/NAME@REVISION" in "".join(xbuslib(command, "--help", COLUMNS="200").stdout.split())


def test_help_names_the_choices():
    text = " ".join(xbuslib("study", "--help", COLUMNS="200").stdout.split())
    assert "paper|quick|smoke" in text and "phantom|phantom_b|blu|busi|busbra" in text and "--config" in text
