"""The short form of `python -m tests.faults`: one message, nothing lost, and the same command goes on."""

import os
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook
from safetensors.torch import save_file

from tests.conftest import REPOSITORY
from tests.faults import kills
from tests.faults.machine import small_disk
from tests.faults.study import SMALL, STAGES, Ended, run, sums
from xbuslib.errors import StudyError, machine_fault, machine_faults
from xbuslib.files import lock, write_whole
from xbuslib.workflow import notebooks, parent

FOLD = ["fold", "--system", "unet", *SMALL]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """(folder for the command's words, outputs of an undisturbed fold, its tables)."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "tree").mkdir()
    for name in ("xbuslib", "workflow", "notebooks"):
        (folder / "tree" / name).symlink_to(REPOSITORY / name)
    whole = folder / "whole"
    ended = run(folder / "tree", whole, FOLD)
    assert ended.code == 0, ended.said
    return folder / "tree", whole, sums(whole)


def test_a_fold_killed_in_training_goes_on_to_the_same_tables(place):
    tree, whole, tables = place
    assert {name.rpartition("/")[2] for name in tables} >= {"per_image.csv", "history.csv", "cases.csv"}
    outputs = tree.parent / "killed"
    shutil.copytree(whole, outputs)
    shutil.rmtree(outputs / "f" / "runs")
    ended = run(tree, outputs, FOLD, {"at": "xbuslib.training.loop:save_checkpoint", "do": "kill all", "delay": 0.01,
                                      "flag": str(tree.parent / "flag")})
    assert ended.code == -signal.SIGKILL and ended.orphans == 0
    assert run(tree, outputs, FOLD).code == 0 and sums(outputs) == tables


def test_a_full_disk_in_training_is_said_and_the_same_command_goes_on(place):
    tree, whole, tables = place
    with small_disk(tree.parent / "disk") as mount:
        if mount is None:
            pytest.skip("this user may not mount a disk here")
        outputs = mount / "outputs"
        shutil.copytree(whole, outputs)
        shutil.rmtree(outputs / "f" / "runs")
        ended = run(tree, outputs, FOLD, {"at": STAGES["train"], "do": "fill", "flag": str(tree.parent / "flag_full")})
        assert ended.problems() == [] and "checkpoint.pt: the file could not be written" in ended.said, ended.said
        (outputs / "filler").unlink()
        assert run(tree, outputs, FOLD).code == 0 and sums(outputs) == tables


def test_what_the_harness_calls_a_broken_promise():
    assert Ended(1, "error: no. Do this.\n", 1, 0).problems() == []
    assert Ended(0, "error: no", 1, 0).problems() == ["exit code 0"]
    assert Ended(1, "Traceback (most recent call last)", 1, 2).problems() == ["no message", "a traceback", "2 orphans"]


def test_tables_that_differ_and_tables_that_are_lost_are_named(place, monkeypatch):
    """The comparison at the end of a round of kills."""
    _, whole, tables = place
    monkeypatch.setattr(kills, "run", lambda *given: Ended(0, "", 0, 0))
    changed = dict(tables)
    name = next(key for key in tables if key.startswith("f/runs/"))
    changed[name], changed["f/runs/lost.csv"] = "other", "x"
    assert kills.finish(None, whole, "fold", kills.Reference(tables, {})) == []
    assert kills.finish(None, whole, "fold", kills.Reference(changed, {})) == sorted([name, "f/runs/lost.csv"])


# ---- faults of the machine as torch, safetensors and Python report them -------------------------------------------


LIMITED = """
import resource, sys, torch
from pathlib import Path
from safetensors.torch import save_file
from xbuslib.files import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write = {"torch": lambda p: torch.save({"a": torch.zeros(9999)}, p),
         "safetensors": lambda p: save_file({"a": torch.zeros(9999)}, p),
         "python": lambda p: p.write_bytes(bytes(9999))}
for name, way in write.items():
    try:
        with write_whole(Path(sys.argv[1]) / f"{name}.x") as partial:
            way(partial)
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_a_limit_on_file_sizes_is_a_message_whoever_writes(tmp_path):
    done = subprocess.run([sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True, check=True,
                          cwd=REPOSITORY)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stdout
    for line in lines:
        assert line.startswith("StudyError cannot write ") and "Check permissions, free space" in line
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_gone(tmp_path):
    for write in (lambda path: torch.save({"a": torch.zeros(3)}, path),
                  lambda path: save_file({"a": torch.zeros(3)}, path), lambda path: path.write_text("a")):
        with pytest.raises(StudyError, match=r"cannot write .*gone.*(no longer there|No such file).*XBUS_OUTPUTS"), \
                write_whole(tmp_path / "gone" / "a") as partial:
            shutil.rmtree(tmp_path / "gone")
            write(partial)


def test_memory_that_is_not_there():
    said = r"unet stopped: there is not enough memory \(\d+ bytes.*smaller batch_size"
    with pytest.raises(StudyError, match=said), machine_faults("unet stopped"):
        torch.empty(10**15)
    assert "not enough memory" in machine_fault(MemoryError())


def test_faults_that_are_not_the_machines_stay_what_they_are():
    assert machine_fault(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    with pytest.raises(ZeroDivisionError), machine_faults("x"):
        raise ZeroDivisionError
    with pytest.raises(StudyError, match="^mine$"), machine_faults("x"):
        raise StudyError("mine")


def test_a_lock_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StudyError, match="cannot write to .*file.*XBUS_OUTPUTS"), lock(tmp_path / "file" / "a"):
        pass


# ---- kernels ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cell", "hours", "words"), [
    ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "1", "its kernel died.*fewer --jobs.*goes on"),
    ("import time; time.sleep(300)", "0.0005", "more than 0.0005 hours, the limit of XBUS_CELL_HOURS.*goes on"),
    ("1", "soon", "XBUS_CELL_HOURS is 'soon'; give a number of hours")])
def test_a_kernel_that_dies_or_hangs_is_said(cell, hours, words, tmp_path, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    notebook = new_notebook(cells=[new_code_cell(cell)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "notebooks" / "99_bad.ipynb")
    monkeypatch.setattr(notebooks, "REPOSITORY", tmp_path)
    monkeypatch.setenv("XBUS_CELL_HOURS", hours)
    with pytest.raises(StudyError, match=f"(?s){words}"):
        notebooks.execute("99_bad", tmp_path / "out.ipynb", {})


# ---- jobs end with their study ------------------------------------------------------------------------------------


STUDY = """
import os, subprocess, sys
from xbuslib.workflow import parent
job = "from xbuslib.workflow import parent; parent.follow(); print('here', flush=True); import time; time.sleep(60)"
subprocess.run([sys.executable, "-c", job], env=os.environ | parent.mark())
"""


def test_a_job_ends_soon_after_the_study_that_started_it_was_killed():
    study = subprocess.Popen([sys.executable, "-c", STUDY], stdout=subprocess.PIPE, cwd=REPOSITORY, text=True)
    assert study.stdout.readline() == "here\n"  # the job, which has the pipe too
    time.sleep(2 * parent.EVERY)
    assert study.poll() is None
    study.kill()
    began = time.monotonic()
    assert study.stdout.read() == ""  # the end of the pipe: the job has ended as well
    assert time.monotonic() - began < 20


def test_without_a_study_nothing_is_followed(monkeypatch):
    monkeypatch.delenv(parent.VARIABLE, raising=False)
    parent.follow()
    assert parent.mark()[parent.VARIABLE].split()[0] == str(os.getpid())
