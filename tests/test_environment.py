"""pyproject.toml, constraints.txt and environment.yml say the same, and set-up does what its messages say."""

import contextlib
import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ["run_all.sh", "run_tests.sh", "setup_env.sh", ".ci/run"]
FOLLOWS_TORCH = re.compile(r"torch|torchvision|triton|setuptools|nvidia-.*|cuda-.*")


def by_name(lines) -> dict[str, Requirement]:
    """Requirement lines keyed by canonical name; a package named twice is a fault."""
    requirements = [Requirement(line) for line in lines]
    named = {canonicalize_name(r.name): r for r in requirements}
    assert len(named) == len(requirements), "a package is named twice"
    return named


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def direct(project) -> dict[str, Requirement]:
    extras = project["optional-dependencies"].values()
    return by_name([*project["dependencies"], *(line for extra in extras for line in extra)])


@pytest.fixture(scope="module")
def pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return by_name(line for line in lines if line and not line.startswith("#"))


# --- the three files ---------------------------------------------------------------------------------------


def test_pins_are_exact_and_leave_torch_to_pip(pins):
    assert all(re.fullmatch(r"==[^*,]+", str(pin.specifier)) for pin in pins.values())
    assert [name for name in pins if FOLLOWS_TORCH.fullmatch(name)] == []


def test_every_direct_dependency_is_pinned_within_its_range(direct, pins):
    assert {name for name in direct if name not in pins} == {"torch", "torchvision"}
    tested = {name: str(pins[name].specifier).removeprefix("==") for name in direct if name in pins}
    assert {n: v for n, v in tested.items() if not direct[n].specifier.contains(v, prereleases=True)} == {}


def test_torch_2_11_stays_allowed_on_python_3_11_and_3_12(project, direct):
    assert direct["torch"].specifier.contains("2.11.0")
    assert direct["torchvision"].specifier.contains("0.26.0")  # the one made for torch 2.11
    assert all(SpecifierSet(project["requires-python"]).contains(v) for v in ("3.11.0", "3.12.0"))


def test_environment_yml_lists_the_same_packages(project, direct):
    *conda, pip = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    options, packages = pip["pip"][:1], pip["pip"][1:]
    assert conda == [f"python{project['requires-python']}", "pip"]
    assert options == ["-c constraints.txt"]
    assert by_name(packages) == direct


def test_environment_yml_says_what_each_line_is_for():
    lines = (ROOT / "environment.yml").read_text().splitlines()
    items = [line for line in lines if line.strip().startswith("- ") and line.strip() != "- pip:"]
    assert [line for line in items if not re.search(r"\S\s+# \w", line)] == []


# --- the environment the tests run in ----------------------------------------------------------------------


def test_installed_packages_are_in_range(project):
    needed = by_name([*project["dependencies"], *project["optional-dependencies"]["test"]])
    found = {name: version(name) for name in needed}
    assert {n: v for n, v in found.items() if not needed[n].specifier.contains(v, prereleases=True)} == {}


def test_no_pin_needs_a_later_python_than_3_11_0(pins):
    needs = {}
    for name, pin in pins.items():
        with contextlib.suppress(PackageNotFoundError):  # the cluster extra, or for another Python version
            if pin.specifier.contains(version(name), prereleases=True):
                needs[name] = metadata(name)["Requires-Python"] or ""
    assert {n: r for n, r in needs.items() if not SpecifierSet(r).contains("3.11.0")} == {}


def test_torch_and_torchvision_are_a_pair():
    import torch
    import torchvision

    boxes, scores = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 2.1]]), torch.tensor([0.4, 0.9])
    assert torchvision.ops.nms(boxes, scores, 0.5).tolist() == [1]  # fails where the compiled parts differ


# --- the scripts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_is_sound(name):
    subprocess.run(["bash", "-n", ROOT / name], check=True)
    assert name == "setup_env.sh" or os.access(ROOT / name, os.X_OK)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-x", name], cwd=ROOT, check=True)


FAKE_PYTHON = """#!/bin/sh
echo "$(basename "$(dirname "$(dirname "$0")")"): $*" >>"$CALLS"
case "$*" in
  *ensurepip*) exit ${NO_ENSUREPIP:-0} ;;
  *version_info\\ *) exit ${TOO_OLD:-0} ;;
  *%d.%d*) echo 3.11 ;;
  -V) echo "Python 3.11.0 (fake)" ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip install"*) exit ${PIP_FAILS:-0} ;;
  "-m xbuslib study"*) echo "bytecode: ${PYTHONDONTWRITEBYTECODE-kept}" ;;
esac
"""


class Machine:
    """A copy of the scripts, in a folder with a space in its name, where every Python and `df` is fake."""

    def __init__(self, folder: Path):
        self.tree, self.bin, self.calls_file = folder / "a study", folder / "fake" / "bin", folder / "calls"
        self.venv, self.state = self.tree / ".venv", self.tree / ".venv" / ".xbusnet-setup"
        self.tree.mkdir()
        self.bin.mkdir(parents=True)
        for name in ["run_all.sh", "run_tests.sh", "setup_env.sh", "pyproject.toml", "constraints.txt"]:
            shutil.copy(ROOT / name, self.tree / name)
        for name in ["python3", *(f"python3.{minor}" for minor in range(11, 21))]:
            self.write(name, FAKE_PYTHON)
        self.disk(100)

    def write(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def disk(self, free_gb: int) -> None:
        self.write("df", f"#!/bin/sh\necho header\necho / 0 0 {free_gb * 1024**2} 0% /\n")

    def run(self, script="run_tests.sh", *arguments, **variables):
        """Run a script from another folder; returns the process and the Python calls it made."""
        self.calls_file.write_text("")
        left_out = ("VIRTUAL_ENV", "CONDA_PREFIX", "XBUS_SETUP_FREE_GB")
        kept = {k: v for k, v in os.environ.items() if k not in left_out}
        path = f"{self.bin}:/usr/bin:/bin"
        env = kept | {"PATH": path, "CALLS": str(self.calls_file)} | {k: str(v) for k, v in variables.items()}
        command = [self.tree / script, *arguments]
        done = subprocess.run(command, env=env, cwd=self.bin, text=True, capture_output=True, timeout=60)
        return done, self.calls_file.read_text()


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


def test_set_up_makes_installs_and_then_enters_at_once(machine):
    first, calls = machine.run("run_tests.sh", "-k", "a b")
    assert first.returncode == 0, first.stderr
    assert ".venv: -m pip install --no-compile -c constraints.txt -e .[test,dicom,smp]" in calls
    assert calls.endswith(".venv: -m pytest -n auto --dist loadfile --no-loadscope-reorder -k a b\n")
    again, calls = machine.run("run_all.sh", "--help")
    assert again.returncode == 0 and again.stderr == ""
    assert "pip" not in calls and calls.endswith(".venv: -m xbuslib study --help\n")


def test_bytecode_of_the_packages_is_kept(machine):
    """Without it each process of a study compiles all of them anew."""
    done, _ = machine.run("run_all.sh", PYTHONDONTWRITEBYTECODE=1)
    assert done.returncode == 0 and done.stdout == "bytecode: kept\n"


def test_changed_constraints_are_installed_into_the_same_environment(machine):
    machine.run()
    (machine.tree / "constraints.txt").write_text("numpy==2.0.0\n")
    _, calls = machine.run()
    assert "pip install" in calls and "-m venv" not in calls


def test_killed_set_up_starts_from_nothing(machine):
    machine.run()
    machine.state.write_text("unfinished\n")
    (machine.venv / "half").mkdir()
    _, calls = machine.run()
    assert "-m venv" in calls and "pip install" in calls and not (machine.venv / "half").exists()


def test_moved_environment_is_made_anew(machine):
    machine.run()
    machine.tree = machine.tree.rename(machine.tree.with_name("moved"))
    _, calls = machine.run()
    assert "-m venv" in calls


def test_foreign_venv_keeps_what_is_in_it(machine):
    (machine.venv / "bin").mkdir(parents=True)
    shutil.copy(machine.bin / "python3", machine.venv / "bin" / "python")
    (machine.venv / "mine").mkdir()
    _, calls = machine.run()
    assert "pip install" in calls and (machine.venv / "mine").exists()


def test_active_environment_is_used(machine):
    active = machine.tree.parent / "active"
    (active / "bin").mkdir(parents=True)
    shutil.copy(machine.bin / "python3", active / "bin" / "python")
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        done, calls = machine.run(CONDA_DEFAULT_ENV="study", **{variable: active})
        assert done.returncode == 0
        assert calls.endswith("active: -m pytest -n auto --dist loadfile --no-loadscope-reorder\n")
    assert not machine.venv.exists()


@pytest.mark.parametrize(
    ("variables", "free_gb", "message"),
    [
        ({"TOO_OLD": 1}, 100, "no Python 3.11 or later"),
        ({"NO_ENSUREPIP": 1}, 100, "apt install python3-venv"),
        ({"PIP_FAILS": 1}, 100, "xbusnet-setup.log"),
        ({"VIRTUAL_ENV": "/nowhere"}, 100, "the active environment /nowhere has no bin/python"),
        ({}, 3, "3 GB free"),
    ],
)
def test_set_up_stops_with_one_clear_message(machine, variables, free_gb, message):
    machine.disk(free_gb)
    done, calls = machine.run(**variables)
    assert done.returncode != 0 and "-m pytest" not in calls
    stops = [line for line in done.stderr.splitlines() if line.startswith("set-up stopped: ")]
    assert len(stops) == 1 and message in stops[0]
    machine.disk(100)
    _, calls = machine.run()  # nothing half-made stands in the way of the next start
    assert calls.endswith("-m pytest -n auto --dist loadfile --no-loadscope-reorder\n")
