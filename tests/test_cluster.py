"""GPUs handed out to folds, and a cluster asked for: what is tested without either. tests/cluster/ has a real Slurm."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from itertools import combinations
from types import SimpleNamespace

import pytest
import torch
import yaml
from typer.testing import CliRunner

from tests.conftest import REPOSITORY
from xbuslib import cli
from xbuslib.errors import StudyError
from xbuslib.workflow import study as workflow

SCRIPTS = sorted((REPOSITORY / "tests" / "cluster").glob("*.sh"))
HOLD = """
import os, sys, time
from xbuslib.workflow.notebooks import one_gpu
with one_gpu():
    began = time.monotonic()
    print(os.environ["CUDA_VISIBLE_DEVICES"], os.environ["CUDA_DEVICE_ORDER"], began, flush=True)
    if "wait" in sys.argv:
        sys.stdin.read()
    while time.monotonic() < began + 0.3:
        pass
    print(time.monotonic(), flush=True)
"""


def hold(gpus, *more):
    return subprocess.Popen([sys.executable, "-c", HOLD, *more], cwd=REPOSITORY, text=True, stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, env=os.environ | {"XBUS_GPUS": gpus})


def test_no_two_processes_hold_one_gpu():
    """Six processes want two ids; times of one machine's clock say who held which and when."""
    held = []
    for process in [hold("71,72") for _ in range(6)]:
        first, end = process.communicate()[0].splitlines()
        gpu, order, began = first.split()
        assert order == "PCI_BUS_ID"
        held.append((gpu, float(began), float(end)))
    assert {gpu for gpu, *_ in held} == {"71", "72"}
    for (one, began, ended), (other, started, stopped) in combinations(held, 2):
        assert one != other or ended <= started or stopped <= began


def test_a_fold_trained_by_the_command_holds_one_too(outputs, monkeypatch):
    """`--gpus` with `--folds all`, whose jobs are no notebooks."""
    monkeypatch.setenv("XBUS_GPUS", "74")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("xbuslib.runs.source.open_source", lambda *_: None)

    def train(*_, **__):
        raise StudyError(f"on GPU {os.environ['CUDA_VISIBLE_DEVICES']}")

    monkeypatch.setattr("xbuslib.runs.fold.run_fold", train)
    done = CliRunner().invoke(cli.app, ["fold", "--fold", "all", "--system", "unet"])
    assert str(done.exception) == "on GPU 74"


def test_a_dry_run_that_snakemake_refuses_fails(outputs, monkeypatch):
    monkeypatch.setattr(workflow.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1))
    assert "could not plan the study" in refused("--dry-run", "--systems", "unet")


def test_a_killed_holder_leaves_its_gpu():
    first = hold("73", "wait")
    assert first.stdout.readline().startswith("73 ")
    second = hold("73")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert second.communicate()[0].startswith("73 ") and second.returncode == 0


# ---- a cluster that is not there --------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_cluster_scripts_are_valid_bash(script):
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and os.access(script, os.X_OK)


def test_without_slurm_the_cluster_test_is_skipped_with_a_word_on_what_to_install(tmp_path):
    """A machine of root's own that has the shell's tools and no Slurm commands; anyone else's says so first."""
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    (tmp_path / "id").write_text("#!/bin/sh\necho 0\n")
    (tmp_path / "id").chmod(0o755)
    script = REPOSITORY / "tests" / "cluster" / "test_slurm.sh"
    done = subprocess.run([script], capture_output=True, text=True, env={"PATH": str(tmp_path)}, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"test: skipped, there is no \w+ here; on Debian: apt install slurm-wlm munge\n", done.stdout)
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    done = subprocess.run([script], capture_output=True, text=True, env={"PATH": str(tmp_path)}, check=False)
    assert done.stdout == "test: skipped, only root can start Slurm's daemons\n"


def test_only_training_asks_slurm_for_a_gpu():
    profile = yaml.safe_load((REPOSITORY / "workflow" / "profiles" / "slurm" / "config.yaml").read_text())
    assert {rule: asked["gres"] for rule, asked in profile["set-resources"].items()} == {
        "train_fold": "gpu:1", "train_on_all": "gpu:1"}
    assert {"runtime", "mem_mb"} <= profile["default-resources"].keys() and "gres" not in profile["default-resources"]
    assert profile["set-threads"].keys() == {"train_fold", "train_on_all"} and profile["retries"] > 0


def refused(*arguments):
    """What `xbuslib study` says before anything is made."""
    done = CliRunner().invoke(cli.app, ["study", "--profile", "smoke", *arguments])
    assert isinstance(done.exception, StudyError)
    return str(done.exception)


def test_requests_that_cannot_be_met_are_refused(outputs, tmp_path, monkeypatch):
    assert "--gpus is for one machine" in refused("--slurm", "--gpus", "0,1")
    assert "nowhere holds no config.yaml; copy " in refused("--slurm-profile", "nowhere")
    assert "--gpus 0,1,0 names a GPU twice" in refused("--gpus", "0, 1,0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert refused("--gpus", "0,2") == "there is no GPU 2; the GPUs are 0 … 1"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert f"plugin-slurm: {sys.executable} -m pip install -c" in refused("--slurm")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)  # the plugin is there, sbatch is not
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "--slurm needs Slurm's sbatch" in refused("--slurm")
    assert not outputs.exists()
