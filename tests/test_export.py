"""xbuslib export: a study's scores, tables, figures and notebooks, and nothing that must not leave the machine."""

import base64
import io
import json
import os
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xbuslib.data import images
from xbuslib.errors import StudyError
from xbuslib.runs import export, record


def png(side: int = 64) -> bytes:
    """Noise in many colours, with an alpha channel."""
    pixels = np.random.default_rng(0).integers(0, 255, (side, side, 4), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(buffer, "png")
    return buffer.getvalue()


@pytest.fixture
def study(smoke_study, tmp_path, monkeypatch):
    """A copy of the smoke study with one table, one figure and two executed notebooks."""
    root = tmp_path / "outputs"
    shutil.copytree(smoke_study.folder.parent, root, ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.setenv("XBUS_OUTPUTS", str(root))
    folder = root / smoke_study.name
    for name, content in {"tables/05/table_1.md": b"| a |\n", "tables/05/table_1.csv": b"a\n1\n",
                          "tables/05/table_1.tex": b"x", "figures/05/plot.png": png(), "figures/05/plot.csv": b"x\n1\n",
                          "figures/05/plot.pdf": b"x", "tables/08/case_measures.csv": b"case_id,shape\n1,oval\n",
                          "figures/11/masks.csv": b"case_id,prompt,prompt_text\n1,as it is,oval shape\n",
                          "figures/04/xbusnet_fold_0_seed_0_policies.csv": b"prompt from,local prompt\nx,oval shape\n",
                          "figures/04/xbusnet_fold_0_seed_0_curve.png": png(),
                          "figures/04/unet_fold_0_seed_0_curve.png": png()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    shown = nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(png()).decode(),
                                                    "text/plain": f"{folder}/tables/05/table_1.csv"})
    cell = nbformat.v4.new_code_cell("1", outputs=[shown], metadata={"papermill": {"duration": 1}})
    images = tmp_path / 'of "mine"'  # the dataset's folder, outside of the study
    named = nbformat.v4.new_output("display_data", {"text/plain": f"{images}/case001.png: 1-bit"})
    progress = nbformat.v4.new_output("stream", text="training: 88/150\n")
    given = nbformat.v4.new_code_cell(f"data = {str(images)!r}", outputs=[progress, named])
    book = nbformat.v4.new_notebook(cells=[cell, given], metadata={"papermill": {
        "output_path": str(folder), "parameters": {"study": smoke_study.name, "data": str(images)}}})
    for name in ("05_overall_performance", "04_train_fold/unet_fold_0_seed_0", "04_train_fold/xbusnet_fold_0_seed_0"):
        (folder / "notebooks" / name).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(book, folder / "notebooks" / f"{name}.ipynb")
    return folder


def files(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


SCORES = ["cases.csv", "config.json", "per_image.csv", "runs.csv"]
NUMBERS = ["figures/05/plot.csv", "tables/05/table_1.csv", "tables/05/table_1.md"]


def test_everything_but_weights_maps_and_paths(study, tmp_path):
    out = export.export(study.name, tmp_path / "kept")
    assert files(out) == sorted(SCORES + NUMBERS + [
        "tables/08/case_measures.csv", "figures/04/xbusnet_fold_0_seed_0_curve.png", "figures/05/plot.png",
        "figures/04/xbusnet_fold_0_seed_0_policies.csv", "figures/11/masks.csv",
        "notebooks/04_train_fold_xbusnet_fold_0_seed_0.ipynb",
        "notebooks/05_overall_performance.ipynb"])
    scores = pd.read_csv(out / "per_image.csv", keep_default_na=False)
    whole = record.collect(study.name)
    assert len(scores) == len(whole) and scores["default"].sum() < len(whole)
    assert scores["dice"].mean() == pytest.approx(whole["dice"].mean(), abs=1e-6)
    assert len(pd.read_csv(out / "runs.csv")) == 12
    assert json.loads((out / "config.json").read_text())["profile"] == "smoke"
    text = (out / "notebooks" / "05_overall_performance.ipynb").read_text()
    assert str(tmp_path) not in text and "papermill" not in text and "outputs/smoke-study/tables" in text
    given = nbformat.reads(text, as_version=4).cells[1]
    assert given.source == "data = 'DATA'" and [output["data"] for output in given.outputs] == [
        {"text/plain": "DATA/case001.png: 1-bit"}]
    shown = nbformat.reads(text, as_version=4).cells[0].outputs[0]["data"]["image/png"]
    assert Image.open(io.BytesIO(base64.b64decode(shown))).mode == "P"  # a palette
    assert len((out / "figures" / "05" / "plot.png").read_bytes()) < len(png())
    assert files(export.export(study.name, out, data=False)) == sorted(SCORES + NUMBERS)  # in place of the first


def test_what_an_earlier_execution_wrote_is_left_out(study, tmp_path):
    """Of notebook 05, executed again since: the figure it no longer draws; its table was written anew."""
    moment, path = time.time(), study / "notebooks" / "05_overall_performance.ipynb"
    book = nbformat.read(path, as_version=4)
    book.metadata["papermill"]["start_time"] = datetime.fromtimestamp(moment, UTC).isoformat()
    nbformat.write(book, path)
    for name, age in {"figures/05/plot.png": 60, "figures/05/plot.csv": 60, "tables/05/table_1.md": -1,
                      "tables/05/table_1.csv": -1, "tables/08/case_measures.csv": 60}.items():
        os.utime(study / name, (moment - age, moment - age))
    there = files(export.export(study.name, tmp_path / "kept"))
    assert {"tables/05/table_1.md", "tables/05/table_1.csv", "tables/08/case_measures.csv"} <= set(there)
    assert not {"figures/05/plot.png", "figures/05/plot.csv"} & set(there)
    book.metadata["papermill"]["start_time"] = datetime.fromtimestamp(moment - 90, UTC).isoformat()
    nbformat.write(book, path.with_name("05_overall_performance_again.ipynb"))  # which may have written them
    assert {"figures/05/plot.png", "figures/05/plot.csv"} <= set(files(export.export(study.name, tmp_path / "kept")))


def test_without_data_no_image_and_no_metadata_leave(study, tmp_path):
    out = export.export(study.name, tmp_path / "kept", data=False)
    assert files(out) == sorted(SCORES + NUMBERS)
    assert list(pd.read_csv(out / "cases.csv")) == ["case_id", "width_px", "height_px", "long_side_px", "long_side_mm",
                                                    "lesion_fraction", "fold"]


def test_without_data_patients_with_several_images_are_numbered_anew():
    """In the order of the exported table, whatever the dataset's own numbers are."""
    cases = pd.DataFrame({"case_id": ["c", "a", "d", "b"], "patient_id": ["7", "9", "7", "2"], "birads": "4", "fold": 0}
                         | dict.fromkeys(images.MEASURES, 1.0))
    kept = export._cases(cases, data=False)
    assert list(kept) == ["case_id", *images.MEASURES, "fold", "patient"]
    assert dict(zip(kept["case_id"], kept["patient"], strict=True)) == {"a": 1, "b": 2, "c": 3, "d": 3}
    assert "patient" not in export._cases(cases.iloc[:2], data=False)
    assert export._cases(cases, data=True)["patient_id"].tolist() == ["9", "2", "7", "7"]


def test_of_what_the_notebooks_write_only_scores_sizes_and_places_of_named_cases_leave(tmp_path):
    """The kept tables of the phantom's study, and those that other datasets and notebook 01 give."""
    kept = Path("outputs/reference/phantom-quick")
    study = SimpleNamespace(cases=pd.read_csv(kept / "cases.csv", dtype=str))
    more = {"repeated_images": "one,other,what,bits,one_patient,one_class,other_patient,other_class\n"
                               "case001,case002,alike,3,case001,benign,case002,malignant\n",
            "wide": "case_id,dice\ncase001,0.5\n", "images": "image,dice\ncase001,0.5\n",
            "missed": "paper_name,system,case_id,long_side_px,inside,outside,marked\nUNet,unet,case001,9,0.1,0.2,0\n",
            "of_numbers": "case,class\n1,benign\n", "counts": "class,cases\nbenign,1\n"}
    for name, text in more.items():
        (tmp_path / f"{name}.csv").write_text(text)
    every = [*kept.glob("tables/*/*.csv"), *kept.glob("figures/*/*.csv"), *tmp_path.glob("*.csv")]
    leave = {file for file in every if export._tells_nothing(study, file)}
    names = {file for file in every if file.read_text().count("case0")}
    assert {file.stem for file in leave & names} == {"centroids", "prompt_leak", "drawn_shapes", "wide", "missed"}
    assert {file.stem for file in names - leave} >= {
        "figure_2", "figure_2_ablations", "figure_3", "decisions", "controls_and_second_regions", "repeated_images",
        "images", "lesion_size", "steps", "prompts", "case_measures", "per_image", "masks_under_other_prompts_xbusnet"}
    assert {str(file.relative_to(file.parents[1])) for file in set(every) - leave - names} == {
        "04/xbusnet_fold_0_seed_0_policies.csv", "02/tokens.csv", f"{tmp_path.name}/of_numbers.csv"}
    assert not export._tells_nothing(study, kept / "tables" / "05" / "no_numbers_beside_it.csv")


def test_the_command_refuses_a_folder_that_is_there_and_an_unfinished_study(study, tmp_path, run_command):
    (tmp_path / "there").mkdir()
    refused = run_command("export", study.name, "--out", tmp_path / "there")
    assert refused.returncode == 1 and "holds no earlier runs.csv" in refused.stderr
    shutil.rmtree(study / "runs" / "unet" / "fold_1")
    refused = run_command("export", study.name, "--out", tmp_path / "new")
    assert refused.returncode == 1 and "unet, fold 1" in refused.stderr and not (tmp_path / "new").exists()


def test_an_earlier_export_with_a_persons_files_in_it_stays(study, tmp_path):
    out = export.export(study.name, tmp_path / "kept")
    (out / "notes.md").write_text("mine")
    with pytest.raises(StudyError, match="no earlier result wrote: notes.md;"):
        export.export(study.name, out)
    assert (out / "notes.md").read_text() == "mine"


def test_a_full_disk_leaves_nothing_half_written(study, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "_notebook", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StudyError, match="No space left"):
        export.export(study.name, tmp_path / "deep" / "kept")
    assert files(tmp_path / "deep") == []
