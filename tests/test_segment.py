"""xbuslib.segment and xbuslib.load: the same as the command's files, whatever form the image has, loaded once."""

import doctest
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import xbuslib
from tests.conftest import REPOSITORY
from xbuslib import cli
from xbuslib.data import catalogue
from xbuslib.errors import StudyError
from xbuslib.evaluation import measure
from xbuslib.lesion import segmenter
from xbuslib.runs.trained import Trained


@pytest.fixture(scope="module")
def image(phantom_root):
    return Path(catalogue.load("phantom", phantom_root)["image"].iloc[0])


@pytest.fixture(scope="module")
def loaded(two_folds):
    return xbuslib.load(two_folds)


def test_the_arrays_are_the_files_of_the_command(two_folds, image, loaded, tmp_path):
    done = CliRunner().invoke(cli.app, ["predict", str(image), "--run", str(two_folds), "--out", str(tmp_path),
                                        "--shape", "oval", "--birads", "4a", "--pixel-mm", "0.08,0.1"])
    assert done.exit_code == 0, done.output
    folder = tmp_path / image.stem
    found = loaded.segment(image, shape="oval", birads="4a", pixel_mm=(0.08, 0.1))
    assert np.array_equal(found.mask, np.asarray(Image.open(folder / "mask.png")) > 0) and found.mask.any()
    assert np.array_equal(found.found.members, np.load(folder / "maps.npz")["members"])
    report = json.loads((folder / "report.json").read_text())
    assert json.loads(found.measurements.model_dump_json()) == report["lesion"]
    assert found.notes == report["model"]["caveats"] + report["image"]["notes"]
    assert found.measurements == measure.lesion(found.mask, (0.08, 0.1))
    saved = found.save(tmp_path / "again")
    assert {path.name for path in saved.iterdir()} == {path.name for path in folder.iterdir()}
    assert (saved / "mask.png").read_bytes() == (folder / "mask.png").read_bytes()


def test_a_path_an_image_and_an_array_are_one_picture(image, loaded):
    path = loaded.segment(image)
    with Image.open(image) as opened:
        rgb, grey = np.asarray(opened.convert("RGB")), np.asarray(opened.convert("L"))
        forms = [opened, rgb, grey, grey.astype(np.uint16), np.dstack([rgb, np.full_like(grey, 255)])]
        for form in forms:
            assert np.array_equal(loaded(form).probability, path.probability)
    unit = loaded.segment(grey / 255)
    assert np.array_equal(unit.probability, path.probability) and "from 0 to 1" in unit.notes[-2]
    assert path.measurements.unit == "px" and "pixel size is unknown" in path.notes[-1]
    deep = loaded.segment(grey.astype(np.uint16) * 100)
    assert any("own range" in note for note in deep.notes)


def test_words_and_crop_reach_the_model(image, loaded):
    prompts = loaded.segment(image, margin="spiculated", size="small", quadrant="upper left").found.prompts
    assert set(prompts["local_text"]) == {"a spiculated lesion"} or "spiculated" in prompts["local_text"].iloc[0]
    assert prompts["global_text"].iloc[0] == "a small lesion in the upper left quadrant of the image"
    array = np.asarray(Image.open(image).convert("L"))
    cut = loaded.segment(array, crop="10,20,210,180")
    assert cut.mask.shape == (160, 200)
    assert np.array_equal(cut.probability, loaded.segment(array[20:180, 10:210]).probability)


@pytest.mark.parametrize("wrong, words", [
    (np.zeros((3, 200, 200)), "channels last"), (np.zeros((200, 200), bool), "bool"),
    (np.zeros((200, 200, 3)), "uint8 from 0 to 255"), (np.full((200, 200), np.nan), "not numbers"),
    (np.full((200, 200), 300), "all of its pixels have the value 300"), (np.zeros((8, 8), np.uint8), "8×8 pixels"),
    ([[1, 2]], "this is a list"), ("nowhere.png", "nowhere.png"), (Image.new("L", (9, 9)), "9×9"),
    (Image.fromarray(np.full((64, 64), 900, np.uint16)), "value 900"), (np.zeros((64, 64), np.uint8), "value 0"),
    (np.full((64, 64), 0.2), "value 51"), (np.full((64, 64), 7, np.uint16), "value 7"),
])
def test_what_is_no_image(wrong, words, loaded):
    with pytest.raises(StudyError, match=words):
        loaded.segment(wrong)


def test_wrong_arguments(loaded, image, tmp_path):
    array = np.arange(64 * 64).reshape(64, 64).astype(np.uint8)
    for arguments, words in (({"shape": "egg"}, "unknown shape"), ({"pixel_mm": 80}, "one length in mm"),
                             ({"pixel_mm": (1, 1, 1)}, "one length"), ({"frame": 1}, "give a path"),
                             ({"crop": "0,0,99,99"}, "within 64×64")):
        with pytest.raises(StudyError, match=words):
            loaded.segment(array, **arguments)
    with pytest.raises(StudyError, match="no finished run"):
        xbuslib.segment(image, run=tmp_path)


def test_a_second_image_costs_no_second_start(two_folds, image, monkeypatch):
    starts, load = [], Trained.load
    monkeypatch.setattr(Trained, "load", lambda folder: starts.append(folder) or load(folder))
    segmenter._kept.cache_clear()
    one, two = (xbuslib.segment(image, run=two_folds / "fold_1", pixel_mm=size) for size in (0.08, 0.16))
    assert len(starts) == 1
    assert two.measurements.area == pytest.approx(4 * one.measurements.area)
    xbuslib.segment(image, run=two_folds / "fold_0")
    assert len(starts) == 2


def test_a_run_that_was_made_again_is_loaded_again(two_folds, image, tmp_path):
    own = shutil.copytree(two_folds / "fold_0", tmp_path / "fold_0")
    before = xbuslib.segment(image, run=own)
    shutil.rmtree(own)
    shutil.copytree(two_folds / "fold_1", own)
    (own / "seed_0" / "run.json").touch()
    assert not np.array_equal(xbuslib.segment(image, run=own).probability, before.probability)


@pytest.mark.parametrize("where", [segmenter])
def test_the_examples_of_the_docstrings(where, two_folds, image, tmp_path, monkeypatch):
    """As they are written, in a folder where such an image and such a run are."""
    shutil.copy(image, tmp_path / "lesion.png")
    shutil.copytree(two_folds, tmp_path / "outputs" / "phantom-quick" / "runs" / "xbusnet")
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(where, optionflags=doctest.ELLIPSIS)
    assert result.attempted >= 5 and result.failed == 0


def test_the_package_itself_waits_for_nothing():
    code = ("import sys, xbuslib; print(sorted({'torch', 'numpy', 'pandas'} & set(sys.modules)), 'segment' in "
            "dir(xbuslib)); xbuslib.segment; print('torch' in sys.modules); xbuslib.nothing")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.stdout.split("\n")[:2] == ["[] True", "True"]
    assert "module 'xbuslib' has no attribute 'nothing'" in done.stderr
