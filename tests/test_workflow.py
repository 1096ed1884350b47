"""The Snakefile on a two-fold smoke study: it runs, does nothing twice, and rebuilds only what is gone."""

import os
import shutil
import subprocess
import sys

import pandas as pd
import pytest

from tests.conftest import REPOSITORY


def study(outputs, phantom_root, *more):
    return subprocess.run(
        [sys.executable, "-m", "xbuslib", "study", "--profile", "smoke", "--data", str(phantom_root), "--systems",
         "xbusnet", "--folds", "0,1", "--study", "w", "--set", "iterations=2", *more],
        capture_output=True, text=True, cwd=REPOSITORY, env=os.environ | {"XBUS_OUTPUTS": str(outputs)}, check=False)


def run_files(outputs):
    return {path: path.stat().st_mtime_ns for path in sorted((outputs / "w" / "runs").glob("*/*/*/run.json"))}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    return tmp_path_factory.mktemp("outputs")


def test_two_folds(outputs, phantom_root):
    planned = study(outputs, phantom_root, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert not (outputs / "w" / "runs").exists()
    done = study(outputs, phantom_root)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(run_files(outputs)) == 2 and "mean lesion metrics over folds" in done.stdout
    for name in ("01_explore_data", "02_design_prompts", "03_model_anatomy",
                 "04_train_fold/xbusnet_fold_0_seed_0", "04_train_fold/xbusnet_fold_1_seed_0"):
        assert (outputs / "w" / "notebooks" / f"{name}.ipynb").is_file()
    rows = pd.concat(pd.read_csv(path.with_name("per_image.csv"), keep_default_na=False) for path in run_files(outputs))
    assert not rows.duplicated(["case_id", "policy", "attributes"]).any()


def test_again_does_nothing_and_says_so(outputs, phantom_root):
    before = run_files(outputs)
    done = study(outputs, phantom_root)
    assert done.returncode == 0 and "Nothing to do: every run is there and current" in done.stdout
    assert run_files(outputs) == before


def test_a_deleted_run_is_rebuilt_to_the_same_numbers_and_nothing_else(outputs, phantom_root):
    before = run_files(outputs)
    gone = sorted(before)[1]
    numbers = gone.with_name("per_image.csv").read_bytes()
    shutil.rmtree(gone.parent)
    assert study(outputs, phantom_root).returncode == 0
    after = run_files(outputs)
    assert [path for path in after if after[path] != before[path]] == [gone]
    assert gone.with_name("per_image.csv").read_bytes() == numbers


def test_a_run_without_its_run_file_is_made_again(outputs, phantom_root):
    before = run_files(outputs)
    gone = sorted(before)[0]
    gone.unlink()
    shutil.rmtree(outputs / "w" / "prepared")  # decoding again must not retrain what is there
    assert study(outputs, phantom_root).returncode == 0
    after = run_files(outputs)
    assert [path for path in after if after[path] != before[path]] == [gone]
    assert (gone.parent / "weights.safetensors").is_file()


def test_other_settings_under_the_same_name_are_refused(outputs, phantom_root):
    before = run_files(outputs)
    done = study(outputs, phantom_root, "--set", "iterations=3")
    assert done.returncode == 1 and "holds a run with other settings" in done.stderr and "Traceback" not in done.stderr
    assert run_files(outputs) == before
