"""docs/extending.md, followed word by word in a copy of the repository: its files, its commands, its report."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image

from tests.conftest import REPOSITORY
from tests.faults.study import cut_short
from tests.test_report import check_page
from xbuslib.config import resolve
from xbuslib.data import blu
from xbuslib.data.images import read_grey, read_mask
from xbuslib.models import registry
from xbuslib.runs import record
from xbuslib.runs.fold import run_fold
from xbuslib.runs.source import open_source

PAGE = (REPOSITORY / "docs" / "extending.md").read_text()
FOLDERS = ("notebooks", "tests", "workflow", "xbuslib")
FILES = ("run_all.sh", "run_tests.sh", "setup_env.sh", "pyproject.toml", "constraints.txt")
UNCONCERNED = [f"{number:02}" for number in range(6, 16)]  # left out: tests/test_notebooks.py runs each of them


def follow(copy, title):
    """Write the files and rows that a section of the page prints; returns its commands."""
    text = PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]
    prose, language, code = (re.split(r"```(\w+)\n(.*?)```\n", text, flags=re.DOTALL)[part::3] for part in range(3))
    commands, cells = [], []
    for before, kind, block in zip(prose, language, code, strict=False):  # prose has one part more
        if kind == "bash":
            commands += block.splitlines()
        elif new := re.search(r"Save it as\s+`([^`]+)`:\s*$", before):
            assert not (copy / new[1]).exists() and len(block.splitlines()) < 60
            (copy / new[1]).write_text(block)
        elif row := re.search(r"add one row to `(\w+)` in `([^`]+)`, after the others", before):
            assert len(block.splitlines()) == 1
            head, rest = (copy / row[2]).read_text().split(f"\n{row[1]}", 1)
            (copy / row[2]).write_text(f"{head}\n{row[1]}" + rest.replace("\n}\n", f"\n{block}}}\n", 1))
        else:
            cells.append(new_markdown_cell(block) if kind == "markdown" else new_code_cell(block))
    if cells:
        assert "of which the third is the one to tag `parameters`" in text
        cells[2].metadata["tags"] = ["parameters"]
        kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}  # as JupyterLab does
        nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}),
                       copy / re.search(r"The example is `([^`]+)`", text)[1])
    return commands


def contents(copy):
    return {path.relative_to(copy).as_posix(): path.read_bytes() for folder in FOLDERS
            for path in (copy / folder).rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """A copy of what a study needs, with an environment of its own: the packages of this one, the library of the copy.

    Set-up takes it for current, so that nothing is installed anywhere.
    """
    copy = (tmp_path_factory.mktemp("extending") / "copy").resolve()
    for folder in FOLDERS:
        shutil.copytree(REPOSITORY / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in FILES:
        shutil.copy(REPOSITORY / file, copy)
    for number in UNCONCERNED:
        next((copy / "notebooks").glob(f"{number}_*.ipynb")).unlink()
    for number in ("01", "02", "03", "04"):
        cut_short(next((copy / "notebooks").glob(f"{number}_*.ipynb")))
    environment = copy / "environment"
    venv.create(environment, symlinks=True)
    places = [str(copy), *(place for place in sys.path if place.endswith(("site-packages", "dist-packages")))]
    next(environment.glob("lib/python*/site-packages")).joinpath("study.pth").write_text("\n".join(places))
    (environment / "share").symlink_to(Path(sys.prefix) / "share")  # kernel and templates of Jupyter
    (environment / "bin" / "xbuslib").write_text('#!/bin/sh\nexec python -m xbuslib "$@"\n')
    (environment / "bin" / "xbuslib").chmod(0o755)
    required = (copy / "pyproject.toml").read_bytes() + (copy / "constraints.txt").read_bytes()
    state = f"{hashlib.sha256(required).hexdigest()} python-{sys.version_info[0]}.{sys.version_info[1]} {copy}\n"
    (environment / ".xbusnet-setup").write_text(state)
    return copy


@pytest.fixture(scope="module")
def clinic(tmp_path_factory, phantom_root):
    """The phantom's pictures in the layout that the page describes, one normal image among them; no pixel size."""
    folder, cases = tmp_path_factory.mktemp("clinic"), blu.load(phantom_root)
    for kind in ("images", "masks"):
        (folder / kind).mkdir()
    for case in cases.itertuples():
        Image.fromarray(read_grey(case.image)).save(folder / "images" / f"{case.case_id}.png")
        if case.mask:
            Image.fromarray(read_mask(case.mask)).save(folder / "masks" / f"{case.case_id}.png")
    cases[["case_id", "patient_id", "pathology"]].set_axis(["case", "patient", "diagnosis"], axis=1).to_csv(
        folder / "cases.csv", index=False)
    assert set(cases["pathology"]) == {"benign", "malignant", "normal"}
    return folder


def test_the_page_from_its_first_file_to_the_report(copy, clinic):
    changed, commands = {}, []
    for title in ("A system", "A dataset", "An analysis", "All of it"):
        before = contents(copy)
        commands += follow(copy, title)
        after = contents(copy)
        changed[title] = [name for name in sorted(after) if after[name] != before.get(name)]
        assert set(before) <= set(after)
    assert changed == {  # two files, two files, one file: the table at the top of the page
        "A system": ["xbuslib/models/promptlab.py", "xbuslib/models/registry.py"],
        "A dataset": ["xbuslib/data/catalogue.py", "xbuslib/data/clinic.py"],
        "An analysis": ["notebooks/17_benign_and_malignant.ipynb"], "All of it": []}

    own = {key: value for key, value in os.environ.items() if not key.startswith(("XBUS_", "PYTEST_", "PYTHONPATH"))}
    own |= {"VIRTUAL_ENV": str(copy / "environment"), "PATH": f"{copy / 'environment' / 'bin'}:{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1"}
    for command in commands:
        done = subprocess.run(["bash", "-c", command.replace("DIR", str(clinic))], cwd=copy, env=own, check=False,
                              capture_output=True, text=True)
        assert done.returncode == 0 and "set-up" not in done.stderr, f"{command}\n{(done.stdout + done.stderr)[-4000:]}"

    page = check_page(copy / re.search(r"The page is `([^`]+)`", PAGE)[1]).path
    study, html = page.parent.parent, page.read_text()
    assert "stopped with an error" not in html and "Not executed" not in html and "Left over" not in html
    sections = {part[:2]: part for part in html.split('<section id="notebook-')[1:]}
    assert list(sections) == ["01", "02", "03", "04", "05", "17"]
    table_1 = sections["05"].split('id="tables-05-table_1_systems"')[1].split("</table>")[0]
    assert re.search(r"<td[^>]*>PromptLab</td>", table_1)
    assert "Our clinic" in html.split("</header>")[0]
    assert "Are malignant lesions harder to segment?" in sections["17"]
    assert 'id="figures-17-dice_by_class"' in sections["17"] and 'id="tables-17-dice_by_class"' in sections["17"]

    check_means(study)


def check_means(study):
    """The table of the page's analysis, computed again from the run folders and the dataset's classes."""
    parts = []
    for path in study.glob("runs/*/*/*/run.json"):
        run = json.loads(path.read_text())
        rows = pd.read_csv(path.with_name("per_image.csv"), keep_default_na=False, na_values=[""])
        policy, attributes = run["scorings"][0]
        parts.append(rows[(rows["policy"] == policy) & (rows["attributes"] == attributes)].merge(
            pd.read_csv(path.with_name("cases.csv"))[["case_id", "pathology"]]).assign(system=run["system"]))
    means = pd.concat(parts).groupby(["system", "pathology"])["dice"].mean()
    table = pd.read_csv(study / "tables" / "17" / "dice_by_class.csv").set_index(["system", "pathology"])["dice"]
    assert len(means) == 4 and table.to_dict() == pytest.approx(means.to_dict(), abs=1e-9)


@pytest.mark.parametrize("name", registry.names())
def test_one_smoke_fold_of_every_system(name, phantom_root, outputs):
    config = resolve("smoke", {"iterations": 2})
    source = open_source("phantom", phantom_root, None, config, "s")
    path = run_fold(name, 0, config, source, study="s")
    run, summary = record.read(path), record.summary(path)
    assert run["system"] == name and run["paper_name"] == registry.REGISTRY[name].paper
    assert summary["dice"].between(0, 1).all() and summary["fpr"].between(0, 1).all()
    pairs = [tuple(pair) for pair in run["scorings"]]
    assert list(zip(summary["policy"], summary["attributes"], strict=True)) == pairs
