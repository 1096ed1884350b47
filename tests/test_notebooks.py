"""Every notebook, as a smoke copy: nbval runs its cells and fails on any error; and the house style."""

import os
import re
import shutil
import subprocess
import sys

import nbformat
import papermill
import pytest

from tests.conftest import REPOSITORY
from xbuslib.config import resolve
from xbuslib.errors import StudyError
from xbuslib.workflow import notebooks

LEFT_OUT = {  # systems that a notebook which predicts or trains with each of them can do without here
    **dict.fromkeys(("09", "12", "13", "14"), ("bussam", "xbusnet-no-gfe", "xbusnet-no-sfa")), "15": ("xbusnet",)}
SETTINGS = {"02": ["recipe=official"]}  # beside the shorter training: XBusNet has no such recipe, and others have
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("[0-9][0-9]_*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(notebook, tmp_path, phantom_root, smoke_study):
    known = papermill.inspect_notebook(str(notebook))
    wanted = {"profile": "smoke", "data": str(phantom_root), "study": "nb",
              "overrides": ["iterations=2", *SETTINGS.get(notebook.stem[:2], [])]}
    if notebook.stem >= "05":  # reads the runs of a study
        shutil.copytree(smoke_study.folder.parent, tmp_path / "out", copy_function=os.link)  # 600 MB, only read
        wanted["study"] = smoke_study.name
        for system in LEFT_OUT.get(notebook.stem[:2], ()):
            shutil.rmtree(tmp_path / "out" / smoke_study.name / "runs" / system)
    copy = tmp_path / notebook.name
    papermill.execute_notebook(str(notebook), str(copy), {k: v for k, v in wanted.items() if k in known},
                               prepare_only=True, kernel_name="python3", progress_bar=False)
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", "--nbval-lax", "--nbval-kernel-name", "python3",
                           "-p", "no:cacheprovider", str(copy)], capture_output=True, text=True, cwd=tmp_path,
                          env=os.environ | {"XBUS_OUTPUTS": str(tmp_path / "out"), "XBUS_PROGRESS": "plain",
                                            "PYTHONPATH": str(REPOSITORY)}, check=False)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_house_style(notebook):
    content = nbformat.read(notebook, as_version=4)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    prose = [cell for cell in content.cells if cell.cell_type == "markdown"]
    assert content.cells[0].source.startswith("# ") and "?" in content.cells[0].source.splitlines()[0]
    assert content.metadata.kernelspec.name == "python3"
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1
    assert max(len(cell.source.splitlines()) for cell in code) <= 20
    assert not any("class " in line for cell in code for line in cell.source.splitlines() if line.startswith("class "))
    assert len(prose) >= len(code) / 2
    assert all(about["help"] for about in papermill.inspect_notebook(str(notebook)).values())


def test_a_link_that_names_a_notebook_has_its_title():
    """Such as [14 Do the scores hold at another hospital?](14_cross_centre.ipynb)."""
    text = {path.name: "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells) for path in NOTEBOOKS}
    links = [link for source in text.values()
             for link in re.findall(r"\[\d\d (.+?)\](?:\"\s*\")?\((\d\d_\w+\.ipynb)\)", source)]
    assert len(links) >= 14
    assert [link for link in links if not text[link[1]].startswith(f"# {link[0]}\n")] == []


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A notebooks folder in place of the repository's."""
    monkeypatch.setattr(notebooks, "REPOSITORY", tmp_path)
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


def write(path, parameters, *tags):
    cell = nbformat.v4.new_code_cell(parameters, metadata={"tags": list(tags)})
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("study = 0"), cell]), path)


def test_a_study_runs_every_notebook_from_05_on_with_the_parameters_that_it_has(folder):
    write(folder / "04_before.ipynb", 'study: str = ""', "parameters")
    write(folder / "99_last.ipynb", "data = dataset = study = ''\npartial: bool = False  # system: str", "parameters")
    write(folder / "05_first.ipynb", 'study: str = ""', "parameters")
    write(folder / "15_prompts.ipynb", 'system: str = "xbusnet"\nstudy: str = ""', "parameters")
    write(folder / "20_for_a_person.ipynb", 'study: str = ""', "parameters", "interactive")
    write(folder / "30_without.ipynb", 'study: str = ""')
    (folder / "notes.ipynb").write_text("")
    expected = {"05_first": {"study": "s"}, "15_prompts": {"study": "s", "system": "cliptnseg"}, "30_without": {},
                "99_last": {"study": "s", "dataset": "busi", "data": "/d"}}
    found = notebooks.analyses("s", "busi", "/d", ["unet", "cliptnseg", "bussam"])
    assert found == expected and list(found) == list(expected)
    expected.pop("15_prompts")  # no system of the study reads a prompt
    assert notebooks.analyses("s", "busi", "/d", ["unet"]) == expected
    write(folder / "40_broken.ipynb", "study: str =", "parameters")
    with pytest.raises(StudyError, match=r"cannot read the parameters cell of .*40_broken.ipynb"):
        notebooks.analyses("s", "busi", "/d", ["unet"])


def test_only_the_notebook_for_a_person_is_not_run_by_a_study():
    ran = list(notebooks.analyses("s", "phantom", "", ["xbusnet"]))
    assert [path.stem for path in NOTEBOOKS if path.stem >= "05" and path.stem not in ran] == ["16_segment_your_image"]


def test_facts_of_a_dataset():
    simulated = notebooks.data_facts("phantom", resolve("smoke"))
    assert "<b>Simulated phantom, profile smoke, 64 px.</b> The images are simulated" in simulated.data
    assert notebooks.data_facts("blu", resolve("paper")).data == "<p><b>BLU, profile paper, 352 px.</b></p>"


def test_papermill_itself_with_a_misspelt_parameter(tmp_path):
    """papermill only warns; the notebook refuses."""
    done = subprocess.run([sys.executable, "-m", "papermill", "-k", "python3", "-p", "sytem", "unet",
                           str(REPOSITORY / "notebooks" / "04_train_fold.ipynb"), str(tmp_path / "o.ipynb")],
                          capture_output=True, text=True, cwd=tmp_path,
                          env=os.environ | {"XBUS_OUTPUTS": str(tmp_path / "out"), "PYTHONPATH": str(REPOSITORY)},
                          check=False)
    assert done.returncode != 0 and "this notebook has no parameter sytem" in done.stderr
    assert not (tmp_path / "out").exists()
