"""The plan of the library: layers, no circles, declared dependencies, short files, and what must not wait for torch."""

import json
import re
import subprocess
import sys
import tomllib

import pytest

from tests.conftest import REPOSITORY

LIBRARY = sorted((REPOSITORY / "xbuslib").rglob("*.py"))
TOP = {"__init__.py", "__main__.py", "cli.py", "cli_bridges.py", "config.py", "errors.py", "files.py", "progress.py"}
READ_RUNS_ONLY = ("05", "06", "07", "08", "10")  # analyses that predict nothing anew


def run(*command):
    return subprocess.run([sys.executable, *command], cwd=REPOSITORY, capture_output=True, text=True, check=False)


def loads_torch(code):
    done = run("-c", f"{code}\nimport sys; print('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1] == "True"


def test_imports_go_down_and_never_in_circles():
    done = run("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()")
    assert done.returncode == 0 and "Contracts: 2 kept, 0 broken" in done.stdout, done.stdout + done.stderr


def test_the_linter_sees_an_import_that_goes_up(tmp_path):
    """The same contracts on a copy in which the lowest layer imports the highest."""
    for path in LIBRARY:
        copy = tmp_path / path.relative_to(REPOSITORY)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text() + ("\nimport xbuslib.report.page\n" if path.name == "errors.py" else ""))
    (tmp_path / "pyproject.toml").write_text((REPOSITORY / "pyproject.toml").read_text())
    done = subprocess.run([sys.executable, "-c", "from importlinter.cli import lint_imports_command; "
                           "lint_imports_command()"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "xbuslib.errors is not allowed to import xbuslib.report" in done.stdout


def test_only_what_everything_needs_lies_at_the_top():
    assert {path.name for path in (REPOSITORY / "xbuslib").glob("*.py")} == TOP


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_no_file_is_over_300_lines(path):
    assert len(path.read_text().splitlines()) <= 300


def test_what_is_imported_is_declared_and_what_is_declared_is_used():
    done = run("-m", "deptry", ".")
    assert done.returncode == 0, done.stderr


def test_dependencies_in_optional_groups_are_not_needed_at_run_time():
    groups = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    names = {re.split(r"[><=\[ ]", item)[0].replace("-", "_") for item in groups["test"]}
    text = "\n".join(path.read_text() for path in LIBRARY)
    assert not [name for name in names if re.search(rf"^\s*(?:from|import) {name}\b", text, re.MULTILINE)]


@pytest.mark.parametrize("module", ["runs.record", "runs.study", "runs.source", "cli", "models.registry",
                                    "analyses.performance.paper_tables", "analyses.performance.figures"])
def test_reading_runs_does_not_wait_for_torch(module):
    assert not loads_torch(f"import xbuslib.{module}")


def test_training_does_load_torch():
    """The check itself can fail."""
    assert loads_torch("import xbuslib.training.loop")


@pytest.mark.parametrize("number", READ_RUNS_ONLY)
def test_notebooks_that_read_runs_do_not_wait_for_torch(number):
    path = next((REPOSITORY / "notebooks").glob(f"{number}_*.ipynb"))
    first = next(cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code")
    assert not loads_torch("".join(first["source"]))


def test_listing_runs_does_not_wait_for_torch(tmp_path):
    done = run("-X", "importtime", "-c", f"import os, sys; os.environ['XBUS_OUTPUTS'] = {str(tmp_path)!r}; "
               "sys.argv = ['xbuslib', 'runs', '--json']; from xbuslib.cli import main; main()")
    assert done.returncode == 0 and json.loads(done.stdout) == []
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)
