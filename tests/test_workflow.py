"""The Snakefile on a smoke study of four folds: runs to report, nothing twice, only what is gone is rebuilt.

The library is a copy with fewer and shorter notebooks; tests/test_notebooks.py runs each of them whole.
The four folds are asked for at once on two GPUs. They are pretended: ids that no machine has, so that folds run on CPU.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pandas as pd
import pytest

from tests.faults.study import cut_short, small_tree
from tests.test_report import check_page
from xbuslib.errors import StudyError
from xbuslib.workflow import study as workflow_study
from xbuslib.workflow.request import request


def study(tree, outputs, phantom_root, *more):
    return subprocess.run(
        [sys.executable, "-m", "xbuslib", "study", "--profile", "smoke", "--data", str(phantom_root), "--systems",
         "xbusnet", "--folds", "0,1,2,3", "--study", "w", "--set", "iterations=2", "--gpus", "90,91", "--jobs", "4",
         *more],
        capture_output=True, text=True, cwd=tree, check=False,
        env=os.environ | {"XBUS_OUTPUTS": str(outputs), "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(tree)})


def run_files(outputs):
    return {path: path.stat().st_mtime_ns for path in sorted((outputs / "w" / "runs").glob("*/*/*/run.json"))}


def made(outputs):
    """Everything the study made, by name, with the time it was made: runs, notebooks, report."""
    folder = outputs / "w"
    files = [*run_files(outputs), *sorted((folder / "notebooks").glob("*.done")), folder / "report" / "index.html"]
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in files if path.exists()}


def analyses(outputs):
    return [f"notebooks/{name}.done" for name in json.loads((outputs / "w" / "study.json").read_text())["analyses"]]


def remade(before, after):
    return [name for name in after if after[name] != before.get(name)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    tree = small_tree(tmp_path_factory.mktemp("library") / "tree", last=6)
    cut_short(tree / "notebooks" / "06_size_stratified.ipynb")
    return tree


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, smoke_study):
    folder = tmp_path_factory.mktemp("outputs")
    shutil.copytree(smoke_study.folder.parent / "data", folder / "data")
    return folder


def test_four_folds(tree, outputs, phantom_root):
    planned = study(tree, outputs, phantom_root, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert not (outputs / "w" / "runs").exists()
    done = study(tree, outputs, phantom_root)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(run_files(outputs)) == 4 and "mean lesion metrics over folds" in done.stdout
    for name in ("01_explore_data", "02_design_prompts", "03_model_anatomy",
                 "04_train_fold/xbusnet_fold_0_seed_0", "04_train_fold/xbusnet_fold_1_seed_0"):
        assert (outputs / "w" / "notebooks" / f"{name}.ipynb").is_file()
    assert "notebooks/05_overall_performance.done" in analyses(outputs) and set(analyses(outputs)) < set(made(outputs))
    rows = pd.concat(pd.read_csv(path.with_name("per_image.csv"), keep_default_na=False) for path in run_files(outputs))
    assert not rows.duplicated(["case_id", "policy", "attributes"]).any()


def test_no_two_folds_share_a_gpu(outputs):
    """What each kernel saw, and from when to when papermill ran it; both ids are in use side by side."""
    held = []
    for path in run_files(outputs):
        fold = path.parts[-3]
        log = outputs / "w" / "notebooks" / "04_train_fold" / f"xbusnet_{fold}_seed_0.ipynb"
        times = nbformat.read(log, as_version=4).metadata.papermill
        held.append((json.loads(path.read_text())["cuda_visible_devices"], times.start_time, times.end_time))
    assert {gpu for gpu, *_ in held} == {"90", "91"}
    together = [{one, other} for (one, began, ended), (other, started, stopped) in combinations(held, 2)
                if began < stopped and started < ended]
    assert together and all(gpus == {"90", "91"} for gpus in together)


def test_the_report_is_whole_and_says_what_was_run(outputs):
    report = outputs / "w" / "report"
    pages = [report / "index.html", *(report / "notebooks").rglob("*.html")]
    assert len(pages) == 1 + 3 + 4 + len(analyses(outputs))  # itself, 01-03, four folds, the analyses
    for path in pages:
        check_page(path)
    text = pages[0].read_text()
    top = text[:text.index("Contents")]
    for words in ("simulated phantom", "these numbers say nothing about the paper", "The profile is smoke, not paper",
                  "were used (CLIP random"):
        assert words in top
    assert "stopped with an error" not in text and "Not executed" not in text and "Left over" not in text
    assert "Table 1, systems compared, is absent" not in text and "iterations=2" in text


def test_again_does_nothing_and_says_so(tree, outputs, phantom_root):
    before = made(outputs)
    done = study(tree, outputs, phantom_root)
    assert done.returncode == 0 and "Nothing to do: every run is there and current" in done.stdout
    assert str(outputs / "w" / "report" / "index.html") in done.stdout.replace("\n", "")
    assert made(outputs) == before


def test_a_deleted_run_is_rebuilt_with_what_rests_on_it_and_a_failing_notebook_loses_nothing(
        tree, outputs, phantom_root):
    """The decoded images are gone too: decoding again must not retrain the other run. First notebook 04 fails at its
    end, and the run that it has trained stays; then notebook 05 cannot write."""
    before = made(outputs)
    gone = sorted(run_files(outputs))[0]
    numbers = gone.with_name("per_image.csv").read_bytes()
    gone.unlink()
    shutil.rmtree(outputs / "w" / "prepared")
    notebook = tree / "notebooks" / "04_train_fold.ipynb"
    whole = notebook.read_text()
    cells = nbformat.reads(whole, as_version=4)
    cells.cells.append(nbformat.v4.new_code_cell("raise OSError('disk full')"))
    nbformat.write(cells, notebook)
    done = study(tree, outputs, phantom_root)
    assert done.returncode == 1 and "these jobs failed:\n  04_train_fold: xbusnet, fold 0, seed 0\n" in done.stderr
    trained = gone.stat().st_mtime_ns
    notebook.write_text(whole)
    tables = outputs / "w" / "tables" / "05"
    kept = tables.rename(tables.with_name("05_before"))
    tables.write_text("a file where a folder is to be")
    done = study(tree, outputs, phantom_root)
    assert done.returncode == 1 and "Traceback" not in done.stderr.split("these jobs failed:")[1]
    assert re.search(r"these jobs failed:\n  05_overall_performance\nTheir executed", done.stderr)
    broken = made(outputs)
    others = [name for name in analyses(outputs) if "/05_" not in name]
    assert remade(before, broken) == [gone.relative_to(outputs / "w").as_posix(), *others]
    assert gone.with_name("per_image.csv").read_bytes() == numbers and gone.stat().st_mtime_ns == trained
    assert (gone.parent / "weights.safetensors").is_file()
    tables.unlink()
    kept.rename(tables)
    assert study(tree, outputs, phantom_root).returncode == 0
    assert remade(broken, made(outputs)) == ["notebooks/05_overall_performance.done", "report/index.html"]


def test_other_settings_under_the_same_name_are_refused(tree, outputs, phantom_root):
    before = run_files(outputs)
    done = study(tree, outputs, phantom_root, "--set", "iterations=3")
    assert done.returncode == 1 and "holds a run with other settings" in done.stderr and "Traceback" not in done.stderr
    assert run_files(outputs) == before


# ---- a second command beside a study at work ----------------------------------------------------------------------


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_command_with_other_settings_changes_nothing_of_a_study_at_work(phantom_root, tmp_path, monkeypatch):
    """Snakemake is replaced by a function that gives the second command while the first is at work."""
    monkeypatch.setenv("XBUS_OUTPUTS", str(tmp_path))
    monkeypatch.setattr(workflow_study, "PATIENCE", 0.1)
    given = {"data": str(phantom_root), "profile": "smoke", "study": "s", "systems": "unet", "folds": "0"}
    first, second = ((wanted, *workflow_study.settle(wanted))
                     for wanted in (request(given), request(given | {"seeds": "1"})))  # both checked before one begins
    before, ran = files_of(tmp_path / "s"), []

    def snakemake(command, **_):
        ran.append(command)
        if "--dry-run" in command:
            return SimpleNamespace(returncode=0)
        at_work = files_of(tmp_path / "s")
        assert b"seeds:\n- 0" in at_work[Path("study.yaml")] and json.loads(at_work[Path("study.json")])["seeds"] == [0]
        with pytest.raises(StudyError, match="study s is already running"):
            workflow_study.run_study(*second)
        with pytest.raises(StudyError, match="study s is already running"):
            workflow_study.settle(request(given | {"set": {"image_size": 96}}))
        assert workflow_study.run_study(*second, dry_run=True)
        assert files_of(tmp_path / "s") == at_work
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(workflow_study, "subprocess", SimpleNamespace(run=snakemake))
    assert workflow_study.run_study(*second, dry_run=True) and files_of(tmp_path / "s") == before
    assert workflow_study.run_study(*first) is False and len(ran) == 3
    assert request({}, tmp_path / "s" / "study.yaml").seeds == [0]


def test_jobs_find_folders_that_the_environment_names_relative(phantom_root, tmp_path, monkeypatch):
    """A job runs in the folder of its study, from where `weights` would be another folder."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"XBUS_OUTPUTS": "out", "XBUS_WEIGHTS": "weights", "XBUS_DATA": ""}.items():
        monkeypatch.setenv(name, value)
    wanted = request({"data": str(phantom_root), "profile": "smoke", "study": "s", "systems": "unet", "folds": "0"})
    given = {}
    monkeypatch.setattr(workflow_study, "subprocess", SimpleNamespace(
        run=lambda _, env, check: given.update(env) or SimpleNamespace(returncode=0)))
    assert workflow_study.run_study(wanted, *workflow_study.settle(wanted), dry_run=True)
    assert given["XBUS_WEIGHTS"] == str(tmp_path / "weights") and given["XBUS_DATA"] == ""


def test_notebooks_of_other_settings_are_executed_again(phantom_root, tmp_path, monkeypatch):
    """Without a run the settings of a study may change; with one, they are refused, and its notebooks stay."""
    monkeypatch.setenv("XBUS_OUTPUTS", str(tmp_path))
    done = SimpleNamespace(returncode=0)
    monkeypatch.setattr(workflow_study, "subprocess", SimpleNamespace(run=lambda *_, **__: done))
    given = {"data": str(phantom_root), "profile": "smoke", "study": "s", "systems": "unet", "folds": "0"}
    marks = [tmp_path / "s" / "notebooks" / f"{name}.done" for name in workflow_study.NOTEBOOKS]

    def start(**changed):
        wanted = request(given | changed)
        workflow_study.run_study(wanted, *workflow_study.settle(wanted))
        there = [mark.is_file() for mark in marks]
        marks[0].parent.mkdir(exist_ok=True)
        for mark in marks:
            mark.touch()
        return there

    assert start() == [False] * 3 and start() == [True] * 3
    assert start(set={"image_size": 96}) == [False] * 3 and start(set={"image_size": 96}) == [True] * 3


def test_results_dated_after_now_move_back_in_their_order(phantom_root, tmp_path, monkeypatch, capsys):
    """As after a clock that was set back: Snakemake would remove a new run for being older than the decoded images."""
    monkeypatch.setenv("XBUS_OUTPUTS", str(tmp_path))
    asked = request({"data": str(phantom_root), "profile": "smoke", "study": "s", "systems": "unet", "folds": "0"})
    settled = workflow_study.settle(asked)
    names = ["prepared/ready.json", "runs/unet/fold_0/seed_0/run.json", "notebooks/05.done", "report/index.html"]
    now = time.time()
    for place, name in enumerate(names):
        path = tmp_path / "s" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        os.utime(path, (now + 3600 + place, now + 3600 + place))
    os.utime(tmp_path / "s" / names[0], (0, 0))  # of decoded images that were made again
    dates = []

    def snakemake(command, **_):
        dates.extend((tmp_path / "s" / name).stat().st_mtime for name in names)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(workflow_study, "subprocess", SimpleNamespace(run=snakemake))
    assert workflow_study.run_study(asked, *settled) is False
    assert dates[0] == 0 and dates[1] == pytest.approx(now - 2, abs=60) and dates[-1] <= time.time()
    assert dates[2] - dates[1] == pytest.approx(1, abs=1e-3) == dates[3] - dates[2]
    assert re.search(r"results of study s are dated up to 3[56]\d\d s after now", capsys.readouterr().err)
    workflow_study.run_study(asked, *settled)
    assert dates[4:] == dates[:4]
