"""Shared fixtures: a small simulated phantom, and real data where it is at hand."""

import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

REPOSITORY = Path(__file__).resolve().parent.parent
REAL_DATA = REPOSITORY.parent / "shared" / "data"


# One file runs on one core: the longest must not start last (nor be reordered by pytest-xdist: run_tests.sh).
SLOW_FIRST = ("test_workflow.py", "test_extending.py", "test_notebooks.py")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: (SLOW_FIRST.index(item.path.name) if item.path.name in SLOW_FIRST
                                 else len(SLOW_FIRST)))


@pytest.fixture(scope="session")
def shared_folder(pytestconfig, tmp_path_factory):
    """A folder that every process of a test run reads, and whether it has still to be made: the first one makes it."""
    base = tmp_path_factory.getbasetemp()
    if hasattr(pytestconfig, "workerinput"):  # one of several processes of pytest-xdist
        base = base.parent

    @contextmanager
    def named(name):
        with FileLock(base / f"{name}.lock"):
            yield base / name, not (base / f"{name}.made").exists()
            (base / f"{name}.made").touch()
    return named


@pytest.fixture(scope="session")
def phantom_root(shared_folder):
    """20 simulated cases, as the smoke profile uses them."""
    from xbuslib.data.phantom import phantom

    with shared_folder("phantom") as (folder, new):
        return phantom.write(folder, n=20, seed=0) if new else folder


@pytest.fixture(scope="session")
def blu_root():
    """The published BLU archive; tests that need it skip where it is not at hand."""
    if not (REAL_DATA / "BLU").is_dir():
        pytest.skip("the real BLU data are not beside this checkout")
    return REAL_DATA / "BLU"


@pytest.fixture(scope="session")
def samples(shared_folder):
    """{dataset: folder} with 40 real images each of BUSI and BUS-BRA; tests that need them skip where they are not."""
    import pandas as pd

    for name in ("BUSI-sample", "BUS-BRA"):
        if not (REAL_DATA / name).is_dir():
            pytest.skip(f"{name} is not beside this checkout")
    whole = REAL_DATA / "BUS-BRA"
    with shared_folder("BUS-BRA-sample") as (folder, new):
        if new:
            table = pd.read_csv(whole / "bus_data.csv", dtype=str, keep_default_na=False)[::31][:40]  # as many patients
            for part, prefix in (("Images", "bus_"), ("Masks", "mask_")):
                (folder / part).mkdir(parents=True)
                for name in table["ID"]:
                    shutil.copy(whole / part / f"{name.replace('bus_', prefix, 1)}.png", folder / part)
            table.to_csv(folder / "bus_data.csv", index=False)
    return {"busi": REAL_DATA / "BUSI-sample", "busbra": folder}


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """An outputs folder of this test's own."""
    monkeypatch.setenv("XBUS_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


@pytest.fixture
def run_command(monkeypatch, capfd):
    """The command as a user gives it, from the repository, but in this process, where torch is loaded already."""
    from xbuslib import cli

    def command(*arguments):
        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.chdir(REPOSITORY)
            patch.setattr(sys, "argv", ["xbuslib", *map(str, arguments)])
            capfd.readouterr()
            cli.main()
        return subprocess.CompletedProcess(arguments, ended.value.code, *capfd.readouterr())
    return command


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """Settings of the person who runs the tests must not decide their outcome."""
    for name in ("XBUS_WEIGHTS", "XBUS_DATA", "XBUS_GPUS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def smoke_study(shared_folder, phantom_root):
    """Six systems on two folds of the phantom, two iterations each: what the analysis notebooks read.

    Read-only; XBUS_OUTPUTS points to it only while it is made, so a test that reads files by study name copies it.
    """
    from xbuslib.analyses.cross_centre import targets
    from xbuslib.config import resolve
    from xbuslib.data import catalogue
    from xbuslib.runs.fold import run_fold
    from xbuslib.runs.source import open_source
    from xbuslib.runs.study import open_study

    with shared_folder("smoke_outputs") as (root, new), pytest.MonkeyPatch.context() as patch:
        patch.setenv("XBUS_OUTPUTS", str(root))
        if new:
            config = resolve("smoke", ["iterations=2", "folds=2"])
            source = open_source("phantom", phantom_root, None, config, "smoke-study")
            for system in ("unet", "uresnet", "bussam", "xbusnet", "xbusnet-no-gfe", "xbusnet-no-sfa"):
                for fold in (0, 1):
                    run_fold(system, fold, config, source, study="smoke-study")
            # the other hospitals of notebooks 14 and 15, which a copy of this folder then need not make
            catalogue.phantom_root(config.phantom_cases, catalogue.SCANNER_B_SEED, "B")
            for scanner in "AB":
                catalogue.phantom_root(config.phantom_cases // 2, targets.PHANTOM_SEED, scanner)
        held = open_study("smoke-study")
        assert held.folder.is_dir() and held.prepared is not None
    return held


@pytest.fixture(scope="session")
def elsewhere(shared_folder):
    """An outputs folder with the study `elsewhere`: UNet, two iterations on every lesion of 16 cases of scanner B.

    Read-only, as `smoke_study` is; `here` is a copy.
    """
    from xbuslib.config import resolve
    from xbuslib.data import catalogue
    from xbuslib.runs.fold import run_fold
    from xbuslib.runs.source import open_source

    with shared_folder("elsewhere") as (root, new), pytest.MonkeyPatch.context() as patch:
        if new:
            patch.setenv("XBUS_OUTPUTS", str(root))
            config = resolve("smoke", ["iterations=2", "phantom_cases=16", "folds=2"])
            run_fold("unet", "all", config, open_source("phantom_b", "", "", config, "elsewhere"), study="elsewhere")
            catalogue.phantom_root(config.phantom_cases)  # which a copy then need not make
    return root


@pytest.fixture
def here(elsewhere, tmp_path, monkeypatch):
    """A copy of `elsewhere` that a test may write to, as the outputs folder."""
    return copied(elsewhere, tmp_path, monkeypatch)


def copied(outputs: Path, tmp_path: Path, monkeypatch) -> Path:
    """A copy of an outputs folder in `tmp_path`, to which XBUS_OUTPUTS points from now on."""
    shutil.copytree(outputs, tmp_path / "outputs", symlinks=True)
    monkeypatch.setenv("XBUS_OUTPUTS", str(tmp_path / "outputs"))
    return tmp_path / "outputs"


@pytest.fixture(scope="session")
def two_folds(shared_folder, phantom_root):
    """The folder runs/xbusnet of a study of two folds, two iterations each; read-only, as `smoke_study` is."""
    from xbuslib.config import resolve
    from xbuslib.runs.fold import run_fold
    from xbuslib.runs.source import open_source

    with shared_folder("two_folds") as (root, new), pytest.MonkeyPatch.context() as patch:
        if new:
            patch.setenv("XBUS_OUTPUTS", str(root))
            config = resolve("smoke", ["iterations=2", "folds=2"])
            source = open_source("phantom", phantom_root, None, config, "two")
            for fold in (0, 1):
                run_fold("xbusnet", fold, config, source, study="two")
    return root / "two" / "runs" / "xbusnet"
